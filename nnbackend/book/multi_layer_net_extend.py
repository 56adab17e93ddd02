"""Provide the book's common.multi_layer_net_extend."""

from __future__ import annotations

import math
import os
import sys
from collections import OrderedDict
from typing import Any

import numpy as np

from nnbackend.backends import backend
from nnbackend.book import layers as book_layers
from nnbackend.book.gradient import numerical_gradient
from nnbackend.book.layers import *  # noqa: F403 - a star import of this module gives the same names as in the book
from nnbackend.book.layers import Affine, BatchNormalization, Dropout, Relu, Sigmoid
from nnbackend.book.network import LayeredNet
from nnbackend.checks import number
from nnbackend.errors import unknown_name

__all__ = ["MultiLayerNetExtend", "OrderedDict", "numerical_gradient", "os", "sys"]
__all__ += book_layers.__all__

_ACTIVATIONS = {"relu": Relu, "sigmoid": Sigmoid}
_INITIAL = {"he": 2.0, "relu": 2.0, "sigmoid": 1.0, "xavier": 1.0}  # the variance times the number of inputs


class MultiLayerNetExtend(LayeredNet):
    """Classifies rows with a fully connected network, in float64. Dropout and batch normalisation are optional.

    hidden_size_list: the widths of the hidden layers, as [100, 100, 100]. activation: "relu" or "sigmoid".
    weight_init_std: the standard deviation of the initial weights, or "relu" / "he" for He's and "sigmoid" / "xavier"
    for Xavier's. Weights are drawn from numpy.random. weight_decay_lambda: the strength of the L2 penalty.
    dropout_ration: the dropout ratio, in the book's spelling.

    layers: Affine1, BatchNorm1, Activation_function1, Dropout1, Affine2, ... params: W1, b1, W2, b2, ..., gamma1,
    beta1, ...

    Raises ValueError for an unknown activation or initial value, TypeError if hidden_size_list is not a list.
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
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation: {unknown_name('activation', activation, _ACTIVATIONS)}")
        if not isinstance(hidden_size_list, list | tuple):
            raise TypeError(f"hidden_size_list: expected a list of widths, got {hidden_size_list!r}")
        self.input_size, self.output_size = input_size, output_size
        self.hidden_size_list, self.hidden_layer_num = hidden_size_list, len(hidden_size_list)
        self.weight_decay_lambda = weight_decay_lambda
        self.use_dropout, self.use_batchnorm = use_dropout, use_batchnorm

        widths = [input_size, *hidden_size_list, output_size]
        last = len(widths) - 1
        for i in range(1, last + 1):
            self._draw(i, _standard_deviation(weight_init_std, widths[i - 1]), (widths[i - 1], widths[i]))
        for i in range(1, last):
            self._append(f"Affine{i}", Affine, f"W{i}", f"b{i}")
            if use_batchnorm:
                self.params[f"gamma{i}"] = backend().asarray(np.ones(widths[i]))
                self.params[f"beta{i}"] = backend().asarray(np.zeros(widths[i]))
                self._append(f"BatchNorm{i}", BatchNormalization, f"gamma{i}", f"beta{i}")
            self._append(f"Activation_function{i}", _ACTIVATIONS[activation])
            if use_dropout:
                self._append(f"Dropout{i}", Dropout, dropout_ratio=dropout_ration)
        self._append(f"Affine{last}", Affine, f"W{last}", f"b{last}")


def _standard_deviation(weight_init_std: Any, inputs: int) -> float:
    if isinstance(weight_init_std, str):
        if weight_init_std.lower() not in _INITIAL:
            raise ValueError(f"weight_init_std: {unknown_name('initial value', weight_init_std, _INITIAL)}")
        return math.sqrt(_INITIAL[weight_init_std.lower()] / inputs)
    number("weight_init_std", weight_init_std)
    return float(weight_init_std)
