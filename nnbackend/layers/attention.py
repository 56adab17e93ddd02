"""Attention of a sequence to itself, and the layer that tells it the positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnbackend.checks import boolean, positive_integer
from nnbackend.functions import affine, affine_backward, attention, attention_backward, sinusoids
from nnbackend.functions.array import Array, MaybeArray, array_namespace, as_rows
from nnbackend.initializers import Initializer, Normal, initializer
from nnbackend.layers.base import Layer, RowShape, Shape, check_input, check_steps, checked_sequence
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class MultiHeadAttention(Layer):
    """Lets every step of a sequence look at the other steps (self-attention; Vaswani et al. 2017, section 3.2.2).

    x, y: (n, T, features), T >= 1. W, (features, 3 features), and b give queries, keys and values, in PyTorch's order;
    each of the `heads` takes features / heads columns of each. Wo, (features, features), and bo make y of the heads'
    answers. causal: whether a step looks only at itself and at earlier steps.
    weight, bias: an Initializer, its name, or the standard deviation of a normal distribution. The default weights have
    1 / sqrt(features); PyTorch draws W evenly from -sqrt(6 / (4 features)) to sqrt(6 / (4 features)).
    Raises ValueError for sizes that are not positive integers, and if heads does not divide features.
    """

    features: int
    heads: int
    causal: bool = False
    weight: Initializer | str | float = "xavier"
    bias: Initializer | str | float = "zeros"

    def __post_init__(self) -> None:
        for argument in ("features", "heads"):
            positive_integer(f"{self.kind}: {argument}", getattr(self, argument))
        if self.features % self.heads:
            raise ValueError(f"{self.kind}: {self.heads} heads cannot share {self.features} features equally")
        boolean(f"{self.kind}: causal", self.causal)
        weight, bias = (initializer(getattr(self, name), f"{self.kind}: {name}") for name in ("weight", "bias"))
        self.W = Parameter((self.features, 3 * self.features), weight)
        self.b = Parameter((3 * self.features,), bias)
        self.Wo = Parameter((self.features, self.features), weight)
        self.bo = Parameter((self.features,), bias)

    def forward(self, x: Array, training: bool = False) -> Array:
        check_input(self, x, self.W.data, self.features, axes=3)
        check_steps(self, x)
        xp, (n, steps, d) = array_namespace(x), x.shape
        self._rows = as_rows(x)
        three = xp.reshape(affine(self._rows, self.W.data, self.b.data), (n, steps, 3, self.heads, d // self.heads))
        three = xp.permute_dims(three, (2, 0, 3, 1, 4))
        self._qkv = three[0, ...], three[1, ...], three[2, ...]
        y, self._p = attention(*self._qkv, None, self.causal)
        self._answers = xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (n * steps, d))
        return xp.reshape(affine(self._answers, self.Wo.data, self.bo.data), (n, steps, d))

    def backward(self, dy: Array, need_dx: bool = True) -> MaybeArray:
        xp, (n, steps, d) = array_namespace(dy), dy.shape
        dy = affine_backward(as_rows(dy), self._answers, self.Wo.data, self.Wo.grad, self.bo.grad)
        dy = xp.permute_dims(xp.reshape(dy, (n, steps, self.heads, d // self.heads)), (0, 2, 1, 3))
        three = xp.stack(attention_backward(dy, *self._qkv, self._p))
        rows = xp.reshape(xp.permute_dims(three, (1, 3, 0, 2, 4)), (n * steps, 3 * d))
        dx = affine_backward(rows, self._rows, self.W.data, self.W.grad, self.b.grad, need_dx)
        return xp.reshape(dx, (n, steps, d)) if need_dx else None

    @property
    def attention_weights(self) -> Array:
        """Return how much each step looked at each step in the last forward: (n, heads, T, T), sums of 1 along the
        last axis.
        """
        return self._p

    def config(self) -> dict[str, Any]:
        return {"features": self.features, "heads": self.heads, "causal": self.causal}

    @property
    def input_shape(self) -> RowShape:
        return (None, self.features)

    def output_shape(self, shape: Shape) -> Shape:
        return checked_sequence(self, shape, self.features)

    def widest(self, shape: Shape) -> int:
        return shape[0] * max(self.heads * shape[0], 3 * self.features)


@dataclass(eq=False)
class PositionalEncoding(Layer):
    """Adds to every step a vector of its position, because attention does not know the order of steps.

    x, y: (n, T, features), T from 1 to `length`. learned: False for the sines and cosines of
    `nnbackend.functions.sinusoids`, which are not trained; True for a trained table P, (length, features), which begins
    with a standard deviation of 0.02.
    Raises ValueError for sizes that are not positive integers.
    """

    features: int
    length: int
    learned: bool = False

    def __post_init__(self) -> None:
        for argument in ("features", "length"):
            positive_integer(f"{self.kind}: {argument}", getattr(self, argument))
        boolean(f"{self.kind}: learned", self.learned)
        if self.learned:
            self.P = Parameter((self.length, self.features), Normal(0.02))

    def forward(self, x: Array, training: bool = False) -> Array:
        if self.learned:
            check_input(self, x, self.P.data, self.features, axes=3)
        if x.ndim != 3 or x.shape[2] != self.features or not 0 < x.shape[1] <= self.length:
            raise ValueError(
                f"{self}: argument x must have shape (n, T, {self.features}), T from 1 to {self.length}, "
                f"got {tuple(x.shape)}"
            )
        return x + (self.P.data[: x.shape[1], ...] if self.learned else sinusoids(x))[None, ...]

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        if self.learned:
            self.P.grad[...] = 0.0
            self.P.grad[: dy.shape[1], ...] = array_namespace(dy).sum(dy, axis=0)
        return dy

    @property
    def input_shape(self) -> RowShape:
        return (None, self.features)

    def output_shape(self, shape: Shape) -> Shape:
        shape = checked_sequence(self, shape, self.features)
        if shape[0] > self.length:
            raise ValueError(f"{self} knows {self.length} positions, but what comes before gives {shape}")
        return shape
