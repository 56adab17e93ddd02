"""The base classes of layers and losses."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from nnbackend.backends import Backend, backend, describe
from nnbackend.errors import BackendError
from nnbackend.functions import record, total_weight
from nnbackend.functions.array import Array
from nnbackend.initializers import Initializer
from nnbackend.parameters import Parameter, ParameterBuffer
from nnbackend.random import host_generator

Shape = tuple[int, ...]
RowShape = tuple[int | None, ...]  # None stands for any length


class Same:
    """Holds an object and keeps it alive. Two instances are equal if they hold the same object."""

    def __init__(self, thing: object):
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    __hash__ = None  # type: ignore[assignment]


def _settled(value: Any) -> Any:
    """Return the value in a form that compares equal if a recorded step may still use it."""
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
    """Base class of layers and losses. The network sets the name. The constructor's arguments are the settings."""

    name = ""

    @property
    def kind(self) -> str:
        """Return the name of the class, by which files know it."""
        return type(self).__name__

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for saving and copying. Each is read from the attribute of its name.

        Raises TypeError if an argument has no such attribute.
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

        Numbers and text are compared by value, everything else by identity. Attributes whose names begin with an
        underscore are left out, because they hold caches and values that a step changes.
        """
        settings = {name: _settled(value) for name, value in vars(self).items() if not name.startswith("_")}
        return {"": Same(self), **settings}

    def to_onnx(self, graph: Any, x: str) -> str:
        """Add to an ONNX graph what `forward` computes in inference mode (a loss: what `output` does); return its name.

        A layer or loss of your own may override it, and need not if it keeps to the array API. graph: an
        `nnbackend.interchange.onnx.Graph`. x: the name of the input in the graph.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name or self.kind


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
    keeps_shape = True  # a row of y has the shape of its row of x; this is read only if input_shape is None
    draws = False  # the layer draws random numbers while training, by the clock that `bind` receives
    elementwise = False  # in inference mode, each element of y depends on the same element of x alone
    input_dtype = ""  # the dtype of x if that is not the network's: "int64" for ids
    identity = False  # in inference mode, y is x

    waiting: list[list[Array]] | None = None  # receives the updates of running statistics, if several processes train

    def forward(self, x: Array, training: bool = False) -> Array:
        """Return y for a batch x. Axis 0 is the batch."""
        raise NotImplementedError

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Write the parameters' gradients to `Parameter.grad`, and return dx.

        dy: the gradient with respect to the y of the last forward. need_dx: if False, no layer below has parameters,
        and dx need not be computed.
        """
        raise NotImplementedError

    def follow(self, update: list[Array]) -> None:
        """Let the running statistics follow one training batch.

        A layer that changes parameters which are not trainable does it here. If `waiting` is None, `forward` calls this
        method; otherwise it appends the update, arrays of fixed shapes, to `waiting`: the updates of all processes
        are then applied in the order of the batches.
        """
        raise NotImplementedError(f"{type(self).__name__} has no follow(update), so it trains in one process alone")

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one output row for one input row of `shape`. Raise ValueError if `shape` does not fit."""
        return shape

    @property
    def input_shape(self) -> RowShape | None:
        """Return the shape of one input row as far as the settings fix it. None stands for any length, or any shape."""
        return None

    def check_values(self, x: Array, argument: str) -> None:
        """Raise ValueError, which names the argument, if x holds values that the layer cannot take.

        It reads x on the host, so it is called when data comes in and never in a training step.
        """

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

    def initialize(self, seed: int = 0, dtype: str = "float32", on: Backend | None = None) -> Layer:
        """Give a layer outside a network its parameters, and return it. (A Network does this for its layers.)"""
        parameters = list(self.parameters().values())
        self._buffer = ParameterBuffer(parameters, on or backend(), dtype, host_generator(seed))
        self.bind(self._buffer.clock, 0, seed)
        return self


class Loss(Part):
    """Base class of losses, which compare the output y of a network with the target t.

    The loss of a batch of n rows is sum(w_i l_i) / divisor, with the loss l_i and the weight w_i of each row.
    weight: (n,) numbers of at least 0, in the dtype of y; every weight is 1 if it is None.
    divisor: n times the mean weight of the set from which the batch comes. A weight of k then counts like k rows,
    however small the batch. By default it is the sum of the batch's own weights.

    A subclass that sets `classifies` has `count_correct`. A subclass may leave `weight` and `divisor` out of its
    signatures if it is used without weights, because they are passed only if there are weights.
    """

    classifies = False

    def forward(self, y: Array, t: Array, weight: Array | None = None, divisor: float | None = None) -> Array:
        """Return the mean loss of the batch: a 0-d array that stays on the device."""
        raise NotImplementedError

    def rows(self, y: Array, t: Array) -> Array:
        """Return the loss of every row, (n,), without its weight: `forward` is sum(w_i rows_i) / divisor."""
        raise NotImplementedError

    def total(self, t: Array, weight: Array | None = None) -> Array | int:
        """Return the default divisor of `forward`: the sum of the weights, 0-d on the device, or the number of rows."""
        return total_weight(t, weight)

    def backward(self) -> Array:
        """Return dy, the gradient of the loss of the last forward."""
        raise NotImplementedError

    def mean_weight(self, t: Array, weight: Array | None = None) -> float | None:
        """Return the mean weight of the rows of a set, or None if nothing weights them. Reads the device once."""
        total = self.total(t, weight) if weight is not None else self.total(t)
        return None if isinstance(total, int) else float(total) / t.shape[0]

    def recorded(self, y: Array, t: Array, metrics: Array, at: Array | int, divisor: float | None = None) -> Array:
        """Record the mean loss of a batch in metrics[0, at], and return dy.

        If the loss classifies, the number of correct rows goes to metrics[1, at]. A training step without sample
        weights calls this in place of `forward` and `backward`.
        """
        loss = self.forward(y, t) if divisor is None else self.forward(y, t, None, divisor)
        record(metrics, at, loss, *([self.count_correct(y, t)] if self.classifies else []))
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


def check_images(layer: Layer, x: Array) -> None:
    """Raise ValueError unless x has the four axes of a batch of images."""
    if getattr(x, "ndim", None) != 4:
        raise ValueError(f"{layer}: argument x must have shape (n, h, w, c), got {tuple(getattr(x, 'shape', ()))}")


def _refuse_input(layer: Layer, x: Array, W: Array, last: int, axes: int | None) -> None:
    if W is None:
        raise ValueError(f"{layer} has no parameter values yet: put it in a Network, or call its initialize(seed)")
    if not hasattr(x, "dtype") or type(x) is not type(W) or x.device != W.device:
        raise BackendError(f"{layer}: argument x is {describe(x)}, but the parameters are {describe(W)}")
    if x.dtype != W.dtype:
        raise ValueError(f"{layer}: argument x has dtype {x.dtype}, but the parameters have {W.dtype}")
    expected = ", ".join(["n", *{2: [], 4: ["h", "w"]}.get(axes or 0, ["..."]), str(last)])
    raise ValueError(f"{layer}: argument x must have shape ({expected}), got {tuple(x.shape)}")
