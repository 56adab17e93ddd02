"""Train a network. A step is a device program: nothing inside it reads a device value on the host."""

from __future__ import annotations

import logging
import math
import operator
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nnbackend.backends import Backend, describe, on_its_device, to_numpy
from nnbackend.backends.steps import Epoch, Launch, Rows, Uncaptured
from nnbackend.checks import boolean, decay, positive, positive_integer
from nnbackend.errors import ModelFileError, NumericalError
from nnbackend.functions import record
from nnbackend.functions.array import Array
from nnbackend.functions.optimizers import average_step, clip_by_norm
from nnbackend.layers.base import Layer, Same
from nnbackend.network import Network, optional
from nnbackend.optimizers import Optimizer
from nnbackend.random import checked_seed, host_generator
from nnbackend.training.checkpoint import Checkpoint, Keeper
from nnbackend.training.checkpoint_content import Resumed, content, describe_run, fingerprints, restore, resume_fit
from nnbackend.training.checkpoint_file import CheckpointFile
from nnbackend.training.communication import Communicator
from nnbackend.training.faults import all_finite, first_not_finite
from nnbackend.training.history import History
from nnbackend.training.interrupt import Interrupt, listen
from nnbackend.training.memory import size_that_fits
from nnbackend.training.progress import Progress
from nnbackend.training.state import RunState, numbers_and_arrays
from nnbackend.training.step import SeveralPasses, keeps_statistics, recorded_pass
from nnbackend.training.streams import Part, StreamedArray, stream_of

if TYPE_CHECKING:
    from nnbackend.datasets import Source

LOGGER = logging.getLogger("nnbackend")

Data: TypeAlias = tuple[Array, Array, Array | None]  # x, t, weight
Metric: TypeAlias = Callable[[Any, Any], Any]


class Trainer:
    """Trains a network by mini-batches.

    batch_size: rows per pass, at least 1; the last batch of an epoch holds the rows that are left over.
    seed: decides the order of the rows: epoch e is shuffled by (seed, e) and nothing else. If a layer carries its state
    from batch to batch (`LSTM(..., stateful=n)`), the rows keep their order.
    clip_norm: the largest Euclidean norm of a gradient; a larger gradient is scaled down to it (Pascanu, Mikolov,
    Bengio 2013).
    accumulate: batches per step. Their gradients add up to the gradient of one batch of accumulate x batch_size rows,
    in the memory of batch_size rows. A layer that looks at a batch as a whole, such as BatchNormalization, still sees
    batch_size rows.
    on_fault: "stop" ends the training after a step that leaves a loss, a value or an optimizer's state that is not
    finite. "skip" undoes such a step and leaves it out, for which every step copies all values and looks at them.
    drop_last: whether to leave out the rows of an epoch that do not fill a last step.
    checkpoint: a Checkpoint, or the path of one, which is then written after every epoch.
    average: at least 0 and below 1: the decay of an exponential moving average of the values (Polyak, Juditsky 1992),
    which `averaged` puts into the network. None for no average.
    communicator: the processes that train together, from `nn.communicator()`. They share the batches of every step, so
    their number divides accumulate. Each process is given the same network, settings and data, and ends with the same
    network; on NumPy with the bits of one process. The process of rank 0 writes the checkpoints and shows the bar.

    Another `fit` goes on with the next epoch, or within the epoch that an interrupt cut short. `history` covers all
    fits. Raises ValueError for a batch_size or accumulate that is not a positive integer, a clip_norm that is not a
    positive number, another on_fault, a drop_last that is not True or False, or an accumulate that the processes cannot
    share.
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
        communicator: Communicator | None = None,
        average: float | None = None,
    ):
        positive_integer("batch_size", batch_size)
        positive_integer("accumulate", accumulate)
        boolean("drop_last", bool(drop_last) if isinstance(drop_last, np.bool_) else drop_last)
        if not isinstance(network, Network):
            raise TypeError(f"network: expected a Network, got {describe(network)}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected an optimizer such as Adam(), got {optimizer!r}")
        if clip_norm is not None:
            positive("clip_norm", clip_norm)
        if average is not None:
            decay("average", average)
        if on_fault not in ("stop", "skip"):
            raise ValueError(f'on_fault must be "stop" or "skip", got {on_fault!r}')
        self.network, self.optimizer = network, optimizer
        self.batch_size, self.seed = int(batch_size), checked_seed(seed)
        self.clip_norm = None if clip_norm is None else float(clip_norm)
        self.average = None if average is None else float(average)
        self.accumulate, self.on_fault, self.drop_last = int(accumulate), on_fault, bool(drop_last)
        self.checkpoint = Checkpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
        if not isinstance(self.checkpoint, Checkpoint | None):
            raise TypeError(f"checkpoint: expected a Checkpoint or a path, got {checkpoint!r}")
        self.communicator = Communicator() if communicator is None else communicator
        self._check_communicator()
        with network.backend.active():
            self.state = RunState(optimizer.init(network.buffer.data))
            if average is not None:
                self.state.optimizer["average"] = network.backend.zeros(network.buffer.data.shape, network.dtype)
        self._passes: SeveralPasses | None = None  # made by the first step of several batches
        # whether to stop, and whether it is time for a checkpoint: in this process before a step, in any after it
        self._decisions: tuple[bool, ...] = (False, False)
        self._file = None if self.checkpoint is None else CheckpointFile(self.checkpoint.file)
        self._resumed: Resumed | None = None
        self._mean_weight: float | None = None  # of the rows of the present fit; None if no row has a weight
        self._places: int | None = 1  # that are classified in a row of the present fit; None if they differ
        self._held: list[tuple[slice, Array]] = []  # the values of frozen layers, and their places
        self._runner: Any = None  # keeps what it has made of the step from one fit to the next
        self._drawn: tuple[tuple[int, int, int, int], Any] | None = None  # an order of rows, and what it depends on
        self._rows_of: Callable[[int, bool], None] = _in_memory  # fetches the rows of a step; see `_reading`

    def __repr__(self) -> str:
        changed = {name: value for name, value in self.settings().items() if name != "optimizer" and value is not None}
        settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        return f"<Trainer of {self.network!r} by {self.optimizer!r}, {settings}, epochs done: {self.epoch}>"

    @property
    def backend(self) -> Backend:
        """Return the network's backend."""
        return self.network.backend

    def _check_communicator(self) -> None:
        size = self.communicator.size if isinstance(self.communicator, Communicator) else 0
        if size == 0:
            raise TypeError(f"communicator: expected the result of nn.communicator(), got {self.communicator!r}")
        if self.accumulate % size:
            raise ValueError(f"accumulate is {self.accumulate}, which {size} processes cannot share equally")
        for name, layer in self.network.every_layer().items() if size > 1 else ():
            if keeps_statistics(layer) and type(layer).follow is Layer.follow:
                raise ValueError(f"{name} keeps statistics and has no method `follow`: it trains in one process alone")

    @property
    def history(self) -> History:
        """Return the record of all fits."""
        return self.state.history

    @property
    def epoch(self) -> int:
        """Return the number of completed epochs."""
        return self.state.epoch

    @property
    def last_epoch(self) -> int:
        """Return the number of completed epochs with which the present fit ends."""
        return self.state.last_epoch

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without those that belong to this process."""
        return vars(self) | {"_runner": None, "_drawn": None, "_passes": None, "_rows_of": _in_memory}

    @contextmanager
    def averaged(self) -> Iterator[Network]:
        """Give the network the averaged values within the block, for example to evaluate or to save it.

        Running statistics stay those of the last step. Raises ValueError if the trainer has no `average`, or before the
        first step.
        """
        steps, buffer = self.state.optimizer["t"], self.network.buffer
        if self.average is None or steps == 0:
            raise ValueError("averaged: the trainer has no average=" if steps else "averaged: no step is done yet")
        kept = buffer.snapshot("data")
        with self.backend.active():
            buffer.data[...] = self.state.optimizer["average"] / (1.0 - self.average**steps)
        try:
            yield self.network
        finally:
            buffer.restore(kept)

    @on_its_device
    def resume(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Take up the run whose checkpoint is at `path`, and say whether there is one.

        path: a file, or a folder; None is the path at which this trainer writes its checkpoints.

        Call it before the first `fit`, on a trainer made as the one of that run. The same program then serves for the
        first run and for those that go on with it. A fit that was complete returns at once. The fit that was cut short
        goes on where it was, and counts `epochs` from its beginning. (A script of several fits looks at
        `history.interrupted` before it begins the next.) On NumPy, weights and history become, bit for bit, those of a
        run that nothing interrupted. Another backend may go on with the run, within rounding.

        Raises ModelFileError for a damaged file, and CheckpointError if network or settings differ from those of the
        checkpoint. The `fit` that goes on raises CheckpointError if data or callbacks differ. Each names the
        difference.
        """
        if self.state.fits:
            raise ValueError("resume comes before the first fit")
        own = self._file
        file = own if path is None else CheckpointFile(Checkpoint(path).file)
        if file is None:
            raise ValueError("resume: there is no path, and the trainer has no checkpoint=")
        if own is not None and file.path == own.path:
            file = own  # which then knows the version that was read
        if not self.communicator.on_root(file.exists):
            return False
        self._resumed = restore(self, file)
        return True

    def settings(self) -> dict[str, Any]:
        """Return what decides the run, apart from network and data, as JSON-able values."""
        rule = {"kind": type(self.optimizer).__name__, **self.optimizer.config()}
        names = ["batch_size", "seed", "clip_norm", "accumulate", "on_fault"]
        if self.drop_last:  # files of earlier versions do not have it
            names.append("drop_last")
        if self.average is not None:
            names.append("average")
        return {"optimizer": rule, **{name: getattr(self, name) for name in names}}

    @on_its_device
    def fit(
        self,
        x: Any,
        t: Any = None,
        epochs: int = 1,
        *,
        sample_weight: Any = None,
        validation: tuple[Any, ...] | Source | None = None,
        metrics: Mapping[str, Metric] | None = None,
        callbacks: Sequence[Callable[[Trainer], object]] = (),
        progress: bool = False,
    ) -> History:
        """Train for `epochs` further epochs and return the history.

        x: (n, ...) rows. t: n targets, as the network's loss takes them. sample_weight: (n,) numbers of at least 0,
        which make every mean a weighted one. validation: (x, t) or (x, t, sample_weight), evaluated after every
        epoch. Host data is moved to the network's backend once. progress: whether to show a bar.

        Data that does not fit in memory: x is a memory map of NumPy (`np.memmap`), of bytes for example, or without t a
        source of rows and targets (`nn.datasets.Source`), such as `nn.datasets.Shards`. So may those of the validation
        be. Each step then reads its rows, which a thread has read ahead, and casts them. The run is that of the same
        rows in memory, bit for bit on NumPy. An error of the source ends the fit as DataError, which names the rows.

        metrics: functions by name. After every epoch each is called once, with the raw output of the network and the
        targets of all validation rows, arrays on the device. It returns one number, or a 0-d array, which goes to
        `history.metrics`.

        callbacks: functions that are called with the trainer after every epoch; one that returns True ends the fit. A
        callback with a method `after_step` is called there with the trainer after every step, too: `trainer.state.step`
        is the number of steps done in the epoch, and `trainer.state.metrics[0, step - 1]` the loss of the last one, on
        the device. What it returns does not matter. A callback whose state belongs into a checkpoint has two methods:
        `snapshot(trainer)` returns a dict of numbers and arrays, and `restore(trainer, snapshot)` takes it back.

        Ctrl-C finishes the current step and returns, with `history.interrupted` set. If the trainer has a
        `checkpoint`, one is then written. SIGTERM does the same, and ends the process afterwards as usual. A second
        Ctrl-C raises KeyboardInterrupt at once, in the middle of a step: go on in a new trainer that resumes. A loss
        that is not finite raises NumericalError, which names epoch, step and the first layer at fault; the network
        then holds the last values before that step.

        Raises ValueError for data that is empty, not finite, of unequal lengths, smaller than a batch, or does not
        fit the network; TypeError for a callback that cannot be called; MemoryError, with a batch_size that fits, if
        the memory is too small; CommunicationError if several processes do not train the same; CheckpointError if
        checkpoints cannot be written, another process writes them, or the file holds those of another run.
        """
        positive_integer("epochs", epochs)
        if not isinstance(callbacks, Collection):  # all are called after every epoch
            raise TypeError(f"callbacks: expected a list of functions, got {callbacks!r}")
        for callback in callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks: expected functions of the trainer, got {callback!r}")
        data = self._checked(x, t, "x", sample_weight)
        self._check_batch_size(data)
        checked = None
        if validation is not None:
            parts = tuple(validation) if isinstance(validation, tuple | list) else (validation, None)
            if len(parts) not in (2, 3):
                raise ValueError(f"validation: expected (x, t) or (x, t, sample_weight), got {len(parts)} items")
            x, t, *weight = parts
            checked = self._checked(x, t, "validation x", *weight)
        own = self._checked_metrics(metrics, checked)
        found = self._fingerprints(data, checked, own)
        self._agree(callbacks, int(epochs), found)
        checkpoint = None if self._is_complete(int(epochs)) else self.checkpoint
        keeper = None
        if checkpoint is not None and self._file is not None:
            keeper = Keeper(checkpoint, self._file, partial(content, self, callbacks, found))
        with listen(terminate=checkpoint is not None) as interrupt, ExitStack() as stack:
            if keeper is not None:
                self.communicator.on_root(partial(keeper.claim, stack))
            if not self._begin_fit(int(epochs), callbacks, found, data):
                return self.history
            if self._runner is None:
                self._runner = self.network.backend.compile(self.network.buffer)
            stack.enter_context(self.network.processors((self.batch_size, *data[0].shape[1:])))
            self._run_epochs(data, checked, own, callbacks, progress, interrupt, keeper)
        return self.history

    def _agree(self, callbacks: Sequence[Callable[[Trainer], object]], epochs: int, found: dict[str, str]) -> None:
        """Raise CommunicationError, which says what differs, unless all processes are about to do the same fit."""
        if self.communicator.size > 1:
            state, buffer = self.state, self.network.buffer
            description = describe_run(self, callbacks, found) | {
                "epochs": epochs,
                "progress": [state.fits, state.epoch, state.step],
                "values": fingerprints({"parameters": buffer.data, "statistics": buffer.state, "clock": buffer.clock}),
                "optimizer's state": fingerprints(numbers_and_arrays(state.optimizer)[1]),
                "checkpoint": None if self.checkpoint is None else [self.checkpoint.every, self.checkpoint.on_error],
            }
            self.communicator.check_agreement(description)

    def _run_epochs(
        self,
        data: Data,
        validation: Data | None,
        metrics: Mapping[str, Metric],
        callbacks: Sequence[Callable[[Trainer], object]],
        progress: bool,
        interrupt: Interrupt,
        keeper: Keeper | None,
    ) -> None:
        state, communicator, stopped = self.state, self.communicator, False
        after_step = [callback.after_step for callback in callbacks if hasattr(callback, "after_step")]
        bar = progress and communicator.is_root
        while state.epoch < state.last_epoch and not stopped:
            try:
                self._run_epoch(data, validation, metrics, after_step, bar, interrupt, keeper)
            except MemoryError as error:
                raise self._too_large(error, data) from None
            if state.history.interrupted:
                break
            answers = [callback(self) for callback in callbacks]  # all are called, even after a True
            ends = [isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers]
            stopped, elapsed = communicator.any(any(ends), keeper is not None and keeper.elapsed())
            if stopped:
                self._end(callbacks, ends)
            unfinished = state.epoch < state.last_epoch and not stopped
            if keeper is not None and keeper.after("epochs", elapsed) and unfinished:
                self._write(keeper)
        if keeper is not None:
            self._write(keeper, last=True, stopped=stopped)
        (state.history.interrupted,) = communicator.any(interrupt.requested)  # also if it came too late to cut anything

    def _end(self, callbacks: Sequence[Callable[[Trainer], object]], ends: Sequence[bool]) -> None:
        """Let callbacks give back the best values after another one has ended the fit, before the last epoch."""
        restores = [getattr(callback, "restore_best", False) is True for callback in callbacks]
        if self.state.epoch < self.state.last_epoch and not any(map(operator.and_, restores, ends)):
            for end_fit in [callback._end_fit for callback in callbacks if hasattr(callback, "_end_fit")]:
                end_fit(self)

    def _check_batch_size(self, data: Data) -> None:
        x, t, weight = data
        n = x.shape[0]
        if self.batch_size > n:
            raise ValueError(f"batch_size is {self.batch_size}, but the data has only {n} rows")
        if self.drop_last and self._rows_per_step > n:
            raise ValueError(f"drop_last leaves nothing: a step has {self._rows_per_step} rows, the data {n}")
        if self.network.frozen_parts == [slice(0, self.network.buffer.data.shape[0])]:
            raise ValueError("every layer with parameters is frozen: nothing is left to train")
        least, layer = self.network.least_rows(tuple(x.shape[1:]))
        if self.batch_size < least:
            raise ValueError(f"batch_size is {self.batch_size}, but {layer} needs at least {least} rows to train with")
        self._check_carried_rows(n)
        self._mean_weight = self.network.loss_layer.mean_weight(t, *optional(weight))
        counted = self.network.loss_layer.counted(t[:1, ...], *optional(weight if weight is None else weight[:1]))
        self._places = counted if isinstance(counted, int) else None
        if self._mean_weight == 0:
            raise ValueError(
                "every row of the training data has a weight of 0: by its class, sample_weight or ignore_label"
            )

    def _check_carried_rows(self, n: int) -> None:
        for layer in self.network.every_layer().values():
            if not layer.frozen and layer.carried_rows not in (0, self.batch_size):
                raise ValueError(
                    f"batch_size is {self.batch_size}, but {layer} carries the state of {layer.carried_rows} rows over"
                )
        rows = self.network.carried_rows
        if rows and n % self.batch_size and not self.drop_last:
            raise ValueError(
                f"the data has {n} rows, so the last batch has fewer than the {rows} rows whose state a layer carries "
                f"over: set drop_last=True"
            )

    def _is_complete(self, epochs: int) -> bool:
        """Say whether the run that was resumed has completed this fit."""
        resumed, fit = self._resumed, self.state.fits + 1
        if resumed is None or fit > resumed.fits:
            return False
        return fit < resumed.fits or resumed.stopped or self.epoch >= resumed.first_epoch + epochs

    def _checked_metrics(self, metrics: Mapping[str, Metric] | None, validation: Data | None) -> dict[str, Metric]:
        if not isinstance(metrics, Mapping | None):
            raise TypeError(f"metrics: expected functions by name, got {metrics!r}")
        own, known = dict(metrics or {}), {field.name for field in fields(History)}
        for name, function in own.items():
            if not isinstance(name, str) or not callable(function):
                raise TypeError(f"metrics: expected functions by name, got {name!r}: {function!r}")
            if name in known:
                raise ValueError(f"metrics: {name!r} is the name of another list of the history")
        if own and validation is None:
            raise ValueError("metrics are those of validation data, of which there is none: pass validation=(x, t)")
        return own

    def _validate(self, validation: Data, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
        """Return loss, accuracy and metrics of the validation data."""
        pieces: list[tuple[Array, Array]] = []
        each = (lambda y, t: pieces.append((y, t))) if metrics else None
        loss, accuracy = self.network.evaluate(*validation, each)
        summary = {"val_loss": float(loss), "val_accuracy": None if accuracy is None else float(accuracy)}
        if metrics:
            y, t = (self.backend.xp.concat(list(parts), axis=0) for parts in zip(*pieces, strict=True))
        for name, function in metrics.items():
            value = function(y, t)
            try:
                summary[name] = float(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"metrics: {name} must return one number, got {describe(value)}") from error
        return summary

    def _fingerprints(self, data: Data, validation: Data | None, metrics: Mapping[str, Metric]) -> dict[str, str]:
        """Return the fingerprints of all data by name, or none if nothing is to be compared with them.

        The names of the metrics and of the frozen layers are among them, if there are any.
        """
        if self.checkpoint is None and self._resumed is None and self.communicator.size == 1:
            return {}
        names = ("x", "t", "sample_weight", "validation x", "validation t", "validation sample_weight")
        found = fingerprints(dict(zip(names, (*data, *(validation or (None,) * 3)), strict=True)))
        others = {"metrics": tuple(metrics), "frozen layers": self.network.frozen}
        return found | {name: ", ".join(values) for name, values in others.items() if values}

    def _begin_fit(
        self, epochs: int, callbacks: Sequence[Callable[[Trainer], object]], found: dict[str, str], data: Data
    ) -> bool:
        """Begin a fit, or go on with the one of a checkpoint. Return False if that one was complete already."""
        state, resumed = self.state, self._resumed
        stopped, first_epoch = False, state.epoch
        if resumed is not None and state.fits + 1 == resumed.fits:
            resume_fit(resumed, self, callbacks, found)
            shape = None if state.metrics is None else tuple(state.metrics.shape)
            if shape not in (None, self._metrics_shape(data)):
                raise ModelFileError(f"the checkpoint's metrics have shape {shape}, which does not fit the data")
            first_epoch, stopped = resumed.first_epoch, resumed.stopped
        state.fits += 1  # from here on nothing is refused
        state.history.interrupted = False
        if resumed is not None and state.fits < resumed.fits:
            return False
        self._resumed = None
        state.first_epoch, state.last_epoch = first_epoch, first_epoch + epochs
        return not stopped and state.epoch < state.last_epoch

    @property
    def _rows_per_step(self) -> int:
        return self.batch_size * self.accumulate

    def _metrics_shape(self, data: Data) -> tuple[int, int]:
        """Return the shape of the metrics of an epoch: two or three for every step; see `recorded_pass`."""
        n, rows_per_step = data[0].shape[0], self._rows_per_step
        steps = n // rows_per_step if self.drop_last else math.ceil(n / rows_per_step)
        return 3 if self._places is None else 2, steps

    def _write(self, keeper: Keeper, **how: bool) -> None:
        """Write a checkpoint, in the process of rank 0. how: as `Keeper.write` takes it."""
        self.communicator.on_root(partial(keeper.write, **how))
        keeper.begin_period()

    def _run_epoch(
        self,
        data: Data,
        validation: Data | None,
        metrics: Mapping[str, Metric],
        after_step: Sequence[Callable[[Trainer], object]],
        progress: bool,
        interrupt: Interrupt,
        keeper: Keeper | None,
    ) -> None:
        self._hold()
        n = data[0].shape[0]
        rows_per_step = self._rows_per_step
        state, shape = self.state, self._metrics_shape(data)
        steps, whole = shape[1], n // rows_per_step
        if state.metrics is None or tuple(state.metrics.shape) != shape:
            state.step, state.metrics = 0, self.network.backend.zeros(shape, self.network.dtype)
        if state.step == 0:
            state.seconds = 0.0
            self.network.reset_state()
        snapshot, first = self._snapshot(), state.step
        since = time.perf_counter()
        epoch = self._epoch(data, repeats=not after_step and self.network.is_ours)
        ahead = (state.last_epoch - state.epoch) * whole - first
        shared = self.communicator.size > 1

        def wishes() -> tuple[bool, bool]:
            return interrupt.requested, keeper is not None and keeper.elapsed()

        with (
            self._reading(data, first, steps) as next_rows,
            Progress(progress, state.epoch + 1, state.last_epoch, n, steps, min(n, first * rows_per_step)) as bar,
        ):
            next_rows()  # before the runner tries the first step
            launch = self._runner.prepare(epoch, first=first, ahead=ahead)
            (stop,) = self.communicator.any(interrupt.requested)
            while state.step < steps and not stop:
                if state.step > first:
                    next_rows()
                if shared:
                    self._decisions = wishes()
                self._guarded(launch)
                bar.advance(rows_per_step if state.step < whole else n - whole * rows_per_step)
                state.step += 1
                for call in after_step:
                    call(self)
                if bar.wants_metrics(state.step):
                    # the bar is in one process alone, and the repetition of steps after a fault takes all
                    if shared:
                        bar.show(**self._means(epoch, self._host_metrics()))
                    else:
                        bar.show(**self._summary(snapshot, first, epoch))
                if not shared:
                    self._decisions = wishes()
                elif state.step > whole:  # each process has done this step alone
                    self._decisions = False, False
                stop, elapsed = self._decisions
                if keeper is not None and keeper.after("steps", elapsed) and state.step < steps:
                    self._summary(snapshot, first, epoch)  # values that are not finite are never kept
                    now = time.perf_counter()
                    state.seconds, since = state.seconds + now - since, now
                    self._write(keeper)
            if state.step == steps and state.epoch + 1 < state.last_epoch:
                self._draw(n, state.epoch + 1)  # while the device still works
            summary = self._summary(snapshot, first, epoch)
            if state.step < steps:
                state.history.interrupted = True
            else:
                if validation is not None:
                    summary |= self._validate(validation, metrics)
                bar.show(**summary)
        state.seconds += time.perf_counter() - since
        if state.step == steps:
            self._record(summary, n)

    def _epoch(self, data: Data, repeats: bool = False) -> Epoch:
        """Return what the steps of the current epoch work on. repeats: whether every step does the same."""
        state, (x, t, weight) = self.state, data
        stride, rows = self._rows_per_step, (x, t, *optional(weight))
        order = self._draw(x.shape[0], state.epoch)
        if isinstance(x, StreamedArray):  # the rows of every step lie in the same place, in their order
            order, rows = np.arange(x.shape[0]) % stride, x.stream.windows(stride)
        return Epoch(
            step=self._step if self.communicator.size == 1 else self._shared_step,
            stride=stride,
            order=self.network.backend.asarray(order, "int64"),
            metrics=state.metrics,
            state=state.optimizer,
            optimizer=self.optimizer,
            data=rows,
            depends=self._signature,
            passes=self._pass if repeats and self.accumulate == self.communicator.size == 1 else None,
            update=self._update,
        )

    @contextmanager
    def _reading(self, data: Data, first: int, steps: int) -> Iterator[Callable[[], None]]:
        """Read the rows of the steps of the current epoch, from number `first` on, if they do not lie in memory.

        Gives a function that fetches the rows of the next step. Within the block `_rows_of` fetches those of any step,
        for this process or as a whole.
        """
        x = data[0]
        if not isinstance(x, StreamedArray):
            yield lambda: None
            return
        n, stride, size = x.shape[0], self._rows_per_step, self.communicator.size
        order = self._draw(n, self.state.epoch)
        own = stride // size  # the rows of a step that this process passes

        def part(step: int, whole: bool = False) -> Part:
            start, stop, place = step * stride, min((step + 1) * stride, n), 0
            if stop - start == stride and not whole:
                place = self.communicator.rank * own
                start, stop = start + place, start + place + own
            return order[start:stop], place

        self._rows_of = lambda step, whole: x.stream.load(part(step, whole))
        try:
            with x.stream.reading(part(step) for step in range(first, steps)) as next_rows:
                yield next_rows
        finally:
            self._rows_of = _in_memory

    def _guarded(self, launch: Launch) -> None:
        """Do one step. If on_fault is "skip" and the step leaves a value that is not finite, undo it and record NaN."""
        kept, state = self._snapshot() if self.on_fault == "skip" else None, self.state
        launch(state.step)
        if kept is not None and not (all_finite(state.metrics[:1, state.step]) and self._sound()):
            self._restore(kept)
            state.metrics[0, state.step] = math.nan

    def _sound(self) -> bool:
        """Say whether all values, and the optimizer's state, are finite."""
        return all_finite(self.network.buffer.data, *numbers_and_arrays(self.state.optimizer)[1].values())

    # --- a step -------------------------------------------------------------------------------------------------

    def _step(
        self,
        rows: Rows,
        metrics: Array,
        at: Array | int,
        update: Callable[[Array, Array], None],
        x: Array,
        t: Array,
        weight: Array | None = None,
    ) -> None:
        """Do one update: gather, forward, backward, record the metrics, update; all on the device."""
        data = (x, t, *optional(weight))
        if rows.size <= self.batch_size:
            self._pass(rows, metrics, at, *data)
        else:
            record(metrics, at, *self._several_passes().alone(rows, self._mean_weight, *data))
        self._update(update)

    def _pass(self, rows: Rows, metrics: Array, at: Array | int, *data: Array) -> None:
        recorded_pass(self.network, metrics, at, self._mean_weight, *rows.take(*data))

    def _shared_step(
        self,
        rows: Rows,
        metrics: Array,
        at: Array | int,
        update: Callable[[Array, Array], None],
        *data: Array,
    ) -> Iterator[Callable[[], None]]:
        """Do the same together with the other processes. Yields the function that exchanges the sums with them."""
        if rows.size < rows.stride:
            self._step(rows, metrics, at, update, *data)  # each process does the last, smaller step alone
            return
        passes = self._several_passes()
        exchange = passes.shared(rows, self._mean_weight, *data)

        def outside() -> None:
            self._decisions = exchange(self._decisions)

        yield outside
        record(metrics, at, *(passes.metrics[i] for i in range(metrics.shape[0])))
        self._update(update)

    def _update(self, update: Callable[[Array, Array], None]) -> None:
        buffer = self.network.buffer
        if self.clip_norm is not None:
            clip_by_norm(buffer.grad, self.clip_norm)
        update(buffer.data, buffer.grad)
        for part, values in self._held:
            buffer.data[part] = values
        if self.average is not None:
            average_step(self.state.optimizer["average"], buffer.data, self.average)

    def _hold(self) -> None:
        """Keep the values of the layers that are frozen, which the optimizer's momentum or decay would change."""
        data, parts = self.network.buffer.data, self.network.frozen_parts
        if [part for part, _ in self._held] != parts:
            copy = self.backend.xp.asarray
            self._held = [(part, copy(data[part], copy=True)) for part in parts]
        for part, values in self._held:  # in place: a captured step holds the addresses
            values[...] = data[part]

    def _signature(self) -> dict[str, object]:
        """Return what a step reads beside its arguments, as `Part.signature` does."""
        names = ("batch_size", "accumulate", "clip_norm", "_mean_weight", "average")
        sums = Same(self._several_passes().sums.gradients) if self.accumulate > 1 else None
        held = [Same(values) for _, values in self._held]
        own = {name: getattr(self, name) for name in names} | {"sums": sums, "held": held}
        return own | self.network.signature()

    def _several_passes(self) -> SeveralPasses:
        settings = self.batch_size, self.accumulate, self.communicator
        if self._passes is None or self._passes.settings != settings:
            self._passes = SeveralPasses(self.network, *settings)
        return self._passes

    def _draw(self, n: int, epoch: int) -> np.ndarray[Any, Any]:
        """Return the shuffled order of n rows in an epoch, on the host. Keep the last one, for the next call."""
        carries = self.network.carried_rows  # a batch then goes on where the one before has ended
        wanted = (self.seed, epoch, n, carries)
        if self._drawn is None or self._drawn[0] != wanted:
            order = np.arange(n) if carries else host_generator(self.seed, epoch).permutation(n)
            self._drawn = wanted, order
        return self._drawn[1]

    def _summary(self, snapshot: dict[str, Any], first: int, epoch: Epoch) -> dict[str, float | None]:
        """Return what `_means` returns, or raise NumericalError if a value is not finite."""
        state = self.state
        metrics = self._host_metrics()
        good = np.isfinite(metrics[0])
        if self.on_fault == "stop" and not (good.all() and self._sound()):
            self._fail(state.step if good.all() else int(good.argmin()), snapshot, first, epoch)
        if state.step == state.metrics.shape[1] and not good.any():
            raise NumericalError(f"every step of epoch {state.epoch + 1} was skipped: none left finite values")
        return self._means(epoch, metrics)

    def _host_metrics(self) -> Any:
        """Return the metrics of the epoch so far. Training reads the device here, and where it looks for faults."""
        return to_numpy(self.state.metrics)[:, : self.state.step].astype(np.float64)

    def _means(self, epoch: Epoch, metrics: Any) -> dict[str, float | None]:
        """Return mean loss and accuracy of the epoch so far, over the steps whose loss is finite."""
        state = self.state
        good = np.isfinite(metrics[0])
        sizes = np.minimum(epoch.stride, epoch.order.shape[0] - epoch.stride * np.arange(state.step))[good]
        losses, correct, *weights = metrics[:, good]
        rows = (weights[0] if weights else sizes * self._places).sum() or 1
        summary: dict[str, float | None] = {
            "loss": float(losses @ sizes / (sizes.sum() or 1)),
            "accuracy": float(correct.sum() / rows) if self.network.loss_layer.classifies else None,
        }
        return summary | ({"skipped": int((~good).sum())} if self.on_fault == "skip" else {})

    def _record(self, summary: dict[str, float | None], n: int) -> None:
        state, history = self.state, self.history
        for name, value in summary.items():
            if value is not None:
                kept = getattr(history, name, None)
                (history.metrics.setdefault(name, []) if kept is None else kept).append(value)
        history.seconds.append(state.seconds)
        text = ", ".join(f"{name}={value:.4g}" for name, value in summary.items() if value is not None)
        LOGGER.info("epoch %d/%d: %s, %.1f s", state.epoch + 1, state.last_epoch, text, state.seconds)
        history.samples_per_second.append(n / state.seconds)
        state.epoch, state.step = state.epoch + 1, 0

    def _checked(self, x: Any, t: Any, argument: str, weight: Any = None) -> Data:
        stream = stream_of(self.network, x, t, weight, argument)
        if stream is not None:
            return stream.data
        try:
            x, t = self.network.data(x, t)
        except ValueError as error:
            if argument == "x" or type(error) is not ValueError:
                raise
            raise ValueError(f"validation: {error}") from error
        if not all_finite(x):
            raise ValueError(f"{argument} contains NaN or infinity")
        return x, t, self.network.weights(weight, x.shape[0], argument.replace("x", "sample_weight"))

    # --- the way back to the last good values -------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Any]:
        """Return copies of everything that a step changes."""
        copy = self.network.backend.xp.asarray
        numbers, buffers = numbers_and_arrays(self.state.optimizer)
        optimizer = numbers | {name: copy(value, copy=True) for name, value in buffers.items()}
        return {"network": self.network.buffer.snapshot(), "optimizer": optimizer}

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self.network.buffer.restore(snapshot["network"])
        numbers, buffers = numbers_and_arrays(snapshot["optimizer"])
        self.state.optimizer.update(numbers)
        for name, value in buffers.items():
            self.state.optimizer[name][...] = value  # in place: a captured step holds the addresses

    def _fail(self, bad: int, snapshot: dict[str, Any], first: int, epoch: Epoch) -> None:
        """Repeat the epoch up to the step that failed, which leaves the last good values, and raise NumericalError.

        bad: the first step (from 0) whose loss, or whose starting values, are not finite.
        """
        state = self.state
        self._restore(snapshot)
        launch = Uncaptured().prepare(epoch)
        for state.step in range(first, bad):
            kept = self._snapshot()
            self._rows_of(state.step, False)
            launch(state.step)
            if not self._sound():  # which no loss has shown yet
                self._restore(kept)
                bad = state.step
                break
        state.step = bad
        self._rows_of(bad, True)
        rows = Rows(epoch.order, bad, epoch.stride)
        place = first_not_finite(self.network, rows.batches(self.batch_size, *epoch.data))
        raise NumericalError(
            f"training met a value that is not finite at epoch {state.epoch + 1}, step {bad + 1}: {place}. "
            f"The network holds the values before that step."
        )

    def _too_large(self, error: MemoryError, data: Data) -> MemoryError:
        """Return an error that says why the memory is too small, and names a batch size for which it is not."""
        error.__traceback__ = None  # the traceback holds what the failed step has allocated
        size = size_that_fits(self.network, self.batch_size, *data[:2], *optional(data[2]))
        cause = f"a batch of {self.batch_size} rows does not fit the memory: {error}."
        if size == 0:
            return MemoryError(f"{cause} Nor does one row: the network or the data is too large.")
        parts = self.accumulate * math.ceil(self.batch_size / size)
        return MemoryError(f"{cause} batch_size={size} does; with accumulate={parts} the steps stay as large.")


def _in_memory(step: int, whole: bool) -> None:
    """Fetch nothing: the rows of all steps lie in memory."""
