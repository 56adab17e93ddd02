"""Optimizers: settings, and one pure step over the flat buffers of a network.

An optimizer holds no state of its own: `init` makes it, the caller keeps it, `step` reads and writes it. A step
owns what it writes: the values p and the slots of the state, in place.

A step function's weight_decay is that of an L2 penalty, as in PyTorch: g + weight_decay p stands for g. In AdamW
alone it is decoupled from the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import singledispatch
from typing import Any, ClassVar

from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array, array_namespace
from nnbackend.schedules import Schedule, number, positive, rate, schedule

State = dict[str, Any]  # "t": steps taken; every other entry a buffer as long as the parameters


@singledispatch
def sgd_step(p: Array, g: Array, lr: float, weight_decay: float = 0.0) -> None:
    """p <- p - lr g, in place. p, g: (size,), floating."""
    p -= lr * _penalised(p, g, weight_decay)


@singledispatch
def momentum_step(p: Array, g: Array, v: Array, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
    """v <- momentum v + g; p <- p - lr v, in place (Polyak 1964, in PyTorch's form).

    For a constant lr this is the book's v <- momentum v - lr g; p <- p + v.
    """
    v *= momentum
    v += _penalised(p, g, weight_decay)
    p -= lr * v


@singledispatch
def nesterov_step(p: Array, g: Array, v: Array, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
    """v <- momentum v + g; p <- p - lr (g + momentum v), in place (Nesterov 1983; Sutskever et al. 2013, in
    PyTorch's form: p is the point that has looked ahead already).
    """
    g = _penalised(p, g, weight_decay)
    v *= momentum
    v += g
    p -= lr * (g + momentum * v)


@singledispatch
def adagrad_step(p: Array, g: Array, h: Array, lr: float, eps: float, weight_decay: float = 0.0) -> None:
    """h <- h + g^2; p <- p - lr g / (sqrt(h) + eps), in place (Duchi, Hazan, Singer 2011)."""
    g = _penalised(p, g, weight_decay)
    h += g * g
    p -= lr * g / (array_namespace(p).sqrt(h) + eps)


@singledispatch
def rmsprop_step(p: Array, g: Array, h: Array, lr: float, alpha: float, eps: float, weight_decay: float = 0.0) -> None:
    """h <- alpha h + (1 - alpha) g^2; p <- p - lr g / (sqrt(h) + eps), in place (Tieleman, Hinton 2012, in
    PyTorch's form: eps outside the root).
    """
    g = _penalised(p, g, weight_decay)
    h *= alpha
    h += (1.0 - alpha) * (g * g)
    p -= lr * g / (array_namespace(p).sqrt(h) + eps)


@singledispatch
def adam_step(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam, in place (Kingma, Ba 2015, algorithm 1). t counts the steps from 1.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    g = _penalised(p, g, weight_decay)
    m *= beta1
    m += (1.0 - beta1) * g
    v *= beta2
    v += (1.0 - beta2) * (g * g)
    m_hat = m / (1.0 - beta1**t)
    v_hat = v / (1.0 - beta2**t)
    p -= lr * m_hat / (array_namespace(p).sqrt(v_hat) + eps)


@singledispatch
def adamw_step(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """p <- (1 - lr weight_decay) p, then a step of Adam for g itself, in place (Loshchilov, Hutter 2019)."""
    p *= 1.0 - lr * weight_decay
    adam_step(p, g, m, v, t, lr, beta1, beta2, eps)


def _penalised(p: Array, g: Array, weight_decay: float) -> Array:
    """The gradient with that of weight_decay |p|^2 / 2."""
    return g + weight_decay * p if weight_decay else g


@singledispatch
def clip_by_norm(g: Array, limit: float) -> None:
    """Scale g, (size,), in place so that its Euclidean norm is at most `limit`: g <- g min(1, limit / (|g| + 1e-6)),
    PyTorch's clip_grad_norm_ (Pascanu, Mikolov, Bengio 2013). Nothing is read on the host.
    """
    xp = array_namespace(g)
    g *= xp.minimum(limit / (xp.sqrt(g @ g) + 1e-6), 1.0)


@dataclass(frozen=True)
class Optimizer:
    """Settings of an update rule. lr: a number, or a Schedule, which is asked before every step.

    Raises ValueError for a learning rate that is not positive and finite, and for other settings out of range.
    """

    lr: float | Schedule = 0.01

    _slots: ClassVar[tuple[str, ...]] = ()  # what the state holds beside the count of steps

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _CHECKS and not (field.name == "lr" and isinstance(value, Schedule)):
                _CHECKS[field.name](field.name, value)

    def init(self, p: Array) -> State:
        """The state before the first step, for values p: (size,)."""
        xp = array_namespace(p)
        return {"t": 0, **{name: xp.zeros_like(p) for name in self._slots}}

    def step(self, p: Array, g: Array, state: State) -> None:
        """Update p in place for the gradient g, and count the step in the state."""
        lr = rate(self.lr, state["t"])
        state["t"] += 1
        self.update(p, g, state, state["t"], lr)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        """Update p and the buffers of the state in place for the gradient g.

        t: the number of this step, from 1; lr: its learning rate. Both may live on the device, as (1,) arrays.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update(p, g, state, t, lr)")

    def config(self) -> dict[str, Any]:
        """The settings as JSON knows them; `optimizer(name, **config)` makes the optimizer again."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return settings | ({"lr": self.lr.config()} if isinstance(self.lr, Schedule) else {})


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent: p <- p - lr g."""

    lr: float | Schedule = 0.01
    weight_decay: float = 0.0

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        sgd_step(p, g, lr, self.weight_decay)


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Gradient descent with momentum, which must be at least 0 and below 1."""

    lr: float | Schedule = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    _slots = ("v",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        momentum_step(p, g, state["v"], lr, self.momentum, self.weight_decay)


@dataclass(frozen=True)
class Nesterov(Optimizer):
    """Gradient descent with Nesterov's momentum, which must be at least 0 and below 1."""

    lr: float | Schedule = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    _slots = ("v",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        nesterov_step(p, g, state["v"], lr, self.momentum, self.weight_decay)


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """A learning rate for each parameter, by the sum of its squared gradients. eps: positive, added to the root."""

    lr: float | Schedule = 0.01
    eps: float = 1e-10
    weight_decay: float = 0.0

    _slots = ("h",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        adagrad_step(p, g, state["h"], lr, self.eps, self.weight_decay)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """AdaGrad that forgets. alpha: decay of the squared gradients, at least 0 and below 1; eps as there."""

    lr: float | Schedule = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    _slots = ("h",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        rmsprop_step(p, g, state["h"], lr, self.alpha, self.eps, self.weight_decay)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam. beta1, beta2: decay of the moments, at least 0 and below 1; eps: positive, added to the root."""

    lr: float | Schedule = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    _slots = ("m", "v")

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        adam_step(p, g, state["m"], state["v"], t, lr, self.beta1, self.beta2, self.eps, self.weight_decay)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam whose weight decay, at least 0, shrinks the values themselves and stays out of the moments."""

    lr: float | Schedule = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    _slots = ("m", "v")

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        adamw_step(p, g, state["m"], state["v"], t, lr, self.beta1, self.beta2, self.eps, self.weight_decay)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adagrad": AdaGrad,
    "adam": Adam,
    "adamw": AdamW,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": RMSprop,
    "sgd": SGD,
}


def optimizer(name: str, **settings: Any) -> Optimizer:
    """An optimizer by its name. lr may also be the config of a schedule.

    Raises ValueError, with the nearest known name, for one that is unknown.
    """
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    if isinstance(settings.get("lr"), Mapping):
        settings["lr"] = schedule(settings["lr"])
    return OPTIMIZERS[name](**settings)


def _decay(argument: str, value: float) -> None:
    number(argument, value)
    if not 0 <= value < 1:
        raise ValueError(f"{argument} must be at least 0 and below 1, got {value!r}")


def _not_negative(argument: str, value: float) -> None:
    number(argument, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{argument} must be at least 0 and finite, got {value!r}")


_CHECKS: dict[str, Callable[[str, float], None]] = {
    "lr": positive,
    "momentum": _decay,
    "alpha": _decay,
    "beta1": _decay,
    "beta2": _decay,
    "eps": positive,
    "weight_decay": _not_negative,
}
