"""Randomness. What the host draws (initial weights, shuffles) comes from here, by an explicit seed."""

from __future__ import annotations

import numpy as np


def host_generator(seed: int, *stream: int) -> np.random.Generator:
    """A generator that depends on the seed and the stream numbers alone, so that any one can be made again."""
    return np.random.default_rng([seed, *stream])
