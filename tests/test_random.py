from __future__ import annotations

import numpy as np
import pytest

from nnbackend.random import host_generator


def test_streams_depend_on_seed_and_numbers_alone() -> None:
    draws = {(s, e): host_generator(s, e).random(4).tobytes() for s in (0, 1) for e in (0, 1)}
    assert len(set(draws.values())) == 4
    assert host_generator(1, 1).random(4).tobytes() == draws[1, 1]
    generator = np.random.default_rng(0)
    assert host_generator(generator) is generator


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got"):
        host_generator(seed)
