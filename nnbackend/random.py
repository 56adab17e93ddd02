"""Randomness. What the host draws (initial weights, shuffles) comes from here, by an explicit seed."""

from __future__ import annotations

import numpy as np


def host_generator(seed: int | np.random.Generator, *stream: int) -> np.random.Generator:
    """A generator that depends on the seed and the stream numbers alone, so that any one can be made again.

    A Generator given as the seed is returned as it is. Raises ValueError for a seed that is no integer >= 0.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng([checked_seed(seed), *stream])


def checked_seed(seed: int) -> int:
    """The seed, or ValueError where it is no integer >= 0."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    return int(seed)
