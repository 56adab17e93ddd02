"""Pictures from files, made to look like those of MNIST."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnbackend.datasets.idx import read_idx
from nnbackend.errors import DataError

__all__ = ["read_digit", "read_images"]

Pixels = npt.NDArray[np.float32]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # PostScript, say, would be run, not read
_PIXELS, _SIDE = 50_000_000, 2**16  # pictures with more are refused: kilobytes of a file can unpack to gigabytes
_LONGEST = 1000  # pixels: a longer side is averaged down first, a digit needs no more
_FAINT = 0.1  # of the way from black to white: a picture with less contrast is blank
_SHADE = 0.25  # what is weaker than this part of the strongest ink is shaded paper


def read_images(path: str | os.PathLike[str], side: int = 28) -> Pixels:
    """The images in an IDX file, or the one in a picture: (n, side * side) in [0, 1], bright ink on 0.

    IDX files (raw or .gz, told apart by content) hold images already prepared, uint8 of shape (n, side, side).
    Raises DataError, naming the file, for another shape, and as `read_digit`.
    """
    path = Path(path)
    if not _holds_idx(path):
        return read_digit(path, side)[None, :]
    images = read_idx(path)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (side, side):
        expected = f"uint8 of shape (n, {side}, {side})"
        raise DataError(f"{path}: got {images.dtype} of shape {images.shape}, expected images: {expected}")
    if not len(images):
        raise DataError(f"{path}: there are no images in it")
    return np.divide(images, 255, dtype=np.float32).reshape(len(images), side * side)


def read_digit(path: str | os.PathLike[str], side: int = 28) -> Pixels:
    """The digit in a picture, prepared as those of MNIST were: (side * side,) in [0, 1], bright ink on 0.

    The picture is made grey (transparency is white), and light paper is told from dark by its edge. What is inked
    is cut out, its longer side scaled to 20 of 28 pixels, and its centre of mass put into the middle. A picture of
    side x side pixels with a dark edge is such an image already and is taken as it is.

    path: a PNG, JPEG, GIF, BMP, TIFF, WebP or PPM file; of several frames the first. Raises DataError, naming the
    file, for one that is missing, broken, no such picture, blank, or so large that it may be a decompression bomb;
    ImportError with the pip line where Pillow is missing.
    """
    path = Path(path)
    grey = _grey(path)
    paper = float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])))
    darker, brighter = paper - float(grey.min()), float(grey.max()) - paper
    if max(darker, brighter) < _FAINT:
        raise DataError(f"{path}: the picture is blank")
    if grey.shape == (side, side) and brighter > darker and paper < 0.5:
        return grey.reshape(-1)
    ink = (paper - grey if darker > brighter else grey - paper) / np.float32(max(darker, brighter))
    ink[ink < _SHADE] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return _placed(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], side)


def _placed(ink: Pixels, side: int) -> Pixels:
    """The cut-out, scaled, in the middle of a side x side image, as a row."""
    from PIL import Image

    scale = round(side * 20 / 28) / max(ink.shape)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    resized = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)  # Pillow's filters antialias
    small = np.clip(np.asarray(resized), 0, 1)
    image = np.zeros((side, side), np.float32)
    top, left = (_offset(small.sum(axis=axis), side) for axis in (1, 0))
    image[top : top + height, left : left + width] = small
    return image.reshape(-1)


def _offset(ink: Pixels, side: int) -> int:
    """Where a profile of ink begins, so that its centre of mass is at side / 2 and no end is cut off."""
    centre = float(ink @ np.arange(len(ink), dtype=np.float32)) / max(float(ink.sum()), 1e-12)
    return min(max(0, round(side / 2 - centre)), side - len(ink))  # MNIST's own mean is 14.0, not 13.5


def _grey(path: Path) -> Pixels:
    """The picture as (height, width) from 0, black, to 1, white."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading pictures needs Pillow: pip install "nnbackend[plot]"') from error
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as opened:
                if opened.width * opened.height > _PIXELS or max(opened.size) > _SIDE:
                    raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels")
                image: Any = opened
                ImageOps.exif_transpose(image, in_place=True)
                step = -(-max(image.size) // _LONGEST)
                if image.mode.startswith(("I", "F")):  # 16 bits and more: no fixed white
                    sides = [max(1, side // step) for side in image.size]
                    return _stretched(np.asarray(image.resize(sides, Image.Resampling.NEAREST), np.float64))
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image if image.mode == "RGBA" else image.convert("RGBA")  # to convert is to copy
                    image = image.reduce(step)
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
                else:
                    image = image.convert("L").reduce(step)
                grey: Pixels = np.divide(np.asarray(image), 255, dtype=np.float32)
                return grey
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: too large for a picture of a digit ({error})") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{path}: neither IDX nor a picture that Pillow can read") from error
    except Exception as error:  # a decoder fails on a broken file in many ways
        raise DataError(f"{path}: broken picture ({error})") from error


def _stretched(values: npt.NDArray[np.float64]) -> Pixels:
    """From 0, the smallest, to 1, the largest; float64 holds the difference of any two float32."""
    if not np.isfinite(values).all():
        raise ValueError("it has pixels that are not finite")
    low, high = float(values.min()), float(values.max())
    stretched: Pixels = ((values - low) / ((high - low) or 1.0)).astype(np.float32)
    return stretched


def _holds_idx(path: Path) -> bool:
    _check_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(3)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return head == b"\0\0\x08" or head.startswith(b"\x1f\x8b")


def _check_file(path: Path) -> None:
    if not os.path.exists(path):  # noqa: PTH110 - a path with a null character is none, Path would raise
        raise DataError(f"{path}: there is no such file")
    if not path.is_file():  # opening a pipe would wait for ever
        raise DataError(f"{path}: not a file")
