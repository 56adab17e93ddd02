"""Recurrent layers: states that are carried over, networks that learn, resume, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

import nnbackend as nn
from nnbackend.backends import to_numpy

KINDS = pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])


def sequences(n: int = 60, steps: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids; the label is whether the first id is even, which is to be remembered over the other steps."""
    ids = np.random.default_rng(0).integers(0, 6, (n, steps))
    return ids, ids[:, 0] % 2


def network(kind: Any, stateful: int = 0, **settings: Any) -> nn.Network:
    layers = [nn.Embedding(6, 4, weight=0.5), kind(4, 8, stateful=stateful), nn.LastStep(), nn.Affine(8, 2)]
    return nn.Network(layers, seed=1, **settings)


@KINDS
def test_it_learns_to_remember(on: Namespace, kind: Any) -> None:
    ids, labels = sequences(steps=4)
    net = network(kind)
    nn.Trainer(net, nn.Adam(0.03), batch_size=10, seed=0).fit(ids, labels, epochs=20)
    assert net.accuracy(ids, labels) == 1.0


@KINDS
def test_gradients_by_differences(kind: Any) -> None:
    ids, labels = sequences(4)
    net = network(kind, dtype="float64")
    assert nn.check_gradients(net, ids, labels).ok
    numerical = net.numerical_gradient(ids, labels)
    for name, value in net.gradient(ids, labels).items():
        np.testing.assert_allclose(to_numpy(numerical[name]), to_numpy(value), rtol=0, atol=1e-7)
    assert np.isfinite(nn.diagnose(net, ids, labels).loss)


@KINDS
def test_a_carried_state_continues_the_sequence(on: Namespace, kind: Any) -> None:
    """Two halves, one after the other, are the whole; in inference mode, and after a reset, every row begins anew."""
    layer = kind(3, 4, stateful=2).initialize(seed=2, dtype="float64")
    whole = kind(3, 4).initialize(seed=2, dtype="float64")
    x = on.array(np.random.default_rng(1).standard_normal((2, 6, 3)))
    expected = to_numpy(whole.forward(x, training=True))
    first, second = (to_numpy(layer.forward(x[:, part, :], training=True)) for part in (slice(0, 4), slice(4, 6)))
    assert_close(np.concatenate([first, second], axis=1), expected, "float64", 30)
    for _ in range(2):
        assert_close(layer.forward(x), expected, "float64", 30)
    assert_close(layer.forward(x[:1, ...]), expected[:1], "float64", 30)
    layer.reset_state()
    assert_close(layer.forward(x, training=True), expected, "float64", 30)


@KINDS
def test_no_gradient_crosses_the_border(on: Namespace, kind: Any) -> None:
    """The gradient of the second half is the one that it has if its first state is a constant."""
    layer = kind(3, 4, stateful=2).initialize(seed=2, dtype="float64")
    x = on.array(np.random.default_rng(1).standard_normal((2, 6, 3)))
    layer.forward(x[:, :4, :], training=True)
    state = [p.data for p in layer.parameters().values() if not p.trainable]
    start, Wh = [to_numpy(value).copy() for value in state], to_numpy(layer.Wh.data).copy()

    def function(Wh: Any) -> Any:
        for value, kept in zip(state, start, strict=True):
            value[...] = on.array(kept)
        layer.Wh.data[...] = Wh
        return layer.forward(x[:, 4:, :], training=True)

    def gradients(u: Any) -> list[Any]:
        layer.backward(u)
        return [layer.Wh.grad]

    check_projection(on, function, gradients, [Wh])


def stateful_run(kind: Any, checkpoint: Any = None) -> nn.Trainer:
    return nn.Trainer(network(kind, stateful=10), nn.Adam(0.01), batch_size=10, seed=4, checkpoint=checkpoint)


@KINDS
def test_resume_is_bit_for_bit_with_a_carried_state(kind: Any, tmp_path: Path) -> None:
    ids, labels = sequences()
    whole = stateful_run(kind)
    whole.fit(ids, labels, epochs=4)

    path = tmp_path / "run.safetensors"
    cut = stateful_run(kind, nn.Checkpoint(path, every="1steps"))
    update, steps = cut._update, []

    def interrupted(*arguments: Any) -> None:
        """Interrupt the training in the middle of the second epoch."""
        update(*arguments)
        steps.append(1)
        if len(steps) == 9:
            raise KeyboardInterrupt

    cut._update = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.fit(ids, labels, epochs=4)
    again = stateful_run(kind, path)
    assert again.resume()
    assert any(to_numpy(value).any() for name, value in again.network.statistics.items())
    again.fit(ids, labels, epochs=4)
    for name in ("data", "state"):
        ended, expected = (to_numpy(getattr(run.network.buffer, name)) for run in (again, whole))
        assert ended.tobytes() == expected.tobytes()
    assert again.history.loss == whole.history.loss


def test_rows_keep_their_order_and_an_epoch_begins_anew() -> None:
    """A trainer does what the same steps by hand do."""
    ids, labels = sequences(30)
    trained = stateful_run(nn.LSTM)
    trained.fit(ids, labels, epochs=2)
    net, adam = network(nn.LSTM, stateful=10), nn.Adam(0.01)
    state = adam.init(net.buffer.data)
    for _ in range(2):
        net.reset_state()
        for at in range(0, 30, 10):
            net.loss_and_output(ids[at : at + 10], labels[at : at + 10])
            net.backward()
            adam.step(net.buffer.data, net.buffer.grad, state)
    assert_close(trained.network.buffer.data, to_numpy(net.buffer.data), "float32", 50)


def test_a_carried_state_is_saved_and_copied(tmp_path: Path) -> None:
    ids, labels = sequences()
    trained = stateful_run(nn.LSTM)
    trained.fit(ids, labels)
    net = trained.network
    net.save(tmp_path / "net")
    for other in (nn.load(tmp_path / "net"), net.to("numpy")):
        assert to_numpy(other.statistics["c1"]).tobytes() == to_numpy(net.statistics["c1"]).tobytes()
        assert other.carried_rows == 10
    before = to_numpy(net.buffer.state).tobytes()
    net.gradient(ids[:10], labels[:10])
    net.evaluate(*net.data(ids, labels))
    assert to_numpy(net.buffer.state).tobytes() == before
    net.reset_state()
    assert not to_numpy(net.buffer.state).any()


def test_a_gradient_of_another_shape_than_the_output_is_refused() -> None:
    net = nn.Network([nn.LSTM(3, 2)], nn.MeanSquaredError())
    with pytest.raises(ValueError, match="backward comes after a forward pass"):
        net.backward()
    net.forward(np.zeros((2, 4, 3), "float32"))
    for shape in ((2, 3, 2), (2, 5, 2), (1, 4, 2), (2, 2)):
        with pytest.raises(
            ValueError, match=re.escape(f"dy: expected shape (2, 4, 2), as the last output, got {shape}")
        ):
            net.backward(np.zeros(shape, "float32"))


def test_a_frozen_layer_carries_nothing() -> None:
    """It does what it does in inference mode, so that any batch will do, and the rows are shuffled."""
    ids, labels = sequences(25)
    net, plain = network(nn.LSTM, stateful=10), network(nn.LSTM)
    for one in (net, plain):
        one.freeze("LSTM1")
        nn.Trainer(one, nn.Adam(0.01), batch_size=4, seed=4).fit(ids, labels, 2)
    assert net.carried_rows == 0
    assert to_numpy(net.buffer.data).tobytes() == to_numpy(plain.buffer.data).tobytes()
    net.unfreeze()
    assert net.carried_rows == 10


def test_what_a_trainer_refuses_with_a_carried_state() -> None:
    ids, labels = sequences(25)
    net = network(nn.GRU, stateful=10)
    with pytest.raises(ValueError, match="batch_size is 5, but GRU1 carries the state of 10 rows over"):
        nn.Trainer(net, nn.SGD(), batch_size=5).fit(ids, labels)
    two = nn.Network([nn.GRU(4, 4, stateful=5), nn.Residual([nn.GRU(4, 4, stateful=10)])])
    with pytest.raises(ValueError, match=r"batch_size is 5, but Residual1\.GRU1 carries the state of 10 rows over"):
        nn.Trainer(two, nn.SGD(), batch_size=5).fit(np.zeros((25, 3, 4)), np.zeros((25, 3), int))
    with pytest.raises(ValueError, match="the data has 25 rows, .* set drop_last=True"):
        nn.Trainer(net, nn.SGD(), batch_size=10).fit(ids, labels)
    nn.Trainer(net, nn.SGD(), batch_size=10, drop_last=True).fit(ids, labels)
    with pytest.raises(ValueError, match="GRU1: it carries the state of 10 rows over, but the batch has 4 rows"):
        net.gradient(ids[:4], labels[:4])


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.LSTM(0, 3), "LSTM: input_size must be a positive integer, got 0"),
    (lambda: nn.GRU(3, 2.5), "GRU: hidden_size must be a positive integer, got 2.5"),
    (lambda: nn.RNN(3, 2, stateful=-1), "RNN: stateful: expected an integer of at least 0, got -1"),
    (lambda: nn.RNN(3, 2, stateful=True), "RNN: stateful: expected an integer of at least 0, got True"),
    (lambda: nn.LSTM(3, 2, weight="hee"), "Did you mean 'he'?"),
    (lambda: nn.LSTM(3, 2).forward(zeros(1, 2, 3)), "no parameter values yet"),
    (lambda: nn.LSTM(3, 2).initialize().forward(zeros(2, 3)), "argument x must have shape (n, T, 3), got (2, 3)"),
    (lambda: nn.LSTM(3, 2).initialize().forward(zeros(2, 4, 4)), "(n, T, 3), got (2, 4, 4)"),
    (lambda: nn.LSTM(3, 2).initialize().forward(zeros(2, 0, 3)), "at least one step, got shape (2, 0, 3)"),
    (lambda: nn.LSTM(3, 2).output_shape((3,)), "LSTM takes rows of shape (T, 3), T at least 1, but what comes"),
    (lambda: nn.Network([nn.LSTM(3, 2), nn.LSTM(3, 2)]).output_shape((5, 3)), "LSTM2 takes rows of shape (T, 3)"),
    (lambda: nn.LastStep().forward(zeros(3)), "LastStep: argument x must have shape (n, T, ...)"),
    (lambda: nn.LastStep().forward(zeros(3, 0, 2)), "T at least 1, got (3, 0, 2)"),
    (lambda: nn.LastStep().output_shape(()), "LastStep takes rows of shape (T, ...)"),
])  # fmt: skip
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_affine_layers_stand_anywhere_among_sequences() -> None:
    """An affine layer says the last axis of its rows alone; what a network takes, its other layers say."""
    net = nn.Network([nn.Affine(3, 4), nn.LSTM(4, 5), nn.Tanh(), nn.Affine(5, 6), nn.GRU(6, 2)], nn.MeanSquaredError())
    assert net.input_shape == (None, 3)
    x = np.random.default_rng(0).standard_normal((2, 7, 3))
    assert to_numpy(net.predict(x)).shape == (2, 7, 2)
    assert to_numpy(net.predict(x[0])).shape == (7, 2)
    blocks = [nn.Residual([nn.Affine(4, 4)]), nn.Residual([nn.MultiHeadAttention(4, 2)])]
    assert nn.Network([nn.Embedding(9, 4), *blocks, nn.Affine(4, 3)]).output_shape((5,)) == (5, 3)
    with pytest.raises(ValueError, match=r"LSTM1 takes rows of shape \(T, 5\), .* what comes before gives \(4,\)"):
        nn.Network([nn.Affine(3, 4), nn.LSTM(5, 5)])
    with pytest.raises(ValueError, match=r"Affine2 takes rows of shape \(5,\), but what comes before gives \(4,\)"):
        nn.Network([nn.Affine(3, 4), nn.Affine(5, 5)])


@KINDS
def test_every_backend_carries_the_same_states(on: Namespace, kind: Any) -> None:
    ids, labels = sequences(30, 4)
    runs = []
    for backend in (on.backend, "numpy"):
        net = network(kind, stateful=10, backend=backend)
        trainer = nn.Trainer(net, nn.Adam(0.01), batch_size=10, seed=4)
        trainer.fit(ids, labels, epochs=3)
        runs.append((trainer.history.loss, to_numpy(net.buffer.state)))
    np.testing.assert_allclose(runs[0][0], runs[1][0], rtol=1e-4)
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=0, atol=1e-3)
    assert np.abs(runs[1][1]).max() > 0.01
