"""Train and use networks in one call, for scripts and for the command `nnbackend`."""

from __future__ import annotations

from nnbackend.recipes.predict import Prediction, predict_file
from nnbackend.recipes.train import MnistSettings, TrainingResult, train_mnist

__all__ = ["MnistSettings", "Prediction", "TrainingResult", "predict_file", "train_mnist"]
