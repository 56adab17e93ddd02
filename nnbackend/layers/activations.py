"""Activation layers: each remembers its output, which is all that its backward reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nnbackend.errors import unknown_name
from nnbackend.functions import (
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from nnbackend.functions.array import Array
from nnbackend.initializers import He, Initializer, Xavier
from nnbackend.layers.base import Layer


@dataclass(eq=False)
class Sigmoid(Layer):
    """1 / (1 + exp(-x)), elementwise, any shape."""

    initializer = Xavier()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = sigmoid(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return sigmoid_backward(dy, self._y)


@dataclass(eq=False)
class ReLU(Layer):
    """max(x, 0), elementwise, any shape."""

    initializer = He()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = relu(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return relu_backward(dy, self._y)


@dataclass(eq=False)
class LeakyReLU(Layer):
    """x where x > 0, else alpha x, elementwise, any shape. Raises ValueError unless 0 <= alpha < 1."""

    alpha: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise ValueError(f"LeakyReLU: alpha must be at least 0 and below 1, got {self.alpha!r}")

    @property
    def initializer(self) -> Initializer:  # type: ignore[override]
        return He(self.alpha)

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = leaky_relu(x, self.alpha)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return leaky_relu_backward(dy, self._y, self.alpha)


@dataclass(eq=False)
class Tanh(Layer):
    """The hyperbolic tangent, elementwise, any shape."""

    initializer = Xavier()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = tanh(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return tanh_backward(dy, self._y)


@dataclass(eq=False)
class Softmax(Layer):
    """exp(x) / sum(exp(x)) over the last axis. For training a classifier, SoftmaxWithLoss at the end is better."""

    initializer = Xavier()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = softmax(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return softmax_backward(dy, self._y)


ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "leaky_relu": LeakyReLU,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
}


def activation(name: str) -> Layer:
    """A new activation layer by its name. ValueError, with the nearest known name, for one that is unknown."""
    if name not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()
