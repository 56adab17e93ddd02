"""Checks of arguments and settings: each raises an error that names the argument, what came and what was expected."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

__all__ = [
    "at_least",
    "boolean",
    "decay",
    "finite",
    "is_integer",
    "lengths",
    "not_negative",
    "number",
    "plain_number",
    "positive",
    "positive_integer",
]


def is_integer(value: object, least: int) -> bool:
    """Say whether the value is an integer of at least `least`. A bool is not one."""
    return isinstance(value, Integral) and not isinstance(value, bool) and operator.index(value) >= least


def positive_integer(argument: str, value: object) -> None:
    """Raise ValueError if the value is not a positive integer."""
    if not is_integer(value, 1):
        raise ValueError(f"{argument} must be a positive integer, got {value!r}")


def at_least(argument: str, value: object, least: int) -> None:
    """Raise ValueError if the value is not an integer of at least `least`."""
    if not is_integer(value, least):
        raise ValueError(f"{argument}: expected an integer of at least {least}, got {value!r}")


def lengths(argument: str, value: object, example: str = "") -> tuple[int, ...]:
    """Return a shape as a tuple of Python's integers. Raise ValueError if it does not hold positive integers alone.

    example: a shape that the message shows.
    """
    shape = tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(is_integer(length, 1) for length in shape):
        such = f", such as {example}" if example else ""
        raise ValueError(f"{argument} must hold positive integers{such}, got {value!r}")
    return tuple(map(operator.index, shape))


def number(argument: str, value: object) -> None:
    """Raise ValueError if the value is not a real number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{argument} must be a number, got {value!r}")


def plain_number(value: Any) -> Any:
    """Return Python's number for one of another library, and any other value as it is.

    A number of NumPy would make float64 of an array of float32, and other libraries and formats refuse it. A subclass
    of int or float, such as a member of an enumeration, is Python's number already.
    """
    if isinstance(value, int | float) and not hasattr(value, "dtype"):  # float64 of NumPy is a float, too
        return value
    if isinstance(value, Integral):
        return operator.index(value)
    return float(value) if isinstance(value, Real) else value


def boolean(argument: str, value: object) -> None:
    """Raise ValueError if the value is not True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{argument} must be True or False, got {value!r}")


def finite(argument: str, value: float) -> None:
    """Raise ValueError if the value is not a finite number."""
    number(argument, value)
    if not math.isfinite(value):
        raise ValueError(f"{argument} must be finite, got {value!r}")


def positive(argument: str, value: float) -> None:
    """Raise ValueError if the value is not a positive finite number."""
    number(argument, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{argument} must be positive and finite, got {value!r}")


def not_negative(argument: str, value: float) -> None:
    """Raise ValueError if the value is not a finite number of at least 0."""
    number(argument, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{argument} must be at least 0 and finite, got {value!r}")


def decay(argument: str, value: float) -> None:
    """Raise ValueError if the value is not a number of at least 0 and below 1."""
    number(argument, value)
    if not 0 <= value < 1:
        raise ValueError(f"{argument} must be at least 0 and below 1, got {value!r}")
