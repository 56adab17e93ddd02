"""Random changes of images against scipy's interpolation, splines and rotations, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support import NAMESPACES, Namespace, assert_close, check_projection

import nnbackend as nn
from nnbackend.backends import to_numpy, why_not
from nnbackend.functions import (
    affine_positions,
    elastic_draws,
    elastic_positions,
    flip,
    normal,
    resample,
    resample_backward,
    uniform,
)

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIZES = [(7, 5, 1), (4, 9, 3), (1, 6, 2), (1, 1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", [0.0, 0.7])
@DTYPES
def test_bilinear_interpolation_is_scipys(on: Namespace, size: tuple[int, int, int], fill: float, dtype: str) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    x, (h, w, c) = rng.standard_normal((3, *size)).astype(dtype), size
    at = [rng.uniform(-2.5, length + 1.5, (3, 4, 6)).astype(dtype) for length in (h, w)]
    at[0][0, 0], at[1][0, 0] = [-2, -1, 0, h - 1, h, h + 1], w - 1  # on the pixels, and beside the edge
    y = resample(on.array(x), *(on.array(a) for a in at), fill)
    expected = np.empty((3, 4, 6, c))
    for n in range(3):
        for k in range(c):
            picture = x[n, :, :, k].astype(np.float64)
            expected[n, ..., k] = ndimage.map_coordinates(
                picture, [a[n].astype(np.float64) for a in at], order=1, mode="grid-constant", cval=fill
            )
    assert_close(y, expected.astype(dtype), dtype, terms=16)  # a share loses what its position has before the point


def test_a_position_that_is_not_a_number_gives_none(on: Namespace) -> None:
    x = on.array(np.ones((1, 3, 3, 1)), "float32")
    rows = on.array([[[math.nan, 1.0, math.inf, -1e30]]], "float32")
    with np.errstate(invalid="ignore"):
        y = to_numpy(resample(x, rows, on.array(np.ones((1, 1, 4)), "float32")))
    assert np.isnan(y[0, 0, :3, 0]).tolist() == [True, False, True]
    assert y[0, 0, 1, 0] == 1


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_the_images(on: Namespace, size: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    x, (h, w, _) = rng.standard_normal((3, *size)), size
    at = [on.array(rng.uniform(-1.5, length + 0.5, (3, 4, 6)), "float64") for length in (h, w)]
    check_projection(on, lambda x: resample(x, *at, 0.3), lambda u: [resample_backward(u, *at, (h, w))], [x])


def test_the_gradient_in_pieces_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    dy, at = rng.standard_normal((5, 4, 3, 2)), rng.uniform(0, 4, (2, 5, 4, 3))
    whole = resample_backward(dy, *at, (4, 5))
    monkeypatch.setattr("nnbackend.functions.augmentation.AT_ONCE", 300)
    np.testing.assert_allclose(resample_backward(dy, *at, (4, 5)), whole, rtol=1e-13)
    assert resample_backward(dy[:0], at[0, :0], at[1, :0], (4, 5)).shape == (0, 4, 5, 2)


def test_no_draw_is_no_change(on: Namespace) -> None:
    middle = on.array(np.full((2, 4), 0.5), "float64")
    rows, columns = affine_positions(middle, (5, 4), 0.3, 90.0, 0.5)
    expected = np.broadcast_to(np.mgrid[:5, :4][:, None], (2, 2, 5, 4))
    assert_close(rows, expected[0].astype(float), "float64")
    assert_close(columns, expected[1].astype(float), "float64")


def test_an_affine_change_is_scipys(on: Namespace) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(3)
    draws, x = rng.random((6, 4)), rng.standard_normal((6, 8, 11, 1))
    at = affine_positions(on.array(draws, "float64"), (8, 11), 0.2, 50.0, 0.3)
    y = to_numpy(resample(on.array(x, "float64"), *at))
    for picture, changed, draw in zip(x[..., 0], y[..., 0], 2 * draws - 1, strict=True):
        angle, factor, middle = math.radians(50 * draw[2]), 1 + 0.3 * draw[3], np.array([3.5, 5.0])
        # counterclockwise on paper, where rows point down
        back = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / factor
        offset = middle - back @ (middle + np.array([0.2 * 8, 0.2 * 11]) * draw[:2])
        expected = ndimage.affine_transform(picture, back, offset, order=1, mode="grid-constant")
        np.testing.assert_allclose(changed, expected, atol=1e-12)


def test_a_quarter_turn_and_a_shift_move_the_pixels_as_numpy_does(on: Namespace) -> None:
    x = np.arange(25.0).reshape(1, 5, 5, 1)
    turned = affine_positions(on.array([[0.5, 0.5, 1.0, 0.5]], "float64"), (5, 5), 0.2, 90.0, 0.0)
    assert_close(resample(on.array(x, "float64"), *turned), np.rot90(x, axes=(1, 2)), "float64", terms=64)
    shifted = affine_positions(on.array([[1.0, 0.0, 0.5, 0.5]], "float64"), (5, 5), 0.2, 0.0, 0.0)
    expected = np.zeros_like(x)
    expected[:, 1:, :-1] = x[:, :-1, 1:]  # down, and to the left
    assert_close(resample(on.array(x, "float64"), *shifted), expected, "float64", terms=64)


@pytest.mark.parametrize("spacing", [1.0, 2.5, 4.0, 30.0])
def test_an_elastic_change_is_a_cubic_spline_of_its_draws(on: Namespace, spacing: float) -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    h, w, n, distance = 9, 6, 3, 0.8
    draws = np.random.default_rng(4).random(elastic_draws(n, (h, w), spacing))
    at = elastic_positions(on.array(draws, "float64"), (h, w), distance, spacing)

    def splines(length: int, points: int) -> np.ndarray:
        knots = np.arange(-3.0, points + 1)  # point k has the spline that is centred at k - 1
        basis = interpolate.BSpline(knots, np.eye(points), 3)(np.arange(length) / spacing)
        return basis / np.linalg.norm(basis, axis=1, keepdims=True)

    moves = math.sqrt(12) * distance * (draws - 0.5)
    moves = np.einsum("hp,pdnq,wq->dnhw", splines(h, draws.shape[0]), moves, splines(w, draws.shape[3]))
    for axis in (0, 1):
        assert_close(at[axis], np.mgrid[:h, :w][axis] + moves[axis], "float64", terms=64)


def test_every_pixel_moves_as_far_as_any_other() -> None:
    with nn.using("numpy") as backend:
        clock, x = backend.zeros((1,), "int64"), backend.zeros((1,), "float64")
        draws = uniform(x, elastic_draws(20_000, (5, 6), 3.0), 1, 2, clock)
    moves = np.stack(elastic_positions(draws, (5, 6), 1.5, 3.0)) - np.mgrid[:5, :6][:, None]
    # of 20,000 draws: the standard error of a standard deviation is 0.5 % and less, as the ends are cut off
    assert moves.std(axis=1) == pytest.approx(1.5, rel=0.02)
    assert moves.mean(axis=1) == pytest.approx(0, abs=0.05)


def test_flip(on: Namespace) -> None:
    x = np.random.default_rng(5).standard_normal((4, 3, 5, 2))
    chosen = np.array([True, False, True, False])
    expected = x.copy()
    expected[::2] = x[::2, :, ::-1]
    y = flip(on.array(x, "float64"), on.array(chosen))
    assert to_numpy(y).tobytes() == expected.tobytes()
    check_projection(on, lambda x: flip(x, on.array(chosen)), lambda u: [flip(u, on.array(chosen))], [x])


def test_even_numbers_are_the_same_on_every_backend() -> None:
    shape = (3, 5, 7)
    with nn.using("numpy") as numpy:
        arguments = shape, 2**40 + 5, 3, numpy.asarray([17], "int64")
        expected = uniform(numpy.zeros((1,), "float64"), *arguments)
        assert (expected == uniform.dispatch(object)(numpy.zeros((1,), "float64"), *arguments)).all()
    for name in NAMESPACES:
        if name != "numpy-readonly" and why_not(name) is None:
            with nn.using(name) as on:
                for dtype in ("float32", "float64"):
                    ours = to_numpy(uniform(on.zeros((2,), dtype), shape, 2**40 + 5, 3, on.asarray([17], "int64")))
                    assert ours.dtype == dtype
                    assert (ours == expected).all()


@DTYPES
def test_the_numbers_have_the_distributions_that_they_claim(on: Namespace, dtype: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, clock = on.array([0.0], dtype), on.array([5], "int64")
    even, bell = (to_numpy(f(x, (101, 99), 7, 1, clock)) for f in (uniform, normal))
    assert even.shape == bell.shape == (101, 99)
    assert (even.dtype, bell.dtype) == (dtype, dtype)
    assert even.min() >= 0
    assert even.max() < 1
    assert stats.kstest(even.ravel(), "uniform").pvalue > 0.01  # the draws are fixed: so is the answer
    assert stats.kstest(bell.ravel(), "norm").pvalue > 0.01


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="resample: x must be an array of floating numbers, such as float32"):
        resample(np.zeros((1, 2, 2, 1), "uint8"), np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
