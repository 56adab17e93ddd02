"""Activations against closed forms, PyTorch, and the projection gradient check, on every namespace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, away_from_zero, check_projection

import nnbackend as nn
from nnbackend import functions as F
from nnbackend.backends import to_numpy

# name: forward, backward, what PyTorch calls it
TABLE: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[[Any, Any], Any]]] = {
    "sigmoid": (F.sigmoid, F.sigmoid_backward, lambda torch, x: torch.sigmoid(x)),
    "relu": (F.relu, F.relu_backward, lambda torch, x: torch.relu(x)),
    "leaky_relu": (F.leaky_relu, F.leaky_relu_backward, lambda torch, x: torch.nn.functional.leaky_relu(x, 0.01)),
    "tanh": (F.tanh, F.tanh_backward, lambda torch, x: torch.tanh(x)),
    "elu": (F.elu, F.elu_backward, lambda torch, x: torch.nn.functional.elu(x)),
    "gelu": (F.gelu, F.gelu_backward, lambda torch, x: torch.nn.functional.gelu(x, approximate="tanh")),
    "silu": (F.silu, F.silu_backward, lambda torch, x: torch.nn.functional.silu(x)),
    "softmax": (F.softmax, F.softmax_backward, lambda torch, x: torch.softmax(x, -1)),
}

READS_INPUT = {F.gelu_backward, F.silu_backward}  # the others read the forward's output


@pytest.fixture(params=TABLE)
def row(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    return TABLE[request.param]


@pytest.mark.parametrize("shape", [(7, 5), (1, 3), (2, 3, 4)])
def test_gradient(on: Namespace, row: tuple[Any, Any, Any], shape: tuple[int, ...]) -> None:
    forward, backward, _ = row
    x = away_from_zero(np.random.default_rng(1), shape)
    read = on.array(x, "float64") if backward in READS_INPUT else forward(on.array(x, "float64"))
    check_projection(on, forward, lambda u: [backward(u, read)], [x])


@pytest.mark.parametrize("name", [name for name in TABLE if name != "softmax"])  # that is over an axis
def test_a_number_without_axes(on: Namespace, name: str) -> None:
    forward, backward, _ = TABLE[name]
    read = on.array(0.7, "float64") if backward in READS_INPUT else forward(on.array(0.7, "float64"))
    check_projection(on, forward, lambda u: [backward(u, read)], [np.array(0.7)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, row: tuple[Any, Any, Any], dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    forward, backward, theirs = row
    rng = np.random.default_rng(2)
    x, dy = (4 * rng.standard_normal((9, 6))).astype(dtype), rng.standard_normal((9, 6)).astype(dtype)
    xt = torch.tensor(x, requires_grad=True)
    yt = theirs(torch, xt)
    yt.backward(torch.tensor(dy))
    y = forward(on.array(x))
    assert y.dtype == on.backend.dtype(dtype)
    assert_close(y, yt.detach().numpy(), dtype)
    dx = backward(on.array(dy), on.array(x) if backward in READS_INPUT else y)
    assert dx.dtype == on.backend.dtype(dtype)
    assert_close(dx, xt.grad.numpy(), dtype, terms=6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_values_stay_finite(on: Namespace, row: tuple[Any, Any, Any], dtype: str) -> None:
    forward, backward, _ = row
    x = on.array([[1e4, -1e4, 0.0, 1.0], [-1e4, -1e4, -1e4, -1e4]], dtype)
    y = forward(x)
    assert np.isfinite(to_numpy(y)).all()
    assert np.isfinite(to_numpy(backward(x, x if backward in READS_INPUT else y))).all()


def test_closed_forms(on: Namespace) -> None:
    x = on.array([-2.0, 0.0, 3.0], "float64")
    assert_close(F.sigmoid(x), [1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-3))], "float64")
    assert_close(F.relu(x), [0.0, 0.0, 3.0], "float64")
    assert_close(F.leaky_relu(x, 0.1), [-0.2, 0.0, 3.0], "float64")
    assert_close(F.tanh(x), [math.tanh(-2), 0.0, math.tanh(3)], "float64")
    total = math.exp(-2) + 1 + math.exp(3)
    assert_close(F.softmax(x), [math.exp(-2) / total, 1 / total, math.exp(3) / total], "float64")


def test_gelu_is_near_its_exact_form(on: Namespace) -> None:
    x = np.linspace(-5, 5, 401)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    assert np.abs(to_numpy(F.gelu(on.array(x))) - exact).max() < 5e-4


def test_sigmoid_keeps_its_relative_precision_far_below_zero(on: Namespace) -> None:
    y = to_numpy(F.sigmoid(on.array([-80.0], "float32")))
    np.testing.assert_allclose(y, [math.exp(-80.0)], rtol=1e-5)


def test_the_kink_has_derivative_zero_and_alpha(on: Namespace) -> None:
    zero, one = on.array([0.0], "float64"), on.array([1.0], "float64")
    assert to_numpy(F.relu_backward(one, F.relu(zero))).tolist() == [0.0]
    assert to_numpy(F.leaky_relu_backward(one, F.leaky_relu(zero, 0.2), 0.2)).tolist() == [0.2]


def test_not_a_number_is_not_hidden(on: Namespace, row: tuple[Any, Any, Any]) -> None:
    assert np.isnan(to_numpy(row[0](on.array([math.nan, 1.0], "float64")))[0])


ENDS = [math.inf, 3e38, 1e30, 1e19, 1e10, 3e4, 1e4, 200.0, 88.7, 50.0, 20.0, 1e-3, 1e-30, 1e-40, 0.0]


def at_the_ends(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The function and its derivative in long doubles; beyond 1000 what they tend to."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = x.astype(np.longdouble)
        near, right = np.clip(x, -1000, 1000), x > 0
        s = 1 / (1 + np.exp(-near))
        k = np.sqrt(2 / np.longdouble(math.pi))
        u = np.tanh(k * (near + 0.044715 * near**3))
        match name:
            case "sigmoid":
                return s, s * (1 - s)
            case "relu":
                return np.where(right, x, 0), np.where(right, 1.0, 0.0)
            case "leaky_relu":
                return np.where(right, x, 0.01 * x), np.where(right, 1.0, 0.01)
            case "tanh":
                return np.tanh(near), 1 - np.tanh(near) ** 2
            case "elu":
                return np.where(right, x, np.expm1(np.minimum(near, 0))), np.where(
                    right, 1, np.exp(np.minimum(near, 0))
                )
            case "silu":
                return np.where(x > 1000, x, near * s), s * (1 + near * (1 - s))
            case _:
                slope = k * (1 + 3 * 0.044715 * near**2)
                return np.where(x > 1000, x, 0.5 * near * (1 + u)), 0.5 * (1 + u) + 0.5 * near * (1 - u * u) * slope


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [name for name in TABLE if name != "softmax"])
@pytest.mark.filterwarnings("error")
def test_at_the_ends_of_the_numbers(on: Namespace, name: str, dtype: str) -> None:
    forward, backward, _ = TABLE[name]
    x = np.array([*ENDS, *(-end for end in ENDS)], dtype)
    expected, slope = at_the_ends(name, x)
    y = forward(on.array(x))
    read = on.array(x) if backward in READS_INPUT else y
    dx = backward(on.array(np.ones_like(x)), read)
    eps, least = np.finfo(dtype).eps, float(np.finfo(dtype).smallest_normal)
    np.testing.assert_allclose(to_numpy(y), expected.astype(dtype), rtol=8 * eps, atol=20 * eps)
    np.testing.assert_allclose(to_numpy(dx), slope.astype(dtype), rtol=8 * eps, atol=60 * eps)
    far = x <= -3e4
    if name in ("sigmoid", "relu", "silu", "gelu"):  # where the limit is 0, nothing but 0 will do
        assert not to_numpy(y)[far].any()
        assert not to_numpy(dx)[far].any()
    if name not in ("sigmoid",):  # f(x) = x f'(0) for what is below all else, as far as the device has such numbers
        tiny = np.abs(x) <= 1e-30
        np.testing.assert_allclose(to_numpy(y)[tiny], expected[tiny].astype(dtype), rtol=8 * eps, atol=least)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_leaky_relu_without_a_slope_at_infinity(on: Namespace, dtype: str) -> None:
    y = F.leaky_relu(on.array([math.inf, -math.inf, 2.0, -2.0], dtype), 0.0)
    assert to_numpy(y).tolist() == [math.inf, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_at_the_ends_of_the_numbers(on: Namespace, dtype: str) -> None:
    x = on.array([[1e30, -1e30, 0.0], [-math.inf, 0.0, -1e4], [-1e38, -1e38, -math.inf]], dtype)
    y = F.softmax(x)
    assert to_numpy(y).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]
    assert to_numpy(F.softmax_backward(on.array(np.ones((3, 3)), dtype), y)).tolist() == [[0.0] * 3] * 3


NOT_FLOATING = [np.array([[1, 2]]), np.array([[True, False]]), np.array([[1, 2]], "uint8")]


@pytest.mark.parametrize("value", [*NOT_FLOATING, 1, 0.5, True, [[0.5, 1.0]], None], ids=repr)
def test_what_is_no_array_of_floating_numbers_is_refused(on: Namespace, row: tuple[Any, Any, Any], value: Any) -> None:
    forward, backward, _ = row
    x = on.array(value) if isinstance(value, np.ndarray) else value
    kind = f"dtype .*{value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
    message = f"^{forward.__name__}: x must be an array of floating numbers, such as float32, got {kind}$"
    with pytest.raises(TypeError, match=message):
        forward(x)
    with pytest.raises(TypeError, match=f"^{backward.__name__}: dy must be an array of floating numbers"):
        backward(x, x)


def test_other_functions_refuse_integers_too(on: Namespace) -> None:
    x, one = on.array(np.ones((2, 2), int)), on.array(np.ones(2), "float32")
    calls: list[Callable[[], Any]] = [
        lambda: F.affine(x, on.array(np.ones((2, 2))), on.array(np.ones(2))),
        lambda: F.dropout_mask(x, 0.5, 0, 0, on.array([0])),
        lambda: F.batch_normalization(x, one, one, 1e-5),
        lambda: F.layer_normalization(x, one, one, 1e-5),
        lambda: F.max_pooling(on.array(np.ones((1, 2, 2, 1), int)), 2, 2),
        lambda: F.average_pooling(on.array(np.ones((1, 2, 2, 1), int)), 2, 2),
        lambda: F.convolution(on.array(np.ones((1, 2, 2, 1), int)), on.array(np.ones((1, 1, 1, 1))), one),
        lambda: nn.Sigmoid().forward(x),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="x must be an array of floating numbers, such as float32, got dtype .*int"):
            call()


@pytest.mark.parametrize("dtype", [">f4", ">f8", "f2", "g"])
def test_numpy_s_other_floating_dtypes(row: tuple[Any, Any, Any], dtype: str) -> None:
    forward, backward, _ = row
    x = np.random.default_rng(4).standard_normal((4, 6))
    read = x if backward in READS_INPUT else forward(x)
    y, dx = forward(x.astype(dtype)), backward(np.ones_like(x, dtype), read.astype(dtype))
    native = np.dtype(dtype).newbyteorder("=")
    assert y.dtype == dx.dtype == native
    rtol = max(float(np.finfo(native).eps), 1e-15)
    np.testing.assert_allclose(y.astype(float), forward(x), rtol=0, atol=20 * rtol)
    np.testing.assert_allclose(dx.astype(float), backward(np.ones_like(x), read), rtol=0, atol=20 * rtol)
