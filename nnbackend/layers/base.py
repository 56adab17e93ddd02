"""The base classes of layers and losses."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

from nnbackend.backends import Backend, backend, describe
from nnbackend.errors import BackendError
from nnbackend.functions import record, total_weight
from nnbackend.functions.array import Array, array_namespace, device, take_columns
from nnbackend.initializers import Initializer
from nnbackend.parameters import Parameter, ParameterBuffer
from nnbackend.random import host_generator

Shape = tuple[int, ...]
RowShape = tuple[int | None, ...]  # None where any length will do


class Same:
    """Holds an object and keeps it alive. Two instances are equal if they hold the same object."""

    def __init__(self, thing: object):
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    __hash__ = None  # type: ignore[assignment]


def _settled(value: Any) -> Any:
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, list | tuple):
        return [_settled(part) for part in value]
    if isinstance(value, dict):
        return {name: _settled(part) for name, part in value.items()}
    if isinstance(value, Parameter):
        return [Same(value.data), Same(value.grad)]
    return Same(value)


@cache
def _arguments(kind: type) -> tuple[str, ...]:
    """Return the names of a constructor's arguments. Raises TypeError for *args and **settings."""
    parameters = inspect.signature(kind).parameters.values()
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise TypeError(
                f"{kind.__name__} cannot be saved or copied: its constructor takes {p}. Name the arguments, or "
                f"override config()"
            )
    return tuple(p.name for p in parameters)


class Part:
    """Base class of layers and losses. The network gives the name. The dataclass fields are the settings."""

    name = ""

    @property
    def kind(self) -> str:
        return type(self).__name__

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for saving and copying: each is the attribute of the same name.

        Raises TypeError if the class keeps an argument in no such attribute.
        """
        settings = {}
        for name in _arguments(type(self)):  # type: ignore[arg-type]
            if name not in vars(self):
                raise TypeError(
                    f"{self.kind} cannot be saved or copied: its argument {name!r} is not kept as self.{name}. "
                    f"Keep it so, make the class a dataclass, or override config()"
                )
            settings[name] = getattr(self, name)
        return settings

    def signature(self) -> dict[str, Any]:
        """Return what a recorded training step of this part may depend on: the part itself and its public attributes.

        Numbers and text are compared by value, everything else by identity. Names that begin with an underscore are
        caches, and so are attributes that a step changes.
        """
        settings = {name: _settled(value) for name, value in vars(self).items() if not name.startswith("_")}
        return {"": Same(self), **settings}

    def __str__(self) -> str:
        return self.name or self.kind


@dataclass(frozen=True)
class Columns:
    """Holds k variants of a batch, each of which differs from it in one column, as after a change of one weight.

    x: (n, c), the batch. columns: (k,) integers. values: (n, k); values[:, i] is column columns[i] of variant i.
    """

    x: Array
    columns: Array
    values: Array

    def products(self) -> Products:
        """Return the same variants as Products: a change times a row with a single one."""
        xp, c = array_namespace(self.x), self.x.shape[1]
        W = xp.take(xp.eye(c, dtype=self.x.dtype, device=device(self.x)), self.columns, axis=0)
        return Products(self.x, self.values - take_columns(self.x, self.columns), W)

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
        xp = array_namespace(self.x)
        variants = self.W.T[:, None, :] * self.columns[None, :, :]  # (c, n, k)
        variants += self.x.T[:, :, None]
        return xp.reshape(variants, (self.x.shape[1], -1)).T


class Layer(Part):
    """Base class of the steps of a network. `forward` remembers only the arrays that `backward` reads.

    A subclass keeps its settings in attributes named as the constructor's arguments (a dataclass does so by itself),
    and its Parameters as further attributes. `backward` writes each Parameter's gradient into `grad`:

        @dataclass(eq=False)
        class Scale(nn.Layer):
            start: float = 1.0

            def __post_init__(self):
                self.scale = nn.Parameter((1,), nn.Constant(self.start))

            def forward(self, x, training=False):
                self._x = x
                return x * self.scale.data

            def backward(self, dy, need_dx=True):
                self.scale.grad[...] = (dy * self._x).sum()
                return dy * self.scale.data

    `initializer` is the initializer that suits the weights before this layer; if it is None, the next layer decides.
    """

    initializer: Initializer | None = None
    keeps_shape = True  # has a row of y the shape of its row of x? Asked only where input_shape is None
    draws = False  # random numbers, while training, by the clock that `bind` gives it?
    elementwise = False  # in inference mode, is every element of y a function of that element of x and no other?

    def forward(self, x: Array, training: bool = False) -> Array:
        """Return y for a batch x. Axis 0 is the batch."""
        raise NotImplementedError

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Write the parameters' gradients to `Parameter.grad`, and return dx.

        dy: the gradient with respect to the y of the last forward. need_dx: if False, no layer below has parameters,
        and dx need not be computed.
        """
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one output row for one input row of `shape`. Raise ValueError if `shape` does not fit."""
        return shape

    @property
    def input_shape(self) -> RowShape | None:
        """The shape of one input row as far as the settings fix it; None stands for any length, or any shape."""
        return None

    def least_rows(self, shape: Shape) -> int:
        """Return the fewest rows of `shape` that a training pass can work with."""
        return 1

    def parameters(self) -> dict[str, Parameter]:
        """Return the layer's Parameters by attribute name, in the order of their creation."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Parameter)}

    def bind(self, clock: Array, number: int, seed: int) -> None:
        """Receive from the network, once, the values from which a layer that `draws` makes random numbers.

        clock: the number of training passes so far, on the device. number: this layer's place in the stack. seed: the
        network's seed.
        """

    # for numerical gradients, in inference mode: a layer that knows a shorter way may override these two

    def forward_changed(self, x: Array, y: Array, parameter: Parameter, elements: range, h: float) -> Columns | Array:
        """Return k variants of y = forward(x): h is added to one element of `parameter` in each.

        elements: the flat indices of the k elements. The result is a Columns, or an array of the rows of all variants.
        """
        xp = array_namespace(x)
        flat = xp.reshape(parameter.data, (-1,), copy=False)
        variants = []
        for k in elements:
            before = xp.asarray(flat[k], copy=True)
            flat[k] = before + h
            variants.append(self.forward(x))
            flat[k] = before
        return xp.reshape(xp.stack(variants, axis=1), (-1, *y.shape[1:]))

    def forward_columns(self, x: Columns, y: Array) -> Columns | Products | Array:
        """Return `forward` of the variants x, as Columns, Products or rows. y: `forward` of the unchanged batch."""
        if self.elementwise:
            return Columns(y, x.columns, self.forward(x.values))
        return self.forward(x.rows())

    def initialize(self, seed: int = 0, dtype: str = "float32", on: Backend | None = None) -> Layer:
        """Give a layer outside a network its parameters, and return it. (A Network does this for its layers.)"""
        parameters = list(self.parameters().values())
        self._buffer = ParameterBuffer(parameters, on or backend(), dtype, host_generator(seed))
        self.bind(self._buffer.clock, 0, seed)
        return self


class Loss(Part):
    """Base class of losses, which compare the output y of a network with the target t.

    The loss of a batch is sum(w_i l_i) / divisor: l_i the loss of a row, w_i its weight (`weight`: (n,), at least 0, in
    the dtype of y). divisor: n times the mean weight of the whole set that the batch is a part of, so that a weight of
    k counts like k rows, however small the batch; by default the sum of the batch's own weights, or n without weights.
    A subclass with `classifies` set knows right from wrong, and has `count_correct`. One that meets no weights may
    leave `weight` and `divisor` out everywhere: they are passed if there are weights.
    """

    classifies = False

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        """The mean loss of the batch, a 0-d array that stays on the device."""
        raise NotImplementedError

    def rows(self, y: Array, t: Array) -> Array:
        """The loss of every row, (n,), without its sample weight; `forward` is sum(w_i rows_i) / divisor."""
        raise NotImplementedError

    def variants(self, y: Products, t: Array) -> Array:
        """The loss of every row of every variant of y, (n, k), for numerical gradients."""
        n, k = y.columns.shape
        xp = array_namespace(y.x)
        return xp.reshape(self.rows(y.rows(), xp.repeat(t, k, axis=0)), (n, k))

    def total(self, t: Array, weight: Array | None = None) -> Array | int:
        """The sum of the weights, 0-d on the device; without any, the number of rows: what `forward` divides by."""
        return total_weight(t, weight)

    def backward(self) -> Array:
        """Return dy, the gradient of the loss of the last forward."""
        raise NotImplementedError

    def mean_weight(self, t: Array, weight: Array | None = None) -> float | None:
        """Return the mean weight of the rows of a set, which reads the device once; None if nothing weights them."""
        total = self.total(t, weight) if weight is not None else self.total(t)
        return None if isinstance(total, int) else float(total) / t.shape[0]

    def recorded(self, y: Array, t: Array, figures: Array, at: Array | int, divisor: float | None = None) -> Array:
        """Do what a training step without sample weights asks of a loss: record the mean loss of the batch in
        figures[0, at] and, if the loss classifies, the number of correct rows in figures[1, at]; return dy.
        """
        loss = self.forward(y, t) if divisor is None else self.forward(y, t, None, divisor)
        record(figures, at, loss, *([self.count_correct(y, t)] if self.classifies else []))
        return self.backward()

    def output(self, y: Array) -> Array:
        """Return the network's answer, such as probabilities, for its raw output y."""
        return y

    def count_correct(self, y: Array, t: Array, weight: Array | None = None) -> Array:
        """Return the number of correct rows, or the sum of their weights: a 0-d array on the device."""
        raise NotImplementedError

    def classes(self, y: Array, t: Array) -> tuple[Array, Array] | None:
        """Return the predicted class of every row by y and its true class by t, (n,) integers each, on the device.

        The result is None if a row does not belong to exactly one class.
        """
        return None

    def target(self, t: Any, n: int, shape: Shape, on: Backend, dtype: str) -> Array:
        """Check t, n rows of targets for network outputs of `shape`, and return it on the backend `on`.

        It reads values of t on the host, so it is called when data comes in and never in a training step.
        """
        raise NotImplementedError


def check_input(layer: Layer, x: Array, W: Array, last: int, axes: int | None = 2) -> None:
    """Raise an error unless x has the kind, device and dtype of W, `axes` axes (None: any) and `last` features."""
    if (
        type(x) is not type(W)
        or x.device != W.device
        or x.dtype != W.dtype
        or x.ndim != (axes or x.ndim)
        or x.shape[-1] != last
    ):
        _refuse_input(layer, x, W, last, axes)


def _refuse_input(layer: Layer, x: Array, W: Array, last: int, axes: int | None) -> None:
    if W is None:
        raise ValueError(f"{layer} has no parameter values yet: put it in a Network, or call its initialize(seed)")
    if not hasattr(x, "dtype") or type(x) is not type(W) or x.device != W.device:
        raise BackendError(f"{layer}: argument x is {describe(x)}, but the parameters are {describe(W)}")
    if x.dtype != W.dtype:
        raise ValueError(f"{layer}: argument x has dtype {x.dtype}, but the parameters have {W.dtype}")
    expected = ", ".join(["n", *{2: [], 4: ["h", "w"]}.get(axes or 0, ["..."]), str(last)])
    raise ValueError(f"{layer}: argument x must have shape ({expected}), got {tuple(x.shape)}")
