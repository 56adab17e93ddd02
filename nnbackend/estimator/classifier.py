"""Classes as targets."""

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

    It minimises the cross entropy of a softmax, or with several labels a row that of a sigmoid for each. With the
    defaults inputs are standardized inside the model, and it trains well without tuning.

    X may be an array, a data frame, a sparse matrix, or an array of CuPy, PyTorch or another array-API library, with or
    without scikit-learn's `array_api_dispatch`: then the network is trained on that device, and predictions are arrays
    of that kind. Predictions for all other data are NumPy arrays. Sparse rows are used a batch at a time and are never
    made dense as a whole.

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
        Scale every feature to mean 0 and standard deviation 1, by the rows trained on; to less where one of them lies
        more than 10 deviations from the mean, so that it lies at 10. A sparse X is divided by one number instead, so
        that its rows have a length of about 1.
    early_stopping : bool, default=False
        Stop when the loss on a validation set has not become better by more than `tol` for `n_iter_no_change` epochs;
        the best epoch's network is kept. The set is the one given to `fit`, or else rows set aside. Without early
        stopping, all epochs are run.
    validation_fraction : float, default=0.1
        The share of rows set aside, stratified by class. Only for early stopping without a set of its own.
    n_iter_no_change : int, default=10
        Epochs to wait for a better loss. Only for early stopping.
    tol : float, default=1e-4
        By how much the loss has to become better. Only for early stopping.
    warm_start : bool, default=False
        Let `fit` go on from the network of the last `fit`, with its scaling and its classes. Loss, class weights and
        training settings may change; settings that shape the network or its data may not.
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
        Cross entropy, or a `nnbackend.Loss` that classifies: for one label a row such as `nnbackend.SoftmaxWithLoss`,
        for several such as `nnbackend.SigmoidWithLoss`.
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
        Accuracy on the validation set, by epoch; None without one.
    best_validation_score_ : float or None
        That of the epoch that was kept; None without early stopping.

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

    Ctrl-C ends a fit after the step in hand. The estimator keeps what it has learned in full epochs and predicts with
    it, and `fit` then raises KeyboardInterrupt, so that a search or a cross-validation around it ends, too.

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
            Labels; or 0 and 1 where a row may have several.
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
            All labels there will be. Required in the first call, unless rows have several. In later calls it may be
            left out, and must be the same otherwise.
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
        """The most likely class of every row by `predict_proba`; with several labels, 1 for each above 1/2.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Data of the kind that `fit` had.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """

        def decide(y: Array) -> Array:
            xp, p = array_namespace(y), self.network_.loss_layer.output(y)  # decided by what predict_proba shows
            if self._encoder is None:
                return xp.astype(p > 0.5, xp.int64)
            labels, classes = xp.argmax(p, axis=1), self.classes_
            if on_device(X) and classes.dtype.kind in "biuf":
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
            xp, loss = array_namespace(y), self.network_.loss_layer
            if isinstance(loss, SigmoidWithLoss):
                return xp.minimum(y, 0.0) - xp.log1p(xp.exp(-xp.abs(y)))
            if not isinstance(loss, SoftmaxWithLoss):  # one of the user's own
                return xp.log(loss.output(y))
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
        return float(accuracy_score(host(y), host(self.predict(X)), sample_weight=host(sample_weight)))

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
        """Rows of 0 and 1 as the loss takes them."""
        t = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)
        if not np.all((t == 0.0) | (t == 1.0)):
            raise ValueError(f"y: rows of several labels must hold 0 and 1, got {t.min():g} to {t.max():g}")
        if t.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {t.shape[1]} columns, but {self.n_outputs_} in the training so far")
        return t * (1.0 - self.label_smoothing) + self.label_smoothing / 2.0

    def _labels(self, y: HostArray) -> HostArray:
        """The number of each label. Labels are compared as they are: a cast could make another class of them."""
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
        """The weight of every class; with "balanced" 1 for a class without rows in t."""
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
