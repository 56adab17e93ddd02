"""What the estimators take for a class, and which settings a fit goes by."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import nnbackend as nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")

from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor

from nnbackend.estimator import NNClassifier, NNRegressor
from nnbackend.estimator.base import ACTIVATIONS_ELSEWHERE, ELSEWHERE
from nnbackend.estimator.scaling import Moments
from nnbackend.layers import ReLU

X = np.random.default_rng(0).normal(size=(60, 4))
HALF = np.arange(60) % 2
X_IRIS, Y_IRIS = load_iris(return_X_y=True)


def test_after_a_fit_that_was_refused_it_is_not_fitted() -> None:
    estimator = NNClassifier(loss=nn.SigmoidWithLoss())
    with pytest.raises(ValueError, match="is for rows of several labels"):
        estimator.fit(X, HALF)
    with pytest.raises(NotFittedError, match="NNClassifier instance is not fitted yet"):
        estimator.predict(X)


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (["cat", "dog"], ["category", "dogma"]),
        (np.array([0, 1], dtype=np.uint8), [256, 257]),
        ([0, 1], [0.5, 1.0]),
        (["0", "1"], [0, 1]),
        (np.array([False, True]), [2, 1]),
    ],
)
def test_a_label_that_is_no_class_does_not_become_one(classes: Any, labels: Any) -> None:
    y, others = np.asarray(classes)[HALF], np.asarray(labels)[HALF]
    fitted = NNClassifier(random_state=0).partial_fit(X, y, classes=classes)
    for attempt in (
        lambda: fitted.partial_fit(X, others),
        lambda: NNClassifier().partial_fit(X, others, classes=classes),
        lambda: NNClassifier(epochs=1).fit(X, y, validation=(X, others)),
        lambda: NNClassifier(epochs=1, warm_start=True).fit(X, y).fit(X, others),
    ):
        with pytest.raises(ValueError, match="previously unseen labels|Unknown label type"):
            attempt()
    assert fitted.n_iter_ == 1


def test_equal_labels_of_another_dtype_are_the_same_classes() -> None:
    fitted = NNClassifier().partial_fit(X, HALF, classes=[0, 1])
    assert fitted.partial_fit(X, HALF.astype(np.uint8)).partial_fit(X, HALF == 1).n_iter_ == 3
    strings = NNClassifier().partial_fit(X, np.array(["a", "b"])[HALF], classes=["a", "b"])
    assert strings.partial_fit(X, np.array(["a", "b"], dtype=object)[HALF]).n_iter_ == 2


def test_classes_of_a_later_call_must_be_those_of_the_first() -> None:
    fitted = NNClassifier().partial_fit(X, HALF, classes=[0, 1])
    assert fitted.partial_fit(X, HALF, classes=[1, 0]).n_iter_ == 2
    for other in ([0, 1, 2], [0], ["0", "1"]):
        with pytest.raises(ValueError, match="are not those of the first call to partial_fit"):
            fitted.partial_fit(X, HALF, classes=other)
    with pytest.raises(ValueError, match="are not those of the first call"):
        NNClassifier().partial_fit(X, np.eye(3, dtype=int)[np.arange(60) % 3], classes=[0, 1])


# --- one meaning of an answer ----------------------------------------------------------------------------------------


def test_predictions_are_decided_by_the_probabilities_that_are_shown() -> None:
    fitted = NNClassifier(hidden_layer_sizes=(), epochs=1, standardize=False, random_state=0).fit(X, HALF)
    fitted.network_.params["W1"] = np.zeros((4, 2))
    fitted.network_.params["b1"] = np.array([0.0, 1e-20])  # which no probability can tell apart
    assert fitted.predict(X[:1]) == fitted.predict_proba(X[:1]).argmax(axis=1)
    several = NNClassifier(hidden_layer_sizes=(), epochs=1, standardize=False).fit(X, np.c_[HALF, 1 - HALF])
    several.network_.params["W1"] = np.zeros((4, 2))
    several.network_.params["b1"] = np.array([1e-20, 1.0])
    np.testing.assert_array_equal(several.predict(X[:1]), several.predict_proba(X[:1]) > 0.5)


class Brier(nn.SoftmaxWithLoss):
    """A loss of one's own whose probabilities are not softmax's."""

    def output(self, y: Any) -> Any:
        p = np.square(y) + 1e-3
        return p / p.sum(axis=1, keepdims=True)


def test_a_loss_that_does_not_fit_the_targets_is_refused() -> None:
    several = np.eye(3, dtype=int)[np.arange(60) % 3]
    with pytest.raises(ValueError, match="for one class a row, but y has rows of several labels"):
        NNClassifier(loss=nn.SoftmaxWithLoss()).fit(X, several)
    with pytest.raises(ValueError, match="for rows of several labels, but y has one class a row"):
        NNClassifier(loss=nn.SigmoidWithLoss()).fit(X, HALF)
    fitted = NNClassifier(loss=nn.SigmoidWithLoss(pos_weight=2.0), epochs=2).fit(X, several)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), fitted.predict_proba(X))


@pytest.mark.parametrize("quantile", [0.1, 0.9])
def test_a_quantile_of_the_targets_is_predicted(quantile: float) -> None:
    """Of a normal distribution whose mean and deviation depend on x; SciPy knows its quantiles."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 1))
    mean, deviation = 3 * x[:, 0], 1 + x[:, 0] ** 2
    y = rng.normal(mean, deviation)
    fitted = NNRegressor(loss="quantile", quantile=quantile, epochs=20, random_state=0).fit(x, y)
    assert np.mean(y < fitted.predict(x)) == pytest.approx(quantile, abs=0.03)
    error = fitted.predict(x) - norm.ppf(quantile, mean, deviation)
    assert np.mean(np.abs(error)) < 0.25
    with pytest.raises(ValueError, match="The 'quantile' parameter of NNRegressor must be a float in the range"):
        NNRegressor(loss="quantile", quantile=1.0).fit(x, y)


# --- settings that are read at another time than they were fitted ----------------------------------------------------


@pytest.mark.parametrize("more", [NNClassifier.fit, NNClassifier.partial_fit])
def test_loss_and_class_weights_are_those_of_the_fit_at_hand(more: Any) -> None:
    fitted = NNClassifier(warm_start=True, epochs=2, random_state=0).fit(X, HALF)
    more(fitted.set_params(class_weight={0: 5.0}, label_smoothing=0.3), X, HALF)
    assert fitted.network_.loss_layer.class_weight == [5.0, 1.0]
    assert fitted.network_.loss_layer.label_smoothing == 0.3
    more(fitted.set_params(class_weight=None, label_smoothing=0.0, loss=nn.SoftmaxWithLoss([1.0, 2.0])), X, HALF)
    assert fitted.network_.loss_layer.class_weight == [1.0, 2.0]
    values = NNRegressor(warm_start=True, epochs=1).fit(X, X[:, 0]).set_params(loss="huber").fit(X, X[:, 0])
    assert values.network_.loss_layer.kind == "Huber"


def test_balanced_weights_are_those_of_the_rows_at_hand() -> None:
    fitted = NNClassifier(warm_start=True, epochs=1, class_weight="balanced").fit(X, HALF)
    assert fitted.network_.loss_layer.class_weight == [1.0, 1.0]
    fitted.fit(X[:50], np.r_[np.zeros(40, int), np.ones(10, int)])
    assert fitted.network_.loss_layer.class_weight == [0.625, 2.5]  # 50 / (2 * 40), 50 / (2 * 10)
    y = np.arange(60) % 3
    absent = clone(fitted).fit(X, y, sample_weight=(y != 2) * 1.0)
    assert absent.classes_.tolist() == [0, 1, 2]
    assert absent.network_.loss_layer.class_weight == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("settings", [{"standardize": False}, {"hidden_layer_sizes": (5,)}, {"activation": "tanh"}])
def test_what_shapes_a_network_cannot_change_under_it(settings: dict[str, Any]) -> None:
    for kind, y in ((NNClassifier, HALF), (NNRegressor, X[:, 0])):
        fitted = kind(warm_start=True, epochs=1, random_state=0).fit(X, y)
        before = fitted.predict(X)
        fitted.set_params(**settings)
        np.testing.assert_array_equal(fitted.predict(X), before)
        for more in (fitted.fit, fitted.partial_fit):
            with pytest.raises(ValueError, match=f"{next(iter(settings))} was .* and is now"):
                more(X, y)
        assert fitted.set_params(warm_start=False).fit(X, y).n_iter_ == 1
    assert NNRegressor(hidden_layer_sizes=[5]).partial_fit(X, y).set_params(hidden_layer_sizes=5).partial_fit(X, y)
    refitted = NNRegressor(epochs=1, standardize=False).fit(X, y).set_params(standardize=True)
    assert np.isfinite(refitted.predict(X)).all()


# --- validation, callbacks, early stopping ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])
def test_a_validation_set_and_callbacks_of_the_user(kind: Any) -> None:
    y = HALF if kind is NNClassifier else X[:, 0]
    seen = []
    fitted = kind(epochs=4, random_state=0)
    fitted.fit(X[:40], y[:40], validation=(X[40:], y[40:]), callbacks=[lambda trainer: seen.append(trainer.epoch)])
    assert seen == [1, 2, 3, 4]
    assert len(fitted.validation_loss_curve_) == len(fitted.validation_scores_) == 4
    assert fitted.validation_scores_[-1] == pytest.approx(fitted.score(X[40:], y[40:]))
    assert fitted.best_validation_score_ is None
    plain = kind(epochs=4, random_state=0).fit(X[:40], y[:40])
    np.testing.assert_array_equal(fitted.predict(X), plain.predict(X))  # looking changes nothing
    assert plain.validation_loss_curve_ is plain.validation_scores_ is None
    weight = np.r_[np.ones(10), np.zeros(10)]
    weighted = clone(plain).fit(X[:40], y[:40], validation=(X[40:], y[40:], weight))
    assert weighted.validation_scores_[-1] == pytest.approx(weighted.score(X[40:50], y[40:50]))
    assert clone(plain).fit(X, y, callbacks=[lambda trainer: trainer.epoch == 2]).n_iter_ == 2
    for wrong in ((X,), X, (X[:, :2], y), (X, y[:3])):
        with pytest.raises(ValueError, match="validation: expected|features|inconsistent"):
            clone(plain).fit(X, y, validation=wrong)
    with pytest.raises(TypeError, match="callbacks"):
        clone(plain).fit(X, y, callbacks=["print"])


def test_early_stopping_looks_at_the_validation_set_of_the_user() -> None:
    y = np.r_[HALF[:-1], 2]  # a class of one row
    fitted = NNClassifier(early_stopping=True, epochs=30, n_iter_no_change=2, random_state=0)
    fitted.fit(X, y, validation=(X[:20], y[:20]))
    best = int(np.argmin(fitted.validation_loss_curve_))
    assert fitted.best_validation_score_ == fitted.validation_scores_[best]
    assert fitted.score(X[:20], y[:20]) == pytest.approx(fitted.best_validation_score_)


def test_early_stopping_names_its_own_parameters() -> None:
    for y, cause in ((np.r_[HALF[:-1], 2], "class 2 has only one row"), (np.arange(60) % 9, "6 rows cannot hold 9")):
        with pytest.raises(ValueError, match=f"early_stopping=True sets validation_fraction=0.1 .* aside, .*{cause}"):
            NNClassifier(early_stopping=True).fit(X, y)
    with pytest.raises(ValueError, match="validation_fraction=0.1 of 1 rows aside, which leaves none to train on"):
        NNRegressor(early_stopping=True).fit(X[:1], X[:1, 0])


def test_early_stopping_does_not_depend_on_the_most_epochs() -> None:
    """It knows no end of the training that a schedule could be fitted to, and does not stop in a rise."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 5))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    curves = [
        NNRegressor(early_stopping=True, max_iter=epochs, random_state=0).fit(x, y).validation_loss_curve_
        for epochs in (100, 1000)
    ]
    np.testing.assert_array_equal(curves[1][:100], curves[0])
    assert NNRegressor(early_stopping=True, max_iter=1000, random_state=0).fit(x[:200], y[:200]).score(x, y) > 0.9


class Interrupting(nn.SGD):
    """Gets Ctrl-C in the first step."""

    def step(self, *arguments: Any) -> None:
        super().step(*arguments)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])
def test_an_interrupt_in_the_first_epoch(kind: Any) -> None:
    fitted = kind(optimizer=Interrupting(), early_stopping=True, batch_size=10)
    with pytest.raises(KeyboardInterrupt, match="keeps its 0 full epochs"):
        fitted.fit(X, HALF)
    assert fitted.loss_curve_ == fitted.validation_scores_ == []
    assert fitted.predict(X).shape == (60,)


# --- batch normalization ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "batch_size"), [(65, 32), (33, 32), (7, 2), (7, 3), (101, 10), (65, "auto")])
def test_batch_normalization_never_sees_a_lone_row(rows: int, batch_size: Any) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 3))
    sizes = []

    class Watched(nn.BatchNormalization):
        def forward(self, x: Any, training: bool = False) -> Any:
            sizes.append(x.shape[0])
            return super().forward(x, training)

    fitted = NNRegressor(batch_normalization=True, batch_size=batch_size, epochs=1)
    size = fitted._batch_size(rows)
    assert rows % size != 1
    assert size >= min(rows, 32 if batch_size == "auto" else batch_size)
    fitted.fit(x, x[:, 0])
    for wrong in ({"batch_size": 1}, {}):
        with pytest.raises(ValueError, match="batch_normalization=True needs batches of 2 rows or more"):
            clone(fitted).set_params(**wrong).fit(x[: 1 if not wrong else rows], x[: 1 if not wrong else rows, 0])


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "theirs"), [(NNClassifier, MLPClassifier), (NNRegressor, MLPRegressor)])
def test_scikit_learns_names_are_answered_with_ours(kind: Any, theirs: Any) -> None:
    ours, names = kind().get_params(), theirs().get_params()
    unknown = {name for name in names if name not in ours and name != "loss"}
    assert unknown == set(ELSEWHERE)
    for name in sorted(unknown):
        with pytest.raises(TypeError, match=f"{kind.__name__} has no parameter '{name}': {ELSEWHERE[name][:5]}"):
            kind(**{name: names[name]})
        with pytest.raises(ValueError, match=f"has no parameter '{name}'"):
            GridSearchCV(kind(), {name: [names[name]]}).fit(X, HALF)
        assert name in kind.__doc__
    for name, answer in ACTIVATIONS_ELSEWHERE.items():
        with pytest.raises(ValueError, match=f"activation='{name}': use"):
            kind(activation=name).fit(X, HALF)
        assert f'activation="{name}"' in kind.__doc__
        assert answer.split("use ")[1].split(" for")[0].replace("'", '"') in kind.__doc__
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentun'"):
        kind(momentun=0.9)


# --- processes and pickles -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_a_thread_predicts_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits within a layer, not within a product: OpenBLAS itself hangs if a process forks during one."""
    fitted = NNClassifier(epochs=1, random_state=0).fit(X, HALF)
    expected = fitted.predict(X)
    within, leave, forward = threading.Event(), threading.Event(), ReLU.forward

    def waiting(layer: ReLU, x: Any, training: bool = False) -> Any:
        if threading.current_thread() is thread:
            within.set()
            assert leave.wait(60)
        return forward(layer, x, training)

    monkeypatch.setattr(ReLU, "forward", waiting)
    thread = threading.Thread(target=fitted.predict, args=(X,))
    thread.start()
    try:
        assert within.wait(60)
        child = os.fork()
        if child == 0:
            right = False
            try:
                right = np.array_equal(fitted.predict(X), expected)
            finally:
                os._exit(0 if right else 1)
        end = time.monotonic() + 60
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        assert ended[1] == 0
    finally:
        leave.set()
        thread.join()


def test_a_pickle_of_moments_with_squares_still_cuts_at_five() -> None:
    """As the version that wrote it did: its network was trained on cut features."""
    x = np.random.default_rng(0).normal(size=(100, 2))
    old = Moments.__new__(Moments)
    deviations = x - x.mean(axis=0)
    old.__setstate__({"weight": 100.0, "mean": x.mean(axis=0), "squares": (deviations**2).sum(axis=0), "eps": 2e-16})
    np.testing.assert_allclose(old.scaled(x), deviations / x.std(axis=0))
    assert old.scaled(x * 100).max() == 5.0
    assert pickle.loads(pickle.dumps(old)).clip == 5.0
