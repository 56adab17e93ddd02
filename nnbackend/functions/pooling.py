"""Pooling of images, (n, h, w, c): each function is followed by its backward."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.functions.convolution import Size, output_size, pad, pair, unpadded, windows
from nnbackend.functions.dispatch import floating


@floating
def max_pooling(x: Array, size: Size, stride: Size, padding: Size = 0) -> Array:
    """The largest element of every window, per channel; padding counts as minus infinity.

    x: (n, h, w, c). size, stride, padding: one number, or (vertical, horizontal); padding is at most half the size.
    Returns (n, h', w', c) with the h', w' of `output_size`, whose ValueError it raises.
    """
    count = output_size(x.shape[1:3], size, stride, padding)
    x = pad(x, padding, -math.inf)
    return reduce(array_namespace(x).maximum, (x[index] for _, _, index in windows(count, size, stride)))


@floating
def max_pooling_backward(dy: Array, x: Array, y: Array, size: Size, stride: Size, padding: Size = 0) -> Array:
    """dx: all of dy goes to the first element of the window (row by row) that equals its maximum.

    dy, y: (n, h', w', c); x: (n, h, w, c).
    """
    xp = array_namespace(dy)
    _, h, w, _ = x.shape
    x = pad(x, padding, -math.inf)
    dx, left = xp.zeros_like(x), dy
    for _, _, index in windows(dy.shape[1:3], size, stride):
        hit = x[index] == y
        dx[index] += xp.where(hit, left, 0.0)
        left = xp.where(hit, 0.0, left)
    return dx[unpadded(h, w, padding)]


@floating
def average_pooling(x: Array, size: Size, stride: Size, padding: Size = 0) -> Array:
    """The mean of every window, per channel; padding counts as zeros. Arguments and result as in `max_pooling`."""
    count = output_size(x.shape[1:3], size, stride, padding)
    x = pad(x, padding)
    total: Any = sum(x[index] for _, _, index in windows(count, size, stride))
    y: Array = total / math.prod(pair(size))
    return y


@floating
def average_pooling_backward(dy: Array, shape: tuple[int, ...], size: Size, stride: Size, padding: Size = 0) -> Array:
    """dx: dy, shared out evenly over the window. dy: (n, h', w', c); shape: that of x, (n, h, w, c)."""
    (n, h, w, c), (top, left) = shape, pair(padding)
    padded = (n, h + 2 * top, w + 2 * left, c)
    dx = array_namespace(dy).zeros(padded, dtype=dy.dtype, device=device(dy))
    share = dy / math.prod(pair(size))
    for _, _, index in windows(dy.shape[1:3], size, stride):
        dx[index] += share
    return dx[unpadded(h, w, padding)]
