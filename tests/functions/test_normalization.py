from __future__ import annotations

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend.functions import (
    batch_normalization,
    batch_normalization_backward,
    layer_normalization,
    layer_normalization_backward,
)

PAIRS = {
    "batch": (batch_normalization, batch_normalization_backward),
    "layer": (layer_normalization, layer_normalization_backward),
}


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 2, 4), (2, 1)])
def test_gradient(on: Namespace, kind: str, shape: tuple[int, ...]) -> None:
    forward, backward = PAIRS[kind]
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.standard_normal(shape), rng.standard_normal(shape[-1]), rng.standard_normal(shape[-1])
    _, x_hat, scale, *_ = forward(on.array(x), on.array(gamma), on.array(beta), 1e-3)

    def gradients(dy: object) -> list[object]:
        dgamma, dbeta = on.backend.zeros(gamma.shape, "float64"), on.backend.zeros(beta.shape, "float64")
        return [backward(dy, x_hat, on.array(gamma), scale, dgamma, dbeta), dgamma, dbeta]

    check_projection(on, lambda *a: forward(*a, 1e-3)[0], gradients, [x, gamma, beta])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", PAIRS)
def test_against_pytorch(on: Namespace, kind: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    forward, backward = PAIRS[kind]
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((20, 6)).astype(dtype) + 3 for _ in range(2))
    gamma, beta = (rng.standard_normal(6).astype(dtype) for _ in range(2))
    xt, gt, bt = (torch.tensor(a, requires_grad=True) for a in (x, gamma, beta))
    if kind == "batch":
        yt = torch.nn.functional.batch_norm(xt, None, None, gt, bt, training=True, eps=1e-5)
    else:
        yt = torch.nn.functional.layer_norm(xt, (6,), gt, bt, eps=1e-5)
    yt.backward(torch.tensor(dy))
    y, x_hat, scale, *_ = forward(on.array(x), on.array(gamma), on.array(beta), 1e-5)
    assert_close(y, yt.detach().numpy(), dtype, terms=40)
    dgamma, dbeta = on.backend.zeros((6,), dtype), on.backend.zeros((6,), dtype)
    dx = backward(on.array(dy), x_hat, on.array(gamma), scale, dgamma, dbeta)
    assert_close(dx, xt.grad.numpy(), dtype, terms=100, scale=5.0)  # differences of terms of size gamma dy scale
    assert_close(dgamma, gt.grad.numpy(), dtype, terms=40)
    assert_close(dbeta, bt.grad.numpy(), dtype, terms=40)
