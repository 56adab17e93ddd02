"""Losses: each returns the mean over the batch, and is followed by its gradient."""

from __future__ import annotations

from functools import singledispatch

from nnbackend.functions.array import Array, array_namespace, one_hot


@singledispatch
def softmax_cross_entropy(x: Array, t: Array) -> tuple[Array, Array]:
    """Cross entropy of softmax(x) against t, and softmax(x) itself, which the backward reads.

    x: (n, classes) logits, floating. t: (n,) integer labels in [0, classes), or (n, classes) one-hot rows (any
    rows of weights that sum to 1). Returns the loss, a 0-d array: -1/n sum t log softmax(x); and y: (n, classes).
    The logarithm is taken of the shifted sum and never of a probability, so nothing becomes infinite.
    """
    xp = array_namespace(x)
    target = one_hot(t, x.shape[1], x.dtype) if t.ndim == 1 else xp.astype(t, x.dtype)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    e = xp.exp(shifted)
    total = xp.sum(e, axis=-1, keepdims=True)
    loss = xp.sum(target * (xp.log(total) - shifted)) / x.shape[0]
    return loss, e / total


@singledispatch
def softmax_cross_entropy_backward(y: Array, t: Array) -> Array:
    """dx = (softmax(x) - t) / n. y: the softmax that the forward returned; t as there."""
    target = one_hot(t, y.shape[1], y.dtype) if t.ndim == 1 else array_namespace(y).astype(t, y.dtype)
    return (y - target) / y.shape[0]


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
