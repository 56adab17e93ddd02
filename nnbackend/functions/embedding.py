"""Rows of a table, chosen by ids."""

from __future__ import annotations

import math

from nnbackend.functions.affine import product
from nnbackend.functions.array import Array, array_namespace, device, pieces
from nnbackend.functions.dispatch import floating

PIECE = 2**22  # elements of the matrix of zeros and ones that is made at a time


@floating
def embedding(W: Array, ids: Array) -> Array:
    """The rows W[ids]. W: (vocabulary, d); ids: any shape, integers in [0, vocabulary). Returns (*ids.shape, d).

    An id outside of the vocabulary has a row of NaN, which no later sum can hide: a device is not asked for an error.
    On NumPy it raises ValueError.
    """
    xp = array_namespace(W)
    flat = xp.astype(xp.reshape(ids, (-1,)), xp.int64, copy=False)
    inside = (flat >= 0) & (flat < W.shape[0])
    rows = xp.take(W, xp.where(inside, flat, xp.zeros_like(flat)), axis=0)
    return xp.reshape(xp.where(inside[:, None], rows, math.nan), (*ids.shape, W.shape[1]))


@floating
def embedding_backward(dy: Array, ids: Array, dW: Array) -> None:
    """Write into dW, for every id, the sum of the rows of dy that belong to it; rows of ids that do not occur are 0.

    dy: (*ids.shape, d); dW: (vocabulary, d), a slice of a gradient buffer. The shapes alone decide the order of the
    additions, so the same arguments give the same bits. The definition is a product with rows of zeros and ones,
    because the array API has no sum by index.
    """
    xp = array_namespace(dy)
    flat = xp.astype(xp.reshape(ids, (-1,)), xp.int64, copy=False)
    rows = xp.reshape(dy, (flat.shape[0], dW.shape[1]))
    for piece in pieces(dW.shape[0], max(1, PIECE // max(1, flat.shape[0]))):
        numbers = xp.arange(piece.start, piece.stop, dtype=flat.dtype, device=device(flat))
        dW[piece, ...] = product(xp.astype(numbers[:, None] == flat[None, :], dy.dtype), rows)
