"""Convolution of images, and the sliding windows that it shares with pooling.

Images are (n, h, w, c), channels last: every window position is then a matrix product of rows of channels that lie
side by side in memory, and what works on features (affine, normalisation, bias) finds them in the last axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from nnbackend.functions.affine import product
from nnbackend.functions.array import Array, MaybeArray, array_namespace, device
from nnbackend.functions.dispatch import floating

Pair: TypeAlias = tuple[int, int]
Size: TypeAlias = int | Pair  # one length for both axes, or (vertical, horizontal)


def pair(size: Size) -> Pair:
    """(vertical, horizontal)."""
    if isinstance(size, int) or not hasattr(size, "__len__"):  # the latter: a number of NumPy
        return size, size  # type: ignore[return-value]
    return size[0], size[1]


def output_size(image: Sequence[int], window: Size, stride: Size = 1, padding: Size = 0) -> Pair:
    """How many windows fit an image: floor((length + 2 padding - window) / stride) + 1, for h and for w.

    Dumoulin, Visin (2016), relationship 6. Raises ValueError where not even one fits.
    """
    counts = [
        (length + 2 * pad - size) // step + 1
        for length, size, step, pad in zip(image, pair(window), pair(stride), pair(padding), strict=True)
    ]
    if min(counts) < 1:
        raise ValueError(
            f"a window of {pair(window)} does not fit an image of {tuple(image)} with padding {pair(padding)}"
        )
    return counts[0], counts[1]


def windows(count: Sequence[int], window: Size, stride: Size) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """For every place (i, j) in a window: i, j, and the index of what lies there in all of `count` windows."""
    (rows, columns), (height, width), (down, right) = count, pair(window), pair(stride)
    for i in range(height):
        for j in range(width):
            vertical = slice(i, i + down * (rows - 1) + 1, down)
            horizontal = slice(j, j + right * (columns - 1) + 1, right)
            yield i, j, (slice(None), vertical, horizontal, slice(None))


def pad(x: Array, padding: Size, value: float = 0.0) -> Array:
    """x: (n, h, w, c), with `value` around every image."""
    (top, left), (n, h, w, c) = pair(padding), x.shape
    if top == left == 0:
        return x
    padded = array_namespace(x).full((n, h + 2 * top, w + 2 * left, c), value, dtype=x.dtype, device=device(x))
    padded[unpadded(h, w, padding)] = x
    return padded


def unpadded(h: int, w: int, padding: Size) -> tuple[Any, ...]:
    """The index of the images of h by w in what `pad` returned."""
    top, left = pair(padding)
    return slice(None), slice(top, top + h), slice(left, left + w), slice(None)


@floating
def convolution(x: Array, W: Array, b: Array, stride: Size = 1, padding: Size = 0) -> Array:
    """y[n, p, q, :] = b + the sum over i, j of x[n, p stride + i - padding, q stride + j - padding, :] W[i, j].

    The book's chapter 7 (a cross-correlation: the filter is not turned), as one matrix product for every place in
    the filter. x: (n, h, w, c), zero outside; W: (kh, kw, c, o); b: (o,). stride, padding: one number, or
    (vertical, horizontal). Returns (n, h', w', o) with the h', w' of `output_size`, whose ValueError it raises.
    """
    xp = array_namespace(x)
    n, h, w, c = x.shape
    kh, kw, _, o = W.shape
    count = output_size((h, w), (kh, kw), stride, padding)
    rows = n * count[0] * count[1]
    x = pad(x, padding)
    y = xp.zeros((rows, o), dtype=x.dtype, device=device(x)) + b
    for i, j, index in windows(count, (kh, kw), stride):
        y = y + product(xp.reshape(x[index], (rows, c)), W[i, j, ...])
    return xp.reshape(y, (n, *count, o))


@floating
def convolution_backward(
    dy: Array,
    x: Array,
    W: Array,
    dW: Array,
    db: Array,
    stride: Size = 1,
    padding: Size = 0,
    need_dx: bool = True,
) -> MaybeArray:
    """Write dW and db into the given arrays, slices of a gradient buffer; return dx.

    dy: (n, h', w', o); x, W, stride, padding as in the forward; dW: (kh, kw, c, o), db: (o,). Without need_dx
    (nothing below has parameters) dx is left out and None returned.
    """
    xp = array_namespace(dy)
    n, h, w, c = x.shape
    kh, kw, _, o = W.shape
    rows = n * dy.shape[1] * dy.shape[2]
    x = pad(x, padding)
    dx = xp.zeros_like(x) if need_dx else None
    dy_rows = xp.reshape(dy, (rows, o))
    db[...] = xp.sum(dy_rows, axis=0)
    for i, j, index in windows(dy.shape[1:3], (kh, kw), stride):
        dW[i, j, ...] = product(xp.reshape(x[index], (rows, c)).T, dy_rows)
        if dx is not None:
            dx[index] += xp.reshape(product(dy_rows, W[i, j, ...].T), (*dy.shape[:3], c))
    return None if dx is None else dx[unpadded(h, w, padding)]


def channels_last(x: Array) -> Array:
    """(n, c, h, w), as the book and PyTorch have it, to (n, h, w, c). The way back is `channels_first`.

    A filter of theirs, (o, c, kh, kw), becomes one of ours, (kh, kw, c, o), by permute_dims(W, (2, 3, 1, 0)).
    """
    return array_namespace(x).permute_dims(x, (0, 2, 3, 1))


def channels_first(x: Array) -> Array:
    """(n, h, w, c) to (n, c, h, w). `Flatten` of the one orders its columns otherwise than of the other."""
    return array_namespace(x).permute_dims(x, (0, 3, 1, 2))
