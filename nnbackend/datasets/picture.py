"""Open pictures of any origin with Pillow: nothing in them is run, and none of them fills the memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnbackend.errors import DataError

__all__ = ["check_file", "opened_picture", "read_picture", "stretched"]

_FORMATS = (
    "BMP",
    "GIF",
    "JPEG",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)  # without PostScript, for instance, which Pillow would execute
_PIXELS, _SIDE = 50_000_000, 2**16  # larger pictures are refused: a file of kilobytes can unpack to gigabytes
_PHOTO = 250_000_000  # the limit for JPEG, which is decoded at an eighth of its size, in little memory
_OTHERS = {  # common formats that Pillow may not read, by the bytes at offset 0 or 4
    b"ftyphei": "HEIC, as iPhones write it (they write JPEG with Settings, Camera, Formats, Most Compatible)",
    b"ftyphev": "HEIC",
    b"ftypmif": "HEIF",
    b"ftypmsf": "HEIF",
    b"ftypavi": "AVIF",
    b"%PDF": "PDF",
    b"<svg": "SVG",
}


@contextmanager
def opened_picture(path: Path, what: str, enough: int, colour: bool = False) -> Iterator[Any]:
    """Open a picture, turned upright as its camera says, as an image of Pillow.

    what: what it should be, for messages, such as "a picture of a digit". enough: a side in pixels that is large
    enough; a JPEG may come smaller than it is, but not smaller than that. colour: whether colours are wanted.
    Raises DataError, which names the file, if it is missing, damaged, not a picture, or so large that it may be a
    decompression bomb; also if it turns out to be damaged within the block. Raises ImportError, with the pip command,
    if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading pictures needs Pillow: pip install "nnbackend[plot]"') from error
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(path, enough, "RGB" if colour else "L") as opened:
                if opened.width * opened.height > _PIXELS or max(opened.size) > _SIDE:
                    raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels")
                ImageOps.exif_transpose(opened, in_place=True)
                yield opened
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        hint = "; a JPEG may have 250 million, unless it is progressive"
        raise DataError(f"{path}: too large for {what} ({error}{hint})") from error
    except Image.UnidentifiedImageError as error:
        with path.open("rb") as file:
            head = file.read(200)
        for begins, kind in _OTHERS.items():
            if head.startswith(begins) or head[4:].startswith(begins) or (begins == b"<svg" and begins in head):
                raise DataError(f"{path}: {kind}; Pillow cannot read it here, save it as JPEG or PNG") from error
        raise DataError(f"{path}: neither IDX nor a picture that Pillow can read") from error
    except Exception as error:  # a decoder fails on a broken file in many ways
        raise DataError(f"{path}: broken picture ({error})") from error


def read_picture(path: Path, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """Read a picture, scaled as a whole to height x width pixels. Return (height, width, channels).

    channels: 1 for grey, 3 for red, green and blue. Transparent pixels become white. Values of more than 8 bits are
    scaled so that they go from 0 to 255. Raises DataError and ImportError as `opened_picture` does.
    """
    with opened_picture(path, "a picture", 2 * max(height, width), colour=channels == 3) as image:
        from PIL import Image

        if image.mode.startswith(("I", "F")):
            image = Image.fromarray((stretched(np.asarray(image, np.float64)) * 255).astype(np.uint8))
        elif "A" in image.getbands() or "transparency" in image.info:
            clear = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.array(image, np.uint8).reshape(height, width, channels)


def stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Scale values so that they go from 0 to 1. They come in float64, which holds the difference of any two float32.

    Raises ValueError if a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    low, high = float(values.min()), float(values.max())
    scaled: npt.NDArray[np.float32] = ((values - low) / ((high - low) or 1.0)).astype(np.float32)
    return scaled


def check_file(path: Path) -> None:
    """Raise DataError, which names the path, unless it is a regular file."""
    if not os.path.exists(path):  # noqa: PTH110 - Path would raise for a path with a null character
        raise DataError(f"{path}: there is no such file")
    if not path.is_file():  # opening a pipe would wait forever
        raise DataError(f"{path}: not a file")


def _opened(path: Path, enough: int, mode: str) -> Any:
    """Open the picture without decoding it. A large JPEG will be decoded at a half to an eighth of its size."""
    from PIL import Image, JpegImagePlugin

    with path.open("rb") as file:
        photo = file.read(3) == b"\xff\xd8\xff"
    if not photo:
        return Image.open(path, formats=_FORMATS)
    opened = JpegImagePlugin.JpegImageFile(path)  # Image.open refuses any picture of 180 million pixels
    if opened.width * opened.height > (_PIXELS if opened.info.get("progressive") else _PHOTO):
        size = f"{opened.width} x {opened.height} pixels"
        opened.close()
        raise Image.DecompressionBombError(size)  # a progressive JPEG is held as a whole in memory
    opened.draft(mode, (enough, enough))
    return opened
