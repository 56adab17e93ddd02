"""ONNX files, run by onnxruntime and compared with the network that they were made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.functions.array import array_namespace
from nnbackend.layers import ACTIVATIONS, LAYERS, LOSSES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Make = Callable[[np.random.Generator], list[nn.Layer]]


def size(rng: np.random.Generator, low: int = 1, high: int = 6) -> int:
    return int(rng.integers(low, high))


def convolution(rng: np.random.Generator, channels: int = 0) -> nn.Convolution:
    kernel, padding = (size(rng, 1, 4), size(rng, 1, 4)), (size(rng, 0, 3), size(rng, 0, 3))
    stride = (size(rng, 1, 4), size(rng, 1, 3))
    return nn.Convolution(channels or size(rng), size(rng), kernel, stride, padding, bias=0.3)


def pooling(kind: type[nn.Layer], rng: np.random.Generator) -> nn.Layer:
    window = (size(rng, 1, 4), size(rng, 1, 4))
    return kind(window, (size(rng, 1, 4), size(rng, 1, 3)), (size(rng, 0, window[0] // 2 + 1), window[1] // 2))


# for each layer, ways to make a network of it, by random sizes
STACKS: dict[str, list[Make]] = {
    "Affine": [lambda rng: [nn.Affine(size(rng), size(rng), bias=0.5)]],
    **{
        ACTIVATIONS[name]().kind: [
            lambda rng, make=make: [nn.Affine(3, size(rng)), make()],
            lambda rng, make=make: [convolution(rng), make()],
        ]
        for name, make in ACTIVATIONS.items()
    },
    "Softmax": [
        lambda rng: [nn.Affine(3, size(rng)), nn.Softmax()],
        lambda rng: [convolution(rng), nn.Softmax()],
    ],
    "BatchNormalization": [
        lambda rng: [nn.Affine(4, 5), nn.BatchNormalization(5), nn.Tanh()],
        lambda rng: [nn.BatchNormalization(4), nn.Affine(4, 5)],
        lambda rng: [nn.Affine(2, 5), nn.Tanh(), nn.BatchNormalization(5)],
        lambda rng: [nn.Convolution(2, 5, 3, bias=0.1), nn.Dropout(0.5), nn.BatchNormalization(5)],
        lambda rng: [nn.Convolution(2, 5, 3, bias=0.1), nn.ReLU(), nn.BatchNormalization(5)],
        lambda rng: [nn.BatchNormalization(2), nn.Convolution(2, 3, 3)],
        lambda rng: [nn.BatchNormalization(2), nn.Convolution(2, 3, 3, padding=1)],
        lambda rng: [nn.Convolution(1, 2, 1), nn.BatchNormalization(2), nn.MaxPooling(2), nn.Convolution(2, 3, 1)],
        lambda rng: [nn.Convolution(2, 3, 3), nn.Flatten(), nn.BatchNormalization(12), nn.Affine(12, 2)],
    ],
    "LayerNormalization": [
        lambda rng: [nn.Affine(4, 5), nn.LayerNormalization(5)],
        lambda rng: [nn.Convolution(2, 5, 3), nn.LayerNormalization(5), nn.Convolution(5, 2, 2)],
    ],
    "Dropout": [lambda rng: [nn.Affine(4, 5), nn.Dropout(0.4)], lambda rng: [nn.Dropout(0.1), nn.Affine(4, 5)]],
    **{
        kind.__name__: [lambda rng, kind=kind: [c := convolution(rng), kind(), convolution(rng, c.b.size)]]
        for kind in (nn.RandomAffine, nn.RandomElastic, nn.RandomFlip)
    },
    "GaussianNoise": [lambda rng: [nn.GaussianNoise(0.4), nn.Affine(4, 5)]],
    "Convolution": [lambda rng: [convolution(rng)], lambda rng: [c := convolution(rng), convolution(rng, c.b.size)]],
    "MaxPooling": [lambda rng: [c := convolution(rng), pooling(nn.MaxPooling, rng), convolution(rng, c.b.size)]],
    "AveragePooling": [
        lambda rng: [c := convolution(rng), pooling(nn.AveragePooling, rng), convolution(rng, c.b.size)]
    ],
    "Flatten": [
        lambda rng: [convolution(rng, 2), nn.Flatten()],
        lambda rng: [nn.Convolution(2, 3, 2), nn.Flatten(), nn.GELU(), nn.Dropout(), nn.Affine(12, 4)],
        lambda rng: [nn.Convolution(2, 3, 2), nn.Flatten(), nn.Softmax(), nn.Affine(12, 4)],
        lambda rng: [nn.Convolution(2, 3, 2), nn.Flatten(), nn.Flatten(), nn.Affine(12, 4)],
        lambda rng: [nn.Convolution(2, 3, 2), nn.Flatten(), nn.Residual([nn.Affine(12, 12)]), nn.Affine(12, 4)],
    ],
    "Sequential": [
        lambda rng: [nn.Sequential([nn.Affine(4, 5), nn.Sequential([]), nn.Dropout()]), nn.BatchNormalization(5)],
        lambda rng: [shared := nn.Affine(3, 3), nn.Sequential([nn.Tanh(), shared]), shared],
    ],
    "Residual": [
        lambda rng: [nn.Residual([nn.Affine(4, 5), nn.BatchNormalization(5), nn.GELU(), nn.Affine(5, 4)]), nn.Tanh()],
        lambda rng: [c := convolution(rng), nn.Residual([nn.Convolution(c.b.size, c.b.size, 3, padding=1), nn.ELU()])],
        lambda rng: [
            nn.Residual([nn.Convolution(2, 3, 3, 2, 1), nn.ReLU()], [nn.AveragePooling(1, 2), nn.Convolution(2, 3, 1)]),
            nn.MaxPooling(2),
        ],
        lambda rng: [
            nn.Residual([nn.Convolution(2, 3, 2), nn.Flatten(), nn.Affine(12, 4)], [nn.Flatten(), nn.Affine(18, 4)])
        ],
    ],
    "Parallel": [
        lambda rng: [nn.Parallel([nn.Affine(4, size(rng)), [nn.Affine(4, 3), nn.SiLU()], []], "concatenate")],
        lambda rng: [convolution(rng, 2), nn.Parallel([nn.Softmax(), [], nn.ReLU()], "concatenate"), nn.Flatten()],
        lambda rng: [nn.Parallel([nn.Convolution(2, 3, 1), nn.Convolution(2, 3, 1)]), nn.MaxPooling(2)],
    ],
    **{
        kind.__name__: [
            lambda rng, kind=kind: [r := kind(size(rng), size(rng), bias=0.5), nn.Tanh(), kind(r.hidden_size, 2)],
            lambda rng, kind=kind: [nn.Embedding(9, 3), kind(3, size(rng), bias=0.5, stateful=4)],
        ]
        for kind in (nn.RNN, nn.LSTM, nn.GRU)
    },
    "MultiHeadAttention": [
        lambda rng: [nn.MultiHeadAttention(6, 2, bias=0.5)],
        lambda rng: [nn.Embedding(9, 4), nn.MultiHeadAttention(4, 4, causal=True), nn.LayerNormalization(4)],
        lambda rng: [nn.MultiHeadAttention(6, 1, causal=True), nn.LSTM(6, 2)],
    ],
    "PositionalEncoding": [
        lambda rng: [nn.PositionalEncoding(3, 9), nn.Tanh()],
        lambda rng: [nn.Embedding(9, 3), nn.PositionalEncoding(3, 9, learned=True)],
    ],
    "LastStep": [lambda rng: [nn.LSTM(3, 4), nn.LastStep(), nn.Affine(4, 2)]],
    "Embedding": [
        lambda rng: [nn.Embedding(size(rng, 3, 9), size(rng))],
        lambda rng: [nn.Embedding(9, 4), nn.Tanh(), nn.LayerNormalization(4)],
    ],
}
CASES = [pytest.param(make, id=f"{name}-{i}") for name in STACKS for i, make in enumerate(STACKS[name])]


def network(layers: list[nn.Layer], dtype: str = "float32", loss: nn.Loss | None = None, seed: int = 0) -> nn.Network:
    """A network whose parameters and statistics all hold random values."""
    net = nn.Network(layers, loss or nn.MeanSquaredError(), seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    for name, view in [*net.params.items(), *net.statistics.items()]:
        if name[0] in "hc":
            continue  # a state that is carried over is none of what is exported
        spread = rng.uniform(0.5, 2.0, view.shape) if "var" in name else 0.7 * rng.standard_normal(view.shape)
        (net.params if name in net.params else net.statistics)[name] = spread
    return net


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["x"]
    return session.run(["y"], {"x": x})[0]


def compare(net: nn.Network, path: Path, shape: tuple[int, ...], input_shape: Any = None) -> None:
    exported = net.to_onnx(path, input_shape=input_shape)
    assert exported.difference is not None
    onnx.checker.check_model(str(path), full_check=True)
    rng = np.random.default_rng(8)
    for n in (1, 4, 9):
        x = rng.standard_normal((n, *shape)).astype(net.dtype)
        if isinstance(first := next(iter(net.layers.values())), nn.Embedding):
            x = rng.integers(0, first.vocabulary, (n, *shape))
        assert_close(run(path, x), net.predict_proba(x), net.dtype, terms=400)


def shape_for(net: nn.Network) -> tuple[int, ...]:
    """Sides that the network takes, no square unless it wants one."""
    assert net.input_shape is not None
    if len(net.input_shape) == 2:
        return (5, net.input_shape[1] or 3)
    if None not in net.input_shape:
        return tuple(side for side in net.input_shape if side is not None)
    for h, w in [(9, 12), (13, 11), *((side, side) for side in range(1, 99))]:
        try:
            net.output_shape((h, w, net.input_shape[-1] or 3))
        except ValueError:
            continue
        return h, w, net.input_shape[-1] or 3
    raise AssertionError(net)


def test_every_layer_is_in_the_table() -> None:
    assert set(STACKS) == set(LAYERS)


def sequences(net: nn.Network) -> bool:
    """Say whether the rows of the network are sequences."""
    return any(layer.input_shape is not None and len(layer.input_shape) == 2 for layer in net.layers.values())


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 1])
def test_onnxruntime_computes_the_same(make: Make, dtype: str, seed: int, tmp_path: Path) -> None:
    net = network(make(np.random.default_rng(seed)), dtype, seed=seed)
    if isinstance(next(iter(net.layers.values())), nn.Embedding):
        for shape in ((5,), (1,)) if sequences(net) else ((), (5,), (3, 2)):
            compare(net, tmp_path / "net.onnx", shape, input_shape=shape)
    else:
        compare(net, tmp_path / "net.onnx", shape_for(net))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_output_is_that_of_the_loss(name: str, dtype: str, tmp_path: Path) -> None:
    net = network([nn.Affine(3, 4)], dtype, LOSSES[name]())
    compare(net, tmp_path / "net.onnx", (3,))


def test_two_layer_net_and_an_autoencoder_of_images(tmp_path: Path) -> None:
    compare(nn.TwoLayerNet(7, 5, 3, weight_init_std=1.0), tmp_path / "two.onnx", (7,))
    images = network([nn.Convolution(2, 3, 3, padding=1), nn.ReLU(), nn.Convolution(3, 2, 3, padding=1)])
    images.loss_layer = nn.SigmoidWithLoss()
    compare(images, tmp_path / "images.onnx", (5, 6, 2))


def test_rows_of_any_shape_need_input_shape(tmp_path: Path) -> None:
    net = network([nn.LayerNormalization(3), nn.BatchNormalization(3), nn.Tanh()])
    with pytest.raises(ValueError, match=r"pass input_shape, such as \(784,\)"):
        net.to_onnx(tmp_path / "net.onnx")
    compare(net, tmp_path / "net.onnx", (5, 2, 3), input_shape=(5, 2, 3))
    pooled = network([nn.MaxPooling(2), nn.Flatten(), nn.Affine(12, 2)])
    with pytest.raises(ValueError, match="pass input_shape"):
        pooled.to_onnx(tmp_path / "net.onnx")
    compare(pooled, tmp_path / "net.onnx", (4, 4, 3), input_shape=(4, 4, 3))
    compare(pooled, tmp_path / "net.onnx", (5, 7, 2), input_shape=(5, 7, 2))


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_slope_of_0_gives_0_for_infinity_too(dtype: str, tmp_path: Path) -> None:
    net, x = network([nn.LeakyReLU(0.0)], dtype), np.array([[-np.inf, -1.0, np.inf]], dtype)
    net.to_onnx(tmp_path / "net.onnx", input_shape=(3,))
    (y,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"x": x})
    assert y.tolist() == net.predict(x).tolist() == [[0.0, 0.0, np.inf]]


def test_rows_with_further_axes(tmp_path: Path) -> None:
    for shape in ((5, 4), (2, 3, 5, 4), (1, 2, 3, 2, 4)):
        net = network([nn.Affine(4, 3), nn.Tanh()])
        compare(net, tmp_path / "net.onnx", shape, input_shape=np.array(shape))
        model = onnx.load(tmp_path / "net.onnx")
        ends = (*model.graph.input, *model.graph.output)
        lengths = [[length.dim_value for length in end.type.tensor_type.shape.dim] for end in ends]
        assert lengths == [[0, *shape], [0, *shape[:-1], 3]]


def test_few_nodes_and_one_transpose(tmp_path: Path) -> None:
    net = nn.convolutional_network((28, 28, 1), dropout_ratio=0.5)
    exported = net.to_onnx(tmp_path / "cnn.onnx", input_shape=(28, 28, 1))
    stage = ["Conv", "Relu", "MaxPool"]
    assert operators(tmp_path / "cnn.onnx") == [
        "Transpose",
        *stage,
        *stage,
        "Flatten",
        "Gemm",
        "Relu",
        "Gemm",
        "Softmax",
    ]
    assert exported.nodes == 12
    assert exported.opset == 20
    assert "12 nodes, opset 20; onnxruntime differs by at most" in str(exported)


@pytest.mark.parametrize(("layers", "expected"), [
    (lambda: [nn.Affine(3, 4), nn.Dropout(), nn.BatchNormalization(4), nn.ReLU()], ["Gemm", "Relu"]),
    (lambda: [nn.BatchNormalization(3), nn.Affine(3, 4)], ["Gemm"]),
    (lambda: [nn.Convolution(3, 4, 2), nn.BatchNormalization(4)], ["Transpose", "Conv", "Transpose"]),
    (lambda: [nn.BatchNormalization(3), nn.Convolution(3, 4, 2)], ["Transpose", "Conv", "Transpose"]),
    (lambda: [nn.BatchNormalization(3), nn.Convolution(3, 4, 2, padding=1)],
     ["Mul", "Add", "Transpose", "Conv", "Transpose"]),
])  # fmt: skip
def test_batch_normalization_is_folded_where_it_can_be(layers: Any, expected: list[str], tmp_path: Path) -> None:
    network(layers()).to_onnx(tmp_path / "net.onnx")
    assert operators(tmp_path / "net.onnx") == expected


def test_the_sides_of_images_stay_open_or_are_fixed(tmp_path: Path) -> None:
    net = network([nn.Convolution(1, 2, 3), nn.ReLU()])
    for fixed, names in ((None, ["n", "height", "width", 1]), ((7, 8, 1), ["n", 7, 8, 1])):
        net.to_onnx(tmp_path / "net.onnx", input_shape=fixed)
        session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == names
    compare(net, tmp_path / "net.onnx", (12, 5, 1))


def test_the_preparation_of_pictures_is_in_the_metadata(tmp_path: Path) -> None:
    net = network([nn.Affine(784, 2)])
    net.preparation = {"cut": True, "size": 0.7, "centre": "mass", "pen": 0.1, "dark": False}
    net.to_onnx(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta()
    assert json.loads(metadata.custom_metadata_map["nnbackend"]) == {"preparation": net.preparation}
    assert metadata.producer_name == "nnbackend"


def test_from_every_backend(on: Namespace, tmp_path: Path) -> None:
    net = network([nn.Affine(3, 4), nn.BatchNormalization(4), nn.SiLU(), nn.Affine(4, 2)], loss=nn.SoftmaxWithLoss())
    net.to_onnx(tmp_path / "net.onnx")
    x = np.random.default_rng(1).standard_normal((5, 3)).astype("float32")
    assert_close(run(tmp_path / "net.onnx", x), net.predict_proba(x), "float32", terms=10)


# --- layers and losses of one's own -----------------------------------------------------------------------------


@dataclass(eq=False)
class Scale(nn.Layer):
    start: float = 2.0

    def __post_init__(self) -> None:
        self.scale = nn.Parameter((1,), nn.Constant(self.start))

    def forward(self, x: Any, training: bool = False) -> Any:
        self._x = x
        return nn.functions.tanh(x) * self.scale.data


class Written(Scale):
    operator = "Mul"

    def to_onnx(self, graph: Any, x: str) -> str:
        y = graph.node("Tanh", x)
        return graph.node(self.operator, y, graph.constant(self.scale.data))


class Wrong(Written):
    operator = "Add"


class NotANumber(Written):
    def to_onnx(self, graph: Any, x: str) -> str:
        return graph.node("Log", graph.node("Neg", graph.node("Abs", x)))


class Nothing(Written):
    def to_onnx(self, graph: Any, x: str) -> Any:
        return None


class Leaky(nn.LeakyReLU):
    """As its parent, with another forward: what is known of the parent does not hold."""

    def forward(self, x: Any, training: bool = False) -> Any:
        return x * self.alpha


class Asks(Scale):
    def forward(self, x: Any, training: bool = False) -> Any:
        return x if float(array_namespace(x).max(x)) > 0 else -x


class Log(nn.MeanSquaredError):
    def output(self, y: Any) -> Any:
        return array_namespace(y).exp(y)


class LogWritten(Log):
    def to_onnx(self, graph: Any, x: str) -> str:
        return graph.node("Exp", x)


@pytest.mark.parametrize("kind", [Written, Scale, Leaky])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_layer_of_one_s_own(kind: type[nn.Layer], dtype: str, tmp_path: Path) -> None:
    if kind is not Written:
        pytest.importorskip("ndonnx")
    net = network([nn.Affine(3, 4), kind(), nn.BatchNormalization(4), kind(), nn.Affine(4, 2)], dtype)
    compare(net, tmp_path / "net.onnx", (3,))
    compare(network([kind()], dtype), tmp_path / "net.onnx", (3, 4), input_shape=(3, 4))


def test_a_layer_of_one_s_own_among_images(tmp_path: Path) -> None:
    layers = [nn.Convolution(2, 3, 2), Written(), nn.Convolution(3, 2, 2), nn.Flatten(), Written(), nn.Affine(8, 2)]
    compare(network(layers), tmp_path / "net.onnx", (4, 4, 2))


@pytest.mark.parametrize("kind", [Log, LogWritten])
def test_a_loss_of_one_s_own(kind: type[nn.Loss], tmp_path: Path) -> None:
    if kind is Log:
        pytest.importorskip("ndonnx")
    compare(network([nn.Affine(3, 4)], loss=kind()), tmp_path / "net.onnx", (3,))


@pytest.mark.parametrize(("layer", "error", "message"), [
    (Asks, TypeError, r"Asks1 cannot be written to ONNX: its forward cannot be traced .*give Asks a method to_onnx"),
    (Nothing, TypeError, "Nothing1: to_onnx must return the name of a tensor, got None"),
    (Wrong, ValueError, "differs by .* more than rounding"),
    (NotANumber, ValueError, "differs by nan .* more than rounding"),
])  # fmt: skip
def test_a_layer_that_cannot_be_written(layer: Any, error: Any, message: str, tmp_path: Path) -> None:
    pytest.importorskip("ndonnx")
    with pytest.raises(error, match=message):
        network([nn.Affine(3, 4), layer(5.0)]).to_onnx(tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_without_ndonnx_a_layer_of_one_s_own_names_both_ways(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ndonnx", None)
    with pytest.raises(TypeError, match="Scale1 cannot be written to ONNX: give Scale a method .*, or install ndonnx"):
        network([nn.Affine(3, 4), Scale()]).to_onnx(tmp_path / "net.onnx")


def test_without_onnx_the_extra_is_named(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=re.escape('pip install "nnbackend[onnx]"')):
        network([nn.Affine(3, 4)]).to_onnx(tmp_path / "net.onnx")


def test_without_onnxruntime_nothing_is_run(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("nnbackend.interchange.onnx.find_spec", lambda name: None)
    exported = network([nn.Affine(3, 4)]).to_onnx(tmp_path / "net.onnx")
    assert exported.difference is None
    assert "not run: onnxruntime is not installed" in str(exported)


@pytest.mark.parametrize(("shape", "message"), [
    ((4,), r"the network takes rows of shape \(None, None, 2\), got \(4,\)"),
    ((4, 4, 3), r"the network takes rows of shape \(None, None, 2\)"),
    ((1, 4, 2), "Convolution1: a window"),
    ((0, 4, 2), "input_shape must hold positive integers"),
    ((2.0, 4, 2), "input_shape must hold positive integers"),
    (4, r"input_shape must hold positive integers, such as \(28, 28, 1\), got 4"),
])  # fmt: skip
def test_an_input_shape_that_does_not_fit(shape: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        network([nn.Convolution(2, 3, 3)]).to_onnx(tmp_path / "net.onnx", input_shape=shape)


def test_a_network_whose_images_have_no_size(tmp_path: Path) -> None:
    net = network([nn.Convolution(1, 1, 1), nn.Flatten(), nn.Affine(12, 2)])  # 3 by 4: no square
    with pytest.raises(ValueError, match=r"no square image .*pass input_shape=\(h, w, c\)"):
        net.to_onnx(tmp_path / "net.onnx")
    compare(net, tmp_path / "net.onnx", (3, 4, 1), input_shape=(3, 4, 1))


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    net = network([nn.Affine(3, 4)])
    with pytest.raises(OSError, match="there is no folder"):
        net.to_onnx(tmp_path / "none" / "net.onnx")
    with pytest.raises(OSError, match="it is a folder"):
        net.to_onnx(tmp_path)
    assert to_numpy(net.predict(np.zeros((1, 3)))).shape == (1, 4)
