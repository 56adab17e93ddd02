"""Sampling: frequencies, settings, one text for one seed on every backend, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.sampling import choose, generate, probabilities

LOGITS = np.array([0.5, 2.0, -1.0, 1.0, 2.0])


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def test_probabilities_by_their_formula() -> None:
    np.testing.assert_allclose(probabilities(LOGITS), softmax(LOGITS), rtol=1e-14)
    np.testing.assert_allclose(probabilities(LOGITS, 0.5), softmax(2 * LOGITS), rtol=1e-14)
    assert probabilities(LOGITS, 0).tolist() == probabilities(LOGITS, 7.0, 1).tolist() == [0, 1, 0, 0, 0]
    cut = probabilities(LOGITS, 1.0, 3)
    assert (cut > 0).tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(cut[[1, 3, 4]], softmax(LOGITS[[1, 3, 4]]), rtol=1e-14)
    assert (probabilities(LOGITS, 1.0, 99) > 0).all()
    assert probabilities(np.array([1e300, -1e300, 0.0]), 1e-10).tolist() == [1, 0, 0]


def test_frequencies_are_the_probabilities() -> None:
    rng, n = np.random.default_rng(0), 20_000
    drawn = np.bincount([choose(LOGITS, draw, 1.3) for draw in rng.random(n)], minlength=5)
    expected = n * softmax(LOGITS / 1.3)
    assert ((drawn - expected) ** 2 / expected).sum() < 18.5  # chi-squared of 4 degrees of freedom: one in a thousand
    np.testing.assert_allclose(drawn / n, softmax(LOGITS / 1.3), atol=5 * 0.5 / n**0.5)


def test_the_ends_of_the_draws() -> None:
    assert choose(LOGITS, 0.0) == 0
    assert choose(LOGITS, 1 - 2**-53) == 4
    assert choose(LOGITS, 0.0, 1.0, 2) == 1  # an id of probability 0 is never drawn
    assert choose(np.array([-1e9, 0.0, -1e9]), 1 - 2**-53) == 1


def network(every_step: bool = True, **settings: Any) -> nn.Network:
    layers = [nn.Embedding(7, 5, weight=1.0), nn.GRU(5, 7, weight=2.0), *([] if every_step else [nn.LastStep()])]
    return nn.Network(layers, nn.MeanSquaredError(), seed=5, **settings)


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0}, {"temperature": 1.0}, {"temperature": 3.0, "top_k": 3}, {"context": 2, "temperature": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_seed_gives_one_text_on_every_backend(on: Namespace, settings: dict[str, Any]) -> None:
    ids = nn.generate(network(), [1, 2, 3], 12, seed=4, **settings)
    assert ids == nn.generate(network(backend="numpy"), [1, 2, 3], 12, seed=4, **settings)
    assert ids == nn.generate(network(every_step=False), on.array([1, 2, 3]), 12, seed=4, **settings)
    assert ids[:5] == nn.generate(network(), [1, 2, 3], 5, seed=4, **settings)
    assert len(ids) == 12
    assert set(ids) <= set(range(7))


def test_each_id_is_drawn_by_what_comes_before() -> None:
    net = network()
    greedy, ids = generate(net, [3], 6, temperature=0), [3]
    for _ in range(6):
        ids.append(int(np.argmax(np.asarray(net.predict(np.array([ids])))[0, -1])))
    assert greedy == ids[1:]
    assert generate(net, [3], 30, seed=1, temperature=5.0) != generate(net, [3], 30, seed=2, temperature=5.0)
    near, far = ([0] * 5 + [3], [6] * 5 + [3])
    assert generate(net, near, 20, context=1, seed=1) == generate(net, far, 20, context=1, seed=1)
    assert generate(net, [3], 0) == []


@pytest.mark.parametrize(("use", "message"), [
    (lambda: generate(network(), [], 3), "prompt: expected at least one id in a row, got shape (0,)"),
    (lambda: generate(network(), [[1]], 3), "prompt: expected at least one id in a row, got shape (1, 1)"),
    (lambda: generate(network(), [1.0], 3), "got shape (1,) of float64"),
    (lambda: generate(network(), [7], 3), "prompt: Embedding1 has a vocabulary of 7, so ids must lie in 0 to 6"),
    (lambda: generate(network(), [1], -1), "length: expected an integer of at least 0, got -1"),
    (lambda: generate(network(), [1], 1, temperature=-1.0), "temperature must be at least 0 and finite, got -1.0"),
    (lambda: generate(network(), [1], 1, top_k=0), "top_k must be a positive integer, got 0"),
    (lambda: generate(network(), [1], 1, context=0), "context must be a positive integer, got 0"),
    (lambda: generate(network(), [1], 1, seed=-1), "seed must be an integer of at least 0, got -1"),
    (lambda: choose(LOGITS, 1.0), "draw must be at least 0 and below 1, got 1.0"),
    (lambda: probabilities([[1.0]]), "logits: expected shape (classes,), got (1, 1)"),
    (lambda: probabilities([0.0, np.nan]), "logits must be finite, got nan for id 1"),
])  # fmt: skip
def test_bad_input(use: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        use()


def test_outputs_of_another_form() -> None:
    net = nn.Network([nn.Embedding(7, 5), nn.LastStep(), nn.LastStep()], nn.MeanSquaredError())
    with pytest.raises(ValueError, match=r"expected logits, \(classes,\) or \(T, classes\), for a row, got \(\)"):
        generate(net, [1], 2)


@pytest.mark.parametrize(("prompt", "length", "context", "seen"), [(2, 4, None, 5), (4, 1, None, 4), (5, 0, None, 5)])
def test_more_ids_than_the_network_takes_are_refused_before_the_work(
    prompt: int, length: int, context: int | None, seen: int
) -> None:
    layers = [
        nn.Embedding(5, 4),
        nn.PositionalEncoding(4, 3),
        nn.MultiHeadAttention(4, 2, causal=True),
        nn.Affine(4, 5),
    ]
    net, ids = nn.Network(layers), [1, 2, 3, 4, 0][:prompt]
    with pytest.raises(
        ValueError, match=rf"context is {context}, so the network would see up to {seen} ids, .* knows 3"
    ):
        nn.generate(net, ids, length, context=context)
    assert len(nn.generate(net, ids, length, context=3)) == length
    with pytest.raises(TypeError, match="network: expected a Network, got 'x'"):
        nn.generate("x", ids, length)  # type: ignore[arg-type]
