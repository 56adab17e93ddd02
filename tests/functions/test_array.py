from __future__ import annotations

import numpy as np
import pytest
from support import Namespace

from nnbackend.backends import to_numpy
from nnbackend.functions import gather, is_finite
from nnbackend.functions.array import Array
from nnbackend.functions.array import Namespace as Functions

ASKED = [
    name
    for name, value in vars(Array).items()
    if isinstance(value, property) or getattr(value, "__module__", "") == Array.__module__
]


def test_arrays_of_every_library_have_what_is_asked_of_them(on: Namespace) -> None:
    x = on.array([[1.0, 2.0], [3.0, 4.0]])
    assert len(ASKED) > 30
    assert [name for name in ASKED if not hasattr(x, name)] == []
    assert [name for name in Functions.__annotations__ if not callable(getattr(on.xp, name))] == []


def test_nothing_is_asked_that_the_standard_does_not_have() -> None:
    strict = pytest.importorskip("array_api_strict")
    assert [name for name in ASKED if not hasattr(strict.ones((2, 2)), name)] == []


@pytest.mark.parametrize("shape", [(9,), (9, 5), (9, 2, 3), (9, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_gather(on: Namespace, shape: tuple[int, ...], dtype: str) -> None:
    x = np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)
    for rows in ([], [8], [3, 0, 3, 8, 1]):
        actual = gather(on.array(x), on.array(np.array(rows, "int64")))
        assert actual.dtype == on.backend.dtype(dtype)
        expected = np.stack([x[row] for row in rows]) if rows else np.empty((0, *shape[1:]), dtype)
        np.testing.assert_array_equal(to_numpy(actual), expected)


@pytest.mark.parametrize("row", [9, -10, 2**40])
def test_rows_out_of_range_are_an_error_on_numpy(row: int) -> None:
    for x in (np.zeros((9, 5)), np.zeros((5, 9)).T):
        with pytest.raises(IndexError, match="out of bounds"):
            gather(x, np.array([0, row]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 3, 4)])
def test_is_finite(on: Namespace, shape: tuple[int, ...], dtype: str) -> None:
    x = np.full(shape, np.finfo(dtype).max)
    assert bool(is_finite(on.array(x.astype(dtype))))
    for place in np.ndindex(*shape):
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = x.copy()
            spoiled[place] = bad
            assert not bool(is_finite(on.array(spoiled.astype(dtype))))
