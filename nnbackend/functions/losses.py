"""Losses. Of each there is the loss of every row, the mean over the batch, and the gradient of that mean.

All take `weight`, (n,) numbers of at least 0 in the dtype of the first argument: the rows are then w_i l_i, and the
mean is sum(w_i l_i) / sum(w_i), which is PyTorch's meaning of a weighted mean. A batch without any weight has the mean
0 and the gradient 0. Without `weight` the mean is the plain one.

A mean divides by `divisor`, a number, if it is given. For a batch of n rows out of a larger set it should be n times
the mean weight in the whole set: then a weight of k counts like k rows, however small the batch. The batch's own sum of
weights, which serves by default, is for a batch that is the whole set.
"""

from __future__ import annotations

import math
from functools import singledispatch

from nnbackend.functions.activations import sigmoid, softmax
from nnbackend.functions.array import Array, array_namespace, one_hot

# --- classes -----------------------------------------------------------------------------------------------------


@singledispatch
def softmax_cross_entropy_rows(
    x: Array, t: Array, weight: Array | None = None, class_weight: Array | None = None, label_smoothing: float = 0.0
) -> Array:
    """-sum c q log softmax(x) of every row: (n,), with q = (1 - label_smoothing) t + label_smoothing / classes.

    x: (n, classes) logits, floating. t: (n,) integer labels in [0, classes), or (n, classes) one-hot rows (any
    rows of weights that sum to 1). class_weight: (classes,), the c above. Label smoothing: Szegedy et al. 2016,
    section 7. The logarithm is taken of the shifted sum and never of a probability, so nothing becomes infinite.
    A label outside of the classes raises ValueError on NumPy; on a device, which is not asked within a step, it makes
    the loss of its row and the gradient NaN.
    """
    xp = array_namespace(x)
    target = _class_target(x, t, class_weight, label_smoothing)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    log_total = xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
    rows = xp.sum(target * (log_total - shifted), axis=-1)
    return rows if weight is None else weight * rows


@singledispatch
def softmax_cross_entropy_variants(
    y: Array, dx: Array, W: Array, t: Array, class_weight: Array | None = None, label_smoothing: float = 0.0
) -> Array:
    """`softmax_cross_entropy_rows` of k variants of y: variant i has the logits y + dx[:, i] W[i, :].

    y: (n, classes); dx: (n, k); W: (k, classes); the rest as there. Returns (n, k).
    """
    xp, (n, k) = array_namespace(y), dx.shape
    # column-major, so that the softmax works along the long axis
    logits = xp.reshape(W.T[:, None, :] * dx[None, :, :] + y.T[:, :, None], (y.shape[1], n * k)).T
    rows = softmax_cross_entropy_rows(logits, xp.repeat(t, k, axis=0), None, class_weight, label_smoothing)
    return xp.reshape(rows, (n, k))


@singledispatch
def softmax_cross_entropy(
    x: Array,
    t: Array,
    weight: Array | None = None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> tuple[Array, Array]:
    """The mean of `softmax_cross_entropy_rows`, a 0-d array; and softmax(x), which the backward reads.

    As in PyTorch, the class weight of a label is a weight of its row: the mean divides by `total_weight`. One-hot
    rows may spread over classes of different weights, so there the class weights do not enter what it divides by.
    """
    xp = array_namespace(x)
    rows = softmax_cross_entropy_rows(x, t, weight, class_weight, label_smoothing)
    if divisor is not None:
        return xp.sum(rows) / divisor, softmax(x)
    if weight is None and class_weight is None:
        return xp.mean(rows), softmax(x)
    return fraction(xp.sum(rows), total_weight(t, weight, class_weight)), softmax(x)


@singledispatch
def softmax_cross_entropy_backward(
    y: Array,
    t: Array,
    weight: Array | None = None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Array:
    """dx = (softmax(x) sum(c q) - c q) w_i / total_weight, which is (softmax(x) - t) / n without settings.

    y: the softmax that the forward returned; the rest as there.
    """
    xp = array_namespace(y)
    target = _class_target(y, t, class_weight, label_smoothing)
    dx = y - target if class_weight is None else y * xp.sum(target, axis=-1, keepdims=True) - target
    if weight is not None:
        dx = dx * weight[:, None]
    return fraction(dx, total_weight(t, weight, class_weight)) if divisor is None else dx / divisor


def _class_target(x: Array, t: Array, class_weight: Array | None, label_smoothing: float) -> Array:
    """The factor of every -log softmax(x): c q, (n, classes)."""
    xp = array_namespace(x)
    target = one_hot(t, x.shape[1], x.dtype) if t.ndim == 1 else xp.astype(t, x.dtype, copy=False)
    if label_smoothing:
        target = (1.0 - label_smoothing) * target + label_smoothing / x.shape[1]
    return target if class_weight is None else class_weight * target


@singledispatch
def count_correct(y: Array, t: Array, weight: Array | None = None) -> Array:
    """How many rows of y, (n, classes), have their largest element where t says: a 0-d integer array.

    t: (n,) integer labels or (n, classes) one-hot rows. With `weight` it is the sum of those rows' weights.
    """
    xp = array_namespace(y)
    labels = t if t.ndim == 1 else xp.argmax(t, axis=-1)
    return _count(xp.argmax(y, axis=-1) == labels, weight)


# --- yes or no ---------------------------------------------------------------------------------------------------


@singledispatch
def sigmoid_cross_entropy_rows(
    x: Array, t: Array, weight: Array | None = None, pos_weight: Array | None = None
) -> Array:
    """The mean of -(p t log s + (1 - t) log(1 - s)), s = sigmoid(x), over every axis but the first: (n,).

    x: (n, ...) logits, floating; t: the same shape, 0, 1 or a probability. pos_weight: the p above, a 0-d array or
    what broadcasts against a row. Neither logarithm is taken of a probability, so nothing becomes infinite.
    """
    xp = array_namespace(x)
    t = xp.astype(t, x.dtype, copy=False)
    tail = xp.log1p(xp.exp(-xp.abs(x)))  # -log sigmoid(|x|)
    if pos_weight is None:
        return _rows(xp.maximum(x, 0.0) - x * t + tail, weight)
    positive = pos_weight * t
    return _rows(positive * (xp.maximum(-x, 0.0) + tail) + (1.0 - t) * (xp.maximum(x, 0.0) + tail), weight)


@singledispatch
def sigmoid_cross_entropy(
    x: Array, t: Array, weight: Array | None = None, pos_weight: Array | None = None, divisor: float | None = None
) -> tuple[Array, Array]:
    """The mean of `sigmoid_cross_entropy_rows`, a 0-d array; and sigmoid(x), which the backward reads."""
    return _mean(sigmoid_cross_entropy_rows(x, t, weight, pos_weight), weight, divisor), sigmoid(x)


@singledispatch
def sigmoid_cross_entropy_backward(
    y: Array, t: Array, weight: Array | None = None, pos_weight: Array | None = None, divisor: float | None = None
) -> Array:
    """dx = (y - t) / the number of elements; with pos_weight p, (1 - t) y - p t (1 - y) in place of y - t.

    y: the sigmoid that the forward returned; the rest as there.
    """
    t = array_namespace(y).astype(t, y.dtype, copy=False)
    dx = y - t if pos_weight is None else (1.0 - t) * y - pos_weight * t * (1.0 - y)
    return dx * _shares(y, weight, divisor)


@singledispatch
def count_correct_multilabel(y: Array, t: Array, weight: Array | None = None) -> Array:
    """How many rows of logits y have every element on the side that t says (y > 0 where t > 1/2): 0-d, integer.

    y, t: the same shape, (n, ...). With `weight` it is the sum of those rows' weights.
    """
    xp = array_namespace(y)
    right = xp.reshape((y > 0.0) == (t > 0.5), (y.shape[0], -1))
    return _count(xp.all(right, axis=-1), weight)


# --- numbers -----------------------------------------------------------------------------------------------------


@singledispatch
def squared_error_rows(y: Array, t: Array, weight: Array | None = None) -> Array:
    """The mean of (y - t)^2 over every axis but the first: (n,). y, t: the same shape, (n, ...)."""
    return _rows((y - t) ** 2, weight)


@singledispatch
def mean_squared_error(y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
    """mean((y - t)^2) over all elements, a 0-d array. y, t: the same shape."""
    if weight is None and divisor is None:
        return array_namespace(y).mean((y - t) ** 2)
    return _mean(squared_error_rows(y, t, weight), weight, divisor)


@singledispatch
def mean_squared_error_backward(y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
    """dy = 2 (y - t) / the number of elements."""
    return (y - t) * (2.0 * _shares(y, weight, divisor))


@singledispatch
def absolute_error_rows(y: Array, t: Array, weight: Array | None = None) -> Array:
    """The mean of |y - t| over every axis but the first: (n,). y, t: the same shape, (n, ...)."""
    return _rows(array_namespace(y).abs(y - t), weight)


@singledispatch
def mean_absolute_error(y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
    """mean(|y - t|) over all elements, a 0-d array. y, t: the same shape."""
    return _mean(absolute_error_rows(y, t, weight), weight, divisor)


@singledispatch
def mean_absolute_error_backward(
    y: Array, t: Array, weight: Array | None = None, divisor: float | None = None
) -> Array:
    """dy = sign(y - t) / the number of elements (0 is taken as the derivative at the kink)."""
    return array_namespace(y).sign(y - t) * _shares(y, weight, divisor)


@singledispatch
def huber_rows(y: Array, t: Array, weight: Array | None = None, delta: float = 1.0) -> Array:
    """The mean over every axis but the first, (n,), of d^2 / 2 where |d| = |y - t| <= delta, else
    delta (|d| - delta / 2). y, t: the same shape, (n, ...). Huber 1964.
    """
    xp = array_namespace(y)
    distance = xp.abs(y - t)
    near = xp.minimum(distance, delta)
    return _rows(near * (distance - 0.5 * near), weight)  # nothing is squared that could overflow


@singledispatch
def huber(y: Array, t: Array, weight: Array | None = None, delta: float = 1.0, divisor: float | None = None) -> Array:
    """The mean of `huber_rows`, a 0-d array."""
    return _mean(huber_rows(y, t, weight, delta), weight, divisor)


@singledispatch
def huber_backward(
    y: Array, t: Array, weight: Array | None = None, delta: float = 1.0, divisor: float | None = None
) -> Array:
    """dy = (y - t), cut to [-delta, delta], / the number of elements."""
    xp = array_namespace(y)
    return xp.minimum(xp.maximum(y - t, -delta), delta) * _shares(y, weight, divisor)


@singledispatch
def quantile_loss_rows(y: Array, t: Array, weight: Array | None = None, quantile: float = 0.5) -> Array:
    """The mean over every axis but the first, (n,), of q (t - y) where y <= t, else (1 - q) (y - t), q = quantile.

    y, t: the same shape, (n, ...). Koenker, Bassett 1978: it is least where a share q of the targets lies below y.
    """
    xp = array_namespace(y)
    distance = t - y
    return _rows(xp.maximum(quantile * distance, (quantile - 1.0) * distance), weight)


@singledispatch
def quantile_loss(
    y: Array, t: Array, weight: Array | None = None, quantile: float = 0.5, divisor: float | None = None
) -> Array:
    """The mean of `quantile_loss_rows`, a 0-d array."""
    return _mean(quantile_loss_rows(y, t, weight, quantile), weight, divisor)


@singledispatch
def quantile_loss_backward(
    y: Array, t: Array, weight: Array | None = None, quantile: float = 0.5, divisor: float | None = None
) -> Array:
    """dy = (1 - q where y > t, -q where y < t, 0 at the kink) / the number of elements."""
    xp = array_namespace(y)
    slope = (1.0 - quantile) * xp.astype(y > t, y.dtype) - quantile * xp.astype(y < t, y.dtype)
    return slope * _shares(y, weight, divisor)


# --- the weighted mean -------------------------------------------------------------------------------------------


def total_weight(t: Array, weight: Array | None = None, class_weight: Array | None = None) -> Array | int:
    """What the mean divides by: the sum of the rows' weights, 0-d on the device; without any, the number of rows.

    class_weight, (classes,), counts for integer labels t, (n,), and not for one-hot rows.
    """
    if class_weight is not None and t.ndim == 1:
        of_labels = array_namespace(t).take(class_weight, t, axis=0)
        weight = of_labels if weight is None else weight * of_labels
    return t.shape[0] if weight is None else array_namespace(weight).sum(weight)


def fraction(part: Array, whole: Array | int) -> Array:
    """part / whole, or 0 if the whole is 0 (rows without weight). An int is a number of rows, never 0."""
    if isinstance(whole, int):
        return part / whole
    xp = array_namespace(whole)
    return xp.where(whole == 0.0, 0.0 * part, part / xp.where(whole == 0.0, 1.0, whole))


def _rows(elements: Array, weight: Array | None) -> Array:
    """The mean of every row's elements, times the row's weight."""
    xp = array_namespace(elements)
    rows = xp.mean(xp.reshape(elements, (elements.shape[0], -1)), axis=-1)
    return rows if weight is None else weight * rows


def _mean(rows: Array, weight: Array | None, divisor: float | None) -> Array:
    """The mean of rows that are multiplied by their weights already."""
    xp = array_namespace(rows)
    if divisor is not None:
        return xp.sum(rows) / divisor
    return xp.mean(rows) if weight is None else fraction(xp.sum(rows), xp.sum(weight))


def _shares(y: Array, weight: Array | None, divisor: float | None) -> Array | float:
    """What every element of y, (n, ...), counts in the mean: a number, or one for each row, broadcasting."""
    n, size = y.shape[0], math.prod(y.shape)
    if weight is None:
        return n / size / (n if divisor is None else divisor)
    xp = array_namespace(weight)
    shares = fraction(weight, xp.sum(weight)) if divisor is None else weight / divisor
    return xp.reshape(shares * (n / size), (n,) + (1,) * (y.ndim - 1))


def _count(right: Array, weight: Array | None) -> Array:
    xp = array_namespace(right)
    return xp.sum(xp.astype(right, xp.int64)) if weight is None else xp.sum(xp.where(right, weight, 0.0))
