"""Optimizers: settings, and one pure step over the flat buffers of a network.

An optimizer holds no state of its own: `init` makes it, the caller keeps it, `step` reads and writes it. A step
owns what it writes: the values p and the slots of the state, in place.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import singledispatch
from numbers import Real
from typing import Any

from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array, array_namespace

State = dict[str, Any]  # "t": steps taken; every other entry a buffer as long as the parameters


@singledispatch
def sgd_step(p: Array, g: Array, lr: float) -> None:
    """p <- p - lr g, in place. p, g: (size,), floating."""
    p -= lr * g


@singledispatch
def momentum_step(p: Array, g: Array, v: Array, lr: float, momentum: float) -> None:
    """v <- momentum v + g; p <- p - lr v, in place (Polyak 1964, in PyTorch's form).

    For a constant lr this is the book's v <- momentum v - lr g; p <- p + v.
    """
    v *= momentum
    v += g
    p -= lr * v


@singledispatch
def adam_step(
    p: Array, g: Array, m: Array, v: Array, t: float, lr: float, beta1: float, beta2: float, eps: float
) -> None:
    """One step of Adam, in place (Kingma, Ba 2015, algorithm 1). t counts the steps from 1.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    m *= beta1
    m += (1.0 - beta1) * g
    v *= beta2
    v += (1.0 - beta2) * (g * g)
    m_hat = m / (1.0 - beta1**t)
    v_hat = v / (1.0 - beta2**t)
    p -= lr * m_hat / (array_namespace(p).sqrt(v_hat) + eps)


@dataclass(frozen=True)
class Optimizer:
    """Settings of an update rule. Raises ValueError for a learning rate that is not positive and finite."""

    lr: float = 0.01

    def __post_init__(self) -> None:
        _positive("lr", self.lr)

    def init(self, p: Array) -> State:
        """The state before the first step, for values p: (size,)."""
        return {"t": 0}

    def step(self, p: Array, g: Array, state: State) -> None:
        """One update of p, in place, for the gradient g."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: p <- p - lr g."""

    lr: float = 0.01

    def step(self, p: Array, g: Array, state: State) -> None:
        state["t"] += 1
        sgd_step(p, g, self.lr)


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Gradient descent with momentum, which must be at least 0 and below 1."""

    lr: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _decay("momentum", self.momentum)

    def init(self, p: Array) -> State:
        return {"t": 0, "v": array_namespace(p).zeros_like(p)}

    def step(self, p: Array, g: Array, state: State) -> None:
        state["t"] += 1
        momentum_step(p, g, state["v"], self.lr, self.momentum)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam. beta1, beta2: decay of the moments, at least 0 and below 1; eps: positive, added to the root."""

    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _decay("beta1", self.beta1)
        _decay("beta2", self.beta2)
        _positive("eps", self.eps)

    def init(self, p: Array) -> State:
        xp = array_namespace(p)
        return {"t": 0, "m": xp.zeros_like(p), "v": xp.zeros_like(p)}

    def step(self, p: Array, g: Array, state: State) -> None:
        state["t"] += 1
        adam_step(p, g, state["m"], state["v"], state["t"], self.lr, self.beta1, self.beta2, self.eps)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "momentum": Momentum, "sgd": SGD}


def optimizer(name: str, **settings: float) -> Optimizer:
    """An optimizer by its name. ValueError, with the nearest known name, for one that is unknown."""
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    return OPTIMIZERS[name](**settings)


def _positive(argument: str, value: float) -> None:
    _number(argument, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{argument} must be positive and finite, got {value!r}")


def _decay(argument: str, value: float) -> None:
    _number(argument, value)
    if not 0 <= value < 1:
        raise ValueError(f"{argument} must be at least 0 and below 1, got {value!r}")


def _number(argument: str, value: float) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{argument} must be a number, got {value!r}")
