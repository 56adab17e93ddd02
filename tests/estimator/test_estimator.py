"""The scikit-learn face: scikit-learn's own checks, and what they do not ask."""

from __future__ import annotations

import ast
import copy
import doctest
import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import name_of, why_not

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")

from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
    make_multilabel_classification,
    make_regression,
)
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

try:
    from sklearn.utils.estimator_checks import check_param_validation, estimator_checks_generator
except RuntimeError as error:  # of scikit-learn 1.6 beside a newer SciPy
    pytest.skip(f"this scikit-learn has its checks only with SCIPY_ARRAY_API=1: {error}", allow_module_level=True)

from nnbackend.estimator import NNClassifier, NNRegressor, base, classifier, regressor, scaling

ESTIMATORS = (NNClassifier, NNRegressor)
X_IRIS, Y_IRIS = load_iris(return_X_y=True)
CHECKS = [
    pytest.param(instance, check, id=f"{instance}-{check.func.__name__}")
    for instance in (NNClassifier(), NNRegressor())
    for instance, check in estimator_checks_generator(instance)
    if "array_api" not in check.func.__name__  # they have a test of their own
]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_precision_is_that_of_the_data(kind: type) -> None:
    for x, asked, dtype in [
        (X_IRIS, None, "float64"),
        (X_IRIS.astype("float32"), None, "float32"),
        (np.round(X_IRIS).astype(int), None, "float64"),
        (X_IRIS, "float32", "float32"),
    ]:
        assert kind(epochs=1, dtype=asked).fit(x, Y_IRIS).network_.dtype == dtype


def regression(rows: int = 200, targets: int = 1) -> tuple[np.ndarray, np.ndarray]:
    x, y = make_regression(rows, 6, n_targets=targets, noise=5.0, random_state=0)
    return x, y


# --- scikit-learn's checks -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")  # the checks provoke warnings, and look at them themselves
@pytest.mark.parametrize(("instance", "check"), CHECKS)
def test_scikit_learn_checks(instance: Any, check: Any) -> None:
    check(instance)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_parameters_are_validated_as_scikit_learn_does(kind: Any) -> None:
    check_param_validation(kind.__name__, kind(epochs=None))


ARRAY_API_CHECKS = """
import functools, sys, warnings
from sklearn.utils._testing import SkipTest
from sklearn.utils.estimator_checks import estimator_checks_generator
from nnbackend.estimator import NNClassifier, NNRegressor
warnings.simplefilter("ignore")
try:  # scikit-learn 1.6 sets it back to the standard of 2023, in which maximum takes no scalars
    import array_api_strict
    array_api_strict.set_array_api_strict_flags = lambda **flags: None
except ImportError:
    pass
for kind in (NNClassifier, NNRegressor):
    for instance, check in estimator_checks_generator(kind(max_iter=5, random_state=0)):
        if "array_api" in check.func.__name__:
            values = [{}]
            if check.func.__name__ == "check_array_api_input":  # and that the numbers are NumPy's
                values.append({"check_values": True, "dtype_name": "float64"})
            for more in values:
                settings = {**check.keywords, **more}
                try:
                    functools.partial(check.func, kind.__name__, **settings)(instance)
                except SkipTest as skipped:
                    print("skipped", kind.__name__, settings, skipped)
                else:
                    print("passed", kind.__name__, settings)
"""


def test_scikit_learn_checks_of_the_array_api() -> None:
    """In a process of its own: SCIPY_ARRAY_API is read when SciPy is imported."""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    command = [sys.executable, "-c", ARRAY_API_CHECKS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    passed = [line for line in done.stdout.splitlines() if line.startswith("passed")]
    for kind in ESTIMATORS:
        for family in ("array_api_strict", "torch"):
            if why_not(family) is None:
                assert sum(kind.__name__ in line and repr(family) in line for line in passed) >= 2, done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("skipped")]
    assert all(re.search("cupy|dpnp|cuda|xpu|mps|not installed", line, re.IGNORECASE) for line in skipped), skipped


# --- what comes in, and what goes out --------------------------------------------------------------------------------


def test_arrays_are_trained_where_they_live(on: Namespace) -> None:
    """Without scikit-learn's dispatch. One seed gives the same run on every backend."""
    x, y = on.array(X_IRIS), on.array(Y_IRIS)
    with nn.using("numpy"):
        expected = NNClassifier(epochs=3, dtype="float64", random_state=0).fit(X_IRIS, Y_IRIS)
        fitted = clone(expected).fit(x, y)
        assert fitted.network_.backend.owns(x)
        for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
            answer = getattr(fitted, method)(x)
            assert on.backend.owns(answer)
            np.testing.assert_allclose(nn.to_numpy(answer), getattr(expected, method)(X_IRIS), rtol=1e-7, atol=1e-9)
        assert fitted.score(x, y) == expected.score(X_IRIS, Y_IRIS)
        assert fitted.partial_fit(x, y).n_iter_ == 4

        expected = NNRegressor(epochs=3, random_state=0, early_stopping=True).fit(X_IRIS, X_IRIS[:, :2])
        fitted = clone(expected).fit(x, on.array(X_IRIS[:, :2]), sample_weight=on.array(np.ones(150)))
        assert on.backend.owns(fitted.predict(x))
        np.testing.assert_allclose(nn.to_numpy(fitted.predict(x)), expected.predict(X_IRIS), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(fitted.validation_scores_, expected.validation_scores_)
        assert nn.backend().name == "numpy"


def test_host_data_on_a_backend_comes_back_to_the_host(on: Namespace) -> None:
    x, y = regression()
    with nn.using("numpy"):
        expected = NNRegressor(epochs=2, random_state=0).fit(x, y).predict(x)
        fitted = [clone(NNRegressor(epochs=2, random_state=0, backend=b)) for b in (on.backend, on.backend.name)]
        fitted = [each.fit(x, y) for each in fitted]
    fitted.append(NNRegressor(epochs=2, random_state=0).fit(x, y))  # on the current backend
    for each in fitted:
        assert each.network_.backend == on.backend
        answer = each.predict(x)
        assert type(answer) is np.ndarray
        np.testing.assert_allclose(answer, expected, rtol=1e-7, atol=1e-7)


def test_the_environment_variable_decides() -> None:
    pytest.importorskip("array_api_strict")
    code = (
        "from sklearn.datasets import load_iris; from nnbackend.estimator import NNClassifier\n"
        "fitted = NNClassifier(epochs=1).fit(*load_iris(return_X_y=True))\n"
        "print(fitted.network_.backend.name, type(fitted.predict_proba([[1, 2, 3, 4]])).__name__)"
    )
    environment = {**os.environ, "NNBACKEND": "array_api_strict:device1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "array_api_strict:device1 ndarray\n"


def test_arrays_of_another_kind_are_refused() -> None:
    pytest.importorskip("array_api_strict")
    with nn.using("array_api_strict:device1") as backend:
        x = backend.asarray(X_IRIS)
    on_device = NNClassifier(epochs=1).fit(x, Y_IRIS)
    on_host = NNClassifier(epochs=1, warm_start=True).fit(X_IRIS, Y_IRIS)
    message = (
        r"NNClassifier.predict_proba\(\) must use the same namespace .* on 'array_api_strict:device1', but X is a nu"
    )
    with pytest.raises(ValueError, match=message):
        on_device.predict_proba(X_IRIS)
    with pytest.raises(ValueError, match=r"NNClassifier.fit\(\) must use the same namespace"):
        on_host.fit(x, Y_IRIS)
    with pytest.raises(ValueError, match="Expected 2D array"):
        on_device.predict(x[0, :])
    with pytest.raises(ValueError, match="X has 2 features, but NNClassifier is expecting 4"):
        on_device.predict(x[:, :2])
    with pytest.raises(ValueError, match="minimum of 1"):
        on_device.predict(x[:0, :])
    with pytest.raises(ValueError, match="NaN or infinity"):
        on_device.predict(backend.asarray(np.where(X_IRIS > 7, np.inf, X_IRIS)))
    with pytest.raises(ValueError, match="Complex"):
        NNClassifier().fit(backend.xp.astype(x, backend.xp.complex128), Y_IRIS)
    integers = backend.xp.astype(x, backend.xp.int64)
    assert NNClassifier(epochs=1).fit(integers, Y_IRIS).predict(integers).shape == (150,)


def test_arrays_know_their_home(on: Namespace) -> None:
    assert name_of(on.array([1.0])) == on.backend.name
    assert name_of([1.0]) == name_of(sparse.csr_array(np.eye(2))) == name_of("numpy") == ""
    for copied in (pickle.loads(pickle.dumps(on.backend)), copy.deepcopy(on.backend)):
        assert copied == on.backend


def test_an_estimator_moves_between_devices() -> None:
    array_api = pytest.importorskip("sklearn.utils._array_api")
    if not hasattr(array_api, "move_estimator_to"):
        pytest.skip("this scikit-learn moves no estimators")
    strict = pytest.importorskip("array_api_strict")
    fitted = NNClassifier(epochs=1).fit(X_IRIS, Y_IRIS)
    moved = array_api.move_estimator_to(fitted, strict, strict.Device("device1"))
    x = strict.asarray(X_IRIS, device=strict.Device("device1"))
    np.testing.assert_allclose(nn.to_numpy(moved.predict_proba(x)), fitted.predict_proba(X_IRIS), rtol=1e-5)
    assert fitted.network_.backend.name == "numpy"


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(library: str) -> None:
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    names = ["a", "b", "c", "d"]
    x = frames.DataFrame({name: X_IRIS[:, i] for i, name in enumerate(names)})
    y = frames.Series(np.array(["setosa", "versicolor", "virginica"])[Y_IRIS])
    fitted = NNClassifier(epochs=2, random_state=0).fit(x, y)
    if hasattr(StandardScaler().fit(x), "feature_names_in_"):  # scikit-learn 1.6 does not read those of polars 2
        assert fitted.feature_names_in_.tolist() == names
        with pytest.raises(ValueError, match="feature names"):
            fitted.predict(x[["b", "a", "c", "d"]])
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    expected = NNClassifier(epochs=2, random_state=0).fit(X_IRIS, Y_IRIS)
    np.testing.assert_array_equal(fitted.predict_proba(x), expected.predict_proba(X_IRIS))
    assert set(fitted.predict(x)) <= set(y)


def test_sparse_data_and_lists() -> None:
    x, y = load_digits(return_X_y=True)
    expected = NNClassifier(epochs=1, random_state=0).fit(x, y)
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        np.testing.assert_array_equal(expected.predict_proba(kind(x)), expected.predict_proba(x))
    np.testing.assert_array_equal(expected.predict_proba(x.tolist()), expected.predict_proba(x))
    np.testing.assert_array_equal(expected.predict_proba(x.astype(np.uint8)), expected.predict_proba(x))


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = regression()
    whole = NNRegressor(epochs=2, random_state=0).fit(x, y, sample_weight=1 + np.arange(200) % 3)
    monkeypatch.setattr(scaling, "ROWS", 7)
    pieces = clone(whole).fit(x, y, sample_weight=1 + np.arange(200) % 3)
    np.testing.assert_allclose(pieces.predict(x), whole.predict(x), rtol=1e-9)


# --- what is learnt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "least"), [(load_digits, 0.93), (load_wine, 0.96), (load_breast_cancer, 0.96), (load_diabetes, 0.42)]
)
def test_the_defaults_train_well(load: Any, least: float) -> None:
    """What MLPClassifier and MLPRegressor reach behind a StandardScaler, but for a point of chance."""
    kind = NNRegressor if load is load_diabetes else NNClassifier
    assert cross_val_score(kind(random_state=0), *load(return_X_y=True), cv=3).mean() > least


def test_units_of_the_data_do_not_matter() -> None:
    x, y = regression()
    plain = NNRegressor(epochs=5, random_state=0).fit(x, y)
    units = NNRegressor(epochs=5, random_state=0).fit(
        x * [1e-6, 1, 1e3, 1e9, 1, 1] + [0, 1e6, 0, 0, 0, 1], y * 1e8 + 1e9
    )
    moved = x * [1e-6, 1, 1e3, 1e9, 1, 1] + [0, 1e6, 0, 0, 0, 1]
    np.testing.assert_allclose(units.predict(moved), plain.predict(x) * 1e8 + 1e9, rtol=1e-6)
    constant = np.column_stack([x, np.full(200, 0.1)])
    assert NNRegressor().fit(constant, np.full(200, 0.3)).predict(constant) == pytest.approx(0.3, abs=0.1)
    raw = NNRegressor(epochs=2, standardize=False, random_state=0).fit(x, y)
    np.testing.assert_allclose(raw.predict(x), raw.network_.predict(x)[:, 0])
    with pytest.warns(UserWarning, match=r"float32 tells targets .* dtype='float64'"):
        NNRegressor(epochs=1, dtype="float32").fit(x, 1e7 + y / y.std())


def test_several_labels_a_row() -> None:
    x, y = make_multilabel_classification(300, random_state=0)
    fitted = NNClassifier(random_state=0, early_stopping=True, label_smoothing=0.02).fit(x[:200], y[:200])
    proba = fitted.predict_proba(x)
    assert proba.shape == y.shape
    np.testing.assert_array_equal(fitted.predict(x), proba > 0.5)
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(x)), proba, rtol=1e-5)
    assert fitted.classes_.tolist() == [0, 1, 2, 3, 4]
    assert fitted.score(x[200:], y[200:]) > 0.25  # all five right
    sparse_y = NNClassifier(epochs=1, random_state=0).fit(x, sparse.csr_matrix(y))
    np.testing.assert_array_equal(sparse_y.predict(x), NNClassifier(epochs=1, random_state=0).fit(x, y).predict(x))
    weighted = NNClassifier(epochs=2, loss=nn.SigmoidWithLoss(pos_weight=50.0)).fit(x, y)
    assert weighted.predict(x).mean() > 0.9
    grown = NNClassifier().partial_fit(x, y).partial_fit(x, y)
    with pytest.raises(ValueError, match="y has 4 columns, but 5"):
        grown.partial_fit(x, y[:, 1:])
    with pytest.raises(ValueError, match="y is binary, unlike the y"):
        grown.partial_fit(x, y[:, 0])
    with pytest.raises(ValueError, match="rows of several labels must hold 0 and 1"):
        NNClassifier().fit(x, y + 1)
    with pytest.raises(ValueError, match="one label a row"):
        NNClassifier().fit(x, y + y[::-1])
    with pytest.raises(ValueError, match="class_weight is for one label a row"):
        NNClassifier(class_weight="balanced").fit(x, y)


def test_several_targets() -> None:
    x, y = regression(300, targets=3)
    fitted = NNRegressor(random_state=0).fit(x, y * [1, 1e-3, 1e3])
    assert fitted.predict(x).shape == (300, 3)
    assert fitted.score(x, y * [1, 1e-3, 1e3]) > 0.95
    with pytest.raises(ValueError, match="y has 2 columns, but 3"):
        fitted.partial_fit(x, y[:, 1:])


def test_losses_of_the_regressor() -> None:
    x, y = regression()
    y[:10] += 1e4  # outliers
    squares, distances = (
        NNRegressor(loss=loss, random_state=0).fit(x, y) for loss in ("squared_error", "absolute_error")
    )
    assert distances.score(x[10:], y[10:]) > 0.8 > 0.0 > squares.score(x[10:], y[10:])
    assert NNRegressor(loss="huber", epochs=1).fit(x, y).network_.loss_layer.delta == 1.0
    assert NNRegressor(loss=nn.Huber(delta=0.5), epochs=1).fit(x, y).network_.loss_layer.delta == 0.5


def test_weights() -> None:
    x, y = regression()
    keep = np.arange(200) % 4 > 0
    alone = NNRegressor(epochs=3, random_state=0).fit(x[keep], y[keep])
    zeros = NNRegressor(epochs=3, random_state=0).fit(x, y, sample_weight=keep.astype(float))
    np.testing.assert_allclose(zeros.predict(x), alone.predict(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"[Nn]egative values"):
        NNRegressor().fit(x, y, sample_weight=-np.ones(200))
    rare = np.r_[np.flatnonzero(Y_IRIS == 1)[:5], np.flatnonzero(Y_IRIS == 2)]
    plain = NNClassifier(random_state=0, epochs=5).fit(X_IRIS[rare], Y_IRIS[rare])
    balanced = NNClassifier(random_state=0, epochs=5, class_weight="balanced").fit(X_IRIS[rare], Y_IRIS[rare])
    middle = Y_IRIS == 1
    assert balanced.predict_proba(X_IRIS[middle])[:, 0].mean() > plain.predict_proba(X_IRIS[middle])[:, 0].mean() + 0.1


def test_label_smoothing_makes_modest() -> None:
    sure = NNClassifier(random_state=0).fit(X_IRIS, Y_IRIS).predict_proba(X_IRIS)
    modest = NNClassifier(random_state=0, label_smoothing=0.3).fit(X_IRIS, Y_IRIS).predict_proba(X_IRIS)
    assert modest.max() < 0.95 < sure.max()


# --- training --------------------------------------------------------------------------------------------------------


def test_what_a_fit_records() -> None:
    fitted = NNClassifier(hidden_layer_sizes=(5, 3), activation=["tanh", "relu"], epochs=7).fit(X_IRIS, Y_IRIS)
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 7
    assert fitted.best_loss_ == min(fitted.loss_curve_)
    assert fitted.validation_scores_ is fitted.best_validation_score_ is None
    assert [layer.kind for layer in fitted.network_.layers.values()] == ["Affine", "Tanh", "Affine", "ReLU", "Affine"]
    rich = NNClassifier(hidden_layer_sizes=4, dropout=0.5, batch_normalization=True, max_iter=1).fit(X_IRIS, Y_IRIS)
    kinds = [layer.kind for layer in rich.network_.layers.values()]
    assert kinds == ["Affine", "BatchNormalization", "ReLU", "Dropout", "Affine"]
    assert rich.n_iter_ == 1
    linear = NNClassifier(hidden_layer_sizes=(), epochs=1).fit(X_IRIS, Y_IRIS)
    assert list(linear.network_.params) == ["W1", "b1"]


def test_early_stopping() -> None:
    x, y = load_digits(return_X_y=True)
    fitted = NNClassifier(early_stopping=True, n_iter_no_change=2, tol=0.05, epochs=50, random_state=0).fit(x, y)
    assert 3 < fitted.n_iter_ < 50
    assert len(fitted.validation_scores_) == fitted.n_iter_
    assert fitted.best_validation_score_ == fitted.validation_scores_[-3]
    assert fitted.best_loss_ is None
    x, y = regression()
    fitted = NNRegressor(early_stopping=True, random_state=0, validation_fraction=0.5).fit(x, y)
    held_out = train_test_split(np.arange(200), test_size=0.5, random_state=_seed(0))[1]
    assert fitted.best_validation_score_ == pytest.approx(fitted.score(x[held_out], y[held_out]), rel=1e-6)


def _seed(random_state: int) -> int:
    return int(np.random.RandomState(random_state).randint(2**31 - 1))


def test_partial_fit() -> None:
    x, y = load_digits(return_X_y=True)
    fitted = NNClassifier(random_state=0)
    with pytest.raises(ValueError, match="classes must be passed"):
        fitted.partial_fit(x, y)
    parts = np.array_split(np.arange(len(x)), 6)
    for part in 2 * parts:
        fitted.partial_fit(x[part], y[part], classes=range(10))
    assert fitted.n_iter_ == len(fitted.loss_curve_) == 12
    assert fitted.score(x, y) > 0.93
    moments = fitted._x_scaling  # of every row twice
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(moments.deviation, x.std(axis=0), atol=1e-12)
    with pytest.raises(ValueError, match="previously unseen labels"):
        fitted.partial_fit(x, y + 1)
    with pytest.raises(ValueError, match="early_stopping"):
        NNClassifier(early_stopping=True).partial_fit(x, y, classes=range(10))
    with pytest.raises(ValueError, match="balance"):
        NNClassifier(class_weight="balanced").partial_fit(x, y, classes=range(10))
    one_by_one = NNRegressor(random_state=0)
    for row in range(20):
        one_by_one.partial_fit(x[row : row + 1], y[row : row + 1])
    assert np.isfinite(one_by_one.predict(x)).all()


def test_warm_start_goes_on() -> None:
    cold = NNClassifier(random_state=0, epochs=3).fit(X_IRIS, Y_IRIS)
    warm = NNClassifier(random_state=0, epochs=3, warm_start=True).fit(X_IRIS, Y_IRIS)
    first, network = warm.loss_curve_, warm.network_
    warm.fit(X_IRIS, Y_IRIS)
    assert warm.network_ is network
    assert warm.loss_curve_[0] < first[0]
    assert warm.n_iter_ == 3
    assert cold.fit(X_IRIS, Y_IRIS).loss_curve_ == first
    with pytest.raises(ValueError, match="previously unseen labels"):
        warm.fit(X_IRIS, Y_IRIS + 1)


def test_settings_of_the_optimizer() -> None:
    x, y = regression()

    def optimizer(**settings: Any) -> nn.Optimizer:
        made = NNRegressor(**settings)
        made.n_features_in_, made._rows = 6, 200
        return made._optimizer(100)

    assert optimizer(optimizer="sgd", lr=0.1) == nn.SGD(lr=0.1)
    assert optimizer(optimizer=nn.Momentum(lr=0.3, momentum=0.5)) == nn.Momentum(lr=0.3, momentum=0.5)
    assert optimizer(optimizer=nn.Adam(beta1=0.5), lr=0.1, weight_decay=0.2) == nn.Adam(0.1, 0.5, weight_decay=0.2)
    assert optimizer() == nn.AdamW(nn.OneCycle(0.02, 100), weight_decay=0.3)  # 10 * 6 features / 200 rows
    assert optimizer(optimizer="adam", lr=nn.Cosine(0.1, 5)) == nn.Adam(nn.Cosine(0.1, 5))
    for name in base.PEAK_LEARNING_RATES:
        fitted = NNRegressor(optimizer=name, random_state=0, epochs=60).fit(x, y)
        assert fitted.score(x, y) > 0.5, name
        assert clone(fitted).set_params(epochs=None).partial_fit(x, y).partial_fit(x, y).n_iter_ == 2
    switched = NNRegressor().partial_fit(x, y).set_params(optimizer="sgd").partial_fit(x, y)  # no moments to keep
    assert switched.n_iter_ == 2


def test_bad_settings() -> None:
    x, y = regression()
    for settings, message in (
        ({"epochs": 3, "max_iter": 4}, "epochs=3 and max_iter=4 mean the same: pass only one of them"),
        ({"epochs": 0}, "The 'epochs' parameter of NNRegressor must be an int in the range"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be positive integers"),
        ({"hidden_layer_sizes": (3.5,)}, "hidden_layer_sizes must be positive integers"),
        ({"activation": "rely"}, "The 'activation' parameter of NNRegressor must be a str among"),
        ({"activation": ["relu", "relu"]}, "activation has 2 names for 1 hidden layers"),
        ({"activation": ["rely"]}, "Did you mean 'relu'"),
        ({"dtype": "float16"}, "The 'dtype' parameter"),
        ({"loss": "hubert"}, "The 'loss' parameter of NNRegressor must be"),
    ):
        with pytest.raises(ValueError, match=message):
            NNRegressor(**settings).fit(x, y)
    with pytest.raises(nn.BackendError, match="unknown backend 'nunpy'"):
        NNRegressor(backend="nunpy").fit(x, y)
    for settings in ({"loss": nn.MeanSquaredError()}, {"loss": nn.SoftmaxWithLoss(), "label_smoothing": 0.1}):
        with pytest.raises(ValueError, match="must be a loss of classes"):
            NNClassifier(**settings).fit(X_IRIS, Y_IRIS)
    own = NNClassifier(loss=nn.SoftmaxWithLoss(label_smoothing=0.1), epochs=1).fit(X_IRIS, Y_IRIS)
    assert own.network_.loss_layer.label_smoothing == 0.1


def test_an_interrupted_fit_raises_and_the_estimator_predicts() -> None:
    def interrupt(trainer: nn.Trainer) -> None:
        if trainer.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    fitted = NNClassifier(epochs=9)
    with pytest.raises(KeyboardInterrupt, match="keeps its 2 full epochs"):
        fitted.fit(X_IRIS, Y_IRIS, callbacks=[interrupt])
    assert fitted.n_iter_ == 2
    assert fitted.predict(X_IRIS).shape == (150,)
    search = GridSearchCV(NNClassifier(epochs=3), {"lr": [0.01, 0.02]}, cv=2)  # catches errors, and must not this one
    fits = []

    def interrupt_the_first(trainer: nn.Trainer) -> None:
        fits.append(trainer)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        search.fit(X_IRIS, Y_IRIS, callbacks=[interrupt_the_first])
    assert len(fits) == 1


def test_verbose_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    NNClassifier(epochs=1).fit(X_IRIS, Y_IRIS)
    assert capsys.readouterr() == ("", "")
    NNClassifier(epochs=1, verbose=1).fit(X_IRIS, Y_IRIS)
    assert "epoch 1/1" in capsys.readouterr().err


# --- copies and pickles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_pickles_go_on_exactly(kind: Any, on: Namespace) -> None:
    x, y = on.array(X_IRIS), Y_IRIS.astype(np.int64 if kind is NNClassifier else np.float64)
    more = {"classes": [0, 1, 2]} if kind is NNClassifier else {}
    fitted = kind(random_state=0, dropout=0.2, batch_normalization=True).partial_fit(x, y, **more)
    for copied in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        assert copied.network_.backend == on.backend
        np.testing.assert_array_equal(nn.to_numpy(copied.predict(x)), nn.to_numpy(fitted.predict(x)))
        following = copy.deepcopy(fitted).partial_fit(x, y).predict(x)
        np.testing.assert_array_equal(nn.to_numpy(copied.partial_fit(x, y).predict(x)), nn.to_numpy(following))


def test_pickles_of_the_time_when_the_estimators_were_one_file() -> None:
    for fitted in (NNClassifier(epochs=1).fit(X_IRIS, Y_IRIS), NNRegressor(epochs=1).fit(*regression())):
        pickled = pickle.dumps(fitted, protocol=2)  # names its classes in lines of text
        for module, name, old in (
            (type(fitted).__module__, type(fitted).__name__, type(fitted).__name__),
            (scaling.__name__, "Moments", "_Moments"),
        ):
            line = f"{module}\n{name}\n".encode()
            assert line in pickled
            pickled = pickled.replace(line, f"nnbackend.estimator\n{old}\n".encode())
        again = pickle.loads(pickled)
        x = np.ones((2, fitted.n_features_in_))
        assert type(again) is type(fitted)
        np.testing.assert_array_equal(again.predict(x), fitted.predict(x))


def test_a_fit_leaves_nothing_of_the_optimizer_in_a_pickle() -> None:
    x, y = regression()
    small, large = NNRegressor(epochs=1).fit(x, y), NNRegressor().partial_fit(x, y)
    parameters = 8 * small.network_.buffer.data.size
    assert len(pickle.dumps(small)) < parameters + 6_000 < len(pickle.dumps(large)) - parameters


@pytest.mark.parametrize("family", ["array_api_strict:device1", "torch"])
def test_a_pickle_is_read_where_its_library_is_missing(family: str, tmp_path: Path) -> None:
    library = family.partition(":")[0]
    if why_not(family) is not None:
        pytest.skip(f"{family}: {why_not(family)}")
    with nn.using(family) as backend:
        x = backend.asarray(X_IRIS)
        fitted = NNClassifier(epochs=2, random_state=0).fit(x, Y_IRIS).partial_fit(x, Y_IRIS)
        (tmp_path / "pickle").write_bytes(pickle.dumps(fitted))
        np.save(tmp_path / "expected", nn.to_numpy(fitted.predict_proba(x)))
    code = (
        "from importlib.machinery import PathFinder; find = PathFinder.find_spec\n"
        "def missing(cls, name, *more):\n"
        f"    return None if name.split('.')[0] == {library!r} else find(name, *more)\n"
        "PathFinder.find_spec = classmethod(missing)\n"
        "import pathlib, pickle, warnings, numpy as np; from sklearn.datasets import load_iris\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    fitted = pickle.loads(pathlib.Path('pickle').read_bytes())\n"
        "print([str(warning.message) for warning in caught if 'pickled' in str(warning.message)])\n"
        "x, y = load_iris(return_X_y=True)\n"
        "np.testing.assert_allclose(fitted.predict_proba(x), np.load('expected.npy'), rtol=1e-5, atol=1e-7)\n"
        "print(fitted.partial_fit(x, y).n_iter_)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"pickled on '{family}', which fails here; it is on numpy" in done.stdout
    assert done.stdout.endswith("\n4\n")


# --- among scikit-learn's tools --------------------------------------------------------------------------------------


def test_search_in_a_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), NNClassifier(epochs=60, random_state=0))
    grid = {"nnclassifier__hidden_layer_sizes": [(), (20,)], "nnclassifier__optimizer": ["adamw", nn.Adam(lr=0.01)]}
    serial = GridSearchCV(pipeline, grid, cv=3).fit(X_IRIS, Y_IRIS)
    parallel = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(X_IRIS, Y_IRIS)
    np.testing.assert_array_equal(
        serial.cv_results_["mean_test_score"], parallel.cv_results_["mean_test_score"], strict=True
    )
    assert parallel.best_score_ > 0.9


def test_calibration_importance_and_dependence() -> None:
    x = np.column_stack([X_IRIS, np.random.default_rng(0).standard_normal(150)])
    calibrated = CalibratedClassifierCV(NNClassifier(epochs=20, random_state=0), cv=3).fit(x, Y_IRIS)
    assert calibrated.score(x, Y_IRIS) > 0.9
    fitted = NNClassifier(random_state=0).fit(x, Y_IRIS)
    importances = permutation_importance(fitted, x, Y_IRIS, n_repeats=3, random_state=0).importances_mean
    assert importances[2:4].min() > 0.05 > importances[4]
    x, y = regression()
    fitted = NNRegressor(random_state=0).fit(x, y)
    slope = np.ptp(partial_dependence(fitted, x, [0])["average"])
    assert slope > 10


def test_threads_may_share_an_estimator() -> None:
    from concurrent.futures import ThreadPoolExecutor

    x, y = load_digits(return_X_y=True)
    fitted = NNClassifier(epochs=2, random_state=0).fit(x, y)
    expected = fitted.predict_proba(x)
    parts = [slice(i, i + 50) for i in range(0, len(x), 50)]
    with ThreadPoolExecutor(4) as pool:
        for part, answer in zip(parts, pool.map(lambda part: fitted.predict_proba(x[part]), parts), strict=True):
            np.testing.assert_allclose(answer, expected[part], rtol=1e-4, atol=1e-6)


# --- the house -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_docstring_names_every_parameter_and_default(kind: Any) -> None:
    documented = dict(re.findall(r"^    (\w+) : .*default=(.*)$", kind.__doc__, re.MULTILINE))
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    assert {name: ast.literal_eval(text) for name, text in documented.items()} == defaults
    attributes = set(re.findall(r"^    (\w+_) : ", kind.__doc__, re.MULTILINE)) - {"feature_names_in_"}
    x, y = (X_IRIS, Y_IRIS) if kind is NNClassifier else regression()
    fitted = kind(epochs=1).fit(x, y)
    public = {name for name in dir(fitted) if name.endswith("_") and not name.startswith("_")}
    assert attributes == public


def test_the_examples_in_the_docstrings_hold() -> None:
    results = [doctest.testmod(module) for module in (classifier, regressor)]
    assert sum(result.attempted for result in results) > 5
    assert sum(result.failed for result in results) == 0


def test_without_scikit_learn_the_error_says_what_to_do() -> None:
    code = "import sys; sys.modules['sklearn'] = None\nimport nnbackend.estimator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs scikit-learn 1.6 or newer" in done.stderr
    assert "pip install" in done.stderr


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = Path(__file__).parents[2] / "examples" / "sklearn_estimator.py"
    spec = spec_from_file_location("example_sklearn_estimator", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--epochs", "1", "--folds", "2", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "300 units, 64 components" in said
    assert f"drawn: {tmp_path / 'sklearn_estimator.png'}" in said
    assert (tmp_path / "sklearn_estimator.png").stat().st_size > 10_000


def test_the_example_on_workers_of_dask(tmp_path: Path) -> None:
    if find_spec("distributed") is None:  # importing it would change how this process pickles exceptions
        pytest.skip("Dask is not installed: pip install distributed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = Path(__file__).parents[2] / "examples" / "sklearn_estimator.py"
    settings = ["--on", "dask", "--jobs", "2", "--epochs", "1", "--folds", "2", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(path), *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "300 units, 64 components" in done.stdout
