"""Offer networks as estimators of scikit-learn, for pipelines, searches and its other tools."""

from __future__ import annotations

try:
    from nnbackend.estimator.classifier import NNClassifier
    from nnbackend.estimator.regressor import NNRegressor
    from nnbackend.estimator.scaling import Moments as _Moments  # noqa: F401  older pickles name it
except ImportError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise ImportError(
        f"nnbackend.estimator needs scikit-learn 1.6 or newer ({error}). pip install -U scikit-learn"
    ) from error

__all__ = ["NNClassifier", "NNRegressor"]
