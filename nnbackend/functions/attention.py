"""Attention, and the positions of steps."""

from __future__ import annotations

import math

from nnbackend.functions.activations import softmax, softmax_backward
from nnbackend.functions.affine import product
from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.functions.dispatch import floating


@floating
def attention(q: Array, k: Array, v: Array, mask: Array | None = None, causal: bool = False) -> tuple[Array, Array]:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1): y = p v with p = softmax(q k^T / sqrt(d)).

    q: (..., T, d); k: (..., S, d); v: (..., S, e). mask: booleans that broadcast to (..., T, S), True where a step of q
    may look at a step of k; a mask of padded keys has the shape (n, 1, 1, S). causal: step t looks at the steps 0 to t
    alone, in addition to the mask. A step that may look at nothing has y = 0 (PyTorch: NaN or 0, by its version).
    Raises TypeError for a mask of numbers, such as one that is added to the scores.
    Returns y, (..., T, e), and the weights p, (..., T, S).
    """
    xp = array_namespace(q)
    if mask is not None and not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"attention: mask must hold booleans, True where a step may look, got dtype {mask.dtype}")
    scores = product(q, transposed(k)) * (1.0 / math.sqrt(q.shape[-1]))
    allowed = mask
    if causal:
        steps, keys = (xp.arange(length, device=device(q)) for length in scores.shape[-2:])
        past = keys[None, :] <= steps[:, None]
        allowed = past if mask is None else mask & past
    if allowed is not None:
        scores = xp.where(allowed, scores, float(xp.finfo(q.dtype).min))
    p = softmax(scores)
    if mask is not None:  # with nothing to look at, all scores are equal; the causal mask leaves its own step
        p = xp.where(allowed, p, 0.0)
    return product(p, v), p


@floating
def attention_backward(dy: Array, q: Array, k: Array, v: Array, p: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v. dy: (..., T, e); p: the weights of the forward, 0 where a mask forbids."""
    ds = softmax_backward(product(dy, transposed(v)), p) * (1.0 / math.sqrt(q.shape[-1]))
    return product(ds, k), product(transposed(ds), q), product(transposed(p), dy)


def transposed(a: Array) -> Array:
    """Swap the last two axes."""
    return array_namespace(a).permute_dims(a, (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2))


@floating
def sinusoids(x: Array) -> Array:
    """The positions of the steps of x, (n, T, d), as sines and cosines (Vaswani et al. 2017, section 3.5).

    P[t, 2 i] = sin(t / 10000^(2 i / d)), P[t, 2 i + 1] = cos(t / 10000^(2 i / d)). Returns (T, d). They are computed in
    float64 and cast to the dtype of x.
    """
    xp = array_namespace(x)
    steps, columns = (xp.arange(length, dtype=xp.float64, device=device(x)) for length in x.shape[1:])
    odd = columns % 2.0
    angles = steps[:, None] * 10000.0 ** ((odd - columns) / x.shape[2])[None, :]
    return xp.astype(xp.sin(angles + (0.5 * math.pi) * odd[None, :]), x.dtype, copy=False)
