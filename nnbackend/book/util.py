"""The book's common.util."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.functions.convolution import output_size, unpadded, windows
from nnbackend.functions.convolution import pad as padded


def smooth_curve(x: Any) -> np.ndarray[Any, Any]:
    """x, a sequence of losses, smoothed by a Kaiser window of 11 for drawing: as long as x, on the host."""
    length = 11
    host = to_numpy(x)
    s = np.r_[host[length - 1 : 0 : -1], host, host[-1:-length:-1]]
    w = np.kaiser(length, 2)
    y = np.convolve(w / w.sum(), s, mode="valid")
    return y[5 : len(y) - 5]


def shuffle_dataset(x: Array, t: Array) -> tuple[Array, Array]:
    """Rows of x and t in the same random order, drawn from numpy.random."""
    xp = array_namespace(x)
    rows = xp.asarray(np.random.permutation(x.shape[0]), device=device(x))
    return xp.take(x, rows, axis=0), xp.take(t, rows, axis=0)


def conv_output_size(input_size: int, filter_size: int, stride: int = 1, pad: int = 0) -> float:
    """(input_size + 2 pad - filter_size) / stride + 1."""
    return (input_size + 2 * pad - filter_size) / stride + 1


def im2col(input_data: Array, filter_h: int, filter_w: int, stride: int = 1, pad: int = 0) -> Array:
    """(N, C, H, W) to one row per window, (N out_h out_w, C filter_h filter_w)."""
    xp = array_namespace(input_data)
    x = padded(xp.permute_dims(input_data, (0, 2, 3, 1)), pad)
    count = output_size((x.shape[1], x.shape[2]), (filter_h, filter_w), stride)
    places = xp.stack([x[place] for _, _, place in windows(count, (filter_h, filter_w), stride)], axis=4)
    return xp.reshape(places, (x.shape[0] * count[0] * count[1], -1))


def col2im(
    col: Array, input_shape: tuple[int, ...], filter_h: int, filter_w: int, stride: int = 1, pad: int = 0
) -> Array:
    """What `im2col` spread out, added up again: (N, C, H, W) of `input_shape`."""
    xp = array_namespace(col)
    n, c, h, w = input_shape
    count = output_size((h, w), (filter_h, filter_w), stride, pad)
    places = xp.reshape(col, (n, *count, c, filter_h * filter_w))
    image = xp.zeros((n, h + 2 * pad, w + 2 * pad, c), dtype=col.dtype, device=device(col))
    for number, (_, _, place) in enumerate(windows(count, (filter_h, filter_w), stride)):
        image[place] += places[..., number]
    return xp.permute_dims(image[unpadded(h, w, pad)], (0, 3, 1, 2))
