"""Losses. A loss is the last part of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from nnbackend.backends import Backend
from nnbackend.functions import (
    absolute_error_rows,
    count_correct,
    count_correct_multilabel,
    huber,
    huber_backward,
    huber_rows,
    mean_absolute_error,
    mean_absolute_error_backward,
    mean_squared_error,
    mean_squared_error_backward,
    quantile_loss,
    quantile_loss_backward,
    quantile_loss_rows,
    sigmoid,
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_backward,
    sigmoid_cross_entropy_rows,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_recorded,
    softmax_cross_entropy_rows,
    squared_error_rows,
    total_weight,
)
from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.layers.base import Loss, Shape


@dataclass(eq=False)
class SoftmaxWithLoss(Loss):
    """Computes the cross entropy of softmax(y), the book's SoftmaxWithLoss. y: (n, classes) logits.

    t: (n,) integer labels in [0, classes), or (n, classes) one-hot rows or probabilities.
    y may have axes between these, such as one for time: (n, ..., classes), with (n, ...) labels. Loss and accuracy are
    then means over all positions. A sample weight counts for each position of its row.
    ignore_label: an integer, such as -1. Positions with this label are left out of loss, accuracy and gradient, as if
    their weight were 0. Targets are then labels.
    class_weight: one number of at least 0 for each class. With labels the loss is the mean weighted by the labels'
    class weights. With one-hot rows the weights multiply the terms of a row, and the mean is over rows.
    label_smoothing: the fraction of every target that is spread over all classes, at least 0 and below 1 (Szegedy et
    al. 2016). All three work as in PyTorch's cross_entropy. Raises ValueError for settings out of range.
    """

    class_weight: Sequence[float] | None = None
    label_smoothing: float = 0.0
    ignore_label: int | None = None

    classifies = True

    def __post_init__(self) -> None:
        if self.class_weight is not None:
            self.class_weight = _numbers("SoftmaxWithLoss: class_weight", self.class_weight)
            if min(self.class_weight) < 0 or max(self.class_weight) == 0:
                raise ValueError(
                    f"SoftmaxWithLoss: class_weight must hold numbers of at least 0, one of them above, "
                    f"got {self.class_weight}"
                )
        if not _is_number(self.label_smoothing) or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"SoftmaxWithLoss: label_smoothing must be at least 0 and below 1, got {self.label_smoothing!r}"
            )
        if self.ignore_label is not None and (
            not isinstance(self.ignore_label, Integral) or isinstance(self.ignore_label, bool)
        ):
            raise ValueError(f"SoftmaxWithLoss: ignore_label must be an integer or None, got {self.ignore_label!r}")
        self._on_device = _Constant(self.class_weight)
        self._one = _Constant([1.0])

    def config(self) -> dict[str, Any]:
        settings = super().config()
        if self.ignore_label is None and "ignore_label" in settings:
            del settings["ignore_label"]  # files without it are those of earlier versions
        return settings

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        self._shape, places = tuple(y.shape), math.prod(y.shape[1:-1])
        x, self._t, self._weight = self._rows(y, t, weight)
        self._divisor = divisor if divisor is None else divisor * places
        self._class_weight = self._on_device.like(y, y.dtype)
        settings = (self._class_weight, self.label_smoothing, self._divisor)
        loss, self._y = softmax_cross_entropy(x, self._t, self._weight, *settings)
        return loss

    def rows(self, y: Array, t: Array) -> Array:
        x, labels, weight = self._rows(y, t)
        rows = softmax_cross_entropy_rows(x, labels, weight, self._on_device.like(y, y.dtype), self.label_smoothing)
        if y.ndim == 2:
            return rows
        xp = array_namespace(y)
        return xp.mean(xp.reshape(rows, (y.shape[0], math.prod(y.shape[1:-1]))), axis=1)

    def total(self, t: Array, weight: Array | None = None) -> Array | int:
        if self.ignore_label is None and (t.ndim == 1 or self.class_weight is None):
            return total_weight(t, weight, self._on_device.like(t))
        total = total_weight(self._labels(t), self._weights(t, weight), self._on_device.like(t))
        return t.shape[0] if isinstance(total, int) else total / _places(t)

    def counted(self, t: Array, weight: Array | None = None) -> Array | int:
        if self.ignore_label is None:
            return total_weight(t, weight) * _places(t)
        return total_weight(self._labels(t), self._weights(t, weight))

    def is_counted(self, t: Array) -> Array | None:
        return None if self.ignore_label is None else t != self.ignore_label

    def positions(self, y: Array, t: Array) -> tuple[Array, Array]:
        if y.ndim == 2:
            return y, t
        xp, rows = array_namespace(y), math.prod(y.shape[:-1])
        return xp.reshape(y, (rows, y.shape[-1])), xp.reshape(t, (rows, *t.shape[y.ndim - 1 :]))

    def backward(self) -> Array:
        settings = (self._class_weight, self.label_smoothing, self._divisor)
        dx = softmax_cross_entropy_backward(self._y, self._t, self._weight, *settings)
        return dx if len(self._shape) == 2 else array_namespace(dx).reshape(dx, self._shape)

    def recorded(self, y: Array, t: Array, metrics: Array, at: Array | int, divisor: float | None = None) -> Array:
        # a subclass may override a function that this one joins, and a label that is left out is a weight of 0
        if type(self) is not SoftmaxWithLoss or self.ignore_label is not None:
            return super().recorded(y, t, metrics, at, divisor)
        class_weight = self._on_device.like(y, y.dtype)
        x, labels, _ = self._rows(y, t)
        divisor = divisor if divisor is None else divisor * math.prod(y.shape[1:-1])
        dx = softmax_cross_entropy_recorded(x, labels, metrics, at, class_weight, self.label_smoothing, divisor)
        return dx if y.ndim == 2 else array_namespace(dx).reshape(dx, tuple(y.shape))

    def output(self, y: Array) -> Array:
        return softmax(y)

    def count_correct(self, y: Array, t: Array, weight: Array | None = None) -> Array:
        return count_correct(*self._rows(y, t, weight))

    def classes(self, y: Array, t: Array) -> tuple[Array, Array]:
        argmax = array_namespace(y).argmax
        return argmax(y, axis=-1), t if t.ndim == y.ndim - 1 else argmax(t, axis=-1)

    def _rows(self, y: Array, t: Array, weight: Array | None = None) -> tuple[Array, Array, Array | None]:
        """Return every position as a row: logits (rows, classes), targets, and weights (rows,) or None."""
        if y.ndim == 2 and self.ignore_label is None:
            return y, t, weight
        x, targets = self.positions(y, t)
        if self.ignore_label is not None:
            targets = self._labels(t)
        return x, targets, self._weights(t, weight, y.dtype)

    def _labels(self, t: Array) -> Array:
        """Return the labels of all positions, with 0 for those that are left out; rows of probabilities as they are.

        t: as `target` returns it.
        """
        xp = array_namespace(t)
        if not xp.isdtype(t.dtype, "integral"):
            return t
        counted = self.is_counted(t)
        labels = t if counted is None else t * xp.astype(counted, t.dtype)
        return xp.reshape(labels, (math.prod(t.shape),))

    def _weights(self, t: Array, weight: Array | None, dtype: Any = None) -> Array | None:
        """Return the weight of every position, or None if all are 1. weight: (n,), of the rows."""
        xp, counted, places = array_namespace(t), self.is_counted(t), _places(t)
        weights = weight if weight is None or places == 1 else xp.repeat(weight, places)
        if counted is None:
            return weights
        like: Any = self._one.like(t) if weight is None else weight
        ones = xp.astype(xp.reshape(counted, (math.prod(t.shape),)), dtype or like.dtype)
        return ones if weights is None else ones * weights

    def target(self, t: Any, n: int, shape: Shape, on: Backend, dtype: str) -> Array:
        if not shape:
            raise ValueError(f"{self} takes rows of class scores, but the network's output rows have shape {shape}")
        *axes, classes = shape
        if self.class_weight is not None and len(self.class_weight) != classes:
            raise ValueError(f"{self}: class_weight has {len(self.class_weight)} numbers for {classes} classes")
        for constant in (self._on_device, self._one):  # made now, because a recorded step must not allocate them
            constant.like(on.zeros((1,), dtype), on.dtype(dtype))
        labels = on.asarray(t, argument="t")
        if tuple(labels.shape) == (n, *axes, classes):
            if self.ignore_label is not None:
                raise ValueError(f"t: {self} with an ignore_label takes integer labels, got shape {labels.shape}")
            rows = on.asarray(labels, dtype)
            if not on.xp.all(on.xp.isfinite(rows)):
                raise ValueError("t: one-hot rows contain NaN or infinity")
            return rows
        if labels.ndim == 1 + len(axes) and labels.shape[0] != n:
            raise ValueError(f"x has {n} rows, but t has {labels.shape[0]}")
        if tuple(labels.shape) != (n, *axes):
            raise ValueError(
                f"t: expected {(n, *axes)} integer labels or {(n, *axes, classes)} one-hot rows, "
                f"got shape {tuple(labels.shape)}"
            )
        if not on.xp.isdtype(labels.dtype, "integral"):
            raise ValueError(f"t: labels must be integers, got dtype {labels.dtype}")
        if 0 in labels.shape:
            raise ValueError(f"t is empty: expected at least one label, got shape {tuple(labels.shape)}")
        labels = on.asarray(labels, "int64")
        valid = self._labels(labels)
        low, high = int(on.xp.min(valid)), int(on.xp.max(valid))
        if low < 0 or high >= classes:
            raise ValueError(f"t: labels must lie in 0 to {classes - 1}, got {low} to {high}")
        return labels


def _places(t: Array) -> int:
    """Return how many positions a row of targets has, labels or rows of probabilities."""
    return math.prod(t.shape[1:] if array_namespace(t).isdtype(t.dtype, "integral") else t.shape[1:-1])


class _Elementwise(Loss):
    """Base class of losses of single elements. t: the shape of y, or (n,) for outputs of one column."""

    def target(self, t: Any, n: int, shape: Shape, on: Backend, dtype: str) -> Array:
        targets = on.asarray(t, dtype, "t")
        if targets.ndim > 0 and targets.shape[0] != n:
            raise ValueError(f"x has {n} rows, but t has {targets.shape[0]}")
        if tuple(targets.shape) == (n,) and shape == (1,):
            targets = on.xp.reshape(targets, (n, 1))
        if tuple(targets.shape) != (n, *shape):
            raise ValueError(f"t: expected shape {(n, *shape)}, as the network's output, got {tuple(targets.shape)}")
        if not on.xp.all(on.xp.isfinite(targets)):
            raise ValueError("t contains NaN or infinity")
        return targets


@dataclass(eq=False)
class SigmoidWithLoss(_Elementwise):
    """Computes the binary cross entropy of sigmoid(y), the mean over all elements. Each column is a yes-or-no answer.

    y: (n, ...) logits. t: 0, 1 or a probability for each element, in the shape of y, or (n,) for outputs of one column.
    A row is correct if every element is on the correct side of 1/2. For one column this is the usual accuracy, for
    several the fraction of rows without a mistake (exact match).
    pos_weight: the weight of the positive terms, a positive number or one for each column of the last axis, as in
    PyTorch's binary_cross_entropy_with_logits. Raises ValueError for a weight that is not positive and finite.
    """

    pos_weight: float | Sequence[float] | None = None

    classifies = True

    def __post_init__(self) -> None:
        if self.pos_weight is not None:
            values = [self.pos_weight] if _is_number(self.pos_weight) else self.pos_weight
            values = _numbers("SigmoidWithLoss: pos_weight", values)
            if min(values) <= 0:
                raise ValueError(f"SigmoidWithLoss: pos_weight must be positive, got {self.pos_weight!r}")
            self.pos_weight = values[0] if _is_number(self.pos_weight) else values
            self._on_device = _Constant(values)
        else:
            self._on_device = _Constant(None)

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        self._t, self._weight, self._divisor = t, weight, divisor
        self._pos_weight = self._on_device.like(y, y.dtype)
        loss, self._y = sigmoid_cross_entropy(y, t, weight, self._pos_weight, divisor)
        return loss

    def rows(self, y: Array, t: Array) -> Array:
        return sigmoid_cross_entropy_rows(y, t, None, self._on_device.like(y, y.dtype))

    def backward(self) -> Array:
        return sigmoid_cross_entropy_backward(self._y, self._t, self._weight, self._pos_weight, self._divisor)

    def output(self, y: Array) -> Array:
        return sigmoid(y)

    def count_correct(self, y: Array, t: Array, weight: Array | None = None) -> Array:
        return count_correct_multilabel(y, t, weight)

    def classes(self, y: Array, t: Array) -> tuple[Array, Array] | None:
        if tuple(y.shape[1:]) != (1,):
            return None
        xp = array_namespace(y)
        return xp.astype(y[:, 0] > 0.0, xp.int64), xp.astype(t[:, 0] > 0.5, xp.int64)

    def target(self, t: Any, n: int, shape: Shape, on: Backend, dtype: str) -> Array:
        if isinstance(self.pos_weight, list) and (not shape or len(self.pos_weight) != shape[-1]):
            raise ValueError(f"{self}: pos_weight has {len(self.pos_weight)} numbers for output rows of shape {shape}")
        self._on_device.like(
            on.zeros((1,), dtype), on.dtype(dtype)
        )  # made now, because a recorded step must not allocate it
        targets, xp = super().target(t, n, shape, on, dtype), on.xp
        if xp.any((targets < 0.0) | (targets > 1.0)):
            low, high = float(xp.min(targets)), float(xp.max(targets))
            raise ValueError(f"t: {self} takes targets from 0 to 1, got {low} to {high}")
        return targets


@dataclass(eq=False)
class MeanSquaredError(_Elementwise):
    """Computes mean((y - t)^2) over all elements of the batch. t: the shape of y, or (n,) for outputs of one column."""

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        self._y, self._t, self._weight, self._divisor = y, t, weight, divisor
        return mean_squared_error(y, t, weight, divisor)

    def rows(self, y: Array, t: Array) -> Array:
        return squared_error_rows(y, t)

    def backward(self) -> Array:
        return mean_squared_error_backward(self._y, self._t, self._weight, self._divisor)


@dataclass(eq=False)
class MeanAbsoluteError(_Elementwise):
    """Computes mean(|y - t|) over all elements of the batch. t: the shape of y, or (n,) for outputs of one column."""

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        self._y, self._t, self._weight, self._divisor = y, t, weight, divisor
        return mean_absolute_error(y, t, weight, divisor)

    def rows(self, y: Array, t: Array) -> Array:
        return absolute_error_rows(y, t)

    def backward(self) -> Array:
        return mean_absolute_error_backward(self._y, self._t, self._weight, self._divisor)


@dataclass(eq=False)
class Huber(_Elementwise):
    """Computes the mean over all elements of d^2 / 2 if |d| <= delta, else delta (|d| - delta / 2), with d = y - t.

    Large errors count linearly, so that outliers weigh less than in a squared error (Huber 1964).
    t: the shape of y, or (n,) for outputs of one column. Raises ValueError for a delta that is not positive and finite.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not _is_number(self.delta) or not 0 < self.delta < math.inf:
            raise ValueError(f"Huber: delta must be positive and finite, got {self.delta!r}")

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        self._y, self._t, self._weight, self._divisor = y, t, weight, divisor
        return huber(y, t, weight, self.delta, divisor)

    def rows(self, y: Array, t: Array) -> Array:
        return huber_rows(y, t, None, self.delta)

    def backward(self) -> Array:
        return huber_backward(self._y, self._t, self._weight, self.delta, self._divisor)


@dataclass(eq=False)
class QuantileLoss(_Elementwise):
    """Computes the mean over all elements of q (t - y) if y <= t, else (1 - q) (y - t).

    The mean is smallest if y is the quantile q of the targets (Koenker, Bassett 1978). t: the shape of y, or (n,) for
    outputs of one column.
    Raises ValueError for a quantile that is not between 0 and 1.
    """

    quantile: float = 0.5

    def __post_init__(self) -> None:
        if not _is_number(self.quantile) or not 0 < self.quantile < 1:
            raise ValueError(f"QuantileLoss: quantile must lie between 0 and 1, got {self.quantile!r}")

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        self._y, self._t, self._weight, self._divisor = y, t, weight, divisor
        return quantile_loss(y, t, weight, self.quantile, divisor)

    def rows(self, y: Array, t: Array) -> Array:
        return quantile_loss_rows(y, t, None, self.quantile)

    def backward(self) -> Array:
        return quantile_loss_backward(self._y, self._t, self._weight, self.quantile, self._divisor)


class _Constant:
    """Holds the numbers of a setting as arrays, one for each kind, device and dtype of data; None stays None.

    No array is ever freed, because a recorded step may hold its address.
    """

    def __init__(self, values: Sequence[float] | None):
        self._values = values
        self._arrays: list[Array] = []

    def like(self, x: Array, dtype: Any = None) -> Array | None:
        """Return the numbers as an array of x's kind, on its device, in `dtype` (None: any floating dtype)."""
        if self._values is None:
            return None
        for a in self._arrays:
            if type(a) is type(x) and a.device == x.device and (dtype is None or a.dtype == dtype):
                return a
        a = array_namespace(x).asarray(self._values, dtype=dtype, device=device(x))
        self._arrays.append(a)
        return a


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _numbers(argument: str, values: Any) -> list[float]:
    """Return values as a list of floats. Raise ValueError if they are not a sequence of finite numbers."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"{argument} must be a list of numbers, got {values!r}")
    if not all(_is_number(value) and math.isfinite(value) for value in values):
        raise ValueError(f"{argument} must hold finite numbers, got {values!r}")
    return [float(value) for value in values]
