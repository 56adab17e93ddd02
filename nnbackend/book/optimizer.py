"""Provide the book's common.optimizer. `update(params, grads)` changes each array in the dictionary params in place.

A parameter that is a plain number is replaced in params. A gradient may live on another device than its parameter if
one of the two is NumPy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from nnbackend.book.arrays import floating, like, together
from nnbackend.functions.array import Array, array_namespace

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop", "np"]


class _Optimizer:
    """Base class of the optimizers. slots: the names of dictionaries with a state for each parameter, at first 0."""

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        for slot in self.slots:
            setattr(self, slot, None)

    def update(self, params: Any, grads: Mapping[str, Any]) -> None:
        """Change params by the gradients of the same keys.

        Raises KeyError if a gradient is missing, ValueError if it has another shape than its parameter, and TypeError
        if a parameter is an array of integers, which could not hold the change.
        """
        for slot in self.slots:
            if getattr(self, slot) is None:
                setattr(self, slot, {})
        for key in params:
            self._update(params, key, grads[key])

    def _update(self, params: Any, key: str, grad: Any) -> None:
        value, states = params[key], [getattr(self, slot) for slot in self.slots]
        kept = {slot: state.get(key, 0) for slot, state in zip(self.slots, states, strict=True)}
        old, *others = together(**{f"params[{key!r}]": value, f"grads[{key!r}]": grad}, **kept)
        xp = array_namespace(old)
        in_place = hasattr(value, "shape") and hasattr(value, "__setitem__")
        if in_place and not xp.isdtype(old.dtype, "real floating"):
            raise TypeError(f"params[{key!r}]: expected floating numbers, got dtype {old.dtype}")
        if in_place and tuple(others[0].shape) not in (tuple(old.shape), ()):
            raise ValueError(f"grads[{key!r}]: expected shape {tuple(old.shape)}, got {tuple(others[0].shape)}")
        new, *changed = self._step(*floating(old, *others))
        for state, part in zip(states, changed, strict=True):
            state[key] = part
        if in_place:
            value[...] = like(xp.astype(new, old.dtype, copy=False), value)
        else:
            params[key] = like(new, value)[()]

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        """Return the new parameter, then the new value of every slot."""
        raise NotImplementedError


class SGD(_Optimizer):
    """Updates p <- p - lr g."""

    def __init__(self, lr: float = 0.01):
        super().__init__()
        self.lr = lr

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        return (p - self.lr * g,)


class Momentum(_Optimizer):
    """Updates v <- momentum v - lr g; p <- p + v."""

    slots = ("v",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9):
        super().__init__()
        self.lr, self.momentum = lr, momentum

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        v = self.momentum * kept[0] - self.lr * g
        return p + v, v


class Nesterov(Momentum):
    """Updates p <- p + momentum^2 v - (1 + momentum) lr g; v <- momentum v - lr g."""

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        (v,) = kept
        p = p + self.momentum * self.momentum * v - (1 + self.momentum) * self.lr * g
        return p, self.momentum * v - self.lr * g


class AdaGrad(_Optimizer):
    """Updates h <- h + g^2; p <- p - lr g / (sqrt(h) + 1e-7)."""

    slots = ("h",)

    def __init__(self, lr: float = 0.01):
        super().__init__()
        self.lr = lr

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        h = kept[0] + g * g
        return p - self.lr * g / (array_namespace(p).sqrt(h) + 1e-7), h


class RMSprop(_Optimizer):
    """Updates h <- decay_rate h + (1 - decay_rate) g^2; p <- p - lr g / (sqrt(h) + 1e-7)."""

    slots = ("h",)

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99):
        super().__init__()
        self.lr, self.decay_rate = lr, decay_rate

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        h = self.decay_rate * kept[0] + (1 - self.decay_rate) * g * g
        return p - self.lr * g / (array_namespace(p).sqrt(h) + 1e-7), h


class Adam(_Optimizer):
    """Updates p <- p - lr_t m / (sqrt(v) + 1e-7) with lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t).

    m and v are the moving averages of g and g^2, with the rates beta1 and beta2. iter is the t above, the number of
    updates.
    """

    slots = ("m", "v")

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999):
        super().__init__()
        self.lr, self.beta1, self.beta2, self.iter = lr, beta1, beta2, 0

    def update(self, params: Any, grads: Mapping[str, Any]) -> None:
        self.iter += 1
        super().update(params, grads)

    def _step(self, p: Array, g: Array, *kept: Array) -> tuple[Array, ...]:
        m, v = kept
        m = m + (1 - self.beta1) * (g - m)
        v = v + (1 - self.beta2) * (g**2 - v)
        lr_t = self.lr * math.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        return p - lr_t * m / (array_namespace(p).sqrt(v) + 1e-7), m, v


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    kind.__name__.lower(): kind for kind in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam)
}
OPTIMIZERS["rmsprpo"] = RMSprop  # the spelling of the book's Trainer in the first printings
