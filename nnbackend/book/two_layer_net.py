"""Provide two_layer_net of the book's chapter 4, built of layers as in chapter 5."""

from __future__ import annotations

from typing import Any

from nnbackend.book.functions import softmax
from nnbackend.book.layers import Affine, Sigmoid
from nnbackend.book.network import LayeredNet
from nnbackend.functions.array import Array


class TwoLayerNet(LayeredNet):
    """Classifies rows with affine, sigmoid, affine, and softmax with cross entropy, in float64.

    Weights are drawn from numpy.random. `predict` returns probabilities. The network of chapter 5 has ReLU in place of
    the sigmoid, and returns scores. To use that one, change the imports of the module beside the scripts of chapter 5,
    or make the same network by MultiLayerNet(input_size, [hidden_size], output_size, weight_init_std=0.01).
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
