"""Layers for images: convolution, pooling, and flattening."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nnbackend.checks import is_integer, positive_integer
from nnbackend.functions import (
    average_pooling,
    average_pooling_backward,
    convolution,
    convolution_backward,
    max_pooling,
    max_pooling_backward,
)
from nnbackend.functions.array import Array, flatten, flatten_backward
from nnbackend.functions.convolution import Pair, Size, output_size
from nnbackend.initializers import Initializer, initializer
from nnbackend.layers.base import Layer, RowShape, Shape, check_images, check_input, image_shape
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class Convolution(Layer):
    """Slides filters over images. x: (n, h, w, in_channels), y: (n, h', w', out_channels): channels last.

    `nn.functions.channels_last` converts images of shape (n, c, h, w). The parameters are
    W, (kh, kw, in_channels, out_channels), and b, (out_channels,).
    kernel_size, stride, padding (zeros around the image): one number, or (vertical, horizontal).
    weight, bias: as in Affine.
    Raises ValueError for settings out of range. `output_shape` raises it for images that do not fit.
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
            positive_integer(f"Convolution: {argument}", getattr(self, argument))
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

    @property
    def in_loops(self) -> bool:  # type: ignore[override]
        return self.stride == (1, 1)  # the others are products of patches

    def config(self) -> dict[str, Any]:
        return {
            name: getattr(self, name) for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding")
        }  # a file holds the values, so it needs no initializers

    @property
    def input_shape(self) -> RowShape:
        return (None, None, self.in_channels)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[2] != self.in_channels:
            raise ValueError(f"{self} takes images of (h, w, {self.in_channels}), but what comes before gives {shape}")
        return (*_output_size(self, shape, self.kernel_size, self.stride, self.padding), self.out_channels)


@dataclass(eq=False)
class Pooling(Layer):
    """Base class of max and average pooling, which reduce each channel over windows of `size`, `stride` apart.

    x: (n, h, w, c), y: (n, h', w', c). size, stride, padding: one number, or (vertical, horizontal). If stride is
    None, it is `size`. padding: at most half the size.
    Raises ValueError for settings out of range, and for images that are smaller than a window.
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
        return (*_output_size(self, image_shape(self, shape), *self._windows), shape[2])


@dataclass(eq=False)
class MaxPooling(Pooling):
    """Takes the largest element of every window. The first of equal elements gets the gradient. Padding counts as -inf.

    Arguments, shapes and errors: see `Pooling`.
    """

    def forward(self, x: Array, training: bool = False) -> Array:
        check_images(self, x)
        self._x, self._y = x, max_pooling(x, *self._windows)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return max_pooling_backward(dy, self._x, self._y, *self._windows)


@dataclass(eq=False)
class AveragePooling(Pooling):
    """Takes the mean of every window. Padding counts as zeros. Arguments, shapes and errors: see `Pooling`."""

    def forward(self, x: Array, training: bool = False) -> Array:
        check_images(self, x)
        self._shape = tuple(x.shape)
        return average_pooling(x, *self._windows)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return average_pooling_backward(dy, self._shape, *self._windows)


@dataclass(eq=False)
class Flatten(Layer):
    """Reshapes every image to one row of numbers. x: (n, ...), y: (n, product of the other axes)."""

    keeps_shape = False

    def forward(self, x: Array, training: bool = False) -> Array:
        self._x = x
        return flatten(x)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return flatten_backward(dy, self._x)

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


def _pair(value: object, least: int, argument: str) -> Pair:
    """Return one number, or a pair, as (vertical, horizontal). Raise ValueError for anything else."""
    lengths = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(lengths) != 2 or not all(is_integer(length, least) for length in lengths):
        raise ValueError(f"{argument} must be an integer of at least {least}, or a pair of them, got {value!r}")
    return int(lengths[0]), int(lengths[1])


def _output_size(layer: Layer, shape: Shape, window: Size, stride: Size, padding: Size) -> Pair:
    try:
        return output_size(shape[:2], window, stride, padding)
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from error
