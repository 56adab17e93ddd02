"""Numbers as targets."""

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
        (`nnbackend.OneCycle`), and a constant in a training whose end is not known: in `partial_fit`, and with
        early stopping.
    batch_size : int or "auto", default="auto"
        Rows per step, at most all there are. "auto": a power of 2 from 32 to 256 that makes some 24 steps an epoch.
    epochs : int, default=None
        Passes over the data. None: as many as make 1500 steps, but at least 20 and at most 100.
    max_iter : int, default=None
        Another name for `epochs`, of which only one may be given.
    dropout : float, default=0.0
        Share of every hidden layer that is dropped while training, at least 0 and below 1.
    batch_normalization : bool, default=False
        Normalise every hidden layer over the batch, ahead of its activation.
    weight_decay : float, default=None
        Of the optimizer. For "adamw" it is decoupled, and None is 10 features / rows, at most 1, times 1500 / steps
        if a fit runs for more than 1500 steps. For the others it is that of an L2 penalty, and None is none. An
        Optimizer keeps its own if this is None.
    standardize : bool, default=True
        Scale every feature and every target to mean 0 and standard deviation 1, by the rows trained on; a feature to
        less where one of them lies more than 10 deviations from the mean, so that it lies at 10. A sparse X is divided
        by one number instead, so that its rows have a length of about 1. The losses, and `tol`, are those of the
        scaled targets. A target that is constant in training is answered exactly.
    early_stopping : bool, default=False
        Stop when the loss on a validation set has not become better by more than `tol` for `n_iter_no_change` epochs;
        the best epoch's network is kept. The set is the one given to `fit`, or else rows set aside. Without early
        stopping, all epochs are run.
    validation_fraction : float, default=0.1
        The share of rows set aside. Only for early stopping without a set of its own.
    n_iter_no_change : int, default=10
        Epochs to wait for a better loss. Only for early stopping.
    tol : float, default=1e-4
        By how much the loss has to become better. Only for early stopping.
    warm_start : bool, default=False
        Let `fit` go on from the network of the last `fit`, with its scaling. Loss and training settings may change;
        settings that shape the network or its data may not.
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
    loss : "squared_error", "absolute_error", "huber", "quantile" or Loss, default="squared_error"
        What is minimised; "huber" turns linear at one (scaled) unit.
    quantile : float, default=0.5
        For loss="quantile": the share of targets that is to lie below the prediction, above 0 and below 1.

    Attributes
    ----------
    network_ : Network
        The trained network, for inputs that are scaled as `standardize` says.
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
    validation_loss_curve_ : list of float or None
        Loss on the validation set, by epoch; None without one.
    best_loss_ : float or None
        The least of them; None with early stopping.
    validation_scores_ : list of float or None
        1 - loss / loss of the mean target, on the validation set, by epoch: R^2 for squared errors and one column.
        None without one.
    best_validation_score_ : float or None
        That of the epoch that was kept; None without early stopping.

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

    Ctrl-C ends a fit after the step in hand. The estimator keeps what it has learned in full epochs and predicts with
    it, and `fit` then raises KeyboardInterrupt, so that a search or a cross-validation around it ends, too.

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
            Weights of the rows in the loss, at least 0; a row of weight 0 is as good as absent.
        validation : tuple (X, y) or (X, y, sample_weight), default=None
            Data on which loss and score are recorded after every epoch. Early stopping looks at it.
        callbacks : sequence of callable, default=()
            Functions that are called after every epoch with the `nnbackend.Trainer`, whose `history` they may read.
            One that returns True ends the fit.

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
            Where the loss does not stay finite.
        """
        self._train(X, y, sample_weight, validation=validation, callbacks=callbacks)
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
            y = y if self._y_moments is None else self._y_moments.restored(y)
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
