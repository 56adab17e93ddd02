from __future__ import annotations

import math

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.initializers import INITIALIZERS, initializer


@pytest.mark.parametrize(
    ("chosen", "deviation"),
    [
        (nn.Normal(0.3), 0.3),
        (nn.Xavier(), 1 / math.sqrt(300)),
        (nn.He(), math.sqrt(2 / 300)),
        (nn.He(0.5), math.sqrt(2 / 1.25 / 300)),
        (nn.Uniform(-1, 1), 1 / math.sqrt(3)),
        (nn.Constant(2.0), 0.0),
    ],
)
def test_standard_deviation(chosen: nn.Initializer, deviation: float) -> None:
    values = chosen.draw((300, 400), np.random.default_rng(0))
    assert values.dtype == np.float64
    assert np.std(values) == pytest.approx(deviation, rel=0.01)  # 120,000 samples: three standard errors are 0.6 %


def test_every_name_makes_an_initializer() -> None:
    for name in INITIALIZERS:
        assert initializer(name, "weight").draw((2, 3), np.random.default_rng(0)).shape == (2, 3)
