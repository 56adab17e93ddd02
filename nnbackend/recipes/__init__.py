"""Train and use networks in one call, for scripts and for the command `nnbackend`."""

from __future__ import annotations

from nnbackend.recipes.predict import Answers, Prediction, predict_data, predict_file
from nnbackend.recipes.train import MnistSettings, TrainingResult, TrainSettings, train_data, train_mnist

__all__ = [
    "Answers",
    "MnistSettings",
    "Prediction",
    "TrainSettings",
    "TrainingResult",
    "predict_data",
    "predict_file",
    "train_data",
    "train_mnist",
]
