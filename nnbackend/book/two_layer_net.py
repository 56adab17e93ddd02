"""The book's two_layer_net."""

from __future__ import annotations

import numpy as np

from nnbackend.network import TwoLayerNet as LibraryNet


class TwoLayerNet(LibraryNet):
    """Affine, Sigmoid, Affine, softmax with cross entropy, in float64, with weights drawn from numpy.random.

    `predict` gives probabilities (chapter 4). The gradients of chapter 5's network with ReLU are those of
    MultiLayerNet(input_size, [hidden_size], output_size).
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, weight_init_std: float = 0.01):
        super().__init__(input_size, hidden_size, output_size, weight_init_std, dtype="float64")
        self.params["W1"] = weight_init_std * np.random.randn(input_size, hidden_size)
        self.params["W2"] = weight_init_std * np.random.randn(hidden_size, output_size)
