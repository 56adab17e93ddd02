"""Callbacks, and stopping early."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6))
T = (X @ RNG.standard_normal((6, 3))).argmax(axis=1)


def make() -> nn.Trainer:
    net = nn.Network([nn.Affine(6, 8), nn.BatchNormalization(8), nn.ReLU(), nn.Affine(8, 3)], seed=1)
    return nn.Trainer(net, nn.Adam(lr=0.01), batch_size=8, seed=2)


def says(name: str, values: Sequence[float]) -> Callable[[nn.Trainer], None]:
    """A callback that puts the values into the history, one an epoch."""

    def script(trainer: nn.Trainer) -> None:
        recorded = getattr(trainer.history, name)
        recorded[trainer.epoch - 1 :] = [values[trainer.epoch - 1]]

    return script


def remembers(kept: dict[int, bytes]) -> Callable[[nn.Trainer], None]:
    """A callback that notes what every epoch has made of the network."""
    return lambda trainer: kept.update({trainer.epoch: content(trainer)})


def content(trainer: nn.Trainer) -> bytes:
    buffer = trainer.network.buffer
    return to_numpy(buffer.data).tobytes() + to_numpy(buffer.state).tobytes()


def test_callbacks_are_called_after_every_epoch_in_their_order() -> None:
    calls: list[Any] = []
    trainer = make()
    trainer.fit(
        X, T, 3, callbacks=[lambda t: calls.append((t, t.epoch, len(t.history))), lambda t: calls.append(t.last_epoch)]
    )
    assert calls == [(trainer, 1, 1), 3, (trainer, 2, 2), 3, (trainer, 3, 3), 3]


@pytest.mark.parametrize("answer", [True, np.True_])
def test_true_ends_the_fit_and_the_next_one_goes_on(answer: Any) -> None:
    reference, trainer, called = make(), make(), []
    reference.fit(X, T, 4)
    history = trainer.fit(X, T, 9, callbacks=[lambda t: answer if t.epoch == 2 else None, called.append])
    assert len(history) == trainer.epoch == 2
    assert len(called) == 2  # the callbacks after it hear of the epoch too
    assert not history.interrupted
    trainer.fit(X, T, 2)
    assert trainer.history.loss == reference.history.loss
    assert content(trainer) == content(reference)


@pytest.mark.parametrize("answer", [None, False, 1, "stop", [1]])
def test_nothing_but_true_ends_the_fit(answer: Any) -> None:
    assert len(make().fit(X, T, 3, callbacks=[lambda t: answer])) == 3


def test_an_epoch_that_is_cut_short_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    original, trainer, calls = nn.Trainer._step, make(), []

    def step(self: nn.Trainer, *batch: Any) -> None:
        if self.epoch == 1 and self.state.step == 2:
            signal.raise_signal(signal.SIGINT)
        original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "_step", step)
        trainer.fit(X, T, 3, callbacks=[lambda t: calls.append(t.epoch)])
    assert calls == [1]
    assert trainer.history.interrupted
    trainer.fit(X, T, 1, callbacks=[lambda t: calls.append(t.epoch)])
    assert calls == [1, 2]


def test_an_error_in_a_callback_comes_through_and_the_epoch_stays() -> None:
    reference, trainer = make(), make()
    reference.fit(X, T, 2)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(X, T, 3, callbacks=[lambda t: 1 / 0])
    assert len(trainer.history) == trainer.epoch == 1
    trainer.fit(X, T, 1)
    assert content(trainer) == content(reference)


def test_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="callbacks: expected functions of the trainer, got 'stop'"):
        make().fit(X, T, callbacks=["stop"])  # type: ignore[list-item]
    for none in (print, None, iter([print])):  # the last one would be used up by the first look at it
        with pytest.raises(TypeError, match="callbacks: expected a list of functions, got "):
            make().fit(X, T, callbacks=none)  # type: ignore[arg-type]


def test_callbacks_may_be_the_values_of_a_dict() -> None:
    seen: list[int] = []
    make().fit(X, T, 2, callbacks={"epochs": lambda trainer: seen.append(trainer.epoch)}.values())
    assert seen == [1, 2]


# --- early stopping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("monitor", "values", "settings", "best_epoch", "epochs"),
    [
        ("val_loss", [5, 4, 3, 3, 3, 3, 3], {"patience": 2}, 3, 5),
        ("val_loss", [5, 4, 6, 6, 3, 7, 7, 7], {"patience": 3}, 5, 8),
        ("loss", [5, 6, 1, 1, 1], {"patience": 1}, 1, 2),
        ("val_accuracy", [0.5, 0.7, 0.6, 0.6, 0.9], {"patience": 2}, 2, 4),
        ("accuracy", [0.5, 0.4, 0.6, 0.6, 0.9], {"patience": 2}, 5, 5),
        ("val_loss", [5.0, 4.95, 4.9, 4.0, 3.0], {"patience": 2, "min_delta": 0.2}, 1, 3),
        ("val_loss", [5.0, 4.95, 4.7, 4.0, 3.95], {"patience": 2, "min_delta": 0.2}, 4, 5),
        ("val_loss", [math.nan, 4, math.nan, math.nan, 3], {"patience": 2}, 2, 4),
        ("val_loss", [math.nan, math.nan, 1, 1, 1], {"patience": 2}, None, 2),
    ],
)
def test_patience(monitor: str, values: list[float], settings: dict[str, Any], best_epoch: int, epochs: int) -> None:
    stopping, kept = nn.EarlyStopping(monitor, **settings), {}
    trainer = make()
    script = [says(monitor, values), remembers(kept), stopping]
    history = trainer.fit(X, T, len(values), validation=(X, T), callbacks=script)
    assert len(history) == epochs
    assert stopping.best_epoch == best_epoch
    assert stopping.best == (None if best_epoch is None else values[best_epoch - 1])
    assert content(trainer) == kept[best_epoch or epochs]


def test_the_best_values_come_back_on_every_backend(on: Namespace) -> None:
    kept: dict[int, bytes] = {}
    trainer = make()
    script = [says("loss", [3, 1, 2, 2]), remembers(kept), nn.EarlyStopping("loss", patience=2)]
    trainer.fit(on.array(X), on.array(T), 9, callbacks=script)
    assert sorted(kept) == [1, 2, 3, 4]
    assert content(trainer) == kept[2]
    assert trainer.epoch == 4


def test_they_come_back_where_the_epochs_run_out() -> None:
    kept: dict[int, bytes] = {}
    trainer = make()
    trainer.fit(X, T, 3, callbacks=[says("loss", [3, 1, 2]), remembers(kept), nn.EarlyStopping("loss")])
    assert content(trainer) == kept[2]


@pytest.mark.parametrize("first", [True, False])
def test_they_come_back_where_another_callback_ends_the_fit(first: bool) -> None:
    kept: dict[int, bytes] = {}
    trainer, stopping = make(), nn.EarlyStopping("loss", patience=5)
    ends = [lambda t: t.epoch == 3, stopping][:: 1 if first else -1]
    trainer.fit(X, T, 9, callbacks=[says("loss", [3, 1, 2]), remembers(kept), *ends])
    assert (trainer.epoch, stopping.best_epoch) == (3, 2)
    assert content(trainer) == kept[2]


def test_the_one_that_ends_the_fit_prevails() -> None:
    kept: dict[int, bytes] = {}
    trainer = make()
    scripts = [says("loss", [1, 2, 3, 4]), says("accuracy", [0.1, 0.2, 0.3, 0.4]), remembers(kept)]
    stopping = [nn.EarlyStopping("loss", patience=2), nn.EarlyStopping("accuracy", patience=2)]
    trainer.fit(X, T, 9, callbacks=[*scripts, *stopping])
    assert trainer.epoch == 3
    assert content(trainer) == kept[1]


def test_the_last_values_stay_where_one_asks_for_them() -> None:
    kept: dict[int, bytes] = {}
    trainer, stopping = make(), nn.EarlyStopping("loss", patience=1, restore_best=False)
    trainer.fit(X, T, 9, callbacks=[says("loss", [3, 1, 2]), remembers(kept), stopping])
    assert content(trainer) == kept[3]
    assert stopping.best_epoch == 2


def test_an_interrupt_keeps_the_last_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted and goes on is the run that was not."""

    def run(trainer: nn.Trainer, stopping: nn.EarlyStopping, epochs: int) -> None:
        trainer.fit(X, T, epochs, callbacks=[says("loss", [3, 1, 2, 2, 2, 2]), stopping])

    reference, trainer = make(), make()
    run(reference, nn.EarlyStopping("loss", patience=3), 9)
    original, stopping = nn.Trainer._step, nn.EarlyStopping("loss", patience=3)

    def step(self: nn.Trainer, *batch: Any) -> None:
        if self.epoch == 3 and self.state.step == 2:
            signal.raise_signal(signal.SIGINT)
        original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "_step", step)
        run(trainer, stopping, 9)
    assert trainer.history.interrupted
    run(trainer, stopping, 6)
    assert trainer.epoch == reference.epoch == 5
    assert content(trainer) == content(reference)


def test_a_further_fit_has_its_patience_again_and_another_run_starts_afresh() -> None:
    stopping, trainer, values = nn.EarlyStopping("loss", patience=2), make(), [1, 2, 2, 2, 2, 2, 2, 2]
    trainer.fit(X, T, 9, callbacks=[says("loss", values), stopping])
    assert trainer.epoch == 3
    trainer.fit(X, T, 9, callbacks=[says("loss", values), stopping])
    assert trainer.epoch == 5
    assert stopping.best_epoch == 1
    other = make()
    other.fit(X, T, 9, callbacks=[says("loss", [7, 6, 8, 8]), stopping])
    assert (other.epoch, stopping.best, stopping.best_epoch) == (4, 6, 2)


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: nn.EarlyStopping("val_los"), r"unknown monitor 'val_los'. Did you mean 'val_loss'\?"),
        (lambda: nn.EarlyStopping(patience=0), "patience must be a positive integer, got 0"),
        (lambda: nn.EarlyStopping(patience=1.5), "patience must be a positive integer, got 1.5"),
        (lambda: nn.EarlyStopping(min_delta=-0.1), "min_delta must be at least 0 and finite, got -0.1"),
        (lambda: nn.EarlyStopping(min_delta="0"), "min_delta must be a number, got '0'"),
    ],
)
def test_bad_settings(make_one: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_one()


def test_a_monitor_that_is_not_recorded() -> None:
    with pytest.raises(ValueError, match="there is no val_loss to monitor in this fit"):
        make().fit(X, T, 2, callbacks=[nn.EarlyStopping()])


# --- after every step ------------------------------------------------------------------------------------------------


class Steps:
    """Notes the number and the loss of every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.losses: list[Any] = []

    def __call__(self, trainer: nn.Trainer) -> None:
        assert trainer.state.step == 0

    def after_step(self, trainer: nn.Trainer) -> bool:
        self.seen.append((trainer.epoch, trainer.state.step))
        self.losses.append(trainer.backend.xp.asarray(trainer.state.metrics[0, trainer.state.step - 1], copy=True))
        return True


def test_callbacks_are_called_after_every_step(on: Namespace) -> None:
    trainer, steps = make(), Steps()
    trainer.fit(on.array(X, "float32"), on.array(T), 3, callbacks=[steps])
    assert steps.seen == [(epoch, step) for epoch in range(3) for step in range(1, 6)]
    losses = np.array([float(loss) for loss in steps.losses]).reshape(3, 5)
    np.testing.assert_allclose(losses.mean(axis=1), trainer.history.loss, rtol=1e-6)


def test_an_error_after_a_step_comes_through_and_the_run_goes_on() -> None:
    reference, trainer = make(), make()
    reference.fit(X, T, 2)

    class Fails:
        def __call__(self, trainer: nn.Trainer) -> None:
            pass

        def after_step(self, trainer: nn.Trainer) -> None:
            if (trainer.epoch, trainer.state.step) == (0, 3):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer.fit(X, T, 2, callbacks=[Fails()])
    trainer.fit(X, T, 2)
    assert trainer.history.loss == reference.history.loss
    assert content(trainer) == content(reference)


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_see_all_of_the_validation_data_on_the_device(on: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics_of = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr("nnbackend.network.ROWS_AT_ONCE", 16)
    kinds, expected = [], []

    def macro_f1(y: Any, t: Any) -> Any:
        xp, scores = on.xp, []
        found = xp.argmax(y, axis=1)
        kinds.append((type(y), tuple(y.shape)))
        for k in range(3):
            hits, predicted, true = (
                xp.sum(xp.astype(a, y.dtype)) for a in ((found == k) & (t == k), found == k, t == k)
            )
            scores.append(2 * hits / (predicted + true))
        return sum(scores) / 3

    def compare(trainer: nn.Trainer) -> None:
        labels = to_numpy(trainer.network.predict(X)).argmax(axis=1)
        expected.append(metrics_of.f1_score(T, labels, average="macro"))

    trainer = make()
    metrics = {"f1": macro_f1, "rows": lambda y, t: y.shape[0]}
    trainer.fit(X, T, 4, validation=(on.array(X, "float32"), on.array(T)), metrics=metrics, callbacks=[compare])
    assert trainer.history.metrics["rows"] == [40.0] * 4
    np.testing.assert_allclose(trainer.history.metrics["f1"], expected, rtol=1e-6)
    assert set(kinds) == {(type(on.backend.zeros((1,), "float32")), (40, 3))}
    assert "f1" in str(trainer.history)
    assert nn.History.from_dict(trainer.history.as_dict(), 4).metrics == trainer.history.metrics


def test_early_stopping_by_a_metric() -> None:
    values = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    trainer = make()
    stopper = nn.EarlyStopping("mine", patience=2, greater_is_better=True)
    trainer.fit(X, T, 9, validation=(X, T), metrics={"mine": lambda y, t: next(values)}, callbacks=[stopper])
    assert (trainer.epoch, stopper.best, stopper.best_epoch) == (4, 0.5, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"metrics": [abs]}, TypeError, r"metrics: expected functions by name, got \[<built-in function abs>\]"),
        ({"metrics": {"f1": 3}}, TypeError, "metrics: expected functions by name, got 'f1': 3"),
        ({"metrics": {"loss": abs}}, ValueError, "metrics: 'loss' is the name of another list of the history"),
        ({"metrics": {"f1": abs}, "validation": None}, ValueError, "metrics are those of validation data, of which"),
        ({"metrics": {"f1": lambda y, t: y}}, TypeError, "metrics: f1 must return one number, got "),
        ({"callbacks": [nn.EarlyStopping("f1", greater_is_better=True)]}, ValueError, "there is no f1 to monitor"),
    ],
)
def test_bad_metrics(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().fit(X, T, **({"validation": (X, T)} | arguments))


# --- a lower learning rate when nothing improves ---------------------------------------------------------------------


@pytest.mark.parametrize("values", [[5, 4, 4, 4, 4, 3, 3, 3, 3, 3], [1] * 10, [9, 8, 7, 8, 9, 6, 6.05, 6, 5.95, 6]])
@pytest.mark.parametrize(("patience", "min_delta"), [(1, 0.0), (2, 0.1), (3, 0.0)])
def test_the_rates_are_pytorchs(values: list[float], patience: int, min_delta: float) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, factor=0.3, patience=patience - 1, threshold=min_delta, threshold_mode="abs", min_lr=0.5 * 0.05
    )
    trainer, ours, expected = make(), [], []
    trainer.optimizer = nn.SGD(0.5)
    callback = nn.ReduceLROnPlateau("val_loss", patience, min_delta, factor=0.3, least=0.05)

    def note(trainer: nn.Trainer) -> None:
        ours.append(trainer.optimizer.next_rate(trainer.state.optimizer))
        schedule.step(values[trainer.epoch - 1])
        expected.append(theirs.param_groups[0]["lr"])

    trainer.fit(X, T, 10, validation=(X, T), callbacks=[says("val_loss", values), callback, note])
    assert ours == pytest.approx(expected)


def test_the_rate_is_the_one_that_is_used(on: Namespace) -> None:
    """The gradient stays the same, so that each step is as long as its rate."""
    net = nn.Network([nn.Affine(2, 1)], nn.MeanAbsoluteError(), seed=1, dtype="float64")
    trainer = nn.Trainer(net, nn.SGD(nn.Exponential(0.5, 0.5)), batch_size=4)
    values = [float(net.params["b1"][0])]
    plateau = nn.ReduceLROnPlateau("loss", patience=1, min_delta=1e9)
    zeros, far = on.array(np.zeros((4, 2))), on.array(np.full((4, 1), 100.0))
    trainer.fit(zeros, far, 4, callbacks=[plateau, lambda trainer: values.append(float(net.params["b1"][0]))])
    assert np.diff(values) == pytest.approx([0.5, 0.25, 0.125 / 10, 0.0625 / 100])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 1.0}, "factor must lie between 0 and 1, got 1.0"),
        ({"least": 0}, "least must lie between 0 and 1, got 0"),
        ({"factor": "x"}, "factor must be a number, got 'x'"),
        ({"monitor": "f1"}, "unknown monitor 'f1'.*greater_is_better"),
        ({"monitor": "val_accuracy", "greater_is_better": False}, "greater_is_better is False, which is wrong for"),
        ({"patience": 0}, "patience must be a positive integer"),
    ],
)
def test_bad_settings_of_the_plateau(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nn.ReduceLROnPlateau(**settings)
