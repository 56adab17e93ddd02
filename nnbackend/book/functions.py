"""Provide the book's common.functions.

Every function takes arrays of any library, lists and plain numbers; `together` says where the result lives. Integers
are computed in float64, as in NumPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnbackend import functions as F
from nnbackend.book.arrays import floating, together
from nnbackend.functions.array import Array, array_namespace, device

# The book's modules have no __all__, so that a star import of them also gives the names that they import.
__all__ = [
    "cross_entropy_error",
    "identity_function",
    "mean_squared_error",
    "np",
    "relu",
    "relu_grad",
    "sigmoid",
    "sigmoid_grad",
    "softmax",
    "softmax_loss",
    "step_function",
    "sum_squared_error",
]


def identity_function(x: Any) -> Any:
    """Return x itself."""
    return x


def step_function(x: Any) -> Array:
    """Return 1 where x > 0, else 0, as integers."""
    (x,) = together(x=x)
    xp = array_namespace(x)
    return _scalar(xp.astype(x > 0, xp.int64))


def sigmoid(x: Any) -> Array:
    """Return 1 / (1 + exp(-x)), elementwise."""
    (x,) = floating(*together(x=x))
    return _scalar(F.sigmoid(x))


def sigmoid_grad(x: Any) -> Array:
    """Return the derivative of the sigmoid at x, elementwise."""
    y = sigmoid(x)
    return (1.0 - y) * y


def relu(x: Any) -> Array:
    """Return max(x, 0), elementwise; integers stay integers."""
    (x,) = together(x=x)
    xp = array_namespace(x)
    return _scalar(F.relu(x) if xp.isdtype(x.dtype, "real floating") else xp.where(x > 0, x, xp.zeros_like(x)))


def relu_grad(x: Any) -> Array:
    """Return 1 where x >= 0, as the book has it, else 0, in the dtype of x."""
    (x,) = together(x=x)
    return _scalar(array_namespace(x).astype(x >= 0, x.dtype))


def softmax(x: Any) -> Array:
    """Return exp(x) / sum(exp(x)) over the last axis. Raises ValueError for an x without an axis."""
    (x,) = floating(*together(x=x))
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got a number")
    return F.softmax(x)


def sum_squared_error(y: Any, t: Any) -> Array:
    """Return sum((y - t)^2) / 2 over all elements."""
    y, t = floating(*together(y=y, t=t))
    return 0.5 * array_namespace(y).sum((y - t) ** 2)


mean_squared_error = sum_squared_error  # the name in the book's first printings, although it is not a mean


def cross_entropy_error(y: Any, t: Any) -> Array:
    """Return -sum(log(y[i, t[i]] + 1e-7)) / n, where i goes over the n rows of y.

    y: probabilities, (n, classes) or (classes,). t: integer labels, (n,) or (n, 1); or rows of the shape of y, whose
    largest element is the label. The 1e-7 is the book's: it keeps the logarithm finite and changes the loss of a row
    by at most 1e-7 / y. `nnbackend.functions` computes the logarithm from the scores instead and adds nothing.

    Raises ValueError for a y without rows, for a t whose shape does not fit y and for labels that are no class of y;
    TypeError for labels that are not integers.
    """
    y, t = together(y=y, t=t)
    (y,) = floating(y)
    xp = array_namespace(y)
    y = xp.reshape(y, (1, -1)) if y.ndim == 1 else y
    n, classes = y.shape
    if n == 0:
        raise ValueError(f"y: expected at least one row, got shape {tuple(y.shape)}")
    places = labels(y, t) + xp.arange(0, n * classes, classes, dtype=xp.int64, device=device(y))
    at_label = xp.take(xp.reshape(y, (-1,)), places, axis=0)
    return -xp.sum(xp.log(at_label + 1e-7)) / int(n)


def softmax_loss(X: Any, t: Any) -> Array:
    """Return the cross entropy error of softmax(X)."""
    return cross_entropy_error(softmax(X), t)


def labels(y: Array, t: Array) -> Array:
    """Return the label of each row of y, (n, classes), as int64.

    t: the labels, or an array of the shape of y whose largest element in each row is at the label. Raises as
    `cross_entropy_error`.
    """
    xp = array_namespace(t)
    n, classes = y.shape
    if are_rows(y, t):
        return xp.argmax(xp.astype(xp.reshape(t, (n, classes)), y.dtype), axis=1)
    if math.prod(t.shape) != n or t.ndim > 2:
        shape = tuple(t.shape)
        raise ValueError(f"t: expected {n} labels or rows of shape ({n}, {classes}), got shape {shape}")
    if not xp.isdtype(t.dtype, "integral"):
        raise TypeError(f"t: expected integer labels, got dtype {t.dtype}")
    t = xp.astype(xp.reshape(t, (n,)), xp.int64)
    if not 0 <= int(xp.min(t)) <= int(xp.max(t)) < classes:
        found = f"from {int(xp.min(t))} to {int(xp.max(t))}"
        raise ValueError(f"t: expected labels from 0 to {classes - 1}, one for each column of y, got labels {found}")
    return t


def are_rows(y: Array, t: Array) -> bool:
    """Say whether t holds a number for each element of y, and not labels. The book decides this by the size."""
    return bool(t.ndim) and t.shape[-1] == y.shape[1] and math.prod(t.shape) == math.prod(y.shape)


def _scalar(y: Array) -> Array:
    """Return an array without axes as a scalar, like NumPy's functions, and any other array as it is."""
    return y if y.ndim else y[()]
