"""The training loop. A step is a device program: nothing inside it reads a device value on the host."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from nnbackend.backends import Backend, describe, on_its_device, to_numpy
from nnbackend.backends.steps import Launch, Rows, Uncaptured
from nnbackend.checks import positive, positive_integer
from nnbackend.errors import ModelFileError, NumericalError
from nnbackend.functions.array import Array, MaybeArray
from nnbackend.functions.optimizers import clip_by_norm
from nnbackend.layers.base import Same
from nnbackend.network import Network, given
from nnbackend.optimizers import Optimizer
from nnbackend.random import checked_seed, host_generator
from nnbackend.training.checkpoint import (
    Checkpoint,
    Keeper,
    Resumed,
    Stamp,
    fingerprints,
    keeping,
    parted,
    restore,
    resume_fit,
    stamp,
)
from nnbackend.training.faults import all_finite, first_not_finite
from nnbackend.training.history import History
from nnbackend.training.interrupt import Interrupt, listen
from nnbackend.training.memory import size_that_fits
from nnbackend.training.progress import Progress
from nnbackend.training.step import recorded_pass, several_passes

Data: TypeAlias = tuple[Array, Array, Array | None]  # x, t, weight


class Trainer:
    """Trains a network by mini-batches.

    batch_size: rows per pass, at least 1; the last batch of an epoch holds what is left over.
    seed: decides the order of the rows: epoch e is shuffled by (seed, e) and nothing else.
    clip_norm: a gradient whose Euclidean norm is larger is scaled down to it (Pascanu, Mikolov, Bengio 2013).
    accumulate: batches per step. Their gradients add up to that of one batch of accumulate batch_size rows, in the
    memory of batch_size (what looks at a batch as a whole, such as BatchNormalization, still sees batch_size rows).
    on_fault: a step after which the loss, a value or the optimizer's state is not finite will "stop" the training, or
    is undone and left out ("skip", which costs a copy of all values and a look at them in every step).
    drop_last: whether to leave out the rows of an epoch that do not fill a last step.
    checkpoint: a Checkpoint, or the path of one that is written after every epoch.

    `fit` again goes on: with the next epoch, or within the one that an interrupt cut short. `history` covers all
    fits. Raises ValueError for a batch_size or accumulate that is no positive integer, a clip_norm that is no positive
    number, another on_fault.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        *,
        batch_size: int = 100,
        seed: int = 0,
        clip_norm: float | None = None,
        accumulate: int = 1,
        on_fault: str = "stop",
        drop_last: bool = False,
        checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    ):
        positive_integer("batch_size", batch_size)
        positive_integer("accumulate", accumulate)
        if not isinstance(network, Network):
            raise TypeError(f"network: expected a Network, got {describe(network)}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an optimizer such as Adam(), got {optimizer!r}")
        if clip_norm is not None:
            positive("clip_norm", clip_norm)
        if on_fault not in ("stop", "skip"):
            raise ValueError(f'on_fault must be "stop" or "skip", got {on_fault!r}')
        self.network, self.optimizer = network, optimizer
        self.batch_size, self.seed = int(batch_size), checked_seed(seed)
        self.clip_norm = None if clip_norm is None else float(clip_norm)
        self.accumulate, self.on_fault, self.drop_last = int(accumulate), on_fault, bool(drop_last)
        self.checkpoint = Checkpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
        if not isinstance(self.checkpoint, Checkpoint | None):
            raise TypeError(f"checkpoint: expected a Checkpoint or a path, got {checkpoint!r}")
        with network.backend.active():
            self.state = optimizer.init(network.buffer.data)
        self._gradient_sum: MaybeArray = None  # room for it, from the first step with accumulate on
        self.history = History()
        self.epoch = 0  # epochs completed
        self.position = 0  # steps done in the epoch that is under way
        self.fits = 0  # calls of fit so far
        self.began, self.last_epoch = 0, 0  # the epochs between which the present fit lies
        self.seconds = 0.0  # spent on the epoch that is under way
        # of each of its steps, on the device: loss, correct rows; with sample weights also their sum
        self.figures: MaybeArray = None
        self.seen: Stamp = None  # what the checkpoint file was when this trainer last read or wrote it
        self._resumed: Resumed | None = None
        self._mean_weight: float | None = None  # of the rows of the present fit; None if nothing weights them
        self._runner: Any = None  # keeps what it has made of the step from one fit to the next
        self._drawn: tuple[tuple[int, int, int], Any] | None = None  # an order of rows, and what it depends on

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.settings().items() if name != "optimizer" and value is not None}
        settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        return f"<Trainer of {self.network!r} by {self.optimizer!r}, {settings}, epochs done: {self.epoch}>"

    @property
    def backend(self) -> Backend:
        """Return the network's backend."""
        return self.network.backend

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return vars(self) | {"_runner": None, "_drawn": None}

    @on_its_device
    def resume(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Take up the run whose checkpoint is at `path` (None: where this trainer writes them). Is there one?

        Called before the first `fit`, on a trainer that was made as that run's was, it lets the program be the same
        for the first run and for those that go on with it: fits that were complete return at once, and the one that
        was cut short goes on where it was, `epochs` counted from its beginning. (A script of several fits looks at
        `history.interrupted` before it begins the next.) On NumPy weights and history become, bit for bit, those of a
        run that nothing interrupted; another backend may go on, within rounding.

        Raises ModelFileError for a damaged file, and CheckpointError where network or settings are not those of the
        checkpoint; so does the `fit` that goes on where data or callbacks are not. It names what differs.
        """
        if self.fits:
            raise ValueError("resume comes before the first fit")
        if path is None and self.checkpoint is None:
            raise ValueError("resume: there is no path, and the trainer has no checkpoint=")
        file = Checkpoint(path).file if path is not None else self.checkpoint.file  # type: ignore[union-attr]
        found = stamp(file)
        if found is not None:
            self._resumed = restore(self, file)
            if self.checkpoint is not None and file == self.checkpoint.file:
                self.seen = found
        return found is not None

    def settings(self) -> dict[str, Any]:
        """What decides the run beside network and data, as JSON knows it."""
        rule = {"kind": type(self.optimizer).__name__, **self.optimizer.config()}
        names = (
            "batch_size",
            "seed",
            "clip_norm",
            "accumulate",
            "on_fault",
            *(["drop_last"] if self.drop_last else []),
        )
        return {"optimizer": rule, **{name: getattr(self, name) for name in names}}

    @on_its_device
    def fit(
        self,
        x: Any,
        t: Any,
        epochs: int = 1,
        *,
        sample_weight: Any = None,
        validation: tuple[Any, ...] | None = None,
        callbacks: Sequence[Callable[[Trainer], object]] = (),
        progress: bool = False,
    ) -> History:
        """Train for `epochs` further epochs and return the history.

        x: (n, ...) rows, t: n targets, as the network's loss takes them; sample_weight: (n,) numbers of at least 0,
        which make every mean a weighted one. validation: (x, t) or (x, t, sample_weight), evaluated after every
        epoch. Host data is moved to the network's backend once. callbacks: called with the trainer after every
        epoch; one that returns True ends the fit. progress: show a bar. A callback that has a state of its own, which
        a checkpoint is to hold, gives it as `snapshot(trainer)`, a dict of numbers and arrays, and takes it back with
        `restore(trainer, snapshot)`.

        Ctrl-C finishes the step in hand and returns, with `history.interrupted` set. With `checkpoint` one is written
        then, and at SIGTERM, too, which ends the process afterwards as it would have at once. A second Ctrl-C raises
        KeyboardInterrupt in the midst of it all: go on in a new trainer that resumes. A loss that is not finite
        raises NumericalError, which names epoch, step and the first layer at fault; the network then holds the last
        values before that step. Raises ValueError for data that is empty, not finite, of unequal lengths, smaller
        than a batch, or does not fit the network; TypeError for a callback that cannot be called; MemoryError, with
        a batch_size that fits, where the memory ends; CheckpointError where checkpoints cannot be written, another
        process writes them, or the file holds another run's.
        """
        positive_integer("epochs", epochs)
        for callback in callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks: expected functions of the trainer, got {callback!r}")
        data = self._checked(x, t, "x", sample_weight)
        self._check_batch_size(data)
        checked = None
        if validation is not None:
            if len(validation) not in (2, 3):
                raise ValueError(f"validation: expected (x, t) or (x, t, sample_weight), got {len(validation)} items")
            x, t, *weight = validation
            checked = self._checked(x, t, "validation x", *weight)
        prints = self._fingerprints(data, checked)
        checkpoint = None if self._is_complete(int(epochs)) else self.checkpoint
        with (
            listen(terminate=checkpoint is not None) as interrupt,
            keeping(self, checkpoint, callbacks, prints) as keeper,
        ):
            if not self._has_work(int(epochs), callbacks, prints, data):
                return self.history
            if self._runner is None:
                self._runner = self.network.backend.compile(self.network.buffer)
            stopped = False
            while self.epoch < self.last_epoch and not stopped:
                try:
                    self._run_epoch(data, checked, progress, interrupt, keeper)
                except MemoryError as error:
                    raise self._too_large(error, data) from None
                if self.history.interrupted:
                    break
                answers = [callback(self) for callback in callbacks]  # all are called, even after a True
                stopped = any(isinstance(answer, bool | np.bool_) and answer for answer in answers)
                if keeper is not None and keeper.after("epochs") and self.epoch < self.last_epoch and not stopped:
                    keeper.write()
            if keeper is not None:
                keeper.write(last=True, stopped=stopped)
            self.history.interrupted = interrupt.requested  # also where it came too late to cut anything short
        return self.history

    def _check_batch_size(self, data: Data) -> None:
        x, t, weight = data
        n = x.shape[0]
        if self.batch_size > n:
            raise ValueError(f"batch_size is {self.batch_size}, but the data has only {n} rows")
        if self.drop_last and self.batch_size * self.accumulate > n:
            raise ValueError(
                f"drop_last leaves nothing: a step has {self.batch_size * self.accumulate} rows, the data {n}"
            )
        least, layer = self.network.least_rows(tuple(x.shape[1:]))
        if self.batch_size < least:
            raise ValueError(f"batch_size is {self.batch_size}, but {layer} needs at least {least} rows to train with")
        self._mean_weight = self.network.loss_layer.mean_weight(t, *given(weight))
        if self._mean_weight == 0:
            raise ValueError("every row of the training data has a weight of 0, by its class or by sample_weight")

    def _is_complete(self, epochs: int) -> bool:
        """Is nothing left to do of this fit in the run that was resumed?"""
        resumed = self._resumed
        if resumed is None or self.fits + 1 > resumed.fits:
            return False
        return self.fits + 1 < resumed.fits or resumed.stopped or self.epoch >= resumed.began + epochs

    def _fingerprints(self, data: Data, validation: Data | None) -> dict[str, str]:
        """Of all data, by name; none where no checkpoint is concerned."""
        if self.checkpoint is None and self._resumed is None:
            return {}
        names = ("x", "t", "sample_weight", "validation x", "validation t", "validation sample_weight")
        return fingerprints(dict(zip(names, (*data, *(validation or (None,) * 3)), strict=True)))

    def _has_work(
        self, epochs: int, callbacks: Sequence[Callable[[Trainer], object]], prints: dict[str, str], data: Data
    ) -> bool:
        """Begin a fit, or go on with the one of a checkpoint. False where that was complete already."""
        resumed, stopped, began = self._resumed, False, self.epoch
        if resumed is not None and self.fits + 1 == resumed.fits:
            resume_fit(resumed, self, callbacks, prints)
            if self.figures is not None and tuple(self.figures.shape) != self._figures_shape(data):
                raise ModelFileError(f"the checkpoint's figures, of shape {tuple(self.figures.shape)}, make no sense")
            began, stopped = resumed.began, resumed.stopped
        self.fits += 1  # from here on nothing is refused
        self.history.interrupted = False
        if resumed is not None and self.fits < resumed.fits:
            return False
        self._resumed = None
        self.began, self.last_epoch = began, began + epochs
        return not stopped and self.epoch < self.last_epoch

    def _figures_shape(self, data: Data) -> tuple[int, int]:
        """Two figures for every step of an epoch, and with sample weights their sum."""
        n, rows_per_step = data[0].shape[0], self.batch_size * self.accumulate
        steps = n // rows_per_step if self.drop_last else math.ceil(n / rows_per_step)
        return 2 if data[2] is None else 3, steps

    def _run_epoch(
        self,
        data: Data,
        validation: Data | None,
        progress: bool,
        interrupt: Interrupt,
        keeper: Keeper | None,
    ) -> None:
        n = data[0].shape[0]
        rows_per_step = self.batch_size * self.accumulate
        shape = self._figures_shape(data)
        steps, whole = shape[1], n // rows_per_step
        order = self._order(n)
        if self.figures is None or tuple(self.figures.shape) != shape:
            self.position, self.figures = 0, self.network.backend.zeros(shape, self.network.dtype)
        if self.position == 0:
            self.seconds = 0.0
        snapshot, first = self._snapshot(), self.position
        began = time.perf_counter()
        launch = self._runner.epoch(
            self._step,
            rows_per_step,
            order,
            self.figures,
            self.state,
            self.optimizer,
            (data[0], data[1], *given(data[2])),
            first=first,
            ahead=(self.last_epoch - self.epoch) * whole - first,
            depends=self._signature,
        )
        with Progress(progress, self.epoch + 1, self.last_epoch, n, steps, min(n, first * rows_per_step)) as bar:
            while self.position < steps and not interrupt.requested:
                self._guarded(launch)
                bar.advance(rows_per_step if self.position < whole else n - whole * rows_per_step)
                self.position += 1
                if bar.wants_figures(self.position):
                    bar.show(**self._summary(snapshot, first, data, order))
                if keeper is not None and keeper.after("steps") and self.position < steps:
                    self._summary(snapshot, first, data, order)  # what is not finite is never kept
                    self.seconds, began = self.seconds + time.perf_counter() - began, time.perf_counter()
                    keeper.write()
            if self.position == steps and self.epoch + 1 < self.last_epoch:
                self._draw(n, self.epoch + 1)  # while the device still works
            summary = self._summary(snapshot, first, data, order)
            if self.position < steps:
                self.history.interrupted = True
            else:
                if validation is not None:
                    loss, accuracy = self.network.evaluate(*validation)
                    summary["val_loss"] = float(loss)
                    summary["val_accuracy"] = None if accuracy is None else float(accuracy)
                bar.show(**summary)
        self.seconds += time.perf_counter() - began
        if self.position == steps:
            self._record(summary, n)

    def _guarded(self, launch: Launch) -> None:
        """Do one step. If on_fault is "skip" and the step leaves a value that is not finite, undo it and record NaN."""
        kept = self._snapshot() if self.on_fault == "skip" else None
        launch(self.position)
        if kept is not None and not (all_finite(self.figures[:1, self.position]) and self._sound()):
            self._restore(kept)
            self.figures[0, self.position] = math.nan

    def _sound(self) -> bool:
        """Are all values, and the optimizer's state, finite?"""
        return all_finite(self.network.buffer.data, *parted(self.state)[1].values())

    # --- a step -------------------------------------------------------------------------------------------------

    def _step(
        self,
        rows: Rows,
        figures: Array,
        at: Array | int,
        update: Callable[[Array, Array], None],
        x: Array,
        t: Array,
        weight: Array | None = None,
    ) -> None:
        """Do one update: gather, forward, backward, record the figures, update; all on the device."""
        network, weights = self.network, given(weight)
        if rows.size > self.batch_size:
            places = (self._sum_of_gradients(), figures, at)
            several_passes(network, rows, self.batch_size, *places, self._mean_weight, x, t, *weights)
        else:
            recorded_pass(network, figures, at, self._mean_weight, *rows.take(x, t, *weights))
        if self.clip_norm is not None:
            clip_by_norm(network.buffer.grad, self.clip_norm)
        update(network.buffer.data, network.buffer.grad)

    def _signature(self) -> dict[str, object]:
        """Return what a step reads beside its arguments, as `Part.signature` does."""
        names = ("batch_size", "accumulate", "clip_norm", "_mean_weight")
        room = Same(self._sum_of_gradients()) if self.accumulate > 1 else None
        return {name: getattr(self, name) for name in names} | {"room": room} | self.network.signature()

    def _sum_of_gradients(self) -> Array:
        if self._gradient_sum is None:
            self._gradient_sum = self.network.backend.xp.zeros_like(self.network.buffer.grad)
        return self._gradient_sum

    def _order(self, n: int) -> Array:
        """Return the epoch's row numbers, shuffled, on the device."""
        return self.network.backend.asarray(self._draw(n, self.epoch), "int64")

    def _draw(self, n: int, epoch: int) -> np.ndarray[Any, Any]:
        """Return the order of n rows in an epoch, on the host; the last one is kept until it is asked for."""
        wanted = (self.seed, epoch, n)
        if self._drawn is None or self._drawn[0] != wanted:
            self._drawn = wanted, host_generator(self.seed, epoch).permutation(n)
        return self._drawn[1]

    def _summary(self, snapshot: dict[str, Any], first: int, data: Data, order: Array) -> dict[str, float | None]:
        """Mean loss and accuracy of the epoch so far: the one place where training reads the device."""
        figures = to_numpy(self.figures)[:, : self.position].astype(np.float64)
        good = np.isfinite(figures[0])
        if self.on_fault == "stop" and not (good.all() and self._sound()):
            self._fail(self.position if good.all() else int(good.argmin()), snapshot, first, data, order)
        if self.position == self.figures.shape[1] and not good.any():
            raise NumericalError(f"every step of epoch {self.epoch + 1} was skipped: none left finite values")
        rows_per_step = self.batch_size * self.accumulate
        sizes = np.minimum(rows_per_step, order.shape[0] - rows_per_step * np.arange(self.position))[good]
        losses, correct, *weights = figures[:, good]
        rows = (weights[0] if weights else sizes).sum() or 1
        summary: dict[str, float | None] = {
            "loss": float(losses @ sizes / (sizes.sum() or 1)),
            "accuracy": float(correct.sum() / rows) if self.network.loss_layer.classifies else None,
        }
        return summary | ({"skipped": int((~good).sum())} if self.on_fault == "skip" else {})

    def _record(self, summary: dict[str, float | None], n: int) -> None:
        history = self.history
        for name, value in summary.items():
            if value is not None:
                getattr(history, name).append(value)
        history.seconds.append(self.seconds)
        history.samples_per_second.append(n / self.seconds)
        self.epoch, self.position = self.epoch + 1, 0

    def _checked(self, x: Any, t: Any, argument: str, weight: Any = None) -> Data:
        x, t = self.network.data(x, t)
        if not all_finite(x):
            raise ValueError(f"{argument} contains NaN or infinity")
        return x, t, self.network.weights(weight, x.shape[0], argument.replace("x", "sample_weight"))

    # --- the way back to the last good values -------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Any]:
        """Everything that a step changes, copied."""
        copy = self.network.backend.xp.asarray
        numbers, slots = parted(self.state)
        state = numbers | {name: copy(value, copy=True) for name, value in slots.items()}
        return {"network": self.network.buffer.snapshot(), "optimizer": state}

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self.network.buffer.restore(snapshot["network"])
        numbers, slots = parted(snapshot["optimizer"])
        self.state.update(numbers)
        for name, value in slots.items():
            self.state[name][...] = value  # in place: a captured step holds the addresses

    def _fail(self, bad: int, snapshot: dict[str, Any], first: int, data: Data, order: Array) -> None:
        """Repeat the epoch up to the step that failed, which leaves the last good values, and say what failed.

        bad: the first step (from 0) whose loss, or whose starting values, are not finite.
        """
        arrays = (data[0], data[1], *given(data[2]))
        rows_per_step = self.batch_size * self.accumulate
        self._restore(snapshot)
        launch = Uncaptured().epoch(self._step, rows_per_step, order, self.figures, self.state, self.optimizer, arrays)
        for self.position in range(first, bad):
            kept = self._snapshot()
            launch(self.position)
            if not self._sound():  # which no loss has shown yet
                self._restore(kept)
                bad = self.position
                break
        self.position = bad
        rows = Rows(order, bad, rows_per_step)
        place = first_not_finite(self.network, rows.batches(self.batch_size, *arrays))
        raise NumericalError(
            f"training met a value that is not finite at epoch {self.epoch + 1}, step {bad + 1}: {place}. "
            f"The network holds the values before that step."
        )

    def _too_large(self, error: MemoryError, data: Data) -> MemoryError:
        """What to say where the memory ends: the cause, and a batch size for which it does not."""
        error.__traceback__ = None  # with it goes what the failed step has allocated
        size = size_that_fits(self.network, self.batch_size, *data[:2], *given(data[2]))
        cause = f"a batch of {self.batch_size} rows does not fit the memory: {error}."
        if size == 0:
            return MemoryError(f"{cause} Nor does one row: the network or the data is too large.")
        parts = self.accumulate * math.ceil(self.batch_size / size)
        return MemoryError(f"{cause} batch_size={size} does; with accumulate={parts} the steps stay as large.")
