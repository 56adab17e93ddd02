"""Provide the book's common.multi_layer_net."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict

from nnbackend.book import layers as book_layers
from nnbackend.book.gradient import numerical_gradient
from nnbackend.book.layers import *  # noqa: F403
from nnbackend.book.multi_layer_net_extend import MultiLayerNetExtend

__all__ = ["MultiLayerNet", "OrderedDict", "numerical_gradient", "os", "sys"]
__all__ += book_layers.__all__


class MultiLayerNet(MultiLayerNetExtend):
    """Classifies rows with a fully connected network with weight decay. For the arguments see MultiLayerNetExtend."""

    def __init__(
        self,
        input_size: int,
        hidden_size_list: list[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: str | float = "relu",
        weight_decay_lambda: float = 0,
    ):
        super().__init__(input_size, hidden_size_list, output_size, activation, weight_init_std, weight_decay_lambda)
