"""Train networks for classifier and regressor, which differ in the meaning of the targets alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, replace
from functools import wraps
from numbers import Integral, Real
from typing import Any, ClassVar, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from nnbackend.backends import Backend, describe, name_of, resolve, to_numpy, using
from nnbackend.backends import backend as current_backend
from nnbackend.estimator.scaling import (
    HostArray,
    Moments,
    RowLength,
    blocks,
    column_moments,
    dense,
    host,
    is_sparse,
    on_device,
    require_numbers,
    row_length,
    take,
)
from nnbackend.estimator.sparse import SparseRows, SparseTrainer
from nnbackend.functions.array import Array, array_namespace
from nnbackend.initializers import Uniform
from nnbackend.layers import ACTIVATIONS, Affine, BatchNormalization, Dropout, Layer, Loss, activation
from nnbackend.network import DTYPES, Network, optional
from nnbackend.optimizers import OPTIMIZERS, Optimizer, State, optimizer
from nnbackend.schedules import OneCycle, Schedule
from nnbackend.training import EarlyStopping

Prepared: TypeAlias = tuple[Any, HostArray, HostArray | None]  # x, t, weight

# the highest learning rate of the automatic schedule, by optimizer
PEAK_LEARNING_RATES = {
    "adagrad": 0.05,
    "adam": 0.01,
    "adamw": 0.02,
    "momentum": 0.01,
    "nesterov": 0.01,
    "rmsprop": 0.005,
    "sgd": 0.05,
}
# The divisor of the peak if the number of steps is not known, and if rows are sparse.
SLOWER = 5.0
# The automatic weight decay of "adamw" is WEIGHT_DECAY features / rows, but at most HIGHEST_WEIGHT_DECAY, and less if
# there are more than STEPS steps. Few noisy rows of many features need much. A smooth function of few features needs
# little.
WEIGHT_DECAY, HIGHEST_WEIGHT_DECAY = 10.0, 1.0
STEPS, EPOCHS = 1500, (20, 100)  # the number of automatic epochs gives so many steps, within these bounds

# Settings that shape the network or its data. They must not change while training goes on with the same network.
SHAPE = ("hidden_layer_sizes", "activation", "dropout", "batch_normalization", "standardize", "backend", "dtype")

# Parameters of scikit-learn's MLPClassifier and MLPRegressor, and what to use here.
ELSEWHERE = {
    "solver": "use optimizer=",
    "alpha": "use weight_decay=",
    "learning_rate": "use lr= with a schedule such as nnbackend.Cosine",
    "learning_rate_init": "use lr=",
    "power_t": "use lr= with a schedule such as nnbackend.Exponential",
    "shuffle": "the rows are shuffled before every epoch",
    "momentum": "use optimizer=nnbackend.Momentum(momentum=...)",
    "nesterovs_momentum": "use optimizer='nesterov'",
    "beta_1": "use optimizer=nnbackend.Adam(beta1=...)",
    "beta_2": "use optimizer=nnbackend.Adam(beta2=...)",
    "epsilon": "use optimizer=nnbackend.Adam(eps=...)",
    "max_fun": "there is no L-BFGS",
}
ACTIVATIONS_ELSEWHERE = {
    "logistic": "use activation='sigmoid'",
    "identity": "use hidden_layer_sizes=() for a linear model",
}


def _explain_names(kind: type, settings: Mapping[str, Any], error: type[Exception]) -> None:
    for name in settings:
        if name in ELSEWHERE:
            raise error(f"{kind.__name__} has no parameter {name!r}: {ELSEWHERE[name]}")


def knows_other_names(kind: type) -> type:
    """Let the constructor of a class say, for a parameter of MLPClassifier, which parameter to use instead."""
    init = kind.__init__  # type: ignore[misc]

    @wraps(init)
    def __init__(self: Any, *arguments: Any, **settings: Any) -> None:
        _explain_names(kind, settings, TypeError)
        init(self, *arguments, **settings)

    kind.__init__ = __init__  # type: ignore[misc]
    return kind


@dataclass(eq=False, repr=False)
class NNEstimator(BaseEstimator):  # type: ignore[misc]
    """Base class of classifier and regressor. A subclass gives targets their meaning."""

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
        """Convert y to numbers: labels, (n,), or values, (n, n_outputs_). Set n_outputs_ if `first`."""
        raise NotImplementedError

    def _measure_targets(self, t: HostArray, weight: HostArray | None, first: bool, incremental: bool) -> None:
        """Measure the targets before a training."""

    def _scaled_targets(self, t: HostArray) -> HostArray:
        """Return the output that the network is trained to give for t."""
        return t

    def _loss(self, t: HostArray) -> Loss:
        raise NotImplementedError

    # --- training -------------------------------------------------------------------------------------------------

    def _train(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        classes: Any = None,
        incremental: bool = False,
        validation: Any = None,
        callbacks: Sequence[Callable[[Any], object]] = (),
    ) -> None:
        """Do the work of `fit` or, if `incremental`, of `partial_fit`. X stays on its device."""
        first = not (hasattr(self, "network_") and (incremental or self.warm_start))
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not first:
            self._check_shape()
        with using(self._chosen_backend(X) if first else self.network_.backend):
            x, t, weight = self._data(X, y, sample_weight, classes, first, incremental)
            if first:
                self._precision = self.dtype or (
                    "float32" if getattr(x.dtype, "name", str(x.dtype)).endswith("float32") else "float64"
                )
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            rows, held_out = self._split(t, weight, seed, validation is None)
            x_train, t_train, w_train = (take(a, rows) for a in (x, t, weight))
            self._measure_features(x_train, w_train, first, incremental)
            self._measure_targets(t_train, w_train, first, incremental)
            if first:
                self._from_device = on_device(X)
                self.network_: Network = self._network(x.shape[1], t_train, seed)
                self._shape = self._shape_settings()
            else:
                self.network_.loss_layer = self._loss(t_train)
            checked = None
            if held_out is not None:
                checked = self._prepared(*(take(a, held_out) for a in (x, t, weight)))
            elif validation is not None:
                checked = self._prepared(*self._validation_data(validation))
            train = self._prepared(x_train, t_train, w_train)
            self._fit_network(train, checked, callbacks, seed, first, incremental)

    def _shape_settings(self) -> dict[str, Any]:
        """Return the settings that shape the network or its data, as plain values."""
        values = {name: getattr(self, name) for name in SHAPE}
        sequences = {name: np.atleast_1d(values[name]).tolist() for name in ("hidden_layer_sizes", "activation")}
        return values | sequences | {"backend": getattr(self.backend, "name", self.backend)}

    def _check_shape(self) -> None:
        """Raise ValueError if a setting that shapes the network has changed since the network was made."""
        now = self._shape_settings()
        for name, value in getattr(self, "_shape", now).items():
            if now[name] != value:
                raise ValueError(
                    f"{name} was {value!r} when the network was made and is now {now[name]!r}: set it back, or make "
                    "another network by fit with warm_start=False"
                )

    def _chosen_backend(self, X: Any) -> Backend:
        """Return the backend for a network that will be trained on X."""
        return resolve(name_of(X) if on_device(X) else self.backend or current_backend())

    def _data(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, first: bool, incremental: bool
    ) -> tuple[Any, HostArray, HostArray | None]:
        """Check the data. Return X where it is, and y as numbers and the weights on the host."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        x = self._inputs(X, "partial_fit" if incremental else "fit", reset=first)
        y = check_array(host(y), accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y", estimator=self)
        check_consistent_length(x, y)
        t = self._targets(y, first, incremental, classes)
        if sample_weight is None:
            return x, t, None
        sample_weight = host(sample_weight)
        require_numbers("sample_weight", sample_weight)
        weight = _check_sample_weight(sample_weight, t, dtype=np.float64, ensure_non_negative=True)
        with np.errstate(over="ignore"):
            total = np.sum(weight)
        if not 0 < total < math.inf:
            raise ValueError(
                f"sample_weight must contain a number other than 0, and have a finite sum, got the sum {total}"
            )
        return x, t, weight

    def _validation_data(self, validation: Any) -> tuple[Any, HostArray, HostArray | None]:
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise ValueError(f"validation: expected (X, y) or (X, y, sample_weight), got {type(validation).__name__}")
        X, y, *weight = validation
        return self._data(X, y, weight[0] if weight else None, None, first=False, incremental=False)

    def _measure_features(self, x: Any, weight: HostArray | None, first: bool, incremental: bool) -> None:
        """Measure how to scale features, from the rows of a first training and of each `partial_fit`."""
        if first:
            self._x_scaling: Moments | RowLength | None = None
            if self.standardize:
                self._x_scaling = row_length(x, weight) if is_sparse(x) else column_moments(x, weight)
        elif incremental and isinstance(self._x_scaling, Moments):
            self._x_scaling = self._x_scaling + column_moments(x, weight)
        elif incremental and isinstance(self._x_scaling, RowLength):
            self._x_scaling = self._x_scaling + row_length(x, weight)
        earlier: int = self._rows if incremental and not first else 0
        self._rows: int = earlier + x.shape[0]

    def _split(
        self, t: HostArray, weight: HostArray | None, seed: int, hold_out: bool
    ) -> tuple[HostArray | None, HostArray | None]:
        """Return the rows for training (None: all) and for validation (None: none). Rows of weight 0 are left out."""
        rows = np.arange(t.shape[0]) if weight is None else np.flatnonzero(weight)
        if self.early_stopping and hold_out:
            size = math.ceil(self.validation_fraction * rows.size)
            cause = self._check_split(t[rows], size)
            if cause:
                raise ValueError(
                    f"early_stopping=True sets validation_fraction={self.validation_fraction} of {rows.size} rows "
                    f"aside, {cause}: choose another fraction, or give fit a validation set (validation=)"
                )
            stratify = t[rows] if t.ndim == 1 else None
            train, held_out = train_test_split(rows, test_size=size, random_state=seed, stratify=stratify)
            return train, held_out
        return None if rows.size == t.shape[0] else rows, None

    def _check_split(self, labels: HostArray, held_out: int) -> str:
        """Return why `held_out` rows of these targets cannot be set aside, or "" if they can."""
        return "" if held_out < labels.shape[0] else "which leaves none to train on"

    def _network(self, features: int, t: HostArray, seed: int) -> Network:
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        names = [self.activation] * len(sizes) if isinstance(self.activation, str) else list(self.activation)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be positive integers, got {self.hidden_layer_sizes!r}")
        if len(names) != len(sizes):
            raise ValueError(f"activation has {len(names)} names for {len(sizes)} hidden layers")
        layers: list[Layer] = []
        for size, name in zip(sizes, names, strict=True):
            # Biases have the spread of He's weights. The kinks of the units then lie apart and near the data, not at 0.
            spread = math.sqrt(6.0 / features)
            layers.append(Affine(features, size, bias=Uniform(-spread, spread)))
            if self.batch_normalization:
                layers.append(BatchNormalization(size))
            layers.append(activation(name))
            if self.dropout:
                layers.append(Dropout(float(self.dropout)))
            features = size
        layers.append(Affine(features, self.n_outputs_))
        return Network(layers, self._loss(t), seed=seed, dtype=self._precision)

    def _fit_network(
        self,
        train: Prepared,
        validation: Prepared | None,
        callbacks: Sequence[Callable[[Any], object]],
        seed: int,
        first: bool,
        more: bool,
    ) -> None:
        """Train the network and record the result. more: train for one epoch after the epochs of earlier calls."""
        network, (x, t, weight) = self.network_, train
        n = x.shape[0]
        batch_size = self._batch_size(n)
        steps = -(-n // batch_size)
        epochs = 1 if more else self._epochs(steps)
        optimizer = self._optimizer(epochs * steps, not more and not self.early_stopping, isinstance(x, SparseRows))
        trainer = SparseTrainer(network, optimizer, batch_size=batch_size, seed=seed)
        if first or not more:
            self.loss_curve_: list[float] = []
            self._optimizer_state: State | None = None
        state = trainer.state
        state.epoch = len(self.loss_curve_)
        if self._optimizer_state is not None and self._optimizer_state.keys() == state.optimizer.keys():
            state.optimizer = self._optimizer_state
        stopper = EarlyStopping("val_loss", patience=int(self.n_iter_no_change), min_delta=float(self.tol))
        history = trainer.fit(
            x,
            t,
            epochs,
            sample_weight=weight,
            validation=validation,
            callbacks=[*callbacks, stopper] if self.early_stopping else callbacks,
            progress=bool(self.verbose),
        )
        self._optimizer_state = state.optimizer if more else None
        self.loss_curve_ += history.loss
        self.n_iter_ = len(self.loss_curve_)
        self.best_loss_ = None if self.early_stopping else min(self.loss_curve_, default=None)
        self.validation_loss_curve_ = self.validation_scores_ = self.best_validation_score_ = None
        if validation is not None:
            self.validation_loss_curve_ = history.val_loss
            classifies = network.loss_layer.classifies
            scores = history.val_accuracy if classifies else _skill(network, history.val_loss, validation)
            self.validation_scores_ = scores
            if stopper.best_epoch is not None:
                self.best_validation_score_ = scores[stopper.best_epoch - 1]
        if history.interrupted:
            raise KeyboardInterrupt(f"the fit was interrupted; the estimator keeps its {self.n_iter_} full epochs")

    def _batch_size(self, n: int) -> int:
        """Return the rows per step. With batch normalization no step has a single row, which it could not use."""
        if self.batch_size == "auto":  # about 24 steps per epoch
            size = min(n, max(32, min(256, int(2 ** round(math.log2(n / 24))))))
        else:
            size = min(n, int(self.batch_size))
        if not self.batch_normalization or not np.size(self.hidden_layer_sizes):
            return size
        if size == 1:
            raise ValueError(
                f"batch_normalization=True needs batches of 2 rows or more, got batch_size={self.batch_size!r} for "
                f"{n} rows"
            )
        while n % size == 1:
            size += 1
        return size

    def _epochs(self, steps: int) -> int:
        if self.epochs is not None and self.max_iter is not None:
            raise ValueError(f"epochs={self.epochs} and max_iter={self.max_iter} mean the same: pass only one of them")
        chosen = self.epochs or self.max_iter
        return int(chosen) if chosen else min(max(round(STEPS / steps), EPOCHS[0]), EPOCHS[1])

    def _optimizer(self, steps: int, ends: bool = True, sparse: bool = False) -> Optimizer:
        """Return the optimizer.

        steps: the expected number of steps. ends: whether training ends after these steps; if False, it may end earlier
        or go on. sparse: whether the rows are sparse. Most of their features are rare and need smaller steps.
        """
        chosen, settings = self.optimizer, dict[str, Any]()
        if self.weight_decay is not None:
            settings["weight_decay"] = self.weight_decay
        if self.lr is not None:
            settings["lr"] = self.lr
        if isinstance(chosen, Optimizer):
            return replace(chosen, **settings)
        highest = PEAK_LEARNING_RATES[chosen]
        automatic: dict[str, Any] = {"lr": highest / SLOWER}
        if ends:
            automatic["lr"] = OneCycle(highest / SLOWER if sparse else highest, steps)
        if chosen == "adamw":
            decay = min(HIGHEST_WEIGHT_DECAY, WEIGHT_DECAY * self.n_features_in_ / self._rows)
            automatic["weight_decay"] = decay * min(1.0, STEPS / steps) if ends else decay
        return optimizer(chosen, **automatic | settings)

    # --- data -----------------------------------------------------------------------------------------------------

    def _inputs(self, X: Any, method: str, reset: bool) -> Any:
        """Check X. Return a NumPy array, a CSR matrix, or an array of floats on a device."""
        if not reset:
            self._check_home(X, method)
        if not on_device(X):
            # With one order of the elements, a data frame gives the same bits as the array that it was made of.
            x = validate_data(self, X, reset=reset, accept_sparse="csr", dtype="numeric", order="C")
            require_numbers("X", x)
            return x
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
        """Raise ValueError if X is a device array from elsewhere, or host data for a network of device arrays."""
        on = self.network_.backend
        if on.owns(X) if on_device(X) else (on.host or not self._from_device):
            return
        raise ValueError(
            f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the same device as "
            f"those passed to fit(): the network is on {on.name!r}, but X is {describe(X)}."
        )

    def _prepared(self, x: Any, t: HostArray, weight: HostArray | None) -> Prepared:
        """Prepare x, t and the weights for the trainer. The weights are scaled to a mean of 1."""
        if weight is not None:
            weight = weight / np.max(weight)
            weight /= np.mean(weight)
        if is_sparse(x):
            return SparseRows(x, self._shown), self._scaled_targets(t), weight
        on = self.network_.backend if on_device(x) else resolve("numpy")
        shown = on.zeros(x.shape, self.network_.dtype)
        for rows, block in blocks(x):
            shown[rows, :] = on.asarray(self._scaled(block), self.network_.dtype)
        return shown, self._scaled_targets(t), weight

    def _scaled(self, block: Any) -> Any:
        return block if self._x_scaling is None else self._x_scaling.scaled(block)

    def _shown(self, block: Any) -> Any:
        """Scale and convert rows of X for the network. On NumPy, CSR rows stay CSR unless features are centred."""
        on, dtype, block = self.network_.backend, self.network_.dtype, self._scaled(block)
        if is_sparse(block) and on.owns(block.data):
            return block.astype(dtype, copy=False)
        return on.asarray(dense(block), dtype)

    def _answer(self, X: Any, method: str, answer: Callable[[Array], Array]) -> Any:
        """Apply `answer` to the raw output of the network for all rows of X. The result is where X is."""
        check_is_fitted(self)
        # Layers remember their last input. Copies, which share the parameters, let threads predict without a lock, and
        # a lock could be held while a process is forked.
        layers = [layer.twin() for layer in self.network_.layers.values()]
        with using(self.network_.backend) as on:
            outputs = []
            for _, block in blocks(self._inputs(X, method, reset=False)):
                y = self._shown(block)
                for layer in layers:
                    y = layer.forward(y)
                outputs.append(y)
            y = answer(outputs[0] if len(outputs) == 1 else on.xp.concat(outputs, axis=0))
        return y if on_device(X) else to_numpy(y)

    # --- the names of parameters ----------------------------------------------------------------------------------

    def set_params(self, **params: Any) -> Any:
        """Set parameters. Raises ValueError for an unknown name; the message explains the names of MLPClassifier."""
        _explain_names(type(self), params, ValueError)
        return super().set_params(**params)

    def _validate_params(self) -> None:
        if isinstance(self.activation, str) and self.activation in ACTIVATIONS_ELSEWHERE:
            raise ValueError(f"activation={self.activation!r}: {ACTIVATIONS_ELSEWHERE[self.activation]}")
        super()._validate_params()

    # --- protocols of scikit-learn --------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")  # a fit that was refused leaves other attributes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def __sklearn_array_api_convert__(self, convert: Callable[[Array], Array]) -> Any:
        """Return a copy of this estimator with its network on the device to which `convert` moves arrays."""
        check_is_fitted(self)
        moved = copy(self)
        target = convert(self.network_.buffer.data)
        moved.network_, moved._from_device = self.network_.to(name_of(target)), on_device(target)
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
        if "network_" in state and "_rows" not in state:  # a pickle of an older version
            standardize, moments = state["standardize"], state.pop("_x_moments", None)
            state["_x_scaling"], state["_rows"] = (moments, int(moments.weight)) if standardize else (None, 1)
            if not standardize:
                state["_y_moments"] = None
            state["validation_loss_curve_"] = None
        super().__setstate__(state)
        if state.get("_optimizer_state") is not None:
            self._optimizer_state = {
                name: value if isinstance(value, int) else self.network_.backend.asarray(np.array(value))
                for name, value in state["_optimizer_state"].items()
            }


def _skill(network: Network, losses: list[float], validation: Prepared) -> list[float]:
    """Return 1 - loss / (loss of predicting the mean) for each loss. For squared errors and one output it is R^2."""
    _, t, weight = validation
    mean = np.average(t, axis=0, weights=weight)
    on = network.backend
    targets, y = on.asarray(t, network.dtype), on.asarray(np.broadcast_to(mean, t.shape), network.dtype)
    plain = float(network.loss_layer.forward(y, targets, *optional(network.weights(weight, t.shape[0]))))
    return [1.0 - loss / plain if plain else math.nan for loss in losses]
