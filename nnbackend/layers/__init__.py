"""Layers: objects with state, one file per idea. The mathematics is in `nnbackend.functions`."""

from nnbackend.layers.activations import ACTIVATIONS, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh, activation
from nnbackend.layers.affine import Affine
from nnbackend.layers.base import Layer, Loss
from nnbackend.layers.losses import MeanSquaredError, SoftmaxWithLoss

LAYERS: dict[str, type[Layer]] = {layer.__name__: layer for layer in (Affine, Sigmoid, ReLU, LeakyReLU, Tanh, Softmax)}
LOSSES: dict[str, type[Loss]] = {loss.__name__: loss for loss in (SoftmaxWithLoss, MeanSquaredError)}

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "LOSSES",
    "Affine",
    "Layer",
    "LeakyReLU",
    "Loss",
    "MeanSquaredError",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxWithLoss",
    "Tanh",
    "activation",
]
