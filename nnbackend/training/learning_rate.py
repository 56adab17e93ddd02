"""Look for a learning rate: train a copy of a network with rates that rise from step to step, and see what helps."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from nnbackend.backends import describe, on_its_device, to_numpy
from nnbackend.checks import at_least, positive
from nnbackend.errors import NumericalError
from nnbackend.functions.array import Array
from nnbackend.network import Network
from nnbackend.optimizers import Adam, Optimizer
from nnbackend.schedules import Exponential
from nnbackend.training.trainer import Trainer

SMOOTHNESS = 0.9  # the part of the smoothed loss that a step keeps
HOPELESS = 4.0  # how many times the least smoothed loss is a loss from which no rate comes back
LOOKS = 20  # times that the host reads the losses


@dataclass(frozen=True)
class LearningRateRange:
    """Holds what `learning_rate_range` found. rates: the learning rate of each step. losses: the loss of its batch."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def smoothed(self) -> tuple[float, ...]:
        """Return the losses without their noise: the mean of those so far, in which the last ones count most."""
        total, found = 0.0, []
        for i, loss in enumerate(self.losses, 1):
            total = SMOOTHNESS * total + (1.0 - SMOOTHNESS) * loss
            found.append(total / (1.0 - SMOOTHNESS**i))
        return tuple(found)

    @property
    def suggestion(self) -> float:
        """Return the rate at which the smoothed loss falls most steeply, on a logarithmic axis of rates.

        It is a rate to begin with. The largest rate of a schedule such as OneCycle may be a few times larger.
        """
        losses, reach = self.smoothed, max(1, len(self.losses) // 20)  # far enough for the noise not to be steep
        lowest = min(range(len(losses)), key=losses.__getitem__)
        middles = range(reach, max(reach + 1, min(lowest, len(losses) - reach)))
        falls = [losses[min(i + reach, len(losses) - 1)] - losses[i - reach] for i in middles]
        return self.rates[middles[min(range(len(falls)), key=falls.__getitem__)]]

    def __str__(self) -> str:
        return (
            f"learning rate {self.suggestion:.2g}: from {self.rates[0]:.2g} to {self.rates[-1]:.2g}, the loss falls "
            f"most steeply there"
        )

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw the losses by learning rate. Return the matplotlib figure, and write it to `path` if one is given.

        Raises ImportError, with the pip line, if matplotlib is missing.
        """
        from nnbackend.plotting import plot_learning_rates

        return plot_learning_rates(self.rates, self.losses, self.smoothed, self.suggestion, path)


class _Enough(Exception):
    """The range is searched."""


class _Losses:
    """Keeps the loss of every step on the device, and ends the search when it is done or hopeless."""

    def __init__(self, steps: int):
        self._steps, self._every = steps, max(1, steps // LOOKS)
        self.kept: list[Array] = []

    def __call__(self, trainer: Trainer) -> None:
        pass

    def after_step(self, trainer: Trainer) -> None:
        at = trainer.state.step - 1
        self.kept.append(trainer.backend.xp.asarray(trainer.state.metrics[0, at : at + 1], copy=True))
        done = len(self.kept)
        if done == self._steps or (done % self._every == 0 and len(self.hopeful()) < done):
            raise _Enough

    def hopeful(self) -> list[float]:
        """Return the losses before the first that is not finite, or far above the least. Reads the device."""
        losses = [float(to_numpy(loss)[0]) for loss in self.kept]
        end = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
        smoothed: Sequence[float] = LearningRateRange((), tuple(losses[:end])).smoothed
        least = math.inf
        for i, loss in enumerate(smoothed):
            least = min(least, loss)
            if loss > HOPELESS * least > 0:
                return losses[:i]
        return losses[:end]


def learning_rate_range(
    network: Network,
    x: Any,
    t: Any = None,
    optimizer: Optimizer | None = None,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    **settings: Any,
) -> LearningRateRange:
    """Train a copy of the network for a few steps, with learning rates that rise from `low` to `high`.

    Smith (2017), "Cyclical learning rates for training neural networks", section 3.3. x, t: data, as `Trainer.fit`
    takes it. optimizer: the rule to search a rate for, Adam by default; its own rate does not matter. steps: how many
    rates are tried; they are evenly spaced on a logarithmic axis. settings: further ones of `Trainer`, such as
    batch_size. The search ends early where the loss is lost. The network does not change. Ctrl-C raises
    KeyboardInterrupt after the current step.

    Raises ValueError for a range that is none, fewer than 10 steps, or a network whose loss is lost from the start; and
    as Trainer and its `fit` do.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network: expected a Network, got {describe(network)}")
    positive("low", low)
    positive("high", high)
    if low >= high:
        raise ValueError(f"low must be below high, got low={low!r} and high={high!r}")
    at_least("steps", steps, 10)
    rule = Adam() if optimizer is None else optimizer
    if not isinstance(rule, Optimizer):
        raise TypeError(f"optimizer: expected an optimizer such as Adam(), got {optimizer!r}")
    schedule = Exponential(float(low), (high / low) ** (1.0 / (steps - 1)))
    copy = network.to(network.backend)
    copy.freeze(*network.frozen)
    trainer, losses = Trainer(copy, replace(rule, lr=schedule), **settings), _Losses(steps)
    return _searched(trainer, losses, schedule, x, t, steps)


@on_its_device
def _searched(
    trainer: Trainer, losses: _Losses, schedule: Exponential, x: Any, t: Any, steps: int
) -> LearningRateRange:
    with suppress(_Enough, NumericalError):  # an epoch may end with values that are not finite
        if trainer.fit(x, t, epochs=steps, callbacks=[losses]).interrupted:
            raise KeyboardInterrupt("the search of a learning rate was interrupted")
    found = losses.hopeful()
    if len(found) < 3:
        raise ValueError(f"the loss is lost from the start, with learning rates from {schedule.lr:.2g} on: lower `low`")
    return LearningRateRange(tuple(schedule(i) for i in range(len(found))), tuple(found))
