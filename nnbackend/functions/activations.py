"""Activations. Each function is followed by its backward, which reads the forward's output y, or its input x."""

from __future__ import annotations

import math

from nnbackend.functions.array import Array, array_namespace
from nnbackend.functions.dispatch import floating

_GELU_SCALE = math.sqrt(2.0 / math.pi)
# From there on a function and its derivative are, in every dtype, what they are at infinity. Infinity itself, or a
# power of a large number, times the 0 of an exponential would be no number.
_GELU_END, _SILU_END = 20.0, 2e4


@floating
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), elementwise; x: any shape, floating. exp only ever sees -|x|, so nothing overflows."""
    xp = array_namespace(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1.0, e) / (1.0 + e)


@floating
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """dx = dy y (1 - y)."""
    return dy * y * (1.0 - y)


@floating
def relu(x: Array) -> Array:
    """max(x, 0), elementwise; x: any shape, floating."""
    return array_namespace(x).maximum(x, 0.0)


@floating
def relu_backward(dy: Array, y: Array) -> Array:
    """dx = dy where y > 0, else 0 (0 is taken as the derivative at the kink)."""
    return array_namespace(dy).where(y > 0, dy, 0.0)


@floating
def leaky_relu(x: Array, alpha: float = 0.01) -> Array:
    """x where x > 0, else alpha x, elementwise; 0 <= alpha <= 1. Maas, Hannun, Ng (2013)."""
    return array_namespace(x).maximum(x, alpha * x) if alpha else relu(x)


@floating
def leaky_relu_backward(dy: Array, y: Array, alpha: float = 0.01) -> Array:
    """dx = dy where y > 0, else alpha dy."""
    return array_namespace(dy).where(y > 0, dy, alpha * dy)


@floating
def tanh(x: Array) -> Array:
    """The hyperbolic tangent, elementwise; x: any shape, floating."""
    return array_namespace(x).tanh(x)


@floating
def tanh_backward(dy: Array, y: Array) -> Array:
    """dx = dy (1 - y^2)."""
    return dy * (1.0 - y * y)


@floating
def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha (exp(x) - 1), elementwise; alpha >= 0. Clevert, Unterthiner, Hochreiter (2016)."""
    xp = array_namespace(x)
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0.0)))


@floating
def elu_backward(dy: Array, y: Array, alpha: float = 1.0) -> Array:
    """dx = dy where y > 0, else dy (y + alpha)."""
    return array_namespace(dy).where(y > 0, dy, dy * (y + alpha))


@floating
def silu(x: Array) -> Array:
    """x sigmoid(x), elementwise. Elfwing, Uchibe, Doya (2018); also called swish."""
    return array_namespace(x).maximum(x, -_SILU_END) * sigmoid(x)


@floating
def silu_backward(dy: Array, x: Array) -> Array:
    """dx = dy s (1 + x (1 - s)) with s = sigmoid(x)."""
    s = sigmoid(x)
    return dy * s * (1.0 + _within(x, _SILU_END) * (1.0 - s))


@floating
def gelu(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), elementwise.

    Hendrycks, Gimpel (2016), in their tanh form: the array API has no error function. It differs from the exact
    x Phi(x) by less than 5e-4.
    """
    u, xp = _gelu_tanh(_within(x, _GELU_END)), array_namespace(x)
    return 0.5 * xp.maximum(x, -_GELU_END) * (1.0 + u)


@floating
def gelu_backward(dy: Array, x: Array) -> Array:
    """dx = dy (1 + u + x (1 - u^2) u') / 2 with u the tanh of the forward and u' its argument's derivative."""
    x = _within(x, _GELU_END)
    u = _gelu_tanh(x)
    slope = _GELU_SCALE * (1.0 + 3 * 0.044715 * x * x)
    return dy * (0.5 * (1.0 + u) + 0.5 * x * (1.0 - u * u) * slope)


def _gelu_tanh(x: Array) -> Array:
    return array_namespace(x).tanh(_GELU_SCALE * (x + 0.044715 * x * x * x))


def _within(x: Array, end: float) -> Array:
    """x, cut to [-end, end]; a NaN stays one."""
    xp = array_namespace(x)
    return xp.minimum(xp.maximum(x, -end), end)


@floating
def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis; shifted by the row's maximum, so that exp cannot overflow."""
    xp = array_namespace(x)
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


@floating
def softmax_backward(dy: Array, y: Array) -> Array:
    """dx = y (dy - sum(dy y)), the sum over the last axis."""
    xp = array_namespace(dy)
    return y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))
