"""How many threads may work on NumPy's arrays at a time: those of matrix products, or those of the loops in C."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

MOST = 8  # threads that share a loop: most loops are bound by memory long before
QUOTAS = (  # microseconds of all processors, and of the clock: of version 2 of control groups, and of version 1
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)

_lock = threading.Lock()
_blocks = 0  # how many `for_loops` blocks are being run
_limit: Any = None  # what the first of them has set


def threads() -> int:
    """Return how many threads share a loop."""
    return min(available(), MOST)


def available() -> int:
    """Return as many as there are processors for this process, but no more than NumPy's matrix products may take.

    A container may have a share of the time of all processors, which threads that wait for each other would use up.
    OPENBLAS_NUM_THREADS, or OMP_NUM_THREADS if it is not set, holds both to fewer.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processors = min(processors, _granted() or processors)
    held = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    return min(processors, int(held) or processors) if held.isdecimal() else processors


@functools.cache
def _granted() -> int:
    """Return how many processors' time Linux grants to this container, rounded up; 0 if there is no limit."""
    for names in QUOTAS:
        with suppress(OSError, ValueError):
            text = ""
            for name in names:  # without pathlib, whose import takes longer than all of this
                with open(name, encoding="ascii") as file:  # noqa: PTH123
                    text += file.read() + " "
            quota, period = text.split()
            if quota != "max" and int(quota) > 0:
                return max(1, -(-int(quota) // int(period)))
    return 0


@contextmanager
def for_loops(use: Callable[[int], None]) -> Iterator[None]:
    """Give the processors to the loops in C within the block, and one of them to the matrix products of the process.

    use: tells the loops how many threads they have. The threads of OpenBLAS spin for 0.1 s after each product, and
    loops that meet them get half of every processor but one. So the loops get threads only if the products lose theirs.
    """
    global _blocks, _limit
    counted_in = 0  # the process that counts this block
    try:
        with _lock:
            if _blocks == 0:
                use(_one_thread_for_products())
            _blocks += 1
            counted_in = os.getpid()
        yield
    finally:
        with _lock:
            _blocks -= counted_in == os.getpid()  # a child process may leave a block of its parent
            if _blocks == 0 and _limit is not None:
                try:
                    use(1)
                finally:
                    _limit.restore_original_limits()
                    _limit = None


def _one_thread_for_products() -> int:
    """Take the threads from the products, unless that is impossible or gains nothing; return those of the loops."""
    global _limit
    count = threads()
    if count == 1 or sys.platform == "win32":  # where the loops have one thread
        return 1
    libraries = _libraries()
    if _limit is None:  # it is there after an interrupt, and in a child process
        found = libraries.info()
        count = min(count, max((library["num_threads"] for library in found), default=1))
        if count > 1:
            _limit = libraries.limit(limits=1)
    return count


def _forget_blocks() -> None:
    """Begin outside of all blocks in a child process: another thread may have held the lock, and is not here."""
    global _lock, _blocks
    _lock, _blocks = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_blocks)


@functools.cache
def _libraries() -> Any:
    """Return the libraries of matrix products in this process; NumPy's is there already."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
