"""A training step as a CUDA graph, captured once and then launched as a whole.

Launching the kernels one by one takes the host more time than the device needs to run them.

A capture runs no kernel. It records every launch with its addresses. Values that change from step to step must
therefore lie on the device, always at the same address: the order of the rows, the number of the step, the learning
rate. Every address must stay valid as long as the graph lives. The graph takes memory from a pool that only it uses,
and holds references to all other arrays that it reads or writes, except data and metrics: the caller must hold
them, and `serves` compares them. This module does not import CuPy; it gets the module as an argument.
"""

from __future__ import annotations

import gc
import math
import sys
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from nnbackend.backends.cupy import cublas
from nnbackend.backends.steps import Epoch, Launch, ParameterStore, Rows, Uncaptured
from nnbackend.functions.array import Array

WORKSPACE = 32 * 2**20  # bytes: the workspace size that cuBLAS recommends for Hopper
AGREEMENT = 0.5  # allowed difference, as a fraction of an update: gradients that are all rounding may change sign
WORTH = 10  # whole batches: for fewer, a graph costs more time than it saves


class Captured(Uncaptured):
    """Runs whole batches by launching a graph.

    The step is captured again if anything but the learning rate differs from what the graph was captured with. The
    last, smaller batch of an epoch runs without a graph, and so does a step with fewer than WORTH whole batches ahead.
    After a capture has failed, or its graph has computed other values than the step, all steps run without a graph,
    and a warning says why.
    """

    def __init__(self, store: ParameterStore, cupy: Any):
        self._store, self._cupy = store, cupy
        self._graph: _Graph | None = None
        self._refused = False

    def prepare(self, epoch: Epoch, *, first: int = 0, ahead: int = 0) -> Launch:
        whole = epoch.whole_steps
        if self._graph is not None and not self._graph.serves(epoch):
            self._graph = None  # free its memory before allocating more
        if self._graph is None:
            if self._refused or first >= whole or ahead < WORTH:
                return epoch.run
            try:
                self._graph = _Graph(self._cupy, self._store, epoch, first)
            except _Refusal as refusal:
                self._refused = True
                warnings.warn(f"training goes on without a CUDA graph, more slowly: {refusal}", stacklevel=4)
                return epoch.run
        graph = self._graph
        graph.begin(epoch.order)
        return lambda i: graph.launch(i, epoch.state, epoch.optimizer) if i < whole else epoch.run(i)


class _Refusal(Exception):
    """A step cannot run as a graph; the message says why."""


class _Workshop:
    """Holds the resources of a capture: a stream, a memory pool, and a cuBLAS handle with its workspace.

    CuPy never returns the free memory of a dropped pool, and a pool keeps its free memory by stream. Workshops are
    therefore never dropped. `lend` takes a free one of the current device or makes one, and `take_back` returns it.
    """

    # holds lent workshops as well, so that the collector cannot destroy their handles before `take_back`
    _all: ClassVar[list[_Workshop]] = []
    _free: ClassVar[defaultdict[int, list[_Workshop]]] = defaultdict(list)

    def __init__(self, cupy: Any):
        self.device = cupy.cuda.Device()
        self.pool, self.stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        with self.active(cupy):
            self.handle = cublas.Handle(self.stream.ptr, cupy.empty((WORKSPACE,), "uint8"))
        self._all.append(self)

    @classmethod
    def lend(cls, cupy: Any) -> _Workshop:
        cupy.cuda.Device().synchronize()  # the last launch of its former graph may still run
        free = cls._free[cupy.cuda.Device().id]
        return free.pop() if free else cls(cupy)

    def take_back(self) -> None:
        with self.device:  # a graph may be dropped anywhere, and a pool returns the memory of the current device alone
            self.pool.free_all_blocks()
        self._free[self.device.id].append(self)

    @contextmanager
    def active(self, cupy: Any) -> Iterator[None]:
        with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
            yield


class _Graph:
    """The graphs of a step for certain arrays: one, or several with work between them that is not captured.

    The constructor restores all values that the step changes.
    """

    def __init__(self, cupy: Any, store: ParameterStore, epoch: Epoch, first: int):
        order, state, optimizer = epoch.order, epoch.state, epoch.optimizer
        self._store, self._stride, self._optimizer, self._depends = store, epoch.stride, optimizer, epoch.depends()
        self._slots = _slots(state)
        self._lent = [weakref.ref(a) for a in (epoch.metrics, *epoch.data)]
        self._order = cupy.empty(order.shape, order.dtype)
        self._counters, self._lr = _Cells(cupy.empty((2,), "int64")), _Cells(cupy.empty((1,), "float64"))
        if optimizer.has_own_step:
            name = type(optimizer).__name__
            raise _Refusal(f"{name}.step is one of its own, which runs on the host; override {name}.update instead")

        def update(p: Array, g: Array) -> None:
            optimizer.update(p, g, state, self._counters.cell(1), self._lr.cell(0))  # `record` has counted this step

        def whole() -> Iterable[Callable[[], None]]:
            at = self._counters.cells
            return epoch.step(Rows(self._order, at, epoch.stride), epoch.metrics, at, update, *epoch.data) or ()

        before = _copies(store, state)
        steps_before = state["t"]
        epoch.run(first)
        state["t"] = steps_before
        expected = _copies(store, state)
        _write_back(store, state, before)
        self.begin(order)
        self._set(first, state, optimizer)
        cupy.get_default_memory_pool().free_all_blocks()  # the graph's pool cannot take them
        try:
            self._workshop = _Workshop.lend(cupy)
            self._parts = self._capture(cupy, whole)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise _Refusal(f"the step could not be captured ({cause})") from error
        finally:
            _write_back(store, state, before)
        after = epoch.depends()  # what a step changes is a cache of the step
        self._depends = {name: value for name, value in self._depends.items() if after.get(name) == value}
        self._forget()  # the rehearsal has advanced the counters
        self.launch(first, dict(state), optimizer)
        agrees = all(map(_agree, before[1], expected[1], _changed(store, state, before[0])))
        _write_back(store, state, before)
        self._forget()
        if not agrees:
            raise _Refusal("a launch of its graph did not compute what the step computes")

    def __del__(self) -> None:
        workshop = vars(self).pop("_workshop", None)
        if workshop is not None and not sys.is_finalizing():
            vars(self).pop("_parts", None)  # before another graph uses its memory
            workshop.take_back()

    def _capture(
        self, cupy: Any, work: Callable[[], Iterable[Callable[[], None]]]
    ) -> list[tuple[Any, Callable[[], None] | None]]:
        """Return the graphs of the parts of a step; each with the function that follows it outside a graph, or None."""
        stream = self._workshop.stream
        with self._workshop.active(cupy), cublas.capturing(self._workshop.handle):
            try:
                for outside in work():  # a rehearsal, which compiles and loads kernels and makes cached arrays
                    outside()
            finally:
                stream.synchronize()
            with _no_collection():
                parts: list[tuple[Any, Callable[[], None] | None]] = []
                stream.begin_capture()
                try:
                    for outside in work():
                        parts.append((stream.end_capture(), outside))
                        stream.begin_capture()
                except BaseException:
                    with suppress(Exception):
                        stream.end_capture()
                    raise
                return [*parts, (stream.end_capture(), None)]

    def serves(self, epoch: Epoch) -> bool:
        """Say whether a launch would compute what the step computes for this epoch."""
        lent, slots, now = (epoch.metrics, *epoch.data), _slots(epoch.state), epoch.depends()
        return (
            epoch.stride == self._stride
            and tuple(epoch.order.shape) == tuple(self._order.shape)
            and len(lent) == len(self._lent)
            and all(a is ref() for a, ref in zip(lent, self._lent, strict=True))
            and len(slots) == len(self._slots)
            and all(a is b for a, b in zip(slots, self._slots, strict=True))
            and (epoch.optimizer is self._optimizer or _settings(epoch.optimizer) == _settings(self._optimizer))
            and all(now.get(name) == value for name, value in self._depends.items())
        )

    def begin(self, order: Array) -> None:
        """Copy the order of an epoch's rows to the device."""
        self._order[...] = order

    def launch(self, i: int, state: dict[str, Any], optimizer: Any) -> None:
        self._set(i, state, optimizer)
        for graph, outside in self._parts:
            graph.launch()
            if outside is not None:
                outside()
        state["t"] += 1
        self._counters.known = [i + 1, state["t"]]  # the graph advances the counters on the device

    def _set(self, i: int, state: dict[str, Any], optimizer: Any) -> None:
        self._counters.set(i, state["t"])
        self._lr.set(optimizer.next_rate(state))

    def _forget(self) -> None:
        self._counters.known = [None, None]


class _Cells:
    """Device scalars with a host-side cache; an entry of the cache is None if its value is unknown."""

    def __init__(self, cells: Array):
        self.cells = cells
        self.known: list[float | None] = [None] * cells.shape[0]

    def cell(self, i: int) -> Any:
        """Return scalar i as an array, (1,)."""
        return self.cells[i : i + 1]

    def set(self, *values: float) -> None:
        for i, value in enumerate(values):
            if value != self.known[i]:
                self.cell(i).fill(value)
                self.known[i] = value


def _settings(optimizer: Any) -> tuple[type, dict[str, Any]]:
    return type(optimizer), {name: value for name, value in vars(optimizer).items() if name != "lr"}


def _slots(state: dict[str, Any]) -> list[Any]:
    return [value for value in state.values() if not isinstance(value, int | float)]


def _copies(store: ParameterStore, state: dict[str, Any]) -> tuple[dict[str, Array], list[Array]]:
    """Copy all arrays that a step changes; return the store's snapshot, and all copies in a fixed order."""
    kept = store.snapshot()
    return kept, [*kept.values(), *(slot.copy() for slot in _slots(state))]


def _changed(store: ParameterStore, state: dict[str, Any], kept: dict[str, Array]) -> list[Array]:
    """Return the arrays that `_copies` copies, in the same order."""
    return [*(getattr(store, name) for name in kept), *_slots(state)]


def _write_back(store: ParameterStore, state: dict[str, Any], copies: tuple[dict[str, Array], list[Array]]) -> None:
    kept, arrays = copies
    store.restore(kept)
    for slot, value in zip(_slots(state), arrays[len(kept) :], strict=True):
        slot[...] = value


def _agree(before: Any, expected: Any, actual: Any) -> bool:
    """Say whether `actual` is close to `expected`, relative to the change from `before`; True if that is not finite."""
    before, expected, actual = (a.astype("float64") for a in (before, expected, actual))
    change, difference = float(((expected - before) ** 2).sum()), float(((actual - expected) ** 2).sum())
    return not math.isfinite(change) or difference <= AGREEMENT**2 * change


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the garbage collector, because freeing an array may make a call that a capture forbids."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
