"""Move the host arrays of a data set to a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnbackend.backends import Backend
from nnbackend.backends import backend as current_backend
from nnbackend.functions.array import Array

__all__ = ["check_float", "computed", "place", "stacked"]

_FLOATS = ("float32", "float64")


def check_float(dtype: str) -> None:
    """Raise ValueError unless `dtype` names a real floating dtype of the array API."""
    if dtype not in _FLOATS:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(_FLOATS)}")


def place(x: npt.NDArray[Any], t: npt.NDArray[Any], dtype: str, backend: Backend | None) -> tuple[Array, Array]:
    """Return inputs x in `dtype` and labels t as int64, on `backend` (None: the current backend)."""
    if backend is not None and not isinstance(backend, Backend):
        raise TypeError(f"backend: got {backend!r}, expected a Backend or None")
    target = current_backend() if backend is None else backend
    return target.asarray(x, dtype), target.asarray(t, "int64")


def stacked(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the rows of all arrays, one after the other, as one array."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def computed(rows: Callable[[], npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], int | None]:
    """Return the rows that a function computes, (n, values), and the number of the first that is not finite, or None.

    NumPy's warnings of what overflows are left out, since the number tells it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        y = rows()
    bad = ~np.isfinite(y).all(axis=1)
    return y, int(bad.argmax()) if bad.any() else None
