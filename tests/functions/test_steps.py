"""The two ends of a training step, on every namespace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

from nnbackend.backends import to_numpy
from nnbackend.functions import record, softmax_cross_entropy_recorded, take_rows

ORDER = np.array([7, 3, 0, 5, 1, 6, 2, 4])
X, LABELS = np.arange(24.0).reshape(8, 3), np.arange(8) % 3


def place(on: Namespace, at: int, device: bool) -> Any:
    """The number of a step on the host, or as the first of two counters on the device."""
    return on.backend.asarray([at, 41], "int64") if device else at


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize(("at", "start", "size", "rows"), [(0, 0, 3, [7, 3, 0]), (2, 0, 2, [2, 4]), (1, 2, 1, [6])])
def test_take_rows(on: Namespace, device: bool, at: int, start: int, size: int, rows: list[int]) -> None:
    arrays = on.array(X, "float32"), on.array(LABELS, "int64"), on.array(X.reshape(8, 3, 1), "float64")
    taken = take_rows(on.array(ORDER, "int64"), place(on, at, device), 3, start, size, *arrays)
    for actual, expected in zip(taken, (X, LABELS, X[:, :, None]), strict=True):
        assert to_numpy(actual).tolist() == expected[rows].tolist()
    assert [a.dtype for a in taken] == [a.dtype for a in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", [False, True])
def test_record(on: Namespace, dtype: str, device: bool) -> None:
    metrics, at = on.backend.zeros((4, 3), dtype), place(on, 1, device)
    record(metrics, at, on.array(0.5, dtype))
    expected = [[0, 0.5, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert to_numpy(metrics).tolist() == expected
    at = at if device else 2
    record(metrics, at, on.array(1.5, dtype), on.array(7, "int64"), 3.0, on.array(9, dtype))
    expected = [[0, 0.5, 1.5], [0, 0, 7], [0, 0, 3], [0, 0, 9]]
    assert to_numpy(metrics).tolist() == expected
    if device:
        assert to_numpy(at).tolist() == [3, 43]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n", [1, 7, 1500])
def test_the_end_of_a_classifier(on: Namespace, dtype: str, device: bool, smoothing: float, n: int) -> None:
    """Against the formulas, written with NumPy in float64. n: with 1500 rows CuPy takes two launches."""
    rng = np.random.default_rng(n)
    x, t = rng.standard_normal((n, 5)), rng.integers(0, 5, n)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    q = (1 - smoothing) * np.eye(5)[t] + smoothing / 5
    metrics, at = on.backend.zeros((2, 2), dtype), place(on, 1, device)
    dx = softmax_cross_entropy_recorded(
        on.array(x, dtype), on.array(t, "int64"), metrics, at, label_smoothing=smoothing
    )
    assert_close(dx, (p - q) / n, dtype, 5)
    assert_close(metrics[0, 1], np.asarray(-(q * np.log(p)).sum() / n), dtype, n)
    assert float(metrics[1, 1]) == (x.argmax(axis=1) == t).sum()
    assert to_numpy(metrics)[:, 0].tolist() == [0, 0]
    one_hot = on.backend.zeros((2, 2), dtype)
    again = softmax_cross_entropy_recorded(
        on.array(x, dtype), on.array(np.eye(5)[t], dtype), one_hot, 1, label_smoothing=smoothing
    )
    assert_close(again, to_numpy(dx), dtype)
    assert_close(one_hot, to_numpy(metrics), dtype, n)


def test_class_weights_at_the_end_of_a_classifier(on: Namespace) -> None:
    x, t, c = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]]), np.array([1, 0]), np.array([0.5, 2.0, 1.0])
    metrics = on.backend.zeros((2, 1), "float64")
    dx = softmax_cross_entropy_recorded(*(on.array(a) for a in (x, t)), metrics, 0, on.array(c))
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    w = c[t]
    assert_close(dx, w[:, None] * (p - np.eye(3)[t]) / w.sum(), "float64", 3)
    assert_close(metrics[:, 0], np.array([-(w * np.log(p[[0, 1], t])).sum() / w.sum(), 1.0]), "float64", 3)
