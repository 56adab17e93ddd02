"""Normalisation over the batch and over the features; features (channels) are the last axis."""

from __future__ import annotations

import math

from nnbackend.functions.array import Array, array_namespace
from nnbackend.functions.dispatch import floating


@floating
def batch_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array, Array, Array]:
    """y = gamma x_hat + beta with x_hat = (x - mean) / sqrt(var + eps), over every axis but the last.

    Ioffe, Szegedy (2015), algorithm 1. x: (n, ..., c); gamma, beta: (c,). Returns y and x_hat, the shape of x, and
    1 / sqrt(var + eps), mean and the (biased) var, (c,).
    """
    xp = array_namespace(x)
    over = tuple(range(x.ndim - 1))
    mean = xp.mean(x, axis=over)
    centred = x - mean
    var = xp.mean(centred * centred, axis=over)
    scale = 1.0 / xp.sqrt(var + eps)
    x_hat = centred * scale
    return gamma * x_hat + beta, x_hat, scale, mean, var


@floating
def batch_normalization_backward(
    dy: Array, x_hat: Array, gamma: Array, scale: Array, dgamma: Array, dbeta: Array
) -> Array:
    """Write dgamma = sum(dy x_hat) and dbeta = sum(dy) into the given arrays; return
    dx = gamma scale (dy - mean(dy) - x_hat mean(dy x_hat)), all over every axis but the last.
    """
    xp = array_namespace(dy)
    over = tuple(range(dy.ndim - 1))
    dgamma[...] = xp.sum(dy * x_hat, axis=over)
    dbeta[...] = xp.sum(dy, axis=over)
    rows = math.prod(dy.shape[:-1])
    return (gamma * scale) * (dy - dbeta / rows - x_hat * (dgamma / rows))


@floating
def layer_normalization(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """y = gamma x_hat + beta with x_hat = (x - mean) / sqrt(var + eps), over the last axis.

    Ba, Kiros, Hinton (2016). x: (n, ..., c); gamma, beta: (c,). Returns y and x_hat, the shape of x, and
    1 / sqrt(var + eps), (n, ..., 1).
    """
    xp = array_namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    scale = 1.0 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    x_hat = centred * scale
    return gamma * x_hat + beta, x_hat, scale


@floating
def layer_normalization_backward(
    dy: Array, x_hat: Array, gamma: Array, scale: Array, dgamma: Array, dbeta: Array
) -> Array:
    """Write dgamma = sum(dy x_hat) and dbeta = sum(dy), over every axis but the last, into the given arrays; return
    dx = scale (g - mean(g) - x_hat mean(g x_hat)) with g = gamma dy, the means over the last axis.
    """
    xp = array_namespace(dy)
    over = tuple(range(dy.ndim - 1))
    dgamma[...] = xp.sum(dy * x_hat, axis=over)
    dbeta[...] = xp.sum(dy, axis=over)
    g = gamma * dy
    mean = xp.mean(g, axis=-1, keepdims=True)
    return scale * (g - mean - x_hat * xp.mean(g * x_hat, axis=-1, keepdims=True))
