"""The book's common.optimizer: `update(params, grads)` changes the arrays in the dictionary params in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, ClassVar

from nnbackend.functions.array import Array, array_namespace
from nnbackend.functions.optimizers import adagrad_step, adam_step, momentum_step, nesterov_step, rmsprop_step, sgd_step

Params = MutableMapping[str, Array] | Mapping[str, Array]


class _Optimizer:
    """One update of every parameter; `slots` names the buffers kept for each, zero at first."""

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        for slot in self.slots:
            setattr(self, slot, None)

    def update(self, params: Params, grads: Mapping[str, Array]) -> None:
        for slot in self.slots:
            if getattr(self, slot) is None:
                setattr(self, slot, {k: array_namespace(p).zeros_like(p) for k, p in params.items()})
        for key in params:
            kept = [getattr(self, slot)[key] for slot in self.slots]
            _in_place(self._step, [params[key], *kept], grads[key])

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        raise NotImplementedError


def _in_place(step: Callable[..., None], written: list[Array], g: Array) -> None:
    """Run a step for flat buffers on arrays of any shape and layout, and write back what it wrote."""
    xp = array_namespace(g)
    flat = [xp.reshape(a, (-1,)) for a in written]
    step(flat[0], xp.reshape(g, (-1,)), *flat[1:])
    for a, result in zip(written, flat, strict=True):
        a[...] = xp.reshape(result, a.shape)


class SGD(_Optimizer):
    """p <- p - lr g."""

    def __init__(self, lr: float = 0.01):
        super().__init__()
        self.lr = lr

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        sgd_step(p, g, self.lr)


class Momentum(_Optimizer):
    """v <- momentum v - lr g; p <- p + v. (`v` here is that of nnbackend.optimizers, -v / lr.)"""

    slots = ("v",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9):
        super().__init__()
        self.lr, self.momentum = lr, momentum

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        momentum_step(p, g, kept[0], self.lr, self.momentum)


class Nesterov(Momentum):
    """p <- p + momentum^2 v - (1 + momentum) lr g; v <- momentum v - lr g. (`v` as in Momentum.)"""

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        nesterov_step(p, g, kept[0], self.lr, self.momentum)


class AdaGrad(_Optimizer):
    """h <- h + g^2; p <- p - lr g / (sqrt(h) + 1e-7)."""

    slots = ("h",)

    def __init__(self, lr: float = 0.01):
        super().__init__()
        self.lr = lr

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        adagrad_step(p, g, kept[0], self.lr, 1e-7)


class RMSprop(_Optimizer):
    """h <- decay_rate h + (1 - decay_rate) g^2; p <- p - lr g / (sqrt(h) + 1e-7)."""

    slots = ("h",)

    def __init__(self, lr: float = 0.01, decay_rate: float = 0.99):
        super().__init__()
        self.lr, self.decay_rate = lr, decay_rate

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        rmsprop_step(p, g, kept[0], self.lr, self.decay_rate, 1e-7)


class Adam(_Optimizer):
    """p <- p - lr_t m / (sqrt(v) + 1e-7) with lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t)."""

    slots = ("m", "v")

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999):
        super().__init__()
        self.lr, self.beta1, self.beta2, self.iter = lr, beta1, beta2, 0

    def update(self, params: Params, grads: Mapping[str, Array]) -> None:
        self.iter += 1
        super().update(params, grads)

    def _step(self, p: Array, g: Array, *kept: Array) -> None:
        # the book adds 1e-7 to the root of the uncorrected v: the same as this eps on the corrected one
        eps = 1e-7 / math.sqrt(1 - self.beta2**self.iter)
        adam_step(p, g, kept[0], kept[1], self.iter, self.lr, self.beta1, self.beta2, eps)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    kind.__name__.lower(): kind for kind in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam)
}
OPTIMIZERS["rmsprpo"] = RMSprop  # as the book's Trainer spells it
