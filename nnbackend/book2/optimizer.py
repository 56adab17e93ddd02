"""Provide the book's common.optimizer: the first volume's, for lists.

`update(params, grads)` changes each array of the list params in place by the gradient at the same place of grads.
"""

from __future__ import annotations

from typing import Any

from nnbackend.book import optimizer as first_volume
from nnbackend.book2.np import GPU, np
from nnbackend.functions.array import Array

__all__ = ["GPU", "SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop", "np"]


class _OfLists:
    """Base class that takes lists. Raises ValueError if the lists differ in length."""

    def update(self, params: Any, grads: Any) -> None:
        if len(params) != len(grads):
            raise ValueError(f"grads: expected {len(params)} arrays, one for each of params, got {len(grads)}")
        kept = dict(enumerate(params))
        super().update(kept, dict(enumerate(grads)))  # type: ignore[misc]


class SGD(_OfLists, first_volume.SGD):
    """Updates p <- p - lr g."""


class Momentum(_OfLists, first_volume.Momentum):
    """Updates v <- momentum v - lr g; p <- p + v."""


class Nesterov(_OfLists, first_volume.Nesterov):
    """Updates v <- momentum v - lr g; p <- p + momentum^2 v - (1 + momentum) lr g, with the new v.

    The first volume takes the v before its update.
    """

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        v = self.momentum * kept[0] - self.lr * g
        return p + self.momentum * self.momentum * v - (1 + self.momentum) * self.lr * g, v


class AdaGrad(_OfLists, first_volume.AdaGrad):
    """Updates h <- h + g^2; p <- p - lr g / (sqrt(h) + 1e-7)."""


class RMSprop(_OfLists, first_volume.RMSprop):
    """Updates h <- decay_rate h + (1 - decay_rate) g^2; p <- p - lr g / (sqrt(h) + 1e-7)."""


class Adam(_OfLists, first_volume.Adam):
    """Updates p by Adam, as the first volume's."""
