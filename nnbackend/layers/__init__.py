"""Layers and losses: objects that hold parameters and settings. The formulas are in `nnbackend.functions`."""

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
from nnbackend.layers.attention import MultiHeadAttention, PositionalEncoding
from nnbackend.layers.augmentation import GaussianNoise, RandomAffine, RandomElastic, RandomFlip
from nnbackend.layers.base import Layer, Loss
from nnbackend.layers.containers import Parallel, Residual, Sequential
from nnbackend.layers.convolution import AveragePooling, Convolution, Flatten, MaxPooling
from nnbackend.layers.dropout import Dropout
from nnbackend.layers.embedding import Embedding
from nnbackend.layers.losses import (
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    QuantileLoss,
    SigmoidWithLoss,
    SoftmaxWithLoss,
)
from nnbackend.layers.normalization import BatchNormalization, LayerNormalization
from nnbackend.layers.recurrent import GRU, LSTM, RNN, LastStep

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
        Convolution,
        MaxPooling,
        AveragePooling,
        Flatten,
        Embedding,
        RNN,
        LSTM,
        GRU,
        LastStep,
        MultiHeadAttention,
        PositionalEncoding,
        Sequential,
        Residual,
        Parallel,
        RandomAffine,
        RandomElastic,
        RandomFlip,
        GaussianNoise,
    )
}
LOSSES: dict[str, type[Loss]] = {
    loss.__name__: loss
    for loss in (SoftmaxWithLoss, SigmoidWithLoss, MeanSquaredError, MeanAbsoluteError, Huber, QuantileLoss)
}

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "GRU",
    "LAYERS",
    "LOSSES",
    "LSTM",
    "RNN",
    "Affine",
    "AveragePooling",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Embedding",
    "Flatten",
    "GaussianNoise",
    "Huber",
    "LastStep",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Loss",
    "MaxPooling",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MultiHeadAttention",
    "Parallel",
    "PositionalEncoding",
    "QuantileLoss",
    "RandomAffine",
    "RandomElastic",
    "RandomFlip",
    "ReLU",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "Tanh",
    "activation",
]
