"""Callbacks: functions that `Trainer.fit` calls with the trainer after every epoch. One that returns True ends it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnbackend.checks import not_negative, positive_integer
from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array
from nnbackend.training.trainer import Trainer

SIGNS = {"loss": 1, "val_loss": 1, "accuracy": -1, "val_accuracy": -1}  # 1: less is better


@dataclass
class EarlyStopping:
    """Ends the fit when `monitor` has not improved by more than min_delta for `patience` epochs (Prechelt 1998).

    monitor: "val_loss", "val_accuracy", "loss" or "accuracy". restore_best: whether the network gets the values and
    running statistics of the best epoch back at the end of the fit. After Ctrl-C the network keeps the last values, so
    that the next fit can go on. The optimizer's state and the history stay as they are: if a further fit follows, it
    goes on from the best values, and the run differs from one that was longer from the start.

    best: the best value so far. best_epoch: its epoch, from 1. Both are None before the first epoch.
    Raises ValueError for an unknown monitor, a patience that is not a positive integer, or a negative min_delta; and in
    a fit that does not record the monitor.
    """

    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    restore_best: bool = True
    best: float | None = field(default=None, init=False)
    best_epoch: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.monitor not in SIGNS:
            raise ValueError(unknown_name("monitor", self.monitor, SIGNS))
        positive_integer("patience", self.patience)
        not_negative("min_delta", self.min_delta)
        self._trainer: Trainer | None = None
        self._waited = 0
        self._kept: Mapping[str, Array] | None = None

    def __call__(self, trainer: Trainer) -> bool:
        self._meet(trainer)
        recorded = getattr(trainer.history, self.monitor)
        if not recorded:
            raise ValueError(f"EarlyStopping: there is no {self.monitor} to monitor in this fit")
        if self._improves(recorded[-1]):
            self.best, self.best_epoch, self._waited = recorded[-1], trainer.epoch, 0
            self._kept = trainer.network.buffer.snapshot() if self.restore_best else None
        else:
            self._waited += 1
        stop = self._waited >= self.patience
        if (stop or trainer.epoch == trainer.last_epoch) and self._kept is not None:
            trainer.network.buffer.restore(self._kept)
        if stop:
            self._waited = 0  # a further fit has its patience again
        return stop

    def _meet(self, trainer: Trainer) -> None:
        if trainer is not self._trainer:  # another run: the best of the last one does not count
            self._trainer, self.best, self.best_epoch = trainer, None, None
            self._waited, self._kept = 0, None

    def snapshot(self, trainer: Trainer) -> dict[str, Any]:
        """Return the state for a checkpoint: numbers and arrays by name."""
        self._meet(trainer)
        kept = {f"kept.{name}": value for name, value in (self._kept or {}).items()}
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self._waited, **kept}

    def restore(self, trainer: Trainer, snapshot: Mapping[str, Any]) -> None:
        """Take back the state that `snapshot` has returned. Raise ValueError if it is not one of this network."""
        kept = {name.removeprefix("kept."): value for name, value in snapshot.items() if name.startswith("kept.")}
        shapes, own = (
            {name: (tuple(a.shape), a.dtype) for name, a in b.items()}
            for b in (kept, trainer.network.buffer.snapshot())
        )
        best, epoch, waited = (snapshot.get(name) for name in ("best", "best_epoch", "waited"))
        if not (
            (not kept or shapes == own)
            and (isinstance(best, float) or best is None)
            and (isinstance(epoch, int) or epoch is None)
            and isinstance(waited, int)
            and waited >= 0
        ):
            raise ValueError(f"EarlyStopping cannot go on from best={best!r}, waited={waited!r}, values of {shapes}")
        self._trainer, self.best, self.best_epoch, self._waited = trainer, best, epoch, waited
        self._kept = kept or None

    def _improves(self, value: float) -> bool:
        sign = SIGNS[self.monitor]
        return sign * value < (math.inf if self.best is None else sign * self.best - self.min_delta)
