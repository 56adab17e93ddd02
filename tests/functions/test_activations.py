"""Activations against closed forms, PyTorch, and the projection gradient check, on every namespace."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, away_from_zero, check_projection

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
