"""Train networks: the loop, checkpoints, callbacks, and several processes."""

from nnbackend.training.callbacks import EarlyStopping, ReduceLROnPlateau
from nnbackend.training.checkpoint import Checkpoint
from nnbackend.training.communication import Communicator, communicator
from nnbackend.training.history import History
from nnbackend.training.learning_rate import LearningRateRange, learning_rate_range
from nnbackend.training.trainer import Trainer
from nnbackend.training.writers import CSVLogger, TensorBoard

__all__ = [
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
]
