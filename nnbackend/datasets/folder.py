"""Read folders of pictures with one folder for each class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.checks import is_integer
from nnbackend.datasets.idx import HostArray
from nnbackend.datasets.picture import opened_picture, read_picture
from nnbackend.datasets.targets import Target
from nnbackend.errors import DataError

__all__ = ["PARTS", "PICTURES", "PictureFolder", "PicturePreparation", "find_pictures", "measured", "pictures_in"]

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp"})
PARTS = {  # names of folders that hold a part of the pictures, each with its folders of classes
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LARGEST_SIDE = 32  # pixels, unless a user asks for more: the time of training grows with the square
_MEASURED = 200  # pictures whose sizes and colours are looked at
_LISTED = 3  # names in a message


@dataclass(frozen=True)
class PictureFolder:
    """Holds the files of a folder of pictures. files: by part ("train", and if there are "validation" and "test") the
    pictures with their classes, integers from 0. left_out: the files that are no pictures by their names. loose: the
    pictures that lie beside the folders of classes.
    """

    path: Path
    classes: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]
    left_out: tuple[Path, ...] = ()
    loose: tuple[Path, ...] = ()


@dataclass(frozen=True)
class PicturePreparation:
    """Describes how pictures become rows for a network: scaled as a whole to one size, each value from 0 to 1."""

    height: int
    width: int
    channels: int  # 1: grey; 3: red, green, blue
    target: Target
    kind: str = field(default="pictures", init=False)

    def rows(self, paths: Sequence[Path], dtype: str) -> HostArray:
        """Read pictures. Return (n, height, width, channels). Raises DataError, which names the file."""
        shape = (self.height, self.width, self.channels)
        try:
            x = np.empty((len(paths), *shape), dtype)
        except (MemoryError, ValueError) as error:  # ValueError: more bytes than NumPy can count
            size = " x ".join(map(str, shape))
            raise DataError(
                f"there is not enough memory for {len(paths)} pictures of {size}; take a smaller side"
            ) from error
        for row, path in zip(x, paths, strict=True):
            np.divide(read_picture(path, *shape), 255, out=row, dtype=dtype)
        return x

    def stored(self) -> dict[str, Any]:
        """Return the description as values that JSON can express."""
        sizes = {"height": self.height, "width": self.width, "channels": self.channels}
        return {"kind": self.kind, **sizes, "target": self.target.stored()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> PicturePreparation:
        """Return what `stored` has described. Raise ValueError for any other description."""
        sizes: list[Any] = [stored.get(name) for name in ("height", "width", "channels")]
        target = stored.get("target")
        if not all(is_integer(size, 1) and size <= 2**16 for size in sizes) or sizes[2] not in (1, 3):
            raise ValueError(f"the preparation of pictures needs a height, a width and 1 or 3 channels, got {sizes}")
        if not isinstance(target, dict):
            raise ValueError(f"the preparation of pictures needs a target, got {target!r:.200}")
        height, width, channels = sizes
        return cls(height, width, channels, Target.of(target))


def find_pictures(folder: Path) -> PictureFolder:
    """Find the pictures of a data set: a folder for each class, named after it, with its pictures at any depth.

    The folder may instead hold `train`, and `validation` (or `val`) and `test`, each with folders of classes. Hidden
    files are not looked at.
    Raises DataError, which names the folder, if it cannot be read, holds no pictures, or fewer than two classes, or if
    a class is not in `train`.
    """
    parts = {part: place for part, names in PARTS.items() if (place := _first_folder(folder, names)) is not None}
    if "train" not in parts or not _folders(parts["train"]):  # a class may have the name of a part
        parts = {"train": folder}
    pictures, left_out, loose = dict[str, list[tuple[Path, str]]](), list[Path](), list[Path]()
    for part in parts:
        pictures[part] = []
        loose += _files(parts[part], deep=False)[0]
        for one in _folders(parts[part]):
            inside, others = _files(one)
            pictures[part] += [(path, one.name) for path in inside]
            left_out += others
    classes = sorted({name for _, name in pictures["train"]})
    if len(classes) < 2:
        hint = "; pictures lie in it, but not in folders" if loose else ""
        raise DataError(
            f"{parts['train']}: expected a folder of pictures for each of two classes or more, found "
            f"{len(classes)}{hint} (or the IDX files of a data set of the form of MNIST); the names of pictures end "
            f"in {', '.join(sorted(PICTURES))}"
        )
    number = {name: i for i, name in enumerate(classes)}
    for found in pictures.values():
        for path, name in found:
            if name not in number:
                raise DataError(f"{path}: the class {name!r} is not in {parts['train']}")
    files = {part: [(path, number[name]) for path, name in found] for part, found in pictures.items() if found}
    return PictureFolder(folder, tuple(classes), files, tuple(left_out), tuple(loose))


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, at any depth, by name. Raise DataError if there are none."""
    found = _files(folder)[0]
    if not found:
        raise DataError(f"{folder}: there are no pictures in it, no names that end in {', '.join(sorted(PICTURES))}")
    return found


def measured(pictures: PictureFolder, side: int | None) -> PicturePreparation:
    """Choose a size for all pictures, and whether they are grey, by looking at some of the pictures to train on.

    side: height and width in pixels; None chooses the median size of the pictures, at most 32 for the longer side.
    """
    files = [path for path, _ in pictures.files["train"]]
    sizes, grey = list[tuple[int, int]](), True
    for path in files[:: -(-len(files) // _MEASURED)]:
        with opened_picture(path, "a picture", 2**16, colour=True) as image:
            sizes.append(image.size)
            grey = grey and (image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")))
    width, height = (float(np.median(lengths)) for lengths in zip(*sizes, strict=True))
    if side is None:
        scale = min(1.0, LARGEST_SIDE / max(width, height))
        width, height = (max(1, round(length * scale)) for length in (width, height))
    else:
        width = height = side
    return PicturePreparation(int(height), int(width), 1 if grey else 3, Target("class", pictures.classes))


def listed(paths: Sequence[Path]) -> str:
    """Return the first names of files in words."""
    names = ", ".join(path.name for path in paths[:_LISTED])
    return names if len(paths) <= _LISTED else f"{names}, ..."


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error


def _files(folder: Path, deep: bool = True) -> tuple[list[Path], list[Path]]:
    """Return the pictures in a folder, by their names, and the other files. Hidden ones are left out."""
    pictures, others = list[Path](), list[Path]()
    for at, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if deep and not _hidden(Path(name)))
        for name in sorted(names):
            if not _hidden(Path(name)):
                (pictures if Path(name).suffix.lower() in PICTURES else others).append(Path(at, name))
    return pictures, others


def _refuse(error: OSError) -> None:
    """Raise DataError for a folder that cannot be read: its pictures would be left out unsaid."""
    raise DataError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX")) or path.name in ("Thumbs.db", "desktop.ini")
