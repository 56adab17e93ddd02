"""Embedding: PyTorch's values and gradients, sums that are the same in every run, and ids outside of the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend.backends import to_numpy
from nnbackend.functions import embedding, embedding_backward

SHAPES = [(7,), (3, 5), (1, 1), (2, 3, 2), (0,), (400,)]


def drawn(shape: tuple[int, ...], dtype: str = "float64") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A table, ids of which some repeat and some do not occur, and a gradient."""
    rng = np.random.default_rng(1)
    W, ids = rng.standard_normal((11, 3)).astype(dtype), rng.integers(0, 9, shape)
    return W, ids, rng.standard_normal((*shape, 3)).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, shape: tuple[int, ...], dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    W, ids, dy = drawn(shape, dtype)
    expected = torch.tensor(W, requires_grad=True)
    y = torch.nn.functional.embedding(torch.tensor(ids), expected)
    y.backward(torch.tensor(dy))
    dW = on.backend.asarray(np.full_like(W, 9.0))
    assert_close(embedding(on.array(W), on.array(ids)), y.detach().numpy(), dtype)
    assert embedding_backward(on.array(dy), on.array(ids), dW) is None
    assert_close(dW, expected.grad.numpy(), dtype, terms=64)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(on: Namespace, shape: tuple[int, ...]) -> None:
    W, ids, _ = drawn(shape)
    dW = on.backend.asarray(np.zeros_like(W))

    def gradients(u: Any) -> list[Any]:
        embedding_backward(u, on.array(ids), dW)
        return [dW]

    check_projection(on, lambda W: embedding(W, on.array(ids)), gradients, [W])


@pytest.mark.parametrize("name", ["int8", "uint16", "int32", "int64"])
def test_ids_of_every_kind(on: Namespace, name: str) -> None:
    W, ids, dy = drawn((3, 5))
    given, dW = on.array(ids.astype(name)), on.backend.asarray(np.zeros_like(W))
    assert to_numpy(embedding(on.array(W), given)).tolist() == W[ids].tolist()
    embedding_backward(on.array(dy), given, dW)
    expected = np.zeros_like(W)
    np.add.at(expected, ids, dy)
    assert_close(dW, expected, "float64", terms=15)


def test_the_sums_are_the_same_bits_every_time(on: Namespace) -> None:
    rng = np.random.default_rng(2)
    ids, dy = rng.integers(0, 3, 5000), rng.standard_normal((5000, 4)).astype("float32")
    sums = []
    for _ in range(3):
        dW = on.backend.zeros((5, 4), "float32")
        embedding_backward(on.array(dy), on.array(ids), dW)
        sums.append(to_numpy(dW).tobytes())
    assert len(set(sums)) == 1


@pytest.mark.parametrize("bad", [-1, 11])
def test_an_id_outside_of_the_vocabulary_shows(on: Namespace, bad: int) -> None:
    W, _, dy = drawn((3,))
    ids, dW = on.array([2, bad, 4]), on.backend.asarray(np.zeros_like(W))
    if on.backend.host:
        for use in (lambda: embedding(on.array(W), ids), lambda: embedding_backward(on.array(dy), ids, dW)):
            with pytest.raises(ValueError, match=f"ids must lie in 0 to 10, got {min(bad, 2)} to {max(bad, 4)}"):
                use()
        assert not to_numpy(dW).any()
        return
    assert np.isnan(to_numpy(embedding(on.array(W), ids))).any(axis=1).tolist() == [False, True, False]
    embedding_backward(on.array(dy), ids, dW)
    assert np.flatnonzero(to_numpy(dW).any(axis=1)).tolist() == [2, 4]


def test_what_is_no_table_is_refused(on: Namespace) -> None:
    with pytest.raises(TypeError, match="embedding: W must be an array of floating numbers"):
        embedding(on.array([[1, 2]]), on.array([0]))
