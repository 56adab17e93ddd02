"""The affine map of a fully connected layer, and products of matrices."""

from __future__ import annotations

from nnbackend.functions.array import Array, MaybeArray, array_namespace
from nnbackend.functions.dispatch import floating


@floating
def product(a: Array, b: Array) -> Array:
    """The product a b of matrices, or of stacks of them. a: (..., n, k), b: (..., k, m). Returns (..., n, m)."""
    return a @ b


@floating
def product_into(a: Array, b: Array, c: Array) -> None:
    """Write the product a b of matrices into c, (n, m). a: (n, k), b: (k, m)."""
    c[...] = product(a, b)


@floating
def affine(x: Array, W: Array, b: Array) -> Array:
    """y = x W + b. x: (n, i), W: (i, o), b: (o,). Returns (n, o)."""
    return x @ W + b


@floating
def affine_backward(dy: Array, x: Array, W: Array, dW: Array, db: Array, need_dx: bool = True) -> MaybeArray:
    """Write dW = x^T dy and db = column sums of dy into the given arrays; return dx = dy W^T.

    dy: (n, o); x: (n, i) and W: (i, o) of the forward; dW: (i, o) and db: (o,), slices of a gradient buffer.
    Without need_dx (nothing below has parameters) the product for dx is left out and None returned.
    """
    dW[...] = x.T @ dy
    db[...] = array_namespace(dy).sum(dy, axis=0)
    return dy @ W.T if need_dx else None
