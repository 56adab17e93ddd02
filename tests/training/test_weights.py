"""Sample and class weights: every mean of a network and of a training run becomes the weighted one."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy

N = 50
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 4))
T = (X @ RNG.standard_normal((4, 3))).argmax(axis=1)
COUNTS = RNG.integers(0, 4, N)
REPEATED = np.repeat(np.arange(N), COUNTS)
CLASS_WEIGHT = [0.5, 3.0, 1.0]


def make(loss: nn.Loss | None = None, dtype: str = "float64") -> nn.Network:
    return nn.Network([nn.Affine(4, 8), nn.Tanh(), nn.Affine(8, 3)], loss, seed=1, dtype=dtype)


LOSSES: list[Any] = [
    pytest.param(nn.SoftmaxWithLoss, T, id="labels"),
    pytest.param(nn.SoftmaxWithLoss, np.eye(3)[T], id="one_hot"),
    pytest.param(lambda: nn.SoftmaxWithLoss(CLASS_WEIGHT, 0.1), T, id="class_weight"),
    pytest.param(lambda: nn.SigmoidWithLoss(2.0), np.eye(3)[T], id="sigmoid"),
    pytest.param(nn.MeanSquaredError, np.eye(3)[T], id="squared"),
    pytest.param(nn.MeanAbsoluteError, np.eye(3)[T], id="absolute"),
    pytest.param(nn.Huber, np.eye(3)[T], id="huber"),
    pytest.param(lambda: nn.QuantileLoss(0.8), np.eye(3)[T], id="quantile"),
]


@pytest.mark.parametrize(("loss", "t"), LOSSES)
@pytest.mark.parametrize("at_once", [8192, 7])
def test_a_weight_counts_a_row(
    on: Namespace, monkeypatch: pytest.MonkeyPatch, loss: Any, t: np.ndarray, at_once: int
) -> None:
    monkeypatch.setattr("nnbackend.network.ROWS_AT_ONCE", at_once)
    net, weight = make(loss()), 0.25 * COUNTS
    assert net.loss(X, t, weight) == pytest.approx(net.loss(X[REPEATED], t[REPEATED]), rel=1e-13)
    if net.loss_layer.classifies:
        assert net.accuracy(X, t, weight) == pytest.approx(net.accuracy(X[REPEATED], t[REPEATED]), rel=1e-13)
    expected = net.gradient(X[REPEATED], t[REPEATED])
    for name, gradient in net.gradient(X, t, weight).items():
        assert_close(gradient, to_numpy(expected[name]), "float64", terms=100, scale=1.0)


@pytest.mark.parametrize(("loss", "t"), LOSSES)
@pytest.mark.parametrize("weight", [None, 0.25 * COUNTS], ids=["unweighted", "weighted"])
def test_the_recorded_figures_are_those_of_the_whole(on: Namespace, loss: Any, t: np.ndarray, weight: Any) -> None:
    """Batches of different weights, and one without any, make up the mean over all rows."""
    if weight is not None:
        weight = weight.copy()
        order = np.random.default_rng([0, 0]).permutation(N)
        weight[order[8:16]] = 0.0  # the second batch
    net = make(loss())
    validation = (X, t) if weight is None else (X, t, weight)
    trainer = nn.Trainer(net, nn.SGD(lr=1e-300), batch_size=8, seed=0)
    history = trainer.fit(X, t, sample_weight=weight, validation=validation)
    assert history.loss[0] == pytest.approx(net.loss(X, t, weight), rel=1e-12)
    assert history.val_loss[0] == pytest.approx(net.loss(X, t, weight), rel=1e-12)
    if net.loss_layer.classifies:
        assert history.accuracy[0] == pytest.approx(net.accuracy(X, t, weight), rel=1e-12)
        assert history.val_accuracy[0] == pytest.approx(net.accuracy(X, t, weight), rel=1e-12)


def test_rows_of_weight_zero_are_not_there(on: Namespace) -> None:
    runs = []
    for rows, weight in ((np.flatnonzero(COUNTS), COUNTS[COUNTS > 0]), (np.arange(N), COUNTS)):
        net = make()
        nn.Trainer(net, nn.Adam(lr=0.01), batch_size=len(rows)).fit(X[rows], T[rows], 5, sample_weight=weight)
        runs.append(to_numpy(net.buffer.data))
    assert_close(runs[1], runs[0], "float64", terms=1000)


def test_equal_weights_change_nothing(on: Namespace) -> None:
    runs = []
    for weight in (None, np.full(N, 3.0)):
        trainer = nn.Trainer(make(), nn.Adam(lr=0.01), batch_size=8)
        history = trainer.fit(X, T, 3, sample_weight=weight, validation=(X, T))
        runs.append((to_numpy(trainer.network.buffer.data), history.loss, history.accuracy, history.val_accuracy))
    assert_close(runs[1][0], runs[0][0], "float64", terms=1000)
    assert runs[1][1] == pytest.approx(runs[0][1], rel=1e-12)
    assert runs[1][2:] == runs[0][2:]


def test_class_weights_draw_towards_their_class(on: Namespace) -> None:
    def answers(class_weight: list[float] | None) -> int:
        net = make(nn.SoftmaxWithLoss(class_weight), dtype="float32")
        nn.Trainer(net, nn.Adam(lr=0.02), batch_size=10).fit(X, T, 3)
        return int((to_numpy(net.predict(X)).argmax(axis=1) == 1).sum())

    assert answers([1.0, 0.0, 1.0]) < answers(None) < answers([1.0, 50.0, 1.0])


def test_a_loss_of_one_s_own_needs_no_weights() -> None:
    class Cubic(nn.Loss):
        def forward(self, y: Any, t: Any) -> Any:
            self._d = y - t
            return abs(self._d**3).mean()

        def backward(self) -> Any:
            return 3 * self._d * abs(self._d) / self._d.size

        def target(self, t: Any, n: int, shape: Any, on: Any, dtype: str) -> Any:
            return on.asarray(t, dtype)

    net = make(Cubic())
    history = nn.Trainer(net, nn.SGD(lr=0.1), batch_size=8, accumulate=2).fit(X, np.eye(3)[T], 3)
    assert history.loss[-1] < history.loss[0]
    assert net.loss(X, np.eye(3)[T]) < history.loss[-1]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(N - 1), f"sample_weight: expected shape ({N},), one number a row, got ({N - 1},)"),
        (np.ones((N, 1)), f"sample_weight: expected shape ({N},), one number a row, got ({N}, 1)"),
        (np.zeros(N), "sample_weight must hold finite numbers of at least 0 that do not sum to 0"),
        (np.where(COUNTS > 2, -1.0, 1.0), "got a smallest of -1.0"),
        (np.where(COUNTS > 2, np.nan, 1.0), "sample_weight must hold finite numbers"),
        (np.where(COUNTS > 2, np.inf, 1.0), "sample_weight must hold finite numbers"),
    ],
)
def test_bad_weights(on: Namespace, weight: np.ndarray, message: str) -> None:
    net = make()
    trainer = nn.Trainer(net, nn.SGD(), batch_size=8)
    before = to_numpy(net.buffer.data).tobytes()
    for use in (net.loss, net.accuracy, net.gradient, lambda x, t, w: trainer.fit(x, t, sample_weight=w)):
        with pytest.raises(ValueError, match=re.escape(message)):
            use(X, T, weight)
    with pytest.raises(ValueError, match="validation " + re.escape(message) if message.startswith("s") else message):
        trainer.fit(X, T, validation=(X, T, weight))
    assert to_numpy(net.buffer.data).tobytes() == before


def test_a_validation_of_other_length() -> None:
    for validation in ((X,), (X, T, None, None)):
        with pytest.raises(ValueError, match=r"validation: expected \(x, t\) or \(x, t, sample_weight\), got"):
            nn.Trainer(make(), nn.SGD(), batch_size=8).fit(X, T, validation=validation)


def test_settings_of_losses_are_saved(tmp_path: Any) -> None:
    for loss in (nn.SoftmaxWithLoss(CLASS_WEIGHT, 0.1), nn.SigmoidWithLoss([1.0, 2.0, 3.0]), nn.Huber(0.5)):
        net = make(loss)
        net.save(tmp_path / "net.safetensors")
        assert nn.load(tmp_path / "net.safetensors").config() == net.config()
        assert net.to("numpy", "float32").loss_layer.config() == loss.config()


def test_files_from_before_the_settings_are_read(tmp_path: Any) -> None:
    from nnbackend import serialization

    net = make()
    net.save(tmp_path / "net.safetensors")
    tensors, description = serialization.read(tmp_path / "net.safetensors")
    description["network"]["loss"] = {"kind": "SoftmaxWithLoss"}
    serialization.write(tmp_path / "old.safetensors", tensors, description)
    assert nn.load(tmp_path / "old.safetensors").loss(X, T) == net.loss(X, T)


# --- a weight of k is k rows, at every batch size ---------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 16, 80])
@pytest.mark.parametrize("by", ["sample_weight", "class_weight", "both"])
def test_an_intercept_answers_the_weighted_mean_at_every_batch_size(on: Namespace, batch_size: int, by: str) -> None:
    """In closed form: a model of a constant answers sum(w y) / sum(w). 20 of 80 rows with weights 9 to 1: 0.75."""
    x, t = np.zeros((80, 1)), np.repeat([0, 1], [60, 20])
    nine = np.where(t == 1, 9.0, 1.0)
    weight = {"sample_weight": nine, "class_weight": None, "both": np.sqrt(nine)}[by]
    classes = {"sample_weight": None, "class_weight": [1.0, 9.0], "both": [1.0, 3.0]}[by]
    net = nn.Network([nn.Affine(1, 2)], nn.SoftmaxWithLoss(classes), seed=0, dtype="float64")
    rate = nn.Cosine(0.02 * min(batch_size, 40), steps=20 * math.ceil(80 / batch_size))
    history = nn.Trainer(net, nn.SGD(rate), batch_size=batch_size).fit(x, t, 20, sample_weight=weight)
    assert float(net.predict_proba(x[:1])[0, 1]) == pytest.approx(0.75, abs=0.03)
    # the loss of the last epoch is that of all rows, whatever the batches
    assert history.loss[-1] == pytest.approx(net.loss(x, t, weight), rel=0.05)


@pytest.mark.parametrize(("loss", "t"), [
    (nn.MeanSquaredError, np.linspace(-1, 1, 40)[:, None]),
    (nn.SigmoidWithLoss, (np.arange(40) % 3 == 0).astype(float)[:, None]),
    (nn.MeanAbsoluteError, np.linspace(-1, 1, 40)[:, None]),
    (nn.Huber, np.linspace(-1, 1, 40)[:, None]),
    (lambda: nn.QuantileLoss(0.3), np.linspace(-1, 1, 40)[:, None]),
    (lambda: nn.SoftmaxWithLoss([1.0, 4.0, 0.5], 0.1), np.arange(40) % 3),
])  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 5])
def test_the_gradients_of_batches_add_up_to_that_of_the_set(
    on: Namespace, loss: Any, t: np.ndarray, accumulate: int
) -> None:
    """With steps that are nearly 0, an epoch of gradient descent moves as the whole set's gradient does."""
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((40, 3)), rng.uniform(0.1, 5.0, 40)
    outputs = 3 if t.ndim == 1 else 1
    net = nn.Network([nn.Affine(3, outputs)], loss(), seed=0, dtype="float64")
    whole = {name: to_numpy(g) for name, g in net.gradient(x, t, weight).items()}
    before = to_numpy(net.params["W1"]).copy()
    nn.Trainer(net, nn.SGD(1e-9), batch_size=4, accumulate=accumulate).fit(x, t, 1, sample_weight=weight)
    moved = (before - to_numpy(net.params["W1"])) / 1e-9 / (10 / accumulate)
    np.testing.assert_allclose(moved, whole["W1"], rtol=1e-5, atol=1e-6)


def test_classes_of_weight_zero_with_smoothing_are_one_definition(
    on: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows whose class weighs nothing still smooth: in one batch, in several passes, and by pieces of a large set."""
    loss = lambda: nn.SoftmaxWithLoss([0.0, 1.0], 0.2)  # noqa: E731
    x, t = np.random.default_rng(0).standard_normal((8, 3)), np.array([0, 0, 0, 0, 1, 0, 0, 0])
    ends = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        net = nn.Network([nn.Affine(3, 2)], loss(), seed=0, dtype="float64")
        history = nn.Trainer(net, nn.SGD(0.1), batch_size=batch_size, accumulate=accumulate).fit(x, t, 3)
        ends.append((to_numpy(net.params["W1"]), history.loss))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-12)
    np.testing.assert_allclose(ends[0][1], ends[1][1], rtol=1e-12)
    whole = net.loss(x, t)
    monkeypatch.setattr("nnbackend.network.ROWS_AT_ONCE", 2)
    assert net.loss(x, t) == pytest.approx(whole, rel=1e-12)
    assert nn.evaluate(net, x, t).loss == pytest.approx(whole, rel=1e-12)


def test_a_set_without_any_weight(on: Namespace) -> None:
    net = nn.Network([nn.Affine(3, 2)], nn.SoftmaxWithLoss([0.0, 1.0], 0.2), seed=0)
    x, t = np.ones((4, 3)), np.zeros(4, "int64")
    assert net.loss(x, t) == 0.0
    assert nn.evaluate(net, x, t).loss == 0.0
    assert all(float(on.xp.max(on.xp.abs(g))) == 0.0 for g in net.gradient(x, t).values())
    with pytest.raises(ValueError, match="every row of the training data has a weight of 0"):
        nn.Trainer(net, nn.SGD(), batch_size=2).fit(x, t)


def test_drop_last_leaves_out_what_fills_no_step(on: Namespace) -> None:
    x, t = np.random.default_rng(0).standard_normal((10, 3)), np.arange(10) % 2
    net = nn.Network([nn.Affine(3, 2)], seed=0)
    trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=4, drop_last=np.int64(10) % 4 > 0)  # a bool of NumPy
    history = trainer.fit(x, t, 3)
    assert trainer.state.optimizer["t"] == 6
    assert all(0 < loss < 5 for loss in history.loss)
    with pytest.raises(ValueError, match="drop_last leaves nothing"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=6, accumulate=2, drop_last=True).fit(x, t)


@pytest.mark.parametrize("layer", [lambda: nn.BatchNormalization(4), lambda: nn.Dropout(0.5)])
def test_looking_at_a_gradient_leaves_the_run_as_it_is(on: Namespace, layer: Any) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((32, 4)), rng.integers(0, 3, 32)
    ends = []
    for looks in (False, True):
        net = nn.Network([nn.Affine(4, 4), layer(), nn.Affine(4, 3)], seed=0)
        trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=8)
        trainer.fit(x, t, 1)
        before = to_numpy(net.predict(x))
        if looks:
            net.gradient(x + 5, t)
            assert to_numpy(net.predict(x)).tobytes() == before.tobytes()
        trainer.fit(x, t, 1)
        ends.append(to_numpy(net.buffer.data).tobytes())
    assert ends[0] == ends[1]
