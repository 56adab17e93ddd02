"""How the estimators scale data: nothing is lost, whatever the columns hold and wherever they live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install scikit-learn")

from scipy import sparse
from sklearn.linear_model import LinearRegression

from nnbackend.estimator import NNClassifier, NNRegressor, scaling
from nnbackend.estimator.scaling import column_moments, require_numbers, row_length


def columns(seed: int = 0, rows: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 4))


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-25, 1.0, 1e20])
def test_moments_in_any_unit(on: Namespace, unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, whose squares overflow at 1e20 and vanish at 1e-25. NumPy's in float64 are right."""
    monkeypatch.setattr(scaling, "ROWS", 150)
    x = (columns() * unit + [0, unit, 0, 0]).astype("float32")
    weight = np.random.default_rng(1).uniform(0.1, 1, 400)
    exact = x.astype("float64")
    for w, scale in ((None, 1.0), (weight, 1.0), (weight, 1e-60), (weight, 1e60)):
        found = column_moments(on.array(x), None if w is None else w * scale)
        mean = np.average(exact, axis=0, weights=w)
        deviation = np.sqrt(np.average((exact - mean) ** 2, axis=0, weights=w))
        np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-5 * unit)
        np.testing.assert_allclose(found.deviation, deviation, rtol=1e-5)
        np.testing.assert_array_equal(found.low, exact.min(axis=0))
        np.testing.assert_array_equal(found.high, exact.max(axis=0))
        z = np.asarray(nn.to_numpy(found.standardized(on.array(x))))
        np.testing.assert_allclose(z, (exact - mean) / deviation, atol=1e-4)


def test_host_data_whose_squares_overflow_float64() -> None:
    found = column_moments(columns() * 1e200, None)
    np.testing.assert_allclose(found.deviation, columns().std(axis=0) * 1e200, rtol=1e-12)


def test_scaled_features_reach_ten_at_most_and_stay_distinct() -> None:
    x = np.zeros((5000, 2))
    x[7, 0] = 3.0  # blank but once: 71 deviations from the mean
    x[:, 1] = np.exp(2 * np.random.default_rng(0).normal(size=5000))
    z = column_moments(x, None).scaled(x)
    assert z.max() == pytest.approx(10.0)
    for column in range(2):
        slope, _ = np.polyfit(x[:, column], z[:, column], 1)
        np.testing.assert_allclose(z[:, column], slope * (x[:, column] - x[:, column].mean()), atol=1e-12)
    plain = columns()
    np.testing.assert_allclose(column_moments(plain, None).scaled(plain).std(axis=0), 1.0)


def test_rows_of_sparse_data_get_a_length_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sparse.random(300, 40, density=0.1, format="csr", random_state=0)
    for unit in (1.0, 1e-170, 1e170):  # whose squares vanish, and overflow
        whole = row_length(x * unit, None)
        scaled = whole.scaled(x * unit)
        assert scaled.format == "csr"
        assert scaled.nnz == x.nnz
        assert np.mean(np.sum(scaled.toarray() ** 2, axis=1)) == pytest.approx(1.0)
        np.testing.assert_allclose(whole.scaled((x * unit).toarray()), scaled.toarray())
    monkeypatch.setattr(scaling, "ROWS", 70)
    assert row_length(x, None).length == pytest.approx(row_length(x.toarray(), np.ones(300)).length)
    assert row_length(sparse.csr_array((3, 4)), None).scaled(sparse.csr_array((3, 4))).nnz == 0


# --- what is learned of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["mostly zero", "lognormal"])
def test_a_column_is_learned_where_its_tail_is(tail: str) -> None:
    """A linear target, which LinearRegression answers exactly, far outside too."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random(1500) < 0.01, rng.uniform(1, 10, 1500), 0.0)
    x = np.exp(2 * rng.normal(size=1500)) if tail == "lognormal" else x
    x, y = np.c_[x, rng.normal(size=1500)], 3 * x
    for model in (NNRegressor(random_state=0), NNRegressor(hidden_layer_sizes=(), random_state=0)):
        assert model.fit(x[:1000], y[:1000]).score(x[1000:], y[1000:]) > 0.98
    far = np.array([[1e3, 0.0], [2e3, 0.0]])
    linear = LinearRegression().fit(x[:1000], y[:1000]).predict(far)
    np.testing.assert_allclose(model.predict(far), linear, rtol=0.2)  # weight decay makes it modest


def test_a_constant_target_is_answered_exactly() -> None:
    x = columns(rows=60)
    for value in (0.0, 1e-6, 5.0, -1e200, 0.3):
        fitted = NNRegressor(epochs=2, random_state=0).fit(x, np.full(60, value))
        np.testing.assert_array_equal(fitted.predict(x), np.full(60, value))
    fitted = NNRegressor(epochs=30, random_state=0).fit(x, np.c_[x[:, 0], np.full(60, 1e-8)])
    np.testing.assert_array_equal(fitted.predict(x)[:, 1], np.full(60, 1e-8))
    assert np.ptp(fitted.predict(x)[:, 0]) > 1
    grown = NNRegressor(random_state=0).partial_fit(x, np.ones(60)).partial_fit(x, 1 + x[:, 0])
    assert np.ptp(grown.predict(x)) > 0  # no longer constant


@pytest.mark.parametrize("unit", [1e-25, 1e20])
def test_units_on_a_device(on: Namespace, unit: float) -> None:
    x = columns().astype("float32")
    y = x @ np.array([1, 2, -1, 0.5], dtype="float32")
    fitted = NNRegressor((), random_state=0, epochs=10, lr=0.05).fit(on.array(x * np.float32(unit)), on.array(y))
    assert fitted.score(on.array(x * np.float32(unit)), on.array(y)) > 0.98


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e20, 1e300])
def test_the_unit_of_sample_weights_does_not_matter(scale: float) -> None:
    x = columns().astype("float32")
    weight = np.random.default_rng(1).uniform(0.5, 2, 400)
    plain = NNRegressor(epochs=3, random_state=0).fit(x, x[:, 0], sample_weight=weight)
    scaled = NNRegressor(epochs=3, random_state=0).fit(x, x[:, 0], sample_weight=weight * scale)
    np.testing.assert_allclose(scaled.predict(x), plain.predict(x), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="have a finite sum, got the sum inf"):
        NNRegressor().fit(x, x[:, 0], sample_weight=np.full(400, 1e308))


# --- sparse rows -----------------------------------------------------------------------------------------------------


def words(rows: int = 300, features: int = 60, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts of words, most of them 0, of rows of three kinds."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, rows)
    likely = rng.random((3, features)) ** 6
    return sparse.csr_matrix(rng.poisson(likely[y]).astype(np.float64)), y


def test_sparse_rows_are_the_dense_ones_without_centring() -> None:
    """Batch by batch, with sparse products: the same run as that of dense rows which are scaled by hand."""
    x, y = words()
    by_hand = x.toarray() / np.sqrt(np.mean(np.sum(x.toarray() ** 2, axis=1)))
    settings = {"epochs": 3, "random_state": 0, "lr": 0.01, "weight_decay": 0.1, "dropout": 0.2}
    expected = NNClassifier(standardize=False, **settings).fit(by_hand, y)
    for kind in (sparse.csr_matrix, sparse.csr_array, sparse.csc_array, sparse.coo_matrix):
        fitted = NNClassifier(**settings).fit(kind(x), y)
        for rows in (x, kind(x), x.toarray()):
            np.testing.assert_allclose(fitted.predict_proba(rows), expected.predict_proba(by_hand), rtol=1e-9)
    stopped = NNClassifier(early_stopping=True, batch_normalization=True, epochs=3, random_state=0).fit(x, y)
    assert len(stopped.validation_scores_) == stopped.n_iter_


def test_sparse_rows_on_every_backend(on: Namespace) -> None:
    x, y = words()
    expected = NNClassifier(epochs=2, random_state=0, backend="numpy").fit(x, y)
    fitted = NNClassifier(epochs=2, random_state=0, backend=on.backend).fit(x, y)
    np.testing.assert_allclose(fitted.predict_proba(x), expected.predict_proba(x), rtol=1e-6, atol=1e-9)


def test_dense_and_sparse_calls_may_alternate() -> None:
    x, y = words()
    for first, second in ((x, x.toarray()), (x.toarray(), x)):
        grown = NNClassifier(random_state=0).partial_fit(first, y, classes=range(3)).partial_fit(second, y)
        np.testing.assert_allclose(grown.predict_proba(x), grown.predict_proba(x.toarray()), rtol=1e-9)
        assert type(grown._x_scaling) is type(NNClassifier(epochs=1).fit(first, y)._x_scaling)


def test_sparse_rows_are_never_dense_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(
        (rng.random(20_000), rng.integers(0, 10**6, 20_000), np.arange(2001) * 10), shape=(2000, 10**6)
    )  # 16 GB if it were
    fitted = NNClassifier(hidden_layer_sizes=(1,), epochs=1, random_state=0).fit(x, rng.integers(0, 2, 2000))
    assert fitted.predict(x).shape == (2000,)


def test_the_affine_layer_takes_sparse_rows() -> None:
    x = sparse.csr_array(words()[0])
    layer = nn.Affine(60, 5)
    with nn.using("numpy"):
        layer.initialize(dtype="float64")
    dense, dy = x.toarray(), np.random.default_rng(0).normal(size=(300, 5))
    np.testing.assert_allclose(layer.forward(x), layer.forward(dense))
    gradients = []
    for rows in (x, dense):
        layer.forward(rows)
        layer.backward(dy, need_dx=False)
        gradients.append((layer.W.grad.copy(), layer.b.grad.copy()))
    for of_sparse, of_dense in zip(*gradients, strict=True):
        np.testing.assert_allclose(of_sparse, of_dense)
    with pytest.raises(nn.BackendError, match="argument x is a csr_array"):
        layer.forward(x.astype("float32"))


# --- numbers ---------------------------------------------------------------------------------------------------------

DAYS = np.array(["2020-01-01", "2020-01-02", "2020-01-04", "2020-01-08"], dtype="datetime64[D]")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (DAYS, "dtype datetime64"),
        (DAYS - DAYS[0], "dtype timedelta64"),
        (np.array(["1", "2", "3", "4"]), "dtype <U1"),
        (np.array([b"1", b"2", b"3", b"4"]), "dtype |S1"),
        (np.array([1, 2, "3", 4], dtype=object), "'3', a str"),
        (np.array([1, 2, DAYS[0].item(), 4], dtype=object), "datetime.date"),
    ],
)
def test_what_is_no_number_is_refused_as_target_and_weight(values: Any, what: str) -> None:
    x = columns(rows=4)
    with pytest.raises(ValueError, match=f"y must hold numbers, got {what.replace('|', '.')}"):
        NNRegressor().fit(x, values)
    with pytest.raises(ValueError, match=f"sample_weight must hold numbers, got {what.replace('|', '.')}"):
        NNRegressor().fit(x, x[:, 0], sample_weight=values)


def test_dates_are_no_features() -> None:
    with pytest.raises(ValueError, match="X must hold numbers, got dtype datetime64"):
        NNRegressor().fit(DAYS[:, None], np.arange(4.0))


def test_numbers_of_any_kind_are_taken() -> None:
    for values in ([1, 2.5], np.array([True, False]), np.array([1, 2.5, np.bool_(True)], dtype=object)):
        require_numbers("y", values)
    frames = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = frames.DataFrame({"a": [0.5, 1.5, 2.5, 3.5], "b": [True, False, True, False]})
    fitted = NNRegressor(epochs=1).fit(frame, frames.Series([1, 2, 3, 4], dtype="Int64"))
    assert fitted.predict(frame).shape == (4,)
