"""Load a data set of any kind, and prepare it for a network: what to train on, what is held out, and how."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nnbackend.checks import positive_integer
from nnbackend.datasets.arrays import check_float
from nnbackend.datasets.download import is_file, is_folder
from nnbackend.datasets.folder import PicturePreparation, find_pictures, listed, measured
from nnbackend.datasets.idx import HostArray
from nnbackend.datasets.mnist import HostData, mnist_host
from nnbackend.datasets.npz import ArrayPreparation, array_pair, array_scaling
from nnbackend.datasets.table import TABLES, TablePreparation, counting_columns, is_table, read_table, table_target
from nnbackend.datasets.tables import NPZ_KEYS
from nnbackend.datasets.targets import TASKS, Target, recognised, word
from nnbackend.errors import DataError, unknown_name
from nnbackend.random import host_generator

__all__ = ["Known", "PreparedData", "load_prepared", "preparation"]

Known: TypeAlias = ArrayPreparation | PicturePreparation | TablePreparation
Rows: TypeAlias = tuple[HostArray, HostArray]
HELD_OUT = 0.1  # the part of the rows that is held out if there is no test set
_KINDS: dict[str, type[Known]] = {"arrays": ArrayPreparation, "pictures": PicturePreparation, "table": TablePreparation}
_STREAM = 0x5EED  # tells the draw of the held-out rows from the other draws of a seed
_MNIST = ("auto", "full", "sample")


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Holds a data set of any kind on the host, ready for a network.

    train, validation, test: rows and their targets: those to train on, those held out from training (None if there are
    none), and those that the data set has for a test (None if it has none). Rows are (n, features), or pictures
    (n, height, width, channels), floating. Targets are (n,): classes as integers from 0 (int64), or numbers scaled to
    mean 0 and deviation 1 (float64).
    target: what the network answers. features: the names of the features of a table, or ().
    preparation: how rows of this kind are made, or None for images of the form of MNIST.
    """

    train: Rows
    validation: Rows | None
    test: Rows | None
    name: str
    source: str
    target: Target
    preparation: Known | None = None
    features: tuple[str, ...] = ()

    @property
    def pictures(self) -> bool:
        """Say whether the rows are pictures."""
        return self.train[0].ndim == 4

    @property
    def background(self) -> float:
        """Return the value of most pixels at the borders of the pictures, from 0 to 1: their median."""
        some = self.train[0][:1000]
        return float(np.median(np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1)))


def preparation(stored: Mapping[str, Any] | None) -> Known | None:
    """Return the preparation that a network file describes, or None if it describes one of digits or none.

    Raises ValueError if the description is not one of a preparation.
    """
    kind = None if stored is None else stored.get("kind")
    if stored is None or kind is None:
        return None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(unknown_name("kind of preparation", kind, _KINDS))
    return _KINDS[kind].of(stored)


def load_prepared(
    data: str | os.PathLike[str],
    *,
    target: str | None = None,
    task: str = "auto",
    drop: Sequence[str] = (),
    validation: float | None = None,
    side: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> PreparedData:
    """Load and prepare a data set.

    data: "auto", "sample", "full", or a folder of the form of MNIST, as `mnist` takes them; a folder with one folder of
    pictures for each class; an .npz file of inputs and answers; or a table (.csv, .tsv, .parquet).
    target: for a table, the column to predict. drop: its columns to leave out. task: "classes", "numbers", or "auto",
    which recognises what is asked for. validation: the part of the rows to train on that is held out, at least 0 and
    below 1; None holds out 0.1 if the data has no part for a test or validation. Of classes the same part of each is
    held out. Of a folder with a part for validation nothing else is held out. side: height and width to which pictures
    in a folder are scaled. seed: decides what is held out.

    Means and deviations come from the rows to train on alone.
    Raises ValueError or TypeError for arguments out of range and DataError, which names file, row and column, for data
    that cannot be read. Gives a UserWarning for files that are left out, and for a column that counts the rows.
    """
    if not isinstance(data, str | os.PathLike):
        raise TypeError(f"data: got {data!r}, expected a string or a path")
    check_float(dtype)
    if task not in TASKS:
        raise ValueError(f"task: {unknown_name('task', task, TASKS)}")
    if validation is not None and not (isinstance(validation, int | float) and 0 <= validation < 1):
        raise ValueError(f"validation must be at least 0 and below 1, got {validation!r}")
    if isinstance(drop, str):
        raise TypeError(f"drop: expected a list of names of columns, got {drop!r}")
    split = _Split(validation, seed)
    path = Path(data)
    if side is not None and (str(data) in _MNIST or not is_folder(path) or _is_mnist_folder(path)):
        raise ValueError("side: only the pictures in a folder are scaled to one size")
    if side is not None:
        positive_integer("side", side)
    if path.parent != Path() and not os.path.exists(path) and not _found(path.parent, f"{glob.escape(path.name)}-*"):  # noqa: PTH110
        raise DataError(f"{data}: there is no such file or folder")
    of_table = {"target": target} | {"drop": tuple(drop) or None}
    if str(data) not in _MNIST and is_table(path) and (target is not None or not _is_mnist_csv(path)):
        return _table(path, target, task, drop, split, dtype)
    for name, value in of_table.items():
        if value is not None:
            raise ValueError(f"{name}: only a table has columns, and {os.fspath(data)!r} is none ({', '.join(TABLES)})")
    if str(data) not in _MNIST and is_file(path) and path.suffix.lower() == ".npz":
        return _arrays(path, task, split, dtype)
    if task == "numbers":
        raise ValueError("task: the answers of pictures are classes, got 'numbers'")
    if str(data) not in _MNIST and is_folder(path) and not _is_mnist_folder(path):
        return _folder(path, side, split, dtype)
    try:
        return _mnist(data, split, dtype)
    except DataError as error:
        if str(data) in _MNIST or not is_table(path):
            raise
        raise DataError(
            f"{error}; it lies beside a file for a test, as images of the form of MNIST do; for any other table, name "
            "the column to predict as the target"
        ) from error


@dataclass(frozen=True)
class _Split:
    """Decides which rows are held out."""

    part: float | None
    seed: int

    def rows(self, t: HostArray, classes: bool, tested: bool) -> tuple[HostArray, HostArray]:
        """Return the numbers of the rows to train on and to hold out, each in their order. tested: see `validation`."""
        part = self.part if self.part is not None else 0.0 if tested else HELD_OUT
        generator, n = host_generator(self.seed, _STREAM), len(t)
        if part == 0:
            return np.arange(n), np.arange(0)
        groups = [np.flatnonzero(t == k) for k in np.unique(t)] if classes else [np.arange(n)]
        # of each class a share, rounded so that the shares add up; one row of each stays to be learned from
        shares = np.array([part * len(group) for group in groups])
        counts = np.floor(shares).astype(int)
        for i in np.argsort(counts - shares, kind="stable")[: max(1, round(part * n)) - int(counts.sum())]:
            counts[i] += 1
        held = [
            generator.permutation(group)[: min(int(count), len(group) - 1)]
            for group, count in zip(groups, counts, strict=True)
        ]
        out = np.sort(np.concatenate(held))
        return np.setdiff1d(np.arange(n), out), out


def _prepared(
    x: HostArray, t: HostArray, rows: tuple[HostArray, HostArray], target: Target, **others: Any
) -> PreparedData:
    train, held = rows
    t = target.scaled(t)
    parts: dict[str, Any] = {"train": (x, t), "validation": None, "test": None}
    if len(held):
        parts |= {"train": (x[train], t[train]), "validation": (x[held], t[held])}
    return PreparedData(target=target, **parts | others)


def _table(path: Path, target: str | None, task: str, drop: Sequence[str], split: _Split, dtype: str) -> PreparedData:
    table = read_table(path)
    if target is None:
        raise ValueError(f"target: name the column of {path} to predict, one of {', '.join(table.columns)}")
    aim, t, columns = table_target(table, target, task, drop)
    counting = counting_columns(table, columns)
    if counting:
        warnings.warn(
            f"{path}: column {counting[0]!r} counts the rows; if it is no more than their number, leave it out: "
            f"--drop {counting[0]}",
            stacklevel=3,
        )
    rows = split.rows(t, aim.classes is not None, tested=False)
    aim = aim.measured(t[rows[0]])
    chosen = TablePreparation(tuple(column.measured(table, rows[0]) for column in columns), aim)
    x = chosen.rows(table, dtype)
    return _prepared(x, t, rows, aim, name=path.stem, source=str(path), preparation=chosen, features=chosen.features)


def _arrays(path: Path, task: str, split: _Split, dtype: str) -> PreparedData:
    arrays, names = array_pair(path)
    if set(NPZ_KEYS) <= set(names) and task != "numbers" and _of_mnist(arrays):
        return _mnist(path, split, dtype)
    x, t = arrays[names[0]], arrays[names[1]].reshape(-1)
    aim, answers = recognised(names[1], t, task, lambda row: f"{path}: {names[1]}[{row}]", "--task numbers")
    rows = split.rows(answers, aim.classes is not None, tested=len(names) == 4)
    aim = aim.measured(answers[rows[0]])
    chosen = array_scaling(path, x[rows[0]], aim)
    others: dict[str, Any] = {"name": path.stem, "source": str(path), "preparation": chosen}
    if len(names) == 4:
        answers_of_test = _test_answers(path, names[3], arrays[names[3]].reshape(-1), aim)
        others["test"] = (chosen.rows(path, arrays[names[2]], dtype), aim.scaled(answers_of_test))
    return _prepared(chosen.rows(path, x, dtype), answers, rows, aim, **others)


def _test_answers(path: Path, name: str, t: HostArray, aim: Target) -> HostArray:
    """Return the answers of a test as those to train on: numbers, or the numbers of known classes."""
    if aim.classes is None:
        if t.dtype.kind not in "biuf" or not np.isfinite(t).all():
            raise DataError(f"{path}: {name} is {t.dtype}, expected finite numbers")
        return t.astype(np.float64)
    words = [word(value) for value in t]
    number = {one: i for i, one in enumerate(aim.classes)}
    unknown = [one for one in words if one not in number]
    if unknown:
        raise DataError(f"{path}: {name} holds {unknown[0]!r:.50}, a class that the rows to train on do not have")
    return np.array([number[one] for one in words], np.int64)


def _folder(path: Path, side: int | None, split: _Split, dtype: str) -> PreparedData:
    found = find_pictures(path)
    if found.left_out:
        warnings.warn(
            f"{path}: {len(found.left_out)} files are no pictures by their names and are left out: "
            f"{listed(found.left_out)}",
            stacklevel=3,
        )
    if found.loose:
        warnings.warn(
            f"{path}: {len(found.loose)} pictures lie in no folder of a class and are left out: {listed(found.loose)}",
            stacklevel=3,
        )
    chosen = measured(found, side)

    def part(name: str) -> tuple[HostArray, HostArray]:
        paths, labels = zip(*found.files[name], strict=True)
        return chosen.rows(paths, dtype), np.array(labels, np.int64)

    x, t = part("train")
    others: dict[str, Any] = {"name": path.resolve().name, "source": str(path), "preparation": chosen}
    for name in ("validation", "test"):
        if name in found.files:
            others[name] = part(name)
    if "validation" in found.files:
        if split.part:
            raise ValueError(f"validation: {path} has a folder for it, so that no part is held out; got {split.part}")
        split = replace(split, part=0.0)
    return _prepared(x, t, split.rows(t, True, tested="test" in found.files), chosen.target, **others)


def _mnist(data: str | os.PathLike[str], split: _Split, dtype: str) -> PreparedData:
    host: HostData = mnist_host(data)

    def pixels(images: HostArray) -> HostArray:
        return np.divide(images, 255, dtype=dtype)[..., None]

    classes = 1 + int(max(host.t_train.max(), host.t_test.max()))
    target = Target("label", tuple(map(str, range(classes))))
    t, test = host.t_train.astype(np.int64), (pixels(host.x_test), host.t_test.astype(np.int64))
    rows = split.rows(t, True, tested=True)
    return _prepared(pixels(host.x_train), t, rows, target, name=host.name, source=host.source, test=test)


def _of_mnist(arrays: Mapping[str, HostArray]) -> bool:
    """Say whether arrays are those of a data set of the form of MNIST: images of bytes, and labels from 0 on."""
    x, *labels = (arrays[name] for name in ("x_train", "y_train", "y_test"))
    return x.dtype == np.uint8 and x.ndim == 3 and all(t.ndim == 1 and t.dtype.kind in "iu" for t in labels)


def _is_mnist_folder(path: Path) -> bool:
    """Say whether a folder holds IDX files, mnist.npz or tables, and no folders of pictures."""
    patterns = ("*idx[123]-*", "raw/*idx[123]-*", "mnist/*idx[123]-*", "*/raw/*idx[123]-*", "mnist.npz", "*train*.csv")
    return _found(path, *patterns)


def _found(folder: Path, *patterns: str) -> bool:
    """Say whether a folder holds a file whose name has one of the patterns."""
    try:
        return any(next(folder.glob(pattern), None) is not None for pattern in patterns)
    except (OSError, ValueError):
        return False


def _is_mnist_csv(path: Path) -> bool:
    """Say whether a CSV file is one of the two of a data set of the form of MNIST."""
    return (
        path.suffix.lower() == ".csv"
        and "train" in path.name
        and is_file(path.with_name(path.name.replace("train", "test")))
    )
