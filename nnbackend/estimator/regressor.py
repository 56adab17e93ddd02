"""Predict numbers with a neural network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions

from nnbackend.estimator.base import NNEstimator, knows_other_names
from nnbackend.estimator.mlp import from_mlp
from nnbackend.estimator.scaling import HostArray, Moments, column_moments, host, require_numbers
from nnbackend.functions.array import Array
from nnbackend.layers import Huber, Loss, MeanAbsoluteError, MeanSquaredError, QuantileLoss

LOSSES: dict[str, type[Loss]] = {
    "squared_error": MeanSquaredError,
    "absolute_error": MeanAbsoluteError,
    "huber": Huber,
    "quantile": QuantileLoss,
}


@knows_other_names
@dataclass(eq=False, repr=False)
class NNRegressor(RegressorMixin, NNEstimator):  # type: ignore[misc]
    """A neural network as a scikit-learn regressor, for one or several target columns.

    The defaults standardize inputs and targets inside the model, and train well without tuning. X may be of the same
    kinds as for `NNClassifier`, and the network is trained on the same device.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; empty for a linear model.
    activation : str or sequence of str, default="relu"
        Activation of the hidden layers (or one each): "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid".
    optimizer : str or Optimizer, default="adamw"
        "adamw", "adam", "sgd", "momentum", "nesterov", "rmsprop", "adagrad", or an optimizer with its settings.
    lr : float or Schedule, default=None
        Learning rate. With None, an Optimizer keeps its own. For a name, the rate goes up and down once in the course
        of `fit` (`nnbackend.OneCycle`). It is constant in `partial_fit` and with early stopping, since the number of
        steps is then not known.
    batch_size : int or "auto", default="auto"
        Rows per step, at most all rows. "auto" chooses a power of 2 from 32 to 256 that gives about 24 steps per epoch.
    epochs : int, default=None
        Passes over the data. None chooses a number that gives about 1500 steps, at least 20 and at most 100.
    max_iter : int, default=None
        Another name for `epochs`. Only one of the two may be given.
    dropout : float, default=0.0
        Fraction of the units of each hidden layer that are dropped while training, at least 0 and below 1.
    batch_normalization : bool, default=False
        Normalise each hidden layer over the batch, before its activation.
    weight_decay : float, default=None
        Weight decay of the optimizer. For "adamw" it is decoupled. None then means 10 features / rows, at most 1, times
        1500 / steps if a fit has more than 1500 steps. For the other names it is the strength of an L2 penalty, and
        None means 0. If None, an Optimizer keeps its own.
    standardize : bool, default=True
        Scale each feature and each target to mean 0 and standard deviation 1, as measured on the training rows. If a
        value of a feature lies more than 10 deviations from the mean, the feature is scaled so that it lies at 10. A
        sparse X is divided by one number instead, so that its rows have a length of about 1. Losses and `tol` refer to
        the scaled targets. If a target is constant in training, the prediction is exactly that constant.
    early_stopping : bool, default=False
        Stop when the loss on a validation set has not improved by more than `tol` for `n_iter_no_change` epochs, and
        keep the network of the best epoch. The validation set is passed to `fit`; if it is not, rows are set aside.
    validation_fraction : float, default=0.1
        Fraction of the rows that early stopping sets aside if `fit` gets no validation set.
    n_iter_no_change : int, default=10
        Epochs to wait for an improvement. Only for early stopping.
    tol : float, default=1e-4
        Least improvement of the loss that counts. Only for early stopping.
    warm_start : bool, default=False
        Let `fit` go on with the network of the last `fit`, and with its scaling. Loss and training settings may change
        in between. Settings that shape the network or its data may not.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the order of rows, dropout and the rows that are set aside.
    verbose : bool or int, default=False
        Show a progress bar for each epoch.
    backend : str or Backend, default=None
        Backend of a network for host data: "numpy", "cupy", "torch:cuda:0", ... None means the backend that
        `nnbackend.use` or the variable NNBACKEND selects. Device arrays stay on their device.
    dtype : "float32", "float64" or None, default=None
        Precision of the network and of the predictions. None uses the precision of X, or float64 if X does not hold
        floats. float32 is faster.
    loss : "squared_error", "absolute_error", "huber", "quantile" or Loss, default="squared_error"
        The loss to minimise. "huber" becomes linear at one (scaled) unit.
    quantile : float, default=0.5
        For loss="quantile", the fraction of targets that shall lie below the prediction, above 0 and below 1.

    Attributes
    ----------
    network_ : Network
        The trained network, for inputs that are scaled as `standardize` says.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has names and all are strings.
    n_outputs_ : int
        Number of columns of the network's output.
    n_iter_ : int
        Epochs of the last `fit` and of each `partial_fit` after it.
    loss_curve_ : list of float, of length n_iter_
        Mean training loss of each epoch.
    validation_loss_curve_ : list of float or None
        Loss on the validation set, by epoch; None without a validation set.
    best_loss_ : float or None
        Least value of `loss_curve_`; None with early stopping.
    validation_scores_ : list of float or None
        1 - loss / (loss of predicting the mean target) on the validation set, by epoch: R^2 for squared errors and one
        column. None without a validation set.
    best_validation_score_ : float or None
        Score of the epoch whose network was kept; None without early stopping.

    See Also
    --------
    NNClassifier : The same for classes as targets.

    Notes
    -----
    MLPRegressor has other names for some parameters:

    =======================  ==============================================
    MLPRegressor             NNRegressor
    =======================  ==============================================
    activation="logistic"    activation="sigmoid"
    activation="identity"    hidden_layer_sizes=()
    solver                   optimizer
    alpha                    weight_decay
    learning_rate_init       lr
    learning_rate, power_t   lr, with a schedule
    max_iter                 max_iter, or epochs
    momentum                 optimizer=nnbackend.Momentum(momentum=...)
    nesterovs_momentum       optimizer="nesterov"
    beta_1, beta_2, epsilon  optimizer=nnbackend.Adam(beta1=, beta2=, eps=)
    shuffle                  none: rows are always shuffled
    max_fun                  none: there is no L-BFGS
    =======================  ==============================================

    Ctrl-C ends a fit after the current step. The estimator keeps what it has learned in full epochs, and can predict
    with it. `fit` then raises KeyboardInterrupt, so that a search or a cross-validation ends as well.

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
    quantile: float = 0.5

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **NNEstimator._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), Loss],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }

    @classmethod
    def from_mlp(cls, mlp: Any) -> NNRegressor:
        """Take over a fitted MLPRegressor. The predictions are the same, to rounding; it may be trained further.

        Parameters
        ----------
        mlp : MLPRegressor
            A fitted one. Its layers and precision are taken over; the settings of its training are not.

        Returns
        -------
        estimator : NNRegressor
            One that does not standardize. Hidden layers without activation ("identity") become one affine layer.

        Raises
        ------
        TypeError
            For what is no MLP of scikit-learn.
        sklearn.exceptions.NotFittedError
            For one that is not fitted.
        ValueError
            For one that ends in an activation.
        """
        new = from_mlp(cls, mlp, ("identity",))
        new._flat, new._y_moments = new.n_outputs_ == 1, None
        return new

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: Any = None,
        callbacks: Sequence[Callable[[Any], object]] = (),
    ) -> NNRegressor:
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the loss, at least 0. A row of weight 0 has no effect.
        validation : tuple (X, y) or (X, y, sample_weight), default=None
            Data on which loss and score are recorded after each epoch. Early stopping uses it.
        callbacks : sequence of callable, default=()
            Functions that are called with the `nnbackend.Trainer` after each epoch. They may read its `history`. If one
            returns True, the fit ends.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            For a parameter outside its range, and for data of the wrong shape, type or values.
        KeyboardInterrupt
            After Ctrl-C; the estimator keeps the epochs that were complete.
        nnbackend.BackendError
            For a backend that does not work.
        nnbackend.NumericalError
            If the loss does not stay finite.
        """
        self._train(X, y, sample_weight, validation=validation, callbacks=callbacks)
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> NNRegressor:
        """Train the network for one epoch on further data.

        The first call makes the network. The rows of each call take part in the scaling.

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

    def predict(self, X: Any) -> Any:
        """Return the prediction for each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """

        def restore(y: Array) -> Array:
            y = y if self._y_moments is None else self._y_moments.restored(y)
            return y[:, 0] if self._flat else y

        return self._answer(X, "predict", restore)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R^2, as the mean over the columns of y.

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
        return float(r2_score(host(y), host(self.predict(X)), sample_weight=host(sample_weight)))

    def _targets(self, y: Any, first: bool, incremental: bool, classes: Any) -> HostArray:
        require_numbers("y", y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        t = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64).reshape(y.shape[0], -1)
        if first:
            self._flat, self.n_outputs_ = y.ndim == 1, t.shape[1]
        elif t.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {t.shape[1]} columns, but {self.n_outputs_} in the training so far")
        return t

    def _measure_targets(self, t: HostArray, weight: HostArray | None, first: bool, incremental: bool) -> None:
        if first:
            self._y_moments: Moments | None = column_moments(t, weight) if self.standardize else None
        elif incremental and self._y_moments is not None:
            self._y_moments += column_moments(t, weight)
        if self._y_moments is None or not (first or incremental):
            return
        varies = ~self._y_moments.constant
        spread = self._y_moments.deviation[varies] / np.abs(self._y_moments.mean[varies]).clip(1e-300)
        coarse = np.finfo(self._precision).eps / np.min(spread, initial=math.inf)
        if coarse > 1e-3:
            warnings.warn(
                f"{self._precision} tells targets of this size only {coarse:.1g} of their standard deviation apart: "
                "subtract an offset from y"
                + (", or train with dtype='float64'" if self._precision == "float32" else ""),
                stacklevel=2,
            )

    def _scaled_targets(self, t: HostArray) -> HostArray:
        return t if self._y_moments is None else self._y_moments.standardized(t)

    def _loss(self, t: HostArray) -> Loss:
        if isinstance(self.loss, Loss):
            return type(self.loss)(**self.loss.config())
        return QuantileLoss(float(self.quantile)) if self.loss == "quantile" else LOSSES[self.loss]()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
