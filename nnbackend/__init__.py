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
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Flatten,
    Huber,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Loss,
    MaxPooling,
    MeanAbsoluteError,
    MeanSquaredError,
    QuantileLoss,
    ReLU,
    Sigmoid,
    SigmoidWithLoss,
    SiLU,
    Softmax,
    SoftmaxWithLoss,
    Tanh,
)
from nnbackend.network import Network, TwoLayerNet, convolutional_network, load
from nnbackend.optimizers import (
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    Optimizer,
    RMSprop,
)
from nnbackend.parameters import Parameter
from nnbackend.schedules import (
    Cosine,
    Exponential,
    OneCycle,
    Schedule,
    StepDecay,
    WarmUp,
)
from nnbackend.training import (
    Checkpoint,
    Communicator,
    EarlyStopping,
    History,
    Trainer,
    communicator,
)

if _TYPE_CHECKING:
    from nnbackend import datasets, nodes
    from nnbackend.diagnosis import Diagnosis, Finding, diagnose
    from nnbackend.evaluation import Evaluation, evaluate
    from nnbackend.gradient_check import GradientReport, check_gradients
    from nnbackend.interchange import conformance, load_torch

# imported at first use: with these `import nnbackend` takes 1.7 times as long as `import numpy`, without them 1.4
_AT_FIRST_USE = {
    "Diagnosis": "diagnosis",
    "Evaluation": "evaluation",
    "Finding": "diagnosis",
    "GradientReport": "gradient_check",
    "check_gradients": "gradient_check",
    "conformance": "interchange.conformance",
    "datasets": "datasets",
    "diagnose": "diagnosis",
    "evaluate": "evaluation",
    "load_torch": "interchange",
    "nodes": "nodes",
}


def __getattr__(name: str) -> _Any:
    if name not in _AT_FIRST_USE:
        raise AttributeError(f"module 'nnbackend' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"nnbackend.{_AT_FIRST_USE[name]}")
    return module if name == _AT_FIRST_USE[name] else getattr(module, name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "ELU",
    "GELU",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Affine",
    "AveragePooling",
    "Backend",
    "BackendError",
    "BatchNormalization",
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
    "Evaluation",
    "Exponential",
    "Finding",
    "Flatten",
    "GradientReport",
    "He",
    "History",
    "Huber",
    "Initializer",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Loss",
    "MaxPooling",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "ModelFileError",
    "Momentum",
    "NNBackendError",
    "Nesterov",
    "Network",
    "Normal",
    "NumericalError",
    "OneCycle",
    "Optimizer",
    "Parameter",
    "QuantileLoss",
    "RMSprop",
    "ReLU",
    "Schedule",
    "SiLU",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "StepDecay",
    "Tanh",
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
    "load",
    "load_torch",
    "nodes",
    "numerical_gradient",
    "to_numpy",
    "use",
    "using",
]
