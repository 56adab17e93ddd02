"""Make small data sets from formulas."""

from __future__ import annotations

import math

import numpy as np

from nnbackend.backends import Backend
from nnbackend.datasets.arrays import check_float, place
from nnbackend.functions.array import Array

__all__ = ["spiral", "xor"]


def spiral(
    classes: int = 3,
    points: int = 100,
    *,
    seed: int = 0,
    dtype: str = "float32",
    noise: float = 0.2,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """Make the spiral of "Deep Learning from Scratch 2" (ゼロから作るDeep Learning 2, section 1.4.1).

    Point i of class j has radius r = i / points and angle theta = offset(j) + 4 r + noise * N(0, 1), in radians, and
    x = (r sin theta, r cos theta). For three classes offset(j) = 4 j, exactly as in the book; the gaps between its
    arms are 1.72, 2.28 and 2.28 radians. From four classes on, 4 j would leave gaps of 0.57 or less. Any other number
    of classes therefore has offset(j) = 2 pi j / classes, the widest even gap.

    Returns x (classes * points, 2) of `dtype` and labels t (classes * points,) int64, class after class, on
    `backend` (None: the current backend). The noise comes from NumPy's default generator with `seed`. It is the same
    on every backend, but differs from the book's numbers.

    Raises ValueError for classes < 2, points < 1, seed < 0, a noise that is negative or not finite, and a dtype that
    is not float32 or float64. Raises TypeError for a count that is not an integer.
    """
    _check_integer("classes", classes, 2)
    _check_integer("points", points, 1)
    _check_integer("seed", seed, 0)
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise: got {noise!r}, expected a finite number of at least 0")
    check_float(dtype)
    label = np.arange(classes)[:, None]
    radius = np.arange(points) / points
    offset = label * (4.0 if classes == 3 else 2 * math.pi / classes)
    theta = offset + 4.0 * radius + noise * np.random.default_rng(seed).standard_normal((classes, points))
    x = np.stack([radius * np.sin(theta), radius * np.cos(theta)], axis=-1)
    return place(x.reshape(-1, 2), np.repeat(label, points), dtype, backend)


def xor(*, dtype: str = "float32", backend: Backend | None = None) -> tuple[Array, Array]:
    """Make exclusive or, which no linear model can learn: x = (0,0), (0,1), (1,0), (1,1) and t = 0, 1, 1, 0.

    Returns x (4, 2) of `dtype` and t (4,) int64, on `backend` (None: the current backend).
    Raises ValueError for a dtype that is not float32 or float64.
    """
    check_float(dtype)
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return place(x, x[:, 0] ^ x[:, 1], dtype, backend)


def _check_integer(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: got {value!r}, expected an integer")
    if value < low:
        raise ValueError(f"{name}: got {value}, expected at least {low}")
