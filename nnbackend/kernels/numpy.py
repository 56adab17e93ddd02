"""NumPy: results written where they are wanted, temporaries used again, long updates in pieces that fit a cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnbackend.functions import (
    affine,
    affine_backward,
    dropout_mask,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    tanh_backward,
)
from nnbackend.optimizers import adam_step, momentum_step, sgd_step

HostArray = np.ndarray[Any, Any]
CHUNK = 8192  # elements: four float32 buffers of this length stay in a 256 KiB cache


@affine.register(np.ndarray)
def _(x: HostArray, W: HostArray, b: HostArray) -> HostArray:
    y = x @ W
    y += b
    return y


@affine_backward.register(np.ndarray)
def _(
    dy: HostArray, x: HostArray, W: HostArray, dW: HostArray, db: HostArray, need_dx: bool = True
) -> HostArray | None:
    np.matmul(x.T, dy, out=dW)
    np.sum(dy, axis=0, out=db)
    return dy @ W.T if need_dx else None


@sigmoid.register(np.ndarray)
def _(x: HostArray) -> HostArray:
    e = np.abs(x)
    np.negative(e, out=e)
    np.exp(e, out=e)
    y = np.where(x >= 0, x.dtype.type(1), e)
    e += 1
    return np.divide(y, e, out=y)


@sigmoid_backward.register(np.ndarray)
def _(dy: HostArray, y: HostArray) -> HostArray:
    dx = dy * y
    dx *= 1 - y
    return dx


@tanh_backward.register(np.ndarray)
def _(dy: HostArray, y: HostArray) -> HostArray:
    dx = y * y
    np.subtract(1, dx, out=dx)
    dx *= dy
    return dx


@softmax.register(np.ndarray)
def _(x: HostArray) -> HostArray:
    y: HostArray = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


@softmax_cross_entropy.register(np.ndarray)
def _(x: HostArray, t: HostArray) -> tuple[HostArray, HostArray]:
    shifted = x - x.max(axis=-1, keepdims=True)
    y = np.exp(shifted)
    total = y.sum(axis=-1, keepdims=True)
    y /= total
    if t.ndim == 1:  # the label's column alone is needed
        picked = shifted[np.arange(len(t)), t]
        loss = (np.log(total).sum() - picked.sum()) / x.dtype.type(len(t))
    else:
        loss = (t.astype(x.dtype, copy=False) * (np.log(total) - shifted)).sum() / x.dtype.type(len(t))
    return np.asarray(loss), y


@softmax_cross_entropy_backward.register(np.ndarray)
def _(y: HostArray, t: HostArray) -> HostArray:
    if t.ndim == 1:
        dx = y.copy()
        dx[np.arange(len(t)), t] -= 1
    else:
        dx = y - t.astype(y.dtype, copy=False)
    dx /= len(t)
    return dx


@dropout_mask.register(np.ndarray)
def _(x: HostArray, ratio: float, seed: int, stream: int, clock: HostArray) -> HostArray:
    # unsigned 64-bit words hold the whole product of two 32-bit ones: half the operations of the reference
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    multiplier0, multiplier1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
    c0 = np.arange(-(-x.size // 4), dtype=np.uint64)
    c1, c2, c3 = np.uint64(int(clock[0]) & 0xFFFFFFFF), np.uint64(stream), np.uint64(0)
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = c0 * multiplier0, c2 * multiplier1
        c0, c2 = (product1 >> half) ^ c1 ^ np.uint64(k0), (product0 >> half) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & low, product0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    words = np.empty((c2.size, 4), np.uint64)
    words[:, 0], words[:, 1], words[:, 2], words[:, 3] = c0, c1, c2, c3
    kept = words.reshape(-1)[: x.size] >= np.uint64(round(ratio * 2**24) << 8)
    return np.multiply(kept, x.dtype.type(1.0 / (1.0 - ratio)), dtype=x.dtype).reshape(x.shape)


@sgd_step.register(np.ndarray)
def _(p: HostArray, g: HostArray, lr: float) -> None:
    work = np.empty(min(CHUNK, p.size), p.dtype)
    for i in range(0, p.size, CHUNK):
        chunk = slice(i, i + CHUNK)
        update = np.multiply(g[chunk], lr, out=work[: p[chunk].size])
        p[chunk] -= update


@momentum_step.register(np.ndarray)
def _(p: HostArray, g: HostArray, v: HostArray, lr: float, momentum: float) -> None:
    work = np.empty(min(CHUNK, p.size), p.dtype)
    for i in range(0, p.size, CHUNK):
        pi, gi, vi = p[i : i + CHUNK], g[i : i + CHUNK], v[i : i + CHUNK]
        vi *= momentum
        vi += gi
        pi -= np.multiply(vi, lr, out=work[: pi.size])


@adam_step.register(np.ndarray)
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
) -> None:
    # lr (m / c1) / (sqrt(v / c2) + eps) = (lr r / c1) m / (sqrt(v) + eps r) with r = sqrt(c2): two passes fewer
    root = (1 - beta2**t) ** 0.5
    scale, shift = lr * root / (1 - beta1**t), eps * root
    work = np.empty(min(CHUNK, p.size), p.dtype)
    for i in range(0, p.size, CHUNK):
        pi, gi, mi, vi = p[i : i + CHUNK], g[i : i + CHUNK], m[i : i + CHUNK], v[i : i + CHUNK]
        w = work[: pi.size]
        mi *= beta1
        mi += np.multiply(gi, 1 - beta1, out=w)
        vi *= beta2
        np.multiply(gi, gi, out=w)
        vi += np.multiply(w, 1 - beta2, out=w)
        np.sqrt(vi, out=w)
        w += shift
        np.divide(mi, w, out=w)
        pi -= np.multiply(w, scale, out=w)
