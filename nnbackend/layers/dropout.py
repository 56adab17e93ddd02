"""The dropout layer."""

from __future__ import annotations

from dataclasses import dataclass

from nnbackend.checks import decay
from nnbackend.functions import dropout_mask
from nnbackend.functions.array import Array
from nnbackend.functions.philox import masked
from nnbackend.layers.base import Layer


@dataclass(eq=False)
class Dropout(Layer):
    """Sets each element to zero with probability dropout_ratio while training, and divides the others by
    1 - dropout_ratio. In inference mode it returns x unchanged. x: any shape.

    The masks depend on the network's seed, the layer's place and the number of training passes. They are equal on
    every backend, bit for bit. Raises ValueError unless 0 <= dropout_ratio < 1.
    """

    dropout_ratio: float = 0.5
    elementwise = True
    draws = True
    identity = True

    def __post_init__(self) -> None:
        decay("Dropout: dropout_ratio", self.dropout_ratio)

    def bind(self, clock: Array, number: int, seed: int) -> None:
        self._clock, self._number, self._seed = clock, number, seed

    def forward(self, x: Array, training: bool = False) -> Array:
        self._mask = None
        if not training or self.dropout_ratio == 0:
            return x
        self._mask = dropout_mask(x, self.dropout_ratio, self._seed, self._number, self._clock)
        return masked(x, self._mask)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return dy if self._mask is None else masked(dy, self._mask)
