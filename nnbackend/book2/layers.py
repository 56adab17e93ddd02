"""Provide the book's common.layers.

A layer has its parameters in the list `params`. `backward` writes their gradients into the arrays of the list `grads`,
which stay the same arrays. If the input or a parameter is on a device, NumPy arrays move to that device.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from nnbackend import functions as F
from nnbackend.book import layers as first_volume
from nnbackend.book.arrays import floating, like, together
from nnbackend.book2.functions import cross_entropy_error, sigmoid, softmax
from nnbackend.book2.np import GPU, np
from nnbackend.functions.array import Array, MaybeArray, array_namespace, as_rows

__all__ = [
    "GPU",
    "Affine",
    "Dropout",
    "Embedding",
    "MatMul",
    "Sigmoid",
    "SigmoidWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "cross_entropy_error",
    "np",
    "softmax",
]


class Parts:
    """Base class of what has parameters. params: a list of arrays."""

    def __init__(self, *params: Any):
        self.params: list[Any] = list(params)

    @cached_property
    def grads(self) -> list[Any]:
        """The gradients of the parameters: arrays of the same shapes, zeros before the first `backward`."""
        return [array_namespace(p).zeros_like(p) for p in self.params]

    def _write(self, *gradients: Array) -> None:
        for kept, gradient in zip(self.grads, gradients, strict=True):
            kept[...] = like(gradient, kept)


class Bare:
    """Base class of what has no parameters."""

    def __init__(self, *settings: Any, **named: Any):
        super().__init__(*settings, **named)
        self.params: list[Any] = []
        self.grads: list[Any] = []


class MatMul(Parts):
    """Computes x W. x: (..., i); W: (i, o)."""

    def __init__(self, W: Any):
        super().__init__(W)
        self.x: MaybeArray = None

    def forward(self, x: Any) -> Array:
        x, W = together(x=x, W=self.params[0])
        self.x = x
        return product(x, W)

    def backward(self, dout: Any) -> Array:
        dx, *gradients = self._gradients(dout)
        self._write(*gradients)
        return dx

    def _gradients(self, dout: Any) -> list[Array]:
        dout, x, W = together(dout=dout, x=self.x, W=self.params[0])
        expect("dout", dout, (*x.shape[:-1], W.shape[1]))
        return [dout @ W.T, as_rows(x).T @ as_rows(dout)]


class Affine(MatMul):
    """Computes x W + b. x: (..., i); W: (i, o); b: (o,)."""

    def __init__(self, W: Any, b: Any):
        Parts.__init__(self, W, b)
        self.x = None

    def forward(self, x: Any) -> Array:
        y, b = together(y=super().forward(x), b=self.params[1])
        expect_bias(b, y.shape[-1])
        return y + b

    def _gradients(self, dout: Any) -> list[Array]:
        xp = array_namespace(dout)
        return [*super()._gradients(dout), xp.sum(as_rows(dout), axis=0)]


class Softmax(Bare):
    """Computes the softmax of x over its last axis. out: the result."""

    out: MaybeArray = None

    def forward(self, x: Any) -> Array:
        self.out = softmax(x)
        return self.out

    def backward(self, dout: Any) -> Array:
        out, dout = floating(*together(out=self.out, dout=dout))
        return F.softmax_backward(dout, out)


class SoftmaxWithLoss(Bare, first_volume.SoftmaxWithLoss):
    """Computes the cross entropy error of the softmax, as in the first volume."""


class Sigmoid(Bare, first_volume.Sigmoid):
    """Computes 1 / (1 + exp(-x)), as in the first volume."""


class Dropout(Bare, first_volume.Dropout):
    """Drops elements while training, and multiplies by 1 - dropout_ratio otherwise, as in the first volume."""


class SigmoidWithLoss(Bare):
    """Computes the sigmoid y of scores x, (n,), and its mean cross entropy error.

    The error of a row is -log(y + 1e-7) if t is 1, and -log(1 - y + 1e-7) if t is 0.
    """

    loss: Any = None
    y: MaybeArray = None
    t: MaybeArray = None

    def forward(self, x: Any, t: Any) -> Any:
        x, self.t = together(x=x, t=t)
        if x.ndim != 1 or tuple(self.t.shape) != tuple(x.shape):
            raise ValueError(f"expected x: (n,) and t: (n,), got shapes {tuple(x.shape)} and {tuple(self.t.shape)}")
        xp = array_namespace(x)
        self.y = sigmoid(x)
        self.loss = cross_entropy_error(xp.stack([1 - self.y, self.y], axis=1), self.t)
        return self.loss

    def backward(self, dout: Any = 1) -> Array:
        y, t = together(y=self.y, t=self.t)
        dx: Array = (y - array_namespace(y).astype(t, y.dtype)) * dout / y.shape[0]
        return dx


class Embedding(Parts):
    """Takes the rows W[idx]. W: (vocabulary, d); idx: integers of any shape. Returns (*idx.shape, d).

    The gradient of a row is the sum of what belongs to it, in a fixed order on every backend. Raises TypeError unless
    idx holds integers, and on NumPy ValueError for a number that is no row of W.
    """

    def __init__(self, W: Any):
        super().__init__(W)
        self.idx: MaybeArray = None

    def forward(self, idx: Any) -> Array:
        idx, W = together(idx=idx, W=self.params[0])
        xp = array_namespace(W)
        if not xp.isdtype(idx.dtype, "integral"):
            raise TypeError(f"idx: expected integers, got dtype {idx.dtype}")
        self.idx = xp.astype(idx, xp.int64)
        return F.embedding(W, self.idx)

    def backward(self, dout: Any) -> None:
        dout, idx, W = together(dout=dout, idx=self.idx, W=self.params[0])
        dW = array_namespace(W).empty_like(W)
        F.embedding_backward(array_namespace(dout).astype(dout, W.dtype, copy=False), idx, dW)
        self._write(dW)


def expect(name: str, x: Array, shape: tuple[int | None, ...]) -> None:
    """Raise ValueError unless x has this shape, in which None stands for any length of at least 1."""
    if x.ndim != len(shape) or any(m != n and (n is not None or m == 0) for m, n in zip(x.shape, shape, strict=False)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: expected shape ({expected}), got {tuple(x.shape)}")


def expect_bias(b: Array, length: int) -> None:
    """Raise ValueError unless b is (length,) or (1, length)."""
    if tuple(b.shape) not in ((length,), (1, length)):
        raise ValueError(f"b: expected shape ({length},), got {tuple(b.shape)}")


def made(name: str, kept: Any) -> Any:
    """Return what a forward has kept. Raise ValueError if there was none."""
    if kept is None:
        raise ValueError(f"{name}: the backward of a layer comes after its forward")
    return kept


def product(x: Array, W: Array) -> Array:
    """Return x W. Raises ValueError, with both shapes, if the last axis of x is not the first of W."""
    if W.ndim != 2 or x.ndim == 0 or x.shape[-1] != W.shape[0]:
        raise ValueError(f"x: expected a last axis of {W.shape[0]}, as W {tuple(W.shape)}, got shape {tuple(x.shape)}")
    return x @ W
