"""Find a batch size that fits in memory."""

from __future__ import annotations

from typing import Any

from nnbackend.functions.array import Array
from nnbackend.network import Network
from nnbackend.training.step import one_pass


def size_that_fits(network: Network, batch_size: int, x: Array, t: Array, *weight: Any) -> int:
    """Return the largest of batch_size / 2, / 4, ... for which a pass works, or 0 if none does.

    Each size is tried with a quarter more rows, because a step holds more memory than its pass. Running statistics
    stay as they were.
    """
    kept = network.buffer.snapshot()
    size = batch_size // 2
    try:
        while size:
            try:
                one_pass(network, *(array[: min(size + size // 4, batch_size), ...] for array in (x, t, *weight)))
                break
            except MemoryError:
                size //= 2
    finally:
        network.buffer.restore(kept)
    return size
