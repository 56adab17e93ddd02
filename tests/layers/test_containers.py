"""Layers of layers, and layers that are used twice."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend import serialization
from nnbackend.backends import to_numpy

RNG = np.random.default_rng(0)
CLOSE = 1e-7  # of gradients by differences: h^2 = 1e-8 times a third derivative
X, T = RNG.standard_normal((12, 3)), np.arange(12) % 3


def nested(dtype: str = "float64", dropout_ratio: float = 0.0) -> nn.Network:
    """A network with every container, one in another, and two layers that are used twice."""
    shared, deep = nn.Affine(4, 4), nn.Affine(2, 2)
    return nn.Network(
        [
            nn.Affine(3, 4),
            nn.Sequential([shared, nn.Tanh(), shared]),
            nn.Residual([nn.Affine(4, 5), nn.BatchNormalization(5), nn.GELU(), nn.Affine(5, 2)], nn.Affine(4, 2)),
            nn.Parallel([[], [nn.Affine(2, 3), nn.Residual([nn.Tanh()])], [deep, nn.ELU(), deep]], "concatenate"),
            nn.Residual([nn.Dropout(dropout_ratio), nn.Affine(7, 7)]),
            nn.Affine(7, 3),
        ],
        dtype=dtype,
        seed=3,
    )


def differ(one: Any, other: Any) -> float:
    assert list(one) == list(other)
    return max(float(np.max(np.abs(to_numpy(one[name]) - to_numpy(other[name])))) for name in one)


def test_names_tell_where_a_layer_is() -> None:
    net = nn.Network(
        [nn.Affine(3, 4), nn.Residual([nn.Affine(4, 4), nn.ReLU()]), nn.Parallel([nn.Affine(4, 2), [nn.Affine(4, 2)]])]
    )
    assert list(net.layers) == ["Affine1", "Residual1", "Parallel1"]
    assert list(net.every_layer()) == [
        *["Affine1", "Residual1", "Residual1.Affine1", "Residual1.ReLU1", "Parallel1", "Parallel1.Affine1"],
        *["Parallel1.Sequential1", "Parallel1.Sequential1.Affine1"],
    ]
    assert list(net.params) == ["W1", "b1", "W2", "b2", "W3", "b3", "W4", "b4"]
    assert net.params["W2"] is net.every_layer()["Residual1.Affine1"].parameters()["W"].data
    assert list(net.activations(X)) == [
        *["Affine1", "Residual1.Affine1", "Residual1.ReLU1", "Residual1", "Parallel1.Affine1"],
        *["Parallel1.Sequential1.Affine1", "Parallel1.Sequential1", "Parallel1"],
    ]


def test_weights_within_are_suited_to_the_activation_that_follows() -> None:
    """A seed gives the values that it gives a flat stack of the same layers."""
    inside = nn.Network([nn.Sequential([nn.Affine(300, 200)]), nn.Residual([nn.ReLU(), nn.Affine(200, 200)])], seed=5)
    flat = nn.Network([nn.Affine(300, 200), nn.ReLU(), nn.Affine(200, 200)], seed=5)
    assert differ(inside.params, flat.params) == 0.0
    assert np.std(to_numpy(inside.params["W1"])) == pytest.approx((2 / 300) ** 0.5, rel=0.02)


def test_a_sequence_trains_as_its_layers_do(on: Namespace) -> None:
    def layers() -> list[nn.Layer]:
        return [nn.Affine(3, 5), nn.BatchNormalization(5), nn.ReLU(), nn.Affine(5, 3)]

    runs = []
    for stack in (layers(), [nn.Sequential(layers()[:1]), nn.Sequential([nn.Sequential(layers()[1:3])]), layers()[3]]):
        trainer = nn.Trainer(nn.Network(stack, seed=1), nn.Adam(0.01), batch_size=4, accumulate=2, seed=0)
        trainer.fit(X, T, epochs=3)
        runs.append(to_numpy(trainer.network.buffer.data).tobytes() + to_numpy(trainer.network.buffer.state).tobytes())
    assert runs[0] == runs[1]


def test_values_and_gradients_are_pytorch_s(on: Namespace) -> None:
    torch = pytest.importorskip("torch")
    t = torch.nn
    net = nested()

    def linear(number: int) -> Any:
        W, b = (to_numpy(net.params[f"{name}{number}"]) for name in "Wb")
        module = t.Linear(*W.shape, dtype=torch.float64)
        module.weight.data[...], module.bias.data[...] = torch.tensor(W.T.copy()), torch.tensor(b)
        return module

    first, shared, up, down, projection, branch, deep, residual, last = map(linear, range(1, 10))
    norm = t.BatchNorm1d(5, dtype=torch.float64)
    x = torch.tensor(X)
    y = first(x)
    y = shared(torch.tanh(shared(y)))
    y = down(t.functional.gelu(norm(up(y)), approximate="tanh")) + projection(y)
    z = branch(y)
    y = torch.cat([y, z + torch.tanh(z), deep(t.functional.elu(deep(y)))], dim=1)
    loss = t.functional.cross_entropy(last(y + residual(y)), torch.tensor(T))
    loss.backward()
    found, _ = net.loss_and_output(*net.data(X, T))
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-12)
    net.backward()
    modules = [first, shared, up, down, projection, branch, deep, residual, last]
    for i, module in enumerate(modules):
        assert_close(net.grads[f"W{i + 1}"], module.weight.grad.numpy().T, "float64", terms=200, scale=1.0)
        assert_close(net.grads[f"b{i + 1}"], module.bias.grad.numpy(), "float64", terms=200, scale=1.0)
    assert_close(net.grads["gamma1"], norm.weight.grad.numpy(), "float64", terms=200, scale=1.0)
    assert_close(net.statistics["running_var1"], norm.running_var.numpy(), "float64", terms=12)


def test_numerical_gradients_know_nesting(on: Namespace) -> None:
    net = nested()
    assert differ(net.numerical_gradient(X, T), gradient_in_inference(net)) < CLOSE


def test_threads_have_copies_of_nested_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nested()
    monkeypatch.setattr("nnbackend.gradients.SHARED", 0)
    monkeypatch.setattr(type(net.backend), "threads", 3)
    assert differ(net.numerical_gradient(X, T), gradient_in_inference(net)) < CLOSE


def gradient_in_inference(net: nn.Network) -> dict[str, Any]:
    x, t = net.data(X, T)
    net.loss_layer.forward(net.forward(x), t)
    net.backward()
    return {name: to_numpy(g).copy() for name, g in net.grads.items()}


@pytest.mark.parametrize("make", [
    lambda: [nn.Residual([nn.Affine(3, 4), nn.Tanh(), nn.Affine(4, 3)]), nn.Tanh(), nn.Affine(3, 3)],
    lambda: [nn.Parallel([nn.Affine(3, 2), [nn.Affine(3, 4), nn.ELU()]], "concatenate"), nn.Affine(6, 3)],
    lambda: [nn.Parallel([[], [nn.Affine(3, 4), nn.Affine(4, 5)]], "concatenate"), nn.Affine(8, 3)],
    lambda: [nn.Residual([nn.Affine(3, 4), nn.Affine(4, 3)]), nn.Affine(3, 3)],
    lambda: [nn.Residual([nn.Affine(3, 3), nn.Softmax()])],
])  # fmt: skip
def test_numerical_gradients_take_short_ways_through_stacks(on: Namespace, make: Any) -> None:
    net = nn.Network(make(), dtype="float64", seed=2)
    assert differ(net.numerical_gradient(X, T), gradient_in_inference(net)) < CLOSE


def test_the_gradient_check_looks_inside() -> None:
    report = nn.check_gradients(nested(dropout_ratio=0.3), X, T)
    assert report.ok, str(report)
    assert ("x", "Residual1.GELU1") in {(row.name, row.layer) for row in report.rows}

    class Wrong(nn.Tanh):
        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            return 1.1 * super().backward(dy)

    inside = nn.Residual([nn.Affine(4, 4), Wrong(), nn.Affine(4, 4)])
    report = nn.check_gradients(nn.Network([nn.Affine(3, 4), inside, nn.Affine(4, 3)]), X, T)
    assert report.at_fault == "Residual1.Wrong1"


def test_a_diagnosis_looks_inside() -> None:
    dead = nn.Residual([nn.Affine(3, 8, bias=nn.Constant(-100.0)), nn.ReLU(), nn.Affine(8, 3)])
    found = nn.diagnose(nn.Network([dead, nn.Affine(3, 3)]), X, T)
    assert "Residual1.ReLU1: 8 of 8 units are dead" in str(found)


def test_what_is_not_finite_is_found_inside() -> None:
    class Root(nn.Tanh):
        def forward(self, x: Any, training: bool = False) -> Any:
            with np.errstate(invalid="ignore"):
                self._y = np.sqrt(x)
            return self._y

    net = nn.Network([nn.Residual([nn.Affine(3, 3), Root()]), nn.Affine(3, 3)], dtype="float64")
    with pytest.raises(nn.NumericalError, match=r"the output of Residual1\.Root1"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=4).fit(X, T, 1)


def test_copies_and_files_know_nesting(on: Namespace, tmp_path: Path) -> None:
    net = nested("float32", dropout_ratio=0.5)
    nn.Trainer(net, nn.SGD(0.1), batch_size=4).fit(X, T, 2)
    net.save(tmp_path / "net.safetensors")
    copies = [
        nn.load(tmp_path / "net.safetensors"),
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        net.to(on.backend),
    ]
    for other in copies:
        assert other.config() == net.config()
        assert to_numpy(other.predict(X)).tobytes() == to_numpy(net.predict(X)).tobytes()
        assert differ(other.gradient(X, T), net.gradient(X, T)) == 0.0  # with the same masks
        assert other.signature().keys() == net.signature().keys()
    tensors, description = serialization.read(tmp_path / "net.safetensors")
    assert sum(a.size for name, a in tensors.items() if "." not in name) == net.buffer.data.shape[0] + 10
    assert description["network"]["layers"][1] == {
        "kind": "Sequential",
        "layers": [{"kind": "Affine", "input_size": 4, "output_size": 4}, {"kind": "Tanh"}, {"use_of": 2}],
    }


def test_a_pickle_of_an_earlier_version_is_read() -> None:
    """It held pairs of class and settings."""
    net = nn.Network([nn.Affine(3, 4), nn.ReLU(), nn.Affine(4, 3)], seed=2)
    make, (kind, parts, *rest), *_ = net.__reduce__()
    pairs = [(part.pop("kind"), part) for part in copy.deepcopy(parts)]
    assert [pair[0] for pair in pairs] == [nn.Affine, nn.ReLU, nn.Affine, nn.SoftmaxWithLoss]
    assert np.array_equal(make(kind, pairs, *rest).predict(X), net.predict(X))


def test_a_run_with_nested_layers_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def trainer(file: Path | None) -> nn.Trainer:
        return nn.Trainer(nested("float32", 0.3), nn.Adam(0.01), batch_size=4, accumulate=2, seed=1, checkpoint=file)

    whole = trainer(None)
    whole.fit(X, T, 6)
    trainer(tmp_path / "run").fit(X, T, 3)
    resumed = trainer(tmp_path / "run")
    assert resumed.resume()
    resumed.fit(X, T, 6)
    assert to_numpy(resumed.network.buffer.data).tobytes() == to_numpy(whole.network.buffer.data).tobytes()
    assert to_numpy(resumed.network.buffer.state).tobytes() == to_numpy(whole.network.buffer.state).tobytes()


# --- a layer that is used twice ---------------------------------------------------------------------------------


def test_the_gradients_of_two_uses_add(on: Namespace) -> None:
    """Two layers with the same values, which are not shared, have the two terms of the sum."""
    once, twice = nn.Affine(4, 4), nn.Affine(4, 4)
    apart = nn.Network([nn.Affine(3, 4), once, nn.Sigmoid(), nn.Residual([twice]), nn.Affine(4, 3)], dtype="float64")
    shared = nn.Affine(4, 4)
    net = nn.Network([nn.Affine(3, 4), shared, nn.Sigmoid(), nn.Residual([shared]), nn.Affine(4, 3)], dtype="float64")
    assert list(net.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    for mine, theirs in {"1": ["1"], "2": ["2", "3"], "3": ["4"]}.items():
        for name in "Wb":
            for number in theirs:
                apart.params[f"{name}{number}"] = net.params[f"{name}{mine}"]
    assert_close(net.predict(X), apart.predict(X), "float64", terms=4)
    found, terms = net.gradient(X, T), apart.gradient(X, T)
    for name in "Wb":
        assert_close(found[f"{name}2"], terms[f"{name}2"] + terms[f"{name}3"], "float64", terms=12)
        assert_close(found[f"{name}3"], terms[f"{name}4"], "float64", terms=12)
    net.params["W2"][...] = net.params["W2"] + 1.0
    uses = [layer for layer in net.every_layer().values() if layer.original is shared]
    assert len(uses) == 2
    for use in uses:
        assert_close(use.parameters()["W"].data, net.params["W2"], "float64")


def test_a_container_that_is_used_twice_shares_what_it_holds(on: Namespace) -> None:
    block = nn.Residual([nn.Affine(3, 3), nn.Tanh(), nn.Dropout(0.5)])
    net = nn.Network([block, nn.ReLU(), block, nn.Sequential([block])], dtype="float64", seed=1)
    assert list(net.params) == ["W1", "b1"]
    report = nn.check_gradients(net, X, T)
    assert report.ok, str(report)
    x, _ = net.data(X, T)
    net.forward(x, training=True)
    masks = [to_numpy(layer._mask).tobytes() for layer in net.every_layer().values() if layer.kind == "Dropout"]
    assert len(set(masks)) == 3
    again = net.to(on.backend)
    assert again.config() == net.config()
    assert to_numpy(again.predict(X)).tobytes() == to_numpy(net.predict(X)).tobytes()


def test_a_setting_of_a_further_use_is_kept() -> None:
    dropout = nn.Dropout(0.5)
    net = nn.Network([dropout, nn.Affine(3, 3), dropout])
    net.layers["Dropout2"].dropout_ratio = 0.25
    assert [net.to("numpy").layers[f"Dropout{i}"].dropout_ratio for i in (1, 2)] == [0.5, 0.25]


def test_layers_of_a_refused_network_are_shared_again() -> None:
    shared = nn.Affine(3, 3)
    residual = nn.Residual([shared])
    with pytest.raises(ValueError, match="what comes before gives"):
        nn.Network([shared, residual, nn.Affine(4, 3)])
    net = nn.Network([residual, shared, nn.Affine(3, 3)])
    assert list(net.params) == ["W1", "b1", "W2", "b2"]
    assert net.every_layer()["Residual1.Affine1"] is shared


def test_a_twin_leaves_the_layer_s_arrays_alone() -> None:
    layer = nn.Residual([nn.Affine(3, 3), nn.Tanh()]).initialize(dtype="float64")
    layer.forward(X)
    expected = layer.backward(X).copy()
    layer.twin().forward(X[:4])
    assert np.array_equal(layer.backward(X), expected)
    assert [p.data for p in layer.twin().parameters().values()] == [p.data for p in layer.parameters().values()]


# --- a container of one's own -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Gated(nn.Layer):
    """Computes g(x) f(x), with a parameter of its own as a factor."""

    value: nn.Layer
    gate: nn.Layer

    inner: ClassVar[tuple[str, ...]] = ("value", "gate")

    def __post_init__(self) -> None:
        self.factor = nn.Parameter((1,), nn.Constant(0.7))

    def forward(self, x: Any, training: bool = False) -> Any:
        self._v, self._g = self.value.forward(x, training), self.gate.forward(x, training)
        return self._v * self._g * self.factor.data

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.factor.grad = (dy * self._v * self._g).sum()
        dy = dy * self.factor.data
        return self.gate.backward(dy * self._v) + self.value.backward(dy * self._g)


@dataclass(eq=False)
class Last(nn.Layer):
    layers: tuple[nn.Layer, ...]
    inner: ClassVar[tuple[str, ...]] = ("layers",)


def test_a_container_of_one_s_own(tmp_path: Path) -> None:
    gated = Gated(nn.Affine(4, 4), nn.Sequential([nn.Affine(4, 4), nn.Sigmoid()]))
    net = nn.Network([nn.Affine(3, 4), gated, nn.Affine(4, 3)], dtype="float64")
    assert list(net.params) == ["W1", "b1", "factor1", "W2", "b2", "W3", "b3", "W4", "b4"]
    assert nn.check_gradients(net, X, T).ok
    assert differ(net.numerical_gradient(X, T), gradient_in_inference(net)) < CLOSE
    net.save(tmp_path / "net")
    assert np.array_equal(nn.load(tmp_path / "net", layers=[Gated]).predict(X), net.predict(X))
    assert np.array_equal(pickle.loads(pickle.dumps(net)).predict(X), net.predict(X))
    assert list(nn.Network([Last((nn.Affine(3, 4), nn.Affine(3, 3)))]).params) == ["W1", "b1", "W2", "b2"]
    twice = Gated(nn.Affine(3, 3), nn.Affine(3, 3))
    with pytest.raises(ValueError, match="Gated is used twice .* keeps parameters beside those of its layers"):
        nn.Network([twice, twice])


# --- sequences beside layers that take the last axis alone ------------------------------------------------------


@pytest.mark.parametrize(("make", "shape"), [
    (lambda: [nn.Residual([nn.LSTM(3, 4)], nn.Affine(3, 4))], (2, 5, 4)),
    (lambda: [nn.Residual([nn.Affine(3, 4)], [nn.Tanh(), nn.GRU(3, 4)]), nn.LastStep()], (2, 4)),
    (lambda: [nn.Parallel([nn.Affine(3, 4), nn.LSTM(3, 2), []], "concatenate"), nn.Affine(9, 2)], (2, 5, 2)),
    (lambda: [nn.Affine(3, 4), nn.LastStep(), nn.Affine(4, 2)], (2, 2)),
    (lambda: [nn.Affine(3, 4), nn.Sequential([nn.LastStep(), nn.Affine(4, 2)])], (2, 2)),
    (lambda: [nn.LayerNormalization(3),
              nn.Residual([nn.Parallel([[]], "concatenate"), nn.GRU(3, 4)], nn.Affine(3, 4))], (2, 5, 4)),
])  # fmt: skip
def test_the_shape_of_a_row_has_the_steps_that_some_branch_takes(make: Any, shape: tuple[int, ...]) -> None:
    net, x = nn.Network(make(), nn.MeanSquaredError(), dtype="float64"), RNG.standard_normal((2, 5, 3))
    assert net.input_shape == (None, 3)
    assert tuple(net.predict(x).shape) == shape
    assert_close(net.predict(x[0]), net.predict(x)[0], "float64", terms=50)
    gradients = net.gradient(x, np.zeros(shape))
    for name, value in net.numerical_gradient(x, np.zeros(shape)).items():
        np.testing.assert_allclose(gradients[name], value, rtol=0, atol=CLOSE)
    assert net.summary(2)


# --- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.Sequential(nn.ReLU()), TypeError, "Sequential: layers: expected a list of layers, got ReLU()"),
    (lambda: nn.Sequential([nn.ReLU(), 3]), TypeError, "Sequential: layers[1]: expected a layer, got 3"),
    (lambda: nn.Residual([]), ValueError, "Residual: layers: at least one layer is needed"),
    (lambda: nn.Residual([nn.ReLU()], "yes"), TypeError, "Residual: projection: expected a list of layers, got 'yes'"),
    (lambda: nn.Parallel([]), ValueError, "Parallel: branches: at least one branch is needed"),
    (lambda: nn.Parallel(nn.ReLU()), TypeError, "Parallel: branches: expected a list of layers, got ReLU()"),
    (lambda: nn.Parallel([[nn.ReLU(), 3]]), TypeError, "Parallel: branches[0][1]: expected a layer, got 3"),
    (lambda: nn.Parallel([nn.ReLU()], "concat"), ValueError, "Did you mean 'concatenate'?"),
    (lambda: nn.Network([nn.Affine(3, 4), nn.Residual([nn.Affine(4, 5)])]), ValueError,
     "Residual1: its layers give (5,), but x is (4,): pass a projection"),
    (lambda: nn.Network([nn.Affine(3, 4), nn.Residual([nn.Affine(4, 5)], nn.Affine(4, 1))]), ValueError,
     "Residual1: its layers give (5,), but its projection (1,)"),
    (lambda: nn.Network([nn.Affine(3, 4), nn.Parallel([nn.ReLU(), nn.Affine(4, 1)])]), ValueError,
     "Parallel1: its branches must give equal shapes, got (4,), (1,)"),
    (lambda: nn.Network([nn.Parallel([nn.Affine(3, 4), nn.Affine(2, 4)])]), ValueError,
     "Parallel1: its branches take rows of shape (3,) and of (2,)"),
    (lambda: nn.Network([nn.Sequential([nn.Affine(3, 4), nn.Affine(5, 4)])]), ValueError,
     "Sequential1.Affine2 takes rows of shape (5,), but what comes before gives (4,)"),
    (lambda: nn.Parallel([nn.Convolution(1, 2, 3), nn.Convolution(1, 2, 1)], "concatenate").output_shape((5, 5, 1)),
     ValueError, "Parallel: its branches must give equal shapes, except in the last axis, got (3, 3, 2), (5, 5, 2)"),
    (lambda: nn.Residual([nn.Affine(3, 1)]).initialize().forward(X.astype("float32")), ValueError,
     "Residual: its layers give (12, 1), but x is (12, 3)"),
    (lambda: nn.Sequential([a := nn.Affine(3, 3), a]).initialize(), ValueError, "has a layer within it twice"),
    (lambda: nn.Network([a := nn.BatchNormalization(3), nn.Affine(3, 3), a]), ValueError,
     "a BatchNormalization is used twice in one network, but it keeps running statistics"),
])  # fmt: skip
def test_bad_input(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_layers_of_a_refused_network_are_free_again() -> None:
    residual = nn.Residual([nn.Affine(4, 4)])
    with pytest.raises(ValueError, match="what comes before gives"):
        nn.Network([nn.Affine(3, 3), residual])
    nn.Network([nn.Affine(3, 4), residual])


def test_one_row_is_refused_where_a_normalisation_within_needs_two() -> None:
    net = nn.Network([nn.Residual([nn.Affine(3, 3), nn.BatchNormalization(3)])])
    assert net.least_rows((3,)) == (2, "Residual1.BatchNormalization1")
    with pytest.raises(ValueError, match=r"Residual1\.BatchNormalization1"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=1).fit(X, T, 1)


@pytest.mark.parametrize("layers", [
    [{"kind": "Affine", "input_size": 3, "output_size": 3}, {"use_of": 1}],
    [{"kind": "Affine", "input_size": 3, "output_size": 3}, {"use_of": -1}],
    [{"kind": "Affine", "input_size": 3, "output_size": 3}, {"use_of": [0]}],
    [{"kind": "Sequential", "layers": [{"use_of": 0}]}, {"kind": "Affine", "input_size": 3, "output_size": 3}],
    [{"kind": "Sequential", "layers": [{"kind": "Affine", "input_size": 3, "output_size": 3}]}, {"use_of": 0}],
    [{"kind": "Sequential", "layers": "Affine"}, {"kind": "Affine", "input_size": 3, "output_size": 3}],
    [{"kind": "Residual", "layers": [{"kind": "Affine", "input_size": 3, "output_size": 3}], "projection": 3}],
])  # fmt: skip
def test_files_that_lie_are_refused(layers: list[Any], tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(3, 3)])
    tensors = {name: to_numpy(view) for name, view in net.params.items()}
    serialization.write(tmp_path / "net", tensors, {"network": {**net.config(), "layers": layers}})
    with pytest.raises(nn.ModelFileError, match="does not make a network"):
        nn.load(tmp_path / "net")


def test_a_file_of_deep_nesting_is_read_or_refused(tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(3, 3)])
    tensors = {name: to_numpy(view) for name, view in net.params.items()}
    layers = net.config()["layers"]
    for _ in range(60):
        layers = [{"kind": "Parallel", "branches": layers, "join": "add"}]
    serialization.write(tmp_path / "net", tensors, {"network": {**net.config(), "layers": layers}})
    assert np.array_equal(nn.load(tmp_path / "net").predict(X), net.predict(X))
    for _ in range(300):
        layers = [{"kind": "Sequential", "layers": layers}]
    serialization.write(tmp_path / "net", tensors, {"network": {**net.config(), "layers": layers}})
    with pytest.raises(nn.ModelFileError):
        nn.load(tmp_path / "net")


@pytest.mark.parametrize(("make", "found"), [
    (lambda: [nn.Affine(3, 4), nn.ReLU(), nn.Flatten(), nn.Affine(20, 2)], (5, 3)),
    (lambda: [nn.LayerNormalization(3), nn.Sequential([nn.Affine(3, 4), nn.Flatten()]), nn.Affine(20, 2)], (5, 3)),
    (lambda: [nn.Residual([nn.Affine(3, 3)]), nn.Flatten(), nn.ReLU(), nn.Affine(15, 2)], (5, 3)),
    (lambda: [nn.Affine(3, 4), nn.PositionalEncoding(4, 5), nn.Residual([nn.MultiHeadAttention(4, 2)]),
              nn.Residual([nn.LayerNormalization(4), nn.Affine(4, 4)]), nn.Flatten(), nn.Affine(20, 2)], (None, 3)),
    (lambda: [nn.Affine(3, 4), nn.Flatten(), nn.LayerNormalization(20), nn.Affine(20, 2)], (5, 3)),
    (lambda: [nn.Affine(3, 4), nn.Sequential([nn.Flatten(), nn.Affine(20, 2)])], (5, 3)),
    (lambda: [nn.Sequential([nn.Sequential([nn.Affine(3, 4)]), nn.Flatten(), nn.Affine(20, 2)])], (5, 3)),
    (lambda: [nn.Affine(3, 4), nn.Parallel([[nn.Flatten(), nn.Affine(20, 2)], [nn.LastStep(), nn.Affine(4, 2)]])],
     (5, 3)),
])  # fmt: skip
def test_all_steps_may_become_one_row(make: Any, found: tuple[int | None, ...]) -> None:
    """As in a network that looks at an image line by line; the last layer says how many steps there are."""
    net, x = nn.Network(make(), nn.MeanSquaredError(), dtype="float64"), RNG.standard_normal((2, 5, 3))
    assert net.input_shape == found
    gradients, t = net.gradient(x, np.zeros((2, 2))), np.zeros((2, 2))
    for name, value in net.numerical_gradient(x, t).items():
        np.testing.assert_allclose(gradients[name], value, rtol=0, atol=CLOSE)
    with pytest.raises(ValueError, match=r"\(n, 5, 3\)|\(20,\)"):
        net.predict(x[:, :4])


@pytest.mark.parametrize("width", [30, 8, 7, 2])
def test_steps_that_fit_no_layer_are_refused(width: int) -> None:
    """30 is no whole number of steps, and without `Flatten` no number of steps makes one row."""
    layers = [nn.Affine(3, 4), nn.ReLU(), *([nn.Flatten()] if width == 30 else []), nn.Affine(width, 2)]
    with pytest.raises(ValueError, match=rf"takes rows of shape \({width},\), but what comes before gives \(4,\)"):
        nn.Network(layers)


class Half(nn.Layer):
    """Keeps every other step, of 4 at least: what it gives does not fit in any way that the settings tell."""

    keeps_shape = False

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape[0] < 4:
            raise ValueError("too few steps")
        return (shape[0] // 2, *shape[1:])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: [nn.LSTM(4, 5), nn.Affine(6, 3)],
     "Affine1 takes rows of shape (6,), but what comes before gives (None, 5)"),
    (lambda: [nn.Affine(3, 4), nn.GRU(4, 5), nn.ReLU(), nn.Affine(6, 3)], "Affine2 takes rows of shape (6,)"),
    (lambda: [nn.Embedding(9, 4), nn.RNN(5, 5)],
     "RNN1 takes rows of shape (T, 5), T at least 1, but what comes before gives (None, 4)"),
    (lambda: [nn.Embedding(9, 4), nn.PositionalEncoding(4, 32), nn.MultiHeadAttention(4, 2), nn.Affine(5, 3)],
     "Affine1 takes rows of shape (5,), but what comes before gives (None, 4)"),
    (lambda: [nn.LSTM(4, 5), nn.LastStep(), nn.LSTM(5, 5)],
     "LSTM2 takes rows of shape (T, 5), T at least 1, but what comes before gives (5,)"),
    (lambda: [nn.LSTM(4, 5), nn.LayerNormalization(6)],
     "LayerNormalization1 takes rows whose last axis is 6, but what comes before gives (None, 5)"),
    (lambda: [nn.LSTM(4, 5), nn.Residual([nn.LSTM(5, 6)])],
     "Residual1: its layers give (None, 6), but x is (None, 5): pass a projection"),
    (lambda: [nn.Residual([nn.LSTM(5, 5), nn.Affine(6, 5)])], "Residual1.Affine1 takes rows of shape (6,)"),
    (lambda: [nn.Embedding(9, 4), nn.Parallel([nn.LSTM(4, 5), nn.LSTM(4, 6)])],
     "Parallel1: its branches must give equal shapes, got (None, 5), (None, 6)"),
    (lambda: [nn.Embedding(9, 4), nn.Parallel([nn.LSTM(4, 5), nn.LSTM(4, 6)], "concatenate"), nn.Affine(12, 2)],
     "Affine1 takes rows of shape (12,), but what comes before gives (None, 11)"),
    (lambda: [nn.LSTM(4, 5), nn.Convolution(1, 2, 3)], "but what comes before gives (None, 5)"),
    (lambda: [nn.Convolution(1, 8, 3), nn.ReLU(), nn.Convolution(4, 8, 3)],
     "Convolution2 takes images of (h, w, 4), but what comes before gives (None, None, 8)"),
    (lambda: [nn.Convolution(1, 8, 3), nn.MaxPooling(2), nn.BatchNormalization(9)],
     "takes rows whose last axis is 9, but what comes before gives (None, None, 8)"),
    (lambda: [nn.LSTM(4, 5), Half(), nn.Affine(6, 5)], "Affine1 takes rows of shape (6,)"),
])  # fmt: skip
def test_layers_that_fit_at_no_length_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        nn.Network(make())


@pytest.mark.parametrize(("make", "shape"), [
    (lambda: [nn.LSTM(4, 5), nn.Flatten(), nn.Affine(35, 3)], (7, 4)),
    (lambda: [nn.Convolution(1, 8, 3), nn.MaxPooling(2), nn.Flatten(), nn.Affine(13 * 13 * 8, 3)], (28, 28, 1)),
    (lambda: [nn.Convolution(1, 8, 1, stride=2), nn.Flatten(), nn.Affine(2 * 2 * 8, 3)], (3, 4, 1)),
    (lambda: [nn.Embedding(9, 4), nn.PositionalEncoding(4, 1), nn.Flatten(), nn.Affine(4, 3)], (1,)),
    (lambda: [nn.LSTM(4, 5), Half(), Half(), nn.Flatten(), nn.Affine(15, 3)], (13, 4)),
    (lambda: [nn.Parallel([nn.LSTM(4, 5), [nn.LSTM(4, 6), nn.Flatten()]], "concatenate")], None),
])  # fmt: skip
def test_layers_that_fit_at_one_length_make_a_network(make: Any, shape: tuple[int, ...] | None) -> None:
    net = nn.Network(make())
    if shape is not None:
        assert net._root.output_shape(shape) == (3,)
