"""The fitted network of scikit-learn's MLPClassifier or MLPRegressor, taken over into an estimator of this library."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.validation import check_is_fitted

from nnbackend.estimator.scaling import HostArray
from nnbackend.layers import Affine, Layer, Loss, MeanSquaredError, SigmoidWithLoss, SoftmaxWithLoss, activation
from nnbackend.network import Network

E = TypeVar("E")

ACTIVATIONS = {"logistic": "sigmoid", "relu": "relu", "tanh": "tanh"}  # "identity" joins two affine layers into one


def from_mlp(kind: type[E], mlp: Any, outputs: tuple[str, ...]) -> E:
    """Return a fitted estimator of class `kind` with the network of `mlp`. outputs: the activations it may end in."""
    if not all(hasattr(mlp, name) for name in ("hidden_layer_sizes", "activation", "get_params")):
        raise TypeError(f"mlp: expected a fitted MLP of scikit-learn, got a {type(mlp).__name__}")
    check_is_fitted(mlp, "coefs_")
    if mlp.out_activation_ not in outputs:
        raise ValueError(
            f"mlp: {kind.__name__} takes over networks that end in {' or '.join(outputs)}, "
            f"but this one ends in {mlp.out_activation_}"
        )
    W, b = list(mlp.coefs_), list(mlp.intercepts_)
    if mlp.activation == "identity":
        W, b = _joined(W, b)
    if mlp.out_activation_ == "logistic" and W[-1].shape[1] == 1 and not _multilabel(mlp):
        # two classes: the softmax of (0, z) is the sigmoid of z
        W[-1], b[-1] = (np.concatenate([np.zeros_like(a), a], axis=-1) for a in (W[-1], b[-1]))
    dtype = W[0].dtype.name
    name = ACTIVATIONS.get(mlp.activation, "relu")
    sizes = tuple(a.shape[1] for a in W[:-1])
    make: Any = kind
    new = make(sizes, name, standardize=False, dtype=dtype, random_state=deepcopy(mlp.random_state))
    layers: list[Layer] = []
    for a in W:
        layers += [Affine(*a.shape), activation(name)]
    new.network_ = Network(layers[:-1], _loss(mlp), seed=0, dtype=dtype)
    for i, (weights, biases) in enumerate(zip(W, b, strict=True), 1):
        new.network_.params[f"W{i}"], new.network_.params[f"b{i}"] = weights, biases
    for attribute in ("n_features_in_", "feature_names_in_"):
        if hasattr(mlp, attribute):
            setattr(new, attribute, getattr(mlp, attribute))
    new.n_outputs_ = W[-1].shape[1]
    new._precision, new._from_device, new._x_scaling, new._optimizer_state = dtype, False, None, None
    new._rows = max(1, int(mlp.t_) // max(1, int(mlp.n_iter_)))
    new.loss_curve_ = [float(loss) for loss in getattr(mlp, "loss_curve_", [])]
    new.n_iter_, new.best_loss_ = int(mlp.n_iter_), getattr(mlp, "best_loss_", None)
    new.validation_loss_curve_ = new.validation_scores_ = new.best_validation_score_ = None
    new._shape = new._shape_settings()
    return new  # type: ignore[no-any-return]


def encoder(mlp: Any) -> LabelEncoder | None:
    """Return what turns labels into numbers, or None for rows of several labels."""
    return None if _multilabel(mlp) else LabelEncoder().fit(mlp.classes_)


def _multilabel(mlp: Any) -> bool:
    return bool(mlp._label_binarizer.y_type_.startswith("multilabel"))


def _loss(mlp: Any) -> Loss:
    if not hasattr(mlp, "classes_"):
        return MeanSquaredError()
    return SigmoidWithLoss() if _multilabel(mlp) else SoftmaxWithLoss()


def _joined(W: list[HostArray], b: list[HostArray]) -> tuple[list[HostArray], list[HostArray]]:
    """Return one affine layer for several with nothing in between."""
    weights, biases = W[0], b[0]
    for a, c in zip(W[1:], b[1:], strict=True):
        weights, biases = weights @ a, biases @ a + c
    return [weights], [biases]
