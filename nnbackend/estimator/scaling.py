"""Columns of data: their moments, and blocks of rows, wherever the data lives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnbackend.backend import home, to_numpy
from nnbackend.functions.array import Array, array_namespace, device, pieces

HostArray: TypeAlias = npt.NDArray[Any]

ROWS = 2048  # that are scaled, or predicted, at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Total weight, means and sums of squared deviations of columns; the sum of two is that of all their rows.

    eps: the relative precision in which they were computed.
    """

    weight: float
    mean: HostArray
    squares: HostArray
    eps: float

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque 1979."""
        weight = self.weight + other.weight
        share, step = other.weight / weight, other.mean - self.mean
        squares = self.squares + other.squares + self.weight * share * step * step
        return Moments(weight, self.mean + share * step, squares, max(self.eps, other.eps))

    @property
    def scale(self) -> HostArray:
        """The standard deviation of each column; 1 where a column is constant but for rounding."""
        deviation = np.sqrt(self.squares / self.weight)
        return np.where(deviation > 10 * self.eps * np.abs(self.mean), deviation, 1.0)

    def standardized(self, x: Array) -> Array:
        """The columns of x with mean 0 and standard deviation 1."""
        mean, factor = self._beside(x, self.mean, 1.0 / self.scale)
        return (x - mean) * factor

    def restored(self, x: Array) -> Array:
        """The inverse of `standardized`."""
        mean, scale = self._beside(x, self.mean, self.scale)
        return x * scale + mean

    def _beside(self, x: Array, *columns: HostArray) -> list[Array]:
        return [array_namespace(x).asarray(a, dtype=x.dtype, device=device(x)) for a in columns]


def column_moments(x: Any, weight: HostArray | None) -> Moments:
    """Of the columns of x, with rows weighted where `weight`, (n,), says how."""
    total = None
    for rows, block in blocks(x):
        xp = array_namespace(block)
        if weight is None:
            size, mean = float(block.shape[0]), xp.mean(block, axis=0)
            squares = xp.sum((block - mean) ** 2, axis=0)
        else:
            w = xp.asarray(weight[rows], dtype=block.dtype, device=device(block))
            size = float(xp.sum(w))
            mean = (w @ block) / size
            squares = w @ (block - mean) ** 2
        mean, squares = (np.asarray(to_numpy(a), dtype=np.float64) for a in (mean, squares))
        part = Moments(size, mean, squares, float(xp.finfo(block.dtype).eps))
        total = part if total is None else total + part
    assert total is not None  # data has rows
    return total


def blocks(x: Any) -> Iterator[tuple[slice, Array]]:
    """Dense blocks of rows: in float64 for host data, in their own precision on a device."""
    for rows in pieces(x.shape[0], ROWS):
        block = x[rows, :]
        if not on_device(x):
            block = np.asarray(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64)
        yield rows, block


def on_device(x: object) -> bool:
    """Is x an array of a library other than NumPy, and one on which a network can live?"""
    return home(x) not in ("", "numpy")


def host(x: Any) -> Any:
    """x for scikit-learn's own functions: device arrays as NumPy arrays, all else as it is."""
    return to_numpy(x) if on_device(x) else x


def take(x: Any, rows: HostArray | None) -> Any:
    """The rows of x with these numbers; None stays None, and None for rows is all of them."""
    if x is None or rows is None:
        return x
    if not on_device(x):
        return x[rows]
    xp = array_namespace(x)
    return xp.take(x, xp.asarray(rows, device=device(x)), axis=0)
