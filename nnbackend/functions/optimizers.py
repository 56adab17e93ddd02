"""Update rules: each changes the values p, (size,), in place for the gradient g, and the slots of its state.

weight_decay is that of an L2 penalty, as in PyTorch: g + weight_decay p stands for g. In `adamw_step` alone it is
decoupled from the gradient. lr, and the count of steps t, may also be arrays, (1,), that live on the device.
"""

from __future__ import annotations

from functools import singledispatch

from nnbackend.functions.array import Array, array_namespace

__all__ = [
    "adagrad_step",
    "adam_step",
    "adamw_step",
    "average_step",
    "clip_by_norm",
    "momentum_step",
    "nesterov_step",
    "rmsprop_step",
    "sgd_step",
]


@singledispatch
def sgd_step(p: Array, g: Array, lr: float | Array, weight_decay: float = 0.0) -> None:
    """p <- p - lr g, in place. p, g: (size,), floating."""
    p -= lr * _penalised(p, g, weight_decay)


@singledispatch
def momentum_step(p: Array, g: Array, v: Array, lr: float | Array, momentum: float, weight_decay: float = 0.0) -> None:
    """v <- momentum v + g; p <- p - lr v, in place (Polyak 1964, in PyTorch's form).

    For a constant lr this is the book's v <- momentum v - lr g; p <- p + v.
    """
    v *= momentum
    v += _penalised(p, g, weight_decay)
    p -= lr * v


@singledispatch
def nesterov_step(p: Array, g: Array, v: Array, lr: float | Array, momentum: float, weight_decay: float = 0.0) -> None:
    """v <- momentum v + g; p <- p - lr (g + momentum v), in place (Nesterov 1983; Sutskever et al. 2013, in
    PyTorch's form: p is the point that has looked ahead already).
    """
    g = _penalised(p, g, weight_decay)
    v *= momentum
    v += g
    p -= lr * (g + momentum * v)


@singledispatch
def adagrad_step(p: Array, g: Array, h: Array, lr: float | Array, eps: float, weight_decay: float = 0.0) -> None:
    """h <- h + g^2; p <- p - lr g / (sqrt(h) + eps), in place (Duchi, Hazan, Singer 2011)."""
    g = _penalised(p, g, weight_decay)
    h += g * g
    p -= lr * g / (array_namespace(p).sqrt(h) + eps)


@singledispatch
def rmsprop_step(
    p: Array, g: Array, h: Array, lr: float | Array, alpha: float, eps: float, weight_decay: float = 0.0
) -> None:
    """h <- alpha h + (1 - alpha) g^2; p <- p - lr g / (sqrt(h) + eps), in place (Tieleman, Hinton 2012, in
    PyTorch's form: eps outside the root).
    """
    g = _penalised(p, g, weight_decay)
    h *= alpha
    h += (1.0 - alpha) * (g * g)
    p -= lr * g / (array_namespace(p).sqrt(h) + eps)


@singledispatch
def adam_step(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: float | Array,
    lr: float | Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam, in place (Kingma, Ba 2015, algorithm 1). t counts the steps from 1.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """
    g = _penalised(p, g, weight_decay)
    m *= beta1
    m += (1.0 - beta1) * g
    v *= beta2
    v += (1.0 - beta2) * (g * g)
    m_hat = m / (1.0 - beta1**t)
    v_hat = v / (1.0 - beta2**t)
    p -= lr * m_hat / (array_namespace(p).sqrt(v_hat) + eps)


@singledispatch
def adamw_step(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    t: float | Array,
    lr: float | Array,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """p <- (1 - lr weight_decay) p, then a step of Adam for g itself, in place (Loshchilov, Hutter 2019)."""
    p *= 1.0 - lr * weight_decay
    adam_step(p, g, m, v, t, lr, beta1, beta2, eps)


@singledispatch
def average_step(average: Array, p: Array, decay: float) -> None:
    """average <- decay average + (1 - decay) p, in place: an exponential moving average of the values p.

    It begins with zeros. After t steps, average / (1 - decay^t) is the mean of all values so far, in which each step
    counts 1 / decay times as much as the one before it.
    """
    average *= decay
    average += (1.0 - decay) * p


def _penalised(p: Array, g: Array, weight_decay: float) -> Array:
    """The gradient with that of weight_decay |p|^2 / 2."""
    return g + weight_decay * p if weight_decay else g


@singledispatch
def clip_by_norm(g: Array, limit: float) -> None:
    """Scale g, (size,), in place so that its Euclidean norm is at most `limit`: g <- g min(1, limit / (|g| + 1e-6)),
    PyTorch's clip_grad_norm_ (Pascanu, Mikolov, Bengio 2013). Nothing is read on the host.
    """
    xp = array_namespace(g)
    g *= xp.minimum(limit / (xp.sqrt(g @ g) + 1e-6), 1.0)
