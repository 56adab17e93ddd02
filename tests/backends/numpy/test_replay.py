"""Steps whose loops in C are called again without Python: the bits are those of Python's steps, whatever happens."""

from __future__ import annotations

import gc
import importlib
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.functions.array import Array

if os.environ.get("NNBACKEND_NATIVE") == "0":
    pytest.skip("NNBACKEND_NATIVE=0 leaves the loops out", allow_module_level=True)
kernels = pytest.importorskip("nnbackend.backends.numpy.native", reason="the package was built without a C compiler")
if not kernels.PRODUCTS:
    pytest.skip("matrix products are NumPy's here", allow_module_level=True)
replay = importlib.import_module("nnbackend.backends.numpy.replay")

RNG = np.random.default_rng(0)
N, BATCH = 250, 20  # 12 whole batches, and one of 10 rows
X, T = RNG.standard_normal((N, 6)).astype("float32"), RNG.integers(0, 4, N)
SEQUENCES, IDS = RNG.standard_normal((N, 5, 6)).astype("float32"), RNG.integers(0, 4, (N, 5))
IMAGES = RNG.standard_normal((N, 6, 6, 1)).astype("float32")
HIDDEN: dict[str, tuple[Callable[[], nn.Layer], bool]] = {  # and whether their passes are loops alone
    "ReLU": (nn.ReLU, True),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.1), True),
    "GELU": (nn.GELU, True),
    "SiLU": (nn.SiLU, True),
    "Sigmoid": (nn.Sigmoid, True),
    "LayerNormalization": (lambda: nn.LayerNormalization(8), True),
    "Sequential": (lambda: nn.Sequential([nn.ReLU(), nn.Affine(8, 8)]), True),
    "Tanh": (nn.Tanh, False),
    "Dropout": (lambda: nn.Dropout(0.3), True),
    "BatchNormalization": (lambda: nn.BatchNormalization(8), False),
    "Residual": (lambda: nn.Residual([nn.Affine(8, 8)]), False),
}


def dense(layer: Callable[[], nn.Layer] = nn.ReLU, dtype: str = "float32") -> nn.Network:
    return nn.Network([nn.Affine(6, 8), layer(), nn.Affine(8, 4)], seed=1, dtype=dtype, backend="numpy")


Run = tuple[nn.Trainer, nn.History]


def train(
    make: Callable[[], nn.Network], x: Any = X, t: Any = T, epochs: int = 4, optimizer: Any = None, **settings: Any
) -> Run:
    fit = {name: settings.pop(name) for name in ("callbacks", "sample_weight") if name in settings}
    trainer = nn.Trainer(make(), optimizer or nn.Adam(0.01), batch_size=BATCH, seed=2, **settings)
    return trainer, trainer.fit(x, t, epochs, **fit)


def both(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **settings: Any) -> Run:
    """Train with and without Python between the loops, compare all bits, and return the first run."""
    ours = train(*arguments, **settings)
    with monkeypatch.context() as patch:
        patch.setenv("NNBACKEND_CAPTURE", "0")
        pythons = train(*arguments, **settings)
    assert type(pythons[0]._runner) is not replay.Replayed
    for a, b in zip(content(ours), content(pythons), strict=True):
        assert a == b
    return ours


def content(run: Run) -> list[Any]:
    trainer, history = run
    buffer, arrays = trainer.network.buffer, trainer.state.optimizer
    values = [buffer.data, buffer.state, buffer.clock, *(v for v in arrays.values() if isinstance(v, np.ndarray))]
    return [history.loss, history.accuracy, history.skipped, arrays["t"], *(np.asarray(v).tobytes() for v in values)]


def is_replayed(trainer: nn.Trainer) -> bool:
    runner: Any = trainer._runner
    return runner._tape is not None


@dataclass(frozen=True)
class Late(nn.schedules.Schedule):
    """Changes nothing for 30 steps, in which the weights stay as they were recorded."""

    lr: float

    def __call__(self, step: int) -> float:
        return 0.0 if step < 30 else self.lr


# --- the same bits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", HIDDEN)
def test_every_layer_trains_to_the_bits_of_python_s_steps(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, loops_alone = HIDDEN[name]
    trainer, _ = both(monkeypatch, lambda: dense(layer, dtype))
    assert is_replayed(trainer) is loops_alone


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": nn.SGD(nn.OneCycle(0.1, 50))},
        {"optimizer": nn.Momentum(0.1, weight_decay=0.01)},
        {"clip_norm": 0.1},
        {"average": 0.9},
        {"drop_last": True},
        {"on_fault": "skip"},
        {"optimizer": nn.SGD(Late(0.1))},  # the weights stay as they were recorded for a while
    ],
    ids=str,
)
def test_every_setting(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = both(monkeypatch, dense, **settings)
    assert is_replayed(trainer)


@pytest.mark.parametrize(
    ("make", "x", "t"),
    [
        (lambda: nn.Network([nn.LSTM(6, 5), nn.LastStep(), nn.Affine(5, 4)]), SEQUENCES, T),
        (lambda: nn.Network([nn.Embedding(4, 5), nn.GRU(5, 4, stateful=BATCH)]), IDS[:240], IDS[:240]),
        (lambda: nn.Network([nn.Affine(6, 8), nn.MultiHeadAttention(8, 2), nn.Affine(8, 4)]), SEQUENCES, IDS),
        (lambda: nn.Network([nn.Convolution(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Affine(48, 4)]), IMAGES, T),
        (lambda: nn.Network([nn.Affine(6, 1)], nn.MeanSquaredError()), X, X[:, 0]),
        (lambda: nn.Network([nn.Affine(6, 4)], nn.SoftmaxWithLoss(ignore_label=0)), X, T),
        (lambda: nn.Network([nn.Affine(6, 4)], nn.SoftmaxWithLoss(class_weight=[1.0, 2.0, 1.0, 3.0])), X, T),
    ],
)
def test_networks_of_other_kinds(
    make: Callable[[], nn.Network], x: Any, t: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(monkeypatch, make, x, t)


def test_sample_weights_and_accumulated_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    both(monkeypatch, dense, sample_weight=np.linspace(0, 2, N))
    both(monkeypatch, dense, accumulate=2)


def test_what_a_callback_changes_between_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(trainer: nn.Trainer) -> None:
        net = trainer.network
        if trainer.epoch == 1:
            net.layers["LeakyReLU1"].alpha = 0.5
        elif trainer.epoch == 2:
            net.params["W1"][...] *= 0.5
        elif trainer.epoch == 3:
            net.freeze("Affine1")
        elif trainer.epoch == 4:
            net.unfreeze("Affine1")
        elif trainer.epoch == 5:
            trainer.clip_norm = 0.05

    trainer, _ = both(monkeypatch, lambda: dense(nn.LeakyReLU), epochs=8, callbacks=[change])
    assert trainer.epoch == 8


def test_a_later_fit_with_the_same_and_with_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for capture in ("1", "0"):
        monkeypatch.setenv("NNBACKEND_CAPTURE", capture)
        x = X.copy()
        trainer, _ = train(dense, x, epochs=2)
        x[...] = X[::-1]  # in place
        trainer.fit(x, T, 1)
        trainer.fit(X[:200], T[:200], 3)
        runs.append((trainer, trainer.fit(X.astype("float64"), T, 3)))
    assert content(runs[0]) == content(runs[1])


def test_labels_that_a_callback_spoils_meet_the_error_of_python_s_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for capture in ("1", "0"):
        monkeypatch.setenv("NNBACKEND_CAPTURE", capture)
        t = T.copy()
        with pytest.raises(ValueError, match="labels must lie in 0 to 3, got 0 to 7") as error:
            train(dense, t=t, callbacks=[lambda _, t=t: t.__setitem__(5, 7)])
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_the_trial_gives_no_warning_that_the_steps_do_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_overflows() -> nn.Network:
        net = dense()
        net.params["W1"][0, 0] = 3e38
        return net

    x = X.copy()
    x[:, 0] = 0
    with np.errstate(all="raise", under="ignore"):
        both(monkeypatch, nearly_overflows, x)


# --- Python where it is needed ----------------------------------------------------------------------------------


class Counting(nn.ReLU):
    """Counts its passes, as a layer of one's own may do what the loops do not see."""

    passes = 0

    def forward(self, x: Array, training: bool = False) -> Array:
        Counting.passes += training
        return super().forward(x, training)


def test_layers_of_one_s_own_are_called_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "passes", 0)
    train(lambda: dense(Counting))
    assert Counting.passes == 4 * 13
    seen: list[int] = []

    def replace(trainer: nn.Trainer) -> None:
        layer = trainer.network.layers["ReLU1"]
        original = type(layer).forward
        layer.forward = lambda x, training=False: seen.append(1) or original(layer, x, training)  # type: ignore[method-assign]

    trainer, _ = train(dense, callbacks=[replace])
    assert len(seen) == 3 * 13
    assert trainer.epoch == 4


def test_networks_of_one_s_own_are_called_in_every_step() -> None:
    passes: list[int] = []

    class Own(nn.Network):
        def forward(self, x: Array, training: bool = False) -> Array:
            passes.append(training)
            return super().forward(x, training)

    train(lambda: Own([nn.Affine(6, 8), nn.Affine(8, 4)]))
    assert sum(passes) == 4 * 13


@pytest.mark.parametrize("place", ["network", "loss", "class"])
def test_passes_that_are_replaced_are_called_in_every_step(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    net = dense()
    holder, name = {
        "network": (net, "forward"),
        "loss": (net.loss_layer, "recorded"),
        "class": (nn.ReLU, "forward"),
    }[place]
    original = getattr(holder, name)

    def counted(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        return original(*arguments, **settings)

    def replace(trainer: nn.Trainer) -> None:
        monkeypatch.setattr(holder, name, counted)

    trainer, _ = train(lambda: net, epochs=6)
    assert is_replayed(trainer)
    trainer.fit(X, T, 5, callbacks=[replace])
    assert len(calls) == 4 * 13


def test_what_is_called_after_every_step_may_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    class Change:
        def __call__(self, trainer: nn.Trainer) -> None: ...

        def after_step(self, trainer: nn.Trainer) -> None:
            trainer.network.layers["LeakyReLU1"].alpha *= 0.9

    trainer, _ = both(monkeypatch, lambda: dense(nn.LeakyReLU), callbacks=[Change()])
    assert not is_replayed(trainer)


@pytest.mark.parametrize("stale", ["numpy", "weights", "rows"])
def test_work_between_the_loops_is_found(stale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a layer of the library did something that no loop does."""

    def forward(self: Any, x: Array, training: bool = False) -> Array:
        self._x = x
        if stale == "numpy":
            self._x = x * np.float32(1.5)
        W = np.ascontiguousarray(self.W.data[::-1])[::-1].copy() if stale == "weights" else self.W.data
        return nn.functions.affine(self._x.copy() if stale == "rows" else self._x, W, self.b.data)

    forward.__module__ = nn.Affine.__module__
    monkeypatch.setattr(nn.Affine, "forward", forward)
    trainer, _ = both(monkeypatch, dense)
    assert not is_replayed(trainer)
    assert trainer._runner._refused  # type: ignore[union-attr]


@pytest.mark.parametrize("blind", ["equal rows", "dead units"])
def test_work_between_the_loops_is_found_where_it_changes_no_value(blind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tangent of 0 is 0, whatever the weights are; later it is not."""
    hidden: list[nn.Layer] = [nn.Tanh()] if blind == "equal rows" else [nn.Affine(6, 6), nn.ReLU(), nn.Tanh()]
    runs = []
    for capture in ("1", "0"):
        monkeypatch.setenv("NNBACKEND_CAPTURE", capture)
        x = np.zeros_like(X) if blind == "equal rows" else X.copy()
        net = nn.Network([*(type(layer)(**layer.config()) for layer in hidden), nn.Affine(6, 4)], seed=1)
        if blind == "dead units":
            net.params["b1"][...] = -1000
        trainer, _ = train(lambda net=net: net, x)  # type: ignore[misc]
        x[...] = X
        net.params["b1"][...] = 0
        runs.append((trainer, trainer.fit(x, T, 3)))
    assert content(runs[0]) == content(runs[1])
    assert not is_replayed(runs[0][0])


def test_few_steps_and_large_steps_go_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_replayed(train(dense, epochs=1)[0])
    assert not is_replayed(train(dense, X[:60], T[:60], epochs=50)[0])  # three steps an epoch
    monkeypatch.setattr(replay, "LARGEST", 1000)
    assert not is_replayed(both(monkeypatch, dense)[0])


def test_values_that_fill_the_memory_are_not_copied_for_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "LARGEST", 4 * dense().buffer.data.size - 1)
    monkeypatch.setattr(replay, "_Tape", lambda *_: pytest.fail("the trial copies all values several times"))
    train(dense)


def test_settings_that_change_in_every_epoch_are_not_recorded_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded, tape = [], replay._Tape
    monkeypatch.setattr(replay, "_Tape", lambda *arguments: recorded.append(1) or tape(*arguments))  # type: ignore[func-returns-value]

    def change(trainer: nn.Trainer) -> None:
        trainer.network.layers["LeakyReLU1"].alpha *= 0.9  # type: ignore[attr-defined]

    train(lambda: dense(nn.LeakyReLU), epochs=40, callbacks=[change])
    assert 2 <= len(recorded) <= 4  # of 480 steps


def test_without_the_variable_and_without_products(monkeypatch: pytest.MonkeyPatch) -> None:
    net = dense()
    assert type(net.backend.compile(net.buffer)) is replay.Replayed
    monkeypatch.setattr(kernels, "PRODUCTS", False)
    assert type(net.backend.compile(net.buffer)) is not replay.Replayed


# --- nothing is left behind -------------------------------------------------------------------------------------


def test_the_data_is_not_held() -> None:
    x = X.copy()
    trainer, _ = train(dense, x)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert is_replayed(trainer)
    assert gone() is None


@pytest.mark.parametrize("layer", [nn.ReLU, nn.Tanh])
def test_a_trial_leaves_values_and_gradients_as_they_were(layer: Callable[[], nn.Layer]) -> None:
    trainer, _ = train(lambda: dense(layer), epochs=1)
    buffer = trainer.network.buffer
    before = [np.asarray(a).tobytes() for a in (buffer.data, buffer.grad, buffer.state, buffer.clock)]
    runner: Any = trainer._runner
    runner.prepare(trainer._epoch((X, T, None), repeats=True), ahead=1000)
    assert is_replayed(trainer) or runner._refused
    assert before == [np.asarray(a).tobytes() for a in (buffer.data, buffer.grad, buffer.state, buffer.clock)]


def test_an_interrupt_while_recording_leaves_the_loops_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = kernels._native
    monkeypatch.setattr(replay._Recorder, "_keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(dense)
    assert kernels._native is loops
    monkeypatch.undo()
    assert is_replayed(train(dense)[0])


def test_threads_that_train_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(both(monkeypatch, dense, epochs=10))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(content(train(dense, epochs=10)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    assert type(kernels._native).__name__ == "module"
