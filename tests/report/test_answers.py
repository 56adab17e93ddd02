"""What a page says about answers, against scikit-learn and by hand."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.report import answers as measure

RNG = np.random.default_rng(5)


def test_calibration_is_that_of_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.calibration").calibration_curve
    confidence = np.concatenate([RNG.uniform(0.2, 1.0, 500), np.arange(11) / 10])
    correct = RNG.uniform(size=511) < confidence**2
    bins, error = measure.calibration(confidence, correct)
    right, sure = reference(correct, confidence, n_bins=10)
    np.testing.assert_allclose([b["accuracy"] for b in bins], right)
    np.testing.assert_allclose([b["confidence"] for b in bins], sure)
    assert sum(b["rows"] for b in bins) == 511
    by_hand = sum(b["rows"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 511
    assert error == pytest.approx(by_hand)


def test_scores_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    t = RNG.standard_normal((60, 3))
    y = t + 0.3 * RNG.standard_normal((60, 3))
    error, explained = measure.scores(y, t)
    assert error == pytest.approx(metrics.mean_squared_error(t, y) ** 0.5)
    assert explained == pytest.approx(metrics.r2_score(t, y, multioutput="variance_weighted"))
    assert measure.scores(y, np.ones_like(t))[1] is None


def test_confusions_begin_with_the_most_frequent() -> None:
    counts = np.array([[9, 0, 4], [1, 9, 0], [0, 7, 9]])
    assert measure.confusions(counts) == [(2, 1, 7), (0, 2, 4), (1, 0, 1)]
    assert measure.confusions(counts, 1) == [(2, 1, 7)]


def test_some_rows_are_spread_evenly() -> None:
    assert measure.some(5) == [0, 1, 2, 3, 4]
    assert measure.some(10, 4) == [0, 2, 5, 7]


def test_the_answers_of_a_classifier(on: Namespace) -> None:
    x, t = RNG.standard_normal((30, 4)), RNG.integers(0, 3, 30)
    net = nn.Network([nn.Affine(4, 3)], seed=0)
    found = measure.answers(net, x, t)
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found.probabilities.argmax(axis=1), found.evaluation.predicted)
    two = measure.answers(nn.Network([nn.Affine(4, 1)], loss=nn.SigmoidWithLoss(), seed=0), x, t > 0)
    assert two.probabilities is not None
    assert two.probabilities.shape == (30, 2)
    np.testing.assert_array_equal(two.probabilities.argmax(axis=1), two.evaluation.predicted)


def test_the_answers_at_each_position_of_a_sequence(on: Namespace) -> None:
    """Those that the loss leaves out are left out; the others are in the order of rows and positions."""
    x, t = RNG.integers(0, 5, (8, 4)), RNG.integers(-1, 3, (8, 4))
    net = nn.Network([nn.Embedding(5, 4), nn.Affine(4, 3)], nn.SoftmaxWithLoss(ignore_label=-1), seed=0)
    found = measure.answers(net, x, t)
    p = to_numpy(net.predict_proba(x))
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, p[t >= 0])
    np.testing.assert_array_equal(found.evaluation.truth, t[t >= 0])
    np.testing.assert_array_equal(found.probabilities.argmax(axis=1), found.evaluation.predicted)


def test_the_answers_of_a_regression(on: Namespace) -> None:
    x, t = RNG.standard_normal((30, 4)), RNG.standard_normal(30)
    net = nn.Network([nn.Affine(4, 1)], loss=nn.MeanSquaredError(), seed=0)
    found = measure.answers(net, x, t)
    assert found.probabilities is None
    assert found.outputs is not None
    assert found.targets is not None
    np.testing.assert_allclose(found.targets[:, 0], t, rtol=1e-6)
    assert measure.scores(found.outputs, found.targets)[0] ** 2 == pytest.approx(found.evaluation.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("row", "given", "preparation", "shape"),
    [
        ((784,), None, {}, (28, 28)),
        ((784,), None, None, None),  # a table may have 784 columns
        ((4,), (2, 2), None, (2, 2)),
        ((12,), (2, 2, 3), None, (2, 2, 3)),
        ((8, 6), None, None, (8, 6)),
        ((8, 6, 1), None, None, (8, 6)),
        ((8, 6, 3), None, None, (8, 6, 3)),
        ((8, 6, 4), None, None, None),
    ],
)
def test_which_rows_are_images(row: Any, given: Any, preparation: Any, shape: Any) -> None:
    net = nn.Network([nn.Flatten(), nn.Affine(int(np.prod(row)), 2)])
    net.preparation = preparation
    assert measure.image_shape(net, np.zeros((3, *row)), given) == shape


@pytest.mark.parametrize("given", [(2, 3), (784,), (2, 2, 2, 98), (14, 28, 2)])
def test_shapes_that_do_not_fit(given: Any) -> None:
    with pytest.raises(ValueError, match=r"image_shape: expected \(h, w\) or \(h, w, 1 or 3\) of 784 numbers"):
        measure.image_shape(nn.TwoLayerNet(784, 2, 2), np.zeros((1, 784)), given)


def pixels(address: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_pictures_span_black_to_white() -> None:
    (first, second) = measure.pictures(np.array([[0.0, 1.0, 2.0, 4.0], [4.0, 0.0, 0.0, 0.0]]), (2, 2))
    np.testing.assert_array_equal(pixels(first), [[0, 64], [128, 255]])
    np.testing.assert_array_equal(pixels(second), [[255, 0], [0, 0]])


def test_filters_are_red_and_blue_on_one_scale() -> None:
    pytest.importorskip("PIL")
    net = nn.Network([nn.Affine(4, 3)], seed=0)
    net.params["W1"] = np.array([[1.0, 0.0, 0.5], [0.0, -2.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    found = measure.filters(net, (2, 2), count=2)
    assert found is not None
    layer, units, addresses = found
    assert (layer, units, len(addresses)) == ("Affine1", 3, 2)
    white, half, red, blue = [255, 255, 255], [255, 128, 128], [255, 0, 0], [0, 0, 255]
    np.testing.assert_array_equal(pixels(addresses[0]), [[half, white], [white, red]])
    np.testing.assert_array_equal(pixels(addresses[1]), [[white, blue], [white, white]])


def test_filters_of_convolutions() -> None:
    pytest.importorskip("PIL")
    for channels in (1, 3):
        net = nn.Network([nn.Convolution(channels, 5, 3), nn.Flatten(), nn.Affine(20, 2)], seed=0)
        found = measure.filters(net, None)
        assert found is not None
        assert len(found[2]) == 5
        assert pixels(found[2][0]).shape == (3, 3, 3)
    assert measure.filters(nn.Network([nn.Convolution(2, 5, 3)], loss=nn.MeanSquaredError()), None) is None
    assert measure.filters(nn.Network([nn.ReLU()], loss=nn.MeanSquaredError()), (2, 2)) is None


def test_the_weights_of_features() -> None:
    net = nn.Network([nn.Affine(2, 2)], seed=0)
    net.params["W1"] = np.array([[3.0, 4.0], [0.0, 1.0]])
    found = measure.feature_weights(net)
    assert found is not None
    np.testing.assert_allclose(found[1], [12.5**0.5, 0.5**0.5])
    assert measure.feature_weights(nn.Network([nn.Convolution(2, 5, 3)], loss=nn.MeanSquaredError())) is None
    assert measure.feature_weights(nn.Network([nn.ReLU()], loss=nn.MeanSquaredError())) is None
