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
from typing import Any, TypeAlias, TypeVar

from nnbackend.backends import describe
from nnbackend.functions.array import Array, Namespace, array_namespace, device, pieces, take_columns
from nnbackend.functions.losses import fraction, softmax_cross_entropy_variants
from nnbackend.layers import Affine, BatchNormalization, Layer, Loss, SoftmaxWithLoss
from nnbackend.layers.containers import Stacks, through
from nnbackend.parameters import Parameter

__all__ = [
    "Columns",
    "Products",
    "forward_changed",
    "forward_columns",
    "loss_of_products",
    "numerical_gradient",
    "shortcut",
    "stack_gradient",
]

F = TypeVar("F", bound=Callable[..., Any])

CHUNK = 2**20  # elements of the largest array of one piece: temporaries of 8 MB in float64
SHARED = 2**16  # rows times parameters from which threads share the work: some ms of it, and a thread takes 0.1 ms

# --- of a function -----------------------------------------------------------------------------------------------


def numerical_gradient(f: Callable[[Array], Any], x: Array, h: float = 1e-4) -> Array:
    """Return (f(x + h e_i) - f(x - h e_i)) / (2 h) for every element i of x (the book, sections 4.3 and 4.4).

    x: any shape, float32 or float64, on any backend. f: called with x itself, which is changed in place, and returns
    a number or a 0-d array. f may therefore read x from elsewhere:
    `numerical_gradient(lambda _: net.loss(x, t), net.params["W1"])`. x is restored exactly, even if f raises.

    The result is an array like x. Its error is of order h^2 plus eps |f| / h, with the eps of the dtype in which f
    computes: about 1e-8 in float64, but about 1e-3 |f| in float32, which leaves few correct digits. A step below
    eps |x| changes nothing: for float32 values of 1000 and more, h should be larger. f is called twice per element. For
    a whole network `Network.numerical_gradient` is much faster and always computes in float64.

    Raises TypeError if x is not an array of float32 or float64 or f(x) is not a number. Raises ValueError for an x
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
    if xp.finfo(x.dtype).bits < 32:  # x + h is x, so every gradient would be 0
        raise TypeError(f"x: expected an array of float32 or float64, got dtype {x.dtype}")
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
        return self.values - take_columns(self.x, self.columns)

    def products(self) -> Products:
        """Return the same variants as Products: a change times a row with a single one."""
        xp, c = array_namespace(self.x), self.x.shape[1]
        W = xp.take(xp.eye(c, dtype=self.x.dtype, device=device(self.x)), self.columns, axis=0)
        return Products(self.x, self.change, W)

    def rows(self) -> Array:
        """Return all rows of all variants, (n k, c): first the k variants of row 0, then those of row 1, and so on.

        The result is column-major, so that a softmax over it works along the long axis.
        """
        xp, c = array_namespace(self.x), self.x.shape[1]
        numbers = xp.arange(c, dtype=self.columns.dtype, device=device(self.columns))
        changed = numbers[:, None, None] == self.columns[None, None, :]
        return xp.reshape(xp.where(changed, self.values[None, ...], self.x.T[:, :, None]), (c, -1)).T


@dataclass(frozen=True)
class Products:
    """Holds k variants of a batch, each of which differs from it by the product of a column and a row.

    x: (n, c), the batch. columns: (n, k). W: (k, c). Variant i is x + columns[:, i] W[i, :].
    """

    x: Array
    columns: Array
    W: Array

    def rows(self) -> Array:
        """Return all rows of all variants in the order of `Columns.rows`, also column-major."""
        variants = self.W.T[:, None, :] * self.columns[None, :, :]  # (c, n, k)
        variants += self.x.T[:, :, None]
        return array_namespace(self.x).reshape(variants, (self.x.shape[1], -1)).T


Variants: TypeAlias = Columns | Products | Array


def stack_gradient(
    layers: Sequence[Layer],
    loss: Loss,
    x: Array,
    t: Array,
    h: float = 1e-4,
    copies: Callable[[], Sequence[Sequence[Layer]]] = tuple,
) -> list[Array]:
    """Return the numerical gradient of the loss, in inference mode, for every trainable parameter of the layers.

    layers: as in a network, with parameters that can be written to. x, t: a batch, on the layers' device and in their
    dtype. copies: returns further copies of the layers, and is called if there is much to do: each copy then gets a
    thread of its own. The parameters are restored exactly. Raises ValueError for an h that is not positive.
    """
    xp, h = array_namespace(x), _step(h)
    outputs = [_column_major(x)]
    for layer in layers:
        outputs.append(_column_major(layer.forward(outputs[-1])))

    owned = [(i, *item) for i, layer in enumerate(layers) for item in layer.parameters().items()]
    shared = {id(p.source) for *_, p in owned if p.source is not None}
    trained = [(i, name, p) for i, name, p in owned if p.trainable and p.source is None]
    used_again = {(i, name) for i, name, p in trained if id(p) in shared}

    def losses(layers: Sequence[Layer], i: int, name: str, elements: range, h: float) -> Array:
        """Return the loss of every row after adding h to one element, for each of `elements`: (n, k)."""
        parameter = layers[i].parameters()[name]
        if (i, name) in used_again:  # the change arises at several places
            varied = _each_changed(parameter, elements, h, lambda: loss.rows(through(layers[i:], outputs[i]), t))
            return xp.stack(varied, axis=1)
        y = forward_changed(layers[i], outputs[i], outputs[i + 1], parameter, elements, h)
        y = _onward(layers[i + 1 :], outputs[i + 2 :], y)
        if isinstance(y, Columns | Products):
            return loss_of_products(loss, y.products() if isinstance(y, Columns) else y, t)
        return xp.reshape(loss.rows(y, xp.repeat(t, len(elements), axis=0)), (-1, len(elements)))

    def difference(layers: Sequence[Layer], i: int, name: str, elements: range) -> Array:
        # subtract row by row, because the difference of two means would have the rounding of the means
        return xp.sum(losses(layers, i, name, elements, h) - losses(layers, i, name, elements, -h), axis=0)

    gradients = []
    tasks = [
        (i, name, range(piece.start, piece.stop))
        for i, name, p in trained
        for piece in pieces(p.size, max(1, CHUNK // max(math.prod(y.shape) for y in outputs[i + 1 :])))
    ]
    much = x.shape[0] * sum(p.size for *_, p in trained) >= SHARED and len(tasks) > 1
    sums = _shared([layers, *(copies() if much else ())], tasks, difference)
    for i, name, p in trained:
        parts = [part for task, part in zip(tasks, sums, strict=True) if task[:2] == (i, name)]
        gradients.append(fraction(xp.reshape(xp.concat(parts), p.shape), loss.total(t)) / (2 * h))
    return gradients


def _shared(
    stacks: Sequence[Sequence[Layer]], tasks: list[tuple[int, str, range]], work: Callable[..., Array]
) -> list[Array]:
    """Return work(stack, *task) for every task, done in a thread for each of the stacks of layers."""
    if len(stacks) == 1:
        return [work(stacks[0], *task) for task in tasks]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(stacks)) as pool:
        parts = pool.map(lambda k: [work(stacks[k], *task) for task in tasks[k :: len(stacks)]], range(len(stacks)))
        shares = list(parts)
    return [shares[k % len(stacks)][k // len(stacks)] for k in range(len(tasks))]


def _onward(layers: Sequence[Layer], outputs: Sequence[Array], y: Variants) -> Variants:
    """Return what layers make of variants. outputs: what each makes of the batch without changes."""
    for layer, unchanged in zip(layers, outputs, strict=True):
        if isinstance(y, Columns):
            y = forward_columns(layer, y, unchanged)
        else:
            y = layer.forward(y.rows() if isinstance(y, Products) else y)
    return y


def _each_changed(parameter: Parameter, elements: range, h: float, result: Callable[[], Array]) -> list[Array]:
    """Return the results after adding h to one element of a parameter, for each of `elements`, its flat indices."""
    xp = array_namespace(parameter.data)
    flat = xp.reshape(parameter.data, (-1,), copy=False)
    results = []
    for k in elements:
        before = xp.asarray(flat[k], copy=True)
        flat[k] = before + h
        results.append(result())
        flat[k] = before
    return results


def _column_major(x: Array) -> Array:
    """Return a copy of x, (n, c), with its columns in one piece each; other arrays as they are."""
    return take_columns(x, array_namespace(x).arange(x.shape[1], device=device(x))) if x.ndim == 2 else x


@singledispatch
def loss_of_products(loss: Loss, y: Products, t: Array) -> Array:
    """Return the loss of every row of every variant of y: (n, k)."""
    n, k = y.columns.shape
    xp = array_namespace(y.x)
    return xp.reshape(loss.rows(y.rows(), xp.repeat(t, k, axis=0)), (n, k))


@loss_of_products.register(SoftmaxWithLoss)
def _(loss: SoftmaxWithLoss, y: Products, t: Array) -> Array:
    if type(loss).rows is not SoftmaxWithLoss.rows:  # a subclass with a loss of its own
        return loss_of_products.dispatch(object)(loss, y, t)
    counted, xp = loss.is_counted(t), array_namespace(y.x)
    if counted is not None:
        t = t * xp.astype(counted, t.dtype)
    class_weight: Any = loss.class_weight
    if class_weight is not None:
        class_weight = xp.asarray(class_weight, dtype=y.x.dtype, device=device(y.x))
    losses = softmax_cross_entropy_variants(y.x, y.columns, y.W, t, class_weight, loss.label_smoothing)
    return losses if counted is None else losses * xp.astype(counted, losses.dtype)[:, None]


@singledispatch
def forward_changed(layer: Layer, x: Array, y: Array, parameter: Parameter, elements: range, h: float) -> Variants:
    """Return k variants of y = layer.forward(x) in inference mode: h is added to one element of `parameter` in each.

    elements: the flat indices of the k elements. The result is a Columns, a Products, or an array of the rows of all
    variants in the order of `Columns.rows`.
    """
    xp = array_namespace(x)
    variants = _each_changed(parameter, elements, h, lambda: layer.forward(x))
    return xp.reshape(xp.stack(variants, axis=1), (-1, *y.shape[1:]))


@singledispatch
def forward_columns(layer: Layer, x: Columns, y: Array) -> Variants:
    """Return `forward` of the variants x in inference mode, as Columns, as Products, or as rows.

    The rows are in the order of `Columns.rows`. y: `forward` of the batch without changes.
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
def _(layer: Affine, x: Array, y: Array, parameter: Parameter, elements: range, h: float) -> Variants:
    """Return the changed columns of y: h in W[i, j] adds h x[:, i] to column j, h in b[j] adds h."""
    if x.ndim != 2:
        general: Variants = forward_changed.dispatch(object)(layer, x, y, parameter, elements, h)
        return general
    xp = array_namespace(x)
    at = xp.arange(elements.start, elements.stop, device=device(x))
    columns = at % layer.output_size
    dy = h if parameter is layer.b else h * take_columns(x, at // layer.output_size)
    return Columns(y, columns, take_columns(y, columns) + dy)


@shortcut(forward_columns, Affine)
def _(layer: Affine, x: Columns, y: Array) -> Products:
    """Return products: dx in column j of x adds the outer product of dx and W[j, :] to y."""
    return Products(y, x.change, array_namespace(y).take(layer.W.data, x.columns, axis=0))


@shortcut(forward_columns, BatchNormalization)
def _(layer: BatchNormalization, x: Columns, y: Array) -> Columns:
    """Return the columns of y plus their scaled changes: in inference mode no column depends on another."""
    xp = array_namespace(y)
    scale = xp.take(layer.gamma.data / xp.sqrt(layer.running_var.data + layer.eps), x.columns)
    return Columns(y, x.columns, take_columns(y, x.columns) + scale * x.change)


@shortcut(forward_changed, Stacks)
def _(layer: Stacks, x: Array, y: Array, parameter: Parameter, elements: range, h: float) -> Variants:
    """Return the variants of the stack that holds the parameter, joined with what the other stacks make of x."""
    results: list[Array] = []
    changed: Any = None
    at = 0
    for number, stack in enumerate(layer.stacks()):
        steps = [step for part in stack for step in part.steps()]
        outputs = [x]
        for i, step in enumerate(steps):
            outputs.append(_column_major(step.forward(outputs[-1])))
            if any(p is parameter for p in step.parameters().values()):
                at, changed = number, forward_changed(step, outputs[i], outputs[i + 1], parameter, elements, h)
            elif changed is not None and at == number:
                changed = _onward([step], outputs[-1:], changed)
        results.append(outputs[-1])
    if layer.join == "add":
        return _added(y, results[at], changed)
    before = sum(result.shape[-1] for result in results[:at])
    if isinstance(changed, Columns):
        return Columns(y, changed.columns + before, changed.values)
    rows = [array_namespace(x).repeat(result, len(elements), axis=0) for result in results]
    rows[at] = changed.rows() if isinstance(changed, Products) else changed
    return layer.joined(rows)


def _added(y: Array, part: Array, changed: Any) -> Variants:
    """Return the variants of y, a sum of which `part` is one term, if that term changes."""
    xp = array_namespace(y)
    if isinstance(changed, Columns):
        return Columns(y, changed.columns, take_columns(y, changed.columns) + changed.change)
    if isinstance(changed, Products):
        return Products(y, changed.columns, changed.W)
    rows: Array = changed + xp.repeat(y - part, changed.shape[0] // y.shape[0], axis=0)
    return rows
