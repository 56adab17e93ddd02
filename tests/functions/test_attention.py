"""Attention: PyTorch's values and gradients, masks, and gradients by projection; the positions by their formula."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend.backends import to_numpy
from nnbackend.functions import attention, attention_backward, sinusoids

# leading axes, T, S, d, e
SIZES = [((2, 3), 4, 4, 5, 5), ((1, 1), 1, 1, 1, 1), ((3,), 5, 7, 2, 3), ((2, 1), 3, 2, 4, 1)]
IDS = ["-".join(map(str, size)).replace(" ", "") for size in SIZES]
MASKS = pytest.mark.parametrize("kind", ["none", "causal", "padding", "both"])


def drawn(size: Any, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    lead, T, S, d, e = size
    rng = np.random.default_rng(1)
    q, k, v, dy = (2 * rng.standard_normal((*lead, *rest)) for rest in ((T, d), (S, d), (S, e), (T, e)))
    return q.astype(dtype), k.astype(dtype), v.astype(dtype), dy.astype(dtype)


def masks(size: Any, kind: str) -> tuple[np.ndarray | None, bool]:
    """Which keys are no padding, (..., 1, S), the first of them always one; and whether it is causal."""
    lead, _, S, _, _ = size
    padding = np.random.default_rng(2).random((*lead[:1], *(1,) * len(lead), S)) < 0.6
    padding[..., 0] = True
    return (padding if kind in ("padding", "both") else None), kind in ("causal", "both")


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@MASKS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, size: Any, kind: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    q, k, v, dy = drawn(size, dtype)
    mask, causal = masks(size, kind)
    allowed = np.ones((size[1], size[2]), bool)
    allowed = np.tril(allowed) if causal else allowed
    allowed = allowed if mask is None else allowed & mask
    theirs = [torch.tensor(a, requires_grad=True) for a in (q, k, v)]
    y = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=torch.tensor(allowed))
    y.backward(torch.tensor(dy))
    ours = [on.array(a) for a in (q, k, v)]
    found, p = attention(*ours, None if mask is None else on.array(mask), causal)
    terms = 10 * (size[2] + size[3])
    assert_close(found, y.detach().numpy(), dtype, terms, scale=4.0)
    assert_close(on.xp.sum(p, axis=-1), np.ones(q.shape[:-1], dtype), dtype, size[2])
    assert not (to_numpy(p)[~np.broadcast_to(allowed, p.shape)]).any()
    for gradient, expected in zip(attention_backward(on.array(dy), *ours, p), theirs, strict=True):
        assert_close(gradient, expected.grad.numpy(), dtype, 4 * terms, scale=8.0)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
@MASKS
def test_gradient(on: Namespace, size: Any, kind: str) -> None:
    mask, causal = masks(size, kind)
    latest: list[Any] = []

    def function(*arrays: Any) -> Any:
        y, p = attention(*arrays, None if mask is None else on.array(mask), causal)
        latest[:] = [*arrays, p]
        return y

    check_projection(on, function, lambda u: list(attention_backward(u, *latest)), list(drawn(size)[:3]))


def test_a_step_that_may_look_at_nothing_answers_zero(on: Namespace) -> None:
    q, k, v, dy = drawn(SIZES[0])
    mask = np.ones((2, 1, 4, 4), bool)
    mask[1, :, 2] = False
    ours = [on.array(a) for a in (q, k, v)]
    y, p = attention(*ours, on.array(mask))
    assert not to_numpy(y)[1, :, 2].any()
    assert to_numpy(y)[0].any()
    gradients = [to_numpy(g) for g in attention_backward(on.array(dy), *ours, p)]
    assert not gradients[0][1, :, 2].any()
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_mask_does_not_hide_what_is_no_number(on: Namespace) -> None:
    q, k, v = (np.ones((2, 3, 4)) for _ in range(3))
    q[:, 1] = np.nan
    y, _ = attention(*(on.array(a) for a in (q, k, v)), on.array(np.ones((3, 3), bool)))
    assert np.isnan(to_numpy(y)).all(axis=(0, 2)).tolist() == [False, True, False]


def test_large_scores_do_not_overflow(on: Namespace) -> None:
    q = on.array(np.full((1, 3, 2), 1e15, "float32"))
    y, p = attention(q, q, on.array(np.ones((1, 3, 1), "float32")), None, True)
    assert_close(y, np.ones((1, 3, 1), "float32"), "float32", 3)
    assert_close(p, np.tril(np.ones((3, 3))) / np.arange(1, 4)[:, None] * np.ones((1, 1, 1)), "float32", 3)


@pytest.mark.parametrize(("steps", "d"), [(7, 6), (1, 1), (300, 5)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sines_and_cosines(on: Namespace, steps: int, d: int, dtype: str) -> None:
    expected = np.zeros((steps, d))
    for t in range(steps):
        for column in range(d):
            angle = t / 10000 ** ((column - column % 2) / d)
            expected[t, column] = math.cos(angle) if column % 2 else math.sin(angle)
    found = sinusoids(on.array(np.zeros((2, steps, d), dtype)))
    assert found.dtype == on.backend.dtype(dtype)
    np.testing.assert_allclose(to_numpy(found), expected, rtol=0, atol=1e-7 if dtype == "float32" else 1e-12)


def test_what_is_no_array_of_numbers_is_refused(on: Namespace) -> None:
    ones = on.array(np.ones((1, 1, 1), int))
    with pytest.raises(TypeError, match="attention: q must be an array of floating numbers"):
        attention(ones, ones, ones)
