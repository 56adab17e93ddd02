"""Schedules against PyTorch's, over all steps, and as settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

import nnbackend as nn
from nnbackend.schedules import SCHEDULES, Schedule, rate, schedule

LR = 0.3

# ours, PyTorch's of the same meaning, and over how many steps they agree
PAIRS: dict[str, tuple[Schedule, Callable[[Any, Any], Any], int]] = {
    "StepDecay": (nn.StepDecay(LR, every=7, factor=0.5), lambda s, o: s.StepLR(o, 7, 0.5), 60),
    "Exponential": (nn.Exponential(LR, factor=0.9), lambda s, o: s.ExponentialLR(o, 0.9), 60),
    "Cosine": (nn.Cosine(LR, steps=40, lr_min=0.01), lambda s, o: s.CosineAnnealingLR(o, 40, 0.01), 41),
    "OneCycle": (nn.OneCycle(LR, steps=50), lambda s, o: s.OneCycleLR(o, LR, total_steps=50), 50),
    "OneCycle-settings": (
        nn.OneCycle(LR, steps=33, rise=0.45, div=10.0, final_div=100.0),
        lambda s, o: s.OneCycleLR(o, LR, total_steps=33, pct_start=0.45, div_factor=10.0, final_div_factor=100.0),
        33,
    ),
    "OneCycle-without-a-rise": (
        nn.OneCycle(LR, steps=20, rise=0.0),
        lambda s, o: s.OneCycleLR(o, LR, total_steps=20, pct_start=0.0),
        20,
    ),
    "OneCycle-without-a-fall": (
        nn.OneCycle(LR, steps=20, rise=1.0),
        lambda s, o: s.OneCycleLR(o, LR, total_steps=20, pct_start=1.0),
        20,
    ),
    "WarmUp": (nn.WarmUp(LR, steps=9, start=0.25), lambda s, o: s.LinearLR(o, 0.25, total_iters=9), 60),
    "WarmUp-Cosine": (
        nn.WarmUp(nn.Cosine(LR, steps=30), steps=10),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=10), s.CosineAnnealingLR(o, 30)], [10]),
        41,
    ),
    "WarmUp-StepDecay": (
        nn.WarmUp(nn.StepDecay(LR, every=5), steps=4, start=0.5),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.5, total_iters=4), s.StepLR(o, 5)], [4]),
        60,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_against_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours, make, steps = PAIRS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    theirs = make(torch.optim.lr_scheduler, optimizer)
    for step in range(steps):
        # theirs is a product of up to 60 factors, each rounded
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12, abs=1e-15), step
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@pytest.mark.parametrize("name", PAIRS)
def test_values_are_plain_floats_and_stay_finite(name: str) -> None:
    ours = PAIRS[name][0]
    values = [ours(step) for step in [*range(100), 10**6]]
    assert all(type(value) is float and 0 <= value <= LR for value in values)


def test_what_comes_after_the_last_step() -> None:
    assert nn.Cosine(0.1, steps=10, lr_min=0.01)(1000) == pytest.approx(0.01)
    assert nn.OneCycle(0.1, steps=10, div=10, final_div=10)(1000) == pytest.approx(1e-3)
    assert nn.OneCycle(0.1, steps=10, rise=1.0, div=10, final_div=10)(10) == pytest.approx(1e-3)
    assert nn.WarmUp(0.1, steps=10)(1000) == 0.1
    assert [nn.OneCycle(0.1, steps=1)(step) for step in (0, 1)] == pytest.approx([4e-7, 4e-7])


def test_warm_up_starts_at_its_share_and_ends_at_the_rate() -> None:
    ours = nn.WarmUp(nn.Exponential(1.0, factor=0.5), steps=4, start=0.0)
    assert [ours(step) for step in range(7)] == [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("name", PAIRS)
def test_settings_make_the_schedule_again(name: str) -> None:
    ours = PAIRS[name][0]
    assert schedule(json.loads(json.dumps(ours.config()))) == ours
    assert hash(ours) == hash(schedule(ours.config()))


def test_every_schedule_has_a_name_and_a_pytorch_twin() -> None:
    assert {type(ours).__name__ for ours, _, _ in PAIRS.values()} == set(SCHEDULES)
    assert rate(0.5, 10) == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.StepDecay(0.1, every=0), "every must be a positive integer, got 0"),
        (lambda: nn.StepDecay(-0.1, every=2), "lr must be positive and finite, got -0.1"),
        (lambda: nn.StepDecay(0.1, every=2, factor=0), "factor must be positive and finite, got 0"),
        (lambda: nn.Exponential("0.1", factor=0.5), "lr must be a number, got '0.1'"),
        (lambda: nn.Cosine(0.1, steps=1.5), "steps must be a positive integer, got 1.5"),
        (lambda: nn.Cosine(0.1, steps=10, lr_min=0.2), "lr_min must lie in 0 to lr, which is 0.1, got 0.2"),
        (lambda: nn.Cosine(0.1, steps=10, lr_min=math.nan), "lr_min must lie in"),
        (lambda: nn.OneCycle(0.1, steps=True), "steps must be a positive integer, got True"),
        (lambda: nn.OneCycle(0.1, steps=10, rise=1.5), "rise must lie in 0 to 1, got 1.5"),
        (lambda: nn.OneCycle(0.1, steps=10, div=0.0), "div must be positive"),
        (lambda: nn.WarmUp("cosine", steps=10), "after must be a number, got 'cosine'"),
        (lambda: nn.WarmUp(0.1, steps=10, start=-1.0), "start must lie in 0 to 1, got -1.0"),
        (lambda: schedule({"kind": "cosine", "lr": 0.1}), "unknown schedule 'cosine'. Did you mean 'Cosine'?"),
        (lambda: schedule({"lr": 0.1}), "unknown schedule None"),
        (lambda: schedule({"kind": "Cosine", "lr": 0.1}), "schedule Cosine: "),
        (lambda: schedule({"kind": "Cosine", "lr": 0.1, "steps": 3, "stpes": 3}), "schedule Cosine: "),
    ],
)
def test_bad_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
