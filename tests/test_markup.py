"""HTML that is written by hand: text from outside stays text, and a picture holds its pixels."""

from __future__ import annotations

import base64
import io
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from nnbackend import markup


class Cells(HTMLParser):
    """Gathers the tags and the text of the cells."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_a_table_keeps_text_as_text() -> None:
    found = Cells(markup.table(["a", "<b>"], [["<script>alert(1)</script>", 2], ["x & y", '"']], "<i>title</i>"))
    assert found.cells == ["<i>title</i>", "a", "<b>", "<script>alert(1)</script>", "2", "x & y", '"']
    assert set(found.tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_a_picture_holds_its_pixels(shape: tuple[int, ...]) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    kind, _, content = markup.picture(pixels.tobytes(), *shape).partition(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(base64.b64decode(content)))), pixels)


def test_pictures_that_are_none() -> None:
    with pytest.raises(ValueError, match="channels: expected 1 or 3, got 2"):
        markup.picture(b"12", 1, 1, 2)
    with pytest.raises(ValueError, match="pixels: expected 2 x 2 x 1 bytes, got 3"):
        markup.picture(b"123", 2, 2)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'pip install "nnbackend\[report\]"'):
        markup.picture(b"1", 1, 1)


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 * 2**20, "3.0 MiB"), (2**41, "2.0 TiB")],
)
def test_sizes(size: int, words: str) -> None:
    assert markup.size(size) == words
