"""What these layers keep from one pass to the next, and what they do in training and not in inference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((50, 6)).astype("float32"), RNG.integers(0, 3, 50)


def make(dtype: str = "float32", **settings: Any) -> nn.Network:
    layers = [nn.Affine(6, 8), nn.BatchNormalization(8), nn.ReLU(), nn.Dropout(0.3)]
    more = [nn.Affine(8, 8), nn.LayerNormalization(8), nn.Tanh(), nn.Dropout(0.2), nn.Affine(8, 3)]
    return nn.Network([*layers, *more], dtype=dtype, **settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(12, 5), (3, 4, 2, 5)])
def test_batch_normalization_against_pytorch(on: Namespace, dtype: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours = nn.BatchNormalization(5, momentum=0.8).initialize(dtype=dtype)
    theirs = torch.nn.BatchNorm1d(5, momentum=0.2, dtype=getattr(torch, dtype))
    rng = np.random.default_rng(1)

    def columns(a: Any) -> Any:  # PyTorch wants channels second; what it averages over is the same set of rows
        return torch.tensor(a.reshape(-1, 5))

    for _ in range(4):
        x, dy = (2 * rng.standard_normal(shape) + 1).astype(dtype), rng.standard_normal(shape).astype(dtype)
        xt = columns(x).requires_grad_()
        yt = theirs(xt)
        theirs.zero_grad()
        yt.backward(columns(dy))
        assert_close(ours.forward(on.array(x), training=True), yt.detach().numpy().reshape(shape), dtype, terms=60)
        dx = ours.backward(on.array(dy))
        assert_close(dx, xt.grad.numpy().reshape(shape), dtype, terms=100, scale=2.0)
        assert_close(ours.gamma.grad, theirs.weight.grad.numpy(), dtype, terms=60, scale=10.0)
        assert_close(ours.running_mean.data, theirs.running_mean.numpy(), dtype, terms=60, scale=1.0)
        assert_close(ours.running_var.data, theirs.running_var.numpy(), dtype, terms=60)
    theirs.eval()
    assert_close(ours.forward(on.array(x)), theirs(columns(x)).detach().numpy().reshape(shape), dtype, terms=60)


def test_a_batch_of_one_row_is_normalized_as_in_inference(on: Namespace) -> None:
    """It has no variance: that would enter the running one as 0."""
    layer = nn.BatchNormalization(3).initialize(dtype="float64")
    x = np.array([[1.0, 2.0, 3.0]])
    y = layer.forward(on.array(x), training=True)
    assert_close(y, x / np.sqrt(1 + layer.eps), "float64")
    assert_close(layer.backward(on.array(np.ones((1, 3)))), np.ones((1, 3)) / np.sqrt(1 + layer.eps), "float64")
    assert to_numpy(layer.running_mean.data).tolist() == [0.0] * 3
    assert to_numpy(layer.running_var.data).tolist() == [1.0] * 3
    image = nn.BatchNormalization(3).initialize(dtype="float64")
    image.forward(on.array(np.arange(12.0).reshape(1, 2, 2, 3)), training=True)  # four places are a sample
    assert_close(image.running_var.data, np.full(3, 0.9 + 0.1 * np.var([0, 3, 6, 9], ddof=1)), "float64", 4)


def test_the_rest_of_an_epoch_leaves_the_statistics_of_a_feature_alone(on: Namespace) -> None:
    """65 rows in batches of 32: the running variance nears the population's, as with 64 rows."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (65, 2))
    variances = []
    for n in (64, 65):
        net = nn.Network([nn.BatchNormalization(2), nn.Affine(2, 1)], nn.MeanSquaredError(), seed=0, dtype="float64")
        nn.Trainer(net, nn.SGD(1e-6), batch_size=32).fit(x[:n], x[:n, :1], 40)
        variances.append(to_numpy(net.statistics["running_var1"]))
    np.testing.assert_allclose(variances[1], variances[0], rtol=0.1)
    np.testing.assert_allclose(variances[1], x.var(axis=0, ddof=1), rtol=0.1)
    with pytest.raises(ValueError, match="batch_size is 1, but BatchNormalization1 needs at least 2 rows"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=1).fit(x, x[:, :1])


def test_inference_changes_nothing(on: Namespace) -> None:
    net = make()
    net.gradient(X, T)
    before = {name: to_numpy(value).tobytes() for name, value in net.buffer.snapshot().items()}
    assert net.loss(X, T) == net.loss(X, T)
    net.predict(X)
    assert {name: to_numpy(value).tobytes() for name, value in net.buffer.snapshot().items()} == before


def test_statistics_have_names_and_no_gradient(on: Namespace) -> None:
    net = make()
    assert list(net.params) == ["W1", "b1", "gamma1", "beta1", "W2", "b2", "gamma2", "beta2", "W3", "b3"]
    assert list(net.statistics) == ["running_mean1", "running_var1"]
    assert list(net.grads) == list(net.params)
    assert_close(net.statistics["running_var1"], np.ones(8, "float32"), "float32")


def test_dropout_masks_change_with_every_pass_and_are_the_seed_s(on: Namespace) -> None:
    x = on.array(np.ones((20, 30)), "float32")
    net, again = (nn.Network([nn.Dropout(0.5), nn.Dropout(0.5), nn.Affine(30, 2)], seed=4) for _ in range(2))
    t = on.array(np.zeros(20, "int64"))

    def masks(network: nn.Network) -> list[bytes]:
        network.loss_and_output(x, t)
        return [to_numpy(layer._mask).tobytes() for layer in list(network.layers.values())[:2]]

    first, second = masks(net), masks(net)
    assert len({*first, *second}) == 4
    assert masks(again) == first
    assert masks(again) == second
    other = nn.Network([nn.Dropout(0.5), nn.Dropout(0.5), nn.Affine(30, 2)], seed=5)
    assert masks(other) != first


def test_dropout_keeps_the_mean(on: Namespace) -> None:
    layer = nn.Dropout(0.25).initialize(seed=1)
    y = to_numpy(layer.forward(on.array(np.ones((100, 100)), "float32"), training=True))
    assert y.mean() == pytest.approx(1.0, abs=0.03)  # four standard errors
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    x = on.array(np.ones((2, 2)), "float32")
    assert layer.forward(x) is x


def test_training_is_the_same_run_on_every_backend(on: Namespace) -> None:
    with nn.using("numpy"):
        reference = nn.Trainer(make(seed=1), nn.SGD(lr=0.1), batch_size=16, seed=2).fit(X, T, 3).loss
    trainer = nn.Trainer(make(seed=1), nn.SGD(lr=0.1), batch_size=16, seed=2)
    assert trainer.fit(on.array(X), on.array(T), 3).loss == pytest.approx(reference, rel=1e-4)


def test_saved_with_its_statistics_and_seed(on: Namespace, tmp_path: Path) -> None:
    net = make(seed=9)
    nn.Trainer(net, nn.SGD(lr=0.1), batch_size=16).fit(X, T)
    net.save(tmp_path / "net.safetensors")
    again = nn.load(tmp_path / "net.safetensors")
    assert again.loss(X, T) == net.loss(X, T)
    assert again.seed == 9
    assert to_numpy(again.statistics["running_mean1"]).any()
    assert net.to("numpy", "float64").loss(X, T) == pytest.approx(net.loss(X, T), rel=1e-5)


def test_a_fault_takes_the_statistics_back_too() -> None:
    net = nn.Network([nn.BatchNormalization(6), nn.Dropout(0.1), nn.Affine(6, 3)])
    with np.errstate(all="ignore"), pytest.raises(nn.NumericalError, match="epoch 1, step 2"):
        nn.Trainer(net, nn.SGD(lr=1e38), batch_size=10).fit(X * 10, T)
    assert np.isfinite(net.buffer.state).all()
    assert net.buffer.clock.tolist() == [1]


@pytest.mark.parametrize(
    ("make_layer", "message"),
    [
        (lambda: nn.BatchNormalization(0), "BatchNormalization: features must be a positive integer, got 0"),
        (lambda: nn.LayerNormalization(2.0), "LayerNormalization: features must be a positive integer, got 2.0"),
        (lambda: nn.BatchNormalization(3, momentum=1.0), "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: nn.BatchNormalization(3, momentum="0.9"), "BatchNormalization: momentum must be a number, got '0.9'"),
        (lambda: nn.LayerNormalization(3, eps=0), "eps must be positive and finite, got 0"),
        (lambda: nn.LayerNormalization(3, eps=np.inf), "eps must be positive and finite, got inf"),
        (lambda: nn.LayerNormalization(3, eps="1e-5"), "LayerNormalization: eps must be a number, got '1e-5'"),
        (lambda: nn.Dropout("0.5"), "Dropout: dropout_ratio must be a number, got '0.5'"),
        (lambda: nn.LayerNormalization(3, eps=None), "LayerNormalization: eps must be a number, got None"),
        (lambda: nn.Dropout(1.0), "dropout_ratio must be at least 0 and below 1, got 1.0"),
        (lambda: nn.Dropout(-0.1), "dropout_ratio must be"),
        (lambda: nn.ELU(-1), "alpha must be at least 0 and finite, got -1"),
        (lambda: nn.Network([nn.Affine(4, 3), nn.BatchNormalization(4)]), "whose last axis is 4"),
        (
            lambda: nn.BatchNormalization(4).initialize().forward(np.zeros((2, 3), "float32")),
            "must have shape (n, ..., 4), got (2, 3)",
        ),
    ],
)
def test_bad_input(make_layer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_layer()
