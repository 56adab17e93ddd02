"""Small data sets made from a formula: the first things a network learns."""

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
    """The spiral of "Deep Learning from Scratch 2" (ゼロから作るDeep Learning 2, section 1.4.1).

    Point i of class j has radius r = i / points and angle theta = offset(j) + 4 r + noise * N(0, 1), radians;
    x = (r sin theta, r cos theta). The book has three classes and offset(j) = 4 j, kept exactly here. Its
    arms happen to be nearly even (gaps of 1.72, 2.28 and 2.28 radians), but from four classes on 4 j leaves
    gaps of 0.57 or less; any other number of classes has offset(j) = 2 pi j / classes, the widest even gap.

    Returns x (classes * points, 2) of `dtype` and labels t (classes * points,) int64, class after class, on
    `backend` (None: the current one). The noise comes from NumPy's default generator with `seed`: the same on
    every backend, other numbers than the book's.

    Raises ValueError for classes < 2, points < 1, seed < 0, noise negative or not finite, or a dtype that is
    not float32 or float64; TypeError for a count that is no integer.
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
    """Exclusive or, which no linear model can learn: x = (0,0), (0,1), (1,0), (1,1) and t = 0, 1, 1, 0.

    Returns x (4, 2) of `dtype` and t (4,) int64, on `backend` (None: the current one).
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
