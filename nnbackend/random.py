"""Random generators for the host, which draw initial weights and shuffles by an explicit seed."""

from __future__ import annotations

import numpy as np


def host_generator(seed: int | np.random.Generator, *stream: int) -> np.random.Generator:
    """Return a generator that depends only on the seed and the stream numbers, so that it can be made again.

    seed: an integer of at least 0, or a Generator, which is returned unchanged. stream: integers that tell generators
    of one seed apart. Raises ValueError for any other seed.
    """
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng([checked_seed(seed), *stream])


def checked_seed(seed: int) -> int:
    """Return the seed as an int. Raise ValueError if it is not an integer of at least 0."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    return int(seed)
