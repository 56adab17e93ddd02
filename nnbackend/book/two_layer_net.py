"""The two_layer_net of the book's chapter 4, with layers, as in chapter 5."""

from __future__ import annotations

from typing import Any

from nnbackend.book.functions import softmax
from nnbackend.book.layers import Affine, Sigmoid
from nnbackend.book.network import LayeredNet
from nnbackend.functions.array import Array


class TwoLayerNet(LayeredNet):
    """Affine, Sigmoid, Affine, softmax with cross entropy, in float64, with weights drawn from numpy.random.

    `predict` gives probabilities. The network of chapter 5 has ReLU instead and gives scores: take the module that lies
    beside the scripts there, with its imports changed, or MultiLayerNet(input_size, [hidden_size], output_size,
    weight_init_std=0.01), which is the same network.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, weight_init_std: float = 0.01):
        super().__init__()
        self._draw_and_append("Affine1", Affine, 1, weight_init_std, (input_size, hidden_size))
        self._append("Sigmoid1", Sigmoid)
        self._draw_and_append("Affine2", Affine, 2, weight_init_std, (hidden_size, output_size))
        self.lastLayer = self.last_layer

    def predict(self, x: Any, train_flg: bool = False) -> Array:
        """Return probabilities, (n, output_size), for x, (n, input_size)."""
        return softmax(self._scores(x, train_flg))

    def _scores(self, x: Any, train_flg: bool) -> Array:
        return super().predict(x, train_flg)
