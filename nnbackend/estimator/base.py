"""What classifier and regressor share: all but the meaning of the targets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral, Real
from threading import Lock
from typing import Any, ClassVar, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from nnbackend.backend import Backend, describe, home, resolve, to_numpy, using
from nnbackend.backend import backend as current_backend
from nnbackend.estimator.scaling import HostArray, Moments, blocks, column_moments, host, on_device, take
from nnbackend.functions.array import Array, array_namespace
from nnbackend.layers import ACTIVATIONS, Affine, BatchNormalization, Dropout, Layer, Loss, activation
from nnbackend.network import DTYPES, Network, given
from nnbackend.optimizers import OPTIMIZERS, Optimizer, State, optimizer
from nnbackend.schedules import OneCycle, Schedule
from nnbackend.training import EarlyStopping, Trainer

Prepared: TypeAlias = tuple[Any, HostArray, HostArray | None]  # x, t, weight

CLIP = 5.0  # standard deviations: a pixel that is blank but once would otherwise become a hundred
# the peak of the automatic schedule; partial_fit, which sees no end of its training, keeps to a fifth of it
LEARNING_RATES = {
    "adagrad": 0.05,
    "adam": 0.01,
    "adamw": 0.02,
    "momentum": 0.01,
    "nesterov": 0.01,
    "rmsprop": 0.005,
    "sgd": 0.05,
}
WEIGHT_DECAY = 0.3  # of "adamw", for up to STEPS steps; less for more
STEPS, EPOCHS = 1000, (20, 100)  # automatic epochs make that many steps, but keep to these bounds

_predicting = Lock()  # layers remember their last input: threads that share an estimator take turns


@dataclass(eq=False, repr=False)
class NNEstimator(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: all but the meaning of the targets."""

    hidden_layer_sizes: int | Sequence[int] = (100,)
    activation: str | Sequence[str] = "relu"
    _: KW_ONLY
    optimizer: str | Optimizer = "adamw"
    lr: float | Schedule | None = None
    batch_size: int | str = "auto"
    epochs: int | None = None
    max_iter: int | None = None
    dropout: float = 0.0
    batch_normalization: bool = False
    weight_decay: float | None = None
    standardize: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    tol: float = 1e-4
    warm_start: bool = False
    random_state: Any = None
    verbose: bool | int = False
    backend: str | Backend | None = None
    dtype: str | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS)), "array-like"],
        "optimizer": [StrOptions(set(OPTIMIZERS)), Optimizer],
        "lr": [Interval(Real, 0, None, closed="neither"), Schedule, None],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "epochs": [Interval(Integral, 1, None, closed="left"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_normalization": ["boolean"],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "standardize": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "backend": [str, Backend, None],
        "dtype": [StrOptions(set(DTYPES)), None],
    }

    # --- the meaning of the targets -------------------------------------------------------------------------------

    def _targets(self, y: Any, first: bool, incremental: bool, classes: Any) -> HostArray:
        """y as numbers: labels, (n,), or values, (n, n_outputs_). Sets n_outputs_ where `first`."""
        raise NotImplementedError

    def _measure_targets(self, t: HostArray, weight: HostArray | None, first: bool, incremental: bool) -> None:
        """Shown the targets of a training, before it."""

    def _scaled_targets(self, t: HostArray) -> HostArray:
        """What the network is to answer for t."""
        return t

    def _loss(self, t: HostArray) -> Loss:
        raise NotImplementedError

    # --- training -------------------------------------------------------------------------------------------------

    def _train(self, X: Any, y: Any, sample_weight: Any, classes: Any = None, incremental: bool = False) -> None:
        """`fit`, or `partial_fit`. X is used where it lives; y and the weights pass through the host."""
        first = not (hasattr(self, "network_") and (incremental or self.warm_start))
        with using(self._chosen_backend(X) if first else self.network_.backend):
            x, t, weight = self._data(X, y, sample_weight, classes, first, incremental)
            if first:
                self._precision = self.dtype or ("float32" if str(x.dtype).endswith("float32") else "float64")
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            rows, held_out = self._split(t, weight, seed)
            x_train, t_train, w_train = (take(a, rows) for a in (x, t, weight))
            if self.standardize and (first or incremental):
                moments = column_moments(x_train, w_train)
                self._x_moments: Moments = moments if first else self._x_moments + moments
            self._measure_targets(t_train, w_train, first, incremental)
            if first:
                self._from_device = on_device(X)
                self.network_: Network = self._network(x.shape[1], t_train, seed)
            validation = None
            if held_out is not None:
                validation = self._prepared(*(take(a, held_out) for a in (x, t, weight)))
            self._fit_network(self._prepared(x_train, t_train, w_train), validation, seed, first, incremental)

    def _chosen_backend(self, X: Any) -> Backend:
        """The backend for a network that X is to train."""
        return resolve(home(X) if on_device(X) else self.backend or current_backend())

    def _data(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, first: bool, incremental: bool
    ) -> tuple[Any, HostArray, HostArray | None]:
        """X where it lives, y as numbers and the weights on the host, all checked."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        x = self._inputs(X, "partial_fit" if incremental else "fit", reset=first)
        y = check_array(host(y), accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y", estimator=self)
        check_consistent_length(x, y)
        t = self._targets(y, first, incremental, classes)
        if sample_weight is None:
            return x, t, None
        weight = _check_sample_weight(host(sample_weight), t, dtype=np.float64, ensure_non_negative=True)
        if not weight.any():
            raise ValueError("sample_weight must contain at least one number that is not zero")
        return x, t, weight

    def _split(self, t: HostArray, weight: HostArray | None, seed: int) -> tuple[HostArray | None, HostArray | None]:
        """The rows to train on (None: all) and those to validate on, if any. A row of weight 0 is as good as absent."""
        rows = np.arange(t.shape[0]) if weight is None else np.flatnonzero(weight)
        if self.early_stopping:
            stratify = t[rows] if t.ndim == 1 else None
            train, held_out = train_test_split(
                rows, test_size=self.validation_fraction, random_state=seed, stratify=stratify
            )
            return train, held_out
        return None if rows.size == t.shape[0] else rows, None

    def _network(self, features: int, t: HostArray, seed: int) -> Network:
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        names = [self.activation] * len(sizes) if isinstance(self.activation, str) else list(self.activation)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be positive integers, got {self.hidden_layer_sizes!r}")
        if len(names) != len(sizes):
            raise ValueError(f"activation has {len(names)} names for {len(sizes)} hidden layers")
        layers: list[Layer] = []
        for size, name in zip(sizes, names, strict=True):
            layers.append(Affine(features, size))
            if self.batch_normalization:
                layers.append(BatchNormalization(size))
            layers.append(activation(name))
            if self.dropout:
                layers.append(Dropout(float(self.dropout)))
            features = size
        layers.append(Affine(features, self.n_outputs_))
        return Network(layers, self._loss(t), seed=seed, dtype=self._precision)

    def _fit_network(self, train: Prepared, validation: Prepared | None, seed: int, first: bool, more: bool) -> None:
        """Run the trainer and note what it recorded. more: for one epoch, after those of earlier calls."""
        network, (x, t, weight) = self.network_, train
        n = x.shape[0]
        batch_size = self._batch_size(n)
        steps = -(-n // batch_size)
        epochs = 1 if more else self._epochs(steps)
        trainer = Trainer(network, self._optimizer(None if more else epochs * steps), batch_size=batch_size, seed=seed)
        if first or not more:
            self.loss_curve_: list[float] = []
            self._optimizer_state: State | None = None
        trainer.epoch = len(self.loss_curve_)
        if self._optimizer_state is not None and self._optimizer_state.keys() == trainer.state.keys():
            trainer.state = self._optimizer_state
        stopper = EarlyStopping("val_loss", patience=int(self.n_iter_no_change), min_delta=float(self.tol))
        history = trainer.fit(
            x,
            t,
            epochs,
            sample_weight=weight,
            validation=validation,
            callbacks=[] if validation is None else [stopper],
            progress=bool(self.verbose),
        )
        if history.interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        self._optimizer_state = trainer.state if more else None
        self.loss_curve_ += history.loss
        self.n_iter_ = len(self.loss_curve_)
        self.best_loss_ = min(self.loss_curve_, default=None) if validation is None else None
        self.validation_scores_ = self.best_validation_score_ = None
        if validation is not None:
            self.validation_scores_ = history.val_accuracy or skill(network, history.val_loss, validation)
            if stopper.best_epoch is not None:
                self.best_validation_score_ = self.validation_scores_[stopper.best_epoch - 1]

    def _batch_size(self, n: int) -> int:
        if self.batch_size == "auto":  # some 24 steps an epoch
            return min(n, max(32, min(256, int(2 ** round(math.log2(n / 24))))))
        return min(n, int(self.batch_size))

    def _epochs(self, steps: int) -> int:
        if self.epochs is not None and self.max_iter is not None:
            raise ValueError(f"epochs={self.epochs} and max_iter={self.max_iter} are two names of one thing: give one")
        chosen = self.epochs or self.max_iter
        return int(chosen) if chosen else min(max(round(STEPS / steps), EPOCHS[0]), EPOCHS[1])

    def _optimizer(self, steps: int | None) -> Optimizer:
        """The optimizer for a training of so many steps, or of nobody knows how many."""
        chosen, settings = self.optimizer, dict[str, Any]()
        if self.weight_decay is not None:
            settings["weight_decay"] = self.weight_decay
        if self.lr is not None:
            settings["lr"] = self.lr
        if isinstance(chosen, Optimizer):
            return replace(chosen, **settings)
        highest = LEARNING_RATES[chosen]
        automatic: dict[str, Any] = {"lr": highest / 5 if steps is None else OneCycle(highest, steps)}
        if chosen == "adamw":
            automatic["weight_decay"] = WEIGHT_DECAY * min(1.0, STEPS / (steps or STEPS))
        return optimizer(chosen, **automatic | settings)

    # --- data -----------------------------------------------------------------------------------------------------

    def _inputs(self, X: Any, method: str, reset: bool) -> Any:
        """X, checked: a NumPy array, a CSR matrix, or an array of floats on a device."""
        if not reset:
            self._check_home(X, method)
        if not on_device(X):
            # one order of the elements: a data frame then gives the same bits as the array it was made of
            return validate_data(self, X, reset=reset, accept_sparse="csr", dtype="numeric", order="C")
        if X.ndim != 2:
            raise ValueError(f"Expected 2D array, got an array of shape {tuple(X.shape)} instead.")
        if 0 in X.shape:
            raise ValueError(f"Found array with shape {tuple(X.shape)} while a minimum of 1 is required.")
        validate_data(self, X, reset=reset, skip_check_array=True)
        xp = array_namespace(X)
        if xp.isdtype(X.dtype, "complex floating"):
            raise ValueError("Complex data not supported.")
        if not xp.isdtype(X.dtype, "real floating"):
            X = xp.astype(X, getattr(xp, self.dtype or "float64"))
        if not xp.all(xp.isfinite(X)):
            raise ValueError("Input X contains NaN or infinity.")
        return X

    def _check_home(self, X: Any, method: str) -> None:
        """Device arrays are for the network that lives there; host data for one that host data trained."""
        on = self.network_.backend
        if on.owns(X) if on_device(X) else (on.family == "numpy" or not self._from_device):
            return
        raise ValueError(
            f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the same device as "
            f"those passed to fit(): the network is on {on.name!r}, but X is {describe(X)}."
        )

    def _prepared(self, x: Any, t: HostArray, weight: HostArray | None) -> Prepared:
        """What the trainer takes: x dense, standardized and in the network's dtype, t as the network is to say it."""
        on = self.network_.backend if on_device(x) else resolve("numpy")
        rows_in = on.zeros(x.shape, self.network_.dtype)
        for rows, block in blocks(x):
            rows_in[rows, :] = on.asarray(self._standardized(block), self.network_.dtype)
        return rows_in, self._scaled_targets(t), weight

    def _standardized(self, block: Array) -> Array:
        if not self.standardize:
            return block
        return array_namespace(block).clip(self._x_moments.standardized(block), -CLIP, CLIP)

    def _answer(self, X: Any, method: str, answer: Callable[[Array], Array]) -> Array:
        """What `answer` makes of the network's raw output for every row; where X lives."""
        check_is_fitted(self)
        network = self.network_
        with using(network.backend) as on:
            x = self._inputs(X, method, reset=False)
            with _predicting:
                outputs = [
                    network.forward(on.asarray(self._standardized(block), network.dtype)) for _, block in blocks(x)
                ]
            y = answer(outputs[0] if len(outputs) == 1 else on.xp.concat(outputs, axis=0))
        return y if on_device(X) else to_numpy(y)

    # --- what scikit-learn asks -----------------------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def __sklearn_array_api_convert__(self, convert: Callable[[Array], Array]) -> Any:
        """This estimator with its network where `convert` moves arrays to."""
        check_is_fitted(self)
        moved = copy(self)
        target = convert(self.network_.buffer.data)
        moved.network_, moved._from_device = self.network_.to(home(target)), on_device(target)
        moved._optimizer_state = None
        return moved

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if state.get("_optimizer_state") is not None:
            state["_optimizer_state"] = {
                name: value if isinstance(value, int) else to_numpy(value)
                for name, value in state["_optimizer_state"].items()
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state.get("_optimizer_state") is not None:
            self._optimizer_state = {
                name: value if isinstance(value, int) else self.network_.backend.asarray(np.array(value))
                for name, value in state["_optimizer_state"].items()
            }


def skill(network: Network, losses: list[float], validation: Prepared) -> list[float]:
    """1 - loss / the loss of always answering the mean: for squared errors and one output, R^2."""
    _, t, weight = validation
    mean = np.average(t, axis=0, weights=weight)
    on = network.backend
    t, y = on.asarray(t, network.dtype), on.asarray(np.broadcast_to(mean, t.shape), network.dtype)
    plain = float(network.loss_layer.forward(y, t, *given(network.weights(weight, t.shape[0]))))
    return [1.0 - loss / plain if plain else math.nan for loss in losses]
