"""Every layer: gradients by projection on every namespace, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, away_from_zero, check_projection

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.layers import LAYERS, LOSSES, activation

# one or more ways to make each layer, and the shape of a row that it takes
MAKE: dict[str, list[tuple[Callable[[], nn.Layer], tuple[int, ...]]]] = {
    "Affine": [
        *[(lambda: nn.Affine(5, 3), (5,)), (lambda: nn.Affine(1, 1), (1,))],
        *[(lambda: nn.Affine(5, 3), (4, 5)), (lambda: nn.Affine(5, 3), (1, 5)), (lambda: nn.Affine(2, 3), (2, 1, 2))],
    ],
    "Sigmoid": [(nn.Sigmoid, (4,))],
    "ReLU": [(nn.ReLU, (4,))],
    "LeakyReLU": [(lambda: nn.LeakyReLU(0.2), (4,))],
    "Tanh": [(nn.Tanh, (4,)), (nn.Tanh, (3, 4))],
    "ELU": [(lambda: nn.ELU(0.7), (4,))],
    "GELU": [(nn.GELU, (4,))],
    "SiLU": [(nn.SiLU, (4,))],
    "Softmax": [(nn.Softmax, (4,)), (nn.Softmax, (3, 4))],
    "BatchNormalization": [
        (lambda: nn.BatchNormalization(4), (4,)),
        (lambda: nn.BatchNormalization(3), (5, 2, 3)),
        (lambda: nn.BatchNormalization(3), (4, 3)),
    ],
    "LayerNormalization": [(lambda: nn.LayerNormalization(4), (4,)), (lambda: nn.LayerNormalization(3), (5, 2, 3))],
    "Dropout": [(lambda: nn.Dropout(0.4), (4,)), (lambda: nn.Dropout(0.0), (2, 3))],
    "Convolution": [
        (lambda: nn.Convolution(2, 3, 3, padding=1), (4, 5, 2)),
        (lambda: nn.Convolution(1, 2, (1, 3), stride=(2, 1)), (5, 4, 1)),
    ],
    "MaxPooling": [(lambda: nn.MaxPooling(2), (4, 5, 2)), (lambda: nn.MaxPooling(3, 2, 1), (4, 5, 2))],
    "AveragePooling": [
        (lambda: nn.AveragePooling((2, 3)), (5, 6, 2)),
        (lambda: nn.AveragePooling(3, stride=1, padding=1), (4, 4, 1)),
    ],
    "Flatten": [(nn.Flatten, (2, 3, 2)), (nn.Flatten, (4,))],
    "RNN": [(lambda: nn.RNN(3, 2), (4, 3)), (lambda: nn.RNN(1, 1), (1, 1))],
    "LSTM": [(lambda: nn.LSTM(3, 2), (4, 3)), (lambda: nn.LSTM(1, 3), (1, 1))],
    "GRU": [(lambda: nn.GRU(3, 2), (4, 3)), (lambda: nn.GRU(1, 3), (1, 1))],
    "MultiHeadAttention": [
        (lambda: nn.MultiHeadAttention(6, 2), (4, 6)),
        (lambda: nn.MultiHeadAttention(3, 3, causal=True), (5, 3)),
        (lambda: nn.MultiHeadAttention(1, 1), (1, 1)),
    ],
    "PositionalEncoding": [
        (lambda: nn.PositionalEncoding(5, 7), (4, 5)),
        (lambda: nn.PositionalEncoding(2, 6, learned=True), (4, 2)),
        (lambda: nn.PositionalEncoding(1, 1, learned=True), (1, 1)),
    ],
    "LastStep": [(nn.LastStep, (4, 3)), (nn.LastStep, (1,))],
    "Embedding": [(lambda: nn.Embedding(5, 3), (4,)), (lambda: nn.Embedding(2, 1), ())],
    "Sequential": [
        (lambda: nn.Sequential([nn.Affine(4, 3), nn.Tanh(), nn.Affine(3, 2)]), (4,)),
        (lambda: nn.Sequential([]), (2, 3)),
        (lambda: nn.Sequential([nn.Sequential([nn.ELU()]), nn.Convolution(2, 3, 3)]), (4, 5, 2)),
    ],
    "Residual": [
        (lambda: nn.Residual([nn.Affine(4, 5), nn.Tanh(), nn.Affine(5, 4)]), (4,)),
        (lambda: nn.Residual([nn.Convolution(2, 3, 3, padding=1), nn.SiLU()], nn.Convolution(2, 3, 1)), (4, 5, 2)),
        (lambda: nn.Residual([nn.Affine(4, 3)], [nn.Affine(4, 2), nn.Tanh(), nn.Affine(2, 3)]), (4,)),
    ],
    "Parallel": [
        (lambda: nn.Parallel([nn.Affine(4, 3), [nn.Affine(4, 3), nn.Sigmoid()], nn.Affine(4, 3)]), (4,)),
        (lambda: nn.Parallel([nn.Tanh()]), (4,)),
        (lambda: nn.Parallel([[], nn.Affine(4, 3), nn.ELU()], "concatenate"), (4,)),
        (lambda: nn.Parallel([nn.Convolution(2, 3, (1, 3)), nn.Convolution(2, 1, (1, 3))], "concatenate"), (2, 5, 2)),
    ],
    "RandomAffine": [
        (lambda: nn.RandomAffine(0.3, 40.0, 0.3, 0.5), (5, 6, 2)),
        (lambda: nn.RandomAffine(0.0, 0.0, 0.0), (4, 1, 1)),
    ],
    "RandomElastic": [(lambda: nn.RandomElastic(1.0, 2.5, -1.0), (5, 6, 2)), (nn.RandomElastic, (1, 4, 1))],
    "RandomFlip": [(nn.RandomFlip, (3, 5, 2)), (lambda: nn.RandomFlip(1.0), (2, 3, 1))],
    "GaussianNoise": [(lambda: nn.GaussianNoise(0.3), (5,)), (lambda: nn.GaussianNoise(0.0), (2, 3, 1))],
}
CASES = [pytest.param(make, shape, id=f"{name}-{i}") for name in MAKE for i, (make, shape) in enumerate(MAKE[name])]


def batch(layer: nn.Layer, n: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows that the layer takes: ids from 0 to 1, or numbers off the kinks."""
    return rng.integers(0, 2, (n, *shape)) if layer.input_dtype else away_from_zero(rng, (n, *shape))


def test_every_layer_is_in_the_table() -> None:
    assert set(MAKE) == set(LAYERS)


@pytest.mark.parametrize(("make", "shape"), CASES)
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("training", [False, True])
def test_gradients(on: Namespace, make: Any, shape: tuple[int, ...], n: int, training: bool) -> None:
    layer = make().initialize(seed=3, dtype="float64")
    parameters = [parameter for parameter in layer.parameters().values() if parameter.trainable]
    rng = np.random.default_rng(4)
    values = [rng.standard_normal(p.shape) for p in parameters]  # where all are 0 or 1, a forgotten factor is not seen

    def forward(x: Any, *new_values: Any) -> Any:
        for parameter, value in zip(parameters, new_values, strict=True):
            parameter.data[...] = value
        return layer.forward(x, training)

    x, dtype = batch(layer, n, shape, rng), layer.input_dtype or "float64"
    assert tuple(layer.forward(on.array(x, dtype)).shape[1:]) == layer.output_shape(shape)
    forward(on.array(x, dtype), *[on.array(v, "float64") for v in values])

    def gradients(u: Any) -> list[Any]:
        dx = layer.backward(u)
        return [*([] if dx is None else [dx]), *[p.grad for p in parameters]]

    if layer.input_dtype:  # ids have no gradient
        check_projection(on, lambda *new: forward(on.array(x), *new), gradients, values)
    else:
        check_projection(on, forward, gradients, [x, *values])


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_a_layer_leaves_its_input_alone(on: Namespace, make: Any, shape: tuple[int, ...]) -> None:
    layer = make().initialize()
    x = batch(layer, 3, shape, np.random.default_rng(5)).astype(layer.input_dtype or "float32")
    given = on.array(x)
    dy = layer.forward(given)
    before = to_numpy(dy).copy()
    layer.backward(dy)
    assert to_numpy(given).tobytes() == x.tobytes()
    assert to_numpy(dy).tobytes() == before.tobytes()


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_settings_make_the_layer_again(make: Any, shape: tuple[int, ...]) -> None:
    layer = make()
    again = LAYERS[layer.kind](**layer.config())
    assert again.config() == layer.config()
    assert again.output_shape(shape) == layer.output_shape(shape)


def test_affine_weights_by_name_number_or_initializer() -> None:
    layer = nn.Affine(300, 200, weight=0.5, bias="ones").initialize(seed=0, dtype="float64")
    assert np.std(layer.W.data) == pytest.approx(0.5, rel=0.02)
    assert np.all(layer.b.data == 1.0)
    assert np.std(nn.Affine(400, 200, weight="he").initialize().W.data) == pytest.approx((2 / 400) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Affine(0, 3), ValueError, "input_size must be a positive integer, got 0"),
        (lambda: nn.Affine(3, 2.5), ValueError, "output_size must be a positive integer, got 2.5"),
        (lambda: nn.Affine(3, True), ValueError, "output_size must be a positive integer"),
        (lambda: nn.Affine(3, 2, weight="hee"), ValueError, "Did you mean 'he'?"),
        (lambda: nn.Affine(3, 2, weight=-1.0), ValueError, "standard deviation >= 0, got -1.0"),
        (lambda: nn.Affine(3, 2, bias=[1]), TypeError, "bias: expected an initializer"),
        (lambda: nn.LeakyReLU(-0.1), ValueError, "alpha must be at least 0 and below 1, got -0.1"),
        (lambda: nn.LeakyReLU(1.0), ValueError, "alpha must be at least 0 and below 1"),
        (lambda: nn.LeakyReLU("0.1"), ValueError, "LeakyReLU: alpha must be a number, got '0.1'"),
        (lambda: nn.ELU(float("inf")), ValueError, "ELU: alpha must be at least 0 and finite, got inf"),
        (lambda: nn.ELU(None), ValueError, "ELU: alpha must be a number, got None"),
        (lambda: activation("rleu"), ValueError, "Did you mean 'relu'?"),
        (lambda: nn.Affine(3, 2).forward(np.zeros((1, 3), "float32")), ValueError, "no parameter values yet"),
        (lambda: nn.Affine(3, 2).initialize().forward(np.zeros((1, 4), "float32")), ValueError, r"(n, 3), got (1, 4)"),
        (lambda: nn.Affine(3, 2).initialize().forward(np.zeros((1, 3))), ValueError, "x has dtype float64"),
        (lambda: nn.Affine(3, 2).initialize().forward([[1, 2, 3]]), nn.BackendError, "Affine: argument x is a list"),
    ],
)
def test_bad_input(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


def images(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Convolution(0, 3, 3), "in_channels must be a positive integer, got 0"),
        (lambda: nn.Convolution(3, 2.0, 3), "out_channels must be a positive integer, got 2.0"),
        (lambda: nn.Convolution(1, 2, 0), "kernel_size must be an integer of at least 1, or a pair of them, got 0"),
        (lambda: nn.Convolution(1, 2, (3, 3, 3)), "kernel_size must be an integer of at least 1"),
        (lambda: nn.Convolution(1, 2, 3, stride=(1, 0)), "stride must be an integer of at least 1"),
        (lambda: nn.Convolution(1, 2, 3, padding=-1), "padding must be an integer of at least 0"),
        (lambda: nn.Convolution(1, 2, 3, padding="same"), "or a pair of them, got 'same'"),
        (lambda: nn.Convolution(1, 2, 3, weight="hee"), "Did you mean 'he'?"),
        (lambda: nn.Convolution(1, 2, 3).forward(images(1, 4, 4, 1)), "no parameter values yet"),
        (lambda: nn.Convolution(1, 2, 3).initialize().forward(images(4, 4, 1)), "(n, h, w, 1), got (4, 4, 1)"),
        (lambda: nn.Convolution(1, 2, 3).initialize().forward(images(1, 1, 4, 4)), "(n, h, w, 1), got (1, 1, 4, 4)"),
        (lambda: nn.Convolution(1, 2, 5).initialize().forward(images(1, 4, 4, 1)), "does not fit an image of (4, 4)"),
        (lambda: nn.Convolution(1, 2, 5).output_shape((4, 4, 1)), "Convolution: a window of (5, 5) does not fit"),
        (lambda: nn.Convolution(1, 2, 5).output_shape((9, 9, 3)), "takes images of (h, w, 1), but what comes before"),
        (lambda: nn.Convolution(1, 2, 5).output_shape((81,)), "takes images of (h, w, 1), but what comes before"),
        (lambda: nn.MaxPooling(0), "MaxPooling: size must be an integer of at least 1"),
        (lambda: nn.MaxPooling(2, stride=0), "MaxPooling: stride must be"),
        (lambda: nn.AveragePooling(3, padding=2), "padding must be at most half the size (3, 3), got (2, 2)"),
        (lambda: nn.MaxPooling(2).forward(images(4, 4)), "MaxPooling: argument x must have shape (n, h, w, c)"),
        (lambda: nn.MaxPooling(5).output_shape((4, 4, 1)), "MaxPooling: a window of (5, 5) does not fit"),
        (lambda: nn.AveragePooling(2).output_shape((16,)), "takes images of (h, w, c), but what comes before"),
    ],
)
def test_bad_images(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# numbers of NumPy, such as those of a search for good settings: (row, layers)
NUMPY_SETTINGS: list[tuple[tuple[int, ...], Callable[[], list[nn.Layer]]]] = [
    ((4,), lambda: [nn.Affine(np.int64(4), np.int64(3)), nn.LeakyReLU(np.float64(0.1)), nn.ELU(np.float32(0.5))]),
    ((3,), lambda: [nn.BatchNormalization(3, np.float64(1e-5), np.float32(0.8)), nn.Dropout(np.float64(0.2))]),
    ((3,), lambda: [nn.LayerNormalization(np.int32(3), eps=np.float64(1e-3)), nn.GaussianNoise(np.float64(0.2))]),
    ((4, 6, 1), lambda: [nn.Convolution(1, np.int64(2), np.int64(3), padding=(np.int64(1), 1)),
                         nn.MaxPooling(np.int64(2)), nn.AveragePooling((np.int64(2), 3)), nn.Flatten()]),
    ((4, 3), lambda: [nn.LSTM(3, np.int64(2)), nn.MultiHeadAttention(np.int64(2), np.int64(1)), nn.LastStep()]),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "make"), NUMPY_SETTINGS)
def test_settings_that_are_numbers_of_numpy(on: Namespace, shape: tuple[int, ...], make: Any, tmp_path: Path) -> None:
    net = nn.Network(make(), nn.MeanSquaredError())
    x = np.random.default_rng(0).standard_normal((6, *shape)).astype("float32")
    t = np.zeros((6, *net.output_shape(shape)), "float32")
    nn.Trainer(net, nn.Adam(np.float32(0.01), np.float64(0.9)), batch_size=3).fit(x, t, 1)
    y = net.predict(x)
    assert y.dtype == on.backend.dtype("float32")
    net.save(tmp_path / "net")
    assert nn.to_numpy(nn.load(tmp_path / "net").predict(x)).tolist() == nn.to_numpy(y).tolist()
    values = [value for layer in net.every_layer().values() for value in layer.config().values()]
    assert not any(isinstance(part, np.generic) for value in values for part in np.atleast_1d(value).astype(object))
    if find_spec("onnx"):
        net.to_onnx(tmp_path / "net.onnx", input_shape=shape)


def test_settings_of_images_are_numbers_or_pairs() -> None:
    assert nn.Convolution(1, 2, 3, 2).config() == nn.Convolution(1, 2, [3, 3], (2, 2), [0, 0]).config()
    assert nn.MaxPooling(2).config() == nn.MaxPooling((2, 2), (2, 2)).config()


def test_a_network_of_convolutions(on: Namespace, tmp_path: Path) -> None:
    network = nn.convolutional_network((9, 8, 1), 3, channels=(2, 4), hidden_size=5)
    rng = np.random.default_rng(6)
    x, t = rng.standard_normal((20, 9, 8, 1)).astype("float32"), rng.integers(0, 3, 20)
    assert list(network.params) == ["W1", "b1", "W2", "b2", "W3", "b3", "W4", "b4"]
    before = network.loss(x, t)
    given, target = network.data(x, t)
    for _ in range(20):
        network.loss_and_output(given, target)
        network.backward()
        network.buffer.data[...] = network.buffer.data - 0.1 * network.buffer.grad
    assert network.loss(x, t) < before
    network.save(tmp_path / "m.safetensors")
    again = nn.load(tmp_path / "m.safetensors")
    y = network.predict(x)
    assert_close(again.predict(x), y, "float32")
    assert_close(network.predict(x[0]), y[0, ...], "float32", terms=40)  # one image gives one row
    assert_close(again.predict(x[:0]), np.zeros((0, 3), "float32"), "float32")
    with pytest.raises(ValueError, match=r"x: expected shape \(n, any, any, 1\), got \(20, 9, 8\)"):
        network.predict(x[..., 0])


def test_networks_of_images_meet_or_are_refused() -> None:
    convolution, flatten = nn.Convolution(1, 2, 3), nn.Flatten()
    network = nn.Network([convolution, nn.ReLU(), nn.MaxPooling(2), flatten, nn.Affine(8, 3)])
    assert network.output_shape((6, 6, 1)) == (3,)
    with pytest.raises(ValueError, match=r"Affine1 takes rows of shape \(8,\)"):
        network.loss(images(2, 8, 8, 1), [0, 1])
    assert tuple(nn.Network([nn.Flatten(), nn.Affine(16, 3)]).predict(images(2, 4, 4)).shape) == (2, 3)
    with pytest.raises(ValueError, match=r"Affine2 takes rows of shape \(4,\)"):
        nn.Network([nn.Flatten(), nn.Affine(16, 3), nn.Affine(4, 2)])


def test_two_libraries_that_meet_in_a_layer_are_both_named() -> None:
    pytest.importorskip("array_api_strict")
    layer = nn.Affine(3, 2).initialize()
    with nn.using("array_api_strict:device1") as strict:
        x = strict.asarray(np.zeros((1, 3), "float32"))
    with pytest.raises(nn.BackendError, match=r"Affine: argument x is a array_api_strict array on .*device1.*numpy"):
        layer.forward(x)


def test_two_devices_that_meet_in_a_layer_are_both_named() -> None:
    with nn.using("array_api_strict:device1"):
        layer = nn.Affine(3, 2).initialize()
    with nn.using("array_api_strict:device2") as other:
        x = other.asarray(np.zeros((1, 3), "float32"))
    with pytest.raises(nn.BackendError, match=r"device2.*device1"):
        layer.forward(x)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_check_their_targets(on: Namespace, kind: str) -> None:
    loss = LOSSES[kind]()

    def target(t: Any, n: int = 3, shape: tuple[int, ...] = (2,)) -> Any:
        return loss.target(t, n, shape, on.backend, "float32")

    assert_close(target([[1.0, 0.0], [0, 1], [1, 0]]), np.array([[1, 0], [0, 1], [1, 0]], "float32"), "float32")
    with pytest.raises(ValueError, match="NaN"):
        target([[1.0, 0.0], [0, np.nan], [1, 0]])
    with pytest.raises(ValueError, match="x has 3 rows, but t has 4"):
        target([0, 1, 0, 1])


def test_softmax_with_loss_refuses_labels(on: Namespace) -> None:
    loss = nn.SoftmaxWithLoss()
    bad = {
        "labels must lie in 0 to 1, got 0 to 2": [0, 1, 2],
        "got -1 to 1": [0, 1, -1],
        "labels must be integers, got dtype": [0.0, 1.0, 1.0],
        "one-hot rows, got shape": [[0], [1], [0]],
    }
    for message, t in bad.items():
        with pytest.raises(ValueError, match=message):
            loss.target(t, 3, (2,), on.backend, "float32")
    with pytest.raises(ValueError, match=r"expected \(3, 2\) integer labels or \(3, 2, 2\) one-hot rows"):
        loss.target([0, 1, 1], 3, (2, 2), on.backend, "float32")
    with pytest.raises(ValueError, match="rows have shape"):
        loss.target([0, 1, 1], 3, (), on.backend, "float32")


def test_squared_error_takes_a_vector_for_one_column(on: Namespace) -> None:
    t = nn.MeanSquaredError().target([1.0, 2.0, 3.0], 3, (1,), on.backend, "float32")
    assert tuple(t.shape) == (3, 1)
    with pytest.raises(ValueError, match=r"expected shape \(3, 2\)"):
        nn.MeanSquaredError().target([1.0, 2.0, 3.0], 3, (2,), on.backend, "float32")


# --- ReLU and max pooling -----------------------------------------------------------------------------------------


def test_relu_is_computed_behind_the_pooling_that_follows_it(on: Namespace) -> None:
    """It has a quarter of the elements there. The bits are the same: of equal elements the first has the gradient."""
    rng = np.random.default_rng(0)
    x = on.array(
        rng.integers(-2, 3, (6, 6, 6, 2)) / 4, "float64"
    )  # equal elements, zeros, windows without a positive one

    def passes(layers: list[nn.Layer]) -> list[Any]:
        net = nn.Network(
            [nn.Convolution(2, 3, 1), *layers, nn.Flatten()], nn.MeanSquaredError(), seed=1, dtype="float64"
        )
        y = net.forward(x, training=True)
        net.backward(on.array(rng_of_dy.standard_normal(tuple(y.shape)), "float64"))
        return [to_numpy(a) for a in (y, *net.grads.values())]

    class Own(nn.ReLU):
        """Stays where it is."""

    seen: list[tuple[int, ...]] = []
    for layer in (nn.ReLU, Own):
        rng_of_dy = np.random.default_rng(1)
        found = passes([layer(), nn.MaxPooling(2), nn.ReLU(), nn.MaxPooling(2, padding=1)])
        seen.append(found)
    for a, b in zip(*seen, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_relu_is_behind_the_pooling_only_where_nobody_looks() -> None:
    net = nn.Network([nn.Convolution(1, 2, 3), nn.ReLU(), nn.MaxPooling(2), nn.Flatten()], nn.MeanSquaredError())
    relu: Any = net.layers["ReLU1"]
    x = np.random.default_rng(0).standard_normal((3, 6, 6, 1)).astype("float32")
    net.forward(x)
    assert relu.behind_pooling
    assert tuple(relu._y.shape) == (3, 2, 2, 2)
    outputs = net.activations(x)
    assert not relu.behind_pooling
    assert tuple(outputs["ReLU1"].shape) == (3, 4, 4, 2)
    np.testing.assert_array_equal(outputs["Flatten1"], net.predict(x))
    relu.forward(outputs["Convolution1"])  # by hand, layer by layer
    dy = net.layers["MaxPooling1"].forward(outputs["ReLU1"])
    net.layers["Flatten1"].forward(dy)
    net.backward(outputs["Flatten1"])
    assert np.abs(net.grads["W1"]).max() > 0
