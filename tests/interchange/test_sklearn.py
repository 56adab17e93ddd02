"""Estimators converted by sklearn-onnx and run by onnxruntime; fitted MLPs of scikit-learn taken over."""

from __future__ import annotations

import pickle
import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import tolerance

import nnbackend as nn
from nnbackend.estimator import NNClassifier, NNRegressor

# --- ONNX -------------------------------------------------------------------------------------------------------


def converted(estimator: Any, x: np.ndarray, **settings: Any) -> list[Any]:
    """What onnxruntime makes of x with the converted estimator."""
    skl2onnx, onnxruntime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    from nnbackend.interchange.sklearn_onnx import register

    register()
    if isinstance(estimator, NNClassifier) or hasattr(estimator, "classes_"):
        settings["options"] = {id(estimator): {"zipmap": False}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        model = skl2onnx.to_onnx(estimator, x[:1], **settings)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def classes(n: int = 3, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = make_classification(120, 6, n_informative=5, n_redundant=0, n_classes=n, random_state=0)
    return x * 10 + 1e3, y  # an offset that a scaling in float32 would not survive


@pytest.mark.parametrize("labels", ["numbers", "negative", "words", "two"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "elu"])
def test_a_classifier_in_onnx(labels: str, dtype: str, activation: str) -> None:
    x, y = classes(2 if labels == "two" else 3)
    x = x.astype(dtype)
    y = {"negative": y * 7 - 9, "words": np.array(["a", "bc", "ö"])[y]}.get(labels, y)
    model = NNClassifier(8, activation, epochs=2, batch_normalization=True, dropout=0.1, random_state=0).fit(x, y)
    label, p = converted(model, x)
    assert label.tolist() == model.predict(x).tolist()
    assert p.dtype == dtype
    np.testing.assert_allclose(p, model.predict_proba(x), rtol=0, atol=tolerance(dtype, 50))


def test_an_older_set_of_operators_has_no_gelu() -> None:
    x, y = classes()
    x = x.astype("float32")
    model = NNClassifier(8, "gelu", epochs=2, random_state=0).fit(x, y)
    _, p = converted(model, x, target_opset=17)
    np.testing.assert_allclose(p, model.predict_proba(x), rtol=0, atol=tolerance("float32", 50))


@pytest.mark.parametrize("standardize", [False, True])
def test_several_labels_a_row(standardize: bool) -> None:
    x, y = make_multilabel_classification(80, 5, n_classes=3, random_state=0)
    model = NNClassifier(8, epochs=2, standardize=standardize, random_state=0).fit(x, y)
    label, p = converted(model, x)
    assert label.tolist() == model.predict(x).tolist()
    np.testing.assert_allclose(p, model.predict_proba(x), rtol=0, atol=tolerance("float64", 50))


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_regressor_in_a_pipeline(outputs: int, dtype: str) -> None:
    x, y = make_regression(90, 5, n_targets=outputs, random_state=0)
    x, y = (3 * x + 50).astype(dtype), y + 20
    model = make_pipeline(StandardScaler(), NNRegressor(8, epochs=2, random_state=0)).fit(x, y)
    (found,) = converted(model, x)
    expected = model.predict(x).reshape(len(x), outputs)
    size = float(np.max(np.abs(expected)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(dtype, 200) * size)


def test_whole_numbers_and_sparse_rows() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x = np.random.default_rng(0).poisson(0.3, (60, 5))
    y = np.arange(60) % 3
    model = NNClassifier(8, epochs=2, random_state=0).fit(sparse.csr_matrix(x.astype(float)), y)
    _, p = converted(model, x)
    np.testing.assert_allclose(p, model.predict_proba(x.astype(float)), rtol=0, atol=tolerance("float32", 50))


def test_a_scaling_of_older_pickles_is_clipped() -> None:
    x, y = classes()
    model = NNClassifier(8, epochs=1, random_state=0).fit(x, y)
    model._x_scaling = replace(model._x_scaling, clip=0.5)
    _, p = converted(model, x)
    np.testing.assert_allclose(p, model.predict_proba(x), rtol=0, atol=tolerance("float64", 50))


def test_without_skl2onnx_the_package_is_named(monkeypatch: Any) -> None:
    from nnbackend.interchange.sklearn_onnx import register

    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ImportError, match="pip install skl2onnx"):
        register()


# --- MLPs of scikit-learn ---------------------------------------------------------------------------------------


def fitted(mlp: Any, *data: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mlp.fit(*data)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_mlp_classifier_is_taken_over(activation: str, n: int, dtype: str) -> None:
    x, y = make_classification(90, 6, n_informative=5, n_redundant=0, n_classes=n, random_state=0)
    x, y = x.astype(dtype), np.array(["a", "b", "c"])[y]
    mlp = fitted(MLPClassifier((8, 5), activation, max_iter=5, random_state=0), x, y)
    model = NNClassifier.from_mlp(mlp)
    p = model.predict_proba(x)
    assert p.dtype == dtype
    np.testing.assert_allclose(p, mlp.predict_proba(x), rtol=0, atol=tolerance(dtype, 50))
    assert model.predict(x).tolist() == mlp.predict(x).tolist()
    assert model.classes_.tolist() == mlp.classes_.tolist()
    assert model.score(x, y) == mlp.score(x, y)
    assert (model.n_iter_, model.loss_curve_) == (mlp.n_iter_, mlp.loss_curve_)


@pytest.mark.parametrize("labels", [1, 3])
def test_an_mlp_of_several_labels(labels: int) -> None:
    x, y = make_multilabel_classification(80, 5, n_classes=labels, random_state=0)
    mlp = fitted(MLPClassifier((8,), max_iter=5, random_state=0), x, y if labels > 1 else np.column_stack([y, 1 - y]))
    model = NNClassifier.from_mlp(mlp)
    np.testing.assert_allclose(model.predict_proba(x), mlp.predict_proba(x), rtol=0, atol=tolerance("float64", 50))
    assert model.predict(x).tolist() == mlp.predict(x).tolist()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_mlp_regressor_is_taken_over(outputs: int, solver: str) -> None:
    x, y = make_regression(90, 5, n_targets=outputs, random_state=0)
    mlp = fitted(MLPRegressor(hidden_layer_sizes=(8,), solver=solver, max_iter=20, random_state=0), x, y)
    model = NNRegressor.from_mlp(mlp)
    expected = mlp.predict(x)
    atol = tolerance("float64", 50) * float(np.max(np.abs(expected)))
    np.testing.assert_allclose(model.predict(x), expected, rtol=0, atol=atol)
    assert model.predict(x).shape == expected.shape


def test_what_was_taken_over_is_a_whole_estimator() -> None:
    pandas = pytest.importorskip("pandas")
    x, y = make_classification(90, 6, random_state=0)
    frame = pandas.DataFrame(x, columns=list("abcdef"))
    model = NNClassifier.from_mlp(fitted(MLPClassifier((8,), max_iter=3, random_state=0), frame, y))
    assert model.feature_names_in_.tolist() == list("abcdef")
    before = model.predict_proba(frame)
    assert pickle.loads(pickle.dumps(model)).predict_proba(frame).tolist() == before.tolist()
    assert converted(model, x)[1] == pytest.approx(before)
    for _ in range(60):
        model.partial_fit(frame, y)
    assert model.score(frame, y) > 0.9
    assert model.set_params(warm_start=True, epochs=1).fit(frame, y).predict_proba(frame).tolist() != before.tolist()


def test_what_cannot_be_taken_over() -> None:
    x, y = make_regression(40, 3, random_state=0)
    with pytest.raises(TypeError, match="mlp: expected a fitted MLP of scikit-learn, got a LinearRegression"):
        NNRegressor.from_mlp(LinearRegression().fit(x, y))
    with pytest.raises(NotFittedError):
        NNRegressor.from_mlp(MLPRegressor())
    regressor = fitted(MLPRegressor(hidden_layer_sizes=(3,), max_iter=2), x, y)
    with pytest.raises(ValueError, match="NNClassifier takes over networks .* softmax or logistic, .* identity"):
        NNClassifier.from_mlp(regressor)
    classifier = fitted(MLPClassifier((3,), max_iter=2), x, y > 0)
    with pytest.raises(ValueError, match="NNRegressor takes over networks .* identity, .* logistic"):
        NNRegressor.from_mlp(classifier)
    assert NNClassifier.from_mlp(classifier).predict(x).dtype == bool
    assert nn.backend().name == "numpy"
