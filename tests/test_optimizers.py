"""Optimizers step by step against PyTorch's, and against their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.optimizers import OPTIMIZERS, Optimizer, optimizer

SIZE, STEPS = 50, 30

# ours, and PyTorch's of the same meaning
PAIRS: dict[str, tuple[Optimizer, Any]] = {
    "sgd": (nn.SGD(lr=0.1), lambda torch, p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (nn.Momentum(lr=0.1, momentum=0.8), lambda torch, p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
    "adam": (
        nn.Adam(lr=0.01, beta1=0.8, beta2=0.99, eps=1e-6),
        lambda torch, p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_by_step_against_pytorch(on: Namespace, name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours, make = PAIRS[name]
    rng = np.random.default_rng(0)
    start = rng.standard_normal(SIZE).astype(dtype)
    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = make(torch, [theirs])
    p = on.backend.zeros((SIZE,), dtype)
    p[...] = on.array(start)
    state = ours.init(p)
    for step in range(1, STEPS + 1):
        g = rng.standard_normal(SIZE).astype(dtype)
        theirs.grad = torch.tensor(g)
        reference.step()
        assert ours.step(p, on.array(g), state) is None
        assert state["t"] == step
        assert_close(p, theirs.detach().numpy(), dtype, terms=step)  # one rounding more with every step


def test_adam_against_the_published_algorithm(on: Namespace) -> None:
    lr, beta1, beta2, eps = 1e-3, 0.9, 0.999, 1e-8
    theta, m, v = 2.0, 0.0, 0.0
    p = on.backend.zeros((1,), "float64") + theta
    ours = nn.Adam()
    state = ours.init(p)
    for t in range(1, 20):
        g = math.sin(t)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        theta -= lr * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
        ours.step(p, on.array([g], "float64"), state)
        assert float(p[0]) == pytest.approx(theta, rel=1e-14)


def test_the_first_step_of_adam_is_the_learning_rate(on: Namespace) -> None:
    p = on.backend.zeros((3,), "float64")
    nn.Adam(lr=0.5).step(p, on.array([1e-3, -7.0, 2e5]), nn.Adam().init(p))
    assert_close(p, [-0.5, 0.5, -0.5], "float64", scale=1e10)


def test_a_step_writes_the_values_in_place_and_leaves_the_gradient(on: Namespace) -> None:
    p = on.backend.zeros((4,), "float32")
    part = p[1:3]
    g = on.array([1.0, 2.0, 3.0, 4.0], "float32")
    nn.SGD(lr=1.0).step(p, g, nn.SGD().init(p))
    assert_close(part, np.array([-2.0, -3.0], "float32"), "float32")
    assert_close(g, np.array([1.0, 2.0, 3.0, 4.0], "float32"), "float32")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.SGD(lr=-1), "lr must be positive and finite, got -1"),
        (lambda: nn.Adam(lr=0), "lr must be positive"),
        (lambda: nn.Adam(lr=math.nan), "lr must be positive"),
        (lambda: nn.Adam(lr="0.1"), "lr must be a number, got '0.1'"),
        (lambda: nn.Momentum(momentum=1.0), "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: nn.Adam(beta1=1.5), "beta1 must be"),
        (lambda: nn.Adam(beta2=-0.1), "beta2 must be"),
        (lambda: nn.Adam(eps=0.0), "eps must be positive"),
        (lambda: optimizer("adm"), "Did you mean 'adam'?"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        make()


def test_every_optimizer_has_a_name_and_a_pytorch_twin() -> None:
    assert set(PAIRS) == set(OPTIMIZERS)
    assert optimizer("momentum", lr=0.5) == nn.Momentum(lr=0.5)
