"""Activations. Each function is followed by its backward, which reads the output `y` that the forward returned."""

from __future__ import annotations

from functools import singledispatch

from nnbackend.functions.array import Array, array_namespace


@singledispatch
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise; x: any shape, floating. exp only ever sees -|x|, so nothing overflows."""
    xp = array_namespace(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1.0, e) / (1.0 + e)


@singledispatch
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """dx = dy y (1 - y)."""
    return dy * y * (1.0 - y)


@singledispatch
def relu(x: Array) -> Array:
    """max(x, 0), elementwise; x: any shape, floating."""
    return array_namespace(x).maximum(x, 0.0)


@singledispatch
def relu_backward(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0, else 0 (0 is taken as the derivative at the kink)."""
    return array_namespace(dy).where(y > 0, dy, 0.0)


@singledispatch
def leaky_relu(x: Array, alpha: float = 0.01) -> Array:
    """x where x > 0, else alpha x, elementwise; 0 <= alpha <= 1. Maas, Hannun, Ng (2013)."""
    return array_namespace(x).maximum(x, alpha * x)


@singledispatch
def leaky_relu_backward(dy: Array, y: Array, alpha: float = 0.01) -> Array:
    """dx = dy where y > 0, else alpha dy."""
    return array_namespace(dy).where(y > 0, dy, alpha * dy)


@singledispatch
def tanh(x: Array) -> Array:
    """The hyperbolic tangent, elementwise; x: any shape, floating."""
    return array_namespace(x).tanh(x)


@singledispatch
def tanh_backward(dy: Array, y: Array) -> Array:
    """dx = dy (1 - y^2)."""
    return dy * (1.0 - y * y)


@singledispatch
def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis; shifted by the row's maximum, so that exp cannot overflow."""
    xp = array_namespace(x)
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


@singledispatch
def softmax_backward(dy: Array, y: Array) -> Array:
    """dx = y (dy - sum(dy y)), the sum over the last axis."""
    xp = array_namespace(dy)
    return y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))
