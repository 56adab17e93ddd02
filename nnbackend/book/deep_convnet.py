"""Provide deep_convnet of the book's chapter 8."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nnbackend.book.layers import Affine, Convolution, Dropout, Pooling, Relu
from nnbackend.book.network import LayeredNet
from nnbackend.functions.convolution import output_size as windows_in


def _convolution(filter_num: int, pad: int = 1) -> Mapping[str, int]:
    return {"filter_num": filter_num, "filter_size": 3, "pad": pad, "stride": 1}


class DeepConvNet(LayeredNet):
    """Classifies images with six convolutions and two affine layers, in float64.

    Each convolution is followed by ReLU, and every second one by max pooling by 2. Then come affine, ReLU, dropout,
    affine, dropout, and softmax with cross entropy.

    input_dim: (channels, height, width). conv_param_1 to conv_param_6: filter_num, filter_size, pad and stride of the
    convolutions. Weights are drawn from numpy.random with He's initial values.

    layers: a list, as in the book. params: W1, b1, ..., W8, b8.
    """

    _rows_at_once = 100

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param_1: Mapping[str, int] = _convolution(16),
        conv_param_2: Mapping[str, int] = _convolution(16),
        conv_param_3: Mapping[str, int] = _convolution(32),
        conv_param_4: Mapping[str, int] = _convolution(32, pad=2),
        conv_param_5: Mapping[str, int] = _convolution(64),
        conv_param_6: Mapping[str, int] = _convolution(64),
        hidden_size: int = 50,
        output_size: int = 10,
    ):
        super().__init__()
        channels, height, width = input_dim
        convolutions = (conv_param_1, conv_param_2, conv_param_3, conv_param_4, conv_param_5, conv_param_6)
        for i, param in enumerate(convolutions, start=1):
            size, stride, pad = param["filter_size"], param["stride"], param["pad"]
            shape = (param["filter_num"], channels, size, size)
            scale = math.sqrt(2.0 / (channels * size * size))
            self._draw_and_append(f"Conv{i}", Convolution, i, scale, shape, stride=stride, pad=pad)
            self._append(f"Relu{i}", Relu)
            channels, (height, width) = shape[0], windows_in((height, width), size, stride, pad)
            if i % 2 == 0:
                self._append(f"Pool{i}", Pooling, pool_h=2, pool_w=2)
                height, width = height // 2, width // 2
        inputs = channels * height * width
        self._draw_and_append("Affine1", Affine, 7, math.sqrt(2.0 / inputs), (inputs, hidden_size))
        self._append("Relu7", Relu)
        self._append("Dropout1", Dropout)
        self._draw_and_append("Affine2", Affine, 8, math.sqrt(2.0 / hidden_size), (hidden_size, output_size))
        self._append("Dropout2", Dropout)
        places = {key: i for i, key in enumerate(self.layers)}
        self._owners = {name: (places[key], attribute) for name, (key, attribute) in self._owners.items()}
        self.layers = list(self.layers.values())

    def _ordered(self) -> list[Any]:
        return list(self.layers)

    def loss(self, x: Any, t: Any, train_flg: bool = True) -> Any:
        """Return the cross entropy error, with dropout unless train_flg is False. t: see `LayeredNet.loss`."""
        return super().loss(x, t, train_flg)
