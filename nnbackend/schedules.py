"""Learning rates that change: frozen settings, called with the number of steps taken, plain arithmetic on the host.

`Adam(lr=Cosine(1e-3, steps=5000))`. A schedule counts updates (an epoch has ceil(rows / batch_size) of them) and has
no state: the optimizer asks it with its own step count, so that a run that was interrupted goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from nnbackend.errors import unknown_name


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every step. A subclass is a frozen dataclass with `__call__`.

    Its settings are checked when it is made: ValueError for one that is out of range.
    """

    def __call__(self, step: int) -> float:
        """The learning rate of the step after `step` steps, which is 0 for the first."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Kind and settings as JSON knows them; `schedule` makes the schedule again."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": type(self).__name__} | {
            name: value.config() if isinstance(value, Schedule) else value for name, value in settings.items()
        }


@dataclass(frozen=True)
class StepDecay(Schedule):
    """lr factor^(step // every): times `factor` after every `every` steps (PyTorch's StepLR)."""

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        _steps("every", self.every)
        positive("factor", self.factor)

    def __call__(self, step: int) -> float:
        return float(self.lr * self.factor ** (step // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr factor^step (PyTorch's ExponentialLR)."""

    lr: float
    factor: float

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive("factor", self.factor)

    def __call__(self, step: int) -> float:
        return float(self.lr * self.factor**step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From lr down to lr_min along half a cosine in `steps` steps, then lr_min (Loshchilov, Hutter 2017, without
    restarts; PyTorch's CosineAnnealingLR up to there).
    """

    lr: float
    steps: int
    lr_min: float = 0.0

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        _steps("steps", self.steps)
        number("lr_min", self.lr_min)
        if not 0 <= self.lr_min <= self.lr:
            raise ValueError(f"lr_min must lie in 0 to lr, which is {self.lr}, got {self.lr_min!r}")

    def __call__(self, step: int) -> float:
        return _along_cosine(self.lr, self.lr_min, step / self.steps)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from lr / div to lr in the share `rise` of `steps` steps, then down to lr / (div final_div), where it
    stays; both along half a cosine (Smith, Topin 2018; PyTorch's OneCycleLR).
    """

    lr: float
    steps: int
    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        _steps("steps", self.steps)
        number("rise", self.rise)
        if not 0 <= self.rise <= 1:
            raise ValueError(f"rise must lie in 0 to 1, got {self.rise!r}")
        positive("div", self.div)
        positive("final_div", self.final_div)

    def __call__(self, step: int) -> float:
        peak, last = self.rise * self.steps - 1, self.steps - 1
        if step < peak:
            return _along_cosine(self.lr / self.div, self.lr, step / peak)
        end = self.lr / self.div / self.final_div
        return _along_cosine(self.lr, end, (step - peak) / (last - peak) if last > peak else float(step > last))


@dataclass(frozen=True)
class WarmUp(Schedule):
    """From start times the learning rate straight up to it in `steps` steps; then `after`, a schedule that counts
    from there, or a constant learning rate (Goyal et al. 2017; PyTorch's LinearLR, and SequentialLR with what is
    after).
    """

    after: Schedule | float
    steps: int
    start: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.after, Schedule):
            positive("after", self.after)
        _steps("steps", self.steps)
        number("start", self.start)
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must lie in 0 to 1, got {self.start!r}")

    def __call__(self, step: int) -> float:
        lr = rate(self.after, max(0, step - self.steps))
        return lr if step >= self.steps else lr * (self.start + (1.0 - self.start) * step / self.steps)


SCHEDULES: dict[str, type[Schedule]] = {
    kind.__name__: kind for kind in (Cosine, Exponential, OneCycle, StepDecay, WarmUp)
}


def schedule(config: Mapping[str, Any]) -> Schedule:
    """The schedule that `Schedule.config` describes. ValueError for an unknown kind, with the nearest known one, and
    for settings that do not fit it.
    """
    settings = {name: schedule(value) if isinstance(value, Mapping) else value for name, value in config.items()}
    kind = settings.pop("kind", None)
    if kind not in SCHEDULES:
        raise ValueError(unknown_name("schedule", kind, SCHEDULES))
    try:
        return SCHEDULES[kind](**settings)
    except TypeError as error:
        raise ValueError(f"schedule {kind}: {error}") from error


def rate(lr: Schedule | float, step: int) -> float:
    """The learning rate of the step after `step` steps, whichever way it is given."""
    return float(lr(step)) if isinstance(lr, Schedule) else lr


def _along_cosine(first: float, last: float, share: float) -> float:
    """`first` at a share of 0, `last` from 1 on."""
    return last + (first - last) * (1.0 + math.cos(math.pi * min(share, 1.0))) / 2.0


# --- numbers among settings, for optimizers too --------------------------------------------------------------------


def number(argument: str, value: object) -> None:
    """ValueError for what is no number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{argument} must be a number, got {value!r}")


def positive(argument: str, value: float) -> None:
    """ValueError for what is no positive finite number."""
    number(argument, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{argument} must be positive and finite, got {value!r}")


def _steps(argument: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{argument} must be a positive integer, got {value!r}")
