from __future__ import annotations

import math

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend.backend import to_numpy
from nnbackend.functions import (
    count_correct,
    mean_squared_error,
    mean_squared_error_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_rows,
    squared_error_rows,
)

LABELS = np.array([2, 0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_gradient(on: Namespace, one_hot: bool) -> None:
    x = np.random.default_rng(0).standard_normal((7, 3))
    t = on.array(np.eye(3)[LABELS] if one_hot else LABELS)
    y = softmax_cross_entropy(on.array(x), t)[1]
    check_projection(
        on, lambda z: softmax_cross_entropy(z, t)[0], lambda u: [u * softmax_cross_entropy_backward(y, t)], [x]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_against_pytorch(on: Namespace, dtype: str, one_hot: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = (3 * np.random.default_rng(1).standard_normal((7, 3))).astype(dtype)
    xt = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(xt, torch.tensor(LABELS))
    expected.backward()
    t = on.array(np.eye(3)[LABELS] if one_hot else LABELS)
    loss, y = softmax_cross_entropy(on.array(x), t)
    assert loss.ndim == 0
    assert loss.dtype == y.dtype == on.backend.dtype(dtype)
    assert_close(loss, expected.detach().numpy(), dtype, terms=7)
    assert_close(y, torch.softmax(xt, -1).detach().numpy(), dtype)
    dx = softmax_cross_entropy_backward(y, t)
    assert dx.dtype == on.backend.dtype(dtype)
    assert_close(dx, xt.grad.numpy(), dtype, scale=1 / 7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_large_logits(on: Namespace, dtype: str) -> None:
    x = on.array([[1e4, -1e4], [1e4, -1e4]], dtype)
    loss, y = softmax_cross_entropy(x, on.array([0, 1]))
    assert float(loss) == pytest.approx(1e4)
    assert to_numpy(y).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes(on: Namespace) -> None:
    loss, _ = softmax_cross_entropy(on.array(np.zeros((4, 10))), on.array([1, 2, 3, 4]))
    assert float(loss) == pytest.approx(math.log(10))


def test_squared_error(on: Namespace) -> None:
    y, t = on.array([[1.0, 2.0], [3.0, 5.0]]), on.array([[1.0, 0.0], [4.0, 1.0]])
    assert float(mean_squared_error(y, t)) == pytest.approx((0 + 4 + 1 + 16) / 4)
    assert_close(mean_squared_error_backward(y, t), [[0.0, 1.0], [-0.5, 2.0]], "float64")
    x = np.random.default_rng(2).standard_normal((5, 4))
    other = on.array(np.zeros((5, 4)))
    check_projection(
        on,
        lambda z: mean_squared_error(z, other),
        lambda u: [u * mean_squared_error_backward(on.array(x), other)],
        [x],
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squared_error_against_pytorch(on: Namespace, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(3)
    y, t = rng.standard_normal((6, 2)).astype(dtype), rng.standard_normal((6, 2)).astype(dtype)
    yt = torch.tensor(y, requires_grad=True)
    expected = torch.nn.functional.mse_loss(yt, torch.tensor(t))
    expected.backward()
    loss = mean_squared_error(on.array(y), on.array(t))
    assert loss.dtype == on.backend.dtype(dtype)
    assert_close(loss, expected.detach().numpy(), dtype, terms=12)
    assert_close(mean_squared_error_backward(on.array(y), on.array(t)), yt.grad.numpy(), dtype)


def test_rows_are_what_the_mean_is_of(on: Namespace) -> None:
    rng = np.random.default_rng(4)
    x, t = on.array(rng.standard_normal((7, 3))), on.array(LABELS)
    rows = softmax_cross_entropy_rows(x, t)
    p = to_numpy(softmax_cross_entropy(x, t)[1])
    assert_close(rows, -np.log(p[np.arange(7), LABELS]), "float64", terms=3)
    assert_close(softmax_cross_entropy_rows(x, on.array(np.eye(3)[LABELS])), to_numpy(rows), "float64", terms=3)
    y, target = rng.standard_normal((5, 2, 3)), rng.standard_normal((5, 2, 3))
    expected = ((y - target) ** 2).mean(axis=(1, 2))
    assert_close(squared_error_rows(on.array(y), on.array(target)), expected, "float64", terms=6)


def test_count_correct(on: Namespace) -> None:
    y = on.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], "float32")
    assert int(count_correct(y, on.array([1, 1, 1]))) == 2
    assert int(count_correct(y, on.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))) == 2
