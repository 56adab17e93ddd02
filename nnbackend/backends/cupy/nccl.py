"""Add arrays of several GPUs in place, through NCCL. This module does not import CuPy; it gets the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnbackend.functions.array import Array


def device_sum(
    cupy: Any, size: int, rank: int, share: Callable[[Any], Any], agree: Callable[[bool], bool]
) -> Callable[[Array], None] | None:
    """Return a function that adds a contiguous floating array over all processes.

    Returns None if CuPy has no NCCL in one of them. size, rank, share, agree: as `Backend.device_sum` takes them. The
    order of the additions is NCCL's own, the same in all processes. The sum runs on CuPy's current stream.
    """
    from cupy.cuda import nccl

    if not agree(bool(nccl.available)):
        return None
    identifier = share(nccl.get_unique_id() if rank == 0 else None)
    communicator = nccl.NcclCommunicator(size, identifier, rank)
    types = {"f": nccl.NCCL_FLOAT32, "d": nccl.NCCL_FLOAT64}

    def add(a: Any) -> None:
        pointer, stream = a.data.ptr, cupy.cuda.get_current_stream().ptr
        communicator.allReduce(pointer, pointer, a.size, types[a.dtype.char], nccl.NCCL_SUM, stream)

    return add
