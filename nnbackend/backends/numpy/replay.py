"""The passes of a training step as a list of calls of the loops in C, recorded once and then called as they are.

Between the loops a step spends time in Python: layers call functions, functions choose kernels, kernels make arrays. In
a small network this is a quarter of the time. Batch after batch the calls are the same, but for the values in the
arrays. So they are called again with the same arrays, which stay where they are. The idea is that of a CUDA graph.

Work that Python or NumPy does between the calls would be missing. So the calls are tried before they are used: with
other weights, another clock and other rows than those they were recorded with, they must write the bits of the step.
All arrays between the loops then hold NaN at first, because rows of other numbers may have equal values.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from nnbackend.backends.numpy import native as kernels
from nnbackend.backends.steps import Epoch, Launch, Rows, Uncaptured

HostArray: TypeAlias = np.ndarray[Any, Any]
Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]

WORTH = 40  # whole batches ahead: to record and to try the calls takes the time of three or four steps
FEWEST = 4  # whole batches of an epoch: to compare what it depends on takes the time that two of them gain
LARGEST = 2**22  # bytes of the values, or of the arrays that are kept; in a step on more, Python is a small part

_kernels: Any = kernels
_recording = threading.Lock()  # all threads have the same kernels


class Replayed(Uncaptured):
    """Runs whole batches by calling the recorded loops, then the update.

    The calls are recorded anew if anything that the passes depend on differs, but only after a pause. The pause is
    twice as long after each recording that has served fewer than WORTH steps. The last, smaller batch of an epoch runs
    without them. If they do not compute what the passes compute, all steps run without them.
    """

    def __init__(self, store: Any):
        self._store = store
        self._tape: _Tape | None = None
        self._refused = store.data.nbytes > LARGEST
        self._since = self._pause = WORTH  # steps since calls were recorded, and how many it takes to record anew

    def prepare(self, epoch: Epoch, *, first: int = 0, ahead: int = 0) -> Launch:
        steps, since = epoch.whole_steps - first, self._since
        self._since += max(steps, 0)
        if epoch.passes is None or steps < FEWEST or self._refused:
            return epoch.run
        if self._tape is None or not self._tape.serves(epoch):
            if self._tape is not None and since < WORTH:
                self._pause *= 2
            self._tape = None
            if ahead < WORTH or since < self._pause:
                return epoch.run
            if not _recording.acquire(blocking=False):
                return epoch.run
            self._since = steps
            try:
                tape = _Tape(self._store, epoch)
            finally:
                _recording.release()
            self._refused = not tape.works
            if self._refused:
                return epoch.run
            self._tape = tape
        return self._tape.launch(epoch)


class _Tape:
    """The calls of the passes of one step, and the arrays that they share with what is outside.

    works: whether the calls do what the passes do. The constructor restores all values that it changes.
    """

    def __init__(self, store: Any, epoch: Epoch):
        self._rows = np.array(epoch.order[: epoch.stride])
        self._metrics = np.zeros_like(epoch.metrics[:, :1])
        self._stride, self._depends = epoch.stride, epoch.depends()
        self._data = [weakref.ref(a) for a in epoch.data]
        self._layout = epoch.metrics.shape[0], epoch.metrics.dtype
        self._calls: list[Call] = []
        kept, grad = store.snapshot(), store.grad.copy()
        try:
            with np.errstate(all="ignore"):  # with other values a step may overflow that does not
                between = self._record(store, epoch)
                self.works = between is not None and self._agrees(store, epoch, between)
        finally:
            store.restore(kept)
            store.grad[...] = grad
        after = epoch.depends()  # what a step changes is a cache of the step
        self._depends = {name: value for name, value in self._depends.items() if after.get(name) == value}

    def _pass(self, epoch: Epoch) -> None:
        assert epoch.passes is not None
        epoch.passes(Rows(self._rows, 0, self._stride), self._metrics, 0, *epoch.data)

    def _record(self, store: Any, epoch: Epoch) -> list[HostArray] | None:
        """Record the calls of a step. Return the arrays between them.

        The result is None if the calls cannot be all of the step, or if those arrays are large.
        """
        there = [*epoch.data, store.data, store.grad, store.state, store.clock, self._rows, self._metrics]
        recorder = _Recorder(_kernels._native, there)
        try:
            _kernels._native = recorder
            self._pass(epoch)
        finally:
            _kernels._native = recorder.loops
        numbers = {id(a): number for number, a in enumerate(epoch.data)}
        taken = {id(a) for _, arguments in recorder.calls for a in arguments}
        self._calls = [
            (call, tuple(_Data(numbers[id(a)]) if id(a) in numbers else a for a in arguments))
            for call, arguments in recorder.calls
        ]
        return recorder.between if recorder.complete and numbers.keys() <= taken else None

    def _agrees(self, store: Any, epoch: Epoch, between: Sequence[HostArray]) -> bool:
        """Say whether the calls write the bits of a step whose values all differ from those of the recorded one."""
        for name, value in store.snapshot().items():
            array = getattr(store, name)
            array[...] = value + 3 if value.dtype.kind == "i" else 1.25 * value + 2.0**-6
        changed = store.snapshot()
        self._rows[...] = epoch.order[-self._stride :][::-1]
        self._pass(epoch)
        expected = self._written(store)
        store.restore(changed)
        empty = [*between, store.grad, self._metrics]
        if not all(np.isfinite(a).all() for a in expected) or not all(a.flags.writeable for a in empty):
            return False  # NaN would agree with NaN
        before = [a.copy() for a in empty]
        try:
            for a in empty:
                a.fill(np.nan if a.dtype.kind == "f" else 0)
            played, actual = _play(self._bound(epoch.data)), self._written(store)
        finally:
            for a, value in zip(empty, before, strict=True):
                a[...] = value
        return played and all(a.tobytes() == b.tobytes() for a, b in zip(expected, actual, strict=True))

    def _written(self, store: Any) -> list[HostArray]:
        return [*store.snapshot().values(), store.grad.copy(), self._metrics.copy()]

    def _bound(self, data: Sequence[Any]) -> list[Call]:
        """Return the calls with the data in its places. They do not hold it, because it may be large."""
        return [
            (call, tuple(data[a.number] if isinstance(a, _Data) else a for a in arguments))
            for call, arguments in self._calls
        ]

    def serves(self, epoch: Epoch) -> bool:
        """Say whether the calls do what the passes do in this epoch."""
        now = epoch.depends()
        return bool(
            epoch.stride == self._stride
            and (epoch.metrics.shape[0], epoch.metrics.dtype) == self._layout
            and len(epoch.data) == len(self._data)
            and all(a is ref() for a, ref in zip(epoch.data, self._data, strict=True))
            and all(now.get(name) == value for name, value in self._depends.items())
        )

    def launch(self, epoch: Epoch) -> Launch:
        """Return the function that does a step of this epoch."""
        calls, rows, metrics, whole = self._bound(epoch.data), self._rows, self._metrics, epoch.whole_steps
        stride, order, into, update = self._stride, epoch.order, epoch.metrics, epoch.update
        assert update is not None

        def step(i: int) -> None:
            if i >= whole:
                epoch.run(i)
                return
            rows[...] = order[i * stride : (i + 1) * stride]
            if not _play(calls):
                epoch.run(i)
                return
            into[:, i : i + 1] = metrics
            update(epoch.change)

        return step


class _Data:
    """Stands for one of the arrays from which a step takes its rows."""

    def __init__(self, number: int):
        self.number = number


class _Recorder:
    """Stands before the loops in C, and keeps each call that one thread makes.

    there: arrays that are there anyway. between: the other arrays of the calls. complete: whether no loop has given
    Python a value to go on with, and those have at most LARGEST bytes. If it is False, nothing is kept.
    """

    def __init__(self, loops: Any, there: Sequence[Any]):
        self.loops, self.calls, self.complete = loops, list[Call](), True
        self.between: list[HostArray] = []
        self._known, self._bytes = {id(_owner(a)) for a in there}, 0
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.loops, name)

        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            if threading.get_ident() == self._thread and self.complete and result is not NotImplemented:
                self._keep(function, arguments, result)
            return result

        return call if callable(function) else function

    def _keep(self, function: Callable[..., Any], arguments: tuple[Any, ...], result: object) -> None:
        self.calls.append((function, arguments))
        for owner in (_owner(a) for a in arguments if isinstance(a, np.ndarray)):
            if id(owner) not in self._known:
                self._known.add(id(owner))
                self.between.append(owner)
                self._bytes += owner.nbytes
        self.complete = result is None and self._bytes <= LARGEST
        if not self.complete:
            self.calls.clear()
            self.between.clear()


def _play(calls: Sequence[Call]) -> bool:
    """Do the calls. Return False if a loop refuses the values that are now in the arrays, such as a wrong label."""
    return all(call(*arguments) is None for call, arguments in calls)


def _owner(a: Any) -> Any:
    """Return the array that owns the memory of `a`."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a
