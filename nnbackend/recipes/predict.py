"""Apply a saved network to pictures, tables and arrays, as `nnbackend predict` does it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnbackend.backends import to_numpy
from nnbackend.datasets.arrays import computed, stacked
from nnbackend.datasets.folder import PicturePreparation, pictures_in
from nnbackend.datasets.idx import HostArray
from nnbackend.datasets.npz import ArrayPreparation, array_inputs, write_arrays
from nnbackend.datasets.prepared import Known, preparation
from nnbackend.datasets.table import TABLES, TablePreparation, csv_text, is_table, objects, read_table, write_table
from nnbackend.errors import DataError
from nnbackend.functions.array import pieces
from nnbackend.images import Preparation, read_images, square
from nnbackend.network import Network

MNIST_SIDE = 28  # the side of the images if the network takes images of any size
PICTURES_AT_ONCE = 500
ANSWER = "prediction"  # the name of the column of answers
OUTPUTS = (*TABLES, ".npz")  # the ends of the names of files to which answers are written


@dataclass(frozen=True)
class Prediction:
    """Holds the answer of a network for one image.

    name: the name of the file, with the number of the image if the file has several. best: the likeliest classes and
    their probabilities, the likeliest first. A class is its name if the network's file names the classes, or else its
    number.
    """

    name: str
    best: list[tuple[int | str, float]]


@dataclass(frozen=True, eq=False)
class Answers:
    """Holds the answers of a network for many rows, as the columns of a table.

    columns: those of a table that was read, or `file` for pictures, or none for arrays; then `prediction`, the
    likeliest class or the number, and for classes `probability_CLASS` for each class.
    """

    columns: dict[str, HostArray]
    separator: str = ","

    def __len__(self) -> int:
        return len(self.columns[ANSWER])

    def text(self) -> str:
        """Return the columns as the text of a CSV file."""
        return csv_text(self.columns, self.separator)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the columns: as .npz, .parquet, .tsv or .csv, by the end of the name. Raise OSError if it cannot be."""
        path = Path(path)
        if path.suffix.lower() == ".npz":
            write_arrays(path, self.columns)
        else:
            write_table(path, self.columns, "," if self.separator == "\t" else self.separator)


def gives_table(path: str | os.PathLike[str]) -> bool:
    """Say whether the answers to what lies at a path are a table, rather than a line for each image."""
    return Path(path).is_dir() or Path(path).suffix.lower() in OUTPUTS


def predict_data(network: Network, path: str | os.PathLike[str]) -> Answers:
    """Answer each row of a table or of the arrays in an .npz file, or each picture in a folder or file.

    The data is prepared as that which the network was trained on. A table needs the columns that the network has
    learned from, by their names; the column of the target may be missing.
    Raises DataError, which names file, row and column: for a column that is missing, a missing value, a word that did
    not occur in training, a number too large for a finite answer, a broken picture. Raises ValueError if the network
    does not take data of this kind.
    """
    path, known = Path(path), preparation(network.preparation)
    if isinstance(known, TablePreparation):
        if not is_table(path):
            raise ValueError(f"{path}: the network takes the rows of a table ({', '.join(TABLES)})")
        table = read_table(path)
        answers = _answers(network, known.rows(table, network.dtype), known, table.where)
        twice = [name for name in answers if name in table.columns]
        if twice:
            raise DataError(f"{path}: there is a column {twice[0]!r} already, the name of one that is to be added")
        return Answers({**table.columns, **answers}, table.separator)
    if isinstance(known, ArrayPreparation):
        if path.suffix.lower() != ".npz":
            raise ValueError(f"{path}: the network takes rows of arrays, in an .npz file")
        inputs = known.rows(path, array_inputs(path), network.dtype)
        return Answers(_answers(network, inputs, known, lambda row: f"{path}: row {row}"))
    if is_table(path) or path.suffix.lower() == ".npz":
        raise ValueError(f"{path}: the network takes pictures")
    names, rows = list[str](), list[HostArray]()
    paths = pictures_in(path) if path.is_dir() else [path]
    for piece in pieces(len(paths), PICTURES_AT_ONCE):
        x = [_images(network, known, one) for one in paths[piece]]
        for one, images in zip(paths[piece], x, strict=True):
            raw = os.fsencode(one.relative_to(path) if path.is_dir() else one)
            name = raw.decode("utf-8", "backslashreplace")  # a name need not be UTF-8, a table must
            names += [name] if len(images) == 1 else [f"{name}[{i}]" for i in range(len(images))]
        rows.append(_output(network, stacked(x)))
    return Answers({"file": objects(names), **_columns(stacked(rows), known)})


def predict_file(
    network: Network,
    path: str | os.PathLike[str],
    *,
    top: int = 1,
    limit: int | None = None,
    shown: list[Any] | None = None,
) -> tuple[list[Prediction], int]:
    """Classify the images in a file. Return a prediction for each, and the number of images that the file holds.

    path: a picture, or an IDX file of images (see nnbackend.images). A picture is prepared as `network.preparation`
    says. top: the number of classes in each prediction. limit: classify the first `limit` images only. shown: a list;
    the images that the network saw, each (side, side) and grey, are appended to it.
    Raises ValueError if the network does not classify square images, and DataError if the file cannot be read.
    """
    known = preparation(network.preparation)
    images = _images(network, known, Path(path))
    total, images = len(images), images[:limit]
    probabilities = _output(network, images)
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
    if shown is not None:
        shape = (known.height, known.width, known.channels) if isinstance(known, PicturePreparation) else (-1,)
        shown += [square(image.reshape(shape)) for image in images]
    name = os.fspath(path)
    names = [name] if total == 1 else [f"{name}[{i}]" for i in range(len(images))]
    labels: Sequence[int | str] = range(probabilities.shape[1]) if known is None else known.target.classes or ()
    return [
        Prediction(label, [(labels[int(k)], float(row[k])) for k in ranked])
        for label, row, ranked in zip(names, probabilities, order, strict=True)
    ], total


def _images(network: Network, known: Known | None, path: Path) -> HostArray:
    """Return the images in a file as the network takes them."""
    if isinstance(known, PicturePreparation):
        x = known.rows([path], network.dtype)
        return x.reshape(1, *_row_shape(network, x.shape[1:]))
    if known is not None:
        raise ValueError(f"the network takes rows of {known.kind}, not pictures")
    shape = _row_shape(network, _images_taken(network))
    side = math.isqrt(math.prod(shape))
    if not shape or side * side != math.prod(shape):
        raise ValueError(
            f"the network takes rows of shape {network.input_shape}, which is not the shape of a square image"
        )
    return read_images(path, side, Preparation.of(network.preparation, side)).reshape(-1, *shape)


def _images_taken(network: Network) -> tuple[int, ...]:
    """Return the shape of the images that a network takes if it takes images of any size, or () if it cannot be known.

    In a checkpoint of a run with augmentation, images are changed and then flattened, and the first layer with a fixed
    number of inputs tells their size.
    """
    if network.input_shape is not None:
        return MNIST_SIDE, MNIST_SIDE, 1
    fixed = next((layer.input_shape for layer in network.layers.values() if layer.input_shape), None)
    side = math.isqrt(fixed[0]) if fixed is not None and len(fixed) == 1 and fixed[0] else 0
    return (side, side, 1) if side else ()


def _row_shape(network: Network, image: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a row, with the sides of `image` where the network takes any."""
    shape = network.input_shape
    if shape is None:
        return image
    if len(shape) != len(image):
        return tuple(MNIST_SIDE if length is None else length for length in shape)
    return tuple(wanted if length is None else length for length, wanted in zip(shape, image, strict=True))


def _output(network: Network, x: HostArray) -> HostArray:
    """Return class probabilities, (n, classes). Raise ValueError if the network gives none."""
    y: HostArray = to_numpy(network.predict_proba(x))
    if not network.loss_layer.classifies or y.ndim != 2 or y.shape[1] < 2:
        raise ValueError(f"the network ends in {network.loss_layer}, which gives no class probabilities")
    return y


def _answers(network: Network, x: HostArray, known: Known, where: Callable[[int], str]) -> dict[str, HostArray]:
    """Return the columns of answers to rows. where: says in which file and row the row of an index is."""
    classes = known.target.classes is not None
    y, bad = computed(lambda: _output(network, x) if classes else to_numpy(network.predict(x)).reshape(len(x), -1))
    if bad is not None:
        raise DataError(
            f"{where(bad)}: the network gives no finite answer; a number there is far larger than those "
            "that it has learned from"
        )
    return _columns(y, known) if classes else {ANSWER: known.target.restored(y.reshape(-1))}


def _columns(y: HostArray, known: Known | None) -> dict[str, HostArray]:
    """Return the columns of answers for class probabilities, (n, classes)."""
    classes = tuple(map(str, range(y.shape[1]))) if known is None else known.target.classes or ()
    if len(classes) != y.shape[1]:
        raise ValueError(f"the network has {y.shape[1]} classes, but its preparation names {len(classes)}")
    best = objects([classes[int(k)] for k in y.argmax(axis=1)])
    return {ANSWER: best, **{f"probability_{name}": y[:, i] for i, name in enumerate(classes)}}
