"""The record of layers over time: the measures against closed forms, and that recording alters nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.report import LayerRecord
from nnbackend.report.layers import MEASURES, measured

RNG = np.random.default_rng(3)
X = RNG.standard_normal((40, 6))
T = (X @ RNG.standard_normal((6, 3))).argmax(axis=1)


def make(**settings: Any) -> nn.Trainer:
    net = nn.Network([nn.Affine(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Affine(8, 3)], seed=1, dtype="float64")
    return nn.Trainer(net, nn.Adam(0.01), batch_size=8, seed=2, **settings)


def rms(a: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a))))


def test_the_measures_are_those_of_the_formulas(on: Namespace) -> None:
    """The gradient of the mean cross entropy is (p - one-hot) / n at the output, and W^T carries it down."""
    net = make().network
    x, t = on.array(X, "float64"), on.array(T)
    found = measured(net, *net.data(x, t))
    W1, b1, W2, b2 = (to_numpy(net.params[name]) for name in ("W1", "b1", "W2", "b2"))
    a = X @ W1 + b1
    h = np.maximum(a, 0.0)
    y = h @ W2 + b2
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    dy = (p - np.eye(3)[T]) / len(X)
    dh = dy @ W2.T
    expected = [
        [rms(a), 0.0, rms(dh * (a > 0))],
        [rms(h), float(np.mean(h == 0)), rms(dh)],
        [rms(h), float(np.mean(h == 0)), rms(dh)],  # dropout lets all pass, outside training
        [rms(y), 0.0, rms(dy)],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_layers_within_layers_are_measured(on: Namespace) -> None:
    """A Residual adds what it gets to what its branch makes of it, so both gradients are those of its output."""
    layers = [nn.Affine(6, 5), nn.Residual([nn.Affine(5, 5), nn.Tanh()]), nn.Affine(5, 3)]
    net = nn.Network(layers, seed=1, dtype="float64")
    found = dict(zip(net.every_layer(), measured(net, *net.data(X, T)), strict=True))
    assert list(found) == ["Affine1", "Residual1", "Residual1.Affine1", "Residual1.Tanh1", "Affine2"]
    assert found["Residual1.Tanh1"][2] == found["Residual1"][2]
    outputs = {name: to_numpy(y) for name, y in net.activations(X).items()}
    W = to_numpy(net.params["W2"])
    inner = outputs["Affine1"] @ W + to_numpy(net.params["b2"])
    for name, y in (*outputs.items(), ("Residual1.Affine1", inner), ("Residual1.Tanh1", np.tanh(inner))):
        assert found[name][0] == pytest.approx(rms(y), rel=1e-12)


def test_below_the_lowest_layer_that_trains_there_is_no_gradient(on: Namespace) -> None:
    x = np.random.default_rng(0).uniform(size=(9, 2, 3))
    net = nn.Network([nn.Flatten(), nn.Affine(6, 3)], seed=1)
    found = measured(net, *net.data(x, T[:9]))
    assert np.isnan(found).tolist() == [[False, False, True], [False, False, False]]
    assert found[0, 0] == pytest.approx(rms(x), rel=1e-6)


def test_recording_alters_nothing(on: Namespace) -> None:
    plain, watched = make(), make()
    record = LayerRecord(X, T, rows=16)
    plain.fit(X, T, 3)
    watched.fit(X, T, 3, callbacks=[record])
    assert watched.history.loss == plain.history.loss
    for name in ("data", "grad", "clock"):
        left, right = (to_numpy(getattr(trainer.network.buffer, name)) for trainer in (plain, watched))
        np.testing.assert_array_equal(left, right)
    assert record.epochs == [1, 2, 3]
    assert record.layers == ["Affine1", "ReLU1", "Dropout1", "Affine2"]
    for measure in MEASURES:
        assert record.values(measure).shape == (3, 4)
    expected = measured(watched.network, *watched.network.data(X[:16], T[:16]))
    np.testing.assert_array_equal(np.stack([record.values(m)[-1] for m in MEASURES], axis=1), expected)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_has_the_whole_record(on: Namespace, tmp_path: Path, stop: int) -> None:
    whole = LayerRecord(X, T)
    make().fit(X, T, 4, callbacks=[whole])

    path, first, second = tmp_path / "run.safetensors", LayerRecord(X, T), LayerRecord(X, T)
    trainer = make(checkpoint=path)
    with pytest.raises(RuntimeError, match="power"):
        trainer.fit(X, T, 4, callbacks=[first, fails_after(stop)])
    trainer = make(checkpoint=path)
    assert trainer.resume()
    trainer.fit(X, T, 4, callbacks=[second, fails_after(99)])
    assert second.epochs == [1, 2, 3, 4]
    for measure in MEASURES:
        np.testing.assert_array_equal(second.values(measure), whole.values(measure))


def fails_after(epoch: int) -> Any:
    def fails(trainer: nn.Trainer) -> None:
        if trainer.epoch == epoch + 1:
            raise RuntimeError("power")

    return fails


def test_before_the_first_epoch_there_is_nothing() -> None:
    record, trainer = LayerRecord(X, T), make()
    assert record.snapshot(trainer) == {}
    assert record.values("output").shape == (0, 0)
    record.restore(trainer, {})
    assert record.epochs == []
    assert record.values("zeros").shape == (0, 4)


def test_lists_and_few_rows() -> None:
    record = LayerRecord(X.tolist(), T.tolist())
    assert record.rows == 40
    make().fit(X, T, 1, callbacks=[record])
    other = LayerRecord(X, T, rows=1000)
    make().fit(X, T, 1, callbacks=[other])
    np.testing.assert_array_equal(record.values("gradient"), other.values("gradient"))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="rows must be a positive integer, got 0"):
        LayerRecord(X, T, rows=0)
    with pytest.raises(ValueError, match="measure: expected one of output, zeros, gradient, got 'loss'"):
        LayerRecord(X, T).values("loss")
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 6\), got \(40, 5\)"):
        make().fit(X, T, 1, callbacks=[LayerRecord(X[:, :5], T)])
    with pytest.raises(ValueError, match="LayerRecord cannot go on from values of shape"):
        LayerRecord(X, T).restore(make(), {"epochs": np.arange(2), "values": np.zeros((2, 3, 3))})
