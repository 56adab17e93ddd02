"""A training step as a CUDA graph: captured once, then launched as a whole, since its two dozen kernels cost the
host more time one by one than they cost the device.

A capture runs nothing; it notes every launch with its addresses. So what changes from step to step must lie on the
device, always in the same place: a batch's row numbers, its number in the epoch, the count of steps, the learning
rate. Memory is a pool of the graph's own, since what was freed in between is written to by every launch. Nothing
here imports CuPy: the module comes as an argument.
"""

from __future__ import annotations

import copy
import gc
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import singledispatch
from typing import Any, Protocol

from nnbackend import cublas
from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.schedules import rate

WORKSPACE = 32 * 2**20  # bytes that cuBLAS may write to: what it asks for on Hopper
AGREEMENT = 0.5  # of an update: rounding turns the sign of gradients that are all rounding, and nothing else

Step = Callable[..., None]


class Buffer(Protocol):
    """What a step changes beside the optimizer's state."""

    def snapshot(self) -> dict[str, Array]: ...

    def restore(self, snapshot: dict[str, Array]) -> None: ...


@singledispatch
def feed(rows: Array, order: Array, at: Array) -> None:
    """rows <- batch number `at` of `order`, in place. rows: (size,), order: (n,), at: (1,), integers."""
    xp, size = array_namespace(rows), rows.shape[0]
    rows[...] = xp.take(order, at * size + xp.arange(size, dtype=at.dtype, device=device(at)), axis=0)


@singledispatch
def enter(column: Array, loss: Array, correct: Array) -> None:
    """column[0] <- loss; column[1] <- correct, in its dtype, in place. column: (k,); loss, correct: 0-d, k >= 2."""
    column[0] = loss
    column[1] = array_namespace(column).astype(correct, column.dtype)


@singledispatch
def note(figures: Array, column: Array, at: Array) -> None:
    """figures[:, at] <- column; at <- at + 1, in place. figures: (k, steps), column: (k,), at: (1,), an integer."""
    xp = array_namespace(figures)
    here = xp.arange(figures.shape[1], dtype=at.dtype, device=device(at)) == at
    figures[...] = xp.where(here, column[:, None], figures)
    at += 1


class Uncaptured:
    """`run(i, size, order, figures, state, optimizer, *data)` is the step for the i-th `size` rows of `order`:
    step(rows, figures[:, i], state, optimizer, *data).
    """

    def __init__(self, step: Step):
        self._step = step

    def __call__(self, i: int, size: int, order: Array, figures: Array, *arguments: Any) -> None:
        self._step(order[i * size : min((i + 1) * size, order.shape[0])], figures[:, i], *arguments)


class Captured(Uncaptured):
    """The same, by the launch of a graph: for as long as figures, state and data are the same arrays and the
    optimizer differs in its learning rate only; otherwise the step is captured anew.

    Batches of another size (the last of an epoch) are not captured. Nor is anything more once a capture failed, or
    its graph did not compute what the step computes; a warning then says why.
    """

    def __init__(self, step: Step, buffer: Buffer, cupy: Any):
        super().__init__(step)
        self._buffer, self._cupy = buffer, cupy
        self._graph: _Graph | None = None
        self._refused = False

    def __call__(self, i: int, size: int, order: Array, figures: Array, *arguments: Any) -> None:
        if self._refused or (i + 1) * size > order.shape[0]:
            return super().__call__(i, size, order, figures, *arguments)
        if self._graph is None or not self._graph.serves(size, figures, *arguments):
            self._graph = None  # its memory goes before there is more
            try:
                self._graph = _Graph(self._cupy, self._step, self._buffer, i, size, order, figures, *arguments)
            except _Refusal as refusal:
                self._refused = True
                warnings.warn(f"training goes on without a CUDA graph, more slowly: {refusal}", stacklevel=4)
                return self(i, size, order, figures, *arguments)
        return self._graph.launch(i, order, *arguments[:2])


class _Refusal(Exception):
    """Why there is no graph."""


class _Graph:
    """The graph of a step for certain arrays. Making it leaves everything that the step changes as it was."""

    def __init__(
        self,
        cupy: Any,
        step: Step,
        buffer: Buffer,
        i: int,
        size: int,
        order: Array,
        figures: Array,
        state: dict[str, Any],
        optimizer: Any,
        *data: Any,
    ):
        self._arrays, self._optimizer = _arrays(figures, state, data), optimizer
        self._order, self._copied = cupy.empty(order.shape, order.dtype), None
        self._rows = cupy.empty((size,), order.dtype)
        self._at, self._t, self._lr = (_Number(cupy, dtype) for dtype in ("int64", "float64", "float64"))
        self._pool, self._stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)
        column = cupy.zeros(figures.shape[:1], figures.dtype)
        on_device = copy.copy(optimizer)
        object.__setattr__(on_device, "lr", self._lr.place)  # settings are frozen; this copy is nobody else's
        counted = {**state, "t": self._t.place}

        def whole() -> None:
            feed(self._rows, self._order, self._at.place)
            step(self._rows, column, counted, on_device, *data)
            note(figures, column, self._at.place)

        before = _copies(buffer, state)
        step(order[i * size : (i + 1) * size], column, dict(state), optimizer, *data)
        expected = _copies(buffer, state)
        _write_back(buffer, state, before)
        self._set(i, order, state, optimizer)
        cupy.get_default_memory_pool().free_all_blocks()  # the graph's pool cannot take them
        cupy.cuda.get_current_stream().synchronize()
        try:
            self._graph = self._capture(cupy, whole)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise _Refusal(f"the step could not be captured ({cause})") from error
        finally:
            _write_back(buffer, state, before)
        self._at.value = self._t.value = None  # the rehearsal has counted
        self.launch(i, order, dict(state), optimizer)
        agrees = all(map(_agree, before[1], expected[1], _changed(buffer, state, before[0])))
        _write_back(buffer, state, before)
        self._at.value = self._t.value = None
        if not agrees:
            raise _Refusal("a launch of its graph did not compute what the step computes")

    def _capture(self, cupy: Any, work: Callable[[], None]) -> Any:
        with self._stream, cupy.cuda.using_allocator(self._pool.malloc):
            self._handle = cublas.Handle(self._stream.ptr, cupy.empty((WORKSPACE,), "uint8"))
            with cublas.capturing(self._handle):
                try:
                    work()  # a rehearsal, in earnest: kernels are compiled and loaded, what is kept is made
                finally:
                    self._stream.synchronize()
                with _no_collection():
                    self._stream.begin_capture()
                    try:
                        work()
                    except BaseException:
                        with suppress(Exception):
                            self._stream.end_capture()
                        raise
                    return self._stream.end_capture()

    def serves(self, size: int, figures: Array, state: dict[str, Any], optimizer: Any, *data: Any) -> bool:
        arrays = _arrays(figures, state, data)
        return (
            size == self._rows.shape[0]
            and len(arrays) == len(self._arrays)
            and all(a is b for a, b in zip(arrays, self._arrays, strict=True))
            and (optimizer is self._optimizer or _settings(optimizer) == _settings(self._optimizer))
        )

    def launch(self, i: int, order: Array, state: dict[str, Any], optimizer: Any) -> None:
        self._set(i, order, state, optimizer)
        self._graph.launch()
        state["t"] += 1
        self._at.value, self._t.value = i + 1, state["t"]  # the graph counts, too

    def _set(self, i: int, order: Array, state: dict[str, Any], optimizer: Any) -> None:
        if self._copied is not order:
            self._order[...] = order
            self._copied = order
        self._at.set(i)
        self._t.set(state["t"])
        self._lr.set(rate(optimizer.lr, state["t"]))


class _Number:
    """A number on the device, and what the host knows of it; None where that is nothing."""

    def __init__(self, cupy: Any, dtype: str):
        self.place = cupy.empty((1,), dtype)
        self.value: float | None = None

    def set(self, value: float) -> None:
        if value != self.value:
            self.place.fill(value)
            self.value = value


def _arrays(figures: Array, state: dict[str, Any], data: tuple[Any, ...]) -> list[Any]:
    """The arrays whose addresses are in a graph."""
    return [figures, *_slots(state), *data]


def _settings(optimizer: Any) -> tuple[type, dict[str, Any]]:
    return type(optimizer), {name: value for name, value in vars(optimizer).items() if name != "lr"}


def _slots(state: dict[str, Any]) -> list[Array]:
    return [value for name, value in state.items() if name != "t"]


def _copies(buffer: Buffer, state: dict[str, Any]) -> tuple[dict[str, Array], list[Array]]:
    """What a step changes, copied: the buffer's part, as it restores it, and all arrays in a fixed order."""
    kept = buffer.snapshot()
    return kept, [*kept.values(), *(slot.copy() for slot in _slots(state))]


def _changed(buffer: Buffer, state: dict[str, Any], kept: dict[str, Array]) -> list[Array]:
    """The arrays of `_copies` themselves."""
    return [*(getattr(buffer, name) for name in kept), *_slots(state)]


def _write_back(buffer: Buffer, state: dict[str, Any], copies: tuple[dict[str, Array], list[Array]]) -> None:
    kept, arrays = copies
    buffer.restore(kept)
    for slot, value in zip(_slots(state), arrays[len(kept) :], strict=True):
        slot[...] = value


def _agree(before: Array, expected: Array, actual: Array) -> bool:
    """Is `actual` where `expected` is, as seen from `before`? Where that is no finite distance, nobody can say."""
    before, expected, actual = (a.astype("float64") for a in (before, expected, actual))
    change, difference = float(((expected - before) ** 2).sum()), float(((actual - expected) ** 2).sum())
    return not math.isfinite(change) or difference <= AGREEMENT**2 * change


@contextmanager
def _no_collection() -> Iterator[None]:
    """An array that the collector frees may call what a capture forbids."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
