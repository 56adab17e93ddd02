"""Losses as the last part of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnbackend.backend import Backend
from nnbackend.functions import (
    count_correct,
    mean_squared_error,
    mean_squared_error_backward,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_rows,
    squared_error_rows,
)
from nnbackend.functions.array import Array
from nnbackend.layers.base import Loss, Shape


@dataclass(eq=False)
class SoftmaxWithLoss(Loss):
    """Softmax and cross entropy in one (the book's SoftmaxWithLoss). y: (n, classes) logits.

    t: (n,) integer labels in [0, classes), or (n, classes) one-hot rows.
    """

    classifies = True

    def forward(self, y: Array, t: Array) -> Array:
        loss, self._y = softmax_cross_entropy(y, t)
        self._t = t
        return loss

    def rows(self, y: Array, t: Array) -> Array:
        return softmax_cross_entropy_rows(y, t)

    def backward(self) -> Array:
        return softmax_cross_entropy_backward(self._y, self._t)

    def output(self, y: Array) -> Array:
        return softmax(y)

    def count_correct(self, y: Array, t: Array) -> Array:
        return count_correct(y, t)

    def target(self, t: Any, n: int, shape: Shape, on: Backend, dtype: str) -> Array:
        if len(shape) != 1:
            raise ValueError(f"{self} takes rows of class scores, but the network's output rows have shape {shape}")
        (classes,) = shape
        t = on.asarray(t)
        if tuple(t.shape) == (n, classes):
            t = on.asarray(t, dtype)
            if not on.xp.all(on.xp.isfinite(t)):
                raise ValueError("t: one-hot rows contain NaN or infinity")
            return t
        if t.ndim != 1:
            raise ValueError(
                f"t: expected ({n},) integer labels or ({n}, {classes}) one-hot rows, got shape {tuple(t.shape)}"
            )
        if t.shape[0] != n:
            raise ValueError(f"x has {n} rows, but t has {t.shape[0]}")
        if not on.xp.isdtype(t.dtype, "integral"):
            raise ValueError(f"t: labels must be integers, got dtype {t.dtype}")
        low, high = int(on.xp.min(t)), int(on.xp.max(t))
        if low < 0 or high >= classes:
            raise ValueError(f"t: labels must lie in 0 to {classes - 1}, got {low} to {high}")
        return on.asarray(t, "int64")


@dataclass(eq=False)
class MeanSquaredError(Loss):
    """mean((y - t)^2) over all elements of the batch. t: the shape of y; (n,) is taken for outputs of one column."""

    def forward(self, y: Array, t: Array) -> Array:
        self._y, self._t = y, t
        return mean_squared_error(y, t)

    def rows(self, y: Array, t: Array) -> Array:
        return squared_error_rows(y, t)

    def backward(self) -> Array:
        return mean_squared_error_backward(self._y, self._t)

    def target(self, t: Any, n: int, shape: Shape, on: Backend, dtype: str) -> Array:
        t = on.asarray(t, dtype)
        if t.ndim > 0 and t.shape[0] != n:
            raise ValueError(f"x has {n} rows, but t has {t.shape[0]}")
        if tuple(t.shape) == (n,) and shape == (1,):
            t = on.xp.reshape(t, (n, 1))
        if tuple(t.shape) != (n, *shape):
            raise ValueError(f"t: expected shape {(n, *shape)}, as the network's output, got {tuple(t.shape)}")
        if not on.xp.all(on.xp.isfinite(t)):
            raise ValueError("t contains NaN or infinity")
        return t
