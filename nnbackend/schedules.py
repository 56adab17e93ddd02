"""Learning-rate schedules: frozen settings that are called with the number of steps taken.

`Adam(lr=Cosine(1e-3, steps=5000))`. A schedule counts updates; an epoch has ceil(rows / batch_size) of them. A
schedule has no state. The optimizer passes its own step count, so that a resumed run continues exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nnbackend.checks import number, positive, positive_integer
from nnbackend.errors import unknown_name


@dataclass(frozen=True)
class Schedule:
    """Gives a learning rate for every step. A subclass is a frozen dataclass with `__call__`.

    The constructor raises ValueError for a setting that is out of range.
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate of the next step after `step` steps; `step` is 0 for the first one."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return kind and settings as JSON-able values; `schedule` makes the schedule again."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": type(self).__name__} | {
            name: value.config() if isinstance(value, Schedule) else value for name, value in settings.items()
        }


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplies lr by `factor` after every `every` steps: lr factor^(step // every), PyTorch's StepLR."""

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive_integer("every", self.every)
        positive("factor", self.factor)

    def __call__(self, step: int) -> float:
        return float(self.lr * self.factor ** (step // self.every))


@dataclass(frozen=True)
class Exponential(Schedule):
    """Multiplies lr by `factor` after every step: lr factor^step, PyTorch's ExponentialLR."""

    lr: float
    factor: float

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive("factor", self.factor)

    def __call__(self, step: int) -> float:
        return float(self.lr * self.factor**step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Falls from lr to lr_min along half a cosine in `steps` steps, and stays there.

    Loshchilov, Hutter (2017), without restarts. PyTorch's CosineAnnealingLR gives the same rates up to `steps`.
    """

    lr: float
    steps: int
    lr_min: float = 0.0

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive_integer("steps", self.steps)
        number("lr_min", self.lr_min)
        if not 0 <= self.lr_min <= self.lr:
            raise ValueError(f"lr_min must lie in 0 to lr, which is {self.lr}, got {self.lr_min!r}")

    def __call__(self, step: int) -> float:
        return _along_cosine(self.lr, self.lr_min, step / self.steps)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rises from lr / div to lr, falls to lr / (div final_div), and stays there; both along half a cosine.

    steps: the length of rise and fall together. rise: the fraction of `steps` in which the rate rises.
    Smith, Topin (2018); PyTorch's OneCycleLR.
    """

    lr: float
    steps: int
    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive_integer("steps", self.steps)
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
    """Rises linearly from `start` times the learning rate to the learning rate in `steps` steps, then follows `after`.

    after: a constant learning rate, or a schedule that counts from the end of the warm-up. start: in [0, 1].
    Goyal et al. (2017); PyTorch's LinearLR, followed by `after` in a SequentialLR.
    """

    after: Schedule | float
    steps: int
    start: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.after, Schedule):
            positive("after", self.after)
        positive_integer("steps", self.steps)
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
    """Return the schedule that a result of `Schedule.config` describes.

    Raises ValueError for an unknown kind and for settings that do not fit the kind.
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
    """Return the learning rate of the next step after `step` steps. lr: a schedule or a number."""
    return float(lr(step)) if isinstance(lr, Schedule) else lr


def _along_cosine(first: float, last: float, share: float) -> float:
    """Return the value on half a cosine: `first` at share 0, `last` at share 1 and beyond."""
    return last + (first - last) * (1.0 + math.cos(math.pi * min(share, 1.0))) / 2.0
