"""The kinds of programs in the book's chapters, against numbers that neither the book's code nor ours computed."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import name_of, to_numpy
from nnbackend.book import MultiLayerNet, MultiLayerNetExtend, Trainer, TwoLayerNet, load_mnist
from nnbackend.book import functions as bf
from nnbackend.book import layers as bl
from nnbackend.book import optimizer as bo
from nnbackend.book.deep_convnet import DeepConvNet
from nnbackend.book.gradient import numerical_gradient, numerical_gradient_2d
from nnbackend.book.simple_convnet import SimpleConvNet
from nnbackend.book.util import im2col, shuffle_dataset, smooth_curve

RNG = np.random.default_rng(1)
NEAR = {"rtol": 1e-9, "atol": 1e-12}  # float64, after some hundreds of operations in another order


def writable(on: Namespace, host: Any) -> Any:
    return on.backend.asarray(np.array(host, dtype="float64"))


# --- what a star import gives ------------------------------------------------------------------------------------

FUNCTIONS = {"cross_entropy_error", "identity_function", "np", "relu", "relu_grad", "sigmoid", "sigmoid_grad"}
FUNCTIONS |= {"softmax", "softmax_loss", "step_function", "sum_squared_error"}
LAYERS = FUNCTIONS | {"Affine", "BatchNormalization", "Convolution", "Dropout", "Pooling", "Relu", "Sigmoid"}
LAYERS |= {"SoftmaxWithLoss", "col2im", "im2col"}
OPTIMIZERS = {"AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop", "SGD", "np"}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("functions", FUNCTIONS),
        ("gradient", {"np", "numerical_gradient", "numerical_gradient_2d"}),
        ("layers", LAYERS),
        ("multi_layer_net", LAYERS | {"MultiLayerNet", "OrderedDict", "numerical_gradient", "os", "sys"}),
        ("multi_layer_net_extend", LAYERS | {"MultiLayerNetExtend", "OrderedDict", "numerical_gradient", "os", "sys"}),
        ("optimizer", OPTIMIZERS),
        ("trainer", OPTIMIZERS | {"Trainer", "os", "sys"}),
        ("util", {"col2im", "conv_output_size", "im2col", "np", "shuffle_dataset", "smooth_curve"}),
    ],
)
def test_a_star_import_gives_what_the_book_s_gives(module: str, names: set[str]) -> None:
    space: dict[str, Any] = {}
    exec(f"from nnbackend.book.{module} import *", space)
    assert names <= set(space)
    assert space.get("np", np) is np


# --- chapter 3: functions ----------------------------------------------------------------------------------------


def test_functions_take_numbers_lists_and_integers() -> None:
    assert bf.sigmoid(1.0) == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-15)
    assert bf.sigmoid(0) == 0.5
    assert bf.sigmoid_grad(0) == 0.25
    assert bf.step_function(3.0) == 1
    assert bf.step_function(-1) == 0
    assert bf.relu_grad(-2.0) == 0
    relu = bf.relu(np.array([-3, 0, 4]))
    assert (relu.tolist(), relu.dtype.kind) == ([0, 0, 4], "i")
    assert bf.relu([-3.5, 2]).tolist() == [0.0, 2.0]
    total = math.exp(0.3) + math.exp(2.9) + math.exp(4.0)
    expected = [math.exp(v) / total for v in (0.3, 2.9, 4.0)]
    assert bf.softmax([0.3, 2.9, 4.0]).tolist() == pytest.approx(expected, rel=1e-14)
    assert bf.softmax(np.array([0, 0], dtype="uint8")).tolist() == [0.5, 0.5]
    assert bf.softmax([1010, 1000, 990])[0] == pytest.approx(1 / (1 + math.exp(-10) + math.exp(-20)), rel=1e-14)
    assert bf.sum_squared_error([1, 2, 3], [1, 0, 0]) == 6.5
    assert bf.cross_entropy_error([0.25, 0.75], 1) == pytest.approx(-math.log(0.75 + 1e-7), rel=1e-14)
    assert bf.cross_entropy_error([0.25, 0.75], [0, 1]) == pytest.approx(-math.log(0.75 + 1e-7), rel=1e-14)
    assert isinstance(bf.sigmoid(1.0), float)


def test_functions_of_integers_on_every_backend(on: Namespace) -> None:
    whole = on.backend.asarray(np.array([-1, 0, 2]))
    assert_close(bf.sigmoid(whole), 1 / (1 + np.exp(-np.array([-1.0, 0.0, 2.0]))), "float64")
    assert_close(bf.softmax(whole), np.exp([-1, 0, 2]) / np.exp([-1, 0, 2]).sum(), "float64")
    assert to_numpy(bf.relu(whole)).tolist() == [0, 0, 2]
    assert to_numpy(bf.relu_grad(whole)).tolist() == [0, 1, 1]


def test_a_network_of_chapter_3_row_by_row_and_in_batches(on: Namespace) -> None:
    weights = [RNG.standard_normal(shape) for shape in ((4, 5), (5, 3))]
    x = RNG.standard_normal((6, 4))

    def predict(x: Any, W1: Any, W2: Any) -> Any:
        return bf.softmax(bf.sigmoid(x @ W1) @ W2)

    there = [on.array(W) for W in weights]
    scores = 1 / (1 + np.exp(-(x @ weights[0]))) @ weights[1]
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert_close(predict(on.array(x), *there), expected, "float64", terms=20)
    for i in range(len(x)):
        assert_close(predict(on.array(x[i]), *there), expected[i], "float64", terms=20)


# --- chapter 4: numerical gradients --------------------------------------------------------------------------------


def test_gradient_descent_of_a_quadratic_is_a_power() -> None:
    x = np.array([-3.0, 4.0])
    for _ in range(20):
        x -= 0.1 * numerical_gradient(lambda x: x[0] ** 2 + x[1] ** 2, x)
    assert x == pytest.approx(np.array([-3.0, 4.0]) * 0.8**20, rel=1e-7)


def test_numerical_gradient_2d_takes_rows_as_points(on: Namespace) -> None:
    X = RNG.standard_normal((5, 2))
    gradient = numerical_gradient_2d(lambda x: on.xp.sum(x * x), writable(on, X))
    assert to_numpy(gradient) == pytest.approx(2 * X, abs=1e-8)
    assert to_numpy(numerical_gradient_2d(lambda x: on.xp.sum(x * x), writable(on, X[0]))) == pytest.approx(
        2 * X[0], abs=1e-8
    )


def test_the_gradient_of_a_single_layer_is_an_outer_product(on: Namespace) -> None:
    W, x, t = RNG.standard_normal((2, 3)), np.array([0.6, 0.9]), np.array([0, 0, 1])
    there, x_there = writable(on, W), on.array(x)
    dW = numerical_gradient(lambda _: bf.cross_entropy_error(bf.softmax(x_there @ there), t), there)
    y = np.exp(x @ W) / np.exp(x @ W).sum()
    # d/dy_2 log(y_2 + 1e-7) is 1e-7 / y_2 smaller than that of log(y_2): the book's constant
    assert to_numpy(dW) == pytest.approx(np.outer(x, y - t) * (y[2] / (y[2] + 1e-7)), abs=1e-8)


def test_two_layer_net_is_chapter_4_s(on: Namespace) -> None:
    np.random.seed(3)
    network = TwoLayerNet(6, 5, 3, weight_init_std=0.5)
    np.random.seed(3)
    W1, W2 = 0.5 * np.random.randn(6, 5), 0.5 * np.random.randn(5, 3)
    x, labels = RNG.random((8, 6)), np.arange(8) % 3
    t = np.eye(3)[labels]
    z = 1 / (1 + np.exp(-x @ W1))
    y = np.exp(z @ W2) / np.exp(z @ W2).sum(axis=1, keepdims=True)
    dz = (y - t) / 8 @ W2.T * z * (1 - z)
    expected = {"W1": x.T @ dz, "b1": dz.sum(axis=0), "W2": z.T @ (y - t) / 8, "b2": (y - t).sum(axis=0) / 8}
    for targets in (t, labels, labels[:, None], on.array(t), on.array(labels)):
        gradients = network.gradient(x, targets)
        assert list(gradients) == list(expected)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(to_numpy(gradient), expected[name], **NEAR)
        assert network.loss(x, targets) == pytest.approx(-np.log(y[np.arange(8), labels] + 1e-7).mean(), rel=1e-12)
        assert network.accuracy(x, targets) == (y.argmax(axis=1) == labels).mean()
    np.testing.assert_allclose(to_numpy(network.predict(x)), y, **NEAR)
    assert network.lastLayer is network.last_layer
    for name, numeric in network.numerical_gradient(x, t).items():
        assert to_numpy(numeric) == pytest.approx(expected[name], abs=1e-6)


# --- chapter 5: layers -------------------------------------------------------------------------------------------


class OwnNet:
    """A network as a reader of chapter 5 writes it: NumPy's weights, the room's layers."""

    def __init__(self, *sizes: int) -> None:
        self.params: dict[str, Any] = {}
        self.layers: Any = OrderedDict()
        for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            self.params[f"W{i}"] = 0.3 * np.random.randn(inputs, outputs)
            self.params[f"b{i}"] = np.zeros(outputs)
            self.layers[f"Affine{i}"] = bl.Affine(self.params[f"W{i}"], self.params[f"b{i}"])
            self.layers[f"Relu{i}"] = bl.Relu()
        self.layers.popitem()
        self.lastLayer = bl.SoftmaxWithLoss()

    def predict(self, x: Any) -> Any:
        for layer in self.layers.values():
            x = layer.forward(x)
        return x

    def loss(self, x: Any, t: Any) -> Any:
        return self.lastLayer.forward(self.predict(x), t)

    def gradient(self, x: Any, t: Any) -> dict[str, Any]:
        self.loss(x, t)
        dout = self.lastLayer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        count = len(self.params) // 2
        return {f"{p}{i}": getattr(self.layers[f"Affine{i}"], f"d{p}") for i in range(1, count + 1) for p in "Wb"}


def relu_net_gradients(params: dict[str, Any], x: Any, t: Any) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of Affine, ReLU, ..., Affine, softmax with cross entropy, written out in NumPy."""
    count = len(params) // 2
    inputs = [x]
    for i in range(1, count + 1):
        a = inputs[-1] @ params[f"W{i}"] + params[f"b{i}"]
        inputs.append(np.where(a > 0, a, 0) if i < count else a)
    shifted = inputs.pop() - 0.0
    y = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    n = len(x)
    loss = -np.log(y[np.arange(n), t] + 1e-7).mean()
    d, gradients = (y - np.eye(y.shape[1])[t]) / n, {}
    for i in range(count, 0, -1):
        gradients[f"W{i}"], gradients[f"b{i}"] = inputs[i - 1].T @ d, d.sum(axis=0)
        d = d @ params[f"W{i}"].T * (inputs[i - 1] > 0)
    return float(loss), gradients


@pytest.mark.parametrize("at", ["everywhere", "only the data"])
def test_a_network_of_layers_learns_wherever_its_data_live(on: Namespace, at: str) -> None:
    """NumPy's weights meet data of a backend: the steps are plain NumPy's, and the weights stay where they are."""
    np.random.seed(0)
    network = OwnNet(6, 7, 5, 3)
    expected = {name: value.copy() for name, value in network.params.items()}
    optimizer = bo.SGD(lr=0.5)
    x, t = RNG.random((20, 6)).astype("float32"), np.arange(20) % 3
    for step in range(12):
        rows = slice(step % 4, 20, 2)
        loss, gradients = relu_net_gradients(expected, x[rows].astype("float64"), t[rows])
        data = on.array(x[rows]), (on.array(t[rows]) if at == "everywhere" else t[rows])
        assert float(network.loss(*data)) == pytest.approx(loss, rel=1e-10)
        got = network.gradient(*data)
        for name in expected:
            assert type(got[name]) is np.ndarray
            np.testing.assert_allclose(got[name], gradients[name], **NEAR)
            expected[name] = expected[name] - 0.5 * gradients[name]
        if step % 2:
            optimizer.update(network.params, got)
        else:
            for name in expected:
                network.params[name] -= 0.5 * got[name]
    for name, value in expected.items():
        np.testing.assert_allclose(network.params[name], value, **NEAR)


def test_layers_of_numbers_and_integers(on: Namespace) -> None:
    whole, W = np.array([[1, -2], [3, 4]]), np.array([[1, 2, 3], [4, 5, 6]])
    layer = bl.Affine(W, 0)
    assert_close(layer.forward(on.array(whole)), whole @ W.astype("float64"), "float64")
    assert_close(layer.backward(on.array(np.ones((2, 3)))), [[6.0, 15.0], [6.0, 15.0]], "float64")
    assert layer.db.tolist() == [2, 2, 2]
    assert layer.dW.tolist() == [[4, 4, 4], [2, 2, 2]]
    relu = bl.Relu()
    assert to_numpy(relu.forward(on.array(whole))).tolist() == [[1, 0], [3, 4]]
    assert to_numpy(relu.mask).tolist() == [[False, True], [False, False]]
    assert to_numpy(relu.backward([[5, 6], [7, 8]])).tolist() == [[5, 0], [7, 8]]
    norm = bl.BatchNormalization(1, 0)
    assert_close(
        norm.forward(on.array(whole)), [[-1, -1], [1, 1]] / np.sqrt(1 + 1e-6 / np.array([1, 9])), "float64", terms=4
    )
    one = bl.Affine(np.eye(2), [1, 1])
    assert to_numpy(one.forward(on.array([2.0, 3.0]))).tolist() == [3.0, 4.0]
    assert to_numpy(one.backward(on.array([1.0, 0.0]))).tolist() == [1.0, 0.0]
    assert one.dW.tolist() == [[2.0, 0.0], [3.0, 0.0]]


@pytest.mark.parametrize("shape", ["labels", "column", "one-hot", "bytes"])
def test_the_gradient_of_the_loss_for_every_kind_of_target(on: Namespace, shape: str) -> None:
    x, labels = RNG.standard_normal((5, 4)), np.array([1, 2, 0, 3, 3])
    t = {"labels": labels, "column": labels[:, None], "one-hot": np.eye(4)[labels], "bytes": labels.astype("uint8")}[
        shape
    ]
    end = bl.SoftmaxWithLoss()
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert float(end.forward(on.array(x), t)) == pytest.approx(
        -np.log(y[np.arange(5), labels] + 1e-7).mean(), rel=1e-12
    )
    assert_close(end.backward(), (y - np.eye(4)[labels]) / 5, "float64", terms=4)
    assert_close(end.backward(2.0), (y - np.eye(4)[labels]) * 2 / 5, "float64", terms=4)
    single = bl.SoftmaxWithLoss()
    single.forward(on.array(x[0]), t[0] if shape == "one-hot" else t[:1])
    assert_close(single.backward(), y[0] - np.eye(4)[1], "float64", terms=4)


# --- chapter 6: optimizers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"])
def test_plain_numbers_move_as_arrays_do(name: str) -> None:
    """f = x^2 / 20 + y^2 from (-7, 2), as the chapter draws it; integers to begin with."""
    numbers: dict[str, Any] = {"x": -7, "y": 2}
    arrays = {"x": np.array([-7.0]), "y": np.array([2.0])}
    ours, other = getattr(bo, name)(lr=0.3), getattr(bo, name)(lr=0.3)
    for _ in range(30):
        ours.update(numbers, {"x": numbers["x"] / 10.0, "y": 2.0 * numbers["y"]})
        other.update(arrays, {"x": arrays["x"] / 10.0, "y": 2.0 * arrays["y"]})
        assert isinstance(numbers["x"], float)
        assert (numbers["x"], numbers["y"]) == (arrays["x"][0], arrays["y"][0])


def test_plain_numbers_by_closed_forms() -> None:
    params = {"x": -7.0, "y": 2.0}
    sgd = bo.SGD(lr=0.95)
    for _ in range(30):
        sgd.update(params, {"x": params["x"] / 10.0, "y": 2.0 * params["y"]})
    assert params == pytest.approx({"x": -7.0 * (1 - 0.095) ** 30, "y": 2.0 * (1 - 1.9) ** 30}, rel=1e-12)

    # momentum on a quadratic is a linear map of (p, v)
    step = np.array([[1 - 0.1 * 0.1, 0.9], [-0.1 * 0.1, 0.9]])
    momentum, params = bo.Momentum(lr=0.1), {"x": -7.0}
    for _ in range(30):
        momentum.update(params, {"x": params["x"] / 10.0})
    expected = np.linalg.matrix_power(step, 30) @ [-7.0, 0.0]
    assert (params["x"], float(momentum.v["x"])) == pytest.approx(tuple(expected), rel=1e-12)

    for kind, lr in ((bo.AdaGrad, 1.5), (bo.Adam, 0.3)):  # their first step is lr, to the eps of 1e-7
        params = {"x": -7.0}
        kind(lr=lr).update(params, {"x": -0.7})
        assert params["x"] == pytest.approx(-7.0 + lr, abs=lr * 1e-5)


def test_a_learning_rate_that_changes_meets_the_book_s_velocity() -> None:
    """v holds lr already: after a step with lr = 1 and one with lr = 0 the parameter moves on by 0.9 of the first."""
    for kind, moved in ((bo.Momentum, 1.9), (bo.Nesterov, 1.9 + 0.81)):
        p, optimizer = {"p": np.zeros(2)}, kind(lr=1.0)
        optimizer.update(p, {"p": np.ones(2)})
        assert optimizer.v["p"].tolist() == [-1.0, -1.0]
        optimizer.lr = 0.0
        optimizer.update(p, {"p": np.ones(2)})
        assert p["p"] == pytest.approx(np.full(2, -moved), rel=1e-15)


@pytest.mark.parametrize("home_of", ["params", "grads"])
def test_parameters_and_gradients_on_different_devices(on: Namespace, home_of: str) -> None:
    p, g = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3))
    params = {"W": writable(on, p) if home_of == "params" else p.copy()}
    before = name_of(params["W"])
    adam = bo.Adam(lr=0.1)
    for _ in range(3):
        adam.update(params, {"W": g if home_of == "params" else on.array(g)})
    assert name_of(params["W"]) == before
    # constant gradients: the corrected moments are g and g^2, up to the eps
    assert to_numpy(params["W"]) == pytest.approx(p - 0.3 * np.sign(g), abs=1e-3)


# --- chapter 6: networks -------------------------------------------------------------------------------------------


class Reference:
    """MultiLayerNetExtend by PyTorch's own functions and its autograd, in float64; masks come from numpy.random."""

    def __init__(self, network: Any, ratio: float | None, norm: bool, decay: float) -> None:
        self.torch = pytest.importorskip("torch")
        self.ratio, self.norm, self.decay = ratio, norm, decay
        self.count = network.hidden_layer_num + 1
        self.params = {
            name: self.torch.tensor(to_numpy(value).copy(), requires_grad=True)
            for name, value in network.params.items()
        }
        self.mean = {i: self.torch.zeros(width).double() for i, width in enumerate(network.hidden_size_list, start=1)}
        self.var = {i: self.torch.zeros(width).double() for i, width in enumerate(network.hidden_size_list, start=1)}

    def loss(self, x: Any, t: Any, training: bool) -> Any:
        p, torch = self.params, self.torch
        y = self.scores(x, training)
        log = torch.log_softmax(y, 1) if training else torch.log(torch.softmax(y, 1) + 1e-7)  # backpropagated: y - t
        loss = torch.nn.functional.nll_loss(log, torch.tensor(t))
        return loss + sum(self.decay / 2 * (p[f"W{i}"] ** 2).sum() for i in range(1, self.count + 1))

    def scores(self, x: Any, training: bool) -> Any:
        p, torch, x = self.params, self.torch, self.torch.tensor(x)
        for i in range(1, self.count + 1):
            x = x @ p[f"W{i}"] + p[f"b{i}"]
            if i == self.count:
                return x
            if self.norm:
                mean, var = x.detach().mean(0), x.detach().var(0, correction=0)
                if training:
                    self.mean[i], self.var[i] = 0.9 * self.mean[i] + 0.1 * mean, 0.9 * self.var[i] + 0.1 * var
                statistics = (None, None, *(p[f"{g}{i}"] for g in ("gamma", "beta")), True, 0.0, 10e-7)
                if not training:
                    statistics = (self.mean[i], self.var[i], *statistics[2:4], False, 0.0, 10e-7)
                x = torch.nn.functional.batch_norm(x, *statistics)
            x = torch.relu(x)
            if self.ratio is not None:
                mask = torch.tensor(np.random.rand(*x.shape) > self.ratio) if training else 1 - self.ratio
                x = x * mask
        return x

    def gradient(self, x: Any, t: Any) -> dict[str, Any]:
        for p in self.params.values():
            p.grad = None
        self.loss(x, t, training=True).backward()
        return {name: p.grad.numpy() for name, p in self.params.items()}

    def accuracy(self, x: Any, t: Any) -> float:
        return float((self.scores(x, False).argmax(1).numpy() == t).mean())


@pytest.mark.parametrize(
    ("ratio", "norm", "decay"), [(None, False, 0.0), (0.3, False, 0.0), (None, True, 0.1), (0.2, True, 0.05)]
)
def test_the_trainer_takes_pytorch_s_steps(on: Namespace, ratio: float | None, norm: bool, decay: float) -> None:
    """Initial values, batches, masks, statistics, decay: one seed gives the losses of the reference, step by step."""
    x, t = RNG.random((30, 6)), RNG.integers(0, 3, 30)
    np.random.seed(5)
    dropped = {"use_dropout": ratio is not None, "dropout_ration": ratio or 0.5}
    network = MultiLayerNetExtend(6, [8, 7], 3, weight_decay_lambda=decay, use_batchnorm=norm, **dropped)
    reference = Reference(network, ratio, norm, decay)
    state = np.random.get_state()
    trainer = Trainer(
        network, x, t, x[:11], t[:11], epochs=4, mini_batch_size=12, optimizer_param={"lr": 0.1}, verbose=False,
        evaluate_sample_num_per_epoch=20,
    )  # fmt: skip
    trainer.train()
    after = np.random.get_state()[2]

    np.random.set_state(state)
    losses, train, test = [], [], []
    for step in range(10):  # 4 epochs of 2.5 steps
        rows = np.random.choice(30, 12)
        gradients = reference.gradient(x[rows], t[rows])
        with reference.torch.no_grad():
            for name, p in reference.params.items():
                p -= 0.1 * reference.torch.tensor(gradients[name])
            losses.append(float(reference.loss(x[rows], t[rows], training=False)))
            if step % 2.5 == 0:
                train.append(reference.accuracy(x[:20], t[:20]))
                test.append(reference.accuracy(x[:11], t[:11]))
    assert trainer.train_loss_list == pytest.approx(losses, rel=1e-9)
    assert (trainer.train_acc_list, trainer.test_acc_list) == (train, test)
    assert np.random.get_state()[2] == after
    for name, p in reference.params.items():
        assert name_of(network.params[name]) == on.backend.name or on.backend.name == "array_api_strict:device1"
        np.testing.assert_allclose(to_numpy(network.params[name]), p.detach().numpy(), **NEAR)
    if norm:
        layer = network.layers["BatchNorm2"]
        np.testing.assert_allclose(to_numpy(layer.running_mean), reference.mean[2].numpy(), **NEAR)
        np.testing.assert_allclose(to_numpy(layer.running_var), reference.var[2].numpy(), **NEAR)


@pytest.mark.parametrize("norm", [False, True])
def test_gradient_check_in_training_mode(on: Namespace, norm: bool) -> None:
    np.random.seed(1)
    network = MultiLayerNetExtend(4, [5], 3, use_batchnorm=norm, weight_decay_lambda=0.1)
    x, t = RNG.random((6, 4)), np.eye(3)[np.arange(6) % 3]
    gradient, numeric = network.gradient(x, t), network.numerical_gradient(x, t)
    order = ["W1", "b1", *(["gamma1", "beta1"] if norm else []), "W2", "b2"]
    assert list(gradient) == list(numeric) == order
    assert list(network.params) == ["W1", "b1", "W2", "b2", *(["gamma1", "beta1"] if norm else [])]
    for name in order:
        assert to_numpy(gradient[name]) == pytest.approx(to_numpy(numeric[name]), abs=1e-6)


def test_a_network_s_attributes_are_the_book_s() -> None:
    network = MultiLayerNetExtend(6, [5, 4], 3, use_batchnorm=True, use_dropout=True, weight_decay_lambda=0.1)
    assert list(network.layers) == [
        *("Affine1", "BatchNorm1", "Activation_function1", "Dropout1"),
        *("Affine2", "BatchNorm2", "Activation_function2", "Dropout2", "Affine3"),
    ]
    assert (network.input_size, network.output_size, network.hidden_size_list) == (6, 3, [5, 4])
    assert (network.hidden_layer_num, network.use_dropout, network.use_batchnorm) == (2, True, True)
    assert network.layers["Affine2"].W is network.params["W2"]
    x, t = RNG.random((8, 6)), np.arange(8) % 3
    network.gradient(x, t)
    affine, norm = network.layers["Affine1"], network.layers["BatchNorm1"]
    assert (affine.dW.shape, affine.db.shape) == ((6, 5), (5,))
    before = x @ affine.W + affine.b
    np.testing.assert_allclose(norm.xc, before - before.mean(axis=0), **NEAR)
    np.testing.assert_allclose(norm.std, np.sqrt(before.var(axis=0) + 1e-6), **NEAR)
    np.testing.assert_allclose(norm.xn, norm.xc / norm.std, **NEAR)
    np.testing.assert_allclose(norm.running_var, 0.1 * before.var(axis=0), **NEAR)
    assert (norm.batch_size, norm.dgamma.shape, norm.dbeta.shape) == (8, (5,), (5,))
    assert isinstance(network.last_layer, bl.SoftmaxWithLoss)


def test_what_is_put_into_params_or_into_a_layer_is_used(on: Namespace) -> None:
    network = MultiLayerNet(3, [4], 2)
    x, W = RNG.random((5, 3)), [RNG.standard_normal(s) for s in ((3, 4), (4, 2))]
    network.params["W1"] = W[0]
    network.params.update(W2=on.array(W[1]))
    expected = np.maximum(x @ W[0], 0) @ W[1]
    np.testing.assert_allclose(to_numpy(network.predict(x)), expected, **NEAR)
    network.layers["Affine2"].W = 2 * W[1]
    np.testing.assert_allclose(to_numpy(network.predict(x)), 2 * expected, **NEAR)
    network.params["W1"] = W[1]
    with pytest.raises(ValueError, match=r"params\['W1'\]: expected shape \(3, 4\), got \(4, 2\)"):
        network.predict(x)


def test_shuffle_and_smooth(on: Namespace) -> None:
    x, t = np.arange(24.0).reshape(6, 1, 2, 2), np.arange(6)
    np.random.seed(2)
    images, labels = shuffle_dataset(on.array(x), t)
    np.random.seed(2)
    order = np.random.permutation(6)
    assert labels.tolist() == order.tolist()
    assert to_numpy(images).tolist() == x[order].tolist()
    losses = [on.array(1.5)[()] for _ in range(20)]
    assert smooth_curve(losses) == pytest.approx(np.full(20, 1.5))


# --- chapters 7 and 8: convolutions --------------------------------------------------------------------------------


def images_there(on: Namespace, shape: tuple[int, ...]) -> tuple[Any, Any]:
    x = RNG.random(shape)
    return x, on.array(x)


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1)])
def test_convolution_and_pooling_of_numpy_s_weights_are_pytorch_s(on: Namespace, stride: int, pad: int) -> None:
    torch = pytest.importorskip("torch")
    x, x_there = images_there(on, (3, 2, 8, 6))
    W, b = RNG.standard_normal((4, 2, 3, 3)), RNG.standard_normal(4)
    x_, W_, b_ = (torch.tensor(a, requires_grad=True) for a in (x, W, b))
    hidden = torch.nn.functional.conv2d(x_, W_, b_, stride, pad)
    expected = torch.nn.functional.max_pool2d(hidden, 2)
    convolution, pooling = bl.Convolution(W, b, stride, pad), bl.Pooling(2, 2)
    y = pooling.forward(convolution.forward(x_there))
    np.testing.assert_allclose(to_numpy(y), expected.detach().numpy(), **NEAR)
    assert name_of(y) == name_of(x_there)
    dout = RNG.standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(dout))
    dx = convolution.backward(pooling.backward(dout))
    np.testing.assert_allclose(to_numpy(dx), x_.grad.numpy(), **NEAR)
    np.testing.assert_allclose(convolution.dW, W_.grad.numpy(), **NEAR)
    np.testing.assert_allclose(convolution.db, b_.grad.numpy(), **NEAR)
    # the matrices of the book: their product is the convolution
    product = to_numpy(convolution.col) @ convolution.col_W + b
    rows = hidden.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, 4)
    np.testing.assert_allclose(product, rows, **NEAR)
    windows = torch.nn.functional.unfold(hidden, 2, stride=2).detach().numpy()  # (n, c 4, windows)
    places = windows.reshape(3, 4, 4, -1).argmax(axis=2).transpose(0, 2, 1)
    assert to_numpy(pooling.arg_max).tolist() == places.reshape(-1).tolist()


def test_convolution_with_a_bias_of_plain_0(on: Namespace) -> None:
    x, x_there = images_there(on, (1, 1, 5, 5))
    convolution = bl.Convolution(np.ones((1, 1, 3, 3)), 0)
    expected = np.lib.stride_tricks.sliding_window_view(x[0, 0], (3, 3)).sum(axis=(2, 3))
    np.testing.assert_allclose(to_numpy(convolution.forward(x_there))[0, 0], expected, **NEAR)
    convolution.backward(np.ones((1, 1, 3, 3)))
    assert np.ravel(convolution.db).tolist() == [9.0]


def test_pooling_pads_with_zeros_and_takes_integers(on: Namespace) -> None:
    x = np.arange(-16, 0).reshape(1, 1, 4, 4)
    assert to_numpy(bl.Pooling(2, 2).forward(on.array(x))).tolist() == [[[[-11, -9], [-3, -1]]]]
    pooling = bl.Pooling(2, 2, stride=2, pad=1)
    assert to_numpy(pooling.forward(on.array(x))).tolist() == [[[[0, 0, 0], [0, -6, 0], [0, 0, 0]]]]
    dx = to_numpy(pooling.backward(np.ones((1, 1, 3, 3))))
    assert dx.nonzero()[2:] == (np.array([2]), np.array([2]))


def test_gradient_check_of_chapter_7(on: Namespace) -> None:
    np.random.seed(0)
    convolution = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}
    network = SimpleConvNet((1, 6, 6), convolution, hidden_size=3, output_size=4, weight_init_std=0.1)
    x, t = RNG.random((1, 1, 6, 6)), np.array([1]).reshape(1, 1)
    gradient, numeric = network.gradient(x, t), network.numerical_gradient(x, t)
    assert list(gradient) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    for name in gradient:
        assert to_numpy(gradient[name]) == pytest.approx(to_numpy(numeric[name]), abs=1e-6)


def pytorch_scores(network: Any, kinds: str, x: Any) -> Any:
    """What a stack of PyTorch's functions with the network's values gives. kinds: c(1), C(2: padding), r, p, a."""
    torch = pytest.importorskip("torch")
    x, number = torch.tensor(np.asarray(x, dtype="float64")), 0
    for kind in kinds:
        if kind in "c12a":
            number += 1
            W, b = (torch.tensor(np.asarray(to_numpy(network.params[f"{p}{number}"]), "float64")) for p in "Wb")
        match kind:
            case "c" | "1" | "2":
                x = torch.nn.functional.conv2d(x, W, b, padding=0 if kind == "c" else int(kind))
            case "r":
                x = torch.relu(x)
            case "p":
                x = torch.nn.functional.max_pool2d(x, 2)
            case "a":
                x = x.reshape(len(x), -1) @ W + b
            case "d":
                x = x * 0.5
    return x.numpy()


SIMPLE, DEEP = "crpara", "1r1rp1r2rp1r1rpardad"


def test_the_chapters_networks_are_pytorch_s(on: Namespace) -> None:
    x = RNG.random((2, 1, 28, 28))
    np.random.seed(4)
    simple = SimpleConvNet()
    np.random.seed(4)
    assert_close(simple.params["W1"], 0.01 * np.random.randn(30, 1, 5, 5), "float64")
    assert_close(simple.params["W2"], 0.01 * np.random.randn(4320, 100), "float64")
    np.testing.assert_allclose(to_numpy(simple.predict(x)), pytorch_scores(simple, SIMPLE, x), **NEAR)
    np.random.seed(4)
    deep = DeepConvNet()
    np.random.seed(4)
    assert_close(deep.params["W1"], math.sqrt(2 / 9) * np.random.randn(16, 1, 3, 3), "float64")
    assert_close(deep.params["W2"], math.sqrt(2 / 144) * np.random.randn(16, 16, 3, 3), "float64")
    np.testing.assert_allclose(to_numpy(deep.predict(x)), pytorch_scores(deep, DEEP, x), **NEAR)
    assert (deep.params["W7"].shape, deep.params["W8"].shape) == ((1024, 50), (50, 10))
    assert [type(layer).__name__ for layer in deep.layers[15:]] == ["Affine", "Relu", "Dropout", "Affine", "Dropout"]
    t = np.array([1, 2])
    assert set(deep.gradient(x, t)) == set(deep.params)
    assert deep.accuracy(x, pytorch_scores(deep, DEEP, x).argmax(axis=1), batch_size=1) == 1.0


def test_parameters_of_half_precision_as_chapter_8_makes_them() -> None:
    """The values are rounded, the arrays stay float64, and images of float16 meet them."""
    network = SimpleConvNet()
    x = RNG.random((4, 1, 28, 28)).astype(np.float16)
    for param in network.params.values():
        param[...] = param.astype(np.float16)
    scores = network.predict(x)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, pytorch_scores(network, SIMPLE, x), **NEAR)


def test_params_travel_by_the_book_s_pickles(on: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "params.pkl"
    first, second = SimpleConvNet(), SimpleConvNet()
    first.save_params(file)
    values = pickle.loads(file.read_bytes())  # as the book's own load_params reads it
    assert all(type(value) is np.ndarray for value in values.values())
    second.load_params(file)
    x = RNG.random((2, 1, 28, 28))
    assert_close(second.predict(x), to_numpy(first.predict(x)), "float64", terms=10_000)
    assert name_of(second.params["W1"]) == name_of(first.params["W1"])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps({name: 2 * value for name, value in values.items()}, protocol))
        second.load_params(str(file))
        assert_close(second.params["W3"], 2 * values["W3"], "float64")


def test_a_file_survives_params_that_cannot_be_saved(tmp_path: Path) -> None:
    network, file = SimpleConvNet(), tmp_path / "params.pkl"
    file.write_bytes(b"before")
    network.params["W1"] = lambda: 0
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        network.save_params(file)
    assert file.read_bytes() == b"before"


class Runs:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it was run')",)


def test_files_that_are_no_parameters_are_refused(tmp_path: Path) -> None:
    file, network = tmp_path / "params.pkl", MultiLayerNet(3, [4], 2)
    good = {name: np.asarray(value) for name, value in network.params.items()}
    before = {name: value.copy() for name, value in good.items()}
    for content in (
        pickle.dumps({**good, "W1": Runs()}),
        pickle.dumps(Runs()),
        pickle.dumps({**good, "W1": good["W1"].T}),
        pickle.dumps({name: good[name] for name in ("W1", "b1")}),
        pickle.dumps({**good, "W1": good["W1"].astype(str)}),
        pickle.dumps([1, 2]),
        pickle.dumps(good)[:50],
        b"",
    ):
        file.write_bytes(content)
        with pytest.raises((nn.ModelFileError, ValueError), match=r"params\.pkl|W1"):
            network.load_params(file)
    assert all((network.params[name] == value).all() for name, value in before.items())


def test_pickles_of_the_former_networks_are_networks_of_the_library() -> None:
    """The book's networks were subclasses of Network: what their pickles hold is one of the library's."""
    for former, network in (
        (MultiLayerNet, nn.Network([nn.Affine(3, 4), nn.ReLU(), nn.Affine(4, 2)])),
        (TwoLayerNet, nn.TwoLayerNet(3, 4, 2)),
    ):
        rebuild, (_, *content), *_ = network.__reduce__()
        loaded = rebuild(former, *content)
        x = RNG.random((5, 3))
        assert type(loaded) is type(network)
        assert (loaded.predict(x) == network.predict(x)).all()


# --- the data --------------------------------------------------------------------------------------------------------


def test_the_book_s_dtypes_as_numpy_arrays_on_every_backend(on: Namespace) -> None:
    (x, t), _ = load_mnist(data="sample")
    (raw, rows), _ = load_mnist(normalize=False, flatten=False, one_hot_label=True, data="sample")
    assert [type(a) for a in (x, t, raw, rows)] == [np.ndarray] * 4
    assert [a.dtype for a in (x, t, raw, rows)] == [np.float32, np.uint8, np.uint8, np.float64]
    assert all(a.flags.writeable for a in (x, t, raw, rows))
    assert (x == raw.reshape(-1, 784).astype("float32") / 255).all()
    assert (rows.sum(axis=1) == 1).all()


def test_arrays_that_are_not_the_backend_s_say_so(on: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    load_mnist(data="sample")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (f"move them to {on.backend.name};" in shown.err) == (on.backend.name != "numpy")


@pytest.mark.parametrize("data", ["auto", "sample"])
def test_the_sample_says_that_it_is_one(data: str, tmp_path: Path) -> None:
    code = f"from nnbackend.book.mnist import load_mnist\nprint(len(load_mnist(data={data!r})[0][0]))"
    env = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(Path(nn.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "10000\n"
    assert ("10,000 training" in done.stderr) == (data == "auto")


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: bf.sigmoid("abc"), ValueError, "x: expected an array of numbers"),
        (lambda: bf.softmax(3.0), ValueError, "x: expected at least one axis"),
        (lambda: bf.relu([[1, 2], [3]]), ValueError, "x: "),
        (lambda: bf.cross_entropy_error(np.ones((2, 3)) / 3, [0, 3]), ValueError, "t: expected labels from 0 to 2"),
        (lambda: bf.cross_entropy_error(np.ones((2, 3)) / 3, [0, -1]), ValueError, "t: expected labels from 0 to 2"),
        (lambda: bf.cross_entropy_error(np.ones((2, 3)) / 3, [0.0, 1.0]), TypeError, "t: expected integer labels"),
        (lambda: bf.cross_entropy_error(np.ones((2, 3)) / 3, [0, 1, 2]), ValueError, "t: expected 2 labels"),
        (lambda: bl.SoftmaxWithLoss().forward(np.ones((2, 3)), np.ones((2, 2))), ValueError, "t: expected 2 labels"),
        (lambda: bl.Affine(np.ones((3, 2)), np.zeros(2)).forward(np.ones((4, 5))), ValueError, "x: expected rows of 3"),
        (lambda: bl.Affine(np.ones((3, 2)), np.zeros(3)).forward(np.ones((4, 3))), ValueError, "b: expected shape"),
        (lambda: bl.Convolution(np.ones((2, 3, 3, 3)), 0).forward(np.ones((1, 1, 5, 5))), ValueError, "x: .*W: "),
        (lambda: bl.Affine(np.ones((3, 2)), 0).backward(np.ones((4, 2))), ValueError, "x: .*got None"),
        (lambda: bl.SoftmaxWithLoss().backward(), ValueError, "y: .*got None"),
        (lambda: bl.Pooling(2, 2).backward(np.ones((4, 2, 1, 1))), ValueError, "x: .*got None"),
        (lambda: bl.Convolution(np.ones((2, 3, 3, 3)), 0, stride=0), ValueError, "stride: .*whole number"),
        (lambda: bl.Convolution(np.ones((2, 3, 3, 3)), 0, pad=-1), ValueError, "pad: .*whole number"),
        (lambda: bl.Pooling(2, 2, stride=1.5), ValueError, "stride: .*whole number"),
        (lambda: im2col(np.ones((4, 4)), 2, 2), ValueError, "input_data: expected shape"),
        (lambda: MultiLayerNet(3, [4], 2).loss(np.ones((0, 3)), []), ValueError, "y: expected at least one row"),
        (lambda: MultiLayerNet(3, 4, 2), TypeError, "hidden_size_list: expected a list"),
        (lambda: MultiLayerNet(3, [4], 2, weight_init_std=None), ValueError, "weight_init_std"),
        (lambda: bo.SGD().update({"x": np.ones(2)}, {"x": np.ones(3)}), ValueError, r"grads\['x'\]: expected shape"),
        (lambda: bl.Pooling(2, 2).forward(np.ones((4, 4))), ValueError, "x: expected shape"),
        (lambda: bl.Dropout(1.5), ValueError, "dropout_ratio: expected a number from 0 to 1"),
        (lambda: bo.SGD().update({"x": np.array([1, 2])}, {"x": 1.0}), TypeError, r"params\['x'\]: expected floating"),
        (lambda: MultiLayerNet(3, [4], 2, activation="rely"), ValueError, "Did you mean 'relu'"),
        (lambda: MultiLayerNet(3, [4], 2, weight_init_std="xaver"), ValueError, "Did you mean 'xavier'"),
        (lambda: MultiLayerNet(3, [4], 2).accuracy(np.ones((4, 3)), [0, 1]), ValueError, "as many rows"),
        (lambda: shuffle_dataset(np.ones((4, 3)), np.ones(3)), ValueError, "t: expected 4 rows"),
        (lambda: load_mnist(data="samples"), ValueError, "Did you mean 'sample'"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_two_devices_that_are_not_numpy_s_are_refused() -> None:
    pytest.importorskip("torch")
    with nn.using("torch") as torch, nn.using("array_api_strict") as strict:
        x, W = torch.asarray(np.ones((2, 3))), strict.asarray(np.ones((3, 2)))
    with pytest.raises(nn.BackendError, match=r"W: got a array_api_strict array.*x is a torch array.*nn.to_numpy\(W\)"):
        bl.Affine(W, 0).forward(x)
