"""Callbacks: functions that `Trainer.fit` calls with the trainer after every epoch. One that returns True ends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnbackend.checks import not_negative, number, positive_integer
from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array
from nnbackend.training.trainer import Trainer

SIGNS = {"loss": 1, "val_loss": 1, "accuracy": -1, "val_accuracy": -1}  # 1: less is better


@dataclass
class Watching:
    """Base class of callbacks that watch one list of the history: does it still improve?

    monitor: "val_loss", "val_accuracy", "loss", "accuracy", or the name of a metric that `fit` is given.
    patience: the epochs without an improvement after which the callback acts. min_delta: the least improvement that
    counts. greater_is_better: whether larger values of a metric are better; for the four others it is known.

    best: the best value so far. best_epoch: its epoch, from 1. Both are None before the first epoch.
    Raises ValueError for an unknown monitor, a patience that is not a positive integer, or a negative min_delta; and in
    a fit that does not record the monitor.
    """

    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    greater_is_better: bool | None = field(default=None, kw_only=True)
    best: float | None = field(default=None, init=False)
    best_epoch: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        known = self.monitor in SIGNS
        if not known and self.greater_is_better is None:
            hint = " If it is a metric of your own, say whether greater_is_better."
            raise ValueError(unknown_name("monitor", self.monitor, SIGNS) + hint)
        if known and self.greater_is_better not in (None, SIGNS[self.monitor] < 0):
            raise ValueError(f"greater_is_better is {self.greater_is_better!r}, which is wrong for {self.monitor}")
        positive_integer("patience", self.patience)
        not_negative("min_delta", self.min_delta)
        self._sign = SIGNS[self.monitor] if known else -1 if self.greater_is_better else 1
        self._trainer: Trainer | None = None
        self._waited = 0

    def _improves(self, trainer: Trainer) -> bool:
        """Look at the epoch that has ended: note its value if it is the best one, else count it."""
        self._meet(trainer)
        recorded = trainer.history.values(self.monitor)
        if not recorded:
            raise ValueError(f"{type(self).__name__}: there is no {self.monitor} to monitor in this fit")
        value = recorded[-1]
        limit = math.inf if self.best is None else self._sign * self.best - self.min_delta
        if self._sign * value < limit:
            self.best, self.best_epoch, self._waited = value, trainer.epoch, 0
            return True
        self._waited += 1
        return False

    def _meet(self, trainer: Trainer) -> None:
        if trainer is not self._trainer:  # another run: the best of the last one does not count
            self._trainer, self.best, self.best_epoch, self._waited = trainer, None, None, 0

    def snapshot(self, trainer: Trainer) -> dict[str, Any]:
        """Return the state for a checkpoint: numbers and arrays by name."""
        self._meet(trainer)
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self._waited}

    def restore(self, trainer: Trainer, snapshot: Mapping[str, Any]) -> None:
        """Take back the state that `snapshot` has returned. Raise ValueError if it is not one of this network."""
        best, epoch, waited = (snapshot.get(name) for name in ("best", "best_epoch", "waited"))
        if not (
            (isinstance(best, float) or best is None)
            and (isinstance(epoch, int) or epoch is None)
            and isinstance(waited, int)
            and waited >= 0
        ):
            raise ValueError(f"{type(self).__name__} cannot go on from best={best!r}, waited={waited!r}")
        self._trainer, self.best, self.best_epoch, self._waited = trainer, best, epoch, waited


@dataclass
class EarlyStopping(Watching):
    """Ends the fit when `monitor` has not improved by more than min_delta for `patience` epochs (Prechelt 1998).

    restore_best: whether the network gets the values and running statistics of the best epoch back at the end of the
    fit. After Ctrl-C the network keeps the last values, so that the next fit can go on. The optimizer's state and the
    history stay as they are: if a further fit follows, it goes on from the best values, and the run differs from one
    that was longer from the start. All else: see `Watching`.
    """

    restore_best: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._kept: Mapping[str, Array] | None = None

    def __call__(self, trainer: Trainer) -> bool:
        if self._improves(trainer):
            self._kept = trainer.network.buffer.snapshot() if self.restore_best else None
        stop = self._waited >= self.patience
        if stop or trainer.epoch == trainer.last_epoch:
            self._end_fit(trainer)
        if stop:
            self._waited = 0  # a further fit has its patience again
        return stop

    def _end_fit(self, trainer: Trainer) -> None:
        """Give the network the best values back; called, too, when another callback ends the fit."""
        if self._kept is not None and trainer is self._trainer:
            trainer.network.buffer.restore(self._kept)

    def _meet(self, trainer: Trainer) -> None:
        if trainer is not self._trainer:
            self._kept = None
        super()._meet(trainer)

    def snapshot(self, trainer: Trainer) -> dict[str, Any]:
        """Return the state for a checkpoint: numbers and arrays by name."""
        state = super().snapshot(trainer)
        return state | {f"kept.{name}": value for name, value in (self._kept or {}).items()}

    def restore(self, trainer: Trainer, snapshot: Mapping[str, Any]) -> None:
        """Take back the state that `snapshot` has returned. Raise ValueError if it is not one of this network."""
        kept = {name.removeprefix("kept."): value for name, value in snapshot.items() if name.startswith("kept.")}
        shapes, own = (
            {name: (tuple(a.shape), a.dtype) for name, a in b.items()}
            for b in (kept, trainer.network.buffer.snapshot())
        )
        if kept and shapes != own:
            raise ValueError(f"EarlyStopping cannot go on from values of {shapes}")
        super().restore(trainer, snapshot)
        self._kept = kept or None


@dataclass
class ReduceLROnPlateau(Watching):
    """Multiplies the learning rate by `factor` whenever `monitor` has not improved for `patience` epochs.

    The factors pile up, and with a schedule they multiply what it says. least: the smallest product of all factors.
    As PyTorch's class of this name, but that `patience` counts as in EarlyStopping: PyTorch waits one epoch longer.
    All else: see `Watching`. Raises ValueError for a factor or a least that does not lie between 0 and 1.
    """

    factor: float = 0.1
    least: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("factor", self.factor), ("least", self.least)):
            number(name, value)
            if not 0 < value < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")

    def __call__(self, trainer: Trainer) -> None:
        if not self._improves(trainer) and self._waited >= self.patience:
            self._waited = 0
            scale = trainer.state.optimizer.get("lr_scale", 1.0)
            trainer.state.optimizer["lr_scale"] = max(scale * self.factor, min(scale, self.least))

    def snapshot(self, trainer: Trainer) -> dict[str, Any]:
        """Return the state for a checkpoint: numbers by name."""
        return super().snapshot(trainer) | {"scale": float(trainer.state.optimizer.get("lr_scale", 1.0))}

    def restore(self, trainer: Trainer, snapshot: Mapping[str, Any]) -> None:
        """Take back the state that `snapshot` has returned. Raise ValueError if it makes no sense."""
        scale = snapshot.get("scale")
        if not isinstance(scale, float) or not 0 < scale <= 1:
            raise ValueError(f"ReduceLROnPlateau cannot go on from scale={scale!r}")
        super().restore(trainer, snapshot)
        if scale != 1:
            trainer.state.optimizer["lr_scale"] = scale
