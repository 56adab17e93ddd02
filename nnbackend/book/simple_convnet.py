"""Provide simple_convnet of the book's chapter 7."""

from __future__ import annotations

from collections.abc import Mapping

from nnbackend.book.layers import Affine, Convolution, Pooling, Relu
from nnbackend.book.network import LayeredNet
from nnbackend.functions.convolution import output_size as windows_in

_CONVOLUTION: Mapping[str, int] = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}


class SimpleConvNet(LayeredNet):
    """Classifies images with a convolution and two affine layers, in float64.

    The layers are convolution, ReLU, max pooling by 2, affine, ReLU, affine, and softmax with cross entropy.

    input_dim: (channels, height, width). conv_param: filter_num, filter_size, pad and stride of the convolution.
    Weights are drawn from numpy.random with the standard deviation weight_init_std.

    layers: Conv1, Relu1, Pool1, Affine1, Relu2, Affine2. params: W1, b1, W2, b2, W3, b3.
    """

    _rows_at_once = 100

    def __init__(
        self,
        input_dim: tuple[int, int, int] = (1, 28, 28),
        conv_param: Mapping[str, int] = _CONVOLUTION,
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float = 0.01,
    ):
        super().__init__()
        filters, size = conv_param["filter_num"], conv_param["filter_size"]
        stride, pad = conv_param["stride"], conv_param["pad"]
        height, width = windows_in(input_dim[1:], size, stride, pad)
        inputs = filters * (height // 2) * (width // 2)
        shape = (filters, input_dim[0], size, size)
        self._draw_and_append("Conv1", Convolution, 1, weight_init_std, shape, stride=stride, pad=pad)
        self._append("Relu1", Relu)
        self._append("Pool1", Pooling, pool_h=2, pool_w=2)
        self._draw_and_append("Affine1", Affine, 2, weight_init_std, (inputs, hidden_size))
        self._append("Relu2", Relu)
        self._draw_and_append("Affine2", Affine, 3, weight_init_std, (hidden_size, output_size))
