"""Rows that are read when they are needed, because all of them together would not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from nnbackend.errors import DataError

__all__ = ["Items", "Shards", "Source"]

HostArray: TypeAlias = npt.NDArray[Any]
RowNumbers: TypeAlias = npt.NDArray[np.int64]


class Source(Protocol):
    """What `Trainer.fit` reads data from that is not in memory. It may be read from another thread, one call at a time.

    Any class with these two methods serves. The same row numbers must always give the same rows.
    """

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: RowNumbers, /) -> tuple[Any, Any]:
        """Return the rows x and their targets t for an array of row numbers, which come in any order."""


class Shards:
    """Reads rows from files of `numpy.save`, one after the other, as if they were one array.

    x: the paths of the files with the rows, (n_i, ...) each. t: those of the files with the targets, as many rows each.
    The files are mapped into memory, not read: a step reads the rows that it takes.
    Raises DataError for a file that is missing or that is no array, and ValueError for files that do not fit together.
    """

    def __init__(self, x: Sequence[str | os.PathLike[str]], t: Sequence[str | os.PathLike[str]]):
        for name, paths in (("x", x), ("t", t)):
            if isinstance(paths, str | os.PathLike):
                raise TypeError(f"{name}: expected a list of paths, got {paths!r}")
        if len(x) != len(t) or not x:
            raise ValueError(f"expected as many files of x as of t, and at least one, got {len(x)} and {len(t)}")
        self._x, self._t = [_mapped(path) for path in x], [_mapped(path) for path in t]
        for paths, arrays in ((x, self._x), (t, self._t)):
            for path, array in zip(paths, arrays, strict=True):
                if array.shape[1:] != arrays[0].shape[1:] or array.dtype != arrays[0].dtype:
                    raise ValueError(
                        f"{os.fspath(path)} has rows of {array.dtype.name} of shape {array.shape[1:]}, but "
                        f"{os.fspath(paths[0])} has rows of {arrays[0].dtype.name} of shape {arrays[0].shape[1:]}"
                    )
        for path_x, path_t, rows, targets in zip(x, t, self._x, self._t, strict=True):
            if len(rows) != len(targets):
                raise ValueError(
                    f"{os.fspath(path_x)} has {len(rows)} rows, but {os.fspath(path_t)} has {len(targets)}"
                )
        self._ends = np.cumsum([len(rows) for rows in self._x])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: RowNumbers, /) -> tuple[HostArray, HostArray]:
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.dtype.kind not in "iu" and len(rows)):
            raise TypeError(f"rows: expected row numbers, integers of shape (n,), got {rows.dtype} of {rows.shape}")
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows: expected numbers from 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        shard = np.searchsorted(self._ends, rows, side="right")
        x, t = (np.empty((len(rows), *a[0].shape[1:]), a[0].dtype) for a in (self._x, self._t))
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            local = rows[here] - (self._ends[number] - len(self._x[number]))
            x[here], t[here] = self._x[number][local], self._t[number][local]
        return x, t

    def __repr__(self) -> str:
        return f"<Shards: {len(self)} rows in {len(self._x)} files>"


class Items:
    """Reads rows from a sequence of pairs, such as a map-style Dataset of PyTorch: `items[i]` is one row x and its t.

    items: anything with a length and whole numbers as indices. Of a PyTorch DataLoader pass `loader.dataset`: the
    Trainer makes the batches and the order. Rows become NumPy arrays; images of PyTorch, (c, h, w), stay as they are.
    Raises TypeError for items without a length or without indices.
    """

    def __init__(self, items: Any):
        if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
            raise TypeError(f"items: expected a sequence of pairs (x, t), got a {type(items).__name__}")
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, rows: RowNumbers, /) -> tuple[HostArray, HostArray]:
        pairs = [self._items[int(i)] for i in rows]
        return np.stack([np.asarray(x) for x, _ in pairs]), np.stack([np.asarray(t) for _, t in pairs])

    def __repr__(self) -> str:
        return f"<Items: {len(self)} rows of a {type(self._items).__name__}>"


def _mapped(path: str | os.PathLike[str]) -> HostArray:
    try:
        array = np.load(Path(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{os.fspath(path)} is no file of numpy.save that can be mapped: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise DataError(f"{os.fspath(path)} holds no array of rows")
    return array
