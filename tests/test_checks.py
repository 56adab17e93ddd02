"""Checks of arguments: what passes, and what the error says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nnbackend import checks

GOOD: list[tuple[Callable[..., None], list[Any], list[Any]]] = [
    (checks.positive_integer, [1, 7, np.int64(3)], [0, -1, 1.0, True, "1", None, math.nan]),
    (checks.number, [0, -1.5, np.float32(2), math.inf], [True, "1", None, 1j, [1]]),
    (checks.positive, [1e-300, 3], [0, -1, math.inf, math.nan, True, "1"]),
    (checks.not_negative, [0, 2.5], [-1e-9, math.inf, math.nan, None]),
    (checks.boolean, [True, False], [1, 0, None, "True", np.True_]),
    (checks.finite, [-2.5, 0], [math.inf, -math.inf, math.nan, True, "1"]),
    (checks.decay, [0, 0.999], [1, -0.1, math.nan, True]),
]


@pytest.mark.parametrize(("check", "good", "bad"), GOOD)
def test_checks(check: Callable[..., None], good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check("setting", value)
    for value in bad:
        with pytest.raises(ValueError, match="^setting must be .*, got ") as error:
            check("setting", value)
        assert str(error.value).endswith(repr(value))


def test_lengths() -> None:
    assert checks.lengths("shape", (2, np.int64(3))) == (2, 3)
    assert checks.lengths("shape", [4]) == (4,)
    for bad in (4, None, (2, -3), (2, "a"), (2.0, 3), "ab"):
        with pytest.raises(ValueError, match="shape must hold positive integers, got "):
            checks.lengths("shape", bad)


def test_an_integer_of_at_least() -> None:
    checks.at_least("count", 0, 0)
    checks.at_least("count", np.int32(2), 2)
    with pytest.raises(ValueError, match="count: expected an integer of at least 2, got 1"):
        checks.at_least("count", 1, 2)
