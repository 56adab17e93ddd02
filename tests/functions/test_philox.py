"""Random bits against the vectors that the authors of Philox publish, and masks that are the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from support import NAMESPACES, Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy, why_not
from nnbackend.functions import dropout_mask, philox

ONES = 0xFFFFFFFF
# Random123's known-answer file, philox4x32 with ten rounds: counter, key, result
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_published_vectors(
    on: Namespace, counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = philox(tuple(on.array([c], "int64") for c in counter), key)
    assert tuple(int(word[0]) for word in words) == expected


def mask(backend: nn.Backend, dtype: str, shape: tuple[int, ...], seed: int, stream: int, clock: int) -> np.ndarray:
    x = backend.zeros(shape, dtype)
    return to_numpy(dropout_mask(x, 0.3, seed, stream, backend.asarray([clock], "int64")))


@pytest.mark.parametrize("shape", [(7, 5), (4,), (1,), (3, 2, 5), (0, 4)])
def test_one_mask_on_every_backend_and_dtype(shape: tuple[int, ...]) -> None:
    with nn.using("numpy") as numpy:
        expected = mask(numpy, "float64", shape, 2**40 + 5, 3, 17) > 0
    for name in NAMESPACES:
        if name != "numpy-readonly" and why_not(name) is None:
            with nn.using(name) as backend:
                for dtype in ("float32", "float64"):
                    ours = mask(backend, dtype, shape, 2**40 + 5, 3, 17)
                    assert ours.dtype == dtype
                    assert ((ours > 0) == expected).all()


def test_a_mask_depends_on_seed_stream_clock_and_position() -> None:
    with nn.using("numpy") as backend:
        masks = {
            mask(backend, "float32", (10, 40), seed, stream, clock).tobytes()
            for seed in (0, 1, 2**33)
            for stream in (0, 1)
            for clock in (1, 2)
        }
        assert len(masks) == 12
        small, large = mask(backend, "float32", (20,), 0, 0, 1), mask(backend, "float32", (400,), 0, 0, 1)
        assert (large[:20] == small).all()


def test_the_share_of_zeros_is_the_ratio() -> None:
    with nn.using("numpy") as backend:
        values = mask(backend, "float64", (1000, 1000), 0, 0, 1)
    # a million draws: the standard error of the share is 4.6e-4
    assert np.mean(values == 0) == pytest.approx(0.3, abs=2e-3)
    assert set(np.unique(values)) == {0.0, 1 / 0.7}
    columns = (values == 0).mean(axis=0)
    assert columns.std() == pytest.approx((0.3 * 0.7 / 1000) ** 0.5, rel=0.1)  # no column is special
