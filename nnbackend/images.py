"""Read pictures, and prepare them like the images that a network has learned from."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnbackend.checks import positive_integer
from nnbackend.datasets.idx import read_idx
from nnbackend.datasets.mnist import upright
from nnbackend.datasets.picture import check_file, opened_picture, stretched
from nnbackend.datasets.sheet import FAINT, cut_out, edge, pen_width, widened
from nnbackend.errors import DataError

__all__ = ["Preparation", "draw_images", "preparation_of", "read_digit", "read_images", "square"]

Pixels = npt.NDArray[np.float32]

_LONGEST = 1000  # pixels: a picture with a longer side is reduced first, since a digit needs no more
_FILLED = (8, 16)  # the sides of images that their digits fill: those of scikit-learn and of USPS


@dataclass(frozen=True)
class Preparation:
    """Describes how the object (a digit, say) lies in the images of a data set. The defaults describe MNIST.

    cut: whether to cut the object out of a picture; if False, the whole picture is scaled. size: the longer side of the
    object, as a fraction of the side of the image. centre: the part of the object that is in the middle of the image,
    its centre of "mass" or its bounding "box". pen: the least width of its strokes, as a fraction of its longer side,
    or 0 if it has no strokes, as clothes. dark: whether the object is darker than the background.
    Raises ValueError if a size is not from 0 to 1, or if another field has a value that is not one of these.
    """

    cut: bool = True
    size: float = 20 / 28
    centre: str = "mass"
    pen: float = 0.07
    dark: bool = False

    def __post_init__(self) -> None:
        numbers = isinstance(self.size, int | float) and isinstance(self.pen, int | float)
        if not numbers or not 0 < self.size <= 1 or not 0 <= self.pen <= 1 or self.centre not in ("mass", "box"):
            raise ValueError(
                f"a preparation needs a size and a pen from 0 to 1, and the centre 'mass' or 'box', got {self}"
            )
        if not isinstance(self.cut, bool) or not isinstance(self.dark, bool):
            raise ValueError(f"cut and dark of a preparation must be True or False, got {self}")

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None, side: int) -> Preparation:
        """Return the preparation that is stored with a network or, for None, the usual one for images of this side.

        Raises ValueError if `stored` does not describe a preparation.
        """
        if stored is None:
            return cls(size=1.0, centre="box") if side in _FILLED else cls()
        unknown = set(stored) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"a preparation has no field {', '.join(sorted(map(str, unknown)))}")
        return cls(**stored)


def preparation_of(images: npt.ArrayLike) -> Preparation:
    """Measure how the images of a data set, (n, side, side) from 0 to 1, lie in their square.

    If the size or the centre of the objects varies among the images, new pictures are to be scaled as a whole.
    Raises ValueError if the images do not have this shape.
    """
    values = np.asarray(images, np.float32)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not values.size:
        raise ValueError(f"images: expected shape (n, side, side), got {values.shape}")
    side = values.shape[1]
    paper = float(np.median(np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)))
    ink = np.abs(values - np.float32(paper)) / np.float32(max(paper, 1 - paper))
    for threshold in (0.25, 0.04):  # digits have soft edges; clothes are as light as paper in places
        there = ink > threshold
        there = there[there.any(axis=(1, 2))]
        if not len(there):
            break
        first, last, mass = (np.array(found) for found in zip(*map(_extent, there), strict=True))
        longer, shorter = (last - first).max(axis=1), (last - first).min(axis=1)
        spread, box = mass.std(axis=0).max(), ((first + last) / 2).std(axis=0).max()
        even = np.ptp(np.percentile(longer, (10, 90))) <= max(1, 0.08 * side) and np.median(shorter) < side
        if even and min(spread, box) <= max(0.4, 0.025 * side):
            size = float(np.median(longer)) / side
            pen = float(np.median([pen_width(image) for image in ink[:200]])) / (size * side)
            return Preparation(
                size=size,
                centre="mass" if spread < box else "box",
                pen=0.0 if pen > 0.35 else round(0.7 * pen, 3),
                dark=paper > 0.5,
            )
    return Preparation(cut=False, dark=paper > 0.5)


def _extent(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the first row and column of the pixels that are set, the row and column after the last, and the mean."""
    at = np.argwhere(mask)
    return at.min(axis=0), at.max(axis=0) + 1, at.mean(axis=0)


def read_images(path: str | os.PathLike[str], side: int = 28, preparation: Preparation | None = None) -> Pixels:
    """Read the images in an IDX file, or the image in a picture. Return (n, side * side), from 0 to 1.

    path: an IDX file (raw or .gz, told apart by content) of prepared images, uint8 of shape (n, side, side), or a
    picture. Images in files whose names begin with "emnist" are transposed back. preparation: how to prepare a picture,
    or None for the usual way for this side.
    Raises DataError, which names the file, if its images have another shape. For a picture it raises and warns as
    `read_digit` does.
    """
    positive_integer("side", side)
    path = Path(path)
    if not _holds_idx(path):
        return read_digit(path, side, preparation)[None, :]
    images = read_idx(path)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (side, side):
        expected = f"uint8 of shape (n, {side}, {side})"
        raise DataError(f"{path}: got {images.dtype} of shape {images.shape}, expected images: {expected}")
    if not len(images):
        raise DataError(f"{path}: there are no images in it")
    return np.divide(upright(path, images), 255, dtype=np.float32).reshape(len(images), side * side)


def read_digit(path: str | os.PathLike[str], side: int = 28, preparation: Preparation | None = None) -> Pixels:
    """Read the digit in a picture, prepared like the digits of a data set. Return (side * side,), from 0 to 1.

    The picture is converted to grey, and transparent pixels become paper. Shadows, grain, specks, frames and lines
    across the sheet are removed (see nnbackend.datasets.sheet). The ink may be darker or lighter than the paper. The
    largest object that is left is cut out, its strokes are widened if they are thin, and it is scaled and centred. If
    the digit lies in a square picture as the preparation asks, the picture is scaled only.

    path: a PNG, JPEG, GIF, BMP, TIFF, WebP or PPM file; if it has several frames, the first is read. preparation: how
    the digit shall lie. None means as in MNIST or, for a side of 8 or 16, filling the image.
    Gives a UserWarning if the cut-out is not plausible. Raises DataError, which names the file, if it is missing,
    damaged, blank, not a picture, or so large that it may be a decompression bomb. Raises ImportError, with the pip
    command, if Pillow is not installed.
    """
    positive_integer("side", side)
    path = Path(path)
    wanted = Preparation.of(None, side) if preparation is None else preparation
    grey = _grey(path)
    if float(np.ptp(grey)) < FAINT:
        raise DataError(f"{path}: the picture is blank")
    image = _whole(grey, side, wanted) if not wanted.cut else _already(grey, side, wanted)
    if image is None:
        cut = cut_out(grey, solid=wanted.pen == 0)
        if cut is None:
            raise DataError(f"{path}: the picture is blank")
        if cut.doubts:
            warnings.warn(f"{path}: the cut-out may be wrong: {'; '.join(cut.doubts)}", stacklevel=2)
        ink = cut.ink
        pixels = round((wanted.pen * max(ink.shape) - pen_width(ink)) / 2)
        image = _placed(widened(ink, pixels) if pixels > 0 else ink, side, wanted)
    return 1 - image if wanted.dark else image


def _already(grey: Pixels, side: int, wanted: Preparation) -> Pixels | None:
    """Return the picture as an image, light on dark, if it is square and the digit lies in it as `wanted`; else None.

    If the picture is as small as the image, the digit may also fill it.
    """
    from PIL import Image

    if grey.shape[0] != grey.shape[1] or len(grey) < side:
        return None
    small = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BOX))
    paper = float(np.median(edge(small)))
    image = 1 - small if paper > 0.5 else small
    if min(paper, 1 - paper) > 0.1 or (edge(image) > 0.25).mean() > 0.5:
        return None
    first, last, _ = _extent(image > 0.25) if (image > 0.25).any() else (np.zeros(2), np.zeros(2), None)
    longer, near = int((last - first).max()), max(1.0, 0.055 * side)
    mass = np.array([image.sum(axis=axis) @ (np.arange(side) + 0.5) for axis in (1, 0)]) / max(float(image.sum()), 1e-6)
    fills = len(grey) == side and longer > wanted.size * side + near
    middle = (first + last) / 2 if fills or wanted.centre == "box" else mass - 0.5 * (side > 16)
    lies = np.abs(middle - side / 2).max() <= near and (fills or abs(longer - wanted.size * side) <= near)
    return image.reshape(-1) if lies else None


def _whole(grey: Pixels, side: int, wanted: Preparation) -> Pixels:
    """Return the whole picture as an image, light on dark. If it is not square, paper is added on two sides."""
    from PIL import Image

    paper = float(np.median(edge(grey)))
    square = np.full((max(grey.shape),) * 2, paper, np.float32)
    top, left = ((len(square) - length) // 2 for length in grey.shape)
    square[top : top + grey.shape[0], left : left + grey.shape[1]] = grey
    scaled = np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))
    image: Pixels = np.clip(1 - scaled if paper > 0.5 else scaled, 0, 1).reshape(-1)
    return image


def _placed(ink: Pixels, side: int, wanted: Preparation) -> Pixels:
    """Scale the cut-out and put it into the middle of a side x side image. Return the image as a row."""
    from PIL import Image

    scale = round(side * wanted.size) / max(ink.shape)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    resized = Image.fromarray(ink).resize((width, height), Image.Resampling.BICUBIC)  # Pillow's filters antialias
    small = np.clip(np.asarray(resized), 0, 1)
    image = np.zeros((side, side), np.float32)
    if wanted.centre == "box":
        top, left = (side - height) // 2, (side - width) // 2
    else:
        top, left = (_offset(small.sum(axis=axis), side) for axis in (1, 0))
    image[top : top + height, left : left + width] = small
    return image.reshape(-1)


def draw_images(path: str | os.PathLike[str], images: npt.ArrayLike, captions: list[str]) -> None:
    """Draw images, (n, side, side) from 0 to 1, as a PNG: ten in a row, each above its caption.

    Raises ValueError if there are no images, or not as many captions, and OSError if the file cannot be written.
    """
    from PIL import Image, ImageDraw

    values = (np.clip(np.asarray(images, np.float32), 0, 1) * 255).astype(np.uint8)
    if values.ndim != 3 or not values.size:
        raise ValueError(f"images: expected shape (n, side, side) of at least one image, got {values.shape}")
    if len(captions) != len(values):
        raise ValueError(f"captions: expected one for each of {len(values)} images, got {len(captions)}")
    zoom = max(1, 112 // values.shape[1])
    cell = values.shape[1] * zoom + 16
    columns = min(10, len(values))
    sheet = Image.new("L", (columns * cell, -(-len(values) // columns) * (cell + 12)), 255)
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(values, captions, strict=True)):
        left, top = i % columns * cell + 8, i // columns * (cell + 12) + 8
        sheet.paste(Image.fromarray(image.repeat(zoom, axis=0).repeat(zoom, axis=1)), (left, top))
        draw.text((left, top + cell - 14), caption, fill=0)
    sheet.save(path, "PNG")


def square(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the row of a square image, or an image (height, width, channels), as a grey square, (side, side).

    Grey is the mean of the channels. An image that is not square gets black on the right or below.
    """
    if image.ndim == 1:
        return image.reshape(math.isqrt(image.size), -1)
    grey: npt.NDArray[Any] = image.mean(axis=2)
    return np.pad(grey, [(0, max(grey.shape) - length) for length in grey.shape])


def _offset(ink: Pixels, side: int) -> int:
    """Return the place for a profile of ink that brings its centre of mass nearest to side / 2 and cuts nothing off."""
    centre = float(ink @ np.arange(len(ink), dtype=np.float32)) / max(float(ink.sum()), 1e-12)
    return min(max(0, round(side / 2 - centre)), side - len(ink))  # MNIST's own mean is 14.0, not 13.5


def _grey(path: Path) -> Pixels:
    """Read the picture as (height, width), from 0 (black) to 1 (white)."""
    with opened_picture(path, "a picture of a digit", _LONGEST) as image:
        from PIL import Image

        step = -(-max(image.size) // _LONGEST)
        if image.mode.startswith(("I", "F")):  # with 16 bits or more, the value of white is not known
            sides = [max(1, side // step) for side in image.size]
            return stretched(np.asarray(image.resize(sides, Image.Resampling.NEAREST), np.float64))
        if "A" in image.getbands() or "transparency" in image.info:
            image = image if image.mode == "RGBA" else image.convert("RGBA")  # converting makes a copy
            image = _on_paper(image.reduce(step))
        else:
            image = image.convert("L").reduce(step)
        grey: Pixels = np.divide(np.asarray(image), 255, dtype=np.float32)
        return grey


def _on_paper(image: Any) -> Any:
    """Convert an RGBA picture to grey, on paper that contrasts with its colours."""
    from PIL import Image

    grey, alpha = np.asarray(image.convert("L"), np.float32), np.asarray(image.getchannel("A"), np.float32) / 255
    seen = float(alpha.mean())
    if seen > 0.5:  # a picture with holes or round corners: most of its opaque pixels are paper
        paper = float(np.median(grey[alpha > 0.5])) if (alpha > 0.5).any() else 255.0
    else:
        paper = 0.0 if float((grey * alpha).sum()) > 127.5 * float(alpha.sum()) else 255.0
    return Image.fromarray((grey * alpha + paper * (1 - alpha)).astype(np.uint8))


def _holds_idx(path: Path) -> bool:
    check_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(3)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return head == b"\0\0\x08" or head.startswith(b"\x1f\x8b")
