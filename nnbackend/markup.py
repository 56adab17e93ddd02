"""Write HTML for notebooks and reports: tables, and pictures within the page."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["can_draw", "picture", "size", "table"]


def table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return an HTML table. The first cell of each row is its heading. Every text is escaped."""
    columns = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>{"".join(f"<td>{escape(str(cell))}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"


def can_draw() -> bool:
    """Say whether `picture` works: whether Pillow is installed."""
    return importlib.util.find_spec("PIL") is not None


def picture(pixels: bytes, height: int, width: int, channels: int = 1) -> str:
    """Return the address of a PNG picture that holds the picture itself (a data URL).

    pixels: height x width x channels bytes, row by row. channels: 1 (grey) or 3 (red, green, blue).
    Raises ValueError for another number of bytes or channels, ImportError, with the pip command, without Pillow.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels}")
    if len(pixels) != height * width * channels:
        raise ValueError(f"pixels: expected {height} x {width} x {channels} bytes, got {len(pixels)}")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('pictures in a page need Pillow: pip install "nnbackend[report]"') from error

    written = io.BytesIO()
    Image.frombytes("L" if channels == 1 else "RGB", (width, height), pixels).save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()


def size(bytes: float) -> str:
    """Return a number of bytes in words: 1536 gives "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if bytes < 1024:
            return f"{bytes:.0f} bytes" if unit == "bytes" else f"{bytes:.1f} {unit}"
        bytes /= 1024
    return f"{bytes:.1f} TiB"
