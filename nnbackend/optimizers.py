"""Optimizers: the settings of an update rule, and one step over the flat buffers of a network.

An optimizer holds settings only. `init` makes the state, the caller keeps it, and `step` reads and writes it. A step
changes the values p and the buffers of the state in place. The formulas are in `functions.optimizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from nnbackend.checks import decay, not_negative, plain_number, positive
from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array, array_namespace
from nnbackend.functions.optimizers import (
    adagrad_step,
    adam_step,
    adamw_step,
    momentum_step,
    nesterov_step,
    rmsprop_step,
    sgd_step,
)
from nnbackend.schedules import Schedule, rate, schedule

# "t" is the number of steps taken, "lr_scale" a factor of the learning rate, if there is one; every other entry is a
# buffer as long as the parameters
State = dict[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """Holds the settings of an update rule. lr: a number, or a Schedule, which is called before every step.

    Raises ValueError for a learning rate that is not positive and finite, and for any other setting out of range.
    """

    lr: float | Schedule = 0.01

    _slots: ClassVar[tuple[str, ...]] = ()  # the buffers that the state holds

    def __post_init__(self) -> None:
        for field in fields(self):
            value = plain_number(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.name in _CHECKS and not (field.name == "lr" and isinstance(value, Schedule)):
                _CHECKS[field.name](field.name, value)

    def init(self, p: Array) -> State:
        """Return the state before the first step, for parameter values p: (size,)."""
        xp = array_namespace(p)
        return {"t": 0, **{name: xp.zeros_like(p) for name in self._slots}}

    def step(self, p: Array, g: Array, state: State) -> None:
        """Update p in place by the gradient g, and count the step in the state."""
        lr = self.next_rate(state)
        state["t"] += 1
        self.update(p, g, state, state["t"], lr)

    def rate(self, t: int) -> float:
        """Return the learning rate of the step that follows t steps."""
        return rate(self.lr, t)

    def next_rate(self, state: State) -> float:
        """Return the learning rate of the next step: that of the schedule, times the state's "lr_scale" if it has one.

        A rule that looks at the run, such as `ReduceLROnPlateau`, sets that number.
        """
        return self.rate(state["t"]) * float(state.get("lr_scale", 1.0))

    @property
    def has_own_step(self) -> bool:
        """Say whether a subclass overrides `step`, so that calling `update` alone is not enough."""
        return type(self).step is not Optimizer.step

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        """Update p and the buffers of the state in place by the gradient g.

        t: the number of this step, from 1; lr: its learning rate. Both may live on the device, as (1,) arrays.
        """
        raise NotImplementedError(f"{type(self).__name__} has no update(p, g, state, t, lr)")

    def config(self) -> dict[str, Any]:
        """Return the settings as JSON-able values; `optimizer(name, **config)` makes the optimizer again."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return settings | ({"lr": self.lr.config()} if isinstance(self.lr, Schedule) else {})


@dataclass(frozen=True)
class SGD(Optimizer):
    """Updates p <- p - lr g (stochastic gradient descent)."""

    lr: float | Schedule = 0.01
    weight_decay: float = 0.0

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        sgd_step(p, g, lr, self.weight_decay)


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Descends the gradient with momentum (Polyak). momentum: at least 0 and below 1."""

    lr: float | Schedule = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    _slots = ("v",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        momentum_step(p, g, state["v"], lr, self.momentum, self.weight_decay)


@dataclass(frozen=True)
class Nesterov(Optimizer):
    """Descends the gradient with Nesterov's momentum. momentum: at least 0 and below 1."""

    lr: float | Schedule = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0

    _slots = ("v",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        nesterov_step(p, g, state["v"], lr, self.momentum, self.weight_decay)


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """Divides each step by the root of the sum of the squared gradients so far. eps: positive, added to the root."""

    lr: float | Schedule = 0.01
    eps: float = 1e-10
    weight_decay: float = 0.0

    _slots = ("h",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        adagrad_step(p, g, state["h"], lr, self.eps, self.weight_decay)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Updates as AdaGrad, with a decaying average of squared gradients. alpha: its decay, in [0, 1). eps: positive."""

    lr: float | Schedule = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    _slots = ("h",)

    def update(self, p: Array, g: Array, state: State, t: int | Array, lr: float | Array) -> None:
        rmsprop_step(p, g, state["h"], lr, self.alpha, self.eps, self.weight_decay)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Divides a decaying mean of the gradient by the root of a decaying mean of its square.

    beta1, beta2: the decay of the two means (moments), at least 0 and below 1. eps: positive, added to the root.
    """

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
    """Updates as Adam, with decoupled weight decay: it shrinks the values directly, not through the moments."""

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
    """Return the optimizer of that name. settings: its fields; lr may also be the config of a schedule.

    Raises ValueError for an unknown name. The message gives the nearest known name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(unknown_name("optimizer", name, OPTIMIZERS))
    if isinstance(settings.get("lr"), Mapping):
        settings["lr"] = schedule(settings["lr"])
    return OPTIMIZERS[name](**settings)


_CHECKS: dict[str, Callable[[str, float], None]] = {
    "lr": positive,
    "momentum": decay,
    "alpha": decay,
    "beta1": decay,
    "beta2": decay,
    "eps": positive,
    "weight_decay": not_negative,
}
