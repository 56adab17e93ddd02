"""How many threads may work on NumPy's arrays at a time."""

from __future__ import annotations

import os

MOST = 8  # what our loops do is bound by memory long before


def threads() -> int:
    """Return as many as there are processors for this process, but no more than NumPy's matrix products may take.

    OPENBLAS_NUM_THREADS, or OMP_NUM_THREADS if it is not set, holds both to fewer.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    held = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    return min(processors, int(held) if held.isdecimal() and int(held) else MOST, MOST)
