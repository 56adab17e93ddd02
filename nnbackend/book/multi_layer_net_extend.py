"""The book's common.multi_layer_net_extend."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from nnbackend.functions.array import Array
from nnbackend.layers import Affine, BatchNormalization, Dropout, Layer, ReLU, Sigmoid
from nnbackend.network import Network


class MultiLayerNetExtend(Network):
    """A fully connected network with weight decay, dropout and batch normalisation, in float64.

    hidden_size_list: widths, [100, 100, 100] say. activation: "relu" or "sigmoid". weight_init_std: a number, or
    "relu" / "he" for He's and "sigmoid" / "xavier" for Xavier's initial values; weights are drawn from numpy.random.
    weight_decay_lambda: the strength of the L2 penalty. dropout_ration: as the book spells it.

    params and grads by name: W1, b1, gamma1, beta1, W2, ...; predict gives scores.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: list[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: str | float = "relu",
        weight_decay_lambda: float = 0,
        use_dropout: bool = False,
        dropout_ration: float = 0.5,
        use_batchnorm: bool = False,
    ):
        activations: dict[str, type[Layer]] = {"sigmoid": Sigmoid, "relu": ReLU}
        widths = [input_size, *hidden_size_list, output_size]
        layers: list[Layer] = []
        for before, width in pairwise(widths[:-1]):
            layers.append(Affine(before, width))
            layers += [BatchNormalization(width, eps=10e-7)] if use_batchnorm else []
            layers.append(activations[activation]())
            layers += [Dropout(dropout_ration)] if use_dropout else []
        super().__init__([*layers, Affine(widths[-2], widths[-1])], dtype="float64")
        self.last_layer = self.loss_layer
        self.weight_decay_lambda = weight_decay_lambda
        self._weights = [f"W{i}" for i in range(1, len(widths))]
        for name, before, width in zip(self._weights, widths[:-1], widths[1:], strict=True):
            self.params[name] = _scale(weight_init_std, before) * np.random.randn(before, width)

    def predict(self, x: Any, train_flg: bool = False) -> Array:
        """Scores (logits), (N, output_size)."""
        return self.forward(self.inputs(x), training=True) if train_flg else super().predict(x)

    def loss(self, x: Any, t: Any, train_flg: bool = False) -> float:
        """The cross entropy, and half of weight_decay_lambda times the squared weights."""
        penalty = sum(float(self.backend.xp.sum(self.params[name] ** 2)) for name in self._weights)
        x, t = self.data(x, t)
        loss = self.loss_and_output(x, t)[0] if train_flg else self.evaluate(x, t)[0]
        return float(loss) + 0.5 * self.weight_decay_lambda * penalty

    def gradient(self, x: Any, t: Any, sample_weight: Any = None) -> dict[str, Array]:
        """The gradient of the training loss, weight decay included."""
        grads = super().gradient(x, t, sample_weight)
        for name in self._weights if self.weight_decay_lambda else []:
            grads[name] = grads[name] + self.weight_decay_lambda * self.params[name]
        return grads

    def numerical_gradient(self, x: Any, t: Any, h: float = 1e-4) -> dict[str, Array]:
        """The same by central differences, in inference mode; the penalty's part in closed form."""
        grads = super().numerical_gradient(x, t, h)
        for name in self._weights if self.weight_decay_lambda else []:
            grads[name] = grads[name] + self.weight_decay_lambda * self.params[name]
        return grads


def _scale(weight_init_std: str | float, fan_in: int) -> float:
    if isinstance(weight_init_std, str):
        named = {"relu": 2.0, "he": 2.0, "sigmoid": 1.0, "xavier": 1.0}
        return math.sqrt(named[weight_init_std.lower()] / fan_in)
    return weight_init_std
