"""The book's common.functions."""

from __future__ import annotations

from typing import Any

from nnbackend import functions as F
from nnbackend.functions import relu, sigmoid, softmax
from nnbackend.functions.array import Array, array_namespace, one_hot

__all__ = [
    "cross_entropy_error",
    "identity_function",
    "mean_squared_error",
    "relu",
    "relu_grad",
    "sigmoid",
    "sigmoid_grad",
    "softmax",
    "softmax_loss",
    "step_function",
    "sum_squared_error",
]


def identity_function(x: Array) -> Array:
    """x."""
    return x


def step_function(x: Array) -> Array:
    """1 where x > 0, else 0, as integers."""
    xp = array_namespace(x)
    return xp.astype(x > 0, xp.int64)


def sigmoid_grad(x: Array) -> Array:
    """The derivative of the sigmoid at x."""
    y = F.sigmoid(x)
    return F.sigmoid_backward(array_namespace(x).ones_like(x), y)


def relu_grad(x: Array) -> Array:
    """The derivative of ReLU at x: 1 where x >= 0, as the book has it, else 0."""
    xp = array_namespace(x)
    return xp.astype(x >= 0, x.dtype)


def mean_squared_error(y: Array, t: Array) -> Array:
    """sum((y - t)^2) / 2 over all elements: the book's "mean" is no mean (`sum_squared_error` in later printings)."""
    return 0.5 * array_namespace(y).sum((y - t) ** 2)


sum_squared_error = mean_squared_error


def cross_entropy_error(y: Array, t: Array) -> Array:
    """-sum(log(y + 1e-7) at t) / n for probabilities y; t: labels, or one-hot rows of the shape of y."""
    xp = array_namespace(y)
    y = xp.reshape(y, (1, -1)) if y.ndim == 1 else y
    n, classes = y.shape
    rows = t.ndim > 0 and t.shape[-1] == classes and (t.ndim == 2 or n == 1)
    target = xp.reshape(t, (n, classes)) if rows else one_hot(xp.reshape(t, (-1,)), classes, y.dtype)
    return -xp.sum(xp.astype(target, y.dtype) * xp.log(y + 1e-7)) / n


def softmax_loss(X: Array, t: Any) -> Array:
    """The cross entropy error of softmax(X)."""
    return cross_entropy_error(softmax(X), t)
