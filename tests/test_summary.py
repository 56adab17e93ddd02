"""A network summed up: shapes and counts as PyTorch has them, memory between bounds that are known."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.summary import described


def small() -> nn.Network:
    layers = [nn.Convolution(1, 4, 3), nn.BatchNormalization(4), nn.ReLU(), nn.MaxPooling(2), nn.Flatten()]
    return nn.Network([*layers, nn.Affine(36, 5)], seed=0)


def test_shapes_and_counts_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
    )
    y, shapes = torch.zeros(2, 1, 8, 8), []
    for part in module:
        y = part(y)
        shape = tuple(y.shape[1:])
        shapes.append(shape if len(shape) == 1 else (*shape[1:], shape[0]))
    found = small().summary(2, input_shape=(8, 8, 1))
    assert [layer.shape for layer in found.layers] == shapes
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert found.fixed == 8  # running mean and variance
    assert [layer.name for layer in found.layers] == list(small().layers)


def test_the_memory_of_a_step() -> None:
    """A pass holds the batch and the output of each layer at least, and not more than a few times as much."""
    widths = (300, 400, 200, 10)
    layers = [nn.Affine(300, 400), nn.ReLU(), nn.Affine(400, 200), nn.ReLU(), nn.Affine(200, 10)]
    net = nn.Network(layers, seed=0)
    for rows in (50, 200):
        found = net.summary(rows, optimizer=nn.Adam())
        weights = 4 * sum(a * b + b for a, b in pairwise(widths))
        assert found.bytes_of_values == 2 * weights
        assert found.bytes_of_state == 2 * weights
        kept = 4 * rows * (300 + 400 + 200)
        assert found.bytes_of_pass is not None
        assert kept <= found.bytes_of_pass <= 3 * kept
        assert found.bytes_of_step == 4 * weights + found.bytes_of_pass


def test_on_every_namespace_and_without_a_trace(on: Namespace) -> None:
    net = nn.Network([nn.Affine(6, 4), nn.Dropout(0.5), nn.Affine(4, 1)], loss=nn.MeanSquaredError(), seed=0)
    before = net.buffer.snapshot("data", "grad", "clock")
    found = net.summary(20, optimizer=nn.Momentum())
    assert (found.parameters, found.bytes_of_values, found.bytes_of_state) == (33, 264, 132)
    assert found.bytes_of_pass is not None
    assert found.bytes_of_pass > 20 * (6 + 4) * 4
    for name, value in net.buffer.snapshot("data", "grad", "clock").items():
        assert on.xp.all(value == before[name])
    assert "33 parameters" in net._repr_html_()


def test_the_text() -> None:
    text = str(nn.TwoLayerNet(784, 50, 10).summary(1000))
    lines = text.splitlines()
    assert lines[2].split() == ["Affine1", "Affine(input_size=784,", "output_size=50)", "(50,)", "39,250"]
    assert lines[-2] == "39,760 parameters in float32."
    assert lines[-1].startswith("A training step of 1,000 rows takes ")
    assert max(map(len, lines[:-1])) < 80


@pytest.mark.parametrize(
    "loss", [nn.SoftmaxWithLoss(), nn.SigmoidWithLoss(), nn.SigmoidWithLoss([1.0, 2.0]), nn.Huber(), nn.QuantileLoss()]
)
def test_with_every_kind_of_target(loss: nn.Loss) -> None:
    assert nn.Network([nn.Affine(3, 2)], loss=loss).summary(4).bytes_of_step


def test_a_shape_that_the_layers_leave_open() -> None:
    found = nn.Network([nn.Convolution(3, 2, 3), nn.ReLU()], loss=nn.MeanSquaredError()).summary()
    assert found.input_shape is None
    assert found.bytes_of_step is None
    assert [layer.shape for layer in found.layers] == [None, None]
    assert "open" in str(found)
    assert "training step" not in str(found)


def test_settings_that_are_the_default_are_not_shown() -> None:
    assert described(nn.Affine(2, 3)) == "Affine(input_size=2, output_size=3)"
    assert described(nn.Dropout(0.25)) == "Dropout(dropout_ratio=0.25)"

    @dataclass(eq=False)
    class Own(nn.Layer):
        def __init__(self, *sizes: int):
            self.sizes = sizes

        def __repr__(self) -> str:
            return "mine"

    assert described(Own(1, 2)) == "mine"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ({"batch_size": "all"}, ValueError, "batch_size must be a positive integer, got 'all'"),
        ({"batch_size": 1}, ValueError, "batch_size is 1, but BatchNormalization1 needs at least 2 rows"),
        ({"input_shape": (8, 8, 2)}, ValueError, r"input_shape: the network takes rows of shape .*, got \(8, 8, 2\)"),
        ({"input_shape": (8, 8)}, ValueError, r"input_shape: .* got \(8, 8\)"),
        ({"input_shape": (8, -8, 1)}, ValueError, "input_shape must hold positive integers"),
        ({"input_shape": 64}, ValueError, "input_shape must hold positive integers, got 64"),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected an optimizer such as Adam"),
    ],
)
def test_bad_input(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    net = nn.Network([nn.Convolution(1, 4, 8), nn.Flatten(), nn.BatchNormalization(4)], seed=0)
    with pytest.raises(error, match=message):
        net.summary(**{"batch_size": 5, "input_shape": (8, 8, 1), **settings})


def test_tracing_that_was_on_stays_on() -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        assert nn.TwoLayerNet(4, 3, 2).summary(10).bytes_of_pass
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_sequences_of_ids_with_labels_that_are_left_out() -> None:
    layers = [nn.Embedding(7, 4), nn.Residual([nn.Affine(4, 4), nn.Tanh()]), nn.Affine(4, 7)]
    found = nn.Network(layers, nn.SoftmaxWithLoss(ignore_label=-1)).summary(10, input_shape=(6,))
    assert [(layer.name, layer.settings, layer.shape) for layer in found.layers] == [
        ("Embedding1", "Embedding(vocabulary=7, features=4)", (6, 4)),
        ("Residual1", "Residual()", (6, 4)),
        ("Residual1.Affine1", "Affine(input_size=4, output_size=4)", (6, 4)),
        ("Residual1.Tanh1", "Tanh()", (6, 4)),
        ("Affine1", "Affine(input_size=4, output_size=7)", (6, 7)),
    ]
    assert [layer.parameters for layer in found.layers] == [28, 0, 20, 0, 35]
    assert found.parameters == 28 + 20 + 35
    assert found.bytes_of_pass is not None
    assert found.bytes_of_pass > 4 * 10 * 6 * (4 + 7)
    dense = nn.Network([nn.Affine(4, 2)]).summary(10, input_shape=(6, 4))
    assert [layer.shape for layer in dense.layers] == [(6, 2)]


def test_a_layer_that_is_used_twice_counts_once() -> None:
    shared = nn.Affine(3, 3)
    network = nn.Network([shared, nn.Parallel([[shared, nn.ReLU()], nn.BatchNormalization(3)], "concatenate")])
    found = network.summary()
    assert [layer.parameters for layer in found.layers] == [12, 0, 0, 0, 0, 6]
    assert [layer.fixed for layer in found.layers] == [0, 0, 0, 0, 0, 6]
    assert (found.parameters, found.fixed) == (18, 6)
    assert found.layers[1].settings == "Parallel(join='concatenate')"
    assert found.layers[1].shape == (6,)


def test_a_network_that_carries_state_over_is_measured_with_its_rows() -> None:
    network = nn.Network([nn.LSTM(4, 5, stateful=3), nn.Affine(5, 2)])
    found = network.summary(input_shape=(6, 4))
    assert found.batch_size == 3
    assert found.bytes_of_pass == pytest.approx(network.summary(3, input_shape=(6, 4)).bytes_of_pass, rel=0.2)
    assert nn.Network([nn.LSTM(4, 5)]).summary(input_shape=(6, 4)).batch_size == 100
    with pytest.raises(ValueError, match="carries the state of 3 rows over, but the batch has 7 rows"):
        network.summary(7, input_shape=(6, 4))
