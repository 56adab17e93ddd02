"""The moving average of the values, and layers that are frozen: on every namespace, captured, resumed, and shared."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import cuda_standin as standin
import numpy as np
import pytest
from processes import alone, launch, needs_mpi, results
from support import Namespace, Stops, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 6)).astype("float32")
T = (X @ RNG.standard_normal((6, 3))).argmax(axis=1)
FROZEN = ("Affine1", "BatchNormalization1", "Affine3")


def make(dtype: str = "float32") -> nn.Network:
    layers = [nn.Affine(6, 8), nn.BatchNormalization(8), nn.ReLU(), nn.Affine(8, 7), nn.Tanh(), nn.Affine(7, 3)]
    return nn.Network(layers, seed=1, dtype=dtype)


def trainer_of(frozen: tuple[str, ...] = (), dtype: str = "float32", **settings: Any) -> nn.Trainer:
    net = make(dtype)
    net.freeze(*frozen)
    rule = settings.pop("optimizer", nn.AdamW(0.01, weight_decay=0.1))
    return nn.Trainer(net, rule, **({"batch_size": 8, "seed": 2} | settings))


def state(trainer: nn.Trainer) -> list[bytes]:
    buffer, slots = trainer.network.buffer, trainer.state.optimizer
    names = sorted({*slots} - {"t", "lr_scale", "average"}) + (["average"] if "average" in slots else [])
    return [to_numpy(a).tobytes() for a in (buffer.data, buffer.state, *(slots[name] for name in names))]


# --- the average -----------------------------------------------------------------------------------------------------


class Notes:
    """Keeps the values after every step."""

    def __init__(self) -> None:
        self.values: list[np.ndarray] = []

    def __call__(self, trainer: nn.Trainer) -> None:
        pass

    def after_step(self, trainer: nn.Trainer) -> None:
        self.values.append(to_numpy(trainer.network.buffer.data).astype("float64"))


@pytest.mark.parametrize("settings", [{}, {"batch_size": 4, "accumulate": 2}, {"on_fault": "skip"}, {"clip_norm": 0.1}])
def test_the_average_is_the_weighted_mean_of_all_steps(on: Namespace, settings: dict[str, Any]) -> None:
    trainer, notes = trainer_of(average=0.8, **settings), Notes()
    trainer.fit(on.array(X), on.array(T), 3, callbacks=[notes])
    weights = 0.8 ** np.arange(len(notes.values))[::-1]
    expected = np.tensordot(weights / weights.sum(), np.stack(notes.values), axes=1)
    before = to_numpy(trainer.network.buffer.data).copy()
    with trainer.averaged() as net:
        assert net is trainer.network
        assert_close(net.buffer.data, expected.astype("float32"), "float32", terms=24)
    assert to_numpy(trainer.network.buffer.data).tobytes() == before.tobytes()


def test_the_averaged_network_is_saved_and_evaluated(tmp_path: Path) -> None:
    trainer = trainer_of(average=0.9)
    trainer.fit(X, T, 3)
    plain = trainer.network.loss(X, T)
    with trainer.averaged() as net:
        net.save(tmp_path / "net.safetensors")
        loss = net.loss(X, T)
    assert nn.load(tmp_path / "net.safetensors").loss(X, T) == loss != plain
    with pytest.raises(ZeroDivisionError), trainer.averaged():
        raise ZeroDivisionError
    assert trainer.network.loss(X, T) == plain


def test_training_does_not_depend_on_the_average() -> None:
    one, other = trainer_of(), trainer_of(average=0.99)
    one.fit(X, T, 2)
    other.fit(X, T, 2)
    assert state(one) == state(other)[:-1]


def test_a_skipped_step_does_not_count(on: Namespace) -> None:
    spoiled = X.copy()
    spoiled[5] = 3e38
    trainer, notes = trainer_of(average=0.8, on_fault="skip", optimizer=nn.SGD(0.1)), Notes()
    with np.errstate(all="ignore"):
        trainer.fit(on.array(spoiled), on.array(T), 2, callbacks=[notes])
    assert sum(trainer.history.skipped) == 2
    values = [v for i, v in enumerate(notes.values) if i == 0 or (v != notes.values[i - 1]).any()]
    assert len(values) == trainer.state.optimizer["t"] == 14
    weights = 0.8 ** np.arange(14)[::-1]
    expected = np.tensordot(weights / weights.sum(), np.stack(values), axes=1)
    with trainer.averaged() as net:
        assert_close(net.buffer.data, expected.astype("float32"), "float32", terms=24)


@pytest.mark.parametrize("value", [1.0, -0.1, "x"])
def test_bad_averages(value: Any) -> None:
    with pytest.raises(ValueError, match="average must be"):
        trainer_of(average=value)


def test_without_an_average() -> None:
    with pytest.raises(ValueError, match="no step is done yet"), trainer_of(average=0.9).averaged():
        pass
    trainer = trainer_of()
    trainer.fit(X, T)
    with pytest.raises(ValueError, match="the trainer has no average="), trainer.averaged():
        pass


# --- frozen layers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [("Affine1",), ("Affine2",), FROZEN, ("Affine3", "ReLU1")])
@pytest.mark.parametrize("rule", [nn.AdamW(0.01, weight_decay=0.1), nn.Momentum(0.1)])
def test_frozen_values_keep_their_bits_and_the_others_train(
    on: Namespace, frozen: tuple[str, ...], rule: nn.Optimizer
) -> None:
    trainer = trainer_of(optimizer=rule)
    net = trainer.network
    trainer.fit(on.array(X), on.array(T), 1)  # which leaves momentum
    before = {name: to_numpy(p).copy() for name, p in [*net.params.items(), *net.statistics.items()]}
    net.freeze(*frozen)
    trainer.fit(on.array(X), on.array(T), 2)
    still = {
        "Affine1": {"W1", "b1"},
        "BatchNormalization1": {"gamma1", "beta1", "running_mean1", "running_var1"},
        "Affine2": {"W2", "b2"},
        "Affine3": {"W3", "b3"},
    }
    expected = {of_layer for name in frozen for of_layer in still.get(name, set())}
    after = {name: to_numpy(p) for name, p in [*net.params.items(), *net.statistics.items()]}
    assert {name for name, value in after.items() if value.tobytes() == before[name].tobytes()} == expected
    net.unfreeze()
    trainer.fit(on.array(X), on.array(T), 1)
    assert not any(to_numpy(p).tobytes() == before[name].tobytes() for name, p in net.params.items())


def test_the_steps_are_pytorchs(on: Namespace) -> None:
    torch = pytest.importorskip("torch")
    trainer = trainer_of(("Affine1", "BatchNormalization1"), "float64", optimizer=nn.Momentum(0.1, weight_decay=0.01))
    module = trainer.network.to("numpy").to_torch().train()
    for part in module[:2]:
        part.eval()
        for parameter in part.parameters():
            parameter.requires_grad = False
    trained = [p for p in module.parameters() if p.requires_grad]
    rule = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.01)
    for epoch in range(2):
        order = np.random.default_rng([2, epoch]).permutation(60)
        for i in range(0, 60, 8):
            rows = order[i : i + 8]
            rule.zero_grad()
            y = module(torch.tensor(X[rows], dtype=torch.float64))
            torch.nn.functional.cross_entropy(y, torch.tensor(T[rows])).backward()
            rule.step()
    trainer.fit(on.array(X, "float64"), on.array(T), 2)
    for name, index in (("W2", 3), ("W3", 5)):
        assert_close(trainer.network.params[name], module[index].weight.detach().numpy().T, "float64", terms=1000)


def test_gradients_of_frozen_layers_are_zero_and_the_others_right(on: Namespace) -> None:
    net = make("float64")
    net.freeze("BatchNormalization1", "Affine2")  # so that it trains in inference mode, as differences are taken
    gradients = net.gradient(X, T)
    numeric = make("float64").numerical_gradient(X, T)
    for name in ("W1", "b1", "W3", "b3"):
        assert np.abs(to_numpy(numeric[name]) - to_numpy(gradients[name])).max() < 1e-6, name
    for name in ("gamma1", "beta1", "W2", "b2"):
        assert not to_numpy(gradients[name]).any()


def test_nothing_is_computed_below_the_lowest_layer_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = nn.Affine.backward

    def noted(self: nn.Affine, dy: Any, need_dx: bool = True) -> Any:
        calls.append(self.name)
        return original(self, dy, need_dx)

    monkeypatch.setattr(nn.Affine, "backward", noted)
    trainer_of(("Affine1", "BatchNormalization1", "Affine2"), batch_size=60).fit(X, T)
    assert calls == ["Affine3"]


def test_copies_and_names() -> None:
    net = make()
    net.freeze("Affine3")
    net.freeze("Affine1")
    assert net.frozen == ("Affine1", "Affine3")
    assert pickle.loads(pickle.dumps(net)).frozen == copy.deepcopy(net).frozen == net.frozen
    assert net.to("numpy").frozen == ()
    net.unfreeze("Affine1")
    assert net.frozen == ("Affine3",)
    with pytest.raises(ValueError, match="unknown layer 'Afine1'. Did you mean 'Affine1'"):
        net.freeze("Afine1")
    with pytest.raises(ValueError, match="unknown layer 'Afine1'. Did you mean 'Affine1'"):
        net.unfreeze("Afine1")
    net.freeze(*net.layers)
    with pytest.raises(ValueError, match="every layer with parameters is frozen"):
        nn.Trainer(net, nn.SGD(), batch_size=8).fit(X, T)


def test_layers_within_layers(on: Namespace) -> None:
    inner = [nn.Affine(6, 6), nn.BatchNormalization(6), nn.ReLU(), nn.Affine(6, 6)]
    net = nn.Network([nn.Affine(6, 6), nn.Residual(inner), nn.Affine(6, 3)], seed=1)
    trainer = nn.Trainer(net, nn.Adam(0.01), batch_size=8)

    def changed() -> set[str]:
        before = {name: to_numpy(p).copy() for name, p in [*net.params.items(), *net.statistics.items()]}
        trainer.fit(on.array(X), on.array(T), 1)
        after = {name: to_numpy(p) for name, p in [*net.params.items(), *net.statistics.items()]}
        return {name for name, value in after.items() if value.tobytes() != before[name].tobytes()}

    every = changed()
    net.freeze("Residual1")
    assert net.frozen == (
        "Residual1",
        *(f"Residual1.{n}" for n in ("Affine1", "BatchNormalization1", "ReLU1", "Affine2")),
    )
    of_inner = {"W2", "b2", "gamma1", "beta1", "running_mean1", "running_var1", "W3", "b3"}
    assert changed() == every - of_inner
    net.unfreeze("Residual1.Affine2")
    assert net.frozen == ("Residual1.Affine1", "Residual1.BatchNormalization1", "Residual1.ReLU1")
    assert changed() == every - of_inner | {"W3", "b3"}
    net.freeze("Affine1")
    assert changed() == {"W3", "b3", "W4", "b4"}


def test_shared_values_are_frozen_at_all_their_places(on: Namespace) -> None:
    twice = nn.Affine(6, 6)
    net = nn.Network([twice, nn.Tanh(), twice, nn.Affine(6, 3)], seed=1)
    net.freeze("Affine2")
    before = to_numpy(net.params["W1"]).copy()
    nn.Trainer(net, nn.Adam(0.01), batch_size=8).fit(on.array(X), on.array(T), 1)
    assert to_numpy(net.params["W1"]).tobytes() == before.tobytes()


# --- resumed, captured, shared ----------------------------------------------------------------------------------------


def unfreezes(trainer: nn.Trainer) -> None:
    if trainer.epoch == 2:
        trainer.network.unfreeze("Affine1")


def whole(path: Path | None = None, stop: tuple[int, int] = (0, 0)) -> nn.Trainer:
    """A run with all of it."""
    trainer = trainer_of(FROZEN, average=0.9, checkpoint=path)
    if path is not None:
        trainer.resume()
    plateau = nn.ReduceLROnPlateau("mine", patience=1, factor=0.5, greater_is_better=True)
    metrics = {"mine": lambda y, t: -(y * y).mean()}
    trainer.fit(X, T, 4, validation=(X, T), metrics=metrics, callbacks=[plateau, unfreezes, Stops(stop)])
    return trainer


def test_resumed_bit_for_bit(tmp_path: Path) -> None:
    expected = whole()
    assert expected.state.optimizer["lr_scale"] < 1
    for stop in ((1, 3), (2, 2), (3, 7)):
        assert whole(tmp_path / "run.safetensors", stop).history.interrupted
    trainer = whole(tmp_path / "run.safetensors")
    assert state(trainer) == state(expected)
    assert trainer.state.optimizer["lr_scale"] == expected.state.optimizer["lr_scale"]
    assert trainer.history.loss == expected.history.loss
    assert trainer.history.metrics == expected.history.metrics
    assert trainer.network.frozen == expected.network.frozen == ("BatchNormalization1", "Affine3")


def within(path: Path | None = None, stop: tuple[int, int] = (0, 0)) -> nn.Trainer:
    """A run with frozen layers within a layer."""
    net = nn.Network([nn.Affine(6, 6), nn.Residual([nn.Affine(6, 6), nn.ReLU()]), nn.Affine(6, 3)], seed=1)
    net.freeze("Residual1")
    trainer = nn.Trainer(net, nn.Adam(0.01), batch_size=8, checkpoint=path)
    if path is not None:
        trainer.resume()
    trainer.fit(X, T, 3, callbacks=[Stops(stop)])
    return trainer


def test_resumed_with_frozen_layers_within_a_layer(tmp_path: Path) -> None:
    expected = within()
    assert within(tmp_path / "run.safetensors", (2, 3)).history.interrupted
    trainer = within(tmp_path / "run.safetensors")
    assert state(trainer) == state(expected)
    assert trainer.network.frozen == expected.network.frozen == ("Residual1", "Residual1.Affine1", "Residual1.ReLU1")


def test_what_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    trainer_of(("Affine1",), average=0.9, checkpoint=path).fit(X, T)
    with pytest.raises(nn.CheckpointError, match="average: 0.9 then, 0.8 now"):
        trainer_of(("Affine1",), average=0.8, checkpoint=path).resume()
    other = trainer_of((), average=0.9, checkpoint=path)
    other.resume()
    with pytest.raises(nn.CheckpointError, match="frozen layers changed"):
        other.fit(X, T, 2)


def test_captured() -> None:
    runs = []
    for name in ("cupy", "numpy"):
        with standin.installed() as machine, nn.using(name):
            trainer = trainer_of(FROZEN, "float64", average=0.9)
            plateau = nn.ReduceLROnPlateau("loss", patience=1, min_delta=1e9, factor=0.5)
            trainer.fit(X, T, 6, callbacks=[plateau, unfreezes])
            runs.append([to_numpy(a).copy() for a in (trainer.network.buffer.data, trainer.state.optimizer["average"])])
            assert name == "numpy" or machine.counts["graph launches"] >= 6 * (60 // 8)
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@needs_mpi
def test_two_processes_have_the_bits_of_one() -> None:
    options = {"average": 0.9, "freeze": ["Affine1", "BatchNormalization1"], "plateau": True}
    expected = alone(**options)
    assert expected != alone(**(options | {"freeze": []}))
    assert results(launch(2, **options)) == expected
