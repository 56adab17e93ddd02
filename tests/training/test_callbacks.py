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
