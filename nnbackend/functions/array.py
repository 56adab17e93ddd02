"""What every function here stands on: the type of an array, and the namespace that an array carries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import singledispatch
from typing import Any, TypeAlias

from array_api_compat import array_namespace, device

__all__ = ["Array", "array_namespace", "device", "gather", "is_finite", "one_hot", "pieces", "take_columns"]

Array: TypeAlias = Any  # NumPy, CuPy, PyTorch, ...: whatever a namespace calls its own


def one_hot(t: Array, classes: int, dtype: Array) -> Array:
    """Rows of zeros with a one at the label. t: (n,) integers in [0, classes). Returns (n, classes) of `dtype`.

    A label outside of the classes has a row of NaN, which no later sum can hide: a device is not asked for an error.
    """
    xp = array_namespace(t)
    t = xp.astype(t, xp.int64, copy=False)
    columns = xp.arange(classes, dtype=xp.int64, device=device(t))
    rows = xp.astype(t[:, None] == columns[None, :], dtype)
    return xp.where(((t >= 0) & (t < classes))[:, None], rows, math.nan)


def pieces(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(n) in order; none reaches past n, which the array API leaves open."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def take_columns(x: Array, columns: Array) -> Array:
    """x[:, columns], column-major: fast for a column-major x, whose columns lie together. x: (n, c); columns: (k,)."""
    return array_namespace(x).take(x.T, columns, axis=0).T


@singledispatch
def gather(x: Array, rows: Array) -> Array:
    """The rows x[rows]. x: (n, ...); rows: (k,), integers in [0, n). Returns (k, ...)."""
    return array_namespace(x).take(x, rows, axis=0)


@singledispatch
def is_finite(x: Array) -> Array:
    """Is every element of x finite? A 0-d boolean, True where there is no element. x: any shape, floating."""
    xp = array_namespace(x)
    return xp.all(xp.isfinite(x))
