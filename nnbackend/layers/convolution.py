"""Layers for images: convolution, pooling, and the step from images to rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnbackend.functions import (
    average_pooling,
    average_pooling_backward,
    convolution,
    convolution_backward,
    max_pooling,
    max_pooling_backward,
)
from nnbackend.functions.array import Array, array_namespace
from nnbackend.functions.convolution import Pair, Size, output_size
from nnbackend.initializers import Initializer, initializer
from nnbackend.layers.base import Layer, RowShape, Shape, check_input
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class Convolution(Layer):
    """Filters that slide over images. x: (n, h, w, in_channels), y: (n, h', w', out_channels): channels last.

    `nn.functions.channels_last` makes such images of (n, c, h, w). Parameters W, (kh, kw, in_channels, out_channels),
    and b, (out_channels,).
    kernel_size, stride, padding (zeros around the image): one number, or (vertical, horizontal).
    weight, bias: as in Affine.
    Raises ValueError for settings out of range, and in `output_shape` for images that do not fit them.
    """

    in_channels: int
    out_channels: int
    kernel_size: Size
    stride: Size = 1
    padding: Size = 0
    weight: Initializer | str | float | None = None
    bias: Initializer | str | float = "zeros"

    def __post_init__(self) -> None:
        for argument in ("in_channels", "out_channels"):
            if not _whole(getattr(self, argument), 1):
                raise ValueError(f"Convolution: {argument} must be a positive integer, got {getattr(self, argument)!r}")
        self.kernel_size = kernel = _pair(self.kernel_size, 1, "Convolution: kernel_size")
        self.stride = _pair(self.stride, 1, "Convolution: stride")
        self.padding = _pair(self.padding, 0, "Convolution: padding")
        chosen = None if self.weight is None else initializer(self.weight, "Convolution: weight")
        self.W = Parameter((*kernel, self.in_channels, self.out_channels), chosen)
        self.b = Parameter((self.out_channels,), initializer(self.bias, "Convolution: bias"))

    def forward(self, x: Array, training: bool = False) -> Array:
        check_input(self, x, self.W.data, self.in_channels, axes=4)
        self._x = x
        return convolution(x, self.W.data, self.b.data, self.stride, self.padding)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        W, b = self.W, self.b
        return convolution_backward(dy, self._x, W.data, W.grad, b.grad, self.stride, self.padding, need_dx)

    def config(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding")
        }  # values are saved, not their origin

    @property
    def input_shape(self) -> RowShape:
        return (None, None, self.in_channels)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[2] != self.in_channels:
            raise ValueError(f"{self} takes images of (h, w, {self.in_channels}), but what comes before gives {shape}")
        return (*_output_size(self, shape, self.kernel_size, self.stride, self.padding), self.out_channels)


@dataclass(eq=False)
class Pooling(Layer):
    """What both poolings share: windows of `size`, one every `stride` (None: side by side), channel by channel.

    x: (n, h, w, c), y: (n, h', w', c). size, stride, padding: one number, or (vertical, horizontal); padding is at
    most half the size. Raises ValueError for settings out of range, and for images that are smaller than a window.
    """

    size: Size
    stride: Size | None = None
    padding: Size = 0

    def __post_init__(self) -> None:
        self.size = size = _pair(self.size, 1, f"{self.kind}: size")
        self.stride = stride = size if self.stride is None else _pair(self.stride, 1, f"{self.kind}: stride")
        self.padding = padding = _pair(self.padding, 0, f"{self.kind}: padding")
        if 2 * padding[0] > size[0] or 2 * padding[1] > size[1]:
            raise ValueError(f"{self.kind}: padding must be at most half the size {size}, got {padding}")
        self._windows = (size, stride, padding)

    @property
    def input_shape(self) -> RowShape:
        return (None, None, None)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ValueError(f"{self} takes images of (h, w, c), but what comes before gives {shape}")
        return (*_output_size(self, shape, *self._windows), shape[2])


@dataclass(eq=False)
class MaxPooling(Pooling):
    """The largest element of every window; the first of equals gets the gradient. Padding is never the largest.

    Arguments, shapes and errors: see `Pooling`.
    """

    def forward(self, x: Array, training: bool = False) -> Array:
        _check_images(self, x)
        self._x, self._y = x, max_pooling(x, *self._windows)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return max_pooling_backward(dy, self._x, self._y, *self._windows)


@dataclass(eq=False)
class AveragePooling(Pooling):
    """The mean of every window; padding counts as zeros. Arguments, shapes and errors: see `Pooling`."""

    def forward(self, x: Array, training: bool = False) -> Array:
        _check_images(self, x)
        self._shape = tuple(x.shape)
        return average_pooling(x, *self._windows)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return average_pooling_backward(dy, self._shape, *self._windows)


@dataclass(eq=False)
class Flatten(Layer):
    """Each image, or whatever else a row is, as one row of numbers. x: (n, ...), y: (n, product of the rest)."""

    keeps_shape = False

    def forward(self, x: Array, training: bool = False) -> Array:
        self._shape = tuple(x.shape)
        return array_namespace(x).reshape(x, (self._shape[0], math.prod(self._shape[1:])))

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return array_namespace(dy).reshape(dy, self._shape)

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _pair(value: object, least: int, argument: str) -> Pair:
    """One number or two as (vertical, horizontal)."""
    lengths = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(lengths) != 2 or not all(_whole(length, least) for length in lengths):
        raise ValueError(f"{argument} must be an integer of at least {least}, or a pair of them, got {value!r}")
    return lengths


def _output_size(layer: Layer, shape: Shape, window: Size, stride: Size, padding: Size) -> Pair:
    try:
        return output_size(shape[:2], window, stride, padding)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from error


def _check_images(layer: Layer, x: Array) -> None:
    if getattr(x, "ndim", None) != 4:
        raise ValueError(f"{layer}: argument x must have shape (n, h, w, c), got {tuple(getattr(x, 'shape', ()))}")
