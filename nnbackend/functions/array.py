"""What every function here stands on: the type of an array, and the namespace that an array carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import singledispatch
from typing import Any, Protocol, TypeAlias

import array_api_compat
from array_api_compat import device

__all__ = [
    "Array",
    "MaybeArray",
    "Namespace",
    "array_namespace",
    "concat",
    "device",
    "gather",
    "is_finite",
    "one_hot",
    "pieces",
    "stack",
    "take_columns",
]


class Array(Protocol):
    """What the library asks of an array of NumPy, CuPy, PyTorch, ... beside the functions of its namespace."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> Any: ...
    @property
    def device(self) -> Any: ...
    @property
    def T(self) -> Array: ...
    def __getitem__(self, key: Any, /) -> Array: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __bool__(self) -> bool: ...
    def __int__(self) -> int: ...
    def __float__(self) -> float: ...
    def __neg__(self) -> Array: ...
    def __invert__(self) -> Array: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __rtruediv__(self, other: Any, /) -> Array: ...
    def __floordiv__(self, other: Any, /) -> Array: ...
    def __mod__(self, other: Any, /) -> Array: ...
    def __pow__(self, other: Any, /) -> Array: ...
    def __rpow__(self, other: Any, /) -> Array: ...
    def __matmul__(self, other: Any, /) -> Array: ...
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...
    def __xor__(self, other: Any, /) -> Array: ...
    def __lshift__(self, other: Any, /) -> Array: ...
    def __rshift__(self, other: Any, /) -> Array: ...
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...
    def __eq__(self, other: object, /) -> Any: ...
    def __ne__(self, other: object, /) -> Any: ...


class Namespace(Protocol):
    """What the library asks of a namespace: functions that return an array, beside the few that are listed."""

    isdtype: Callable[..., bool]
    finfo: Callable[..., Any]

    def __getattr__(self, name: str, /) -> Callable[..., Array]: ...


MaybeArray: TypeAlias = Array | Any  # None at first, or if nobody needs it: its readers know when, and do not ask

array_namespace: Callable[..., Namespace] = array_api_compat.array_namespace


def one_hot(t: Array, classes: int, dtype: Any) -> Array:
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


def as_rows(x: Array) -> Array:
    """The positions of x, (..., d), as rows: (n, d)."""
    return array_namespace(x).reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def take_columns(x: Array, columns: Array) -> Array:
    """x[:, columns], column-major: fast for a column-major x, whose columns lie together. x: (n, c); columns: (k,)."""
    return array_namespace(x).take(x.T, columns, axis=0).T


@singledispatch
def gather(x: Array, rows: Array) -> Array:
    """The rows x[rows]. x: (n, ...); rows: (k,), integers in [0, n). Returns (k, ...)."""
    return array_namespace(x).take(x, rows, axis=0)


@singledispatch
def flatten(x: Array) -> Array:
    """The elements of every row in C order. x: (n, ...). Returns (n, the product of the other axes)."""
    return array_namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))


@singledispatch
def flatten_backward(dy: Array, x: Array) -> Array:
    """dx of `flatten`, in the shape of x."""
    return array_namespace(dy).reshape(dy, tuple(x.shape))


@singledispatch
def concat(first: Array, axis: int, *others: Array) -> Array:
    """All arrays, one behind the other along an axis. They have one dtype, and one shape but for that axis."""
    return array_namespace(first).concat([first, *others], axis=axis)


def stack(arrays: Sequence[Array]) -> Array:
    """Arrays of one shape and dtype, (...), along a new first axis: (k, ...)."""
    first, *others = [a[None, ...] for a in arrays]
    return concat(first, 0, *others)


@singledispatch
def is_finite(x: Array) -> Array:
    """Is every element of x finite? A 0-d boolean, True where there is no element. x: any shape, floating."""
    xp = array_namespace(x)
    return xp.all(xp.isfinite(x))
