"""Scale the columns of data, wherever the data lives, without loss of information."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnbackend.backends import name_of, to_numpy
from nnbackend.functions.array import Array, array_namespace, device, pieces

HostArray: TypeAlias = npt.NDArray[Any]

ROWS = 2048  # that are scaled, or predicted, at a time
REACH = 10.0  # the largest scaled feature: a pixel that is blank but once would otherwise become a hundred


@dataclass(frozen=True, eq=False)
class Moments:
    """Total weight, mean, standard deviation, least and largest value of each column.

    The sum of two is that of all their rows. eps: the relative precision in which they were computed.
    clip: cut scaled features at so many deviations (what older versions did; it stays for their pickles).
    """

    weight: float
    mean: HostArray
    deviation: HostArray
    low: HostArray
    high: HostArray
    eps: float
    clip: float | None = None

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque 1979, for deviations, whose squares might overflow."""
        weight = self.weight + other.weight
        share, step = other.weight / weight, other.mean - self.mean
        inner = np.hypot((1.0 - share) ** 0.5 * self.deviation, share**0.5 * other.deviation)
        return Moments(
            weight,
            self.mean + share * step,
            np.hypot(inner, (share * (1.0 - share)) ** 0.5 * step),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            max(self.eps, other.eps),
            self.clip,
        )

    @property
    def constant(self) -> HostArray:
        """Which columns hold one value, but for rounding."""
        constant: HostArray = self.deviation <= 10 * self.eps * np.abs(self.mean)
        return constant

    def standardized(self, x: Array) -> Array:
        """The columns of x with mean 0 and standard deviation 1."""
        mean, scale = _beside(x, self.mean, np.where(self.constant, 1.0, self.deviation))
        return (x - mean) / scale

    def restored(self, x: Array) -> Array:
        """The inverse of `standardized`; a constant column is the constant, whatever x holds there."""
        mean, scale = _beside(x, *self.restoring)
        return x * scale + mean

    @property
    def restoring(self) -> tuple[HostArray, HostArray]:
        """What `restored` adds, and what it multiplies by before."""
        return self.mean, np.where(self.constant, 0.0, self.deviation)

    def scaled(self, x: Any) -> Array:
        """The columns of x, dense or CSR, as features: standardized, or smaller where values lie further out.

        The farthest of the values seen becomes `REACH` at most. The map is linear, so no two values become one.
        """
        x = dense(x)
        mean, scale = _beside(x, *self.scaling)
        scaled = (x - mean) / scale
        return scaled if self.clip is None else array_namespace(x).clip(scaled, -self.clip, self.clip)

    @property
    def scaling(self) -> tuple[HostArray, HostArray]:
        """What `scaled` subtracts and then divides by, before it clips."""
        if self.clip is not None:
            return self.mean, np.where(self.constant, 1.0, self.deviation)
        farthest = np.maximum(self.high - self.mean, self.mean - self.low)
        return self.mean, np.where(self.constant, 1.0, np.maximum(self.deviation, farthest / REACH))

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "squares" in state:  # of an older version
            deviation, nothing = np.sqrt(state["squares"] / state["weight"]), np.full_like(state["mean"], np.nan)
            kept = {name: state[name] for name in ("weight", "mean", "eps")}
            state = kept | {"deviation": deviation, "low": nothing, "high": nothing, "clip": 5.0}
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class RowLength:
    """The number of rows, and the root mean square of their Euclidean lengths. One number scales sparse rows: their
    zeros stay zeros, and rare features, whose deviation is small, are not blown up.
    """

    weight: float
    length: float

    def __add__(self, other: RowLength) -> RowLength:
        weight = self.weight + other.weight
        share = other.weight / weight
        return RowLength(weight, math.hypot((1.0 - share) ** 0.5 * self.length, share**0.5 * other.length))

    def scaled(self, x: Any) -> Any:
        """The rows of x, dense or CSR, so long that the mean of their squared lengths is 1 for those seen."""
        return x / (self.length or 1.0)


def row_length(x: Any, weight: HostArray | None) -> RowLength:
    """The length of the rows of x, dense or CSR, with weighted rows if there is a weight, (n,)."""
    total = None
    for rows, block in blocks(x):
        values = block.data if is_sparse(block) else block
        xp = array_namespace(values)
        unit = float(xp.max(xp.abs(values))) if math.prod(values.shape) else 0.0
        scaled = block / (unit or 1.0)  # so that no square overflows or vanishes
        if is_sparse(scaled):
            each = np.asarray(scaled.power(2).sum(axis=1)).ravel()
        else:
            each = _on_host(xp.sum(scaled**2, axis=1))
        w = np.ones(each.size) if weight is None else weight[rows]
        size = float(np.sum(w))
        part = RowLength(size, unit * math.sqrt(float(each @ (w / size))))
        total = part if total is None else total + part
    assert total is not None  # data has rows
    return total


def column_moments(x: Any, weight: HostArray | None) -> Moments:
    """The moments of the columns of x, with weighted rows if there is a weight, (n,). A row's weight may be tiny."""
    total = None
    for rows, block in blocks(x):
        part = _block_moments(dense(block), None if weight is None else weight[rows])
        total = part if total is None else total + part
    assert total is not None  # data has rows
    return total


def _block_moments(x: Array, weight: HostArray | None) -> Moments:
    """The columns are divided by powers of 2, which is exact, so that no square overflows or vanishes."""
    xp = array_namespace(x)
    low, high = (_on_host(a) for a in (xp.min(x, axis=0), xp.max(x, axis=0)))
    _, exponent = np.frexp(np.maximum(np.abs(low), np.abs(high)))
    unit = np.ldexp(1.0, exponent - 1)
    z = x / _beside(x, unit)[0]
    if weight is None:
        size, mean = float(x.shape[0]), xp.mean(z, axis=0)
        square = xp.mean((z - mean) ** 2, axis=0)
    else:
        size = float(np.sum(weight))
        (share,) = _beside(x, weight / size)
        mean = share @ z
        square = share @ (z - mean) ** 2
    mean, deviation = (_on_host(a) * unit for a in (mean, xp.sqrt(square)))
    mean = np.clip(mean, low, high)  # where rounding led out of the values: that of a constant column is exact
    return Moments(size, mean, deviation, low, high, float(xp.finfo(x.dtype).eps))


def _on_host(x: Array) -> HostArray:
    return np.asarray(to_numpy(x), dtype=np.float64)


def _beside(x: Array, *columns: HostArray) -> list[Array]:
    """Host arrays as arrays of x's kind, precision and device."""
    return [array_namespace(x).asarray(a, dtype=x.dtype, device=device(x)) for a in columns]


def blocks(x: Any) -> Iterator[tuple[slice, Any]]:
    """Blocks of rows: in float64 for host data, dense or CSR, in their own precision on a device."""
    for rows in pieces(x.shape[0], ROWS):
        block = x[rows] if is_sparse(x) else x[rows, :]
        yield rows, block if on_device(x) else block.astype(np.float64, copy=False)


def is_sparse(x: object) -> bool:
    """Is x a CSR matrix or array of SciPy?"""
    return getattr(x, "format", "") == "csr"


def dense(x: Any) -> Any:
    """x itself, or the array that a CSR matrix stands for."""
    return x.toarray() if is_sparse(x) else x


def on_device(x: object) -> bool:
    """Is x an array of a library other than NumPy, and one on which a network can live?"""
    return name_of(x) not in ("", "numpy")


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


def require_numbers(argument: str, values: Any) -> None:
    """Raise ValueError for dates, durations, strings and other objects, which a cast would turn into numbers."""
    array = values if hasattr(values, "dtype") and hasattr(values.dtype, "kind") else np.asarray(values)
    kind = array.dtype.kind
    if kind in "biuf":
        return
    if kind == "O":
        array = np.asarray(array)
        strange = [value for value in array.ravel() if not isinstance(value, Real | Decimal | np.bool_)]
        if strange:
            raise ValueError(f"{argument} must hold numbers, got {strange[0]!r}, a {type(strange[0]).__name__}")
        return
    raise ValueError(f"{argument} must hold numbers, got dtype {array.dtype}")
