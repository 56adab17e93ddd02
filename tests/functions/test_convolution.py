from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

import nnbackend as nn
from nnbackend.functions import channels_first, channels_last, convolution, convolution_backward, max_pooling
from nnbackend.functions.convolution import output_size

# n, h, w, c, kh, kw, o, stride, padding
CASES = [
    (2, 7, 7, 3, 3, 3, 4, 1, 1),
    (3, 8, 6, 1, 3, 3, 5, 1, 0),  # one channel
    (1, 5, 9, 2, 5, 3, 3, (2, 1), (0, 1)),  # one image, a tall filter
    (2, 9, 10, 3, 2, 4, 2, (2, 3), (1, 2)),  # the last rows and columns are reached by no filter
    (2, 8, 8, 2, 2, 2, 3, 3, 0),  # steps over some
    (4, 6, 5, 4, 1, 1, 2, 1, 0),
    (2, 3, 4, 2, 1, 1, 3, 2, 1),
    (2, 4, 5, 3, 4, 5, 2, 1, 0),  # one window: an affine map
    (2, 2, 2, 2, 3, 3, 2, 1, 3),  # windows of nothing but padding
    (1, 1, 1, 1, 1, 1, 1, 1, 0),
]
IDS = ["-".join(str(s) for s in case).replace(" ", "") for case in CASES]


def draw(case: Any, dtype: str = "float64") -> list[np.ndarray]:
    n, h, w, c, kh, kw, o, _, _ = case
    rng = np.random.default_rng(sum(case[:7]))
    return [rng.standard_normal(shape).astype(dtype) for shape in ((n, h, w, c), (kh, kw, c, o), (o,))]


def backward(on: Namespace, dy: Any, x: Any, W: Any, stride: Any, padding: Any, need_dx: bool = True) -> list[Any]:
    dtype = "float32" if x.dtype == on.backend.dtype("float32") else "float64"
    dW = on.backend.zeros(tuple(W.shape), dtype) + 7  # what was there before must not matter
    db = on.backend.zeros((W.shape[3],), dtype) + 7
    return [convolution_backward(dy, x, W, dW, db, stride, padding, need_dx), dW, db]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradient(on: Namespace, case: Any) -> None:
    x, W, b = draw(case)
    stride, padding = case[-2:]

    def forward(x: Any, W: Any, b: Any) -> Any:
        return convolution(x, W, b, stride, padding)

    check_projection(on, forward, lambda u: backward(on, u, on.array(x), on.array(W), stride, padding), [x, W, b])


def test_a_stride_of_numpy_is_a_number_or_a_pair(on: Namespace) -> None:
    x, W, b = (on.array(a) for a in draw(CASES[0]))
    settings = np.array([2, 1])  # of which each is a number of NumPy, not of Python
    assert_close(convolution(x, W, b, *settings), nn.to_numpy(convolution(x, W, b, 2, 1)), "float64")
    assert_close(max_pooling(x, settings[0], settings[1]), nn.to_numpy(max_pooling(x, 2, 1)), "float64")
    pair = convolution(x, W, b, settings, settings)
    assert_close(pair, nn.to_numpy(convolution(x, W, b, (2, 1), (2, 1))), "float64")


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, case: Any, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, W, b = draw(case, dtype)
    stride, padding = case[-2:]
    xt, Wt, bt = (torch.tensor(a, requires_grad=True) for a in (x, W, b))
    yt = torch.nn.functional.conv2d(xt.permute(0, 3, 1, 2), Wt.permute(3, 2, 0, 1), bt, stride, padding)
    yt = yt.permute(0, 2, 3, 1)
    dy = np.random.default_rng(1).standard_normal(tuple(yt.shape)).astype(dtype)
    yt.backward(torch.tensor(dy))

    y = convolution(on.array(x), on.array(W), on.array(b), stride, padding)
    assert_close(y, yt.detach().numpy(), dtype, terms=W[..., 0].size)
    gradients = backward(on, on.array(dy), on.array(x), on.array(W), stride, padding)
    for actual, expected, terms in zip(
        gradients, (xt, Wt, bt), (W[..., 0, :].size, *[dy[..., 0].size] * 2), strict=True
    ):
        assert actual.dtype == on.backend.dtype(dtype)
        assert_close(actual, expected.grad.numpy(), dtype, terms=terms, scale=float(np.abs(dy).max()) * 10)


def test_dx_can_be_left_out(on: Namespace) -> None:
    x, W, b = (on.array(a) for a in draw(CASES[0]))
    dy = convolution(x, W, b, 1, 1)
    full, short = backward(on, dy, x, W, 1, 1), backward(on, dy, x, W, 1, 1, need_dx=False)
    assert short[0] is None
    for actual, expected in zip(short[1:], full[1:], strict=True):
        assert_close(actual, expected, "float64")


def test_many_images_at_once_are_as_each_alone(on: Namespace) -> None:
    """More than what is worked on at a time."""
    rng = np.random.default_rng(2)
    x, W, b = rng.standard_normal((70, 30, 9, 3)), rng.standard_normal((3, 3, 3, 8)), rng.standard_normal(8)
    y = convolution(on.array(x), on.array(W), on.array(b), 1, 1)
    dy = rng.standard_normal(y.shape)
    dx, dW, _ = backward(on, on.array(dy), on.array(x), on.array(W), 1, 1)
    total = np.zeros_like(W)
    for i in range(0, 70, 23):
        one, dy_one = on.array(x[i : i + 1]), on.array(dy[i : i + 1])
        assert_close(y[i : i + 1, ...], convolution(one, on.array(W), on.array(b), 1, 1), "float64", terms=27)
        assert_close(dx[i : i + 1, ...], backward(on, dy_one, one, on.array(W), 1, 1)[0], "float64", terms=72)
    for i in range(70):
        total += np.asarray(backward_on_host(dy[i : i + 1], x[i : i + 1], W))
    assert_close(dW, total, "float64", terms=1000)


def backward_on_host(dy: np.ndarray, x: np.ndarray, W: np.ndarray) -> np.ndarray:
    dW = np.zeros_like(W)
    convolution_backward.dispatch(object)(dy, x, W, dW, np.zeros(W.shape[3]), 1, 1, False)
    return dW


def test_channels_first_and_last(on: Namespace) -> None:
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    assert_close(channels_last(on.array(x)), x.transpose(0, 2, 3, 1), "float64")
    assert_close(channels_first(channels_last(on.array(x))), x, "float64")


def test_output_size() -> None:
    assert output_size((28, 28), 5) == (24, 24)
    assert output_size((7, 9), (3, 2), (2, 3), (1, 0)) == (4, 3)
    for image, window, padding in [((4, 9), 5, 0), ((9, 4), 7, 1), ((0, 3), 1, 0)]:
        with pytest.raises(ValueError, match="does not fit"):
            output_size(image, window, 1, padding)


@pytest.mark.parametrize("n", [1, 2])
def test_a_filter_larger_than_the_image_is_refused(on: Namespace, n: int) -> None:
    x, W, b = on.array(np.zeros((n, 4, 4, 1))), on.array(np.zeros((5, 3, 1, 1))), on.array(np.zeros(1))
    with pytest.raises(ValueError, match=r"a window of \(5, 3\) does not fit an image of \(4, 4\)"):
        convolution(x, W, b)
