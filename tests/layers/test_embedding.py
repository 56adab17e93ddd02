"""Networks whose rows are ids."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy

IDS = np.random.default_rng(0).integers(0, 7, (40, 3))
LABELS = (IDS == 2).any(axis=1).astype(int)  # whether a row holds a 2


def network(**settings: Any) -> nn.Network:
    layers = [nn.Embedding(7, 4, weight=0.5), nn.Flatten(), nn.Affine(12, 8), nn.Tanh(), nn.Affine(8, 2)]
    return nn.Network(layers, seed=3, **settings)


def test_a_network_of_ids_trains(on: Namespace) -> None:
    net = network()
    trainer = nn.Trainer(net, nn.Adam(0.03), batch_size=8, seed=0)
    trainer.fit(IDS, LABELS, epochs=25, validation=(IDS, LABELS))
    assert net.accuracy(IDS, LABELS) == 1.0
    assert trainer.history.loss[-1] < 0.1 < trainer.history.loss[0]


def test_ids_stay_exact_in_every_dtype(on: Namespace) -> None:
    net = nn.Network([nn.Embedding(300, 2)], nn.MeanSquaredError())
    ids = np.arange(300)
    expected = to_numpy(net.params["W1"])
    for given in (ids, ids.astype("int32"), ids.astype("uint16"), ids.tolist(), on.array(ids)):
        assert to_numpy(net.predict(given)).tolist() == expected.tolist()
    assert net.inputs(ids.astype("int16")).dtype == on.backend.dtype("int64")


def test_saved_copied_and_moved(on: Namespace, tmp_path: Path) -> None:
    net = network()
    net.save(tmp_path / "net")
    for other in (nn.load(tmp_path / "net"), net.to("numpy"), net.to(on.backend, "float64")):
        assert_close(other.predict(IDS), to_numpy(net.predict(IDS)), "float32", terms=20)


def test_gradients_by_differences(on: Namespace) -> None:
    net = network(dtype="float64")
    assert nn.check_gradients(net, IDS[:5], LABELS[:5], against="numpy").ok
    numerical, exact = net.numerical_gradient(IDS[:5], LABELS[:5]), net.gradient(IDS[:5], LABELS[:5])
    for name, value in exact.items():
        np.testing.assert_allclose(to_numpy(numerical[name]), to_numpy(value), rtol=0, atol=1e-7)


def test_diagnosis_knows_ids(on: Namespace) -> None:
    net = network()
    assert nn.diagnose(net, IDS, LABELS).loss > 0.1
    nn.Trainer(net, nn.Adam(0.03), batch_size=8).fit(IDS, LABELS, epochs=25)
    assert nn.diagnose(net, IDS, LABELS).findings == ()


def test_a_fault_is_looked_for_down_to_the_ids() -> None:
    with pytest.raises(nn.NumericalError, match="the update that follows"), np.errstate(all="ignore"):
        nn.Trainer(network(), nn.SGD(1e300), batch_size=8).fit(IDS, LABELS)


@pytest.mark.parametrize(("x", "message"), [
    ([[0, 7, 1]], "x: Embedding1 has a vocabulary of 7, so ids must lie in 0 to 6, got 0 to 7"),
    ([[-1, 3, 1]], "x: Embedding1 has a vocabulary of 7, so ids must lie in 0 to 6, got -1 to 3"),
    ([[0.0, 1.0, 2.0]], "x: Embedding1 takes integers, got dtype "),
    ([[True, False, True]], "x: Embedding1 takes integers, got dtype "),
])  # fmt: skip
def test_what_are_no_ids(on: Namespace, x: Any, message: str) -> None:
    net = network()
    trainer = nn.Trainer(net, nn.SGD(), batch_size=1)
    for use in (lambda: net.predict(x), lambda: net.loss(x, [0]), lambda: trainer.fit(x, [0])):
        with pytest.raises(ValueError, match=re.escape(message)):
            use()


def test_bad_settings() -> None:
    for make, message in [
        (lambda: nn.Embedding(0, 3), "Embedding: vocabulary must be a positive integer, got 0"),
        (lambda: nn.Embedding(3, 2.5), "Embedding: features must be a positive integer, got 2.5"),
        (lambda: nn.Embedding(3, 2, weight="hee"), "Did you mean 'he'?"),
        (lambda: nn.Embedding(3, 2).forward(np.zeros(1, int)), "no parameter values yet"),
        (
            lambda: nn.Embedding(3, 2).initialize().forward(np.zeros(1)),
            "x must hold integers, got dtype float64",
        ),
        (lambda: nn.Network([nn.Affine(2, 2), nn.Embedding(3, 2)]), "layers: Embedding1 takes ids, which no layer"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            make()
    with pytest.raises(nn.BackendError, match="Embedding: argument x is a list"):
        nn.Embedding(3, 2).initialize().forward([1])  # type: ignore[arg-type]


def test_ids_within_layers_of_layers(on: Namespace, tmp_path: Path) -> None:
    """The first layer of all decides what a network takes; the state of a layer within another is carried, too."""
    inner = nn.Sequential([nn.Embedding(7, 4), nn.Residual([nn.GRU(4, 4, stateful=10)])])
    net = nn.Network([nn.Sequential([inner]), nn.LastStep(), nn.Affine(4, 2)], seed=1)
    assert net.inputs(IDS.astype("int8")).dtype == on.backend.dtype("int64")
    with pytest.raises(ValueError, match="has a vocabulary of 7, so ids must lie in 0 to 6, got 7 to 7"):
        net.predict([[7, 7, 7]])
    assert net.carried_rows == 10
    trainer = nn.Trainer(net, nn.Adam(0.02), batch_size=10, seed=0)
    trainer.fit(IDS, LABELS, epochs=3)
    assert trainer.history.loss[-1] < trainer.history.loss[0]
    assert to_numpy(net.buffer.state).any()
    assert nn.check_gradients(net, IDS[:10], LABELS[:10]).ok
    net.save(tmp_path / "net")
    assert to_numpy(nn.load(tmp_path / "net").predict(IDS)).tolist() == to_numpy(net.predict(IDS)).tolist()
    net.reset_state()
    assert not to_numpy(net.buffer.state).any()
    with pytest.raises(
        ValueError, match=r"layers: Residual1\.Embedding1 takes ids, which no layer gives: put it first"
    ):
        nn.Network([nn.Residual([nn.Embedding(3, 1)])])


def test_layers_over_steps_say_that_a_row_has_steps() -> None:
    net = nn.Network([nn.Embedding(7, 4), nn.LSTM(4, 3), nn.LastStep(), nn.Affine(3, 2)])
    assert net.input_shape == (None,)
    assert nn.Network([nn.Embedding(7, 4), nn.Affine(4, 3)]).input_shape is None
    ids = np.array([[1, 2, 3], [6, 0, 1]])
    np.testing.assert_array_equal(net.predict(ids[0]), net.predict(ids)[0])
    with pytest.raises(ValueError, match=r"x: expected shape \(n, any\), got \(2, 3, 1\)"):
        net.predict(ids[..., None])
    with pytest.raises(ValueError, match=r"x: expected a batch of rows, got shape \(3,\)"):
        net.loss(ids[0], 1)


@pytest.mark.parametrize("layers", [[nn.Embedding(7, 4), nn.Affine(4, 3)], [nn.ReLU()]], ids=["ids", "numbers"])
def test_a_single_number_is_no_row(layers: list[nn.Layer]) -> None:
    with pytest.raises(ValueError, match=r"x: expected rows, \(n, \.\.\.\), got a single number"):
        nn.Network([copy.deepcopy(layer) for layer in layers]).predict(3)


@pytest.mark.parametrize("middle", ["lstm", "attention"])
def test_onnx_leaves_the_steps_of_ids_open(middle: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    inner = [nn.LSTM(4, 4)] if middle == "lstm" else [nn.PositionalEncoding(4, 9), nn.MultiHeadAttention(4, 2)]
    net = nn.Network([nn.Embedding(7, 4, weight=1.0), *inner, nn.Affine(4, 3)])
    net.to_onnx(tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    assert session.get_inputs()[0].shape == ["n", "steps"]
    for steps in (1, 5, 9):
        ids = np.random.default_rng(steps).integers(0, 7, (2, steps))
        np.testing.assert_allclose(session.run(None, {"x": ids})[0], net.predict_proba(ids), rtol=0, atol=1e-6)
