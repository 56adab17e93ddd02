"""Augmentation: layers that change their input at random while training, so that a network sees more than it is given.

They stand first in a network. In inference mode they return x unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnbackend.checks import finite, not_negative, number, positive
from nnbackend.functions import (
    affine_positions,
    elastic_draws,
    elastic_positions,
    flip,
    normal,
    resample,
    resample_backward,
    uniform,
)
from nnbackend.functions.array import Array
from nnbackend.layers.base import Layer, Shape, check_images, image_shape


class Augmentation(Layer):
    """Base class of layers that change their input at random while training.

    The draws depend on the network's seed, the layer's place, the number of training passes and the row's place in its
    batch. They are the same numbers on every backend; the images are equal within rounding.
    """

    elementwise = True
    draws = True
    identity = True

    def bind(self, clock: Array, number: int, seed: int) -> None:
        self._clock, self._number, self._seed = clock, number, seed

    def _uniform(self, x: Array, *shape: int) -> Array:
        return uniform(x, shape, self._seed, self._number, self._clock)


class Resampling(Augmentation):
    """Base class of layers that move the pixels of images, (n, h, w, c), and read them by bilinear interpolation.

    Subclasses define `_positions`. fill: the value of what comes in from outside of an image.
    """

    fill: float

    def _positions(self, x: Array) -> tuple[Array, Array]:
        """Return where the pixels of the result lie in x: rows and columns, (n, h, w)."""
        raise NotImplementedError

    def forward(self, x: Array, training: bool = False) -> Array:
        self._at: tuple[Array, Array] | None = None
        if not training:
            return x
        check_images(self, x)
        self._at = self._positions(x)
        return resample(x, *self._at, self.fill)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        # the result has the height and the width of x
        return dy if self._at is None else resample_backward(dy, *self._at, (dy.shape[1], dy.shape[2]))

    def output_shape(self, shape: Shape) -> Shape:
        return image_shape(self, shape)


@dataclass(eq=False)
class RandomAffine(Resampling):
    """Turns, scales and shifts each image at random while training, in one step.

    shift: the largest shift, as a fraction of height and of width. degrees: the largest angle, to the left or to the
    right. scale: each image is scaled by a factor from 1 - scale to 1 + scale. fill: the value of what comes in from
    outside, such as that of the background. x: (n, h, w, c).
    Raises ValueError for a negative shift or angle, a scale outside of 0 to 1 (without 1), or a fill that is not
    finite.
    """

    shift: float = 0.1
    degrees: float = 10.0
    scale: float = 0.1
    fill: float = 0.0

    def __post_init__(self) -> None:
        not_negative(f"{self.kind}: shift", self.shift)
        not_negative(f"{self.kind}: degrees", self.degrees)
        not_negative(f"{self.kind}: scale", self.scale)
        if self.scale >= 1:
            raise ValueError(f"{self.kind}: scale must be below 1, got {self.scale!r}")
        finite(f"{self.kind}: fill", self.fill)

    def _positions(self, x: Array) -> tuple[Array, Array]:
        n, height, width, _ = x.shape
        return affine_positions(self._uniform(x, n, 4), (height, width), self.shift, self.degrees, self.scale)


@dataclass(eq=False)
class RandomElastic(Resampling):
    """Bends each image at random while training, as a sheet of rubber (Simard, Steinkraus, Platt, 2003).

    distance: the standard deviation of the way that a pixel moves down, and to the right, in pixels. spacing: the
    number of pixels, at least 1, in which this way changes: more for gentle bends. fill: the value of what comes in
    from outside. x: (n, h, w, c). Raises ValueError for a setting that is out of range.
    """

    distance: float = 1.0
    spacing: float = 7.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        not_negative(f"{self.kind}: distance", self.distance)
        positive(f"{self.kind}: spacing", self.spacing)
        if self.spacing < 1:
            raise ValueError(f"{self.kind}: spacing must be at least 1, got {self.spacing!r}")
        finite(f"{self.kind}: fill", self.fill)

    def _positions(self, x: Array) -> tuple[Array, Array]:
        n, height, width, _ = x.shape
        draws = self._uniform(x, *elastic_draws(n, (height, width), self.spacing))
        return elastic_positions(draws, (height, width), self.distance, self.spacing)


@dataclass(eq=False)
class RandomFlip(Augmentation):
    """Exchanges left and right of each image with a probability while training. x: (n, h, w, c).

    Raises ValueError unless 0 <= probability <= 1.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        number(f"{self.kind}: probability", self.probability)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"{self.kind}: probability must lie in 0 to 1, got {self.probability!r}")

    def forward(self, x: Array, training: bool = False) -> Array:
        self._chosen: Array | None = None
        if not training:
            return x
        check_images(self, x)
        self._chosen = self._uniform(x, x.shape[0]) < self.probability
        return flip(x, self._chosen)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return dy if self._chosen is None else flip(dy, self._chosen)

    def output_shape(self, shape: Shape) -> Shape:
        return image_shape(self, shape)


@dataclass(eq=False)
class GaussianNoise(Augmentation):
    """Adds noise of a normal distribution to each element while training. x: any shape.

    std: its standard deviation, in the units of x. Raises ValueError if it is negative.
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        not_negative(f"{self.kind}: std", self.std)

    def forward(self, x: Array, training: bool = False) -> Array:
        if not training or self.std == 0:
            return x
        return x + self.std * normal(x, tuple(x.shape), self._seed, self._number, self._clock)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return dy
