"""The base classes of layers and losses."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from functools import cache, wraps
from typing import Any, ClassVar, Self

from nnbackend.backends import Backend, backend, describe
from nnbackend.checks import plain_number
from nnbackend.errors import BackendError
from nnbackend.functions import record, total_weight
from nnbackend.functions.array import Array
from nnbackend.initializers import Initializer, Xavier
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

    def __init_subclass__(cls, **settings: Any) -> None:
        """Let `__post_init__` of a dataclass see settings that are Python's numbers."""
        super().__init_subclass__(**settings)
        check = vars(cls).get("__post_init__")
        if check is not None:

            @wraps(check)
            def checked(self: Part, *arguments: Any, **named: Any) -> Any:
                vars(self).update({name: plain_number(value) for name, value in vars(self).items()})
                return check(self, *arguments, **named)

            cls.__post_init__ = checked  # type: ignore[attr-defined]

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

    A layer of layers names in `inner` the arguments that hold them: each a layer, a list of layers, or None. Its
    `forward` and `backward` call those of the layers within, whose parameters and names the network then finds.
    """

    inner: ClassVar[tuple[str, ...]] = ()

    initializer: Initializer | None = None
    keeps_shape = True  # a row of y has the shape of its row of x; this is read only if input_shape is None
    draws = False  # the layer draws random numbers while training, by the clock that `bind` receives
    in_loops = False  # a CPU does most of its work in loops, not in products of matrices
    elementwise = False  # in inference mode, each element of y depends on the same element of x alone
    input_dtype = ""  # the dtype of x if that is not the network's: "int64" for ids
    identity = False  # in inference mode, y is x
    frozen = False  # whether it keeps its values, and does what it does in inference mode; see `Network.freeze`

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

    def shape_before(self, following: RowShape | None) -> RowShape | None:
        """Return the shape of one input row whose output row has the shape `following`, where `input_shape` is None."""
        return following if self.keeps_shape else None

    def widest(self, shape: Shape) -> int:
        """Return the size of the largest array that a forward pass makes of one row of `shape`."""
        return math.prod(self.output_shape(shape))

    def check_values(self, x: Array, argument: str) -> None:
        """Raise ValueError, which names the argument, if x holds values that the layer cannot take.

        It reads x on the host, so it is called when data comes in and never in a training step.
        """

    def least_rows(self, shape: Shape) -> int:
        """Return the fewest rows of `shape` that a training pass can work with."""
        return 1

    @property
    def carried_rows(self) -> int:
        """Return the rows of a training batch, if the layer carries their state over to the next batch; else 0."""
        return 0

    def reset_state(self) -> None:
        """Forget the state that the layer carries over."""

    def places(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        """Yield this layer and the layers within it, each with the shape of its input rows if this takes `shape`."""
        yield self, shape

    def steps(self) -> list[Layer]:
        """Return layers that do the same one after another: for a plain sequence those within it, else this layer."""
        return [self]

    def within(self) -> list[Layer]:
        """Return the layers that the arguments named in `inner` hold, in their order."""
        held = [getattr(self, name) for name in self.inner]
        return [layer for value in held for layer in (value if isinstance(value, list | tuple) else [value]) if layer]

    def walk(self) -> Iterator[Layer]:
        """Yield this layer, then all layers within it, in the order of a forward pass."""
        yield self
        for layer in self.within():
            yield from layer.walk()

    def own_parameters(self) -> dict[str, Parameter]:
        """Return `parameters()` without those of layers within this one."""
        return _parameters_of(self) if self.inner else self.parameters()

    def parameters(self) -> dict[str, Parameter]:
        """Return the layer's Parameters by attribute name, in the order of their creation.

        A layer of layers has those of all layers within it, by name and count ("W1", "b1", "W2", ...).
        """
        if not self.inner:
            return _parameters_of(self)
        owned = [item for layer in self.walk() for item in layer.own_parameters().items()]
        return dict(zip(numbered(name for name, _ in owned), (parameter for _, parameter in owned), strict=True))

    @property
    def original(self) -> Layer:
        """Return the layer of which this one is a further use in a network, or this one."""
        original: Layer = vars(self).get("_original", self)
        return original

    def twin(self, parameter: Callable[[Parameter], Parameter] = lambda parameter: parameter) -> Self:
        """Return a copy whose passes do not disturb this layer's: it remembers its arrays by itself.

        parameter: called with each Parameter, it returns the one of the copy. By default both have the same.
        """
        other = copy(self)
        for name, value in _parameters_of(self).items():
            vars(other)[name] = parameter(value)
        other.replace_within(lambda layer: layer.twin(parameter))
        return other

    def replace_within(self, other: Callable[[Layer], Layer]) -> None:
        """Put other(layer) in the place of each layer within this one."""
        for name in self.inner:
            value = getattr(self, name)
            if value is not None:
                several = isinstance(value, list | tuple)
                vars(self)[name] = [other(layer) for layer in value] if several else other(value)

    def suit(self, following: Initializer) -> Initializer:
        """Give weights without an initializer one that suits what follows; return what suits the layers before."""
        suits = self.initializer or following
        open_weights = [p for p in self.parameters().values() if p.initializer is None]
        for parameter in open_weights:
            parameter.initializer = suits
        return Xavier() if open_weights else suits

    def bind(self, clock: Array, number: int, seed: int) -> None:
        """Receive from the network, once, the values from which a layer that `draws` makes random numbers.

        clock: the number of training passes so far, on the device. number: this layer's place among all layers of the
        network. seed: the network's seed.
        """

    def initialize(self, seed: int = 0, dtype: str = "float32", on: Backend | None = None) -> Layer:
        """Give a layer outside a network its parameters, and return it. (A Network does this for its layers.)

        Weights without an initializer are drawn as in a network that ends with this layer.
        Raises ValueError if the layer has a layer within it twice, because the gradients of both uses add only in a
        Network.
        """
        layers = list(self.walk())
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError(f"{self} has a layer within it twice: put it in a Network")
        self.suit(Xavier())
        parameters = list(self.parameters().values())
        self._buffer = ParameterBuffer(parameters, on or backend(), dtype, host_generator(seed))
        for number, layer in enumerate(layers):
            layer.bind(self._buffer.clock, number, seed)
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

    def counted(self, t: Array, weight: Array | None = None) -> Array | int:
        """Return what `count_correct` is a part of: the number of rows, or the sum of their weights, on the device.

        Of a loss with a time axis, every position counts, but for those that it leaves out.
        """
        return total_weight(t, weight)

    def is_counted(self, t: Array) -> Array | None:
        """Return which targets count, booleans in the shape of t, or None if all do."""
        return None

    def positions(self, y: Array, t: Array) -> tuple[Array, Array]:
        """Return y and t with every position of a time axis as a row of its own."""
        return y, t

    def backward(self) -> Array:
        """Return dy, the gradient of the loss of the last forward."""
        raise NotImplementedError

    def mean_weight(self, t: Array, weight: Array | None = None) -> float | None:
        """Return the mean weight of the rows of a set, or None if nothing weights them. Reads the device once."""
        total = self.total(t, weight) if weight is not None else self.total(t)
        return None if isinstance(total, int) else float(total) / t.shape[0]

    def recorded(self, y: Array, t: Array, metrics: Array, at: Array | int, divisor: float | None = None) -> Array:
        """Record the mean loss of a batch in metrics[0, at], and return dy.

        If the loss classifies, the number of correct rows goes to metrics[1, at], and if `counted` differs from batch
        to batch, it goes to metrics[2, at]. A training step without sample weights calls this in place of `forward` and
        `backward`.
        """
        loss = self.forward(y, t) if divisor is None else self.forward(y, t, None, divisor)
        correct = [self.count_correct(y, t)] if self.classifies else []
        counted = self.counted(t)
        record(metrics, at, loss, *correct, *([] if isinstance(counted, int) else [counted]))
        return self.backward()

    def output(self, y: Array) -> Array:
        """Return the network's answer, such as probabilities, for its raw output y."""
        return y

    def count_correct(self, y: Array, t: Array, weight: Array | None = None) -> Array:
        """Return the number of correct rows, or the sum of their weights: a 0-d array on the device.

        Of a loss with a time axis, it is that of positions; see `counted`.
        """
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


def check_steps(layer: Layer, x: Array) -> None:
    """Raise ValueError if a sequence has no step. x: (n, T, ...)."""
    if x.shape[1] == 0:
        raise ValueError(f"{layer}: argument x must have at least one step, got shape {tuple(x.shape)}")


def checked_sequence(layer: Layer, shape: Shape, features: int) -> Shape:
    """Return `shape`. Raise ValueError unless it is (T, features), T at least 1."""
    if len(shape) != 2 or shape[1] != features or shape[0] < 1:
        raise ValueError(
            f"{layer} takes rows of shape (T, {features}), T at least 1, but what comes before gives {shape}"
        )
    return shape


def check_images(layer: Layer, x: Array) -> None:
    """Raise ValueError unless x has the four axes of a batch of images."""
    if getattr(x, "ndim", None) != 4:
        raise ValueError(f"{layer}: argument x must have shape (n, h, w, c), got {tuple(getattr(x, 'shape', ()))}")


def image_shape(layer: Layer, shape: Shape) -> Shape:
    """Return the shape of an image. Raise ValueError if it is not one."""
    if len(shape) != 3:
        raise ValueError(f"{layer} takes images of (h, w, c), but what comes before gives {shape}")
    return shape


def _refuse_input(layer: Layer, x: Array, W: Array, last: int, axes: int | None) -> None:
    if W is None:
        raise ValueError(f"{layer} has no parameter values yet: put it in a Network, or call its initialize(seed)")
    if not hasattr(x, "dtype") or type(x) is not type(W) or x.device != W.device:
        raise BackendError(f"{layer}: argument x is {describe(x)}, but the parameters are {describe(W)}")
    if x.dtype != W.dtype:
        raise ValueError(f"{layer}: argument x has dtype {x.dtype}, but the parameters have {W.dtype}")
    expected = ", ".join(["n", *{2: [], 3: ["T"], 4: ["h", "w"]}.get(axes or 0, ["..."]), str(last)])
    raise ValueError(f"{layer}: argument x must have shape ({expected}), got {tuple(x.shape)}")


def _parameters_of(layer: Layer) -> dict[str, Parameter]:
    return {name: value for name, value in vars(layer).items() if isinstance(value, Parameter)}


def numbered(names: Iterable[str]) -> list[str]:
    """Append its count to each name: W, b, W, b gives W1, b1, W2, b2."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name}{seen[name]}")
    return found
