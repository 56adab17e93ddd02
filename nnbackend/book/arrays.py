"""Move the arguments of the book's functions and layers to one device: arrays of any library, lists and numbers."""

from __future__ import annotations

from functools import lru_cache
from operator import index
from typing import Any

import numpy as np

from nnbackend.backends import describe, name_of, resolve, to_numpy
from nnbackend.errors import BackendError
from nnbackend.functions.array import Array, array_namespace, device

_backend = lru_cache(maxsize=None)(resolve)  # cached, because opening a GPU backend computes a product on it


def together(**arguments: Any) -> list[Array]:
    """Return the arguments as arrays of one library on one device, in their order.

    arguments: arrays, lists or numbers, by the names for error messages. If an argument is on a device, NumPy arrays,
    lists and numbers move to that device. If none is, the result is NumPy arrays.

    Raises BackendError if two arguments live on different devices, neither of them NumPy's; ValueError or TypeError
    for an argument that does not hold real numbers.
    """
    if all(type(value) is np.ndarray and _plain(value.dtype) for value in arguments.values()):
        return list(arguments.values())
    homes = {name: name_of(value) for name, value in arguments.items()}
    away = {name: at for name, at in homes.items() if at not in ("", "numpy")}
    at = next(iter(away.values()), "numpy")
    for name, other in away.items():
        if other != at:
            first = next(iter(away))
            raise BackendError(
                f"{name}: got {describe(arguments[name])}, but {first} is {describe(arguments[first])}. "
                f"Pass nn.to_numpy({name}), since NumPy arrays move to the device of the others."
            )
    return [_moved(name, value, at) for name, value in arguments.items()]


def floating(*arrays: Array) -> tuple[Array, ...]:
    """Return the arrays in one floating dtype: the common one of those that are floating, else float64."""
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) == 1 and isinstance(arrays[0], np.ndarray) and arrays[0].dtype.kind == "f":
        return arrays  # a fast path for the usual case
    xp = array_namespace(arrays[0])
    floats = [dtype for dtype in dtypes if xp.isdtype(dtype, "real floating")]
    dtype = xp.result_type(*floats) if floats else xp.float64
    return tuple(xp.astype(array, dtype, copy=False) for array in arrays)


def like(value: Array, parameter: Any) -> Array:
    """Return `value` where `parameter` lives, so that a script may write `parameter -= lr * value`."""
    return to_numpy(value) if name_of(parameter) in ("", "numpy") else value


def take(x: Array, chosen: Any) -> Array:
    """Return the rows of x whose numbers are in the host array `chosen`."""
    xp = array_namespace(x)
    return xp.take(x, xp.asarray(chosen, device=device(x)), axis=0)


def number(value: Any) -> Any:
    """Return a number or 0-d array as the NumPy scalar that the book's functions return."""
    return to_numpy(value)[()]


def _plain(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuf" and dtype.isnative


def whole(name: str, value: Any, least: int) -> int:
    """Return `value` as an int. Raises ValueError, with the name, unless it is a whole number of at least `least`."""
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return number


def _moved(name: str, value: Any, at: str) -> Array:
    if value is None:
        raise ValueError(f"{name}: expected an array, got None; the backward of a layer comes after its forward")
    try:
        array = _backend(at).asarray(value)
    except (BackendError, TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    if not array_namespace(array).isdtype(array.dtype, ("bool", "integral", "real floating")):
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return array
