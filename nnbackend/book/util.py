"""Provide the book's common.util."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.book.arrays import together, whole
from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.functions.convolution import output_size, unpadded, windows
from nnbackend.functions.convolution import pad as padded

__all__ = ["col2im", "conv_output_size", "im2col", "np", "shuffle_dataset", "smooth_curve"]


def smooth_curve(x: Any) -> np.ndarray[Any, Any]:
    """Smooth a curve for drawing, by a Kaiser window of length 11.

    x: an array or a sequence of numbers. Returns a NumPy array of the same length.
    """
    length = 11
    host = np.asarray([to_numpy(value) for value in x] if isinstance(x, list | tuple) else to_numpy(x))
    s = np.r_[host[length - 1 : 0 : -1], host, host[-1:-length:-1]]
    w = np.kaiser(length, 2)
    y = np.convolve(w / w.sum(), s, mode="valid")
    return y[5 : len(y) - 5]


def shuffle_dataset(x: Any, t: Any) -> tuple[Array, Array]:
    """Return the rows of x and t in the same random order, drawn from numpy.random. Each stays on its device.

    Raises ValueError if x and t differ in their number of rows.
    """
    (x,), (t,) = together(x=x), together(t=t)
    if x.shape[0] != t.shape[0]:
        raise ValueError(f"t: expected {x.shape[0]} rows, as x has, got {t.shape[0]}")
    order = np.random.permutation(x.shape[0])

    def shuffled(a: Array) -> Array:
        xp = array_namespace(a)
        return xp.take(a, xp.asarray(order, device=device(a)), axis=0)

    return shuffled(x), shuffled(t)


def conv_output_size(input_size: int, filter_size: int, stride: int = 1, pad: int = 0) -> float:
    """Return (input_size + 2 pad - filter_size) / stride + 1."""
    return (input_size + 2 * pad - filter_size) / stride + 1


def im2col(input_data: Any, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """Return a row for each window of (n, c, h, w): (n out_h out_w, c filter_h filter_w), float64.

    Raises ValueError for another number of axes, for a stride or pad that is not an integer, and if no window fits.
    """
    (x,), stride, pad = together(input_data=input_data), whole("stride", stride, 1), whole("pad", pad, 0)
    if x.ndim != 4:
        raise ValueError(f"input_data: expected shape (n, c, h, w), got {tuple(x.shape)}")
    xp = array_namespace(x)
    x = padded(xp.permute_dims(xp.astype(x, xp.float64, copy=False), (0, 2, 3, 1)), pad)
    count = output_size((x.shape[1], x.shape[2]), (filter_h, filter_w), stride)
    places = xp.stack([x[place] for _, _, place in windows(count, (filter_h, filter_w), stride)], axis=4)
    return xp.reshape(places, (x.shape[0] * count[0] * count[1], -1))


def col2im(
    col: Any, input_shape: tuple[int, ...], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> Array:
    """Add up the windows of `im2col`. Return an array of shape `input_shape`, (n, c, h, w), in float64."""
    (col,), stride, pad = together(col=col), whole("stride", stride, 1), whole("pad", pad, 0)
    xp = array_namespace(col)
    col = xp.astype(col, xp.float64, copy=False)
    n, c, h, w = input_shape
    count = output_size((h, w), (filter_h, filter_w), stride, pad)
    places = xp.reshape(col, (n, *count, c, filter_h * filter_w))
    image = xp.zeros((n, h + 2 * pad, w + 2 * pad, c), dtype=col.dtype, device=device(col))
    for number, (_, _, place) in enumerate(windows(count, (filter_h, filter_w), stride)):
        image[place] += places[..., number]
    return xp.permute_dims(image[unpadded(h, w, pad)], (0, 3, 1, 2))
