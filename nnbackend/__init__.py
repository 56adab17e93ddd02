"""A neural-network library written once against the array API; NNBACKEND decides where its arrays live."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from nnbackend import functions
from nnbackend.backend import Backend, available, backend, to_numpy, use, using
from nnbackend.errors import (
    BackendError,
    CheckpointError,
    CommunicationError,
    DataError,
    ModelFileError,
    NNBackendError,
    NumericalError,
)
from nnbackend.gradients import numerical_gradient
from nnbackend.initializers import Constant, He, Initializer, Normal, Uniform, Xavier
from nnbackend.layers import (
    ELU,
    GELU,
    GRU,
    LSTM,
    RNN,
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Embedding,
    Flatten,
    GaussianNoise,
    Huber,
    LastStep,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Loss,
    MaxPooling,
    MeanAbsoluteError,
    MeanSquaredError,
    MultiHeadAttention,
    Parallel,
    PositionalEncoding,
    QuantileLoss,
    RandomAffine,
    RandomElastic,
    RandomFlip,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SigmoidWithLoss,
    SiLU,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nnbackend.network import Network, TwoLayerNet, convolutional_network, load
from nnbackend.parameters import Parameter

if _TYPE_CHECKING:
    from nnbackend import datasets, nodes, report, sampling
    from nnbackend.diagnosis import Diagnosis, Finding, diagnose
    from nnbackend.evaluation import Evaluation, evaluate
    from nnbackend.gradient_check import GradientReport, check_gradients
    from nnbackend.interchange import conformance, load_torch
    from nnbackend.optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSprop
    from nnbackend.sampling import generate
    from nnbackend.schedules import Cosine, Exponential, OneCycle, Schedule, StepDecay, WarmUp
    from nnbackend.summary import Summary
    from nnbackend.training import (
        Checkpoint,
        Communicator,
        CSVLogger,
        EarlyStopping,
        History,
        LearningRateRange,
        ReduceLROnPlateau,
        TensorBoard,
        Trainer,
        communicator,
        learning_rate_range,
    )

# rooms that are imported at first use, and the names that they bring: a network that only predicts needs none of them
_ROOMS = {
    "datasets": (),
    "diagnosis": ("Diagnosis", "Finding", "diagnose"),
    "evaluation": ("Evaluation", "evaluate"),
    "gradient_check": ("GradientReport", "check_gradients"),
    "interchange": ("load_torch",),
    "interchange.conformance": ("conformance",),
    "nodes": (),
    "optimizers": ("SGD", "AdaGrad", "Adam", "AdamW", "Momentum", "Nesterov", "Optimizer", "RMSprop"),
    "report": (),
    "sampling": ("generate",),
    "schedules": ("Cosine", "Exponential", "OneCycle", "Schedule", "StepDecay", "WarmUp"),
    "summary": ("Summary",),
    "training": (
        "CSVLogger",
        "Checkpoint",
        "Communicator",
        "EarlyStopping",
        "History",
        "LearningRateRange",
        "ReduceLROnPlateau",
        "TensorBoard",
        "Trainer",
        "communicator",
        "learning_rate_range",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> _Any:
    if name not in _ROOMS and name not in _ROOM_OF:
        raise AttributeError(f"module 'nnbackend' has no attribute {name!r}")
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"nnbackend.{name}")
    globals()[name] = found = getattr(import_module(f"nnbackend.{_ROOM_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Affine",
    "AveragePooling",
    "Backend",
    "BackendError",
    "BatchNormalization",
    "CSVLogger",
    "Checkpoint",
    "CheckpointError",
    "CommunicationError",
    "Communicator",
    "Constant",
    "Convolution",
    "Cosine",
    "DataError",
    "Diagnosis",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Evaluation",
    "Exponential",
    "Finding",
    "Flatten",
    "GaussianNoise",
    "GradientReport",
    "He",
    "History",
    "Huber",
    "Initializer",
    "LastStep",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "LearningRateRange",
    "Loss",
    "MaxPooling",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "ModelFileError",
    "Momentum",
    "MultiHeadAttention",
    "NNBackendError",
    "Nesterov",
    "Network",
    "Normal",
    "NumericalError",
    "OneCycle",
    "Optimizer",
    "Parallel",
    "Parameter",
    "PositionalEncoding",
    "QuantileLoss",
    "RMSprop",
    "RandomAffine",
    "RandomElastic",
    "RandomFlip",
    "ReLU",
    "ReduceLROnPlateau",
    "Residual",
    "Schedule",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "StepDecay",
    "Summary",
    "Tanh",
    "TensorBoard",
    "Trainer",
    "TwoLayerNet",
    "Uniform",
    "WarmUp",
    "Xavier",
    "available",
    "backend",
    "check_gradients",
    "communicator",
    "conformance",
    "convolutional_network",
    "datasets",
    "diagnose",
    "evaluate",
    "functions",
    "generate",
    "learning_rate_range",
    "load",
    "load_torch",
    "nodes",
    "numerical_gradient",
    "report",
    "sampling",
    "to_numpy",
    "use",
    "using",
]
