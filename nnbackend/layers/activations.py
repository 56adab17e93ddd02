"""Activation layers. Each remembers its output or its input, whichever its backward reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nnbackend.checks import decay, not_negative
from nnbackend.errors import unknown_name
from nnbackend.functions import (
    elu,
    elu_backward,
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
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
    """Computes 1 / (1 + exp(-x)) for each element. x: any shape."""

    elementwise = True
    initializer = Xavier()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = sigmoid(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return sigmoid_backward(dy, self._y)


@dataclass(eq=False)
class ReLU(Layer):
    """Computes max(x, 0) for each element. x: any shape."""

    elementwise = True
    initializer = He()
    behind_pooling = False  # the last pass took the layer after the max pooling that follows it, see `through`

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y, self.behind_pooling = relu(x), False
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return relu_backward(dy, self._y)


@dataclass(eq=False)
class LeakyReLU(Layer):
    """Computes x if x > 0, else alpha x, for each element. x: any shape. Raises ValueError unless 0 <= alpha < 1."""

    alpha: float = 0.01
    elementwise = True

    def __post_init__(self) -> None:
        decay("LeakyReLU: alpha", self.alpha)

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
    """Computes the hyperbolic tangent of each element. x: any shape."""

    elementwise = True
    initializer = Xavier()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = tanh(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return tanh_backward(dy, self._y)


@dataclass(eq=False)
class ELU(Layer):
    """Computes x if x > 0, else alpha (exp(x) - 1), for each element. x: any shape.

    Raises ValueError for an alpha that is negative or not finite.
    """

    alpha: float = 1.0
    elementwise = True
    initializer = He()

    def __post_init__(self) -> None:
        not_negative("ELU: alpha", self.alpha)

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = elu(x, self.alpha)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return elu_backward(dy, self._y, self.alpha)


@dataclass(eq=False)
class SiLU(Layer):
    """Computes x sigmoid(x) for each element. x: any shape."""

    elementwise = True
    initializer = He()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._x = x
        return silu(x)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return silu_backward(dy, self._x)


@dataclass(eq=False)
class GELU(Layer):
    """Computes x times the probability that a standard Gaussian is below x, for each element. x: any shape.

    The probability is approximated with tanh; see `nn.functions.gelu`.
    """

    elementwise = True
    initializer = He()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._x = x
        return gelu(x)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return gelu_backward(dy, self._x)


@dataclass(eq=False)
class Softmax(Layer):
    """Computes exp(x) / sum(exp(x)) over the last axis. To train a classifier, use the loss SoftmaxWithLoss instead."""

    initializer = Xavier()

    def forward(self, x: Array, training: bool = False) -> Array:
        self._y = softmax(x)
        return self._y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return softmax_backward(dy, self._y)


ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "elu": ELU,
    "gelu": GELU,
    "leaky_relu": LeakyReLU,
    "relu": ReLU,
    "sigmoid": Sigmoid,
    "silu": SiLU,
    "tanh": Tanh,
}


def activation(name: str) -> Layer:
    """Return a new activation layer by its name. Raise ValueError, with the nearest known name, for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]()
