"""Rows with a time axis, (n, T, d): every position is a row, and positions with the ignored label do not exist."""

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

N, TIME, WIDTH, CLASSES = 9, 5, 4, 3
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((N, TIME, WIDTH)), RNG.integers(-1, CLASSES, (N, TIME))
COUNTED = T != -1
WEIGHT = RNG.random(N)
LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights": {"class_weight": [1.0, 2.0, 0.5]},
    "smoothing": {"class_weight": [1.0, 2.0, 0.5], "label_smoothing": 0.1},
}


def network(dtype: str = "float64", **settings: Any) -> nn.Network:
    layers = [nn.Affine(WIDTH, 6), nn.LayerNormalization(6), nn.GELU(), nn.Residual([nn.Affine(6, 6), nn.Tanh()])]
    return nn.Network([*layers, nn.Affine(6, CLASSES)], nn.SoftmaxWithLoss(**settings), dtype=dtype, seed=1)


def trained(net: nn.Network, x: Any, t: Any, weight: Any = None, **settings: Any) -> nn.Trainer:
    trainer = nn.Trainer(net, nn.SGD(0.1), **{"batch_size": len(x), "seed": 0, **settings})
    trainer.fit(x, t, 2, sample_weight=weight)
    return trainer


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", LOSSES)
def test_a_position_counts_as_a_row(on: Namespace, kind: str, weighted: bool) -> None:
    """The same positions, as rows of a network without a time axis, give the same loss, gradient and training."""
    weight = WEIGHT if weighted else None
    of_rows = None if weight is None else np.repeat(weight, TIME)[COUNTED.reshape(-1)]
    rows, labels = X[COUNTED], T[COUNTED]
    net, flat = network(**LOSSES[kind], ignore_label=-1), network(**LOSSES[kind])
    assert_close(net.predict(X), np.reshape(to_numpy(flat.predict(X.reshape(-1, WIDTH))), (N, TIME, -1)), "float64", 40)
    assert net.loss(X, T, weight) == pytest.approx(flat.loss(rows, labels, of_rows), rel=1e-12)
    assert net.accuracy(X, T, weight) == pytest.approx(flat.accuracy(rows, labels, of_rows), rel=1e-12)
    expected = flat.gradient(rows, labels, of_rows)
    for name, gradient in net.gradient(X, T, weight).items():
        assert_close(gradient, expected[name], "float64", terms=2 * N * TIME, scale=1.0)
    one, other = trained(net, X, T, weight), trained(flat, rows, labels, of_rows)
    assert one.history.loss == pytest.approx(other.history.loss, rel=1e-12)
    assert one.history.accuracy == pytest.approx(other.history.accuracy, rel=1e-12)
    assert_close(net.buffer.data, flat.buffer.data, "float64", terms=400)


def test_every_position_counts_if_no_label_is_left_out(on: Namespace) -> None:
    net, t = network(), np.abs(T)
    probabilities = np.eye(CLASSES)[t]
    assert net.loss(X, t) == pytest.approx(net.loss(X.reshape(-1, WIDTH), t.reshape(-1)), rel=1e-12)
    assert net.loss(X, probabilities) == pytest.approx(net.loss(X, t), rel=1e-12)
    right = to_numpy(net.predict(X)).argmax(axis=-1) == t
    assert net.accuracy(X, t) == net.accuracy(X, probabilities) == pytest.approx(np.mean(right))
    assert net.accuracy(X, t, WEIGHT) == pytest.approx(np.sum(WEIGHT[:, None] * right) / (TIME * WEIGHT.sum()))
    assert_close(np.sum(to_numpy(net.predict_proba(X)), axis=-1), np.ones((N, TIME)), "float64")
    trainer = trained(net, X, t, batch_size=4)
    assert all(0 <= value <= 1 for value in trainer.history.accuracy)
    assert tuple(net.predict(X[0]).shape) == (TIME, CLASSES)
    assert tuple(net.predict(X[:, :1]).shape) == (N, 1, CLASSES)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("ignored", [None, -1, 1])
def test_loss_and_gradient_are_pytorch_s(on: Namespace, kind: str, ignored: int | None) -> None:
    torch = pytest.importorskip("torch")
    settings = dict(LOSSES[kind])
    t = np.abs(T) if ignored is None else np.where(COUNTED, T, ignored)
    loss = nn.SoftmaxWithLoss(**settings, ignore_label=ignored)
    y = np.random.default_rng(1).standard_normal((N, TIME, CLASSES))
    target = loss.target(t, N, (TIME, CLASSES), on.backend, "float64")
    found = loss.forward(on.array(y), target)
    theirs = torch.tensor(y, requires_grad=True)
    if settings.get("class_weight"):
        settings["weight"] = torch.tensor(settings.pop("class_weight"), dtype=torch.float64)
    ignore = {} if ignored is None else {"ignore_index": ignored}
    value = torch.nn.functional.cross_entropy(theirs.movedim(-1, 1), torch.tensor(t), **settings, **ignore)
    value.backward()
    assert_close(found, np.asarray(value.item()), "float64", terms=N * TIME)
    assert_close(loss.backward(), theirs.grad.numpy(), "float64", terms=CLASSES)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_batches_of_a_step_add_up_whatever_they_leave_out(on: Namespace, weighted: bool) -> None:
    weight = WEIGHT if weighted else None
    whole = trained(network(ignore_label=-1), X, T, weight)
    for batch_size in (1, 3):
        parts = trained(network(ignore_label=-1), X, T, weight, batch_size=batch_size, accumulate=N // batch_size)
        assert parts.history.loss == pytest.approx(whole.history.loss, rel=1e-12)
        assert parts.history.accuracy == pytest.approx(whole.history.accuracy, rel=1e-12)
        assert_close(parts.network.buffer.data, whole.network.buffer.data, "float64", terms=400)
    apart = nn.Trainer(network(ignore_label=-1), nn.SGD(1e-15), batch_size=2)
    apart.fit(X, T, 1, sample_weight=weight)
    assert apart.history.loss == pytest.approx([apart.network.loss(X, T, weight)], rel=1e-9)
    assert apart.history.accuracy == pytest.approx([apart.network.accuracy(X, T, weight)], rel=1e-12)


def test_what_is_left_out_has_no_gradient(on: Namespace) -> None:
    net = network(ignore_label=-1)
    x, t = net.data(X, T)
    net.loss_and_output(x, t)
    dy = to_numpy(net.loss_layer.backward())
    assert not dy[~COUNTED].any()
    assert dy[COUNTED].all()
    other = np.where(COUNTED[..., None], X, 100.0 * X)
    assert net.loss(other, T) == net.loss(X, T)
    nothing = np.full((N, TIME), -1)
    assert net.loss(X, nothing) == 0.0
    assert net.accuracy(X, nothing) == 0.0
    assert not any(to_numpy(g).any() for g in net.gradient(X, nothing).values())
    with pytest.raises(ValueError, match="every row of the training data has a weight of 0"):
        trained(net, X, nothing)


def test_labels_of_rows_may_be_left_out(on: Namespace) -> None:
    """Without a time axis, too."""
    x, t = X[:, 0], np.arange(N) % (CLASSES + 1) - 1
    net, kept = network(ignore_label=-1), t != -1
    assert net.loss(x, t) == pytest.approx(network().loss(x[kept], t[kept]), rel=1e-12)
    assert net.accuracy(x, t) == pytest.approx(network().accuracy(x[kept], t[kept]))
    found = nn.evaluate(net, x, t)
    assert found.accuracy == pytest.approx(net.accuracy(x, t))
    assert found.places is not None
    assert found.places[:, 0].tolist() == np.flatnonzero(kept).tolist()
    assert_numerical(net, x, t)


def assert_numerical(net: nn.Network, x: Any, t: Any) -> None:
    expected = net.gradient(x, t)
    for name, gradient in net.numerical_gradient(x, t).items():
        np.testing.assert_allclose(to_numpy(gradient), to_numpy(expected[name]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("ignored", [None, -1])
def test_evaluation_gradients_and_diagnosis(on: Namespace, ignored: int | None) -> None:
    t = np.abs(T) if ignored is None else T
    counted = np.ones_like(COUNTED) if ignored is None else COUNTED
    net = network(ignore_label=ignored, class_weight=[1.0, 2.0, 0.5])
    found = nn.evaluate(net, X, t)
    predicted = to_numpy(net.predict(X)).argmax(axis=-1)
    assert found.loss == pytest.approx(net.loss(X, t), rel=1e-12)
    assert found.accuracy == pytest.approx(np.mean(predicted[counted] == t[counted]))
    assert found.predicted is not None
    assert found.places is not None
    assert found.predicted.tolist() == predicted[counted].tolist()
    assert found.places.tolist() == np.argwhere(counted).tolist()
    expected = np.zeros((CLASSES, CLASSES), int)
    np.add.at(expected, (t[counted], predicted[counted]), 1)
    assert found.confusion is not None
    assert found.confusion.tolist() == expected.tolist()
    row, position = found.places[found.most_wrong[0]]
    assert "positions\n" in str(found)
    assert ">positions</th>" in found._repr_html_()
    assert predicted[row, position] != t[row, position]
    assert f"({np.sum(predicted[counted] == t[counted])} of {counted.sum()} positions)" in str(found)
    assert_numerical(net, X, t)
    report = nn.check_gradients(net, X, t)
    assert report.ok, str(report)
    assert nn.diagnose(net, X, t).loss == pytest.approx(net.loss(X, t))


def test_the_same_answer_for_every_position_is_found() -> None:
    net = nn.Network([nn.Affine(WIDTH, CLASSES, weight=1e-4)], nn.SoftmaxWithLoss(ignore_label=-1))
    assert "answers nearly the same for every input" in str(nn.diagnose(net, X, T))


def test_several_processes_count_alike(on: Namespace) -> None:
    from nnbackend.training.communication import Communicator

    class Two(Communicator):
        size, rank = 2, 0

        def gather(self, value: Any) -> Any:
            return np.stack([to_numpy(value)] * 2)

        def add(self, sums: Any, out: Any, flags: Any) -> Any:
            return sums.total(out), tuple(flags)

        def any(self, *flags: bool) -> tuple[bool, ...]:
            return flags

    t = np.tile(T[:4], (2, 1))
    trainer = nn.Trainer(
        network("float32", ignore_label=-1), nn.SGD(1e-9), batch_size=4, accumulate=2, communicator=Two()
    )
    trainer.fit(np.tile(X[:4], (2, 1, 1)), t, 1)
    assert 0 < trainer.history.accuracy[0] < 1
    assert tuple(trainer.state.metrics.shape) == (3, 1)


def test_the_setting_is_kept_and_older_files_are_read(tmp_path: Path) -> None:
    net = network("float32", ignore_label=-1)
    net.save(tmp_path / "net")
    again = nn.load(tmp_path / "net")
    assert again.loss_layer.config() == {"class_weight": None, "label_smoothing": 0.0, "ignore_label": -1}
    assert copy.deepcopy(net).loss(X, T) == again.loss(X, T) == net.loss(X, T)
    assert nn.SoftmaxWithLoss().config() == {"class_weight": None, "label_smoothing": 0.0}


@pytest.mark.parametrize(("use", "message"), [
    (lambda: nn.SoftmaxWithLoss(ignore_label=1.5), "ignore_label must be an integer or None, got 1.5"),
    (lambda: nn.SoftmaxWithLoss(ignore_label=True), "ignore_label must be an integer or None, got True"),
    (lambda: network().loss(X, T), "labels must lie in 0 to 2, got -1 to 2"),
    (lambda: network(ignore_label=-1).loss(X, T - 1), "labels must lie in 0 to 2, got -2 to 1"),
    (lambda: network(ignore_label=-1).loss(X, np.eye(3)[T]), "with an ignore_label takes integer labels"),
    (lambda: network().loss(X, np.abs(T[:, 0])), "expected (9, 5) integer labels or (9, 5, 3) one-hot rows"),
    (lambda: network().loss(X, np.abs(T[:, :4])), "expected (9, 5) integer labels or (9, 5, 3) one-hot rows"),
    (lambda: network().loss(X, np.abs(T[:8])), "x has 9 rows, but t has 8"),
    (lambda: network().loss(X[:, :0], T[:, :0]), "x: expected rows of at least one value, got shape (9, 0, 4)"),
    (lambda: nn.SoftmaxWithLoss().target(T[:, :0], 9, (0, 3), nn.backend(), "float32"),
     "t is empty: expected at least one label, got shape (9, 0)"),
    (lambda: network().predict(X[..., :3]), "x: expected shape (n, 4), got (9, 5, 3)"),
    (lambda: nn.Affine(4, 2).initialize().forward(X[..., :3].astype("float32")), "(n, ..., 4), got (9, 5, 3)"),
    (lambda: nn.Network([nn.Convolution(1, 4, 2), nn.Affine(4, 3)]).loss(np.zeros((2, 3, 3, 1)), [0, 1]),
     "expected (2, 2, 2) integer labels"),
])  # fmt: skip
def test_bad_input(use: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        use()


@pytest.mark.parametrize("loss", [nn.SoftmaxWithLoss, nn.MeanSquaredError])
def test_rows_without_a_step_are_refused(loss: Any) -> None:
    net, ids = nn.Network([nn.Affine(4, 2)], loss()), nn.Network([nn.Embedding(7, 4)], loss())
    x, t = np.zeros((3, 0, 4)), np.zeros((3, 0, 2))
    for use in (
        lambda: net.predict(x),
        lambda: net.loss(x, t),
        lambda: net.gradient(x, t),
        lambda: nn.Trainer(net, nn.SGD(0.1), batch_size=3).fit(x, t),
    ):
        with pytest.raises(ValueError, match=r"x: expected rows of at least one value, got shape \(3, 0, 4\)"):
            use()
    with pytest.raises(ValueError, match=r"x: expected rows of at least one value, got shape \(3, 0\)"):
        ids.predict(np.zeros((3, 0), int))
    assert tuple(net.predict(np.zeros((0, 5, 4))).shape) == (0, 5, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_onnx_pytorch_and_c(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    net = network(dtype, ignore_label=-1)
    exported = net.to_onnx(tmp_path / "net.onnx", input_shape=(TIME, WIDTH))
    assert exported.difference is not None
    norm = nn.Network(
        [nn.Affine(WIDTH, 6), nn.BatchNormalization(6), nn.Softmax(), nn.BatchNormalization(6)], dtype=dtype
    )
    norm.to_onnx(tmp_path / "norm.onnx", input_shape=(TIME, WIDTH))
    x = X.astype(dtype)
    with torch.no_grad():
        found = net.to_torch(input_shape=(TIME, WIDTH))(torch.tensor(x)).numpy()
    assert_close(found, net.predict(x), dtype, terms=100)
    with pytest.raises(TypeError, match=r"BatchNormalization1: PyTorch's module has the features .* in another axis"):
        norm.to_torch(input_shape=(TIME, WIDTH))
    with pytest.raises(TypeError, match="cannot be written to C"):
        nn.Network([nn.Affine(WIDTH, 6)]).to_c(tmp_path / "net.h", input_shape=(TIME, WIDTH))
    with pytest.raises(ValueError, match="input_shape: the network takes rows of shape"):
        net.to_onnx(tmp_path / "net.onnx", input_shape=(TIME, WIDTH + 1))
