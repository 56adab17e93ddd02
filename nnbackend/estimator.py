"""The scikit-learn face: a classifier and a regressor for pipelines, searches and whatever else scikit-learn offers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral, Real
from threading import Lock
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import LabelEncoder
    from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        f"nnbackend.estimator needs scikit-learn 1.6 or newer ({error}). pip install -U scikit-learn"
    ) from error

from nnbackend.backends import Backend, describe, name_of, resolve, to_numpy, using
from nnbackend.backends import backend as current_backend
from nnbackend.functions.array import Array, array_namespace, device, pieces
from nnbackend.layers import (
    ACTIVATIONS,
    Affine,
    BatchNormalization,
    Dropout,
    Huber,
    Layer,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidWithLoss,
    SoftmaxWithLoss,
    activation,
)
from nnbackend.network import DTYPES, Network, given
from nnbackend.optimizers import OPTIMIZERS, Optimizer, State, optimizer
from nnbackend.schedules import OneCycle, Schedule
from nnbackend.training import EarlyStopping, Trainer

__all__ = ["NNClassifier", "NNRegressor"]

HostArray: TypeAlias = npt.NDArray[Any]
Prepared: TypeAlias = tuple[Any, HostArray, HostArray | None]  # x, t, weight

ROWS = 2048  # that are scaled, or predicted, at a time
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
LOSSES: dict[str, type[Loss]] = {
    "squared_error": MeanSquaredError,
    "absolute_error": MeanAbsoluteError,
    "huber": Huber,
}

_predicting = Lock()  # layers remember their last input: threads that share an estimator take turns


@dataclass(frozen=True, eq=False)
class _Moments:
    """Total weight, means and sums of squared deviations of columns; the sum of two is that of all their rows.

    eps: the relative precision in which they were computed.
    """

    weight: float
    mean: HostArray
    squares: HostArray
    eps: float

    def __add__(self, other: _Moments) -> _Moments:
        """Chan, Golub, LeVeque 1979."""
        weight = self.weight + other.weight
        share, step = other.weight / weight, other.mean - self.mean
        squares = self.squares + other.squares + self.weight * share * step * step
        return _Moments(weight, self.mean + share * step, squares, max(self.eps, other.eps))

    @property
    def scale(self) -> HostArray:
        """The standard deviation of each column; 1 where a column is constant but for rounding."""
        deviation = np.sqrt(self.squares / self.weight)
        return np.where(deviation > 10 * self.eps * np.abs(self.mean), deviation, 1.0)

    def standardized(self, x: Array) -> Array:
        """The columns of x with mean 0 and standard deviation 1."""
        mean, factor = self._beside(x, self.mean, 1.0 / self.scale)
        return (x - mean) * factor

    def restored(self, x: Array) -> Array:
        """The inverse of `standardized`."""
        mean, scale = self._beside(x, self.mean, self.scale)
        return x * scale + mean

    def _beside(self, x: Array, *columns: HostArray) -> list[Array]:
        return [array_namespace(x).asarray(a, dtype=x.dtype, device=device(x)) for a in columns]


def _moments(x: Any, weight: HostArray | None) -> _Moments:
    """Of the columns of x, with rows weighted where `weight`, (n,), says how."""
    total = None
    for rows, block in _blocks(x):
        xp = array_namespace(block)
        if weight is None:
            size, mean = float(block.shape[0]), xp.mean(block, axis=0)
            squares = xp.sum((block - mean) ** 2, axis=0)
        else:
            w = xp.asarray(weight[rows], dtype=block.dtype, device=device(block))
            size = float(xp.sum(w))
            mean = (w @ block) / size
            squares = w @ (block - mean) ** 2
        mean, squares = (np.asarray(to_numpy(a), dtype=np.float64) for a in (mean, squares))
        part = _Moments(size, mean, squares, float(xp.finfo(block.dtype).eps))
        total = part if total is None else total + part
    assert total is not None  # data has rows
    return total


def _blocks(x: Any) -> Iterator[tuple[slice, Array]]:
    """Dense blocks of rows: in float64 for host data, in their own precision on a device."""
    for rows in pieces(x.shape[0], ROWS):
        block = x[rows, :]
        if not _on_device(x):
            block = np.asarray(block.toarray() if hasattr(block, "toarray") else block, dtype=np.float64)
        yield rows, block


def _on_device(x: object) -> bool:
    """Is x an array of a library other than NumPy, and one on which a network can live?"""
    return name_of(x) not in ("", "numpy")


def _host(x: Any) -> Any:
    """x for scikit-learn's own functions: device arrays as NumPy arrays, all else as it is."""
    return to_numpy(x) if _on_device(x) else x


def _take(x: Any, rows: HostArray | None) -> Any:
    """The rows of x with these numbers; None stays None, and None for rows is all of them."""
    if x is None or rows is None:
        return x
    if not _on_device(x):
        return x[rows]
    xp = array_namespace(x)
    return xp.take(x, xp.asarray(rows, device=device(x)), axis=0)


@dataclass(eq=False, repr=False)
class _NNEstimator(BaseEstimator):  # type: ignore[misc]
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
        if first:
            on = resolve(name_of(X) if _on_device(X) else self.backend or current_backend())
        else:
            on = self.network_.backend
        with using(on):
            x, t, weight = self._data(X, y, sample_weight, classes, first, incremental)
            if first:
                self._precision = self.dtype or (
                    "float32" if getattr(x.dtype, "name", str(x.dtype)).endswith("float32") else "float64"
                )
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            rows, held_out = self._split(t, weight, seed)
            x_train, t_train, w_train = (_take(a, rows) for a in (x, t, weight))
            if self.standardize and (first or incremental):
                moments = _moments(x_train, w_train)
                self._x_moments: _Moments = moments if first else self._x_moments + moments
            self._measure_targets(t_train, w_train, first, incremental)
            if first:
                self._from_device = _on_device(X)
                self.network_: Network = self._network(x.shape[1], t_train, seed)
            validation = None
            if held_out is not None:
                validation = self._prepared(*(_take(a, held_out) for a in (x, t, weight)))
            self._fit_network(self._prepared(x_train, t_train, w_train), validation, seed, first, incremental)

    def _data(
        self, X: Any, y: Any, sample_weight: Any, classes: Any, first: bool, incremental: bool
    ) -> tuple[Any, HostArray, HostArray | None]:
        """X where it lives, y as numbers and the weights on the host, all checked."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        x = self._inputs(X, "partial_fit" if incremental else "fit", reset=first)
        y = check_array(_host(y), accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y", estimator=self)
        check_consistent_length(x, y)
        t = self._targets(y, first, incremental, classes)
        if sample_weight is None:
            return x, t, None
        weight = _check_sample_weight(_host(sample_weight), t, dtype=np.float64, ensure_non_negative=True)
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
            self.validation_scores_ = history.val_accuracy or _skill(network, history.val_loss, validation)
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
        if not _on_device(X):
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
        if on.owns(X) if _on_device(X) else (on.host or not self._from_device):
            return
        raise ValueError(
            f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the same device as "
            f"those passed to fit(): the network is on {on.name!r}, but X is {describe(X)}."
        )

    def _prepared(self, x: Any, t: HostArray, weight: HostArray | None) -> Prepared:
        """What the trainer takes: x dense, standardized and in the network's dtype, t as the network is to say it."""
        on = self.network_.backend if _on_device(x) else resolve("numpy")
        rows_in = on.zeros(x.shape, self.network_.dtype)
        for rows, block in _blocks(x):
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
                    network.forward(on.asarray(self._standardized(block), network.dtype)) for _, block in _blocks(x)
                ]
            y = answer(outputs[0] if len(outputs) == 1 else on.xp.concat(outputs, axis=0))
        return y if _on_device(X) else to_numpy(y)

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
        moved.network_, moved._from_device = self.network_.to(name_of(target)), _on_device(target)
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


def _skill(network: Network, losses: list[float], validation: Prepared) -> list[float]:
    """1 - loss / the loss of always answering the mean: for squared errors and one output, R^2."""
    _, t, weight = validation
    mean = np.average(t, axis=0, weights=weight)
    on = network.backend
    t, y = on.asarray(t, network.dtype), on.asarray(np.broadcast_to(mean, t.shape), network.dtype)
    plain = float(network.loss_layer.forward(y, t, *given(network.weights(weight, t.shape[0]))))
    return [1.0 - loss / plain if plain else math.nan for loss in losses]


@dataclass(eq=False, repr=False)
class NNClassifier(ClassifierMixin, _NNEstimator):  # type: ignore[misc]
    """A neural network as a scikit-learn classifier.

    It minimises the cross entropy of a softmax, or with several labels a row that of a sigmoid for each. With the
    defaults inputs are standardized inside the model, and it trains well without tuning.

    X may be an array, a data frame, a sparse matrix (which is made dense), or an array of CuPy, PyTorch or another
    array-API library, with or without scikit-learn's `array_api_dispatch`: then the network is trained on that device,
    and predictions are arrays of that kind. Predictions for all other data are NumPy arrays.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; empty for a linear model.
    activation : str or sequence of str, default="relu"
        Of every hidden layer, or one name for each: "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid".
    optimizer : str or Optimizer, default="adamw"
        "adamw", "adam", "sgd", "momentum", "nesterov", "rmsprop", "adagrad", or an optimizer with its settings.
    lr : float or Schedule, default=None
        Learning rate. None: an Optimizer's own; otherwise one cycle up and down over the whole of `fit`
        (`nnbackend.OneCycle`), and in `partial_fit`, whose end is not known, a constant.
    batch_size : int or "auto", default="auto"
        Rows per step, at most all there are. "auto": a power of 2 from 32 to 256 that makes some 24 steps an epoch.
    epochs : int, default=None
        Passes over the data. None: as many as make 1000 steps, but at least 20 and at most 100.
    max_iter : int, default=None
        Another name for `epochs`, of which only one may be given.
    dropout : float, default=0.0
        Share of every hidden layer that is dropped while training, at least 0 and below 1.
    batch_normalization : bool, default=False
        Normalise every hidden layer over the batch, ahead of its activation.
    weight_decay : float, default=None
        Of the optimizer: decoupled for "adamw", where None is 0.3 (300 / steps, where a fit has more than 1000 steps),
        else that of an L2 penalty, where None is none. An Optimizer keeps its own where this is None.
    standardize : bool, default=True
        Scale every feature to mean 0 and standard deviation 1, by the rows trained on, and clip it at 5 deviations.
    early_stopping : bool, default=False
        Set rows aside and stop when the loss on them has not become better by more than `tol` for
        `n_iter_no_change` epochs; the best epoch's network is kept. Without it, all epochs are run.
    validation_fraction : float, default=0.1
        The share of rows set aside, stratified by class. Only for early stopping.
    n_iter_no_change : int, default=10
        Epochs to wait for a better loss. Only for early stopping.
    tol : float, default=1e-4
        By how much the loss has to become better. Only for early stopping.
    warm_start : bool, default=False
        Let `fit` go on from the network of the last `fit`, with its scaling and its classes.
    random_state : int, RandomState instance or None, default=None
        Decides initial weights, order of rows, dropout and the rows set aside.
    verbose : bool or int, default=False
        Show a progress bar for every epoch.
    backend : str or Backend, default=None
        Where a network for host data lives: "numpy", "cupy", "torch:cuda:0", ...; None: where `nnbackend.use` or the
        variable NNBACKEND says. Device arrays are used where they are.
    dtype : "float32", "float64" or None, default=None
        Precision of the network, and of the probabilities; None: that of X, float64 where X is of another kind.
        float32 is the faster.
    loss : "log_loss" or Loss, default="log_loss"
        Cross entropy, or a `nnbackend.Loss` that classifies.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, {label: weight}; 1 for those left out. "balanced": by the inverse of their
        frequencies. Not for several labels a row.
    label_smoothing : float, default=0.0
        The share of every target that is spread over all classes, at least 0 and below 1.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels; the numbers of the columns where rows have several labels.
    network_ : Network
        The trained network, for inputs that are standardized as `standardize` says.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had some that are all strings.
    n_outputs_ : int
        Number of columns of the network's output.
    n_iter_ : int
        Epochs of the last `fit` and of every `partial_fit` after it.
    loss_curve_ : list of float, of length n_iter_
        Mean training loss of every epoch.
    best_loss_ : float or None
        The least of them; None with early stopping.
    validation_scores_ : list of float or None
        Accuracy on the rows set aside, by epoch; None without early stopping.
    best_validation_score_ : float or None
        That of the epoch that was kept.

    See Also
    --------
    NNRegressor : The same for numbers as targets.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from nnbackend.estimator import NNClassifier
    >>> X_train, X_test, y_train, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)
    >>> NNClassifier(random_state=0).fit(X_train, y_train).score(X_test, y_test) > 0.96
    True
    """

    _: KW_ONLY
    loss: str | Loss = "log_loss"
    class_weight: str | dict[Any, float] | None = None
    label_smoothing: float = 0.0

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_NNEstimator._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels; or 0 and 1 where a row may have several.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss, at least 0; a row of weight 0 is as good as absent.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For a parameter outside its range, and for data of the wrong shape, type or values.
        nnbackend.BackendError
            For a backend that does not work.
        nnbackend.NumericalError
            Where the loss does not stay finite.
        """
        self._train(X, y, sample_weight)
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> NNClassifier:
        """Train the network for one epoch on further data.

        The first call makes the network; the scaling takes in the rows of every call.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels; or 0 and 1 where a row may have several.
        classes : array-like of shape (n_classes,), default=None
            All labels there will be. Required in the first call, unless rows have several.
        sample_weight : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As `fit`, and with early_stopping or balanced classes.
        """
        if self.class_weight == "balanced":
            raise ValueError("partial_fit cannot balance classes that it has not seen: give class_weight as a dict")
        self._train(X, y, sample_weight, classes, incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """The most likely class of every row; with several labels a row, 1 where a label is likelier than not.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """

        def decide(y: Array) -> Array:
            xp = array_namespace(y)
            if self._encoder is None:
                return xp.astype(y > 0.0, xp.int64)
            labels, classes = xp.argmax(y, axis=1), self.classes_
            if _on_device(X) and classes.dtype.kind in "biuf":
                return xp.take(self.network_.backend.asarray(classes), labels, axis=0)
            return classes[to_numpy(labels)]

        return self._answer(X, "predict", decide)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, in the order of `classes_`; with several labels a row, of each label.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
        """
        return self._answer(X, "predict_proba", lambda y: self.network_.loss_layer.output(y))

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of `predict_proba`, computed without it: they stay finite.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
        """

        def log_proba(y: Array) -> Array:
            xp = array_namespace(y)
            if self._encoder is None:
                return xp.minimum(y, 0.0) - xp.log1p(xp.exp(-xp.abs(y)))
            shifted = y - xp.max(y, axis=1, keepdims=True)
            return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))

        return self._answer(X, "predict_log_proba", log_proba)

    def decision_function(self, X: Any) -> Array:
        """The network's raw output: the logarithm of `predict_proba` but for a constant in every row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes the second's less the first's, which is positive where the second is likelier.
        """

        def decision(y: Array) -> Array:
            return y[:, 1] - y[:, 0] if self._encoder is not None and self.n_outputs_ == 2 else y

        return self._answer(X, "decision_function", decision)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of rows that are classified as y says; with several labels a row, all of them.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The truth.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
        """
        return float(accuracy_score(_host(y), _host(self.predict(X)), sample_weight=_host(sample_weight)))

    @property
    def classes_(self) -> HostArray:
        """The class labels in the order of the columns of `predict_proba`, on the host."""
        classes: HostArray = np.arange(self.n_outputs_) if self._encoder is None else self._encoder.classes_
        return classes

    def _targets(self, y: Any, first: bool, incremental: bool, classes: Any) -> HostArray:
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError("y must hold one label a row, or rows of 0 and 1; several labels a row are not supported")
        multilabel = kind == "multilabel-indicator"
        if not first and multilabel != (self._encoder is None):
            raise ValueError(f"y is {kind}, unlike the y that this estimator has been trained on")
        if multilabel:
            t = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)
            if not np.all((t == 0.0) | (t == 1.0)):
                raise ValueError(f"y: rows of several labels must hold 0 and 1, got {t.min():g} to {t.max():g}")
            if first:
                self._encoder: Any = None
                self.n_outputs_ = t.shape[1]
            elif t.shape[1] != self.n_outputs_:
                raise ValueError(f"y has {t.shape[1]} columns, but {self.n_outputs_} in the training so far")
            return t * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0
        y = column_or_1d(y, warn=True)
        if first:
            if incremental and classes is None:
                raise ValueError("classes must be passed in the first call to partial_fit")
            self._encoder = LabelEncoder().fit(y if classes is None else column_or_1d(classes))
            self.n_outputs_ = len(self._encoder.classes_)
        return np.asarray(self._encoder.transform(y), dtype=np.int64)

    def _loss(self, t: HostArray) -> Loss:
        if isinstance(self.loss, Loss):
            if not self.loss.classifies or self.class_weight is not None or self.label_smoothing:
                raise ValueError(
                    f"loss={self.loss!r} must be a loss of classes, and class_weight and label_smoothing are left to it"
                )
            return type(self.loss)(**self.loss.config())
        if self._encoder is None:
            if self.class_weight is not None:
                raise ValueError("class_weight is for one label a row; here, use loss=SigmoidWithLoss(pos_weight=...)")
            return SigmoidWithLoss()
        weights = None
        if self.class_weight is not None:
            labels = self.classes_[t]
            weights = compute_class_weight(self.class_weight, classes=self.classes_, y=labels).tolist()
        return SoftmaxWithLoss(class_weight=weights, label_smoothing=float(self.label_smoothing))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False)
class NNRegressor(RegressorMixin, _NNEstimator):  # type: ignore[misc]
    """A neural network as a scikit-learn regressor, for one or several target columns.

    With the defaults inputs and targets are standardized inside the model, and it trains well without tuning. What X
    may be, and where the network is trained, is the same as for `NNClassifier`.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; empty for a linear model.
    activation : str or sequence of str, default="relu"
        Of every hidden layer, or one name for each: "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid".
    optimizer : str or Optimizer, default="adamw"
        "adamw", "adam", "sgd", "momentum", "nesterov", "rmsprop", "adagrad", or an optimizer with its settings.
    lr : float or Schedule, default=None
        Learning rate. None: an Optimizer's own; otherwise one cycle up and down over the whole of `fit`
        (`nnbackend.OneCycle`), and in `partial_fit`, whose end is not known, a constant.
    batch_size : int or "auto", default="auto"
        Rows per step, at most all there are. "auto": a power of 2 from 32 to 256 that makes some 24 steps an epoch.
    epochs : int, default=None
        Passes over the data. None: as many as make 1000 steps, but at least 20 and at most 100.
    max_iter : int, default=None
        Another name for `epochs`, of which only one may be given.
    dropout : float, default=0.0
        Share of every hidden layer that is dropped while training, at least 0 and below 1.
    batch_normalization : bool, default=False
        Normalise every hidden layer over the batch, ahead of its activation.
    weight_decay : float, default=None
        Of the optimizer: decoupled for "adamw", where None is 0.3 (300 / steps, where a fit has more than 1000 steps),
        else that of an L2 penalty, where None is none. An Optimizer keeps its own where this is None.
    standardize : bool, default=True
        Scale every feature and every target to mean 0 and standard deviation 1, by the rows trained on, and clip
        features at 5 deviations. The losses, and `tol`, are those of the scaled targets.
    early_stopping : bool, default=False
        Set rows aside and stop when the loss on them has not become better by more than `tol` for
        `n_iter_no_change` epochs; the best epoch's network is kept. Without it, all epochs are run.
    validation_fraction : float, default=0.1
        The share of rows set aside. Only for early stopping.
    n_iter_no_change : int, default=10
        Epochs to wait for a better loss. Only for early stopping.
    tol : float, default=1e-4
        By how much the loss has to become better. Only for early stopping.
    warm_start : bool, default=False
        Let `fit` go on from the network of the last `fit`, with its scaling and its classes.
    random_state : int, RandomState instance or None, default=None
        Decides initial weights, order of rows, dropout and the rows set aside.
    verbose : bool or int, default=False
        Show a progress bar for every epoch.
    backend : str or Backend, default=None
        Where a network for host data lives: "numpy", "cupy", "torch:cuda:0", ...; None: where `nnbackend.use` or the
        variable NNBACKEND says. Device arrays are used where they are.
    dtype : "float32", "float64" or None, default=None
        Precision of the network, and of the predictions; None: that of X, float64 where X is of another kind.
        float32 is the faster.
    loss : "squared_error", "absolute_error", "huber" or Loss, default="squared_error"
        What is minimised; "huber" turns linear at one (scaled) unit.

    Attributes
    ----------
    network_ : Network
        The trained network, for inputs that are standardized as `standardize` says.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had some that are all strings.
    n_outputs_ : int
        Number of columns of the network's output.
    n_iter_ : int
        Epochs of the last `fit` and of every `partial_fit` after it.
    loss_curve_ : list of float, of length n_iter_
        Mean training loss of every epoch.
    best_loss_ : float or None
        The least of them; None with early stopping.
    validation_scores_ : list of float or None
        1 - loss / loss of the mean target, on the rows set aside, by epoch: R^2 for squared errors and one column.
        None without early stopping.
    best_validation_score_ : float or None
        That of the epoch that was kept.

    See Also
    --------
    NNClassifier : The same for classes as targets.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from nnbackend.estimator import NNRegressor
    >>> X, y = make_regression(n_samples=500, n_features=10, noise=5.0, random_state=0)
    >>> NNRegressor(random_state=0).fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.98
    True
    """

    _: KW_ONLY
    loss: str | Loss = "squared_error"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_NNEstimator._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), Loss],
    }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNRegressor:
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss, at least 0; a row of weight 0 is as good as absent.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For a parameter outside its range, and for data of the wrong shape, type or values.
        nnbackend.BackendError
            For a backend that does not work.
        nnbackend.NumericalError
            Where the loss does not stay finite.
        """
        self._train(X, y, sample_weight)
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNRegressor:
        """Train the network for one epoch on further data.

        The first call makes the network; the scaling takes in the rows of every call.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            As `fit`, and with early_stopping.
        """
        self._train(X, y, sample_weight, incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """The target of every row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """

        def restore(y: Array) -> Array:
            y = self._y_moments.restored(y) if self.standardize else y
            return y[:, 0] if self._flat else y

        return self._answer(X, "predict", restore)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R^2, the mean over the columns of y.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The truth.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        score : float
        """
        return float(r2_score(_host(y), _host(self.predict(X)), sample_weight=_host(sample_weight)))

    def _targets(self, y: Any, first: bool, incremental: bool, classes: Any) -> HostArray:
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        t = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64).reshape(y.shape[0], -1)
        if first:
            self._flat, self.n_outputs_ = y.ndim == 1, t.shape[1]
        elif t.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {t.shape[1]} columns, but {self.n_outputs_} in the training so far")
        return t

    def _measure_targets(self, t: HostArray, weight: HostArray | None, first: bool, incremental: bool) -> None:
        if not self.standardize or not (first or incremental):
            return
        moments = _moments(t, weight)
        self._y_moments: _Moments = moments if first else self._y_moments + moments
        coarse = float(np.max(np.abs(self._y_moments.mean) / self._y_moments.scale)) * np.finfo(self._precision).eps
        if coarse > 1e-3:
            warnings.warn(
                f"{self._precision} tells targets of this size only {coarse:.1g} of their standard deviation apart: "
                "subtract an offset from y"
                + (", or train with dtype='float64'" if self._precision == "float32" else ""),
                stacklevel=2,
            )

    def _scaled_targets(self, t: HostArray) -> HostArray:
        return self._y_moments.standardized(t) if self.standardize else t

    def _loss(self, t: HostArray) -> Loss:
        return type(self.loss)(**self.loss.config()) if isinstance(self.loss, Loss) else LOSSES[self.loss]()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
