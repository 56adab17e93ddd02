"""The second volume's layers: PyTorch's values and gradients, and the book's formulas by automatic differentiation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

from nnbackend.backends import to_numpy
from nnbackend.book2 import layers as bl
from nnbackend.book2 import time_layers as tl
from nnbackend.book2.negative_sampling_layer import EmbeddingDot, NegativeSamplingLoss, UnigramSampler

SIZES = pytest.mark.parametrize("size", [(2, 5, 3, 4), (1, 1, 1, 1), (3, 1, 2, 5)], ids=str)  # n, T, d, H


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def drawn(*shapes: tuple[int, ...], dtype: str = "float64") -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def tensors(torch: Any, *arrays: np.ndarray) -> list[Any]:
    return [torch.tensor(a, requires_grad=True) for a in arrays]


def compare(layer: Any, y: Any, expected: Any, dout: np.ndarray, inputs: list[Any], params: list[Any], on: Any) -> None:
    """The output, and the gradients of inputs and parameters, of a layer and of PyTorch."""
    dtype = str(dout.dtype)
    expected.backward(expected.new_tensor(dout))
    assert_close(y, expected.detach().numpy(), dtype, terms=200)
    kept = list(layer.grads)
    found = layer.backward(on.array(dout))
    for one, tensor in zip(found if isinstance(found, tuple) else (found,), inputs, strict=True):
        assert_close(one, tensor.grad.numpy(), dtype, terms=400)
    for before, gradient, tensor in zip(kept, layer.grads, params, strict=True):
        assert gradient is before
        assert_close(gradient, tensor.grad.numpy(), dtype, terms=400)


# --- layers without a time axis -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (1, 4)])
def test_matmul_and_affine(on: Namespace, torch: Any, shape: tuple[int, ...]) -> None:
    x, W, b, dout = drawn(shape, (4, 2), (2,), (*shape[:-1], 2))
    for kind, values in (
        (bl.MatMul, (W,)),
        (bl.Affine, (W, b)),
        (tl.TimeAffine, (W, b)),
        (tl.Simple_TimeAffine, (W, b)),
    ):
        layer = kind(*(on.backend.asarray(v) for v in values))
        tx, *params = tensors(torch, x, *values)
        expected = tx @ params[0] + (params[1] if len(params) > 1 else 0)
        compare(layer, layer.forward(on.array(x)), expected, dout, [tx], params, on)
    assert layer.dW is layer.grads[0]
    assert layer.db is layer.grads[1]
    assert layer.W is layer.params[0]
    assert layer.b is layer.params[1]


def test_softmax(on: Namespace, torch: Any) -> None:
    x, dout = drawn((3, 4), (3, 4))
    (tx,) = tensors(torch, x)
    layer = bl.Softmax()
    compare(layer, layer.forward(on.array(x)), torch.softmax(tx, 1), dout, [tx], [], on)


def test_sigmoid_with_loss(on: Namespace, torch: Any) -> None:
    x = np.array([-3.0, 0.5, 2.0, 8.0])
    t = np.array([0, 1, 0, 1])
    layer = bl.SigmoidWithLoss()
    (tx,) = tensors(torch, x)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(tx, torch.tensor(t, dtype=torch.float64))
    expected.backward()
    assert float(layer.forward(on.array(x), on.array(t))) == pytest.approx(expected.item(), abs=2e-6)  # 1e-7 / 0.05
    assert_close(layer.backward(), tx.grad.numpy(), "float64")
    assert_close(layer.backward(3.0), 3 * tx.grad.numpy(), "float64")


@pytest.mark.parametrize("kind", [bl.Embedding, tl.TimeEmbedding])
def test_embedding(on: Namespace, torch: Any, kind: Any) -> None:
    W, dout = drawn((5, 3), (2, 4, 3))
    idx = np.array([[0, 4, 4, 1], [4, 0, 2, 2]])
    layer = kind(on.backend.asarray(W))
    (tW,) = tensors(torch, W)
    (kept,) = layer.grads
    expected = tW[torch.tensor(idx)]
    expected.backward(torch.tensor(dout))
    assert_close(layer.forward(on.array(idx)), expected.detach().numpy(), "float64")
    for _ in range(2):  # the gradient does not add to the one before
        assert layer.backward(on.array(dout)) is None
        assert layer.grads[0] is kept
        assert_close(kept, tW.grad.numpy(), "float64", terms=4)


def test_dropout_draws_from_numpy_random(on: Namespace) -> None:
    (x,) = drawn((2, 3, 4))
    np.random.seed(3)
    mask = np.random.rand(2, 3, 4) > 0.4
    layer = tl.TimeDropout(0.4)
    np.random.seed(3)
    assert_close(layer.forward(on.array(x)), x * mask / 0.6, "float64")
    assert_close(layer.backward(on.array(x)), x * mask / 0.6, "float64")
    layer.train_flg = False
    assert_close(layer.forward(on.array(x)), x, "float64")


# --- recurrent layers ---------------------------------------------------------------------------------------------

PARTS = {"RNN": 1, "LSTM": 4, "GRU": 3}


def by_formula(torch: Any, kind: str, x: Any, Wx: Any, Wh: Any, b: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """One step as the book writes it (5.3, 6.2.4, appendix C), for automatic differentiation."""
    width = h.shape[1]
    if kind == "RNN":
        return torch.tanh(h @ Wh + x @ Wx + b), c
    if kind == "LSTM":
        f, g, i, o = (x @ Wx + h @ Wh + b).split(width, 1)
        c = torch.sigmoid(f) * c + torch.tanh(g) * torch.sigmoid(i)
        return torch.sigmoid(o) * torch.tanh(c), c
    (xz, xr, xn), (hz, hr, hn) = (x @ Wx + b).split(width, 1), Wh.split(width, 1)
    z, r = torch.sigmoid(xz + h @ hz), torch.sigmoid(xr + h @ hr)
    return (1 - z) * h + z * torch.tanh(xn + (r * h) @ hn), c


@SIZES
@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_recurrent_layer(on: Namespace, torch: Any, kind: str, size: tuple[int, ...], dtype: str) -> None:
    n, steps, d, width = size
    k = PARTS[kind] * width
    shapes = (n, steps, d), (d, k), (width, k), (k,), (n, width), (n, width), (n, steps, width)
    x, Wx, Wh, b, h, c, dout = drawn(*shapes, dtype=dtype)
    layer = getattr(tl, f"Time{kind}")(*(on.backend.asarray(p) for p in (Wx, Wh, b)), stateful=True)
    layer.set_state(*(on.array(s) for s in ((h, c) if kind == "LSTM" else (h,))))
    tx, *params, th, tc = tensors(torch, x, Wx, Wh, b, h, c)
    hs, state = [], (th, tc)
    for t in range(steps):
        state = by_formula(torch, kind, tx[:, t], *params, *state)
        hs.append(state[0])
    y = layer.forward(on.array(x))
    assert str(y.dtype).endswith(dtype)
    compare(layer, y, torch.stack(hs, 1), dout, [tx], params, on)
    assert_close(layer.h, state[0].detach().numpy(), dtype, terms=200)
    assert_close(layer.dh, th.grad.numpy(), dtype, terms=400)
    if kind == "LSTM":
        assert_close(layer.c, state[1].detach().numpy(), dtype, terms=200)


@pytest.mark.parametrize("kind", PARTS)
def test_one_step(on: Namespace, torch: Any, kind: str) -> None:
    k = PARTS[kind] * 4
    x, Wx, Wh, b, h, c, dh, dc = drawn((2, 3), (3, k), (4, k), (k,), (2, 4), (2, 4), (2, 4), (2, 4))
    layer = getattr(tl, kind)(*(on.backend.asarray(p) for p in (Wx, Wh, b)))
    tx, *params, th, tc = tensors(torch, x, Wx, Wh, b, h, c)
    after = by_formula(torch, kind, tx, *params, th, tc)
    states = (on.array(h), on.array(c)) if kind == "LSTM" else (on.array(h),)
    y = layer.forward(on.array(x), *states)
    (after[0] * torch.tensor(dh) + (after[1] * torch.tensor(dc) if kind == "LSTM" else 0)).sum().backward()
    for one, expected in zip(y if kind == "LSTM" else (y,), after, strict=False):
        assert_close(one, expected.detach().numpy(), "float64", terms=20)
    found = layer.backward(*(on.array(d) for d in ((dh, dc) if kind == "LSTM" else (dh,))))
    for one, tensor in zip(found, (tx, th, tc), strict=False):
        assert_close(one, tensor.grad.numpy(), "float64", terms=40)
    for gradient, tensor in zip(layer.grads, params, strict=True):
        assert_close(gradient, tensor.grad.numpy(), "float64", terms=40)


def test_lstm_is_pytorchs_lstm_in_another_order(on: Namespace, torch: Any) -> None:
    x, Wx, Wh, b = drawn((2, 5, 3), (3, 16), (4, 16), (16,))
    module = torch.nn.LSTM(3, 4, batch_first=True).double()

    def reordered(W: np.ndarray) -> Any:
        f, g, i, o = np.split(W.T, 4)
        return torch.tensor(np.concatenate([i, f, g, o]))

    module.weight_ih_l0.data, module.weight_hh_l0.data = reordered(Wx), reordered(Wh)
    module.bias_ih_l0.data, module.bias_hh_l0.data = reordered(b), torch.zeros(16, dtype=torch.float64)
    layer = tl.TimeLSTM(*(on.backend.asarray(p) for p in (Wx, Wh, b)))
    assert_close(layer.forward(on.array(x)), module(torch.tensor(x))[0].detach().numpy(), "float64", terms=100)


@pytest.mark.parametrize("kind", PARTS)
def test_a_stateful_layer_goes_on(on: Namespace, kind: str) -> None:
    k = PARTS[kind] * 4
    x, *params = drawn((2, 6, 3), (3, k), (4, k), (k,))
    there = [on.backend.asarray(p) for p in params]
    whole = to_numpy(getattr(tl, f"Time{kind}")(*there).forward(on.array(x)))
    layer = getattr(tl, f"Time{kind}")(*there, stateful=True)
    pieces = [layer.forward(on.array(x[:, a : a + 2])) for a in (0, 2, 4)]
    assert_close(np.concatenate([to_numpy(p) for p in pieces], axis=1), whole, "float64", terms=50)
    layer.reset_state()
    assert_close(layer.forward(on.array(x)), whole, "float64", terms=50)
    without = getattr(tl, f"Time{kind}")(*there)
    without.forward(on.array(x))
    assert_close(without.forward(on.array(x)), whole, "float64", terms=50)


def test_bilstm(on: Namespace, torch: Any) -> None:
    x, *params, dout = drawn((2, 5, 3), *[(3, 16), (4, 16), (16,)] * 2, (2, 5, 8))
    layer = tl.TimeBiLSTM(*(on.backend.asarray(p) for p in params))
    tx, *tensors_of = tensors(torch, x, *params)
    both = []
    for order, weights in ((range(5), tensors_of[:3]), (range(4, -1, -1), tensors_of[3:])):
        state, hs = (torch.zeros(2, 4, dtype=torch.float64),) * 2, {}
        for t in order:
            state = by_formula(torch, "LSTM", tx[:, t], *weights, *state)
            hs[t] = state[0]
        both.append(torch.stack([hs[t] for t in range(5)], 1))
    compare(layer, layer.forward(on.array(x)), torch.cat(both, 2), dout, [tx], tensors_of, on)


# --- losses over a time axis --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_with_loss_leaves_out_what_is_ignored(on: Namespace, torch: Any, dtype: str) -> None:
    (x,) = drawn((2, 4, 5), dtype=dtype)
    t = np.array([[0, -1, 4, 2], [-1, -1, 3, 1]])
    (tx,) = tensors(torch, x)
    expected = torch.nn.functional.cross_entropy(tx.reshape(-1, 5), torch.tensor(t).reshape(-1), ignore_index=-1)
    expected.backward()
    layer = tl.TimeSoftmaxWithLoss()
    assert_close(np.asarray(layer.forward(on.array(x), on.array(t))), expected.detach().numpy(), dtype, terms=20)
    assert_close(layer.backward(), tx.grad.numpy(), dtype, terms=20)
    assert_close(layer.backward(2.0), 2 * tx.grad.numpy(), dtype, terms=20)


def test_losses_of_one_hot_rows_and_simple_losses(on: Namespace) -> None:
    (x,) = drawn((2, 4, 5))
    t = np.array([[0, 3, 4, 2], [1, 1, 3, 1]])
    layer, plain = tl.TimeSoftmaxWithLoss(), tl.Simple_TimeSoftmaxWithLoss()
    loss = layer.forward(on.array(x), on.array(t))
    assert layer.forward(on.array(x), on.array(np.eye(5, dtype="int64")[t])) == loss
    assert float(plain.forward(on.array(x), on.array(t))) == pytest.approx(loss, abs=1e-5)  # the 1e-7 of the logarithm
    assert_close(plain.backward(), to_numpy(layer.backward()), "float64", terms=20)


def test_sigmoid_with_loss_over_time(on: Namespace) -> None:
    (x,) = drawn((3, 4))
    t = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    layer = tl.TimeSigmoidWithLoss()
    p = 1 / (1 + np.exp(-x))
    expected = -np.log(np.where(t == 1, p, 1 - p) + 1e-7).mean()
    assert float(layer.forward(on.array(x), on.array(t))) == pytest.approx(expected, rel=1e-12)
    assert_close(layer.backward(), (p - t) / 12, "float64")


# --- negative samples ---------------------------------------------------------------------------------------------


def test_negative_samples_are_never_the_target() -> None:
    sampler = UnigramSampler(np.array([0, 0, 0, 0, 1, 2, 2, 3]), 0.75, 2)
    p = np.array([4, 1, 2, 1]) ** 0.75
    assert sampler.word_p == pytest.approx(p / p.sum())
    np.random.seed(0)
    target = np.repeat([0, 2], 3000)
    sample = sampler.get_negative_sample(target)
    assert sample.shape == (6000, 2)
    assert not (sample == target[:, None]).any()
    assert (sample[:, 0] != sample[:, 1]).all()
    # the first of two words for the target 2 has the others' probabilities; five standard deviations of 3000 draws
    shares = np.bincount(sample[3000:, 0], minlength=4) / 3000
    assert shares == pytest.approx(np.array([p[0], p[1], 0, p[3]]) / (p.sum() - p[2]), abs=0.046)


def test_negative_sampling_loss(on: Namespace, torch: Any) -> None:
    h, W = drawn((3, 4), (6, 4))
    target, corpus = np.array([5, 0, 2]), np.arange(6)
    layer = NegativeSamplingLoss(on.backend.asarray(W), corpus, sample_size=2)
    np.random.seed(1)
    wrong = layer.sampler.get_negative_sample(target)
    np.random.seed(1)
    loss = layer.forward(on.array(h), on.array(target))
    th, tW = tensors(torch, h, W)
    expected = 0.0
    for i, words in enumerate([target, *wrong.T]):
        score = (tW[torch.tensor(words)] * th).sum(1)
        right = torch.full((3,), float(i == 0), dtype=torch.float64)
        expected = expected + torch.nn.functional.binary_cross_entropy_with_logits(score, right)
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), abs=1e-4)  # 1e-7 / the probability of the label, six times
    assert_close(layer.backward(), th.grad.numpy(), "float64", terms=40)
    assert len(layer.params) == len(layer.grads) == 3
    assert_close(sum(to_numpy(g) for g in layer.grads), tW.grad.numpy(), "float64", terms=40)


# --- what is refused ----------------------------------------------------------------------------------------------

X, WX, WH, B = np.zeros((2, 3, 4)), np.zeros((4, 8)), np.zeros((2, 8)), np.zeros(8)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: bl.MatMul(np.zeros((3, 2))).forward(np.zeros((2, 4))), ValueError, "x: expected a last axis of 3, as W"),
    (lambda: bl.Embedding(np.zeros((3, 2))).forward(np.array([0.5])), TypeError, "idx: expected integers, got"),
    (lambda: bl.Embedding(np.zeros((3, 2))).forward(np.array([0, 3])), ValueError, "3"),
    (lambda: bl.SigmoidWithLoss().forward(np.zeros(3), np.zeros(2, int)), ValueError, r"t: \(n,\), got shapes"),
    (lambda: tl.TimeLSTM(WX, WH, B).forward(np.zeros((2, 4))), ValueError, r"xs: expected shape \(any, any, 4\), got"),
    (lambda: tl.TimeLSTM(WX, WH, B).forward(np.zeros((2, 0, 4))), ValueError, r"xs: expected shape \(any, any, 4\)"),
    (lambda: tl.TimeDropout(1.0), ValueError, "dropout_ratio: expected a number from 0 to below 1, got 1.0"),
    (lambda: tl.TimeSoftmaxWithLoss().forward(X, np.full((2, 3), -1)), ValueError, "every label is -1"),
    (lambda: tl.TimeSoftmaxWithLoss().forward(X, np.full((2, 3), 4)), ValueError, "labels from 0 to 3"),
    (lambda: tl.TimeSoftmaxWithLoss().forward(X, np.zeros((2, 2), int)), ValueError, r"ts: expected shape \(2, 3\)"),
    (lambda: tl.TimeAffine(WX, B).backward(np.zeros((2, 8))), ValueError, "backward of a layer comes after"),
    (lambda: UnigramSampler([0, 1, 3], 0.75, 1), ValueError, "each number from 0 to 3, but 2 does not occur"),
    (lambda: UnigramSampler([0, 1, 2], 0.75, 3), ValueError, "more than 3 different words, got 3"),
    (lambda: UnigramSampler([0, -1], 0.75, 1), ValueError, "corpus: expected integers of at least 0, got -1"),
    (lambda: UnigramSampler([0.0, 1.0], 0.75, 1), ValueError, "corpus: expected integers .* of dtype float64"),
    (lambda: UnigramSampler([0, 1, 2], 0.75, 1).get_negative_sample(np.array([3])), ValueError,
     "target: expected words of the corpus, 0 to 2, got 3 to 3"),
    (lambda: UnigramSampler([0, 1, 2], 0.75, 1).get_negative_sample(np.array([-1])), ValueError, "target: expected"),
    (lambda: UnigramSampler([0, 1, 2], 0.75, 1).get_negative_sample(np.array([[1]])), ValueError,
     r"target: expected integers, \(n,\), got shape \(1, 1\)"),
    (lambda: NegativeSamplingLoss(np.zeros((2, 3)), [0, 1, 2]), ValueError, "corpus: expected more than 5"),
    (lambda: NegativeSamplingLoss(np.zeros((2, 3)), [0, 1, 2], sample_size=1), ValueError,
     r"W: expected a row for each of 3 words, got shape \(2, 3\)"),
    (lambda: EmbeddingDot(np.zeros((4, 3))).forward(np.zeros((1, 3)), np.array([0, 1])), ValueError,
     r"h: expected shape \(2, 3\), got \(1, 3\)"),
    (lambda: EmbeddingDot(np.zeros((4, 3))).backward(np.zeros(2)), ValueError, "backward of a layer comes after"),
    (lambda: bl.Affine(np.zeros((3, 2)), np.zeros(3)).forward(np.zeros((1, 3))), ValueError,
     r"b: expected shape \(2,\), got \(3,\)"),
    (lambda: wrong_dout(bl.Affine(np.zeros((3, 2)), np.zeros(2)), np.zeros((4, 3)), np.zeros((3, 2))), ValueError,
     r"dout: expected shape \(4, 2\), got \(3, 2\)"),
    (lambda: tl.TimeLSTM(WX[:, :7], WH, B).forward(X), ValueError, r"Wx: expected shape \(any, 8\), got \(4, 7\)"),
    (lambda: tl.TimeLSTM(WX, WH[:, :7], B).forward(X), ValueError, r"Wh: expected shape \(any, 8\), got \(2, 7\)"),
    (lambda: tl.TimeLSTM(WX, WH, B[:1]).forward(X), ValueError, r"b: expected shape \(8,\), got \(1,\)"),
    (lambda: tl.TimeGRU(WX, WH, B).forward(X), ValueError, r"Wh: expected shape \(any, 6\), got \(2, 8\)"),
    (lambda: tl.RNN(WX[:, :2], WH[:, :2], B[:2]).forward(X[:, 0], np.zeros((1, 2))), ValueError,
     r"h_prev: expected shape \(2, 2\), got \(1, 2\)"),
    (lambda: tl.LSTM(WX, WH, B).forward(X[:, 0, :3], np.zeros((2, 2)), np.zeros((2, 2))), ValueError,
     r"x: expected shape \(any, 4\), got \(2, 3\)"),
    (lambda: tl.LSTM(WX, WH, B).backward(np.zeros((2, 2)), np.zeros((2, 2))), ValueError, "comes after its forward"),
    (lambda: tl.TimeLSTM(WX, WH, B).backward(X), ValueError, "backward of a layer comes after its forward"),
    (lambda: tl.TimeSoftmaxWithLoss().backward(), ValueError, "backward of a layer comes after its forward"),
    (lambda: tl.Simple_TimeSoftmaxWithLoss().backward(), ValueError, "backward of a layer comes after its forward"),
])  # fmt: skip
def test_what_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def wrong_dout(layer: Any, x: np.ndarray, dout: np.ndarray) -> None:
    layer.forward(x)
    layer.backward(dout)


@pytest.mark.parametrize("kind", PARTS)
def test_a_bias_may_be_a_row(kind: str) -> None:
    k = PARTS[kind] * 2
    x, Wx, Wh, b = drawn((2, 3, 4), (4, k), (2, k), (k,))
    row, plain = (getattr(tl, f"Time{kind}")(Wx, Wh, value) for value in (b[None, :], b))
    assert row.forward(x).tolist() == plain.forward(x).tolist()
    row.backward(np.ones((2, 3, 2)))
    plain.backward(np.ones((2, 3, 2)))
    assert row.grads[2].tolist() == [plain.grads[2].tolist()]


def test_a_state_of_another_size_is_refused() -> None:
    layer = tl.TimeLSTM(WX, WH, B, stateful=True)
    layer.set_state(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"h: expected shape \(2, 2\), got \(3, 2\)"):
        layer.forward(X)
