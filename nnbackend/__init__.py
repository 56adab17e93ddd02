"""A neural-network library written once against the array API; NNBACKEND decides where its arrays live."""

__version__ = "0.1.0"

from nnbackend import datasets, functions, kernels
from nnbackend.backend import Backend, available, backend, to_numpy, use, using
from nnbackend.errors import BackendError, DataError, ModelFileError, NNBackendError, NumericalError
from nnbackend.initializers import Constant, He, Initializer, Normal, Uniform, Xavier
from nnbackend.layers import (
    ELU,
    GELU,
    Affine,
    BatchNormalization,
    Dropout,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Loss,
    MeanSquaredError,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nnbackend.network import Network, TwoLayerNet, load
from nnbackend.optimizers import SGD, Adam, Momentum, Optimizer
from nnbackend.training import History, Trainer

__all__ = [
    "ELU",
    "GELU",
    "SGD",
    "Adam",
    "Affine",
    "Backend",
    "BackendError",
    "BatchNormalization",
    "Constant",
    "DataError",
    "Dropout",
    "He",
    "History",
    "Initializer",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Loss",
    "MeanSquaredError",
    "ModelFileError",
    "Momentum",
    "NNBackendError",
    "Network",
    "Normal",
    "NumericalError",
    "Optimizer",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SoftmaxWithLoss",
    "Tanh",
    "Trainer",
    "TwoLayerNet",
    "Uniform",
    "Xavier",
    "available",
    "backend",
    "datasets",
    "functions",
    "kernels",
    "load",
    "to_numpy",
    "use",
    "using",
]
