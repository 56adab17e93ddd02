"""Layers: objects with state, one file per idea. The mathematics is in `nnbackend.functions`."""

from nnbackend.layers.activations import (
    ACTIVATIONS,
    ELU,
    GELU,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
    activation,
)
from nnbackend.layers.affine import Affine
from nnbackend.layers.base import Layer, Loss
from nnbackend.layers.dropout import Dropout
from nnbackend.layers.losses import MeanSquaredError, SoftmaxWithLoss
from nnbackend.layers.normalization import BatchNormalization, LayerNormalization

LAYERS: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Affine,
        Sigmoid,
        ReLU,
        LeakyReLU,
        ELU,
        GELU,
        SiLU,
        Tanh,
        Softmax,
        BatchNormalization,
        LayerNormalization,
        Dropout,
    )
}
LOSSES: dict[str, type[Loss]] = {loss.__name__: loss for loss in (SoftmaxWithLoss, MeanSquaredError)}

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "LAYERS",
    "LOSSES",
    "Affine",
    "BatchNormalization",
    "Dropout",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Loss",
    "MeanSquaredError",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxWithLoss",
    "Tanh",
    "activation",
]
