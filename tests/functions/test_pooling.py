from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend.functions import average_pooling, average_pooling_backward, max_pooling, max_pooling_backward

# shape of x, size, stride, padding
CASES = [
    ((2, 4, 6, 3), 2, 2, 0),
    ((2, 5, 7, 3), 2, 2, 0),  # a row and a column are left over
    ((1, 6, 5, 1), (2, 3), (2, 3), 0),
    ((3, 7, 7, 2), 3, 2, 1),  # windows overlap
    ((2, 6, 6, 2), 2, 1, 0),
    ((2, 7, 8, 3), 2, 3, 0),  # steps over some
    ((2, 7, 6, 2), (3, 1), (1, 2), (1, 0)),
    ((2, 3, 3, 4), 3, 3, 0),
    ((2, 4, 4, 2), 1, 1, 0),
]
IDS = ["-".join(str(s) for s in case).replace(" ", "") for case in CASES]


def spread(shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    """Values at least 0.1 apart, so that the check never moves across a tie."""
    values = np.random.default_rng(3).permutation(int(np.prod(shape))) * 0.1 - 3.0
    return values.reshape(shape).astype(dtype)


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES, ids=IDS)
def test_gradient(on: Namespace, shape: Any, size: Any, stride: Any, padding: Any) -> None:
    x = spread(shape)
    windows = (size, stride, padding)
    y = max_pooling(on.array(x), *windows)
    for forward, gradient in [
        (max_pooling, lambda u: [max_pooling_backward(u, on.array(x), y, *windows)]),
        (average_pooling, lambda u: [average_pooling_backward(u, shape, *windows)]),
    ]:
        check_projection(on, lambda x, f=forward: f(x, *windows), gradient, [x])


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ties", [False, True])
def test_against_pytorch(
    on: Namespace, shape: Any, size: Any, stride: Any, padding: Any, dtype: str, ties: bool
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = spread(shape, dtype)
    x = np.maximum(np.round(x), 0) if ties else x  # the first of equals takes the gradient
    for kind in ("max", "avg"):
        xt = torch.tensor(x, requires_grad=True)
        pool = getattr(torch.nn.functional, f"{kind}_pool2d")
        yt = pool(xt.permute(0, 3, 1, 2), size, stride, padding).permute(0, 2, 3, 1)
        dy = np.random.default_rng(4).standard_normal(tuple(yt.shape)).astype(dtype)
        yt.backward(torch.tensor(dy))
        if kind == "max":
            y = max_pooling(on.array(x), size, stride, padding)
            dx = max_pooling_backward(on.array(dy), on.array(x), y, size, stride, padding)
        else:
            y = average_pooling(on.array(x), size, stride, padding)
            dx = average_pooling_backward(on.array(dy), shape, size, stride, padding)
        assert y.dtype == dx.dtype == on.backend.dtype(dtype)
        assert_close(y, yt.detach().numpy(), dtype, terms=9)
        assert_close(dx, xt.grad.numpy(), dtype, terms=9)


def test_an_image_without_a_largest_element_passes_it_on(on: Namespace) -> None:
    x = np.full((1, 2, 4, 1), -np.inf)
    x[0, 1, 3, 0] = np.nan
    y = max_pooling(on.array(x), 2, 2)
    assert_close(y[0, 0, :1, 0], [-np.inf], "float64", scale=1.0)
    assert bool(on.xp.isnan(y[0, 0, 1, 0]))
    dx = max_pooling_backward(on.array(np.ones((1, 1, 2, 1))), on.array(x), y, 2, 2)
    assert_close(dx[0, :, :2, 0], [[1, 0], [0, 0]], "float64")


def test_a_window_larger_than_the_image_is_refused(on: Namespace) -> None:
    for pooling in (max_pooling, average_pooling):
        with pytest.raises(ValueError, match=r"a window of \(3, 3\) does not fit an image of \(2, 5\)"):
            pooling(on.array(np.zeros((1, 2, 5, 1))), 3, 1)
