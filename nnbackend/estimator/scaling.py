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

ROWS = 2048  # the number of rows that are scaled, or predicted, at a time
REACH = 10.0  # the largest scaled feature; a pixel that is set in one image only could otherwise become 100


@dataclass(frozen=True, eq=False)
class Moments:
    """Holds the total weight of the rows, and the mean, standard deviation, least and largest value of each column.

    The sum of two describes the rows of both. eps: the relative precision of the numbers. clip: the number of
    deviations at which scaled features are cut. Older versions did so, and their pickles have it.
    """

    weight: float
    mean: HostArray
    deviation: HostArray
    low: HostArray
    high: HostArray
    eps: float
    clip: float | None = None

    def __add__(self, other: Moments) -> Moments:
        """Combine the moments of two sets of rows (Chan, Golub, LeVeque 1979), without squares, which may overflow."""
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
        """Return, for each column, whether it holds a single value (up to rounding)."""
        constant: HostArray = self.deviation <= 10 * self.eps * np.abs(self.mean)
        return constant

    def standardized(self, x: Any) -> Any:
        """Scale the columns of x to mean 0 and standard deviation 1."""
        mean, scale = _beside(x, self.mean, np.where(self.constant, 1.0, self.deviation))
        return (x - mean) / scale

    def restored(self, x: Any) -> Any:
        """Invert `standardized`. A constant column becomes its constant, whatever x holds there."""
        mean, scale = _beside(x, *self.restoring)
        return x * scale + mean

    @property
    def restoring(self) -> tuple[HostArray, HostArray]:
        """Return what `restored` adds, and what it multiplies by before."""
        return self.mean, np.where(self.constant, 0.0, self.deviation)

    def scaled(self, x: Any) -> Any:
        """Standardize the columns of x, dense or CSR, and divide a column by more if it has outliers.

        The farthest value that was seen becomes `REACH` at most. The map is linear, so distinct values stay distinct.
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
        if "squares" in state:  # a pickle of an older version
            deviation, nothing = np.sqrt(state["squares"] / state["weight"]), np.full_like(state["mean"], np.nan)
            kept = {name: state[name] for name in ("weight", "mean", "eps")}
            state = kept | {"deviation": deviation, "low": nothing, "high": nothing, "clip": 5.0}
        self.__dict__.update(state)


@dataclass(frozen=True, eq=False)
class RowLength:
    """Holds the number of rows, and the root mean square of their Euclidean lengths.

    Sparse rows are divided by this one number. Their zeros stay zeros, and rare features, whose deviations are small,
    do not become large.
    """

    weight: float
    length: float

    def __add__(self, other: RowLength) -> RowLength:
        weight = self.weight + other.weight
        share = other.weight / weight
        return RowLength(weight, math.hypot((1.0 - share) ** 0.5 * self.length, share**0.5 * other.length))

    def scaled(self, x: Any) -> Any:
        """Divide the rows of x, dense or CSR. The mean squared length of the rows that were seen becomes 1."""
        return x / (self.length or 1.0)


def row_length(x: Any, weight: HostArray | None) -> RowLength:
    """Measure the length of the rows of x, dense or CSR. weight: the weights of the rows, (n,), or None."""
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
    """Measure the moments of the columns of x. weight: the weights of the rows, (n,), or None. They may be tiny."""
    total = None
    for rows, block in blocks(x):
        part = _block_moments(dense(block), None if weight is None else weight[rows])
        total = part if total is None else total + part
    assert total is not None  # data has rows
    return total


def _block_moments(x: Array, weight: HostArray | None) -> Moments:
    """Measure the moments of one block.

    Columns are divided by powers of 2, which is exact, so that no square overflows or vanishes.
    """
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
    mean = np.clip(mean, low, high)  # rounding may lead out of the range; the mean of a constant column is exact
    return Moments(size, mean, deviation, low, high, float(xp.finfo(x.dtype).eps))


def _on_host(x: Array) -> HostArray:
    return np.asarray(to_numpy(x), dtype=np.float64)


def _beside(x: Array, *columns: HostArray) -> list[Array]:
    """Convert host arrays to the library, precision and device of x."""
    return [array_namespace(x).asarray(a, dtype=x.dtype, device=device(x)) for a in columns]


def blocks(x: Any) -> Iterator[tuple[slice, Any]]:
    """Yield blocks of rows. Host data, dense or CSR, comes in float64, and data on a device in its own precision."""
    for rows in pieces(x.shape[0], ROWS):
        block = x[rows] if is_sparse(x) else x[rows, :]
        yield rows, block if on_device(x) else block.astype(np.float64, copy=False)


def is_sparse(x: object) -> bool:
    """Say whether x is a CSR matrix or array of SciPy."""
    return getattr(x, "format", "") == "csr"


def dense(x: Any) -> Any:
    """Return a CSR matrix as a dense array, and any other x as it is."""
    return x.toarray() if is_sparse(x) else x


def on_device(x: object) -> bool:
    """Say whether x is an array of a library, other than NumPy, on which a network can live."""
    return name_of(x) not in ("", "numpy")


def host(x: Any) -> Any:
    """Return a device array as a NumPy array, for functions of scikit-learn, and any other x as it is."""
    return to_numpy(x) if on_device(x) else x


def take(x: Any, rows: HostArray | None) -> Any:
    """Return the rows of x with these numbers. If `rows` is None, return x; if x is None, return None."""
    if x is None or rows is None:
        return x
    if not on_device(x):
        return x[rows]
    xp = array_namespace(x)
    return xp.take(x, xp.asarray(rows, device=device(x)), axis=0)


def require_numbers(argument: str, values: Any) -> None:
    """Raise ValueError if values are dates, durations, strings or other objects, which a cast may turn into numbers."""
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
