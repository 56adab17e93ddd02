"""Every layer: gradients by projection on every namespace, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, away_from_zero, check_projection

import nnbackend as nn
from nnbackend.backend import to_numpy
from nnbackend.layers import LAYERS, LOSSES, activation

# one or more ways to make each layer, and the shape of a row that it takes
MAKE: dict[str, list[tuple[Callable[[], nn.Layer], tuple[int, ...]]]] = {
    "Affine": [(lambda: nn.Affine(5, 3), (5,)), (lambda: nn.Affine(1, 1), (1,))],
    "Sigmoid": [(nn.Sigmoid, (4,))],
    "ReLU": [(nn.ReLU, (4,))],
    "LeakyReLU": [(lambda: nn.LeakyReLU(0.2), (4,))],
    "Tanh": [(nn.Tanh, (4,))],
    "ELU": [(lambda: nn.ELU(0.7), (4,))],
    "GELU": [(nn.GELU, (4,))],
    "SiLU": [(nn.SiLU, (4,))],
    "Softmax": [(nn.Softmax, (4,))],
    "BatchNormalization": [
        (lambda: nn.BatchNormalization(4), (4,)),
        (lambda: nn.BatchNormalization(3), (5, 2, 3)),
    ],
    "LayerNormalization": [(lambda: nn.LayerNormalization(4), (4,)), (lambda: nn.LayerNormalization(3), (5, 2, 3))],
    "Dropout": [(lambda: nn.Dropout(0.4), (4,)), (lambda: nn.Dropout(0.0), (2, 3))],
}
CASES = [pytest.param(make, shape, id=f"{name}-{i}") for name in MAKE for i, (make, shape) in enumerate(MAKE[name])]


def test_every_layer_is_in_the_table() -> None:
    assert set(MAKE) == set(LAYERS)


@pytest.mark.parametrize(("make", "shape"), CASES)
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("training", [False, True])
def test_gradients(on: Namespace, make: Any, shape: tuple[int, ...], n: int, training: bool) -> None:
    layer = make().initialize(seed=3, dtype="float64")
    parameters = [parameter for parameter in layer.parameters().values() if parameter.trainable]
    values = [to_numpy(p.data).copy() for p in parameters]

    def forward(x: Any, *new_values: Any) -> Any:
        for parameter, value in zip(parameters, new_values, strict=True):
            parameter.data[...] = value
        return layer.forward(x, training)

    x = away_from_zero(np.random.default_rng(4), (n, *shape))
    assert tuple(layer.forward(on.array(x, "float64")).shape[1:]) == layer.output_shape(shape)
    forward(on.array(x, "float64"), *[on.array(v, "float64") for v in values])
    check_projection(on, forward, lambda u: [layer.backward(u), *[p.grad for p in parameters]], [x, *values])


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_a_layer_leaves_its_input_alone(on: Namespace, make: Any, shape: tuple[int, ...]) -> None:
    layer = make().initialize()
    x = np.random.default_rng(5).standard_normal((3, *shape)).astype("float32")
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
        (lambda: activation("rleu"), ValueError, "Did you mean 'relu'?"),
        (lambda: nn.Affine(3, 2).forward(np.zeros((1, 3), "float32")), ValueError, "no parameter values yet"),
        (lambda: nn.Affine(3, 2).initialize().forward(np.zeros((1, 4), "float32")), ValueError, r"(n, 3), got (1, 4)"),
        (lambda: nn.Affine(3, 2).initialize().forward(np.zeros((1, 3))), ValueError, "x has dtype float64"),
        (lambda: nn.Affine(3, 2).initialize().forward([[1, 2, 3]]), nn.BackendError, "Affine: argument x is a list"),
    ],
)
def test_bad_input(make: Any, error: type[Exception], message: str) -> None:
    import re

    with pytest.raises(error, match=re.escape(message)):
        make()


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
    with pytest.raises(ValueError, match="rows have shape"):
        loss.target([0, 1, 1], 3, (2, 2), on.backend, "float32")


def test_squared_error_takes_a_vector_for_one_column(on: Namespace) -> None:
    t = nn.MeanSquaredError().target([1.0, 2.0, 3.0], 3, (1,), on.backend, "float32")
    assert tuple(t.shape) == (3, 1)
    with pytest.raises(ValueError, match=r"expected shape \(3, 2\)"):
        nn.MeanSquaredError().target([1.0, 2.0, 3.0], 3, (2,), on.backend, "float32")
