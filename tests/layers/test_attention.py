"""Attention as a layer: PyTorch's module, what a causal one may know, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy


@pytest.mark.parametrize(("n", "steps", "features", "heads"), [(2, 5, 6, 3), (1, 1, 1, 1), (3, 1, 4, 2), (1, 4, 3, 1)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(
    on: Namespace, n: int, steps: int, features: int, heads: int, causal: bool, dtype: str
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    layer = nn.MultiHeadAttention(features, heads, causal, bias=0.5).initialize(seed=1, dtype=dtype)
    module = torch.nn.MultiheadAttention(features, heads, batch_first=True).to(getattr(torch, dtype))
    host = {name: to_numpy(p.data) for name, p in layer.parameters().items()}
    names = {"in_proj_weight": "W", "in_proj_bias": "b", "out_proj.weight": "Wo", "out_proj.bias": "bo"}
    module.load_state_dict({name: torch.tensor(host[own].T.copy()) for name, own in names.items()})
    rng = np.random.default_rng(2)
    x, dy = (rng.standard_normal((n, steps, features)).astype(dtype) for _ in range(2))
    xt = torch.tensor(x, requires_grad=True)
    mask = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1) if causal else None
    y, weights = module(xt, xt, xt, attn_mask=mask, average_attn_weights=False)
    y.backward(torch.tensor(dy))
    terms = 10 * features * steps
    assert_close(layer.forward(on.array(x)), y.detach().numpy(), dtype, terms)
    assert_close(layer.attention_weights, weights.detach().numpy(), dtype, terms)
    assert_close(layer.backward(on.array(dy)), xt.grad.numpy(), dtype, 4 * terms)
    theirs = dict(module.named_parameters())
    scale = max(float(p.grad.abs().max()) for p in theirs.values())
    for name, own in names.items():
        assert_close(layer.parameters()[own].grad, theirs[name].grad.numpy().T, dtype, 4 * terms, scale=scale)
    assert layer.backward(on.array(dy), need_dx=False) is None


def test_a_causal_layer_does_not_see_what_comes_later(on: Namespace) -> None:
    layer = nn.MultiHeadAttention(4, 2, causal=True).initialize(seed=1)
    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype("float32")
    changed = x.copy()
    changed[:, 4:] += 1.0
    first, second = (to_numpy(layer.forward(on.array(a))) for a in (x, changed))
    assert first[:, :4].tolist() == second[:, :4].tolist()
    assert (np.abs(first[:, 4:] - second[:, 4:]).max(axis=-1) > 1e-3).all()
    whole = nn.MultiHeadAttention(4, 2).initialize(seed=1)
    first, second = (to_numpy(whole.forward(on.array(a))) for a in (x, changed))
    assert (np.abs(first - second).max(axis=-1) > 1e-4).all()


@pytest.mark.parametrize("learned", [False, True])
def test_positions_let_attention_tell_the_order(on: Namespace, learned: bool) -> None:
    """Whether the first id is larger than the last: without positions the mean of all steps cannot tell."""
    ids = np.random.default_rng(0).integers(0, 4, (80, 3))
    labels = (ids[:, 0] > ids[:, 2]).astype(int)
    layers = [
        nn.Embedding(4, 8, weight=0.5), nn.PositionalEncoding(8, 3, learned), nn.MultiHeadAttention(8, 2),
        nn.Flatten(), nn.Affine(24, 2),
    ]  # fmt: skip
    net = nn.Network(layers, seed=1)
    nn.Trainer(net, nn.Adam(0.03), batch_size=20, seed=0).fit(ids, labels, epochs=30)
    assert net.accuracy(ids, labels) == 1.0


def test_gradients_by_differences() -> None:
    ids, labels = np.random.default_rng(0).integers(0, 5, (4, 6)), np.arange(4) % 2
    layers = [nn.Embedding(5, 4), nn.PositionalEncoding(4, 7, learned=True), nn.MultiHeadAttention(4, 2, causal=True)]
    net = nn.Network([*layers, nn.LastStep(), nn.Affine(4, 2)], dtype="float64", seed=3)
    assert nn.check_gradients(net, ids, labels).ok
    numerical = net.numerical_gradient(ids, labels)
    for name, value in net.gradient(ids, labels).items():
        np.testing.assert_allclose(to_numpy(numerical[name]), to_numpy(value), rtol=0, atol=1e-7)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, "float32")


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.MultiHeadAttention(0, 1), "MultiHeadAttention: features must be a positive integer, got 0"),
    (lambda: nn.MultiHeadAttention(6, 2.0), "MultiHeadAttention: heads must be a positive integer, got 2.0"),
    (lambda: nn.MultiHeadAttention(6, 4), "MultiHeadAttention: 4 heads cannot share 6 features equally"),
    (lambda: nn.MultiHeadAttention(6, 2, causal=1), "causal must be True or False, got 1"),
    (lambda: nn.MultiHeadAttention(6, 2).forward(zeros(1, 2, 6)), "no parameter values yet"),
    (lambda: nn.MultiHeadAttention(6, 2).initialize().forward(zeros(2, 6)), "must have shape (n, T, 6), got (2, 6)"),
    (lambda: nn.MultiHeadAttention(6, 2).initialize().forward(zeros(2, 0, 6)), "least one step, got shape (2, 0, 6)"),
    (lambda: nn.MultiHeadAttention(6, 2).output_shape((6,)), "takes rows of shape (T, 6), T at least 1, but what"),
    (lambda: nn.PositionalEncoding(6, 0), "PositionalEncoding: length must be a positive integer, got 0"),
    (lambda: nn.PositionalEncoding(6, 4, learned=1), "learned must be True or False, got 1"),
    (lambda: nn.PositionalEncoding(6, 4).forward(zeros(1, 5, 6)), "(n, T, 6), T from 1 to 4, got (1, 5, 6)"),
    (lambda: nn.PositionalEncoding(6, 4).forward(zeros(1, 6)), "(n, T, 6), T from 1 to 4, got (1, 6)"),
    (lambda: nn.PositionalEncoding(6, 4).output_shape((5, 6)), "knows 4 positions, but what comes before gives (5, 6)"),
    (lambda: nn.PositionalEncoding(6, 4, learned=True).forward(zeros(1, 4, 6)), "no parameter values yet"),
])  # fmt: skip
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def small_transformer(**settings: Any) -> nn.Network:
    layers: list[nn.Layer] = [nn.Embedding(9, 8, weight=0.5), nn.PositionalEncoding(8, 6)]
    for _ in range(2):
        layers += [
            nn.Residual([nn.LayerNormalization(8), nn.MultiHeadAttention(8, 2, causal=True)]),
            nn.Residual([nn.LayerNormalization(8), nn.Affine(8, 16), nn.GELU(), nn.Affine(16, 8)]),
        ]
    return nn.Network([*layers, nn.LayerNormalization(8), nn.Affine(8, 9)], seed=1, **settings)


def test_a_small_transformer_learns_to_count(on: Namespace) -> None:
    """Each id is followed by the next one, at every step; the gradients are checked by differences."""
    ids = np.random.default_rng(0).integers(0, 9, (60, 6))
    net = small_transformer()
    assert nn.check_gradients(net, ids[:3], (ids[:3] + 1) % 9).ok
    nn.Trainer(net, nn.Adam(0.01), batch_size=10, clip_norm=1.0, seed=0).fit(ids, (ids + 1) % 9, epochs=12)
    assert net.accuracy(ids, (ids + 1) % 9) > 0.99
    assert nn.generate(net, [3], 7, temperature=0, context=6) == [4, 5, 6, 7, 8, 0, 1]


def test_a_small_transformer_in_other_libraries(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    ids, net = np.random.default_rng(0).integers(0, 9, (4, 6)), small_transformer()
    with torch.no_grad():
        assert_close(net.to_torch()(torch.tensor(ids)).numpy(), to_numpy(net.predict(ids)), "float32", 300)
    assert net.to_onnx(tmp_path / "net.onnx", input_shape=(6,)).difference < 1e-5


def test_prediction_in_pieces_counts_the_weights_of_attention() -> None:
    """A batch of 128 rows of 512 steps has 134 million of them for 4 heads."""
    layer = nn.MultiHeadAttention(8, 4)
    assert layer.widest((512, 8)) == 4 * 512 * 512
    assert layer.widest((2, 8)) == 3 * 2 * 8
    rows = []
    net = nn.Network([nn.Embedding(5, 8), layer, nn.LastStep(), nn.Affine(8, 2)])
    forward, net.forward = net.forward, lambda x, training=False: rows.append(len(x)) or forward(x, training)
    net.predict(np.zeros((20, 512), int))
    assert max(rows) * 4 * 512 * 512 <= 2**23
    assert sum(rows) == 20


def test_a_mask_of_numbers_is_refused(on: Namespace) -> None:
    """PyTorch's may be added to the scores: 0 where a step may look, the opposite of True."""
    q = on.array(np.zeros((1, 3, 2)))
    with pytest.raises(TypeError, match="attention: mask must hold booleans, True where a step may look, got dtype"):
        nn.functions.attention(q, q, q, on.array(np.zeros((3, 3))))


def test_heads_that_differ_from_pytorchs_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="MultiHeadAttention1: heads is 2, but 3 in PyTorch: make it with heads=3"):
        nn.load_torch(torch.nn.MultiheadAttention(6, 3, batch_first=True), [nn.MultiHeadAttention(6, 2)])
    with pytest.raises(ValueError, match="PyTorch's RNN has the nonlinearity 'relu', but RNN has tanh alone"):
        nn.load_torch(torch.nn.RNN(6, 5, batch_first=True, nonlinearity="relu"), [nn.RNN(6, 5)])
