"""Provide the book's dataset.spiral."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["load_data", "np"]


def load_data(seed: int = 1984) -> tuple[Any, Any]:
    """Return x, (300, 2), and one-hot t, (300, 3): three arms of a spiral, with the book's numbers (section 1.4.1).

    seed: of numpy.random, which goes on from there, as in the book.
    """
    np.random.seed(seed)
    n, classes = 100, 3
    radius = np.tile(np.arange(n) / n, classes)
    arm = np.repeat(np.arange(classes), n)
    theta = arm * 4.0 + 4.0 * radius + np.random.randn(n * classes) * 0.2
    return np.stack([radius * np.sin(theta), radius * np.cos(theta)], axis=1), np.eye(classes, dtype=np.int32)[arm]
