"""Provide the book's common.layers. A constructor takes the parameters, and `backward` stores gradients in attributes.

If the input or a parameter is on a device, NumPy arrays move to that device. The gradients are stored where the
parameters are, so that `W -= lr * layer.dW` works.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnbackend import functions as F
from nnbackend.book.arrays import floating, like, together, whole
from nnbackend.book.functions import (
    are_rows,
    cross_entropy_error,
    identity_function,
    labels,
    mean_squared_error,
    relu,
    relu_grad,
    sigmoid,
    sigmoid_grad,
    softmax,
    softmax_loss,
    step_function,
    sum_squared_error,
)
from nnbackend.book.util import col2im, im2col
from nnbackend.functions.array import Array, MaybeArray, array_namespace, device, one_hot
from nnbackend.functions.convolution import pad, unpadded

__all__ = [
    "Affine",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Pooling",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "col2im",
    "cross_entropy_error",
    "identity_function",
    "im2col",
    "mean_squared_error",
    "np",
    "relu",
    "relu_grad",
    "sigmoid",
    "sigmoid_grad",
    "softmax",
    "softmax_loss",
    "step_function",
    "sum_squared_error",
]


class Relu:
    """Computes max(x, 0). mask: True where x <= 0."""

    def __init__(self) -> None:
        self.mask: MaybeArray = None

    def forward(self, x: Any) -> Array:
        (x,) = together(x=x)
        self.mask = x <= 0
        return relu(x)

    def backward(self, dout: Any) -> Array:
        dout, mask = together(dout=dout, mask=self.mask)
        xp = array_namespace(dout)
        return xp.where(mask, xp.zeros_like(dout), dout)


class Sigmoid:
    """Computes 1 / (1 + exp(-x)). out: the result."""

    def __init__(self) -> None:
        self.out: MaybeArray = None

    def forward(self, x: Any) -> Array:
        self.out = sigmoid(x)
        return self.out

    def backward(self, dout: Any) -> Array:
        dy, out = floating(*together(dout=dout, out=self.out))
        return dy * (1.0 - out) * out


class Affine:
    """Computes x W + b for x, (n, ...), whose rows are flattened. A single row, (i,), gives a single row.

    W: (i, o); b: (o,) or a number. Gradients: dW, db.
    """

    def __init__(self, W: Any, b: Any):
        self.W, self.b = W, b
        self.x: MaybeArray = None
        self.original_x_shape: tuple[int, ...] | None = None
        self.dW: MaybeArray = None
        self.db: MaybeArray = None

    def forward(self, x: Any) -> Array:
        x, W, b = together(x=x, W=self.W, b=self.b)
        if x.ndim == 0 or W.ndim != 2:
            raise ValueError(f"expected x: (n, ...) and W: (i, o), got shapes {tuple(x.shape)} and {tuple(W.shape)}")
        self.original_x_shape = tuple(x.shape)
        self.x = _rows(x[None, :] if x.ndim == 1 else x)
        if self.x.shape[1] != W.shape[0]:
            raise ValueError(f"x: expected rows of {W.shape[0]} numbers, as W has rows, got shape {tuple(x.shape)}")
        rows, W, b = floating(self.x, W, b)
        y = F.affine(rows, W, _vector("b", b, W.shape[1]))
        return y[0, :] if x.ndim == 1 else y

    def backward(self, dout: Any) -> Array:
        dout, x, W = floating(*together(dout=dout, x=self.x, W=self.W))
        xp = array_namespace(dout)
        dout = xp.reshape(dout, (x.shape[0], W.shape[1]))
        dW, db = _empty_for(W, dout.shape[1])
        dx = F.affine_backward(dout, x, W, dW, db)
        self.dW, self.db = like(dW, self.W), like(db, self.b)
        return xp.reshape(dx, self.original_x_shape)


class SoftmaxWithLoss:
    """Computes the softmax of scores x, (n, classes) or (classes,), and its cross entropy error.

    t: integer labels, (n,) or (n, 1), or one-hot rows of the shape of x; see `cross_entropy_error`.
    """

    def __init__(self) -> None:
        self.loss: Any = None
        self.y: MaybeArray = None
        self.t: MaybeArray = None

    def forward(self, x: Any, t: Any) -> Any:
        x, self.t = together(x=x, t=t)
        self.y = softmax(x)
        self.loss = cross_entropy_error(self.y, self.t)
        return self.loss

    def backward(self, dout: Any = 1) -> Array:
        """Return dout (y - t) / n, t being one-hot rows: the gradient without the 1e-7 of the loss."""
        scores, t, dout = together(y=self.y, t=self.t, dout=dout)
        xp = array_namespace(scores)
        y = xp.reshape(scores, (1, -1)) if scores.ndim == 1 else scores
        rows = are_rows(y, t)
        t = xp.astype(xp.reshape(t, y.shape), y.dtype) if rows else one_hot(labels(y, t), y.shape[1], y.dtype)
        return xp.reshape(xp.astype(dout, y.dtype) * ((y - t) / y.shape[0]), scores.shape)


class Dropout:
    """Drops elements with probability dropout_ratio while training, and multiplies by 1 - dropout_ratio otherwise.

    `nnbackend.Dropout` divides by 1 - ratio while training instead. mask: True for the elements that are kept; it is
    drawn from numpy.random, as in the book. Raises ValueError for a dropout_ratio that is not from 0 to 1.
    """

    def __init__(self, dropout_ratio: float = 0.5):
        if not 0 <= dropout_ratio <= 1:
            raise ValueError(f"dropout_ratio: expected a number from 0 to 1, got {dropout_ratio!r}")
        self.dropout_ratio = dropout_ratio
        self.mask: MaybeArray = None

    def forward(self, x: Any, train_flg: bool = True) -> Array:
        (x,) = floating(*together(x=x))
        if not train_flg:
            y: Array = x * (1.0 - self.dropout_ratio)
            return y
        x, self.mask = together(x=x, mask=np.random.rand(*x.shape) > self.dropout_ratio)
        return _kept(x, self.mask)

    def backward(self, dout: Any) -> Array:
        return _kept(*together(dout=dout, mask=self.mask))


class BatchNormalization:
    """Normalises x, (n, d), or (n, c, h, w) flattened to (n, c h w), over the batch, with an epsilon of 10e-7.

    gamma, beta: (d,) or a number. The running variance is that of the batch (divided by n), as in the book.
    running_mean and running_var begin at 0 unless they are given. Gradients: dgamma, dbeta.
    """

    def __init__(self, gamma: Any, beta: Any, momentum: float = 0.9, running_mean: Any = None, running_var: Any = None):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = running_mean, running_var
        self.input_shape: tuple[int, ...] | None = None
        self.batch_size: int | None = None
        self.xc: MaybeArray = None
        self.xn: MaybeArray = None
        self.std: MaybeArray = None
        self.dgamma: MaybeArray = None
        self.dbeta: MaybeArray = None

    def forward(self, x: Any, train_flg: bool = True) -> Array:
        x, gamma, beta = floating(*together(x=x, gamma=self.gamma, beta=self.beta))
        xp = array_namespace(x)
        self.input_shape = tuple(x.shape)
        x = _rows(x)
        gamma, beta = _vector("gamma", gamma, x.shape[1]), _vector("beta", beta, x.shape[1])
        if self.running_mean is None:
            self.running_mean, self.running_var = xp.zeros_like(gamma), xp.zeros_like(gamma)
        _, running_mean, running_var = together(x=x, running_mean=self.running_mean, running_var=self.running_var)
        if not train_flg:
            xn = (x - running_mean) / xp.sqrt(running_var + 10e-7)
        else:
            mean = xp.mean(x, axis=0)
            self.xc, self.batch_size = x - mean, x.shape[0]
            var = xp.mean(self.xc**2, axis=0)
            self.std = xp.sqrt(var + 10e-7)
            self.xn = xn = self.xc / self.std
            self.running_mean = self.momentum * running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * running_var + (1 - self.momentum) * var
        return xp.reshape(gamma * xn + beta, self.input_shape)

    def backward(self, dout: Any) -> Array:
        dout, gamma, xn, std = floating(*together(dout=dout, gamma=self.gamma, xn=self.xn, std=self.std))
        xp = array_namespace(dout)
        dout = xp.reshape(dout, xn.shape)
        gamma = _vector("gamma", gamma, xn.shape[1])
        dgamma, dbeta = xp.empty_like(std), xp.empty_like(std)
        dx = F.batch_normalization_backward(dout, xn, gamma, 1.0 / std, dgamma, dbeta)
        self.dgamma, self.dbeta = like(dgamma, self.gamma), like(dbeta, self.beta)
        return xp.reshape(dx, self.input_shape)


class Convolution:
    """Convolves x, (n, c, h, w), with filters W: (o, c, kh, kw). b: (o,) or a number. Gradients: dW, db.

    col, col_W: x and W as matrices whose product is the convolution. They are computed at each access.
    """

    def __init__(self, W: Any, b: Any, stride: int = 1, pad: int = 0):
        self.W, self.b = W, b
        self.stride, self.pad = whole("stride", stride, 1), whole("pad", pad, 0)
        self.x: MaybeArray = None
        self.dW: MaybeArray = None
        self.db: MaybeArray = None

    @property
    def col(self) -> Array | None:
        """Return the windows of x, (n h' w', c kh kw), or None before the first forward."""
        (W,) = together(W=self.W)
        return None if self.x is None else im2col(self.x, W.shape[2], W.shape[3], self.stride, self.pad)

    @property
    def col_W(self) -> Array:
        """Return the filters as columns, (c kh kw, o)."""
        (W,) = together(W=self.W)
        return array_namespace(W).reshape(W, (W.shape[0], -1)).T

    def forward(self, x: Any) -> Array:
        self.x, W, b = together(x=x, W=self.W, b=self.b)
        x, W, b = floating(self.x, W, b)
        if x.ndim != 4 or W.ndim != 4 or x.shape[1] != W.shape[1]:
            shapes = f"{tuple(x.shape)} and {tuple(W.shape)}"
            raise ValueError(f"expected x: (n, c, h, w) and W: (o, c, kh, kw), got shapes {shapes}")
        b = _vector("b", b, W.shape[0])
        return F.channels_first(F.convolution(F.channels_last(x), _ours(W), b, self.stride, self.pad))

    def backward(self, dout: Any) -> Array:
        dout, x, W = floating(*together(dout=dout, x=self.x, W=self.W))
        xp = array_namespace(dout)
        W = _ours(W)
        dW, db = _empty_for(W, W.shape[3])
        dx = F.convolution_backward(F.channels_last(dout), F.channels_last(x), W, dW, db, self.stride, self.pad)
        self.dW, self.db = like(xp.permute_dims(dW, (3, 2, 0, 1)), self.W), like(db, self.b)
        return F.channels_first(dx)


class Pooling:
    """Takes the maximum of every window of x, (n, c, h, w). Padding counts as 0; `nnbackend.MaxPooling` ignores it.

    arg_max: the place of each maximum in its window, (n h' w' c,). It is computed at each access.
    """

    def __init__(self, pool_h: int, pool_w: int, stride: int = 2, pad: int = 0):
        self.pool_h, self.pool_w = whole("pool_h", pool_h, 1), whole("pool_w", pool_w, 1)
        self.stride, self.pad = whole("stride", stride, 1), whole("pad", pad, 0)
        self.x: MaybeArray = None
        self._padded: MaybeArray = None
        self._y: MaybeArray = None

    @property
    def arg_max(self) -> Array | None:
        """Return the place of each maximum in its window, or None before the first forward."""
        if self.x is None:
            return None
        xp = array_namespace(self.x)
        col = im2col(self.x, self.pool_h, self.pool_w, self.stride, self.pad)
        return xp.argmax(xp.reshape(col, (-1, self.pool_h * self.pool_w)), axis=1)

    def forward(self, x: Any) -> Array:
        (self.x,) = floating(*together(x=x))
        if self.x.ndim != 4:
            raise ValueError(f"x: expected shape (n, c, h, w), got {tuple(self.x.shape)}")
        self._padded = pad(F.channels_last(self.x), self.pad)
        self._y = F.max_pooling(self._padded, (self.pool_h, self.pool_w), self.stride)
        return F.channels_first(self._y)

    def backward(self, dout: Any) -> Array:
        dout, x, y = floating(*together(dout=dout, x=self._padded, y=self._y))
        dx = F.max_pooling_backward(F.channels_last(dout), x, y, (self.pool_h, self.pool_w), self.stride)
        return F.channels_first(dx[unpadded(self.x.shape[2], self.x.shape[3], self.pad)])


def _vector(name: str, value: Array, length: int) -> Array:
    """Return `value`, (length,) or one number, as an array of that length."""
    if tuple(value.shape) == (length,):
        return value
    if tuple(value.shape) not in ((1,), ()):
        raise ValueError(f"{name}: expected shape ({length},) or a number, got shape {tuple(value.shape)}")
    return array_namespace(value).zeros((length,), dtype=value.dtype, device=device(value)) + value


def _empty_for(W: Array, outputs: int) -> tuple[Array, Array]:
    """Return empty arrays for the gradients of W and b. They are contiguous even if W is not."""
    xp = array_namespace(W)
    dW, db = (xp.empty(shape, dtype=W.dtype, device=device(W)) for shape in (tuple(W.shape), (outputs,)))
    return dW, db


def _rows(x: Array) -> Array:
    """Return x, (n, ...), with flattened rows."""
    return array_namespace(x).reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def _ours(W: Array) -> Array:
    """Return the book's filters, (o, c, kh, kw), in the order of `nnbackend.functions`, (kh, kw, c, o)."""
    return array_namespace(W).permute_dims(W, (2, 3, 1, 0))


def _kept(x: Array, mask: Array) -> Array:
    """Return x where the mask is true, else 0."""
    xp = array_namespace(x)
    return xp.where(mask, x, xp.zeros_like(x))
