"""Batch normalisation and layer normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnbackend.checks import decay, positive, positive_integer
from nnbackend.functions import (
    batch_normalization,
    batch_normalization_backward,
    layer_normalization,
    layer_normalization_backward,
)
from nnbackend.functions.array import Array, array_namespace
from nnbackend.initializers import Constant
from nnbackend.layers.base import Layer, Shape, check_input
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class Normalization(Layer):
    """Base class of both normalisations. Holds a scale gamma and a shift beta for each of `features`, the last axis."""

    features: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        positive_integer(f"{self.kind}: features", self.features)
        positive(f"{self.kind}: eps", self.eps)
        self.gamma = Parameter((self.features,), Constant(1.0))
        self.beta = Parameter((self.features,), Constant(0.0))

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or shape[-1] != self.features:
            raise ValueError(
                f"{self} takes rows whose last axis is {self.features}, but what comes before gives {shape}"
            )
        return shape


@dataclass(eq=False)
class BatchNormalization(Normalization):
    """Normalises each feature by the mean and variance of the batch while training, by running statistics otherwise.

    x: (n, features), or (n, height, width, features). Mean and variance are taken over all axes but the last.
    momentum: the fraction of the running mean and variance that each training batch keeps, at least 0 and below 1.
    The book's 0.9 is PyTorch's 0.1, which is the fraction that a batch adds.
    The running variance is divided by n - 1, as in PyTorch.
    A batch of one row, such as the last batch of an epoch, has no variance. It is normalised as in inference, and the
    running statistics do not change. A Trainer refuses a batch_size of 1.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        decay(f"{self.kind}: momentum", self.momentum)
        self.running_mean = Parameter((self.features,), Constant(0.0), trainable=False)
        self.running_var = Parameter((self.features,), Constant(1.0), trainable=False)

    def forward(self, x: Array, training: bool = False) -> Array:
        gamma, beta, mean, var = self.gamma.data, self.beta.data, self.running_mean.data, self.running_var.data
        check_input(self, x, gamma, self.features, axes=None)
        rows = math.prod(x.shape[:-1])
        self._training = training = training and rows > 1  # one row has no variance
        if not training:
            self._scale = 1.0 / array_namespace(x).sqrt(var + self.eps)
            self._x_hat = (x - mean) * self._scale
            return gamma * self._x_hat + beta
        y, self._x_hat, self._scale, batch_mean, batch_var = batch_normalization(x, gamma, beta, self.eps)
        fresh = 1.0 - self.momentum
        update = [fresh * batch_mean, (fresh * rows / (rows - 1)) * batch_var]
        if self.waiting is None:
            self.follow(update)
        else:
            self.waiting.append(update)
        return y

    def follow(self, update: list[Array]) -> None:
        for running, fresh in zip((self.running_mean.data, self.running_var.data), update, strict=True):
            running[...] = self.momentum * running + fresh

    def least_rows(self, shape: Shape) -> int:
        return 2 if math.prod(shape[:-1]) == 1 else 1

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        if self._training:
            return batch_normalization_backward(
                dy, self._x_hat, self.gamma.data, self._scale, self.gamma.grad, self.beta.grad
            )
        xp, over = array_namespace(dy), tuple(range(dy.ndim - 1))
        self.gamma.grad[...] = xp.sum(dy * self._x_hat, axis=over)
        self.beta.grad[...] = xp.sum(dy, axis=over)
        return dy * (self.gamma.data * self._scale)


@dataclass(eq=False)
class LayerNormalization(Normalization):
    """Normalises every row over its last axis, in training and inference alike. x: (n, ..., features)."""

    def forward(self, x: Array, training: bool = False) -> Array:
        check_input(self, x, self.gamma.data, self.features, axes=None)
        y, self._x_hat, self._scale = layer_normalization(x, self.gamma.data, self.beta.data, self.eps)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return layer_normalization_backward(
            dy, self._x_hat, self.gamma.data, self._scale, self.gamma.grad, self.beta.grad
        )
