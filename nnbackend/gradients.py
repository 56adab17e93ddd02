"""Numerical gradients: of a function, and of a stack of layers.

`Network.numerical_gradient` sends many changes of a parameter through the following layers as one batch. Each change
disturbs few columns of a layer's output, and `forward_changed` and `forward_columns` are the two functions that may
know a shorter way than a whole forward pass. `shortcut` registers one for a class of layers:

    @shortcut(forward_columns, Scale)
    def _(layer, x, y):
        return Columns(y, x.columns, x.values * layer.scale.data)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import product
from numbers import Real
from typing import Any, TypeVar

from nnbackend.backends import describe
from nnbackend.functions.array import Array, Namespace, array_namespace, device, pieces
from nnbackend.functions.losses import fraction
from nnbackend.layers import Affine, BatchNormalization, Layer, Loss
from nnbackend.parameters import Parameter

__all__ = ["Columns", "forward_changed", "forward_columns", "numerical_gradient", "shortcut", "stack_gradient"]

F = TypeVar("F", bound=Callable[..., Any])

CHUNK = 2**20  # elements of the largest array of one piece: temporaries of 8 MB in float64

# --- of a function -----------------------------------------------------------------------------------------------


def numerical_gradient(f: Callable[[Array], Any], x: Array, h: float = 1e-4) -> Array:
    """Return (f(x + h e_i) - f(x - h e_i)) / (2 h) for every element i of x (the book, sections 4.3 and 4.4).

    x: any shape, float32 or float64, on any backend. f: called with x itself, which is changed in place, and returns
    a number or a 0-d array. f may therefore read x from elsewhere:
    `numerical_gradient(lambda _: net.loss(x, t), net.params["W1"])`. x is restored exactly, even if f raises.

    The result is an array like x. Its error is of order h^2 plus eps |f| / h, with the eps of the dtype in which f
    computes: about 1e-8 in float64, but about 1e-3 |f| in float32, which leaves few correct digits. f is called twice
    per element. For a whole network `Network.numerical_gradient` is much faster and always computes in float64.

    Raises TypeError if x is not an array of real floating numbers or f(x) is not a number. Raises ValueError for an x
    that cannot be written to, and for an h that is not positive.
    """
    xp, h = _writable(x), _step(h)
    before = xp.asarray(x, copy=True)
    gradient = xp.zeros_like(before)
    for i in product(*map(range, x.shape)):
        try:
            x[i] = before[i] + h
            above = _number(f(x), x)
            x[i] = before[i] - h
            gradient[i] = (above - _number(f(x), x)) / (2 * h)
        finally:
            x[i] = before[i]
    return gradient


def _writable(x: Any) -> Namespace:
    """Return the namespace of x. Raise TypeError or ValueError if x is not a writable array of floating numbers."""
    try:
        xp = array_namespace(x)
    except TypeError:
        raise TypeError(f"x: expected an array of floating numbers, got {describe(x)}") from None
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"x: expected an array of floating numbers, got dtype {x.dtype}")
    try:
        x[...] = x
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"x: cannot be written to ({error}); pass a copy") from error
    return xp


def _step(h: float) -> float:
    if not (isinstance(h, Real) and math.isfinite(h) and h > 0):
        raise ValueError(f"h: expected a finite step above 0, got {h!r}")
    return float(h)


def _number(value: Any, x: Array) -> Any:
    """Return the result of f as a number, or as a copied 0-d array of x's dtype. Raise TypeError for other values."""
    shape = tuple(getattr(value, "shape", ()))
    if shape:
        raise TypeError(f"f must return a number or a 0-d array, got shape {shape}")
    if isinstance(value, type(x)):
        xp = array_namespace(x)
        return xp.astype(xp.asarray(value, copy=True), x.dtype, copy=False)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"f must return a number or a 0-d array, got {value!r}") from None


# --- of a stack of layers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Holds k variants of a batch, each of which differs from it in one column, as after a change of one weight.

    x: (n, c), the batch. columns: (k,) integers. values: (n, k); values[:, i] is column columns[i] of variant i.
    """

    x: Array
    columns: Array
    values: Array

    @property
    def change(self) -> Array:
        """Return how much the values differ from the batch: (n, k)."""
        return self.values - array_namespace(self.x).take(self.x, self.columns, axis=1)

    def rows(self) -> Array:
        """Return all rows of all variants, (n k, c): first the k variants of row 0, then those of row 1, and so on.

        The result is column-major, so that a softmax over it works along the long axis.
        """
        xp, c = array_namespace(self.x), self.x.shape[1]
        numbers = xp.arange(c, dtype=self.columns.dtype, device=device(self.columns))
        changed = numbers[:, None, None] == self.columns[None, None, :]
        return xp.reshape(xp.where(changed, self.values[None, ...], self.x.T[:, :, None]), (c, -1)).T


def stack_gradient(layers: Sequence[Layer], loss: Loss, x: Array, t: Array, h: float = 1e-4) -> list[Array]:
    """Return the numerical gradient of the loss, in inference mode, for every trainable parameter of the layers.

    layers: as in a network, with parameters that can be written to. x, t: a batch, on the layers' device and in their
    dtype. The parameters are restored exactly. Raises ValueError for an h that is not positive.
    """
    xp, h = array_namespace(x), _step(h)
    outputs = [x]
    for layer in layers:
        outputs.append(layer.forward(outputs[-1]))

    def losses(i: int, parameter: Parameter, elements: range, h: float) -> Array:
        """Return the loss of every row after adding h to one element, for each of `elements`: (n, k)."""
        y = forward_changed(layers[i], outputs[i], outputs[i + 1], parameter, elements, h)
        for layer, unchanged in zip(layers[i + 1 :], outputs[i + 2 :], strict=True):
            y = forward_columns(layer, y, unchanged) if isinstance(y, Columns) else layer.forward(y)
        rows = loss.rows(y.rows() if isinstance(y, Columns) else y, xp.repeat(t, len(elements), axis=0))
        return xp.reshape(rows, (-1, len(elements)))

    def gradient(i: int, parameter: Parameter) -> Array:
        sums = []
        at_once = max(1, CHUNK // max(math.prod(y.shape) for y in outputs[i + 1 :]))
        for piece in pieces(parameter.size, at_once):
            elements = range(piece.start, piece.stop)
            # subtract row by row, because the difference of two means would have the rounding of the means
            sums.append(xp.sum(losses(i, parameter, elements, h) - losses(i, parameter, elements, -h), axis=0))
        return fraction(xp.reshape(xp.concat(sums), parameter.shape), loss.total(t)) / (2 * h)

    return [gradient(i, p) for i, layer in enumerate(layers) for p in layer.parameters().values() if p.trainable]


@singledispatch
def forward_changed(
    layer: Layer, x: Array, y: Array, parameter: Parameter, elements: range, h: float
) -> Columns | Array:
    """Return k variants of y = layer.forward(x) in inference mode: h is added to one element of `parameter` in each.

    elements: the flat indices of the k elements. The result is a Columns, or an array of the rows of all variants in
    the order of `Columns.rows`.
    """
    xp = array_namespace(x)
    flat = xp.reshape(parameter.data, (-1,), copy=False)
    variants = []
    for k in elements:
        before = xp.asarray(flat[k], copy=True)
        flat[k] = before + h
        variants.append(layer.forward(x))
        flat[k] = before
    return xp.reshape(xp.stack(variants, axis=1), (-1, *y.shape[1:]))


@singledispatch
def forward_columns(layer: Layer, x: Columns, y: Array) -> Columns | Array:
    """Return `forward` of the variants x in inference mode, as Columns or as rows in the order of `Columns.rows`.

    y: `forward` of the batch without changes.
    """
    if layer.elementwise:
        return Columns(y, x.columns, layer.forward(x.values))
    return layer.forward(x.rows())


def shortcut(function: Any, kind: type[Layer]) -> Callable[[F], F]:
    """Register a shorter way for the layers of a class, and of its subclasses that do not override `forward`.

    function: `forward_changed` or `forward_columns`. The decorated function has the same arguments and result.
    """

    def register(short: F) -> F:
        def chosen(layer: Layer, *arguments: Any) -> Any:
            way = short if type(layer).forward is kind.forward else function.dispatch(object)
            return way(layer, *arguments)

        function.register(kind, chosen)
        return short

    return register


@shortcut(forward_changed, Affine)
def _(layer: Affine, x: Array, y: Array, parameter: Parameter, elements: range, h: float) -> Columns:
    """Return the changed columns of y: h in W[i, j] adds h x[:, i] to column j, h in b[j] adds h."""
    xp = array_namespace(x)
    at = xp.arange(elements.start, elements.stop, device=device(x))
    columns = at % layer.output_size
    dy = h if parameter is layer.b else h * xp.take(x, at // layer.output_size, axis=1)
    return Columns(y, columns, xp.take(y, columns, axis=1) + dy)


@shortcut(forward_columns, Affine)
def _(layer: Affine, x: Columns, y: Array) -> Array:
    """Return all rows: dx in column j of x adds the outer product of dx and W[j, :] to y."""
    xp = array_namespace(y)
    W = xp.take(layer.W.data.T, x.columns, axis=1)
    variants = W[:, None, :] * x.change[None, :, :]  # (output_size, n, k)
    variants += y.T[:, :, None]
    return xp.reshape(variants, (layer.output_size, -1)).T


@shortcut(forward_columns, BatchNormalization)
def _(layer: BatchNormalization, x: Columns, y: Array) -> Columns:
    """Return the columns of y plus their scaled changes: in inference mode no column depends on another."""
    xp = array_namespace(y)
    scale = xp.take(layer.gamma.data / xp.sqrt(layer.running_var.data + layer.eps), x.columns)
    return Columns(y, x.columns, xp.take(y, x.columns, axis=1) + scale * x.change)
