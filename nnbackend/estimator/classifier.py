"""Classify with a neural network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from nnbackend.backends import to_numpy
from nnbackend.estimator.base import NNEstimator, knows_other_names
from nnbackend.estimator.mlp import encoder, from_mlp
from nnbackend.estimator.scaling import HostArray, host, on_device
from nnbackend.functions.array import Array, array_namespace
from nnbackend.layers import Loss, SigmoidWithLoss, SoftmaxWithLoss


@knows_other_names
@dataclass(eq=False, repr=False)
class NNClassifier(ClassifierMixin, NNEstimator):  # type: ignore[misc]
    """A neural network as a scikit-learn classifier.

    It minimises the cross entropy of a softmax. If rows have several labels, it minimises the cross entropy of a
    sigmoid for each label. The defaults standardize inputs inside the model, and train well without tuning.

    X may be an array, a data frame or a sparse matrix. Predictions are then NumPy arrays. Sparse rows are made dense
    one batch at a time, if at all. X may also be an array of CuPy, PyTorch or another array-API library, with or
    without scikit-learn's `array_api_dispatch`. The network is then trained on the device of X, and predictions are
    arrays of that library.

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
        Scale each feature to mean 0 and standard deviation 1, as measured on the training rows. If a value of a feature
        lies more than 10 deviations from the mean, the feature is scaled so that it lies at 10. A sparse X is divided
        by one number instead, so that its rows have a length of about 1.
    early_stopping : bool, default=False
        Stop when the loss on a validation set has not improved by more than `tol` for `n_iter_no_change` epochs, and
        keep the network of the best epoch. The validation set is passed to `fit`; if it is not, rows are set aside.
    validation_fraction : float, default=0.1
        Fraction of the rows that early stopping sets aside, stratified by class, if `fit` gets no validation set.
    n_iter_no_change : int, default=10
        Epochs to wait for an improvement. Only for early stopping.
    tol : float, default=1e-4
        Least improvement of the loss that counts. Only for early stopping.
    warm_start : bool, default=False
        Let `fit` go on with the network of the last `fit`, and with its scaling and classes. Loss, class weights and
        training settings may change in between. Settings that shape the network or its data may not.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, the order of rows, dropout and the rows that are set aside.
    verbose : bool or int, default=False
        Show a progress bar for each epoch.
    backend : str or Backend, default=None
        Backend of a network for host data: "numpy", "cupy", "torch:cuda:0", ... None means the backend that
        `nnbackend.use` or the variable NNBACKEND selects. Device arrays stay on their device.
    dtype : "float32", "float64" or None, default=None
        Precision of the network and of the probabilities. None uses the precision of X, or float64 if X does not hold
        floats. float32 is faster.
    loss : "log_loss" or Loss, default="log_loss"
        Cross entropy, or a `nnbackend.Loss` that classifies, such as `nnbackend.SoftmaxWithLoss` for one label a row
        and `nnbackend.SigmoidWithLoss` for several.
    class_weight : dict, "balanced" or None, default=None
        Weight of each class in the loss, {label: weight}. Classes that are left out have the weight 1. "balanced"
        weighs classes by the inverse of their frequencies. Not allowed if rows have several labels.
    label_smoothing : float, default=0.0
        Fraction of each target that is spread over all classes, at least 0 and below 1.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels; if rows have several labels, the numbers of the columns.
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
        Accuracy on the validation set, by epoch; None without a validation set.
    best_validation_score_ : float or None
        Score of the epoch whose network was kept; None without early stopping.

    See Also
    --------
    NNRegressor : The same for numbers as targets.

    Notes
    -----
    MLPClassifier has other names for some parameters:

    =======================  ==============================================
    MLPClassifier            NNClassifier
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
        **NNEstimator._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [StrOptions({"balanced"}), dict, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    @classmethod
    def from_mlp(cls, mlp: Any) -> NNClassifier:
        """Take over a fitted MLPClassifier. The predictions are the same, to rounding; it may be trained further.

        Parameters
        ----------
        mlp : MLPClassifier
            A fitted one. Its layers, classes and precision are taken over; the settings of its training are not.

        Returns
        -------
        estimator : NNClassifier
            One that does not standardize. Hidden layers without activation ("identity") become one affine layer.

        Raises
        ------
        TypeError
            For what is no MLP of scikit-learn.
        sklearn.exceptions.NotFittedError
            For one that is not fitted.
        ValueError
            For one that ends in another activation than softmax or logistic.
        """
        new = from_mlp(cls, mlp, ("softmax", "logistic"))
        new._encoder = encoder(mlp)
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
    ) -> NNClassifier:
        """Train the network.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels; or 0 and 1 if a row may have several labels.
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
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> NNClassifier:
        """Train the network for one epoch on further data.

        The first call makes the network. The rows of each call take part in the scaling.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels; or 0 and 1 if a row may have several labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call will have. Required in the first call, unless rows have several labels. Later calls
            may leave it out, or pass the same labels.
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

    def predict(self, X: Any) -> Any:
        """Return the most likely class of each row; for several labels a row, 1 for each that is likelier than 1/2.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """

        def decide(y: Array) -> Any:
            xp = array_namespace(y)
            p = self.network_.loss_layer.output(y)  # the same probabilities as predict_proba gives
            if self._encoder is None:
                return xp.astype(p > 0.5, xp.int64)
            labels, classes = xp.argmax(p, axis=1), self.classes_
            if on_device(X) and classes.dtype.kind in "biuf":
                return xp.take(self.network_.backend.asarray(classes), labels, axis=0)
            return classes[to_numpy(labels)]

        return self._answer(X, "predict", decide)

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the classes, in the order of `classes_`, or of the labels if rows have several.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
        """
        return self._answer(X, "predict_proba", lambda y: self.network_.loss_layer.output(y))

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of the probabilities. They are computed from the raw output, so that they stay finite.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
        """

        def log_proba(y: Array) -> Array:
            xp, loss = array_namespace(y), self.network_.loss_layer
            if isinstance(loss, SigmoidWithLoss):
                return xp.minimum(y, 0.0) - xp.log1p(xp.exp(-xp.abs(y)))
            if not isinstance(loss, SoftmaxWithLoss):  # a loss of the user's own
                return xp.log(loss.output(y))
            shifted = y - xp.max(y, axis=1, keepdims=True)
            return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))

        return self._answer(X, "predict_log_proba", log_proba)

    def decision_function(self, X: Any) -> Any:
        """Return the network's raw output: the logarithm of `predict_proba` up to a constant in each row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
            For two classes, the output of the second minus that of the first: positive if the second is likelier.
        """

        def decision(y: Array) -> Array:
            return y[:, 1] - y[:, 0] if self._encoder is not None and self.n_outputs_ == 2 else y

        return self._answer(X, "decision_function", decision)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the fraction of rows that are classified correctly. If rows have several labels, all must be correct.

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
        return float(accuracy_score(host(y), host(self.predict(X)), sample_weight=host(sample_weight)))

    @property
    def classes_(self) -> HostArray:
        """Return the class labels, in the order of the columns of `predict_proba`, on the host."""
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
        if first and not multilabel:
            y = column_or_1d(y, warn=True)
            if incremental and classes is None:
                raise ValueError("classes must be passed in the first call to partial_fit")
            self._encoder: Any = LabelEncoder().fit(y if classes is None else column_or_1d(classes))
            self.n_outputs_ = len(self._encoder.classes_)
        elif first:
            self._encoder = None
            self.n_outputs_ = y.shape[1]
        if classes is not None and np.unique(column_or_1d(classes)).tolist() != self.classes_.tolist():
            raise ValueError(f"classes={classes!r} are not those of the first call to partial_fit: {self.classes_}")
        return self._indicators(y) if multilabel else self._labels(column_or_1d(y, warn=not first))

    def _indicators(self, y: Any) -> HostArray:
        """Convert rows of 0 and 1 to targets of the loss."""
        t = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)
        if not np.all((t == 0.0) | (t == 1.0)):
            raise ValueError(f"y: rows of several labels must hold 0 and 1, got {t.min():g} to {t.max():g}")
        if t.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {t.shape[1]} columns, but {self.n_outputs_} in the training so far")
        return t * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0

    def _labels(self, y: HostArray) -> HostArray:
        """Return the number of each label. Labels are compared without a cast, which could change their class."""
        numbers = {label: number for number, label in enumerate(self.classes_.tolist())}
        present, where = np.unique(y, return_inverse=True)
        unseen = [label for label in present.tolist() if label not in numbers]
        if unseen:
            raise ValueError(f"y contains previously unseen labels: {unseen}; the classes are {self.classes_}")
        return np.asarray([numbers[label] for label in present.tolist()], dtype=np.int64)[where]

    def _check_split(self, labels: HostArray, held_out: int) -> str:
        cause = super()._check_split(labels, held_out)
        if cause or self._encoder is None:
            return cause
        numbers, counts = np.unique(labels, return_counts=True)
        if counts.min() < 2:
            rare = self.classes_.tolist()[numbers[counts.argmin()]]
            return f"some of every class, but class {rare!r} has only one row"
        smaller = min(held_out, labels.size - held_out)
        return f"but {smaller} rows cannot hold {numbers.size} classes" if smaller < numbers.size else ""

    def _loss(self, t: HostArray) -> Loss:
        if isinstance(self.loss, Loss):
            if not self.loss.classifies or self.class_weight is not None or self.label_smoothing:
                raise ValueError(
                    f"loss={self.loss!r} must be a loss of classes, and class_weight and label_smoothing are left to it"
                )
            if isinstance(self.loss, SoftmaxWithLoss) and self._encoder is None:
                raise ValueError(
                    f"loss={self.loss!r} is for one class a row, but y has rows of several labels: use "
                    "SigmoidWithLoss(), or give the number of each row's class as y"
                )
            if isinstance(self.loss, SigmoidWithLoss) and self._encoder is not None:
                raise ValueError(
                    f"loss={self.loss!r} is for rows of several labels, but y has one class a row: use "
                    "SoftmaxWithLoss(), or give rows of 0 and 1 as y"
                )
            return type(self.loss)(**self.loss.config())
        if self._encoder is None:
            if self.class_weight is not None:
                raise ValueError("class_weight is for one label a row; here, use loss=SigmoidWithLoss(pos_weight=...)")
            return SigmoidWithLoss()
        return SoftmaxWithLoss(class_weight=self._class_weights(t), label_smoothing=float(self.label_smoothing))

    def _class_weights(self, t: HostArray) -> list[float] | None:
        """Return the weight of each class. With "balanced" it is 1 for a class without rows in t."""
        if self.class_weight is None:
            return None
        weights = np.ones(self.n_outputs_)
        if isinstance(self.class_weight, dict):
            weights[:] = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[t])
        else:
            present = np.unique(t)
            weights[present] = compute_class_weight(self.class_weight, classes=present, y=t)
        return [float(weight) for weight in weights]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
