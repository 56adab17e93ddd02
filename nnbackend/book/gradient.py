"""Provide the book's common.gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnbackend.functions.array import Array, array_namespace
from nnbackend.gradients import numerical_gradient

__all__ = ["np", "numerical_gradient", "numerical_gradient_2d"]


def numerical_gradient_2d(f: Callable[[Array], Any], X: Array) -> Array:
    """Return the gradient of f at every row of X, (n, d), or at X, (d,), itself; see `numerical_gradient`."""
    if X.ndim == 1:
        return numerical_gradient(f, X)
    return array_namespace(X).stack([numerical_gradient(f, X[i, ...]) for i in range(X.shape[0])])
