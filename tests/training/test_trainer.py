"""Training: the same run on every backend, nothing read inside a step, and every way in which it can stop."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support import NAMESPACES, Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy, why_not
from nnbackend.backends.steps import Uncaptured
from nnbackend.optimizers import OPTIMIZERS

N = 230  # no multiple of the batch size: the last batch is a smaller one
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 8)).astype("float32")
T = (X @ RNG.standard_normal((8, 3))).argmax(axis=1)


FIT = ("sample_weight", "validation", "callbacks", "progress")
LEARNING_RATES = {"adam": 0.01, "adamw": 0.01, "rmsprop": 0.01, "adagrad": 0.1}
WEIGHT = RNG.uniform(0, 2, N)

# everything that a step can have beside the plain pass and update
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sample_weight": {"sample_weight": WEIGHT},
    "class_weight": {"loss": nn.SoftmaxWithLoss([1.0, 2.0, 0.5], 0.1)},
    "accumulate": {"batch_size": 8, "accumulate": 4},
    "clip_norm": {"clip_norm": 0.2},
    "schedule": {"optimizer": nn.Momentum(lr=nn.WarmUp(nn.OneCycle(0.3, steps=15), steps=5), weight_decay=1e-3)},
    "callbacks": {"callbacks": [nn.EarlyStopping("loss", patience=1)]},
}
FEATURES["all"] = {name: value for settings in FEATURES.values() for name, value in settings.items()}


def make(loss: nn.Loss | None = None, dtype: str = "float32") -> nn.Network:
    return nn.Network([nn.Affine(8, 16), nn.ReLU(), nn.Affine(16, 3)], loss, seed=1, dtype=dtype)


def trainer_of(settings: dict[str, Any], net: nn.Network | None = None) -> tuple[nn.Trainer, dict[str, Any]]:
    """A trainer with `settings`, and those of them that are for its fit."""
    settings = {"optimizer": nn.Adam(lr=0.01), "batch_size": 32, "seed": 2, **settings}
    net = make(settings.pop("loss", None)) if net is None else net
    fit = {name: settings.pop(name) for name in FIT if name in settings}
    return nn.Trainer(net, settings.pop("optimizer"), **settings), fit


def train(epochs: int = 3, **settings: Any) -> nn.Trainer:
    trainer, fit = trainer_of(settings)
    trainer.fit(X, T, epochs, **fit)
    return trainer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_network_trains(on: Namespace, name: str) -> None:
    net = make()
    trainer = nn.Trainer(net, OPTIMIZERS[name](lr=LEARNING_RATES.get(name, 0.3)), batch_size=32)
    history = trainer.fit(on.array(X), on.array(T), epochs=15, validation=(on.array(X), on.array(T)))
    assert len(history) == trainer.epoch == 15
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert history.accuracy[-1] > 0.85
    assert history.val_loss[-1] == pytest.approx(net.loss(X, T), rel=1e-6)
    assert history.val_accuracy[-1] == pytest.approx(net.accuracy(X, T), rel=1e-6)
    assert all(s > 0 for s in history.seconds)
    assert history.samples_per_second[0] == pytest.approx(N / history.seconds[0])


def test_one_seed_gives_one_run_on_every_backend() -> None:
    runs = {}
    for name in NAMESPACES:
        if name != "numpy-readonly" and why_not(name) is None:
            with nn.using(name):
                trainer = train(epochs=3)
                runs[name] = (np.array(trainer.history.loss), to_numpy(trainer.network.buffer.data))
    loss, values = runs["numpy"]
    # 24 steps, each of which may turn the last bits of sums of up to 32 terms; Adam divides by their size, so the
    # error of a step is relative to lr = 0.01 where a gradient is near zero
    for other_loss, other_values in runs.values():
        np.testing.assert_allclose(other_loss, loss, rtol=24 * 32 * np.finfo("float32").eps)
        np.testing.assert_allclose(other_values, values, atol=24 * 0.01 * 1e-3)


def test_two_runs_are_bitwise_equal_on_numpy() -> None:
    first, second = train(), train()
    assert first.network.buffer.data.tobytes() == second.network.buffer.data.tobytes()
    assert first.history.loss == second.history.loss
    assert first.history.accuracy == second.history.accuracy


def test_every_row_is_seen_once_an_epoch_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    original = nn.Trainer._step

    def step(self: nn.Trainer, rows: Any, *rest: Any) -> None:
        seen.append(*rows.take(np.arange(N)))
        original(self, rows, *rest)

    monkeypatch.setattr(nn.Trainer, "_step", step)
    train(epochs=2)
    assert [len(rows) for rows in seen] == [32] * 7 + [6] + [32] * 7 + [6]
    first, second = np.concatenate(seen[:8]), np.concatenate(seen[8:])
    assert sorted(first) == sorted(second) == list(range(N))
    assert first.tolist() != second.tolist()


def test_the_recorded_loss_is_the_mean_over_rows() -> None:
    net = make(dtype="float64")
    frozen = net.loss(X, T), net.accuracy(X, T)
    history = nn.Trainer(net, nn.SGD(lr=1e-300), batch_size=32).fit(X, T)
    assert history.loss[0] == pytest.approx(frozen[0], rel=1e-12)
    assert history.accuracy[0] == pytest.approx(frozen[1], rel=1e-12)


def test_fit_again_goes_on() -> None:
    once, twice = train(epochs=4), train(epochs=1)
    twice.fit(X, T, epochs=3)
    assert twice.history.loss == once.history.loss
    assert twice.network.buffer.data.tobytes() == once.network.buffer.data.tobytes()
    assert twice.epoch == 4


def test_one_hot_targets_and_regression(on: Namespace) -> None:
    by_label = train(epochs=2).history
    trainer = nn.Trainer(make(), nn.Adam(lr=0.01), batch_size=32, seed=2)
    one_hot = trainer.fit(X, np.eye(3)[T], epochs=2)
    assert one_hot.loss == pytest.approx(by_label.loss, rel=1e-5)
    assert one_hot.accuracy == by_label.accuracy
    history = nn.Trainer(make(nn.MeanSquaredError()), nn.Adam(lr=0.01)).fit(
        X, np.eye(3)[T], 5, validation=(X, np.eye(3)[T])
    )
    assert history.loss[-1] < history.loss[0]
    assert history.accuracy == history.val_accuracy == []


# --- clipping and accumulation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["plain", "class_weight"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(12, 3), (10, 3), (6, 6), (36, 1), (5, 100)])
def test_accumulated_batches_are_one_larger_batch(
    on: Namespace, loss: str, weighted: bool, batch_size: int, accumulate: int
) -> None:
    """Steps of 36 (or 30, or all 230) rows, the last of an epoch shorter, its last batch shorter still."""
    weight = np.where(np.random.default_rng(4).random(N) < 0.3, 0.0, WEIGHT) if weighted else None
    runs = []
    for size, count in ((batch_size * accumulate, 1), (batch_size, accumulate)):
        net = make(nn.SoftmaxWithLoss([1.0, 2.0, 0.5], 0.1) if loss == "class_weight" else None, dtype="float64")
        trainer = nn.Trainer(net, nn.Adam(lr=0.01), batch_size=min(size, N), accumulate=count, seed=3, clip_norm=0.5)
        history = trainer.fit(X, T, 2, sample_weight=weight)
        runs.append((to_numpy(net.buffer.data), history, trainer.state.optimizer["t"]))
    (values, history, steps), (other_values, other, other_steps) = runs
    assert steps == other_steps == 2 * -(-N // (batch_size * accumulate))
    assert other.loss == pytest.approx(history.loss, rel=1e-12)
    assert other.accuracy == pytest.approx(history.accuracy, rel=1e-12)
    # up to 46 steps of Adam, whose division makes more of the last bits where a gradient is near zero
    np.testing.assert_allclose(other_values, values, rtol=0, atol=1e-10)


def test_accumulation_leaves_the_gradient_of_the_whole_step() -> None:
    net = make(dtype="float64")
    nn.Trainer(net, nn.SGD(lr=1e-300), batch_size=7, accumulate=1000).fit(X, T)
    gradients = {name: values.copy() for name, values in net.grads.items()}
    for name, expected in net.gradient(X, T).items():
        np.testing.assert_allclose(gradients[name], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("limit", [0.05, 100.0])
def test_clipping_limits_the_gradient(on: Namespace, limit: float) -> None:
    net = make(dtype="float64")
    before = to_numpy(net.buffer.data).copy()
    gradient = np.concatenate([to_numpy(g).ravel() for g in net.gradient(X, T).values()])
    nn.Trainer(net, nn.SGD(lr=1.0), batch_size=N, clip_norm=limit).fit(X, T)
    expected = gradient * min(1.0, limit / (np.linalg.norm(gradient) + 1e-6))
    np.testing.assert_allclose(before - to_numpy(net.buffer.data), expected, rtol=0, atol=1e-13)


# --- a step is a device program ------------------------------------------------------------------------------------


@pytest.fixture
def host_reads() -> Iterator[Callable[[], int]]:
    """Counts how often an array of array_api_strict becomes a host value."""
    strict = pytest.importorskip("array_api_strict")
    kind = type(strict.zeros(1))
    count = 0
    patch = pytest.MonkeyPatch()
    for name in ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__", "to_device"):
        original = getattr(kind, name)

        def counted(self: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return _original(self, *args, **kwargs)

        patch.setattr(kind, name, counted)
    yield lambda: count
    patch.undo()


@pytest.mark.parametrize("features", FEATURES)
def test_no_step_reads_the_device(
    host_reads: Callable[[], int], monkeypatch: pytest.MonkeyPatch, features: str
) -> None:
    inside = []
    original = nn.Trainer._step

    def step(self: nn.Trainer, *batch: Any) -> None:
        before = host_reads()
        original(self, *batch)
        inside.append(host_reads() - before)

    monkeypatch.setattr(nn.Trainer, "_step", step)
    with nn.using("array_api_strict:device1"):
        train(epochs=1, **FEATURES[features])
    assert inside == [0] * 8
    assert host_reads() > 0  # the count does count: the loss is read after the epoch


@pytest.mark.parametrize("progress", [False, True])
def test_reads_do_not_grow_with_the_number_of_steps(host_reads: Callable[[], int], progress: bool) -> None:
    def reads(batch_size: int) -> int:
        before = host_reads()
        nn.Trainer(make(), nn.Adam(), batch_size=batch_size).fit(X, T, 1, progress=progress)
        return host_reads() - before

    with nn.using("array_api_strict:device1"):
        assert reads(2) <= reads(20)  # 115 steps and 12: ten reports each, or none


# --- ways to stop --------------------------------------------------------------------------------------------------


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of the given step (counted from 1)."""
    original = nn.Trainer._update
    count = 0

    def interrupted(self: nn.Trainer, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(signal.SIGINT)
        original(self, *arguments)

    monkeypatch.setattr(nn.Trainer, "_update", interrupted)


@pytest.mark.parametrize("features", FEATURES)
def test_ctrl_c_finishes_the_step_and_a_later_fit_goes_on(monkeypatch: pytest.MonkeyPatch, features: str) -> None:
    settings = FEATURES[features]
    reference = train(epochs=3, **settings)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at(11, patch)  # the third of the second epoch's eight steps
        trainer = train(epochs=3, **settings)
    assert signal.getsignal(signal.SIGINT) is handler
    assert trainer.history.interrupted
    assert (trainer.epoch, trainer.state.step, len(trainer.history)) == (1, 3, 1)
    history = trainer.fit(X, T, epochs=2, **trainer_of(settings)[1])
    assert not history.interrupted
    assert history.loss == reference.history.loss
    assert trainer.network.buffer.data.tobytes() == reference.network.buffer.data.tobytes()


def test_the_second_ctrl_c_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Trainer._step

    def twice(self: nn.Trainer, *batch: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        original(self, *batch)

    monkeypatch.setattr(nn.Trainer, "_step", twice)
    with pytest.raises(KeyboardInterrupt):
        train()


def test_training_in_another_thread() -> None:
    trainers: list[nn.Trainer] = []
    thread = threading.Thread(target=lambda: trainers.append(train(epochs=1)))
    thread.start()
    thread.join()
    assert trainers[0].history.loss == train(epochs=1).history.loss


def test_a_diverging_run_stops_with_the_last_good_values(on: Namespace) -> None:
    net = make()
    trainer = nn.Trainer(net, nn.SGD(lr=1e25), batch_size=32)
    with (
        np.errstate(all="ignore"),
        pytest.raises(nn.NumericalError, match=r"epoch 1, step \d+: .*W|Affine|loss|update"),
    ):
        trainer.fit(X, T, 3)
    assert np.isfinite(to_numpy(net.buffer.data)).all()
    assert trainer.state.step < 8


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 5), (2, 3), (2, 8)])
@pytest.mark.parametrize("features", FEATURES)
def test_the_step_and_the_layer_at_fault_are_named(epoch: int, step: int, features: str) -> None:
    """A layer that gives NaN once, at a step that we choose; the network is left as it was before."""
    settings = {"optimizer": nn.SGD(lr=0.1), **FEATURES[features]}
    loss = settings.pop("loss", None)

    class Faulty(nn.Layer):
        calls = 0

        def forward(self, x: Any, training: bool = False) -> Any:
            self.calls += training
            return x

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            return dy * (np.nan if self.values_seen() else 1.0)

        def values_seen(self) -> bool:
            return trainer.state.optimizer["t"] == (epoch - 1) * 8 + step - 1

    net = nn.Network([nn.Affine(8, 16), Faulty(), nn.Affine(16, 3)], loss, seed=1)
    trainer, fit = trainer_of(settings, net)
    with pytest.raises(nn.NumericalError, match=f"epoch {epoch}, step {step}: .*the gradient of Faulty1"):
        trainer.fit(X, T, 3, **fit)
    assert trainer.state.optimizer["t"] == (epoch - 1) * 8 + step - 1
    healthy = nn.Network([nn.Affine(8, 16), nn.Affine(16, 3)], loss, seed=1)
    reference, fit = trainer_of(settings, healthy)
    if epoch == 2:
        reference.fit(X, T, 1, **fit)
    checked = reference._checked(X, T, "x", settings.get("sample_weight"))
    reference._check_batch_size(checked)
    reference.state.metrics = np.zeros(reference._metrics_shape(checked), "float32")
    launch = Uncaptured().prepare(reference._epoch(checked))
    for i in range(step - 1):
        launch(i)
    assert net.buffer.data.tobytes() == healthy.buffer.data.tobytes()
    assert int(net.buffer.clock[0]) == int(healthy.buffer.clock[0])


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer, got 1.5"),
        ({"accumulate": 0}, "accumulate must be a positive integer, got 0"),
        ({"accumulate": 2.0}, "accumulate must be a positive integer, got 2.0"),
        ({"clip_norm": 0.0}, "clip_norm must be positive and finite, got 0.0"),
        ({"clip_norm": "1"}, "clip_norm must be a number, got '1'"),
        ({"batch_size": N + 1}, "batch_size is 231, but the data has only 230 rows"),
        ({"seed": -1}, "seed must be an integer"),
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"epochs": True}, "epochs must be a positive integer"),
        ({"x": X[:0], "t": T[:0]}, "x is empty"),
        ({"t": T[:-1]}, "x has 230 rows, but t has 229"),
        ({"x": np.where(X > 3, np.nan, X)}, "^x contains NaN or infinity"),
        ({"x": np.where(X > 3, np.inf, X)}, "^x contains NaN or infinity"),
        ({"validation": (np.full((2, 8), np.nan), [0, 1])}, "validation x contains NaN"),
        ({"validation": (X[:2], [0, 9])}, "validation: t: labels must lie in 0 to 2"),
        ({"validation": (X[:0], T[:0])}, "validation: x is empty"),
        ({"validation": (X[:, :3], T)}, "validation: x: expected shape"),
        ({"drop_last": "no"}, "drop_last must be True or False, got 'no'"),
        ({"t": T.astype("float32")}, "labels must be integers"),
        ({"t": T + 1}, "labels must lie in 0 to 2, got 1 to 3"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    net = make()
    before = net.buffer.data.tobytes()
    arguments = {"x": X, "t": T, "epochs": 1, "validation": None, "batch_size": 32, "seed": 0, **change}
    fit = {name: arguments.pop(name) for name in ("x", "t", "epochs", "validation")}
    with pytest.raises(ValueError, match=message):
        nn.Trainer(net, nn.SGD(), **arguments).fit(**fit)
    assert net.buffer.data.tobytes() == before


def test_what_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match="optimizer: expected an optimizer such as Adam"):
        nn.Trainer(make(), "adam")  # type: ignore[arg-type]


def test_values_near_the_end_of_the_range_are_data() -> None:
    x = np.full((4, 8), 3e38, "float32")  # their sum is infinite, they are not
    nn.Trainer(make(), nn.SGD(lr=1e-9), batch_size=4)._checked(x, [0, 1, 2, 0], "x")


# --- what the user sees --------------------------------------------------------------------------------------------


def test_each_epoch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="nnbackend"):
        train(epochs=2, validation=(X, T))
    names = "loss=[0-9.]+, accuracy=[0-9.]+, val_loss=[0-9.]+, val_accuracy=[0-9.]+, [0-9.]+ s"
    assert all(re.fullmatch(f"epoch {i}/2: {names}", m) for i, m in enumerate(caplog.messages, 1)), caplog.messages
    assert len(caplog.messages) == 2


def test_the_record_is_json() -> None:
    import json

    record = json.loads(json.dumps(train(epochs=2, validation=(X, T)).history.as_dict()))
    assert {len(record[name]) for name in record if name not in ("interrupted", "metrics", "skipped")} == {2}


def test_tqdm_is_imported_for_a_bar_only() -> None:
    import subprocess

    code = "import sys, nnbackend; assert not {'tqdm', 'matplotlib', 'pooch', 'cupy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_trainer_says_what_it_does() -> None:
    trainer = train(epochs=1)
    text = repr(trainer)
    assert text.startswith("<Trainer of Network([Affine(")
    assert "by Adam(lr=" in text or "by SGD(" in text or "by Momentum(" in text
    assert "batch_size=32" in text
    assert text.endswith("epochs done: 1>")
