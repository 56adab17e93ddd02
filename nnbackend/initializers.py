"""Initial values of parameters. They are drawn on the host in float64, so that a seed gives one network everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbackend.errors import unknown_name

HostArray = np.ndarray[Any, Any]


class Initializer:
    """Draws the initial values of a parameter: `draw(shape, generator)` returns a host array of float64."""

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> HostArray:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """Sets every element to `value`."""

    value: float = 0.0

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> HostArray:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Normal(Initializer):
    """Draws from a normal distribution with mean 0 and standard deviation `std` (the book's weight_init_std)."""

    std: float = 0.01

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> HostArray:
        return self.std * generator.standard_normal(shape)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Draws from a uniform distribution on [low, high)."""

    low: float = -0.05
    high: float = 0.05

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> HostArray:
        return generator.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Xavier(Initializer):
    """Draws from a normal distribution with standard deviation 1 / sqrt(fan_in), for sigmoid and tanh.

    Glorot, Bengio (2010) average fan_in and fan_out. This class takes fan_in, as the book and LeCun et al. (1998) do.
    """

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> HostArray:
        return generator.standard_normal(shape) / math.sqrt(fan_in(shape))


@dataclass(frozen=True)
class He(Initializer):
    """Draws from a normal distribution with standard deviation sqrt(2 / ((1 + alpha^2) fan_in)), for (Leaky) ReLU.

    He, Zhang, Ren, Sun (2015), equation 15. alpha: the slope for negative inputs.
    """

    alpha: float = 0.0

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> HostArray:
        return generator.standard_normal(shape) * math.sqrt(2.0 / ((1.0 + self.alpha**2) * fan_in(shape)))


def fan_in(shape: tuple[int, ...]) -> int:
    """Return the number of inputs of one output: the product of all axes but the last."""
    return max(1, math.prod(shape[:-1]))


INITIALIZERS: dict[str, Callable[[], Initializer]] = {
    "he": He,
    "normal": Normal,
    "ones": lambda: Constant(1.0),
    "uniform": Uniform,
    "xavier": Xavier,
    "zeros": Constant,
}


def initializer(value: Initializer | str | float, argument: str) -> Initializer:
    """Return an Initializer for `value`.

    value: an Initializer, its name, or the standard deviation of a normal distribution (the book's weight_init_std).
    argument: the name of the caller's argument, for messages.
    Raises ValueError for an unknown name or a negative deviation, TypeError for any other value.
    """
    if isinstance(value, Initializer):
        return value
    if isinstance(value, str):
        if value.lower() not in INITIALIZERS:
            raise ValueError(f"{argument}: {unknown_name('initializer', value, INITIALIZERS)}")
        return INITIALIZERS[value.lower()]()
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{argument}: expected a standard deviation >= 0, got {value!r}")
        return Normal(float(value))
    raise TypeError(f"{argument}: expected an initializer, its name or a standard deviation, got {value!r}")
