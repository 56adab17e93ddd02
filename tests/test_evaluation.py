"""Evaluation against scikit-learn, and against what the network itself says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy

N = 90
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 5))
T = (X @ RNG.standard_normal((5, 4))).argmax(axis=1)


def make(loss: nn.Loss | None = None, columns: int = 4, epochs: int = 2) -> nn.Network:
    net = nn.Network([nn.Affine(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Affine(8, columns)], loss, seed=1)
    if loss is None:
        nn.Trainer(net, nn.Adam(lr=0.02), batch_size=10).fit(X, T, epochs)
    return net


@pytest.mark.parametrize("at_once", [8192, 7])
@pytest.mark.parametrize("one_hot", [False, True])
def test_against_scikit_learn(on: Namespace, monkeypatch: pytest.MonkeyPatch, at_once: int, one_hot: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    monkeypatch.setattr("nnbackend.evaluation.ROWS_AT_ONCE", at_once)
    net = make()
    found = nn.evaluate(net, X, np.eye(4)[T] if one_hot else T)
    predicted = to_numpy(net.predict(X)).argmax(axis=1)
    np.testing.assert_array_equal(found.predicted, predicted)
    np.testing.assert_array_equal(found.truth, T)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(T, predicted, labels=range(4)))
    assert found.confusion.dtype.kind == "i"
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        T, predicted, labels=range(4), zero_division=0
    )
    np.testing.assert_allclose(found.precision, precision, rtol=1e-14)
    np.testing.assert_allclose(found.recall, recall, rtol=1e-14)
    np.testing.assert_allclose(found.f1, f1, rtol=1e-14)
    np.testing.assert_array_equal(found.confusion.sum(axis=1), support)
    assert found.accuracy == pytest.approx(net.accuracy(X, T), rel=1e-6)
    assert found.loss == pytest.approx(net.loss(X, T), rel=1e-6)


def test_the_mistakes_come_worst_first(on: Namespace) -> None:
    net = make().to(on.backend, "float64")
    found = nn.evaluate(net, X, T)
    p = to_numpy(net.predict_proba(X)).astype(float)
    wrong = np.flatnonzero(p.argmax(axis=1) != T)
    expected = wrong[np.argsort(p[wrong, T[wrong]], kind="stable")]  # dead units make equal rows
    assert len(expected) > 5
    np.testing.assert_array_equal(found.most_wrong, expected)
    np.testing.assert_allclose(found.losses, -np.log(p[np.arange(N), T]), rtol=1e-12)


def test_classes_that_are_never_met_or_never_answered() -> None:
    net = make()
    net.params["b2"] = np.array([0.0, 1e4, 0.0, 0.0])  # everything is class 1
    found = nn.evaluate(net, X[T != 3], T[T != 3])
    share = float(np.mean(T[T != 3] == 1))
    assert found.precision == pytest.approx([0, share, 0, 0])
    assert found.recall == pytest.approx([0, 1, 0, 0])
    assert found.f1 == pytest.approx([0, 2 * share / (1 + share), 0, 0])


def test_class_weights_enter_the_loss(on: Namespace) -> None:
    net = nn.Network([nn.Affine(5, 4)], nn.SoftmaxWithLoss([1.0, 5.0, 0.5, 0.0], 0.1), seed=1, dtype="float64")
    assert nn.evaluate(net, X, T).loss == pytest.approx(net.loss(X, T), rel=1e-13)


def test_yes_or_no(on: Namespace) -> None:
    net, t = make(nn.SigmoidWithLoss(), columns=1), T == 0
    found = nn.evaluate(net, X, t)
    yes = to_numpy(net.predict(X))[:, 0] > 0
    np.testing.assert_array_equal(
        found.confusion, [[(~yes & ~t).sum(), (yes & ~t).sum()], [(~yes & t).sum(), (yes & t).sum()]]
    )
    assert found.accuracy == pytest.approx(net.accuracy(X, t), rel=1e-6)


def test_rows_without_one_class(on: Namespace) -> None:
    for loss, accuracy in ((nn.SigmoidWithLoss(), True), (nn.MeanSquaredError(), False)):
        net, t = make(loss), np.eye(4)[T]
        found = nn.evaluate(net, X, t)
        assert found.loss == pytest.approx(net.loss(X, t), rel=1e-6)
        assert found.accuracy == (pytest.approx(net.accuracy(X, t)) if accuracy else None)
        nothing = (found.confusion, found.precision, found.recall, found.f1, found.predicted, found.truth)
        assert nothing == (None,) * 6
        assert (np.diff(found.losses[found.most_wrong]) <= 0).all()
        assert len(found.most_wrong) == N
        assert str(found).startswith(f"loss {found.loss:.4f}")


def test_the_table() -> None:
    confusion = np.array([[3, 1], [0, 4]])
    found = nn.Evaluation(0.25, 0.875, np.zeros(8), np.zeros(8, int), np.zeros(8, int), confusion)
    assert (
        str(found)
        == """loss 0.2500, accuracy 87.50 % (7 of 8 rows)

class  precision  recall     f1    rows
    0      1.000   0.750  0.857       4
    1      0.800   1.000  0.889       4
 mean      0.900   0.875  0.873       8

rows: the truth; columns: what it was taken for
        0   1
    0   3   1
    1   .   4"""
    )
    many = nn.Evaluation(0.25, 1.0, np.zeros(50), np.arange(50), np.arange(50), np.eye(50, dtype=int))
    assert len(str(many).splitlines()) == 3 + 50 + 1


def test_reads_do_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = pytest.importorskip("array_api_strict")
    kind, count = type(strict.zeros(1)), 0

    def counted(original: Any) -> Any:
        def read(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            return original(self, *args, **kwargs)

        return read

    with nn.using("array_api_strict:device1"):
        net = make(epochs=1)
        for name in ("__bool__", "__float__", "__int__", "__index__", "__array__", "to_device"):
            monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
        reads = []
        for at_once in (8192, 2):
            monkeypatch.setattr("nnbackend.evaluation.ROWS_AT_ONCE", at_once)
            before = count
            nn.evaluate(net, X, T)
            reads.append(count - before)
    assert 0 < reads[0] == reads[1] < 12


def test_bad_data() -> None:
    with pytest.raises(ValueError, match="labels must lie in 0 to 3"):
        nn.evaluate(make(epochs=1), X, T + 1)
    with pytest.raises(TypeError, match="network: expected a Network, got Trainer"):
        nn.evaluate(nn.Trainer(make(epochs=1), nn.SGD()), X, T)  # type: ignore[arg-type]


def test_one_class_alone(on: Namespace) -> None:
    net = nn.Network([nn.Affine(3, 1)])
    found = nn.evaluate(net, np.ones((4, 3)), np.zeros(4, int))
    assert found.confusion is not None
    assert found.confusion.tolist() == [[4]]
    assert (found.accuracy, found.loss) == (1.0, 0.0)
    assert "4" in str(found)


def test_one_column_of_yes_or_no_has_two_classes(on: Namespace) -> None:
    net = nn.Network([nn.Affine(3, 1, weight=0.0)], nn.SigmoidWithLoss())
    found = nn.evaluate(net, np.ones((4, 3)), np.zeros(4, int))  # though one of them alone is there
    assert found.confusion is not None
    assert found.confusion.tolist() == [[4, 0], [0, 0]]
