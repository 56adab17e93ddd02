"""The nodes of a computational graph, of which layers are built (Deep Learning from Scratch 2, section 1.3).

Each node has two methods. `forward` computes the output and remembers the values that `backward` reads. `backward`
takes the gradient of the output and returns the gradients of the inputs. An Affine layer is three nodes:

    x (n, i) ──┐
               MatMul ── (n, o) ──┐
    W (i, o) ──┘                  Add ── y (n, o)
    b (1, o) ───── Repeat(n) ─────┘

Arrays may be of any array-API namespace. No node changes its inputs. A node raises ValueError, which names the
shapes, if the shapes of its arrays do not fit. No node broadcasts: a value that is used several times goes through
Branch or Repeat, whose backward is the sum that broadcasting would hide.
"""

from __future__ import annotations

from nnbackend.checks import positive_integer
from nnbackend.functions.array import Array, array_namespace

__all__ = ["Add", "Branch", "MatMul", "Multiply", "Repeat", "Sum"]

Shape = tuple[int, ...]


class Add:
    """z = x + y. x, y: the same shape."""

    def forward(self, x: Array, y: Array) -> Array:
        self._shape = _same("Add", x, y)
        return x + y

    def backward(self, dz: Array) -> tuple[Array, Array]:
        """(dx, dy) = (dz, dz)."""
        _check("Add", "dz", dz, self._shape)
        return dz, dz


class Multiply:
    """z = x y, elementwise. x, y: the same shape."""

    def forward(self, x: Array, y: Array) -> Array:
        _same("Multiply", x, y)
        self._x, self._y = x, y
        return x * y

    def backward(self, dz: Array) -> tuple[Array, Array]:
        """(dx, dy) = (dz y, dz x)."""
        _check("Multiply", "dz", dz, tuple(self._x.shape))
        return dz * self._y, dz * self._x


class Branch:
    """Returns x n times (the book's copy node). x: any shape; n: at least 1, 2 by default."""

    def __init__(self, n: int = 2):
        self.n = _count("Branch", n)

    def forward(self, x: Array) -> tuple[Array, ...]:
        self._shape = tuple(x.shape)
        return (x,) * self.n

    def backward(self, *dys: Array) -> Array:
        """dx = the sum of the n gradients."""
        if len(dys) != self.n:
            raise ValueError(f"Branch: expected {self.n} gradients, one for each branch, got {len(dys)}")
        for dy in dys:
            _check("Branch", "each gradient", dy, self._shape)
        dx = dys[0]
        for dy in dys[1:]:
            dx = dx + dy
        return dx


class Repeat:
    """Repeats one row n times. x: (1, ...), y: (n, ...); n: at least 1."""

    def __init__(self, n: int):
        self.n = _count("Repeat", n)

    def forward(self, x: Array) -> Array:
        self._shape = tuple(x.shape)
        _check("Repeat", "x", x, (1, *self._shape[1:]))
        return _repeat(x, self.n)

    def backward(self, dy: Array) -> Array:
        """dx = the sum of dy over its rows: (1, ...)."""
        _check("Repeat", "dy", dy, (self.n, *self._shape[1:]))
        return _sum(dy)


class Sum:
    """Sums all rows into one. x: (n, ...), y: (1, ...). Its backward is the forward of Repeat, and vice versa."""

    def forward(self, x: Array) -> Array:
        self._shape = tuple(x.shape)
        if not self._shape:
            raise ValueError("Sum: x must have shape (n, ...), got ()")
        return _sum(x)

    def backward(self, dy: Array) -> Array:
        """dx = dy in every row: (n, ...)."""
        _check("Sum", "dy", dy, (1, *self._shape[1:]))
        return _repeat(dy, self._shape[0])


class MatMul:
    """y = x W, the matrix product. x: (n, i), W: (i, o), y: (n, o)."""

    def forward(self, x: Array, W: Array) -> Array:
        if x.ndim != 2 or W.ndim != 2 or x.shape[1] != W.shape[0]:
            raise ValueError(
                f"MatMul: x and W must have shapes (n, i) and (i, o), got {tuple(x.shape)} and {tuple(W.shape)}"
            )
        self._x, self._W = x, W
        return x @ W

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """(dx, dW) = (dy W^T, x^T dy)."""
        _check("MatMul", "dy", dy, (self._x.shape[0], self._W.shape[1]))
        return dy @ self._W.T, self._x.T @ dy


def _sum(x: Array) -> Array:
    return array_namespace(x).sum(x, axis=0, keepdims=True)


def _repeat(x: Array, n: int) -> Array:
    return array_namespace(x).repeat(x, n, axis=0)


def _count(node: str, n: int) -> int:
    positive_integer(f"{node}: n", n)
    return int(n)  # not every library repeats by a number of NumPy


def _same(node: str, x: Array, y: Array) -> Shape:
    if tuple(x.shape) != tuple(y.shape):
        raise ValueError(f"{node}: x and y must have the same shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    return tuple(x.shape)


def _check(node: str, argument: str, x: Array, shape: Shape) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"{node}: {argument} must have shape {shape}, got {tuple(x.shape)}")
