"""Losses: each returns the mean over the batch, and is followed by its gradient."""

from __future__ import annotations

from functools import singledispatch

from nnbackend.functions.activations import softmax
from nnbackend.functions.array import Array, array_namespace, one_hot


@singledispatch
def softmax_cross_entropy_rows(x: Array, t: Array) -> Array:
    """-sum t log softmax(x) of every row: (n,).

    x: (n, classes) logits, floating. t: (n,) integer labels in [0, classes), or (n, classes) one-hot rows (any
    rows of weights that sum to 1). The logarithm is taken of the shifted sum and never of a probability, so nothing
    becomes infinite.
    """
    xp = array_namespace(x)
    target = one_hot(t, x.shape[1], x.dtype) if t.ndim == 1 else xp.astype(t, x.dtype)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    log_total = xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
    return xp.sum(target * (log_total - shifted), axis=-1)


@singledispatch
def softmax_cross_entropy(x: Array, t: Array) -> tuple[Array, Array]:
    """The mean of `softmax_cross_entropy_rows`, a 0-d array; and softmax(x), which the backward reads."""
    return array_namespace(x).mean(softmax_cross_entropy_rows(x, t)), softmax(x)


@singledispatch
def softmax_cross_entropy_backward(y: Array, t: Array) -> Array:
    """dx = (softmax(x) - t) / n. y: the softmax that the forward returned; t as there."""
    target = one_hot(t, y.shape[1], y.dtype) if t.ndim == 1 else array_namespace(y).astype(t, y.dtype)
    return (y - target) / y.shape[0]


@singledispatch
def squared_error_rows(y: Array, t: Array) -> Array:
    """The mean of (y - t)^2 over every axis but the first: (n,). y, t: the same shape, (n, ...)."""
    xp = array_namespace(y)
    return xp.mean(xp.reshape((y - t) ** 2, (y.shape[0], -1)), axis=-1)


@singledispatch
def mean_squared_error(y: Array, t: Array) -> Array:
    """mean((y - t)^2) over all elements, a 0-d array. y, t: the same shape."""
    return array_namespace(y).mean((y - t) ** 2)


@singledispatch
def mean_squared_error_backward(y: Array, t: Array) -> Array:
    """dy = 2 (y - t) / the number of elements."""
    size = 1
    for length in y.shape:
        size *= length
    return (y - t) * (2.0 / size)


@singledispatch
def count_correct(y: Array, t: Array) -> Array:
    """How many rows of y, (n, classes), have their largest element where t says: a 0-d integer array.

    t: (n,) integer labels or (n, classes) one-hot rows.
    """
    xp = array_namespace(y)
    labels = t if t.ndim == 1 else xp.argmax(t, axis=-1)
    return xp.sum(xp.astype(xp.argmax(y, axis=-1) == labels, xp.int64))
