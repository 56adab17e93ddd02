"""How many threads may work on NumPy's arrays at a time: those of matrix products, or those of the loops in C."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MOST = 8  # what our loops do is bound by memory long before

_lock = threading.Lock()
_blocks = 0  # how many `for_loops` blocks are being run
_limit: Any = None  # what the first of them has set


def threads() -> int:
    """Return as many as there are processors for this process, but no more than NumPy's matrix products may take.

    OPENBLAS_NUM_THREADS, or OMP_NUM_THREADS if it is not set, holds both to fewer.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    held = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    return min(processors, int(held) if held.isdecimal() and int(held) else MOST, MOST)


@contextmanager
def for_loops(use: Callable[[int], None]) -> Iterator[None]:
    """Give the processors to the loops in C within the block, and one of them to the matrix products of the process.

    use: tells the loops how many threads they have. The threads of OpenBLAS spin for 0.1 s after each product, and
    loops that meet them get half of every processor but one. So the loops get threads only if the products lose theirs.
    """
    global _blocks, _limit
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _limit = _one_thread_for_products()
            use(1 if _limit is None else threads())
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0 and _limit is not None:
                use(1)
                _limit.restore_original_limits()
                _limit = None


def _one_thread_for_products() -> Any:
    """Return what takes the limit back, or None if it cannot be set or would gain nothing."""
    if threads() == 1 or sys.platform == "win32":  # where the loops have one thread
        return None
    libraries = _libraries()
    return libraries.limit(limits=1) if libraries.info() else None


@functools.cache
def _libraries() -> Any:
    """Return the libraries of matrix products in this process; NumPy's is there already."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
