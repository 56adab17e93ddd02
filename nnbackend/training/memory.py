"""A batch that is too large for the memory: which one is not?"""

from __future__ import annotations

from typing import Any

from nnbackend.functions.array import Array
from nnbackend.network import Network
from nnbackend.training.step import one_pass


def size_that_fits(network: Network, batch_size: int, x: Array, t: Array, *weight: Any) -> int:
    """The largest of batch_size / 2, / 4, ... for which a pass works; 0 where none does. It is tried, not estimated,
    with a quarter more rows, since a step holds more than its pass. Running statistics are as before afterwards.
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
