"""Provide the book's ch04.negative_sampling_layer: a loss by a few wrong words (section 4.2)."""

from __future__ import annotations

import collections
from typing import Any

import numpy

from nnbackend.backends import to_numpy
from nnbackend.book.arrays import together, whole
from nnbackend.book2.layers import Bare, Embedding, SigmoidWithLoss, expect, made
from nnbackend.book2.np import GPU, np
from nnbackend.functions.array import Array, array_namespace

__all__ = [
    "GPU",
    "Embedding",
    "EmbeddingDot",
    "NegativeSamplingLoss",
    "SigmoidWithLoss",
    "UnigramSampler",
    "collections",
    "np",
]


class EmbeddingDot(Bare):
    """Computes the product of h and the rows W[idx], row by row. W: (vocabulary, d); h: (n, d); idx: (n,)."""

    def __init__(self, W: Any):
        super().__init__()
        self.embed = Embedding(W)
        self.params, self.grads = self.embed.params, self.embed.grads
        self.cache: Any = None

    def forward(self, h: Any, idx: Any) -> Array:
        h, rows = together(h=h, rows=self.embed.forward(idx))
        expect("h", h, tuple(rows.shape))
        self.cache = h, rows
        out: Array = array_namespace(h).sum(rows * h, axis=1)
        return out

    def backward(self, dout: Any) -> Array:
        h, rows = made("dout", self.cache)
        (dout, _) = together(dout=dout, h=h)
        expect("dout", dout, tuple(h.shape[:1]))
        self.embed.backward(dout[:, None] * h)
        dh: Array = dout[:, None] * rows
        return dh


class UnigramSampler:
    """Draws words by their frequency in a corpus to the given power, from numpy.random, as the book does on a CPU.

    corpus: word numbers, all of 0 to vocab_size - 1. word_p: the probability of each word. Raises ValueError if the
    corpus lacks a number, or has too few words to draw sample_size wrong ones.
    """

    def __init__(self, corpus: Any, power: float, sample_size: int):
        words = to_numpy(corpus).reshape(-1)
        if words.size and (words.dtype.kind not in "iu" or words.min() < 0):
            raise ValueError(f"corpus: expected integers of at least 0, got {words.min()} of dtype {words.dtype}")
        counts = numpy.bincount(words) if words.size else numpy.zeros(0)
        if not counts.all():
            missing = int((counts == 0).argmax())
            raise ValueError(f"corpus: expected each number from 0 to {len(counts) - 1}, but {missing} does not occur")
        if len(counts) <= whole("sample_size", sample_size, 1):
            raise ValueError(f"corpus: expected more than {sample_size} different words, got {len(counts)}")
        self.sample_size, self.vocab_size = sample_size, len(counts)
        p = numpy.power(counts.astype(numpy.float64), power)
        self.word_p = p / p.sum()

    def get_negative_sample(self, target: Any) -> Any:
        """Return sample_size different words, none of them the target, for each of target, (n,): (n, sample_size)."""
        target = to_numpy(target)
        if target.ndim != 1 or target.dtype.kind not in "iu":
            raise ValueError(f"target: expected integers, (n,), got shape {target.shape} of dtype {target.dtype}")
        if target.size and not 0 <= target.min() <= target.max() < self.vocab_size:
            found = f"{target.min()} to {target.max()}"
            raise ValueError(f"target: expected words of the corpus, 0 to {self.vocab_size - 1}, got {found}")
        sample = numpy.zeros((len(target), self.sample_size), numpy.int32)
        for i, word in enumerate(target):
            p = self.word_p.copy()
            p[word] = 0
            p /= p.sum()
            sample[i] = numpy.random.choice(self.vocab_size, size=self.sample_size, replace=False, p=p)
        return np.asarray(sample)


class NegativeSamplingLoss(Bare):
    """Computes `SigmoidWithLoss` of the score of the right word and of sample_size wrong ones, and adds them.

    W: (vocabulary, d). params holds W once for each of these scores, which `remove_duplicate` adds up.
    """

    def __init__(self, W: Any, corpus: Any, power: float = 0.75, sample_size: int = 5):
        super().__init__()
        self.sample_size = sample_size
        self.sampler = UnigramSampler(corpus, power, sample_size)
        if self.sampler.vocab_size > W.shape[0]:
            words = self.sampler.vocab_size
            raise ValueError(f"W: expected a row for each of {words} words, got shape {tuple(W.shape)}")
        self.loss_layers = [SigmoidWithLoss() for _ in range(sample_size + 1)]
        self.embed_dot_layers = [EmbeddingDot(W) for _ in range(sample_size + 1)]
        for layer in self.embed_dot_layers:
            self.params += layer.params
            self.grads += layer.grads

    def forward(self, h: Any, target: Any) -> Any:
        """Return the loss. h: (n, d); target: the numbers of the right words, (n,)."""
        h, target = together(h=h, target=target)
        wrong = self.sampler.get_negative_sample(target)
        xp = array_namespace(target)
        loss: Any = 0
        for i, (loss_layer, dot) in enumerate(zip(self.loss_layers, self.embed_dot_layers, strict=True)):
            words = wrong[:, i - 1] if i else target
            labels = xp.zeros_like(target) if i else xp.ones_like(target)
            loss = loss + loss_layer.forward(dot.forward(h, words), labels)
        return loss

    def backward(self, dout: Any = 1) -> Array:
        parts = [
            dot.backward(loss.backward(dout)) for loss, dot in zip(self.loss_layers, self.embed_dot_layers, strict=True)
        ]
        return sum(parts[1:], parts[0])
