"""What the command `nnbackend` does, as functions for scripts."""

from __future__ import annotations

from nnbackend.recipes.predict import Prediction, predict_file
from nnbackend.recipes.train import Run, Settings, train_mnist

__all__ = ["Prediction", "Run", "Settings", "predict_file", "train_mnist"]
