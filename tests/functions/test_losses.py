from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

import nnbackend as nn
from nnbackend import functions as F
from nnbackend.backends import to_numpy
from nnbackend.functions import (
    count_correct,
    count_correct_multilabel,
    mean_squared_error,
    mean_squared_error_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_rows,
    squared_error_rows,
)

LABELS = np.array([2, 0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_gradient(on: Namespace, one_hot: bool) -> None:
    x = np.random.default_rng(0).standard_normal((7, 3))
    t = on.array(np.eye(3)[LABELS] if one_hot else LABELS)
    y = softmax_cross_entropy(on.array(x), t)[1]
    check_projection(
        on, lambda z: softmax_cross_entropy(z, t)[0], lambda u: [u * softmax_cross_entropy_backward(y, t)], [x]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_cross_entropy_against_pytorch(on: Namespace, dtype: str, one_hot: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = (3 * np.random.default_rng(1).standard_normal((7, 3))).astype(dtype)
    xt = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(xt, torch.tensor(LABELS))
    expected.backward()
    t = on.array(np.eye(3)[LABELS] if one_hot else LABELS)
    loss, y = softmax_cross_entropy(on.array(x), t)
    assert loss.ndim == 0
    assert loss.dtype == y.dtype == on.backend.dtype(dtype)
    assert_close(loss, expected.detach().numpy(), dtype, terms=7)
    assert_close(y, torch.softmax(xt, -1).detach().numpy(), dtype)
    dx = softmax_cross_entropy_backward(y, t)
    assert dx.dtype == on.backend.dtype(dtype)
    assert_close(dx, xt.grad.numpy(), dtype, scale=1 / 7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropy_of_large_logits(on: Namespace, dtype: str) -> None:
    x = on.array([[1e4, -1e4], [1e4, -1e4]], dtype)
    loss, y = softmax_cross_entropy(x, on.array([0, 1]))
    assert float(loss) == pytest.approx(1e4)
    assert to_numpy(y).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes(on: Namespace) -> None:
    loss, _ = softmax_cross_entropy(on.array(np.zeros((4, 10))), on.array([1, 2, 3, 4]))
    assert float(loss) == pytest.approx(math.log(10))


def test_squared_error(on: Namespace) -> None:
    y, t = on.array([[1.0, 2.0], [3.0, 5.0]]), on.array([[1.0, 0.0], [4.0, 1.0]])
    assert float(mean_squared_error(y, t)) == pytest.approx((0 + 4 + 1 + 16) / 4)
    assert_close(mean_squared_error_backward(y, t), [[0.0, 1.0], [-0.5, 2.0]], "float64")
    x = np.random.default_rng(2).standard_normal((5, 4))
    other = on.array(np.zeros((5, 4)))
    check_projection(
        on,
        lambda z: mean_squared_error(z, other),
        lambda u: [u * mean_squared_error_backward(on.array(x), other)],
        [x],
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_squared_error_against_pytorch(on: Namespace, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(3)
    y, t = rng.standard_normal((6, 2)).astype(dtype), rng.standard_normal((6, 2)).astype(dtype)
    yt = torch.tensor(y, requires_grad=True)
    expected = torch.nn.functional.mse_loss(yt, torch.tensor(t))
    expected.backward()
    loss = mean_squared_error(on.array(y), on.array(t))
    assert loss.dtype == on.backend.dtype(dtype)
    assert_close(loss, expected.detach().numpy(), dtype, terms=12)
    assert_close(mean_squared_error_backward(on.array(y), on.array(t)), yt.grad.numpy(), dtype)


def test_rows_are_what_the_mean_is_of(on: Namespace) -> None:
    rng = np.random.default_rng(4)
    x, t = on.array(rng.standard_normal((7, 3))), on.array(LABELS)
    rows = softmax_cross_entropy_rows(x, t)
    p = to_numpy(softmax_cross_entropy(x, t)[1])
    assert_close(rows, -np.log(p[np.arange(7), LABELS]), "float64", terms=3)
    assert_close(softmax_cross_entropy_rows(x, on.array(np.eye(3)[LABELS])), to_numpy(rows), "float64", terms=3)
    y, target = rng.standard_normal((5, 2, 3)), rng.standard_normal((5, 2, 3))
    expected = ((y - target) ** 2).mean(axis=(1, 2))
    assert_close(squared_error_rows(on.array(y), on.array(target)), expected, "float64", terms=6)


def test_count_correct(on: Namespace) -> None:
    y = on.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]], "float32")
    assert int(count_correct(y, on.array([1, 1, 1]))) == 2
    assert int(count_correct(y, on.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))) == 2


# --- every loss, with all its settings, as the end of a network ------------------------------------------------------

N, CLASSES = 7, 3
RNG = np.random.default_rng(5)
Y = 3 * RNG.standard_normal((N, CLASSES))
ONE_HOT = np.eye(CLASSES)[LABELS]
PROBABILITIES = RNG.dirichlet(np.ones(CLASSES), N)
NUMBERS = Y + np.where(RNG.random((N, CLASSES)) < 0.5, -1, 1) * RNG.uniform(0.1, 3, (N, CLASSES))  # off every kink
CLASS_WEIGHT = [0.5, 2.0, 1.25]
WEIGHT = np.array([1.0, 0.0, 2.0, 0.25, 3.0, 1.0, 0.5])

SETTINGS: list[dict[str, Any]] = [
    {},
    {"class_weight": CLASS_WEIGHT},
    {"label_smoothing": 0.1},
    {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.3},
]
CASES: list[Any] = [
    *[
        pytest.param(lambda s=s: nn.SoftmaxWithLoss(**s), t, id=f"softmax-{name}-{'-'.join(s) or 'plain'}")
        for s in SETTINGS
        for name, t in (("labels", LABELS), ("one_hot", ONE_HOT), ("probabilities", PROBABILITIES))
    ],
    pytest.param(nn.SigmoidWithLoss, ONE_HOT, id="sigmoid"),
    pytest.param(nn.SigmoidWithLoss, PROBABILITIES, id="sigmoid-probabilities"),
    pytest.param(lambda: nn.SigmoidWithLoss(pos_weight=2.5), ONE_HOT, id="sigmoid-pos_weight"),
    pytest.param(lambda: nn.SigmoidWithLoss(pos_weight=CLASS_WEIGHT), PROBABILITIES, id="sigmoid-pos_weights"),
    pytest.param(nn.MeanSquaredError, NUMBERS, id="squared"),
    pytest.param(nn.MeanAbsoluteError, NUMBERS, id="absolute"),
    pytest.param(nn.Huber, NUMBERS, id="huber"),
    pytest.param(lambda: nn.Huber(0.4), NUMBERS, id="huber-0.4"),
    pytest.param(lambda: nn.QuantileLoss(0.9), NUMBERS, id="quantile-0.9"),
]


def pytorch_s(loss: nn.Loss, dtype: str) -> Callable[..., Any]:
    """PyTorch's function of the same meaning, as a function of y, t and `reduction`."""
    import torch
    from torch.nn import functional as f

    def tensor(value: Any) -> Any:
        return None if value is None else torch.tensor(value, dtype=getattr(torch, dtype))

    match loss:
        case nn.SoftmaxWithLoss():
            settings = {"weight": tensor(loss.class_weight), "label_smoothing": loss.label_smoothing}
            return lambda y, t, **kw: f.cross_entropy(y, t, **settings, **kw)
        case nn.SigmoidWithLoss():
            p = tensor(loss.pos_weight)
            return lambda y, t, **kw: f.binary_cross_entropy_with_logits(y, t, pos_weight=p, **kw)
        case nn.MeanSquaredError():
            return f.mse_loss
        case nn.MeanAbsoluteError():
            return f.l1_loss
        case nn.QuantileLoss():
            q, reduced = loss.quantile, {"mean": torch.mean, "none": lambda rows: rows}
            return lambda y, t, reduction="mean": reduced[reduction](torch.maximum(q * (t - y), (q - 1) * (t - y)))
        case _:
            return lambda y, t, **kw: f.huber_loss(y, t, delta=loss.delta, **kw)


@pytest.mark.parametrize(("make", "t"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_loss_against_pytorch(on: Namespace, make: Callable[[], Any], t: np.ndarray, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    loss = make()
    y, target = Y.astype(dtype), t if t.ndim == 1 else t.astype(dtype)
    theirs = torch.tensor(y, requires_grad=True)
    function, size = pytorch_s(loss, dtype), float(np.max(np.abs(Y)))
    expected = function(theirs, torch.tensor(target))
    expected.backward()
    placed = loss.target(on.array(target), N, (CLASSES,), on.backend, dtype)
    actual = loss.forward(on.array(y), placed)
    assert actual.ndim == 0
    assert actual.dtype == on.backend.dtype(dtype)
    assert_close(actual, expected.detach().numpy(), dtype, terms=21, scale=size)
    dy = loss.backward()
    assert dy.dtype == on.backend.dtype(dtype)
    assert_close(dy, theirs.grad.numpy(), dtype, terms=3, scale=1.0)
    rows = function(theirs, torch.tensor(target), reduction="none").detach().numpy()
    assert_close(loss.rows(on.array(y), placed), rows.reshape(N, -1).mean(axis=1), dtype, terms=6, scale=size)


@pytest.mark.parametrize(("make", "t"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_every_loss(on: Namespace, make: Callable[[], Any], t: np.ndarray, weighted: bool) -> None:
    loss = make()
    target, weight = on.array(t), on.array(WEIGHT) if weighted else None
    loss.forward(on.array(Y), target, weight)
    check_projection(on, lambda y: make().forward(y, target, weight), lambda u: [u * loss.backward()], [Y], seed=6)


@pytest.mark.parametrize(("make", "t"), CASES)
def test_weights_count_rows(on: Namespace, make: Callable[[], Any], t: np.ndarray) -> None:
    """A row of weight 2 counts as two, one of weight 0 is not there; the scale of the weights is of no matter."""
    loss, counts = make(), np.array([1, 0, 2, 1, 3, 0, 1])
    weight = on.array(0.125 * counts)
    rows = np.repeat(np.arange(N), counts)
    expected = loss.forward(on.array(Y[rows]), on.array(t[rows]))
    dy = np.zeros_like(Y)
    np.add.at(dy, rows, to_numpy(loss.backward()))
    actual = loss.forward(on.array(Y), on.array(t), weight)
    assert_close(actual, to_numpy(expected), "float64", terms=24)
    assert_close(loss.backward(), dy, "float64", terms=24)
    by_row = float(on.xp.sum(weight * loss.rows(on.array(Y), on.array(t)))) / float(loss.total(on.array(t), weight))
    assert by_row == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize(("make", "t"), CASES)
def test_a_batch_without_weight_is_no_batch(on: Namespace, make: Callable[[], Any], t: np.ndarray) -> None:
    loss = make()
    assert float(loss.forward(on.array(Y), on.array(t), on.array(np.zeros(N)))) == 0.0
    assert not to_numpy(loss.backward()).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("make", "t"), CASES)
def test_large_outputs(on: Namespace, make: Callable[[], Any], t: np.ndarray, dtype: str) -> None:
    """Outputs of 1e4 give what PyTorch gives, without a warning, an infinity or a NaN."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    loss = make()
    y = (1e4 * np.sign(Y)).astype(dtype)
    target = t if t.ndim == 1 else t.astype(dtype)
    theirs = torch.tensor(y, requires_grad=True)
    expected = pytorch_s(loss, dtype)(theirs, torch.tensor(target))
    expected.backward()
    for weight in (None, on.array(np.ones(N), dtype)):
        actual = loss.forward(on.array(y), on.array(target), weight)
        assert float(actual) == pytest.approx(expected.item(), rel=1e-5 if dtype == "float32" else 1e-13)
        assert_close(loss.backward(), theirs.grad.numpy(), dtype, terms=3)


def test_sigmoid_of_one_column(on: Namespace) -> None:
    loss = nn.SigmoidWithLoss()
    t = loss.target([1, 0, 1], 3, (1,), on.backend, "float64")
    y = on.array([[2.0], [1.0], [-3.0]])
    assert_close(loss.output(y), 1 / (1 + np.exp(-np.array([[2.0], [1.0], [-3.0]]))), "float64")
    assert int(loss.count_correct(y, t)) == 1
    assert [to_numpy(labels).tolist() for labels in loss.classes(y, t)] == [[1, 1, 0], [1, 0, 1]]
    assert loss.classes(on.array(Y), on.array(ONE_HOT)) is None


def test_a_row_of_several_answers_is_right_as_a_whole(on: Namespace) -> None:
    y = on.array([[1.0, -1.0], [1.0, 1.0], [-2.0, 3.0]])
    t = on.array([[1.0, 0.0], [1.0, 0.0], [0.2, 0.9]])
    assert int(count_correct_multilabel(y, t)) == 2
    assert float(count_correct_multilabel(y, t, on.array([0.5, 7.0, 0.25]))) == 0.75
    assert float(count_correct(y, on.array([0, 1, 0]), on.array([0.5, 7.0, 0.25]))) == 0.5


def test_the_weights_of_a_setting_are_placed_once(on: Namespace) -> None:
    for loss in (nn.SoftmaxWithLoss(CLASS_WEIGHT), nn.SigmoidWithLoss(CLASS_WEIGHT)):
        t = loss.target(on.array(ONE_HOT), N, (CLASSES,), on.backend, "float32")
        (placed,) = loss._on_device._arrays
        assert on.backend.owns(placed)
        for y in (on.array(Y, "float32"), on.array(-Y, "float32")):
            loss.forward(y, t)
            assert len(loss._on_device._arrays) == 1
        loss.forward(on.array(Y), on.array(ONE_HOT))
        assert loss._on_device._arrays[0] is placed  # a captured step of another network may hold its address
        assert loss._on_device._arrays[1].dtype == on.backend.dtype("float64")


@pytest.mark.parametrize(("make", "t"), CASES)
def test_settings_make_the_loss_again(make: Callable[[], Any], t: np.ndarray) -> None:
    loss = make()
    settings = json.loads(json.dumps(loss.config()))
    assert settings == loss.config()
    assert type(loss)(**settings).config() == settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.SoftmaxWithLoss([1.0, -0.5]), "class_weight must hold numbers of at least 0"),
        (lambda: nn.SoftmaxWithLoss([0.0, 0.0]), "class_weight must hold numbers of at least 0, one of them above"),
        (lambda: nn.SoftmaxWithLoss([1.0, math.nan]), "class_weight must hold finite numbers, got [1.0, nan]"),
        (lambda: nn.SoftmaxWithLoss([1.0, "2"]), "class_weight must hold finite numbers"),
        (lambda: nn.SoftmaxWithLoss([]), "class_weight must be a list of numbers, got []"),
        (lambda: nn.SoftmaxWithLoss(0.5), "class_weight must be a list of numbers, got 0.5"),
        (lambda: nn.SoftmaxWithLoss(label_smoothing=1.0), "label_smoothing must be at least 0 and below 1, got 1.0"),
        (lambda: nn.SoftmaxWithLoss(label_smoothing=-0.1), "label_smoothing must be"),
        (lambda: nn.SoftmaxWithLoss(label_smoothing=math.nan), "label_smoothing must be"),
        (lambda: nn.SigmoidWithLoss(0.0), "pos_weight must be positive, got 0.0"),
        (lambda: nn.SigmoidWithLoss([1.0, math.inf]), "pos_weight must hold finite numbers"),
        (lambda: nn.SigmoidWithLoss("2"), "pos_weight must be a list of numbers, got '2'"),
        (lambda: nn.Huber(0.0), "delta must be positive and finite, got 0.0"),
        (lambda: nn.Huber(-1), "delta must be positive"),
        (lambda: nn.Huber(math.nan), "delta must be positive"),
        (lambda: nn.Huber(math.inf), "delta must be positive"),
        (lambda: nn.Huber("1"), "delta must be positive"),
        (lambda: nn.QuantileLoss(0.0), "quantile must lie between 0 and 1, got 0.0"),
        (lambda: nn.QuantileLoss(1), "quantile must lie between 0 and 1, got 1"),
        (lambda: nn.QuantileLoss(math.nan), "quantile must lie between 0 and 1"),
        (lambda: nn.QuantileLoss("0.5"), "quantile must lie between 0 and 1"),
    ],
)
def test_bad_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("loss", "t", "message"),
    [
        (nn.SoftmaxWithLoss([1.0, 2.0]), [0, 1, 0], "class_weight has 2 numbers for 3 classes"),
        (nn.SigmoidWithLoss([1.0, 2.0]), np.zeros((3, 3)), "pos_weight has 2 numbers for output rows of shape (3,)"),
        (nn.SigmoidWithLoss(), np.full((3, 3), 2.0), "takes targets from 0 to 1, got 2.0 to 2.0"),
        (nn.SigmoidWithLoss(), -np.eye(3), "takes targets from 0 to 1, got -1.0 to"),
        (nn.SigmoidWithLoss(), [0, 1, 1], "t: expected shape (3, 3)"),
        (nn.MeanAbsoluteError(), np.full((3, 3), np.nan), "t contains NaN or infinity"),
        (nn.Huber(), np.zeros((4, 3)), "x has 3 rows, but t has 4"),
    ],
)
def test_targets_that_do_not_fit(on: Namespace, loss: nn.Loss, t: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        loss.target(t, 3, (3,), on.backend, "float32")


SETTINGS: list[tuple[Any, ...]] = [(), ([1.0, 2.0, 0.5],), (None, [1.0, 2.0, 3.0]), (None, None, 0.1)]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "weight", "class_weight", "smoothing"])
@pytest.mark.parametrize("label", [-1, 3, -3, 2**40])
def test_a_label_outside_of_the_classes_is_not_left_out(on: Namespace, label: int, settings: tuple[Any, ...]) -> None:
    x, t = on.array(np.zeros((3, 3)), "float32"), on.array(np.array([0, label, 2]))
    more = [on.array(np.array(value), "float32") if isinstance(value, list) else value for value in settings]
    calls = (F.softmax_cross_entropy_rows, F.softmax_cross_entropy, F.softmax_cross_entropy_backward)
    if on.backend.host:
        for call in calls:
            with pytest.raises(ValueError, match=r"^t: labels must lie in 0 to 2, got -?\d+ to \d+$"):
                call(x, t, *more)
        return
    rows = to_numpy(F.softmax_cross_entropy_rows(x, t, *more))
    assert np.isnan(rows).tolist() == [False, True, False]
    if len(more) != 2:  # class weights are taken by label, of which a library has an opinion of its own
        assert np.isnan(float(F.softmax_cross_entropy(x, t, *more)[0]))
        dx = to_numpy(F.softmax_cross_entropy_backward(F.softmax(x), t, *more))
        assert np.isnan(dx).all(axis=1).tolist() == [False, True, False]


def test_labels_in_a_dtype_too_small_for_the_classes(on: Namespace) -> None:
    x = np.zeros((2, 300), "float32")
    x[:, 44] = 5.0  # 300 - 256
    wide, narrow = (
        F.softmax_cross_entropy_rows(on.array(x), on.array(np.array([44, 255], k)), None, None, 0.1)
        for k in ("int64", "uint8")
    )
    assert to_numpy(wide).tolist() == to_numpy(narrow).tolist()
    assert np.isfinite(to_numpy(wide)).all()


def test_integer_scores_are_refused(on: Namespace) -> None:
    with pytest.raises(TypeError):
        F.softmax_cross_entropy(on.array(np.array([[1, 2]])), on.array(np.array([0])))
