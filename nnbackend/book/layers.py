"""The book's common.layers: arrays go in through the constructor, gradients are left in attributes."""

from __future__ import annotations

import numpy as np

from nnbackend import functions as F
from nnbackend.book.functions import cross_entropy_error
from nnbackend.functions.array import Array, array_namespace, device


class Relu:
    """max(x, 0)."""

    def forward(self, x: Array) -> Array:
        self.out = F.relu(x)
        return self.out

    def backward(self, dout: Array) -> Array:
        return F.relu_backward(dout, self.out)


class Sigmoid:
    """1 / (1 + exp(-x))."""

    def forward(self, x: Array) -> Array:
        self.out = F.sigmoid(x)
        return self.out

    def backward(self, dout: Array) -> Array:
        return F.sigmoid_backward(dout, self.out)


class Affine:
    """x W + b; rows of any shape are flattened first. Gradients: dW, db."""

    def __init__(self, W: Array, b: Array):
        self.W, self.b = W, b
        self.dW: Array = None
        self.db: Array = None

    def forward(self, x: Array) -> Array:
        self.original_x_shape = tuple(x.shape)
        self.x = array_namespace(x).reshape(x, (x.shape[0], -1))
        return F.affine(self.x, self.W, self.b)

    def backward(self, dout: Array) -> Array:
        xp = array_namespace(dout)
        self.dW, self.db = xp.empty_like(self.W), xp.empty_like(self.b)
        dx = F.affine_backward(dout, self.x, self.W, self.dW, self.db)
        return xp.reshape(dx, self.original_x_shape)


class SoftmaxWithLoss:
    """Softmax and cross entropy error. t: labels or one-hot rows."""

    def forward(self, x: Array, t: Array) -> Array:
        self.t, self.y = t, F.softmax(x)
        self.loss = cross_entropy_error(self.y, t)
        return self.loss

    def backward(self, dout: float = 1) -> Array:
        return dout * F.softmax_cross_entropy_backward(self.y, self.t)


class Dropout:
    """Drops while training; scales by 1 - dropout_ratio otherwise (not while training, as nnbackend.Dropout does).

    The mask is drawn from numpy.random, as in the book.
    """

    def __init__(self, dropout_ratio: float = 0.5):
        self.dropout_ratio = dropout_ratio
        self.mask: Array = None

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        if not train_flg:
            return x * (1.0 - self.dropout_ratio)
        kept = np.random.rand(*x.shape) > self.dropout_ratio
        xp = array_namespace(x)
        self.mask = xp.astype(xp.asarray(kept, device=device(x)), x.dtype)
        return x * self.mask

    def backward(self, dout: Array) -> Array:
        return dout * self.mask


class BatchNormalization:
    """Batch normalisation of (N, D), or of (N, C, H, W) flattened to it. Gradients: dgamma, dbeta."""

    def __init__(
        self,
        gamma: Array,
        beta: Array,
        momentum: float = 0.9,
        running_mean: Array = None,
        running_var: Array = None,
    ):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = running_mean, running_var
        self.dgamma: Array = None
        self.dbeta: Array = None

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        xp = array_namespace(x)
        self.input_shape = tuple(x.shape)
        x = xp.reshape(x, (x.shape[0], -1))
        if self.running_mean is None:
            self.running_mean, self.running_var = xp.zeros_like(x[0, :]), xp.zeros_like(x[0, :])
        if train_flg:
            y, self._x_hat, self._scale, mean, var = F.batch_normalization(x, self.gamma, self.beta, 10e-7)
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mean
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        else:
            y = self.gamma * (x - self.running_mean) / xp.sqrt(self.running_var + 10e-7) + self.beta
        return xp.reshape(y, self.input_shape)

    def backward(self, dout: Array) -> Array:
        xp = array_namespace(dout)
        dout = xp.reshape(dout, (dout.shape[0], -1))
        self.dgamma, self.dbeta = xp.zeros_like(dout[0, :]), xp.zeros_like(dout[0, :])
        dx = F.batch_normalization_backward(dout, self._x_hat, self.gamma, self._scale, self.dgamma, self.dbeta)
        return xp.reshape(dx, self.input_shape)


class Convolution:
    """Convolution of (N, C, H, W) with filters W: (FN, C, FH, FW). Gradients: dW, db."""

    def __init__(self, W: Array, b: Array, stride: int = 1, pad: int = 0):
        self.W, self.b, self.stride, self.pad = W, b, stride, pad
        self.dW: Array = None
        self.db: Array = None

    def forward(self, x: Array) -> Array:
        xp = array_namespace(x)
        self._x, self._W = F.channels_last(x), xp.permute_dims(self.W, (2, 3, 1, 0))
        return F.channels_first(F.convolution(self._x, self._W, self.b, self.stride, self.pad))

    def backward(self, dout: Array) -> Array:
        xp = array_namespace(dout)
        dW, self.db = xp.zeros(self._W.shape, dtype=dout.dtype, device=device(dout)), xp.empty_like(self.b)
        dx = F.convolution_backward(F.channels_last(dout), self._x, self._W, dW, self.db, self.stride, self.pad)
        self.dW = xp.permute_dims(dW, (3, 2, 0, 1))
        return F.channels_first(dx)


class Pooling:
    """Max pooling of (N, C, H, W)."""

    def __init__(self, pool_h: int, pool_w: int, stride: int = 1, pad: int = 0):
        self.pool_h, self.pool_w, self.stride, self.pad = pool_h, pool_w, stride, pad

    def forward(self, x: Array) -> Array:
        self._x = F.channels_last(x)
        self._y = F.max_pooling(self._x, (self.pool_h, self.pool_w), self.stride, self.pad)
        return F.channels_first(self._y)

    def backward(self, dout: Array) -> Array:
        size = (self.pool_h, self.pool_w)
        dx = F.max_pooling_backward(F.channels_last(dout), self._x, self._y, size, self.stride, self.pad)
        return F.channels_first(dx)
