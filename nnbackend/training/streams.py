"""Train on rows that do not lie in memory.

The rows of a step are read on the host, by a thread that reads the next ones meanwhile, and then moved to arrays that
are as long as a step. Every step takes its rows from these arrays.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnbackend.backends import resolve, to_numpy
from nnbackend.errors import DataError
from nnbackend.functions import is_finite
from nnbackend.functions.array import Array, pieces
from nnbackend.network import Network, optional

HostArray: TypeAlias = npt.NDArray[Any]
Read: TypeAlias = Callable[[HostArray], tuple[HostArray, ...]]  # host rows x, t and perhaps weights
Part: TypeAlias = tuple[HostArray, int]  # numbers of rows, and the place of the first of them within its step

AHEAD = 2  # steps that wait, read, for their turn
ROWS_AT_ONCE = 4096  # rows that are read together if all are
SECONDS = 0.05  # after which a thread that waits looks whether it is still needed


class StreamedArray:
    """Stands for all rows of a stream where an array is expected. A slice of rows is read, and moved, when it is taken.

    shape, ndim, dtype: those of the array that all rows together would be.
    """

    def __init__(self, stream: Stream, number: int, like: Array):
        self.stream, self._number = stream, number
        self.shape = (stream.rows, *like.shape[1:])
        self.ndim, self.dtype = len(self.shape), like.dtype

    def __getitem__(self, key: Any) -> Array:
        rows = key[0] if isinstance(key, tuple) else key
        return self.stream.slice(rows)[self._number]


class Stream:
    """Reads rows of a network's data. rows: their number. read: returns host rows by their numbers.

    targets: t as a whole, or None if it is not in memory. data: x, t and perhaps the weights, each as an array of all
    rows.
    """

    def __init__(self, network: Network, rows: int, read: Read, targets: Array | None, weight: Array | None):
        self.rows, self._network = rows, network
        self._host_rows, self._lock = read, threading.Lock()  # one call at a time
        self._last: tuple[tuple[int, int], tuple[Array, ...]] | None = None
        self._windows: tuple[Array, ...] = ()
        first = self._moved(self._read(np.arange(1)))
        network.data(*first[:2])  # raises an error that names what does not fit
        x, t = (StreamedArray(self, i, part) for i, part in enumerate(first[:2]))
        if targets is None and not isinstance(network.loss_layer.total(first[1]), int):  # it weights its classes
            targets = network.backend.xp.concat([t[some] for some in pieces(rows, ROWS_AT_ONCE)], axis=0)
        self.data: tuple[Any, Any, Array | None] = x, t if targets is None else targets, weight

    def slice(self, rows: slice) -> tuple[Array, ...]:
        """Return a slice of the rows on the network's backend."""
        start, stop, _ = rows.indices(self.rows)
        if self._last is None or self._last[0] != (start, stop):
            self._last = (start, stop), self._moved(self._read(np.arange(start, stop)))
        return self._last[1]

    def windows(self, size: int) -> tuple[Array, ...]:
        """Return arrays for the rows of a step of `size` rows: the same as last time, if they have this size."""
        if not self._windows or self._windows[0].shape[0] != size:
            backend = self._network.backend
            self._windows = tuple(
                backend.zeros((size, *part.shape[1:]), str(part.dtype).rpartition(".")[2])
                for part in self._moved(self._read(np.arange(1)))
            )
        return self._windows

    def load(self, part: Part) -> None:
        """Read rows, and put them into the arrays of a step."""
        self._put(self._read(part[0]), part[1])

    @contextmanager
    def reading(self, parts: Iterable[Part]) -> Iterator[Callable[[], None]]:
        """Read parts one after the other in a thread, ahead of the steps.

        Gives a function that puts the next part into the arrays of a step. It raises the error that its reading has
        raised. At the end of the block the thread has ended.
        """
        queue: Queue[tuple[tuple[HostArray, ...], int] | BaseException] = Queue(AHEAD)
        unneeded = threading.Event()

        def work() -> None:
            for rows, place in parts:
                found: tuple[tuple[HostArray, ...], int] | BaseException
                try:
                    found = self._read(rows), place
                except BaseException as error:  # also SystemExit: the step would wait for its rows for ever
                    found = error
                while not unneeded.is_set():
                    try:
                        queue.put(found, timeout=SECONDS)
                        break
                    except Full:
                        pass
                if unneeded.is_set() or isinstance(found, BaseException):
                    return

        def load() -> None:
            found = queue.get()
            if isinstance(found, BaseException):
                raise found
            self._put(*found)

        thread = threading.Thread(target=work, name="nnbackend reads ahead", daemon=True)
        thread.start()
        try:
            yield load
        finally:
            unneeded.set()
            thread.join()

    def _read(self, numbers: HostArray) -> tuple[HostArray, ...]:
        with self._lock:
            return self._host_rows(numbers)

    def _moved(self, parts: tuple[HostArray, ...]) -> tuple[Array, ...]:
        backend, dtype = self._network.backend, self._network.first.input_dtype or self._network.dtype
        with backend.active():
            x, t, *weight = parts
            return backend.asarray(x, dtype), backend.asarray(t), *(backend.asarray(w) for w in weight)

    def _put(self, parts: tuple[HostArray, ...], place: int) -> None:
        for window, part in zip(self._windows, self._moved(parts), strict=True):
            window[place : place + part.shape[0], ...] = part


def stream_of(network: Network, x: Any, t: Any, weight: Any, argument: str = "x") -> Stream | None:
    """Return a stream of data that is a memory map of NumPy, or a source (t is then None); None for all other data.

    Raises the errors of `Trainer.fit` for data that does not fit the network.
    """
    if t is None:
        return _of_source(network, x, weight, argument)
    if isinstance(x, np.memmap):
        return _of_map(network, x, t, weight, argument)
    return None


def _of_source(network: Network, source: Any, weight: Any, argument: str) -> Stream:
    try:
        rows = operator.index(len(source))
    except TypeError:
        raise TypeError(
            f"t is missing, and {argument} is no source of rows with their targets, which has a length and gives "
            f"(x, t) for an array of row numbers: got a {type(source).__name__}"
        ) from None
    if hasattr(source, "shape") or isinstance(source, list | tuple):
        raise TypeError(f"t: the targets of {argument} are missing")
    if rows < 1:
        raise ValueError(f"{argument} is empty: at least one row is needed")
    weights = network.weights(weight, rows, argument.replace("x", "sample_weight"))
    of_rows = () if weights is None else (to_numpy(weights),)
    host, end = resolve("numpy"), network.loss_layer
    checker = type(end)(**end.config())  # the loss itself keeps arrays on the network's device

    def given(numbers: HostArray) -> tuple[Any, Any]:
        try:
            x, t = source[numbers]
            x = host.asarray(x)
        except Exception as error:
            raise DataError(
                f"{argument}: reading rows {_named(numbers)} of {source!r} failed: {type(error).__name__}: {error}"
            ) from error
        if x.ndim == 0 or x.shape[0] != len(numbers):
            raise DataError(f"{argument}: {source!r} gave x of shape {tuple(x.shape)} for {len(numbers)} row numbers")
        return x, t

    row = given(np.arange(1))[0]
    network.inputs(row, argument)
    shape = network.output_shape(tuple(row.shape[1:]))

    def read(numbers: HostArray) -> tuple[HostArray, ...]:
        x, t = given(numbers)
        if x.shape[1:] != row.shape[1:]:
            raise DataError(
                f"{argument}: rows {_named(numbers)} of {source!r} have shape {tuple(x.shape[1:])}, but row 0 has "
                f"{tuple(row.shape[1:])}"
            )
        try:
            t = checker.target(t, len(numbers), shape, host, network.dtype)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{argument}, rows {_named(numbers)}: {error}") from error
        _check_values(network, x, numbers, argument)
        return to_numpy(x), to_numpy(t), *(w[numbers] for w in of_rows)

    return Stream(network, rows, read, None, weights)


def _of_map(network: Network, x: Any, t: Any, weight: Any, argument: str) -> Stream:
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"{argument}: expected a batch of rows, got shape {tuple(x.shape)}")
    network.inputs(x[:1], argument)
    rows = x.shape[0]
    targets = network.loss_layer.target(
        t, rows, network.output_shape(tuple(x.shape[1:])), network.backend, network.dtype
    )
    weights = network.weights(weight, rows, argument.replace("x", "sample_weight"))
    others = [to_numpy(a) for a in (targets, *optional(weights))]

    def read(numbers: HostArray) -> tuple[HostArray, ...]:
        found = np.asarray(x[numbers])
        _check_values(network, found, numbers, argument)
        return found, *(a[numbers] for a in others)

    return Stream(network, rows, read, targets, weights)


def _check_values(network: Network, x: HostArray, numbers: HostArray, argument: str) -> None:
    """Raise ValueError for host rows that are not finite, or that are no ids for a network that takes ids."""
    first, name = network.first, f"{argument}, rows {_named(numbers)}"
    if first.input_dtype and x.dtype.kind not in "iu":
        raise ValueError(f"{name}: {first} takes integers, got dtype {x.dtype}")
    first.check_values(x, name)
    if x.dtype.kind == "f" and not is_finite(x):
        bad = next(i for i, row in zip(numbers, x, strict=True) if not np.isfinite(row).all())
        raise ValueError(f"{argument} contains NaN or infinity in row {bad}")


def _named(numbers: HostArray) -> str:
    return f"{', '.join(str(n) for n in numbers[:3])}{', ...' if len(numbers) > 3 else ''}"
