"""The book's names: formulas written out as the book has them, and its chapters' scripts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

from nnbackend.backends import to_numpy
from nnbackend.book import MultiLayerNet, MultiLayerNetExtend, Trainer, TwoLayerNet, load_mnist
from nnbackend.book import functions as bf
from nnbackend.book import layers as bl
from nnbackend.book import optimizer as bo
from nnbackend.book import util as bu
from nnbackend.book.gradient import numerical_gradient

RNG = np.random.default_rng(0)


# --- functions -----------------------------------------------------------------------------------------------------


def test_functions(on: Namespace) -> None:
    x = np.array([-1.0, 0.0, 2.0])
    there = on.array(x)
    s = 1 / (1 + np.exp(-x))
    assert to_numpy(bf.step_function(there)).tolist() == [0, 0, 1]
    assert bf.identity_function(there) is there
    assert_close(bf.sigmoid(there), s, "float64")
    assert_close(bf.sigmoid_grad(there), (1 - s) * s, "float64")
    assert to_numpy(bf.relu_grad(there)).tolist() == [0.0, 1.0, 1.0]
    assert float(bf.mean_squared_error(there, on.array([0.0, 1.0, 2.0]))) == pytest.approx(0.5 * (1 + 1 + 0))
    assert bf.sum_squared_error is bf.mean_squared_error


def test_cross_entropy_error(on: Namespace) -> None:
    y = np.array([[0.1, 0.05, 0.85], [0.3, 0.3, 0.4]])
    expected = -(np.log(0.85 + 1e-7) + np.log(0.3 + 1e-7)) / 2
    there = on.array(y)
    assert float(bf.cross_entropy_error(there, on.array([2, 0]))) == pytest.approx(expected, rel=1e-12)
    assert float(bf.cross_entropy_error(there, on.array(np.eye(3)[[2, 0]]))) == pytest.approx(expected, rel=1e-12)
    single = -np.log(0.85 + 1e-7)
    assert float(bf.cross_entropy_error(there[0, :], on.array([0, 0, 1]))) == pytest.approx(single, rel=1e-12)
    assert float(bf.cross_entropy_error(there[0, :], on.array([2]))) == pytest.approx(single, rel=1e-12)
    logits = on.array(np.log(y))
    assert float(bf.softmax_loss(logits, on.array([2, 0]))) == pytest.approx(expected, rel=1e-12)


def test_numerical_gradient_is_the_book_s(on: Namespace) -> None:
    x = on.backend.zeros((2,), "float64")
    x[...] = on.array([3.0, 4.0])
    gradient = numerical_gradient(lambda z: on.xp.sum(z * z), x)
    assert to_numpy(gradient) == pytest.approx(np.array([6.0, 8.0]), abs=1e-8)


# --- layers --------------------------------------------------------------------------------------------------------


def test_affine_and_activations(on: Namespace) -> None:
    x, W, b, dout = (RNG.standard_normal(s) for s in [(4, 2, 3), (6, 5), (5,), (4, 5)])
    layer = bl.Affine(on.array(W), on.array(b))
    assert_close(layer.forward(on.array(x)), x.reshape(4, 6) @ W + b, "float64", terms=6)
    assert_close(layer.backward(on.array(dout)), (dout @ W.T).reshape(4, 2, 3), "float64", terms=5)
    assert_close(layer.dW, x.reshape(4, 6).T @ dout, "float64", terms=4)
    assert_close(layer.db, dout.sum(axis=0), "float64", terms=4)
    relu, sigmoid = bl.Relu(), bl.Sigmoid()
    assert_close(relu.forward(on.array(dout)), np.maximum(dout, 0), "float64")
    assert_close(relu.backward(on.array(np.ones((4, 5)))), (dout > 0).astype(float), "float64")
    y = 1 / (1 + np.exp(-dout))
    assert_close(sigmoid.forward(on.array(dout)), y, "float64")
    assert_close(sigmoid.backward(on.array(dout)), dout * (1 - y) * y, "float64")


@pytest.mark.parametrize("one_hot", [False, True])
def test_softmax_with_loss(on: Namespace, one_hot: bool) -> None:
    x, labels = RNG.standard_normal((4, 3)), np.array([0, 2, 1, 2])
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    layer = bl.SoftmaxWithLoss()
    loss = layer.forward(on.array(x), on.array(np.eye(3)[labels] if one_hot else labels))
    assert float(loss) == pytest.approx(-np.log(y[np.arange(4), labels] + 1e-7).mean(), rel=1e-12)
    assert_close(layer.backward(), (y - np.eye(3)[labels]) / 4, "float64")
    assert_close(layer.y, y, "float64")


def test_dropout_draws_from_numpy_s_global_generator(on: Namespace) -> None:
    x = on.array(np.ones((5, 4)), "float32")
    layer = bl.Dropout(0.3)
    np.random.seed(3)
    y = layer.forward(x)
    np.random.seed(3)
    expected = (np.random.rand(5, 4) > 0.3).astype("float32")
    assert_close(y, expected, "float32")
    assert_close(layer.backward(x), expected, "float32")
    assert_close(layer.forward(x, train_flg=False), np.full((5, 4), 0.7, "float32"), "float32")


def test_batch_normalization_as_the_book_writes_it(on: Namespace) -> None:
    layer = bl.BatchNormalization(on.array(np.full(6, 1.5)), on.array(np.full(6, 0.5)))
    running_mean, running_var = np.zeros(6), np.zeros(6)
    for _ in range(3):
        x, dout = RNG.standard_normal((7, 2, 3, 1)) + 1, RNG.standard_normal((7, 2, 3, 1))
        flat, d = x.reshape(7, 6), dout.reshape(7, 6)
        xc = flat - flat.mean(axis=0)
        std = np.sqrt((xc**2).mean(axis=0) + 10e-7)
        xn = xc / std
        assert_close(layer.forward(on.array(x)), (1.5 * xn + 0.5).reshape(x.shape), "float64", terms=20)
        dxn = 1.5 * d
        dxc = dxn / std
        dvar = 0.5 * -((dxn * xc) / (std * std)).sum(axis=0) / std
        dxc += (2.0 / 7) * xc * dvar
        dx = dxc - dxc.sum(axis=0) / 7
        assert_close(layer.backward(on.array(dout)), dx.reshape(x.shape), "float64", terms=50)
        assert_close(layer.dgamma, (xn * d).sum(axis=0), "float64", terms=20)
        assert_close(layer.dbeta, d.sum(axis=0), "float64", terms=20)
        running_mean = 0.9 * running_mean + 0.1 * flat.mean(axis=0)
        running_var = 0.9 * running_var + 0.1 * flat.var(axis=0)
    y = layer.forward(on.array(x), train_flg=False)
    expected = 1.5 * (flat - running_mean) / np.sqrt(running_var + 10e-7) + 0.5
    assert_close(y, expected.reshape(x.shape), "float64", terms=20)


def windows_by_hand(x: np.ndarray, height: int, width: int, stride: int, pad: int) -> np.ndarray:
    """im2col as nested loops: (N, out_h, out_w, C, height, width)."""
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    n, c, h, w = padded.shape
    out_h, out_w = (h - height) // stride + 1, (w - width) // stride + 1
    result = np.zeros((n, out_h, out_w, c, height, width))
    for i in range(out_h):
        for j in range(out_w):
            result[:, i, j] = padded[:, :, i * stride : i * stride + height, j * stride : j * stride + width]
    return result


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1), (3, 0)])
def test_im2col_and_col2im(on: Namespace, stride: int, pad: int) -> None:
    x = RNG.standard_normal((2, 3, 7, 6))
    expected = windows_by_hand(x, 3, 2, stride, pad)
    col = bu.im2col(on.array(x), 3, 2, stride, pad)
    assert_close(col, expected.reshape(-1, 18), "float64")
    assert expected.shape[1] == int(bu.conv_output_size(7, 3, stride, pad))
    # col2im is the transpose of im2col: <im2col(x), v> = <x, col2im(v)>
    v = RNG.standard_normal(col.shape)
    back = to_numpy(bu.col2im(on.array(v), x.shape, 3, 2, stride, pad))
    assert (expected.reshape(-1, 18) * v).sum() == pytest.approx((x * back).sum(), rel=1e-12)


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (2, 1)])
def test_convolution_and_pooling(on: Namespace, stride: int, pad: int) -> None:
    x, W, b = RNG.standard_normal((2, 3, 7, 6)), RNG.standard_normal((4, 3, 3, 2)), RNG.standard_normal(4)
    places = windows_by_hand(x, 3, 2, stride, pad)
    expected = np.einsum("nijchw,ochw->noij", places, W) + b[:, None, None]
    layer = bl.Convolution(on.array(W), on.array(b), stride, pad)
    out = layer.forward(on.array(x))
    assert_close(out, expected, "float64", terms=18)
    dout = RNG.standard_normal(expected.shape)
    dx = layer.backward(on.array(dout))
    assert_close(layer.dW, np.einsum("nijchw,noij->ochw", places, dout), "float64", terms=100)
    assert_close(layer.db, dout.sum(axis=(0, 2, 3)), "float64", terms=100)
    assert tuple(dx.shape) == x.shape
    direction = RNG.standard_normal(x.shape)
    moved = np.einsum("nijchw,ochw->noij", windows_by_hand(direction, 3, 2, stride, pad), W)
    assert (to_numpy(dx) * direction).sum() == pytest.approx((dout * moved).sum(), rel=1e-12)

    pooling = bl.Pooling(2, 2, stride=2)
    y = pooling.forward(on.array(x))
    assert_close(y, windows_by_hand(x, 2, 2, 2, 0).max(axis=(4, 5)).transpose(0, 3, 1, 2), "float64")
    ones = to_numpy(pooling.backward(on.array(np.ones(y.shape))))
    assert ones.sum() == np.prod(y.shape)
    assert set(np.unique(ones)) == {0.0, 1.0}


# --- optimizers ----------------------------------------------------------------------------------------------------


def by_the_book(name: str) -> Any:
    """The book's update rules, written out for one array."""
    state: dict[str, Any] = {"v": 0.0, "h": 0.0, "m": 0.0, "t": 0}

    def step(p: np.ndarray, g: np.ndarray) -> np.ndarray:
        lr, s = 0.05, state
        match name:
            case "SGD":
                return p - lr * g
            case "Momentum":
                s["v"] = 0.9 * s["v"] - lr * g
                return p + s["v"]
            case "Nesterov":
                p = p + 0.9 * 0.9 * s["v"] - (1 + 0.9) * lr * g
                s["v"] = 0.9 * s["v"] - lr * g
                return p
            case "AdaGrad":
                s["h"] = s["h"] + g * g
                return p - lr * g / (np.sqrt(s["h"]) + 1e-7)
            case "RMSprop":
                s["h"] = 0.99 * s["h"] + (1 - 0.99) * g * g
                return p - lr * g / (np.sqrt(s["h"]) + 1e-7)
            case _:
                s["t"] += 1
                lr_t = lr * np.sqrt(1 - 0.999 ** s["t"]) / (1 - 0.9 ** s["t"])
                s["m"] = s["m"] + (1 - 0.9) * (g - s["m"])
                s["v"] = s["v"] + (1 - 0.999) * (g * g - s["v"])
                return p - lr_t * s["m"] / (np.sqrt(s["v"]) + 1e-7)

    return step


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"])
def test_update_rules(on: Namespace, name: str) -> None:
    start = {"W1": RNG.standard_normal((3, 4)), "b1": RNG.standard_normal(4)}
    params: dict[str, Any] = {}
    for key, value in start.items():
        params[key] = on.backend.zeros(value.shape, "float64")
        params[key][...] = on.array(value)
    rules = {key: by_the_book(name) for key in start}
    ours = getattr(bo, name)(lr=0.05)
    for _ in range(10):
        grads = {key: RNG.standard_normal(value.shape) for key, value in start.items()}
        start = {key: rules[key](value, grads[key]) for key, value in start.items()}
        assert ours.update(params, {key: on.array(g) for key, g in grads.items()}) is None
        for key, value in start.items():
            assert_close(params[key], value, "float64", terms=50)


def test_update_writes_through_a_transposed_array() -> None:
    W = np.zeros((3, 2))
    bo.SGD(lr=1.0).update({"W": W.T}, {"W": np.ones((2, 3))})
    assert (W == -1).all()


def test_smooth_curve() -> None:
    x = RNG.standard_normal(50)
    smooth = bu.smooth_curve(x)
    assert smooth.shape == x.shape
    assert np.std(np.diff(smooth)) < np.std(np.diff(x)) / 3
    assert bu.smooth_curve(np.full(30, 2.0)) == pytest.approx(np.full(30, 2.0))


def test_shuffle_dataset(on: Namespace) -> None:
    x, t = np.arange(10.0)[:, None], np.arange(10)
    np.random.seed(1)
    shuffled, labels = bu.shuffle_dataset(on.array(x), on.array(t))
    np.random.seed(1)
    order = np.random.permutation(10)
    assert to_numpy(shuffled)[:, 0].tolist() == to_numpy(labels).tolist() == order.tolist()


# --- the chapters' scripts -----------------------------------------------------------------------------------------


def test_load_mnist() -> None:
    (x_train, t_train), (x_test, t_test) = load_mnist(data="sample")
    assert x_train.shape == (10_000, 784)
    assert x_train.dtype == np.float32
    assert x_train.max() == 1.0
    assert t_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert len(x_test) == len(t_test) == 2000
    (x, t), _ = load_mnist(normalize=False, flatten=False, one_hot_label=True, data="sample")
    assert x.shape == (10_000, 1, 28, 28)
    assert x.dtype == np.uint8
    assert t.shape == (10_000, 10)
    assert (t.argmax(axis=1) == t_train).all()


def test_chapter_5_trains_and_draws_its_weights_as_the_book_does() -> None:
    (x_train, t_train), (x_test, t_test) = load_mnist(normalize=True, one_hot_label=True, data="sample")
    np.random.seed(0)
    network = TwoLayerNet(input_size=784, hidden_size=50, output_size=10)
    np.random.seed(0)
    assert (network.params["W1"] == 0.01 * np.random.randn(784, 50)).all()
    assert (network.params["W2"] == 0.01 * np.random.randn(50, 10)).all()
    iters_num, batch_size, learning_rate = 600, 100, 0.5
    train_loss_list = []
    for _ in range(iters_num):
        batch_mask = np.random.choice(x_train.shape[0], batch_size)
        x_batch, t_batch = x_train[batch_mask], t_train[batch_mask]
        grad = network.gradient(x_batch, t_batch)
        for key in ("W1", "b1", "W2", "b2"):
            network.params[key] -= learning_rate * grad[key]
        train_loss_list.append(network.loss(x_batch, t_batch))
    assert train_loss_list[0] > 2.2
    assert network.accuracy(x_test, t_test) > 0.85
    assert network.predict(x_test[:3]).sum(axis=1) == pytest.approx(np.ones(3))


@pytest.mark.parametrize("use_batchnorm", [False, True])
@pytest.mark.parametrize("use_dropout", [False, True])
def test_chapter_6_trainer(on: Namespace, use_batchnorm: bool, use_dropout: bool) -> None:
    x = RNG.standard_normal((120, 8))
    t = (x @ RNG.standard_normal((8, 3))).argmax(axis=1)
    np.random.seed(0)
    network = MultiLayerNetExtend(
        8, [16, 16], 3, use_dropout=use_dropout, dropout_ration=0.1, use_batchnorm=use_batchnorm
    )
    x, t = on.array(x), on.array(t)
    trainer = Trainer(network, x, t, x, t, 15, 20, "Adam", {"lr": 0.02}, verbose=False)
    trainer.train()
    assert len(trainer.train_loss_list) == trainer.max_iter == 90
    assert len(trainer.train_acc_list) == len(trainer.test_acc_list) == 15
    assert trainer.test_acc_list[-1] > 0.8
    assert ("gamma1" in network.params) == use_batchnorm


def test_the_trainer_speaks_as_the_book_s(capsys: pytest.CaptureFixture[str]) -> None:
    x, t = RNG.standard_normal((20, 4)), RNG.integers(0, 2, 20)
    Trainer(MultiLayerNet(4, [3], 2), x, t, x, t, epochs=1, mini_batch_size=10).train()
    shown = capsys.readouterr().out
    assert "train loss:" in shown
    assert "=== epoch:1, train acc:" in shown
    assert "=============== Final Test Accuracy ===============" in shown
    with pytest.raises(ValueError, match="Did you mean 'adam'"):
        Trainer(MultiLayerNet(4, [3], 2), x, t, x, t, optimizer="adamm")


def test_weight_decay_is_in_loss_and_gradient(on: Namespace) -> None:
    x, t = on.array(RNG.standard_normal((6, 4))), on.array(RNG.integers(0, 3, 6))
    np.random.seed(5)
    plain = MultiLayerNet(4, [5], 3, activation="sigmoid", weight_init_std="xavier")
    np.random.seed(5)
    decayed = MultiLayerNet(4, [5], 3, "sigmoid", "xavier", weight_decay_lambda=0.1)
    squares = sum(float((to_numpy(plain.params[name]) ** 2).sum()) for name in ("W1", "W2"))
    assert decayed.loss(x, t) == pytest.approx(plain.loss(x, t) + 0.05 * squares)
    numeric, analytic = decayed.numerical_gradient(x, t), decayed.gradient(x, t)
    for name, gradient in analytic.items():  # the loss has 1e-7 inside its logarithm, backpropagation has not
        assert to_numpy(gradient) == pytest.approx(to_numpy(numeric[name]), abs=1e-6)


def test_initial_values_follow_the_book() -> None:
    for name, scale in {"relu": (2 / 300) ** 0.5, "He": (2 / 300) ** 0.5, "sigmoid": 300**-0.5, 0.01: 0.01}.items():
        network = MultiLayerNet(300, [200], 10, weight_init_std=name)
        assert np.std(network.params["W1"]) == pytest.approx(scale, rel=0.02)
