"""Loops in C (native.c and the .h files) for NumPy arrays, in place of several passes over memory by NumPy.

`_native` exists if there was a C compiler when the package was installed. Each loop takes precedence over NumPy's
kernel, which serves all arguments that the loop does not support. The loops give no floating-point warnings.
NNBACKEND_NATIVE=0 leaves them out.
"""

from __future__ import annotations

import functools
import os
from typing import Any, TypeAlias

import numpy as np

from nnbackend.backends.numpy import _native, kernels
from nnbackend.backends.numpy.processors import MOST, available
from nnbackend.functions import (
    affine,
    affine_backward,
    batch_normalization,
    batch_normalization_backward,
    convolution,
    convolution_backward,
    dropout_mask,
    embedding_backward,
    gather,
    gelu,
    gelu_backward,
    gru,
    gru_backward,
    gru_gates,
    gru_gates_backward,
    is_finite,
    layer_normalization,
    layer_normalization_backward,
    leaky_relu,
    leaky_relu_backward,
    lstm,
    lstm_backward,
    lstm_gates,
    lstm_gates_backward,
    max_pooling,
    max_pooling_backward,
    relu,
    relu_backward,
    resample,
    rnn,
    rnn_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_recorded,
    softmax_cross_entropy_variants,
    uniform,
)
from nnbackend.functions.affine import product, product_into
from nnbackend.functions.array import flatten, flatten_backward
from nnbackend.functions.convolution import Size, output_size, pair, unpadded
from nnbackend.functions.dispatch import kernel
from nnbackend.functions.optimizers import (
    adagrad_step,
    adam_step,
    adamw_step,
    momentum_step,
    nesterov_step,
    rmsprop_step,
    sgd_step,
)
from nnbackend.functions.philox import advance, masked
from nnbackend.functions.recurrent import (
    for_products,
    input_products,
    input_products_backward,
    state_products_backward,
)


def _are_stale() -> bool:
    """Say whether the loops were compiled from other sources than the C files beside this file."""
    # without pathlib, whose import takes longer than all of this
    room = os.path.dirname(__file__)  # noqa: PTH120
    sources = [f"{room}{os.sep}{name}" for name in ("native.c", "loops.h", "product.h", "threads.h")]
    try:
        built = os.stat(_native.__file__).st_mtime  # noqa: PTH116
        if all(os.stat(source).st_mtime <= built for source in sources):  # noqa: PTH116
            return False
        text = ""
        for source in sources:
            with open(source, encoding="utf-8") as file:  # noqa: PTH123
                text += file.read()
    except OSError:  # the sources are not there
        return False
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16] != _native.SOURCES


if _are_stale():
    raise ImportError("they were compiled from other sources than those that are here: install the package again")

HostArray: TypeAlias = np.ndarray[Any, Any]
LOW32 = 2**32 - 1

loop = functools.partial(kernel, kind=np.ndarray, exact=True)

# Whether products of matrices are among the loops: if the processor has fused multiply-add, and all processors together
# are no more than the threads of the loops. The threads of OpenBLAS would take the processors from ours.
_processors = available()
PRODUCTS = bool(_native.PRODUCTS) and _processors <= MOST
if PRODUCTS:
    _native.use_threads(_processors)


# Time of a training step with these loops, as a fraction of the time without (ci/bench/native.py, 2026-11-30), for SGD,
# Adam, and SGD with dropout: 0.42, 0.31, 0.29 for 784-50-10 (100 rows); 0.67, 0.54, 0.43 for 784-256-128-10 (128 rows);
# 0.87, 0.66, 0.54 for 784-1024-1024-10 (256 rows). Adam: 0.38 for `convolutional_network` (128 images), 0.32 with batch
# normalisation, 0.42 for a transformer.

# --- updates: for 39,760 values, SGD takes 2 us instead of 7, Adam 6 us instead of 43. Without weight decay, SGD and
# AdaGrad touch the values alone whose gradient is not 0: a step of 100 rows with an embedding of 50,000 words and 100
# features takes 0.88 and 0.64 of the time


@loop(sgd_step)
def _(p: HostArray, g: HostArray, lr: float, weight_decay: float = 0.0) -> Any:
    return _native.sgd(p, g, lr, weight_decay)


@loop(momentum_step)
def _(p: HostArray, g: HostArray, v: HostArray, lr: float, momentum: float, weight_decay: float = 0.0) -> Any:
    return _native.momentum(p, g, v, lr, momentum, weight_decay)


@loop(nesterov_step)
def _(p: HostArray, g: HostArray, v: HostArray, lr: float, momentum: float, weight_decay: float = 0.0) -> Any:
    return _native.nesterov(p, g, v, lr, momentum, weight_decay)


@loop(adagrad_step)
def _(p: HostArray, g: HostArray, h: HostArray, lr: float, eps: float, weight_decay: float = 0.0) -> Any:
    return _native.rmsprop(p, g, h, lr, 1.0, 1.0, eps, weight_decay)


@loop(rmsprop_step)
def _(p: HostArray, g: HostArray, h: HostArray, lr: float, alpha: float, eps: float, weight_decay: float = 0.0) -> Any:
    return _native.rmsprop(p, g, h, lr, alpha, 1.0 - alpha, eps, weight_decay)


@loop(adam_step)
def _(
    p: HostArray,
    g: HostArray,
    m: HostArray,
    v: HostArray,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
) -> Any:
    root = (1.0 - beta2**t) ** 0.5
    return _native.adam(p, g, m, v, lr * root / (1.0 - beta1**t), eps * root, beta1, beta2, weight_decay, 1.0)


@loop(adamw_step)
def _(
    p: HostArray,
    g: HostArray,
    m: HostArray,
    v: HostArray,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Any:
    root, keep = (1.0 - beta2**t) ** 0.5, 1.0 - lr * weight_decay
    return _native.adam(p, g, m, v, lr * root / (1.0 - beta1**t), eps * root, beta1, beta2, 0.0, keep)


# --- layers and losses: for 100 x 50, a bias and its gradient take 1 us instead of 5, a mask 6 us instead of 125;
# both ways, ReLU and Leaky ReLU take 2 us instead of 7, softmax with cross entropy (100 x 10) 6 us instead of 12


@loop(product)
def _(a: HostArray, b: HostArray) -> Any:
    if not PRODUCTS or type(b) is not np.ndarray or min(a.ndim, b.ndim) < 2:
        return NotImplemented
    c = np.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
    return c if _native.product(a, b, c, 0.0) is None else NotImplemented


@loop(product_into)
def _(a: HostArray, b: HostArray, c: HostArray) -> Any:
    if not PRODUCTS or type(b) is not np.ndarray or a.ndim != 2:
        return NotImplemented
    return _native.product(a, b, c, 0.0)


@loop(affine)
def _(x: HostArray, W: HostArray, b: HostArray) -> HostArray:
    if PRODUCTS:
        y = np.empty((len(x), len(b)), x.dtype)
        if _native.product(x, W, y, b, 0.0) is None:
            return y
    y = x @ W
    if _native.add_bias(y, b) is NotImplemented:
        y += b
    return y


@loop(affine_backward)
def _(dy: HostArray, x: HostArray, W: HostArray, dW: HostArray, db: HostArray, need_dx: bool = True) -> Any:
    product_into(x.T, dy, dW)
    if _native.sum_rows(dy, db) is NotImplemented:
        np.add.reduce(dy, axis=0, out=db)
    return product(dy, W.T) if need_dx else None


@loop(dropout_mask)
def _(x: HostArray, ratio: float, seed: int, stream: int, clock: HostArray) -> Any:
    if not (0 <= ratio < 1 and 0 <= stream <= LOW32):
        return NotImplemented
    mask = np.empty_like(x)
    limit, scale, key = round(ratio * 2**24), 1.0 / (1.0 - ratio), (seed & LOW32, seed >> 32 & LOW32)
    done = _native.dropout_mask(mask, clock, stream, *key, limit, scale)
    return mask if done is None else NotImplemented


@loop(uniform)
def _(x: HostArray, shape: tuple[int, ...], seed: int, stream: int, clock: HostArray) -> Any:
    if not 0 <= stream <= LOW32:
        return NotImplemented
    out = np.empty(shape, x.dtype)
    done = _native.uniform(out, clock, stream, seed & LOW32, seed >> 32 & LOW32)
    return out if done is None else NotImplemented


@loop(masked)
def _(x: HostArray, mask: HostArray) -> Any:
    y = np.empty_like(x)
    return y if _native.masked(x, mask, y) is None else NotImplemented


@loop(advance)
def _(clock: HostArray, passes: int) -> Any:
    return _native.advance(clock, passes)


@loop(resample)
def _(x: HostArray, rows: HostArray, columns: HostArray, fill: float = 0.0) -> Any:
    y = np.empty((*rows.shape, x.shape[3]), x.dtype)
    images, i, j = (np.ascontiguousarray(a) for a in (x, rows, columns))
    done = _native.resample(images, i, j, y, fill)
    return y if done is None else NotImplemented


@loop(relu)
def _(x: HostArray) -> Any:
    y = np.empty_like(x)
    return y if _native.relu(x, y) is None else NotImplemented


@loop(relu_backward)
def _(dy: HostArray, y: HostArray) -> Any:
    dx = np.empty_like(dy)
    return dx if _native.relu_backward(dy, y, dx) is None else NotImplemented


@loop(leaky_relu)
def _(x: HostArray, alpha: float = 0.01) -> Any:
    if not alpha:  # at infinity 0 x is no number
        return NotImplemented
    y = np.empty_like(x)
    return y if _native.leaky_relu(x, y, alpha) is None else NotImplemented


@loop(leaky_relu_backward)
def _(dy: HostArray, y: HostArray, alpha: float = 0.01) -> Any:
    dx = np.empty_like(dy)
    return dx if _native.leaky_relu_backward(dy, y, dx, alpha) is None else NotImplemented


@loop(sigmoid)
def _(x: HostArray) -> Any:
    y = np.empty_like(x)
    return y if _native.sigmoid(x, y) is None else NotImplemented


@loop(sigmoid_backward)
def _(dy: HostArray, y: HostArray) -> Any:
    dx = np.empty_like(y)
    return dx if _native.sigmoid_backward(dy, y, dx) is None else NotImplemented


@loop(gelu)
def _(x: HostArray) -> Any:
    y = np.empty_like(x)
    return y if _native.gelu(x, y) is None else NotImplemented


@loop(gelu_backward)
def _(dy: HostArray, x: HostArray) -> Any:
    dx = np.empty_like(dy)
    return dx if _native.gelu_backward(dy, x, dx) is None else NotImplemented


@loop(silu)
def _(x: HostArray) -> Any:
    y = np.empty_like(x)
    return y if _native.silu(x, y) is None else NotImplemented


@loop(silu_backward)
def _(dy: HostArray, x: HostArray) -> Any:
    dx = np.empty_like(dy)
    return dx if _native.silu_backward(dy, x, dx) is None else NotImplemented


@loop(softmax)
def _(x: HostArray) -> Any:
    y = np.empty_like(x)
    return y if _native.softmax(x, y) is None else NotImplemented


@loop(softmax_backward)
def _(dy: HostArray, y: HostArray) -> Any:
    dx = np.empty_like(dy)
    return dx if _native.softmax_backward(dy, y, dx) is None else NotImplemented


@loop(batch_normalization)
def _(x: HostArray, gamma: HostArray, beta: HostArray, eps: float) -> Any:
    y, x_hat = np.empty_like(x), np.empty_like(x)
    scale, mean, var = (np.empty(gamma.shape, x.dtype) for _ in range(3))
    done = _native.batch_normalization(x, gamma, beta, y, x_hat, scale, mean, var, eps)
    return (y, x_hat, scale, mean, var) if done is None else NotImplemented


@loop(batch_normalization_backward)
def _(dy: HostArray, x_hat: HostArray, gamma: HostArray, scale: HostArray, dgamma: HostArray, dbeta: HostArray) -> Any:
    dx = np.empty_like(x_hat)
    if dy.strides != x_hat.strides and dy.shape == x_hat.shape and dy.dtype == x_hat.dtype:
        in_order = np.empty_like(x_hat)
        in_order[...] = dy
        dy = in_order
    done = _native.batch_normalization_backward(dy, x_hat, gamma, scale, dx, dgamma, dbeta)
    return dx if done is None else NotImplemented


@loop(layer_normalization)
def _(x: HostArray, gamma: HostArray, beta: HostArray, eps: float) -> Any:
    y, x_hat, scale = np.empty_like(x), np.empty_like(x), np.empty((*x.shape[:-1], 1), x.dtype)
    done = _native.layer_normalization(x, gamma, beta, y, x_hat, scale, eps)
    return (y, x_hat, scale) if done is None else NotImplemented


@loop(layer_normalization_backward)
def _(dy: HostArray, x_hat: HostArray, gamma: HostArray, scale: HostArray, dgamma: HostArray, dbeta: HostArray) -> Any:
    dx = np.empty_like(dy)
    done = _native.layer_normalization_backward(dy, x_hat, gamma, scale, dx, dgamma, dbeta)
    return dx if done is None else NotImplemented


@loop(softmax_cross_entropy_variants)
def _(
    y: HostArray,
    dx: HostArray,
    W: HostArray,
    t: HostArray,
    class_weight: HostArray | None = None,
    label_smoothing: float = 0.0,
) -> Any:
    if class_weight is not None or label_smoothing:
        return NotImplemented
    columns, changes = np.ascontiguousarray(y.T), np.ascontiguousarray(dx.T)
    losses = np.empty_like(changes)
    done = _native.softmax_cross_entropy_variants(columns, changes, np.ascontiguousarray(W), t, losses)
    return losses.T if done is None else NotImplemented


@loop(softmax_cross_entropy)
def _(
    x: HostArray,
    t: HostArray,
    weight: HostArray | None = None,
    class_weight: HostArray | None = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Any:
    if weight is not None or class_weight is not None or label_smoothing or divisor is not None:
        return NotImplemented
    y = np.empty_like(x)
    loss = _native.softmax_cross_entropy(x, t, y)
    return loss if loss is NotImplemented else (np.asarray(loss, x.dtype), y)


@loop(softmax_cross_entropy_backward)
def _(
    y: HostArray,
    t: HostArray,
    weight: HostArray | None = None,
    class_weight: HostArray | None = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Any:
    if weight is not None or class_weight is not None or label_smoothing or divisor is not None:
        return NotImplemented
    dx = np.empty_like(y)
    return dx if _native.softmax_cross_entropy_backward(y, t, dx) is None else NotImplemented


@loop(softmax_cross_entropy_recorded)
def _(
    x: HostArray,
    t: HostArray,
    metrics: HostArray,
    at: Any,
    class_weight: HostArray | None = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Any:
    if class_weight is not None or label_smoothing or divisor is not None or not isinstance(at, int):
        return NotImplemented
    dx = np.empty_like(x)
    return dx if _native.softmax_cross_entropy_recorded(x, t, dx, metrics, at) is None else NotImplemented


@loop(convolution)
def _(x: HostArray, W: HostArray, b: HostArray, stride: Size = 1, padding: Size = 0) -> Any:
    if not _vectors_of_images(x):
        return NotImplemented
    y = np.empty((W.shape[3], *output_size(x.shape[1:3], W.shape[:2], stride, padding), len(x)), x.dtype)
    images, filters = batch_last(x).transpose(3, 1, 2, 0), np.ascontiguousarray(W)
    done = _native.convolution(images, filters, b, y, *pair(stride), *pair(padding))
    return y.transpose(3, 1, 2, 0) if done is None else NotImplemented


@loop(convolution_backward)
def _(
    dy: HostArray,
    x: HostArray,
    W: HostArray,
    dW: HostArray,
    db: HostArray,
    stride: Size = 1,
    padding: Size = 0,
    need_dx: bool = True,
) -> Any:
    (kh, kw, c, _), (down, right), (top, left) = W.shape, pair(stride), pair(padding)
    if not _vectors_of_images(x) or right != 1 or (need_dx and (down != 1 or top >= kh or left >= kw)):
        return NotImplemented
    images, dy_images = batch_last(x, padding).transpose(3, 1, 2, 0), batch_last(dy).transpose(3, 1, 2, 0)
    dx = np.empty((c, *x.shape[1:3], len(x)), x.dtype) if need_dx else None
    if dx is not None:
        # dx is the convolution of dy with the filters turned about; dW and db are written only after it has succeeded
        turned, zeros = np.ascontiguousarray(W[::-1, ::-1].transpose(0, 1, 3, 2)), np.zeros(c, x.dtype)
        if _native.convolution(dy_images, turned, zeros, dx, 1, 1, kh - 1 - top, kw - 1 - left) is NotImplemented:
            return NotImplemented
    if _native.convolution_filters(images, dy_images, dW, db, down) is NotImplemented:
        return NotImplemented
    return None if dx is None else dx.transpose(3, 1, 2, 0)


@loop(flatten)
def _(x: HostArray) -> Any:
    if not _has_batch_last(x):
        return NotImplemented
    n, h, w, c = x.shape
    y = np.empty((n, h * w, c), x.dtype)
    done = _native.swap_ends(x.transpose(3, 1, 2, 0).reshape(c, h * w, n), y)
    return y.reshape(n, h * w * c) if done is None else NotImplemented


@loop(flatten_backward)
def _(dy: HostArray, x: HostArray) -> Any:
    return batch_last(dy.reshape(x.shape)) if _has_batch_last(x) and dy.flags.c_contiguous else NotImplemented


def _has_batch_last(x: HostArray) -> bool:
    """Say whether n is innermost in memory, and nowhere else, as in the results of convolutions and pooling."""
    return x.ndim == 4 and not x.flags.c_contiguous and x.transpose(3, 1, 2, 0).flags.c_contiguous


def batch_last(x: HostArray, padding: Size = 0, value: float = 0.0) -> HostArray:
    """Do what `kernels.batch_last` does, in threads if x is contiguous and has no padding."""
    n, h, w, c = x.shape
    if pair(padding) == (0, 0) and x.flags.c_contiguous and not x.transpose(3, 1, 2, 0).flags.c_contiguous:
        y = np.empty((c, h * w, n), x.dtype)
        if _native.swap_ends(x.reshape(n, h * w, c), y) is None:
            return y.reshape(c, h, w, n).transpose(3, 1, 2, 0)
    return kernels.batch_last(x, padding, value)


def _vectors_of_images(x: HostArray) -> bool:
    """Say whether there are enough images for the loops of a convolution, which work on two vectors of them."""
    return len(x) * x.itemsize >= 64


@loop(max_pooling)
def _(x: HostArray, size: Size, stride: Size, padding: Size = 0) -> Any:
    count = output_size(x.shape[1:3], size, stride, padding)
    y = np.empty((x.shape[3], *count, len(x)), x.dtype)
    images = batch_last(x, padding, -np.inf).transpose(3, 1, 2, 0)
    done = _native.max_pooling(images, y, *pair(size), *pair(stride))
    return y.transpose(3, 1, 2, 0) if done is None else NotImplemented


@loop(max_pooling_backward)
def _(dy: HostArray, x: HostArray, y: HostArray, size: Size, stride: Size, padding: Size = 0) -> Any:
    _, h, w, _ = x.shape
    x, y, dy = batch_last(x, padding, -np.inf), batch_last(y), batch_last(dy)
    dx = np.empty_like(x)
    (height, width), (down, right) = pair(size), pair(stride)
    turned = [a.transpose(3, 1, 2, 0) for a in (dy, x, y, dx)]
    done = _native.max_pooling_backward(turned[0], turned[1], turned[2], turned[3], height, width, down, right)
    return dx[unpadded(h, w, padding)] if done is None else NotImplemented


# --- recurrent networks: in two threads, a step of 32 rows of 256 takes an LSTM 106 us with its product, which alone
# takes NumPy 143 us; backward 107 us and 161 us


@loop(lstm_gates)
def _(a: HostArray, r: HostArray, c: HostArray) -> Any:
    results = np.empty_like(a), np.empty_like(c), np.empty_like(c)
    return results if _native.lstm_gates(a, r, c, *results) is None else NotImplemented


@loop(lstm_gates_backward)
def _(dh: HostArray, dc: HostArray, gates: HostArray, c: HostArray, c_next: HostArray) -> Any:
    dh = np.ascontiguousarray(dh)
    results = np.empty_like(gates), np.empty_like(c)
    return results if _native.lstm_gates_backward(dh, dc, gates, c, c_next, *results) is None else NotImplemented


@loop(gru_gates)
def _(a: HostArray, r: HostArray, bh: HostArray, h: HostArray) -> Any:
    results = np.empty((len(h), 4 * bh.size), h.dtype), np.empty_like(h)
    return results if _native.gru_gates(a, r, bh, h, *results) is None else NotImplemented


@loop(gru_gates_backward)
def _(dh: HostArray, gates: HostArray, h: HostArray) -> Any:
    dh = np.ascontiguousarray(dh)
    da, dr, past = *(np.empty((len(h), 3 * h.shape[1]), h.dtype) for _ in range(2)), np.zeros_like(h)
    return (da, dr, past) if _native.gru_gates_backward(dh, gates, h, da, dr, past) is None else NotImplemented


@loop(rnn)
def _(x: HostArray, Wx: HostArray, Wh: HostArray, b: HostArray, h: HostArray) -> Any:
    if not (PRODUCTS and _alike(x, Wx, Wh, b, h)):
        return NotImplemented
    hidden = _states(x, h)
    done = _native.rnn(input_products(x, Wx, b), hidden, Wh)
    return hidden if done is None else NotImplemented


@loop(rnn_backward)
def _(
    dy: HostArray,
    x: HostArray,
    Wx: HostArray,
    Wh: HostArray,
    hidden: HostArray,
    dWx: HostArray,
    dWh: HostArray,
    db: HostArray,
    need_dx: bool = True,
) -> Any:
    if not (PRODUCTS and _alike(dy, x, Wx, Wh, hidden, dWx, dWh, db)):
        return NotImplemented
    da = np.empty_like(hidden[1:])
    if _native.rnn_backward(_gradients(dy), hidden, da, Wh) is NotImplemented:
        return NotImplemented
    state_products_backward(hidden, da, dWh)
    return input_products_backward(da, x, Wx, dWx, db, need_dx)


@loop(lstm)
def _(x: HostArray, Wx: HostArray, Wh: HostArray, b: HostArray, h: HostArray, c: HostArray) -> Any:
    if not _alike(x, Wx, Wh, b, h, c):
        return NotImplemented
    gates: Any = input_products(x, Wx, b)  # each step is overwritten by what the loop makes of it
    hidden, cells = _states(x, h), _states(x, c)
    if PRODUCTS:
        return (hidden, gates, cells) if _native.lstm(gates, hidden, cells, Wh) is None else NotImplemented
    W: Any = for_products(Wh)
    r = np.empty_like(gates[0])
    for t in range(x.shape[1]):
        np.matmul(hidden[t], W, out=r)
        if _native.lstm_gates(gates[t], r, cells[t], gates[t], cells[t + 1], hidden[t + 1]) is NotImplemented:
            return NotImplemented
    return hidden, gates, cells


@loop(lstm_backward)
def _(
    dy: HostArray,
    x: HostArray,
    Wx: HostArray,
    Wh: HostArray,
    hidden: HostArray,
    gates: HostArray,
    cells: HostArray,
    dWx: HostArray,
    dWh: HostArray,
    db: HostArray,
    need_dx: bool = True,
) -> Any:
    n, steps, width = dy.shape
    if not _alike(dy, x, Wx, Wh, hidden, gates, cells, dWx, dWh, db) or gates.shape != (steps, n, 4 * width):
        return NotImplemented
    da, back = np.empty_like(gates), _native.lstm_backward if PRODUCTS else _lstm_steps_backward
    if back(_gradients(dy), gates, cells, da, Wh) is NotImplemented:
        return NotImplemented
    state_products_backward(hidden, da, dWh)
    return input_products_backward(da, x, Wx, dWx, db, need_dx)


def _lstm_steps_backward(dh: HostArray, gates: HostArray, cells: HostArray, da: HostArray, Wh: HostArray) -> Any:
    """Do what `_native.lstm_backward` does, with NumPy's products."""
    WhT: Any = for_products(Wh.T)
    dc = np.zeros_like(dh[0])
    for t in range(len(da) - 1, -1, -1):
        arrays = (dh[t + 1], dc, gates[t], cells[t], cells[t + 1], da[t], dc)
        if _native.lstm_gates_backward(*arrays) is NotImplemented:
            return NotImplemented
        if t:
            dh[t] += da[t] @ WhT
    return None


@loop(gru)
def _(x: HostArray, Wx: HostArray, Wh: HostArray, b: HostArray, bh: HostArray, h: HostArray) -> Any:
    if not (PRODUCTS and _alike(x, Wx, Wh, b, bh, h)):
        return NotImplemented
    a, hidden = input_products(x, Wx, b), _states(x, h)
    gates = np.empty((x.shape[1], *h.shape[:-1], 4 * h.shape[1]), x.dtype)
    return (hidden, gates) if _native.gru(a, hidden, gates, bh, Wh) is None else NotImplemented


@loop(gru_backward)
def _(
    dy: HostArray,
    x: HostArray,
    Wx: HostArray,
    Wh: HostArray,
    hidden: HostArray,
    gates: HostArray,
    dWx: HostArray,
    dWh: HostArray,
    db: HostArray,
    dbh: HostArray,
    need_dx: bool = True,
) -> Any:
    if not (PRODUCTS and _alike(dy, x, Wx, Wh, hidden, gates, dWx, dWh, db, dbh)):
        return NotImplemented
    (n, steps, width) = dy.shape
    da, dr = (np.empty((steps, n, 3 * width), dy.dtype) for _ in range(2))
    if _native.gru_backward(_gradients(dy), gates, hidden, da, dr, Wh) is NotImplemented:
        return NotImplemented
    state_products_backward(hidden, dr, dWh)
    dbh[...] = dr[:, :, 2 * width :].sum(axis=(0, 1))
    return input_products_backward(da, x, Wx, dWx, db, need_dx)


def _states(x: HostArray, first: HostArray) -> HostArray:
    """Return room for the states of all steps, (T + 1, n, h), with the first of them in place."""
    states = np.empty((x.shape[1] + 1, *first.shape), x.dtype)
    states[0] = first
    return states


def _gradients(dy: HostArray) -> HostArray:
    """Return dy, (n, T, h), with the steps first, behind zeros for the state before them: (T + 1, n, h)."""
    dh = np.empty((dy.shape[1] + 1, len(dy), dy.shape[2]), dy.dtype)
    dh[0] = 0
    dh[1:] = dy.transpose(1, 0, 2)
    return dh


def _alike(*arrays: HostArray) -> bool:
    """Say whether all are arrays of NumPy, and of the same dtype."""
    return all(type(a) is np.ndarray and a.dtype == arrays[0].dtype for a in arrays)


# --- ids: for 32 x 35 of 10,000 words and 256 features, the gradient takes 0.15 ms instead of 1.8


@loop(embedding_backward)
def _(dy: HostArray, ids: HostArray, dW: HostArray) -> Any:
    return _native.sum_by_id(dy.reshape(-1, dW.shape[1]), ids.reshape(-1), dW)


# --- data: gathering 100 rows of MNIST takes 20 us instead of 27, checking all of MNIST 5 ms instead of 8


@loop(gather)
def _(x: HostArray, rows: HostArray) -> Any:
    if type(rows) is not np.ndarray:
        return NotImplemented
    out = np.empty((*rows.shape, *x.shape[1:]), x.dtype)
    return out if _native.gather(x, rows, out) is None else NotImplemented


@loop(is_finite)
def _(x: HostArray) -> Any:
    finite = _native.is_finite(x)
    return finite if finite is NotImplemented else np.bool_(finite)
