from __future__ import annotations

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend.functions import affine, affine_backward, product


@pytest.mark.parametrize(("n", "i", "o"), [(7, 5, 3), (1, 4, 1), (3, 1, 6)])
def test_gradient(on: Namespace, n: int, i: int, o: int) -> None:
    rng = np.random.default_rng(0)
    x, W, b = rng.standard_normal((n, i)), rng.standard_normal((i, o)), rng.standard_normal(o)

    def gradients(dy: object) -> list[object]:
        dW, db = on.backend.zeros((i, o), "float64"), on.backend.zeros((o,), "float64")
        dx = affine_backward(dy, on.array(x), on.array(W), dW, db)
        return [dx, dW, db]

    check_projection(on, affine, gradients, [x, W, b])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(1)
    x, W, b, dy = (rng.standard_normal(s).astype(dtype) for s in [(30, 20), (20, 10), (10,), (30, 10)])
    xt, Wt, bt = (torch.tensor(a, requires_grad=True) for a in (x, W, b))
    yt = torch.nn.functional.linear(xt, Wt.T, bt)
    yt.backward(torch.tensor(dy))
    assert_close(affine(on.array(x), on.array(W), on.array(b)), yt.detach().numpy(), dtype, terms=20)
    dW, db = on.backend.zeros((20, 10), dtype), on.backend.zeros((10,), dtype)
    dx = affine_backward(on.array(dy), on.array(x), on.array(W), dW, db)
    for actual, expected, terms in [(dx, xt, 10), (dW, Wt, 30), (db, bt, 30)]:
        assert actual.dtype == on.backend.dtype(dtype)
        assert_close(actual, expected.grad.numpy(), dtype, terms=terms)


def test_dx_can_be_left_out(on: Namespace) -> None:
    dW, db = on.backend.zeros((2, 1), "float64"), on.backend.zeros((1,), "float64")
    dy, x, W = on.array([[1.0], [2.0]]), on.array([[1.0, 2.0], [3.0, 4.0]]), on.array([[5.0], [6.0]])
    assert affine_backward(dy, x, W, dW, db, need_dx=False) is None
    assert_close(dW, [[7.0], [10.0]], "float64")
    assert_close(db, [3.0], "float64")


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (2, 1, 4, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_stacks(on: Namespace, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal(shape).astype(dtype), rng.standard_normal((*shape[:-2], 3, 5)).astype(dtype)
    expected = np.einsum("...nk,...km->...nm", a, b)
    assert_close(product(on.array(a), on.array(b)), expected, dtype, terms=3)
