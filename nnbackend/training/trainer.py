"""The training loop. A step is a device program: nothing inside it reads a device value on the host."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from nnbackend.backend import to_numpy
from nnbackend.errors import NumericalError
from nnbackend.functions.array import Array, pieces
from nnbackend.network import Network
from nnbackend.optimizers import Optimizer
from nnbackend.random import checked_seed, host_generator
from nnbackend.training.faults import all_finite, first_not_finite
from nnbackend.training.history import History
from nnbackend.training.interrupt import listen
from nnbackend.training.progress import Progress


class Trainer:
    """Trains a network by mini-batches.

    batch_size: rows per step, at least 1; the last batch of an epoch holds what is left over.
    seed: decides the order of the rows: epoch e is shuffled by (seed, e) and nothing else.

    `fit` again goes on: with the next epoch, or within the one that an interrupt cut short. `history` covers all
    fits. Raises ValueError for a batch_size that is no positive integer.
    """

    def __init__(self, network: Network, optimizer: Optimizer, *, batch_size: int = 100, seed: int = 0):
        if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an optimizer such as Adam(), got {optimizer!r}")
        self.network, self.optimizer = network, optimizer
        self.batch_size, self.seed = int(batch_size), checked_seed(seed)
        self.state = optimizer.init(network.buffer.data)
        self.history = History()
        self.epoch = 0  # epochs completed
        self.position = 0  # batches done in the epoch that is under way
        self._seconds = 0.0  # spent on that epoch so far
        self._figures: Array = None  # (2, batches): loss and correct rows of each of its batches, on the device

    def fit(
        self,
        x: Any,
        t: Any,
        epochs: int = 1,
        *,
        validation: tuple[Any, Any] | None = None,
        progress: bool = False,
    ) -> History:
        """Train for `epochs` further epochs and return the history.

        x: (n, ...) rows, t: n targets, as the network's loss takes them; validation: the same, evaluated after every
        epoch. Host data is moved to the network's backend once. progress: show a bar.

        Ctrl-C finishes the step in hand and returns, with `history.interrupted` set. A loss that is not finite
        raises NumericalError, which names epoch, step and the first layer at fault; the network then holds the last
        values before that step. Raises ValueError for data that is empty, not finite, of unequal lengths, smaller
        than a batch, or does not fit the network.
        """
        if not isinstance(epochs, int | np.integer) or isinstance(epochs, bool) or epochs < 1:
            raise ValueError(f"epochs must be a positive integer, got {epochs!r}")
        x, t = self._checked(x, t, "x")
        if self.batch_size > x.shape[0]:
            raise ValueError(f"batch_size is {self.batch_size}, but the data has only {x.shape[0]} rows")
        if validation is not None:
            validation = self._checked(*validation, "validation x")
        last = self.epoch + epochs
        self.history.interrupted = False
        with listen() as interrupt:
            while self.epoch < last and not self.history.interrupted:
                self._run_epoch(x, t, last, validation, progress, interrupt)
        return self.history

    def _run_epoch(
        self,
        x: Array,
        t: Array,
        last: int,
        validation: tuple[Array, Array] | None,
        progress: bool,
        interrupt: Any,
    ) -> None:
        n = x.shape[0]
        steps = math.ceil(n / self.batch_size)
        batches = self._batches(n)
        if self.position == 0 or self._figures.shape[1] != steps:
            self.position, self._seconds = 0, 0.0
            self._figures = self.network.backend.zeros((2, steps), self.network.dtype)
        snapshot, first = self._snapshot(), self.position
        began = time.perf_counter()
        with Progress(progress, self.epoch + 1, last, n, steps, min(n, first * self.batch_size)) as bar:
            while self.position < steps and not interrupt.requested:
                rows = batches[self.position]
                self._step(x, t, rows)
                self.position += 1
                bar.advance(rows.shape[0])
                if bar.wants_figures(self.position):
                    bar.show(**self._summary(n, snapshot, first, x, t, batches))
            summary = self._summary(n, snapshot, first, x, t, batches)
            if self.position < steps:
                self.history.interrupted = True
            else:
                if validation is not None:
                    loss, accuracy = self.network.evaluate(*validation)
                    summary["val_loss"] = float(loss)
                    summary["val_accuracy"] = None if accuracy is None else float(accuracy)
                bar.show(**summary)
        self._seconds += time.perf_counter() - began
        if self.position == steps:
            self._record(summary, n)

    def _step(self, x: Array, t: Array, rows: Array) -> None:
        """One batch: gather, forward, backward, update, and note the loss, all on the device."""
        network = self.network
        xp = network.backend.xp
        x, t = xp.take(x, rows, axis=0), xp.take(t, rows, axis=0)
        loss, y = network.loss_and_output(x, t)
        network.backward()
        self.optimizer.step(network.buffer.data, network.buffer.grad, self.state)
        self._figures[0, self.position] = loss
        if network.loss_layer.classifies:
            self._figures[1, self.position] = xp.astype(network.loss_layer.count_correct(y, t), y.dtype)

    def _batches(self, n: int) -> list[Array]:
        """The epoch's row numbers, batch by batch, as slices of one shuffled array on the device."""
        order = host_generator(self.seed, self.epoch).permutation(n)
        order = self.network.backend.asarray(order, "int64")
        return [order[piece] for piece in pieces(n, self.batch_size)]

    def _summary(
        self, n: int, snapshot: dict[str, Any], first: int, x: Array, t: Array, batches: list[Array]
    ) -> dict[str, float | None]:
        """Mean loss and accuracy of the epoch so far: the one place where training reads the device."""
        losses, correct = to_numpy(self._figures)[:, : self.position].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size or not all_finite(self.network.buffer.data):
            self._fail(int(bad[0]) if bad.size else self.position, snapshot, first, x, t, batches)
        sizes = np.array([rows.shape[0] for rows in batches[: self.position]])
        rows_done = max(1, int(sizes.sum()))
        return {
            "loss": float(losses @ sizes / rows_done),
            "accuracy": float(correct.sum() / rows_done) if self.network.loss_layer.classifies else None,
        }

    def _record(self, summary: dict[str, float | None], n: int) -> None:
        history = self.history
        for name, value in summary.items():
            if value is not None:
                getattr(history, name).append(value)
        history.seconds.append(self._seconds)
        history.samples_per_second.append(n / self._seconds)
        self.epoch, self.position = self.epoch + 1, 0

    def _checked(self, x: Any, t: Any, argument: str) -> tuple[Array, Array]:
        x, t = self.network.data(x, t)
        if not all_finite(x):
            raise ValueError(f"{argument} contains NaN or infinity")
        return x, t

    # --- the way back to the last good values -------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Any]:
        """Everything that a step changes, copied."""
        copy = self.network.backend.xp.asarray
        state = {
            name: value if isinstance(value, int) else copy(value, copy=True) for name, value in self.state.items()
        }
        return {"network": self.network.buffer.snapshot(), "optimizer": state}

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self.network.buffer.restore(snapshot["network"])
        self.state = snapshot["optimizer"]

    def _fail(self, bad: int, snapshot: dict[str, Any], first: int, x: Array, t: Array, batches: list[Array]) -> None:
        """Repeat the epoch up to the step that failed, which leaves the last good values, and say what failed.

        bad: the first step (from 0) whose loss, or whose starting values, are not finite.
        """
        self._restore(snapshot)
        for self.position in range(first, bad):
            snapshot = self._snapshot() if self.position == bad - 1 else snapshot
            self._step(x, t, batches[self.position])
        if bad > first and not all_finite(self.network.buffer.data):  # the step before had a finite loss only
            self._restore(snapshot)
            bad -= 1
        self.position = bad
        xp = self.network.backend.xp
        rows, good = batches[bad], self._snapshot()
        self.network.buffer.clock += 1  # the masks of that step
        place = first_not_finite(self.network, xp.take(x, rows, axis=0), xp.take(t, rows, axis=0))
        self._restore(good)
        raise NumericalError(
            f"training met a value that is not finite at epoch {self.epoch + 1}, step {bad + 1}: {place}. "
            f"The network holds the values before that step."
        )
