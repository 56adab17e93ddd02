"""Optimizers step by step against PyTorch's, and against their formulas."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.functions.optimizers import clip_by_norm
from nnbackend.optimizers import OPTIMIZERS, Optimizer, optimizer

SIZE, STEPS = 50, 30

# ours with settings, and PyTorch's of the same meaning
PAIRS: dict[str, tuple[type[Optimizer], dict[str, Any], Any]] = {
    "sgd": (nn.SGD, {"lr": 0.1}, lambda torch, p, wd: torch.optim.SGD(p, lr=0.1, weight_decay=wd)),
    "momentum": (
        nn.Momentum,
        {"lr": 0.1, "momentum": 0.8},
        lambda torch, p, wd: torch.optim.SGD(p, lr=0.1, momentum=0.8, weight_decay=wd),
    ),
    "nesterov": (
        nn.Nesterov,
        {"lr": 0.1, "momentum": 0.8},
        lambda torch, p, wd: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=wd),
    ),
    "adagrad": (
        nn.AdaGrad,
        {"lr": 0.1, "eps": 1e-6},
        lambda torch, p, wd: torch.optim.Adagrad(p, lr=0.1, eps=1e-6, weight_decay=wd),
    ),
    "rmsprop": (
        nn.RMSprop,
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-6},
        lambda torch, p, wd: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-6, weight_decay=wd),
    ),
    "adam": (
        nn.Adam,
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6},
        lambda torch, p, wd: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=wd),
    ),
    "adamw": (
        nn.AdamW,
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6},
        lambda torch, p, wd: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=wd),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_step_by_step_against_pytorch(on: Namespace, name: str, dtype: str, weight_decay: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind, settings, make = PAIRS[name]
    ours = kind(**settings, weight_decay=weight_decay)
    rng = np.random.default_rng(0)
    start = rng.standard_normal(SIZE).astype(dtype)
    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = make(torch, [theirs], weight_decay)
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


def formula(name: str, theta: float, g: float, slots: dict[str, float], t: int) -> float:
    """One step for one number, as the papers have it; weight decay 0.1."""
    lr, decay, mu, alpha, eps, beta1, beta2 = 0.05, 0.1, 0.9, 0.99, 1e-8, 0.9, 0.999
    g += 0.0 if name == "adamw" else decay * theta
    match name:
        case "sgd":
            return theta - lr * g
        case "momentum":  # the book's v is -lr times ours
            slots["v"] = mu * slots.get("v", 0.0) - lr * g
            return theta + slots["v"]
        case "nesterov":
            # Sutskever: v <- mu v - lr g(x + mu v), x <- x + v; theta is x + mu v
            old = slots.get("v", 0.0)
            slots["v"] = mu * old - lr * g
            return theta - mu * old + slots["v"] + mu * slots["v"]
        case "adagrad":
            slots["h"] = slots.get("h", 0.0) + g * g
            return theta - lr * g / (math.sqrt(slots["h"]) + eps)
        case "rmsprop":
            slots["h"] = alpha * slots.get("h", 0.0) + (1 - alpha) * g * g
            return theta - lr * g / (math.sqrt(slots["h"]) + eps)
        case "adam" | "adamw":
            slots["m"] = beta1 * slots.get("m", 0.0) + (1 - beta1) * g
            slots["v"] = beta2 * slots.get("v", 0.0) + (1 - beta2) * g * g
            m, v = slots["m"] / (1 - beta1**t), slots["v"] / (1 - beta2**t)
            decoupled = lr * decay * theta if name == "adamw" else 0.0
            return theta - decoupled - lr * m / (math.sqrt(v) + eps)
        case _:
            raise NotImplementedError(f"write down the formula of {name!r} here")


@pytest.mark.parametrize("name", PAIRS)
def test_every_optimizer_against_its_formula(on: Namespace, name: str) -> None:
    eps = {"eps": 1e-8} if "eps" in PAIRS[name][1] else {}
    ours = optimizer(name, lr=0.05, weight_decay=0.1, **eps)
    theta, slots = 2.0, {}
    p = on.backend.zeros((1,), "float64") + theta
    state = ours.init(p)
    for t in range(1, 31):
        theta = formula(name, theta, math.sin(t), slots, t)
        ours.step(p, on.array([math.sin(t)], "float64"), state)
        assert float(p[0]) == pytest.approx(theta, rel=1e-13)


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


@pytest.mark.parametrize("limit", [0.5, 7.0, 1e3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_against_pytorch(on: Namespace, limit: float, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    values = np.random.default_rng(1).standard_normal(200).astype(dtype)
    parts = [torch.nn.Parameter(torch.zeros(size, dtype=getattr(torch, dtype))) for size in (120, 80)]
    for part, g in zip(parts, np.split(values, [120]), strict=True):
        part.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(parts, limit)
    ours = on.backend.zeros((200,), dtype)
    ours[...] = on.array(values)
    assert clip_by_norm(ours, limit) is None
    assert_close(ours, np.concatenate([part.grad.numpy() for part in parts]), dtype, terms=200)
    assert np.linalg.norm(to_numpy(ours)) <= limit * (1 + 1e-6)
    if limit == 1e3:
        assert to_numpy(ours).tobytes() == values.tobytes()


def test_a_gradient_of_zero_is_not_clipped(on: Namespace) -> None:
    g = on.backend.zeros((3,), "float32")
    clip_by_norm(g, 1.0)
    assert not to_numpy(g).any()


@pytest.mark.parametrize("name", PAIRS)
def test_the_schedule_is_asked_with_the_steps_taken(on: Namespace, name: str) -> None:
    lrs = nn.StepDecay(0.1, every=2, factor=0.5)
    p, q = on.backend.zeros((3,), "float64") + 1.0, on.backend.zeros((3,), "float64") + 1.0
    ours = optimizer(name, lr=lrs)
    state, other = ours.init(p), ours.init(q)
    for step in range(5):
        g = on.array([0.5, -1.0, 2.0])
        ours.step(p, g, state)
        optimizer(name, lr=0.1 * 0.5 ** (step // 2)).step(q, g, other)
        assert_close(p, to_numpy(q), "float64")


class Count:
    """The count of steps as it lies on a device: all that may be done to it without a kernel of its own is to go on."""

    def __init__(self) -> None:
        self.steps = 0

    def __iadd__(self, one: int) -> Count:
        self.steps += one
        return self


@pytest.mark.parametrize("kind", [nn.SGD, nn.Momentum, nn.Nesterov, nn.AdaGrad, nn.RMSprop])
def test_a_constant_learning_rate_computes_nothing_from_the_count(kind: type[Optimizer]) -> None:
    p = np.ones(3)
    state = kind(0.1).init(p)
    state["t"] = Count()
    kind(0.1).step(p, np.ones(3), state)
    assert state["t"].steps == 1
    with pytest.raises(TypeError):
        kind(nn.Exponential(0.1, 0.9)).step(p, np.ones(3), state)


@pytest.mark.parametrize("name", PAIRS)
def test_settings_make_the_optimizer_again(name: str) -> None:
    for lr in (0.25, nn.WarmUp(nn.Cosine(0.1, steps=50, lr_min=0.01), steps=10)):
        ours = optimizer(name, lr=lr, weight_decay=0.125)
        assert optimizer(name, **json.loads(json.dumps(ours.config()))) == ours


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
        (lambda: nn.RMSprop(alpha=1.0), "alpha must be at least 0 and below 1, got 1.0"),
        (lambda: nn.AdaGrad(eps=-1e-8), "eps must be positive"),
        (lambda: nn.Nesterov(momentum=-0.5), "momentum must be"),
        (lambda: nn.SGD(weight_decay=-0.1), "weight_decay must be at least 0 and finite, got -0.1"),
        (lambda: nn.AdamW(weight_decay=math.inf), "weight_decay must be at least 0 and finite"),
        (lambda: nn.AdamW(weight_decay=None), "weight_decay must be a number, got None"),
        (lambda: nn.SGD(lr=lambda step: 0.1), "lr must be a number"),
        (lambda: optimizer("adm"), "Did you mean 'adam'?"),
        (lambda: optimizer("sgd", lr={"kind": "Cosin"}), "Did you mean 'Cosine'?"),
    ],
)
def test_bad_settings(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        make()


def test_every_optimizer_has_a_name_and_a_pytorch_twin() -> None:
    assert set(PAIRS) == set(OPTIMIZERS)
    assert all(PAIRS[name][0] is kind for name, kind in OPTIMIZERS.items())
    assert optimizer("momentum", lr=0.5) == nn.Momentum(lr=0.5)
