"""The range test of the learning rate, against a descent by hand and a limit that is known."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 3))
T = X @ RNG.standard_normal((3, 1)) + 0.1 * RNG.standard_normal((64, 1))


def make() -> nn.Network:
    return nn.Network([nn.Affine(3, 1)], nn.MeanSquaredError(), seed=1, dtype="float64")


def by_hand(rates: np.ndarray, batch_size: int) -> list[float]:
    """The losses of gradient descent for a line, with the batches of a Trainer of seed 0."""
    net = make()
    W, b = (to_numpy(net.params[name]).copy() for name in ("W1", "b1"))
    losses: list[float] = []
    epoch = 0
    while True:
        order = np.random.default_rng([0, epoch]).permutation(64)
        for i in range(0, 64, batch_size):
            if len(losses) == len(rates):
                return losses
            x, t = X[order[i : i + batch_size]], T[order[i : i + batch_size]]
            error = x @ W + b - t
            losses.append(float(np.mean(error**2)))
            lr = rates[len(losses) - 1]
            W -= lr * 2 * x.T @ error / len(x)
            b -= lr * 2 * error.mean(axis=0)
        epoch += 1


@pytest.mark.parametrize("batch_size", [64, 10])
def test_each_step_has_its_rate(on: Namespace, batch_size: int) -> None:
    net = make()
    before = to_numpy(net.buffer.data).copy()
    found = nn.learning_rate_range(
        net, on.array(X), on.array(T), nn.SGD(), low=1e-4, high=1e-1, steps=40, batch_size=batch_size
    )
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 1e-1, 40), rtol=1e-12)
    np.testing.assert_allclose(found.losses, by_hand(np.geomspace(1e-4, 1e-1, 40), batch_size), rtol=1e-9)
    assert to_numpy(net.buffer.data).tobytes() == before.tobytes()
    assert nn.learning_rate_range(net, X, T, nn.SGD(), low=1e-4, high=1e-1, steps=40, batch_size=batch_size) == found


def test_it_ends_soon_after_the_rate_at_which_descent_diverges() -> None:
    """Descent on a quadratic diverges from 2 / its largest curvature on (Nocedal, Wright 2006, section 3.3)."""
    design = np.hstack([X, np.ones((64, 1))])
    limit = 2 / np.linalg.eigvalsh(2 * design.T @ design / 64).max()
    found = nn.learning_rate_range(make(), X, T, nn.SGD(), low=1e-3, high=1e3, steps=300, batch_size=64)
    assert len(found.losses) < 300
    assert limit < found.rates[-1] < 10 * limit
    assert found.suggestion < limit
    assert str(found).startswith(f"learning rate {found.suggestion:.2g}: from 0.001 to ")


def test_the_suggestion_is_the_steepest_place() -> None:
    rates = tuple(np.geomspace(1e-5, 1, 101))
    losses = tuple(1 - 0.5 / (1 + np.exp(-(np.log10(rates) + 3) * 4)) + np.where(np.array(rates) > 0.1, 3, 0))
    found = nn.LearningRateRange(rates, losses)
    assert 1e-3 < found.suggestion < 5e-3  # smoothing comes some steps later than the steepest place, 1e-3
    assert np.argmax(found.smoothed) == 100
    constant = nn.LearningRateRange(rates, (0.7,) * 101)
    np.testing.assert_allclose(constant.smoothed, 0.7)


def test_a_good_rate_trains_better_than_its_neighbours() -> None:
    x = RNG.standard_normal((400, 10)).astype("float32")
    t = (x @ RNG.standard_normal((10, 4))).argmax(axis=1)

    def net() -> nn.Network:
        return nn.Network([nn.Affine(10, 32), nn.ReLU(), nn.Affine(32, 4)], seed=0)

    rate = nn.learning_rate_range(net(), x, t, batch_size=40).suggestion
    rates = (rate / 30, rate, 30 * rate)
    last = [nn.Trainer(net(), nn.Adam(lr), batch_size=40).fit(x, t, 5).loss[-1] for lr in rates]
    assert last[1] < min(last[0], last[2])


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = nn.learning_rate_range(make(), X, T, nn.SGD(), low=1e-4, high=1e-1, steps=40, batch_size=10)
    figure = found.plot(tmp_path / "range.png")
    assert (tmp_path / "range.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    points, curve, line = axes.lines
    assert axes.get_xscale() == "log"
    np.testing.assert_array_equal(points.get_xdata(), found.rates)
    np.testing.assert_array_equal(points.get_ydata(), found.losses)
    np.testing.assert_array_equal(curve.get_ydata(), found.smoothed)
    assert set(line.get_xdata()) == {found.suggestion}
    with pytest.raises(ValueError, match="kind of picture '.gif'"):
        found.plot("range.gif")


@pytest.mark.parametrize("step", [2, 30])
def test_an_interrupt_leaves_no_suggestion(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = nn.Trainer._step

    def interrupted(self: nn.Trainer, *batch: Any) -> None:
        if self.state.optimizer["t"] == step:
            signal.raise_signal(signal.SIGINT)
        original(self, *batch)

    monkeypatch.setattr(nn.Trainer, "_step", interrupted)
    x, t = np.random.default_rng(0).standard_normal((200, 4)), np.zeros(200, "int64")
    with pytest.raises(KeyboardInterrupt):
        nn.learning_rate_range(nn.TwoLayerNet(4, 5, 3), x, t, batch_size=10)


def test_frozen_layers_stay() -> None:
    net = nn.Network([nn.Affine(3, 4), nn.Tanh(), nn.Affine(4, 1)], nn.MeanSquaredError(), seed=1)
    plain = nn.learning_rate_range(net, X, T, steps=20, batch_size=16)
    net.freeze("Affine1")
    assert nn.learning_rate_range(net, X, T, steps=20, batch_size=16).losses != plain.losses


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"low": 0}, ValueError, "low must be positive and finite, got 0"),
        ({"low": 1.0, "high": 0.1}, ValueError, "low must be below high, got low=1.0 and high=0.1"),
        ({"steps": 9}, ValueError, "steps: expected an integer of at least 10, got 9"),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected an optimizer such as Adam"),
        ({"network": 3}, TypeError, "network: expected a Network, got "),
        ({"batch_size": 100}, ValueError, "batch_size is 100, but the data has only 64 rows"),
        ({"optimizer": nn.SGD(), "low": 1e30, "high": 1e40}, ValueError, "the loss is lost from the start"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    settings = {"network": make(), "batch_size": 16} | arguments
    with np.errstate(all="ignore"), pytest.raises(error, match=message):
        nn.learning_rate_range(settings.pop("network"), X, T, **settings)
