"""Layers of layers: a sequence, a residual, and parallel branches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array, concat
from nnbackend.initializers import Initializer
from nnbackend.layers.activations import ReLU
from nnbackend.layers.base import Layer, RowShape, Shape, numbered
from nnbackend.layers.convolution import MaxPooling

JOINS = ("add", "concatenate")
LENGTHS = (1, 2, 7, 64, 1000, 2**20)  # at which open axes are tried: some layers take short rows alone, some long ones


class Stacks(Layer):
    """Base class of layers that send x through one or more stacks of layers, side by side, and join what comes out.

    join: "add", or "concatenate" along the last axis. A subclass says what its stacks are.
    """

    join = "add"

    def stacks(self) -> list[Sequence[Layer]]:
        """Return the stacks. An empty one returns x itself."""
        raise NotImplementedError

    def forward(self, x: Array, training: bool = False) -> Array:
        return self.joined([through(stack, x, training) for stack in self.stacks()])

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        stacks = self.stacks()
        dys = [dy] * len(stacks) if self.join == "add" else _split(dy, self._widths)
        dx: Any = None
        for stack, part in zip(reversed(stacks), reversed(dys), strict=True):
            part = back_through(stack, part, need_dx)
            if need_dx:
                dx = part if dx is None else dx + part
        return dx if need_dx else dy

    def joined(self, ys: Sequence[Array]) -> Array:
        """Return the outputs of the stacks, joined. Raise ValueError if their shapes differ."""
        self._check([tuple(y.shape) for y in ys])
        if self.join == "concatenate":
            self._widths = [y.shape[-1] for y in ys]
            return concat(ys[0], -1, *ys[1:])
        total = ys[0]
        for y in ys[1:]:
            total = total + y
        return total

    def output_shape(self, shape: Shape) -> Shape:
        shapes = []
        for stack in self.stacks():
            shapes.append(shape)
            for layer in stack:
                shapes[-1] = layer.output_shape(shapes[-1])
        self._check(shapes)
        return (*shapes[0][:-1], sum(s[-1] for s in shapes)) if self.join == "concatenate" else shapes[0]

    def _check(self, shapes: Sequence[Shape]) -> None:
        lengths = shapes if self.join == "add" else [(*shape[:-1], 0) if shape else () for shape in shapes]
        if any(length != lengths[0] for length in lengths) or (self.join == "concatenate" and () in shapes):
            raise ValueError(f"{self}: {self._refusal(shapes)}")

    def _refusal(self, shapes: Sequence[Shape]) -> str:
        but = "" if self.join == "add" else ", except in the last axis"
        return f"its branches must give equal shapes{but}, got {', '.join(map(str, shapes))}"

    @property
    def input_shape(self) -> RowShape | None:
        found: RowShape | None = None
        for shape in map(input_shape_of, self.stacks()):
            if found is None or shape is None:
                found = found or shape
                continue
            one, other = _beside(found, shape), _beside(shape, found)
            pairs = list(zip(one, other, strict=False))
            if len(one) != len(other) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
                raise ValueError(f"{self}: its branches take rows of shape {found} and of {shape}")
            found = tuple(b if a is None else a for a, b in pairs)
        return found

    def check_open(self, shapes: Sequence[Shape]) -> None:
        """Raise ValueError if what the stacks make of rows cannot be joined, for none of the shapes of a row."""
        found = [_all_behind(stack, shapes) for stack in self.stacks()]
        common = [_common(behind) for behind in found if len(behind) > 1]
        if self.join == "add" and any(a and b and _differ(a[-1], b[-1]) for a, b in itertools.combinations(common, 2)):
            raise ValueError(f"{self}: {self._refusal(common)}")  # type: ignore[arg-type]

    @property
    def keeps_shape(self) -> bool:  # type: ignore[override]
        return self.join == "add" and all(layer.keeps_shape for layer in self.within())

    def places(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        yield self, shape
        for stack in self.stacks():
            here = shape
            for layer in stack:
                yield from layer.places(here)
                here = layer.output_shape(here)

    def suit(self, following: Initializer) -> Initializer:
        before = following
        for stack in reversed(self.stacks()):
            before = following
            for layer in reversed(stack):
                before = layer.suit(before)
        return before


@dataclass(eq=False)
class Sequential(Stacks):
    """Sends x through layers, one after another. Without any layer it returns x.

    Raises TypeError for an element that is not a layer.
    """

    layers: Sequence[Layer]

    inner = ("layers",)

    def __post_init__(self) -> None:
        self.layers = _layers(f"{self.kind}: layers", self.layers)

    def stacks(self) -> list[Sequence[Layer]]:
        return [self.layers]

    def forward(self, x: Array, training: bool = False) -> Array:
        return through(self.layers, x, training)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        return back_through(self.layers, dy, need_dx)

    def steps(self) -> list[Layer]:
        if type(self).forward is not Sequential.forward:
            return [self]
        return [step for layer in self.layers for step in layer.steps()]


@dataclass(eq=False)
class Residual(Stacks):
    """Computes y = f(x) + x, with the layers as f (He et al. 2016), or f(x) + projection(x).

    projection: a layer, or a list of layers, for an f whose output has another shape than x, such as an Affine or a
    Convolution of size 1. Raises ValueError if there is no layer, and for a network in which f(x) and x, or its
    projection, differ in shape. Raises TypeError for what is not a layer.
    """

    layers: Sequence[Layer]
    projection: Layer | Sequence[Layer] | None = None

    inner = ("layers", "projection")

    def __post_init__(self) -> None:
        self.layers = _layers("Residual: layers", self.layers)
        if not self.layers:
            raise ValueError("Residual: layers: at least one layer is needed")
        if self.projection is not None:
            self.projection = _layer("Residual: projection", self.projection)

    def stacks(self) -> list[Sequence[Layer]]:
        return [self.layers, _layers("", [self.projection] if self.projection else [])]

    def _refusal(self, shapes: Sequence[Shape]) -> str:
        if self.projection:
            return f"its layers give {shapes[0]}, but its projection {shapes[1]}"
        return f"its layers give {shapes[0]}, but x is {shapes[1]}: pass a projection, a layer that makes x so"


@dataclass(eq=False)
class Parallel(Stacks):
    """Sends x through several branches, and adds their outputs or concatenates them along the last axis.

    branches: at least one; each is a layer, or a list of layers. An empty list returns x. join: "add", or
    "concatenate". Raises ValueError if there is no branch, for another join, and for a network in which the branches
    give shapes that cannot be joined. Raises TypeError for what is not a layer.
    """

    branches: Sequence[Layer | Sequence[Layer]]
    join: str = "add"

    inner = ("branches",)

    def __post_init__(self) -> None:
        if isinstance(self.branches, Layer) or not isinstance(self.branches, Iterable):
            raise TypeError(f"Parallel: branches: expected a list of layers, got {self.branches!r}")
        self.branches = [_layer(f"Parallel: branches[{i}]", branch) for i, branch in enumerate(self.branches)]
        if not self.branches:
            raise ValueError("Parallel: branches: at least one branch is needed")
        if self.join not in JOINS:
            raise ValueError(f"Parallel: {unknown_name('join', self.join, JOINS)}")

    def stacks(self) -> list[Sequence[Layer]]:
        return [[_layer("", branch)] for branch in self.branches]


def through(layers: Sequence[Layer], x: Array, training: bool = False) -> Array:
    """Return what the layers make of x, one after another."""
    place = 0
    while place < len(layers):
        layer = layers[place]
        first = type(layer) is ReLU and place + 1 < len(layers) and _commute(layer, layers[place + 1])
        if first:
            place += 1
            x = layers[place].forward(x, training)
        x = layer.forward(x, training and not layer.frozen)
        if first:
            layer.behind_pooling = True  # type: ignore[attr-defined]
        place += 1
    return x


def back_through(layers: Sequence[Layer], dy: Array, need_dx: bool = True) -> Array:
    """Return dx for the dy of `through`. need_dx: if False, it goes no lower than the lowest layer that trains."""
    lowest = 0 if need_dx else next((i for i, layer in enumerate(layers) if _trains(layer)), len(layers))
    order = list(layers)
    for i, layer in enumerate(layers):
        if type(layer) is ReLU and layer.behind_pooling:
            order[i : i + 2] = reversed(order[i : i + 2])
    for i in range(len(order) - 1, lowest - 1, -1):
        dy = order[i].backward(dy, need_dx or i > lowest)
    return dy


def _commute(layer: Layer, following: Layer) -> bool:
    """Say whether both layers give the same, to the bit, in the other order, in which the first has less to do.

    The largest element of a window is the same one after ReLU, unless none is positive; then both have no gradient.
    """
    replaced = {"forward", "backward"} & (vars(layer).keys() | vars(following).keys())
    return type(following) is MaxPooling and not replaced


def input_shape_of(layers: Sequence[Layer]) -> RowShape | None:
    """Return the shape of one input row as far as the layers fix it. Raise ValueError if two layers do not fit."""
    expected = [layer.input_shape for layer in layers]
    shape: RowShape | None = None
    for place, (layer, own) in enumerate(zip(layers, expected, strict=True)):
        last_alone = False  # an affine layer says the last axis alone; there may be more before it, as may show later
        if shape is None or (own is not None and len(own) > len(shape) and own[-1] == shape[-1]):
            shape, last_alone = own, own is not None and len(own) == 1
        following = layers[place:] if last_alone else [layer]
        unknown = shape is None or None in shape or _takes_steps(following, shape)  # type: ignore[arg-type]
        shape = None if unknown else layer.output_shape(shape) or None  # type: ignore[arg-type]
    first = None
    for layer, own in zip(reversed(layers), reversed(expected), strict=True):
        if own is not None and first is not None:
            own = _beside(own, first)
        first = own or layer.shape_before(first)
    if first is None:
        return None
    if None in first:
        _check_open(layers, expected, [tuple(known or length for known in first) for length in LENGTHS])
        return first
    return (*_steps(layers, first), *first)  # type: ignore[arg-type]


def _check_open(layers: Sequence[Layer], expected: Sequence[RowShape | None], shapes: Sequence[Shape]) -> None:
    """Raise ValueError if two layers fit at no length of the open axes. They have a length of their own in each shape.

    Only what does not depend on those lengths is compared: the number of axes, and the last of them.
    expected: the `input_shape` of each layer.
    """
    for layer, own in zip(layers, expected, strict=True):
        behind = _all_behind([layer], shapes)
        if not behind:
            given, own = _common(shapes), own or (vars(layer).get("features"),)
            if 1 < len(own) != len(given) or _differ(own[-1], given[-1] if given else 0):
                with suppress(TypeError):  # what it says itself, if it looks at no open axis first
                    layer.output_shape(given)  # type: ignore[arg-type]
                raise ValueError(f"{layer} takes rows of shape {own}, but what comes before gives {given}")
            if isinstance(layer, Stacks):
                layer.check_open(shapes)
        if len(behind) < 2:
            return
        shapes = behind


def _all_behind(layers: Sequence[Layer], shapes: Sequence[Shape]) -> list[Shape]:
    """Return what the layers make of rows of those of the shapes that they take."""
    return [behind for shape in shapes if (behind := _behind(layers, shape)) is not None]


def _common(shapes: Sequence[Shape]) -> RowShape:
    """Return the lengths that all of the shapes have, and None for the others. They have as many axes."""
    return tuple(lengths[0] if len(set(lengths)) == 1 else None for lengths in zip(*shapes, strict=True))


def _differ(one: int | None, other: int | None) -> bool:
    return None not in (one, other) and one != other


def _takes_steps(layers: Sequence[Layer], shape: Shape) -> bool:
    """Say whether the layers take no rows of `shape`, but rows that have an axis of steps before it.

    The first layer that does not take the row decides: a file may hold very many layers.
    """
    row: Shape | None = shape
    sequence: Shape | None = (1, *shape)
    for place, layer in enumerate(layers if len(shape) == 1 else ()):
        row, sequence = _behind([layer], row), _behind([layer], sequence)
        if row is None:
            return sequence is not None or bool(_steps(layers[: place + 1], shape))
    return False


def _steps(layers: Sequence[Layer], shape: Shape) -> RowShape:
    """Return the axis of steps that must stand before `shape`, so that the layers take it; () if there is none.

    Its length is None if it may be any, and a number if a layer that follows takes all steps as one row.
    """
    if len(shape) != 1 or _fit(layers, shape):
        return ()
    here: Shape = (1, *shape)
    for layer in (each for known in layers for each in known.steps()):
        try:
            here = layer.output_shape(here)
        except ValueError:
            counts = [width // here[-1] for width in _widths(layer)] if here and here[-1] else []
            return next(((steps,) for steps in counts if steps and _fit(layers, (steps, *shape))), ())
    return (None,)


def _widths(layer: Layer) -> Iterator[int]:
    """Yield the lengths that the layer, or a layer within it, says the last axis of its rows has."""
    for part in layer.walk():
        own = None if part.inner else part.input_shape
        yield from (width for width in ((own or (0,))[-1], vars(part).get("features")) if width)


def _fit(layers: Sequence[Layer], shape: Shape) -> bool:
    return _behind(layers, shape) is not None


def _behind(layers: Sequence[Layer], shape: Shape | None) -> Shape | None:
    """Return the shape that the layers make of rows of `shape`, or None if they do not take such rows."""
    try:
        for layer in layers if shape is not None else ():
            shape = layer.output_shape(shape)  # type: ignore[arg-type]
    except ValueError:
        return None
    return shape


def _beside(shape: RowShape, other: RowShape) -> RowShape:
    """Return `shape` with the axes that `other` has before the last, if it says the last alone, as an affine layer."""
    return (*other[:-1], *shape) if len(shape) == 1 and len(other) > 1 else shape


# --- places in a network ----------------------------------------------------------------------------------------


def place(root: Sequential) -> None:
    """Give every layer within the root a name: its kind and count, after the name of the layer that holds it.

    A layer that has a place before gets a twin there, which shares its values. Raises ValueError for a layer that is
    in a network already, and for a layer with running statistics that is used twice.
    """
    seen: set[int] = set()

    def placed(layer: Layer) -> Layer:
        layer = layer.original  # of a further use in a network that could not be made
        if layer.name:
            raise ValueError(f"{layer} is in a network already; a layer belongs to one network")
        if id(layer) in seen:
            own = layer.own_parameters().values()
            if any(not parameter.trainable for parameter in own) or (layer.inner and own):
                raise ValueError(
                    f"a {layer.kind} is used twice in one network, but it keeps "
                    f"{'parameters beside those of its layers' if layer.inner else 'running statistics'}: make another"
                )
            first, layer = layer, copy(layer) if layer.inner else layer.twin(lambda parameter: parameter.shared())
            if own:
                vars(layer)["_original"] = first
        seen.add(id(layer))
        layer.replace_within(placed)
        return layer

    root.replace_within(placed)
    _name(root)


def _name(parent: Layer) -> None:
    layers = parent.within()
    for layer, name in zip(layers, numbered(layer.kind for layer in layers), strict=True):
        layer.name = f"{parent.name}.{name}" if parent.name else name
        _name(layer)


def describe(layers: Sequence[Layer], kind: Callable[[Layer], Any] = lambda layer: layer.kind) -> list[dict[str, Any]]:
    """Return kind and settings of each layer, and of the layers within it; `made` makes layers of them.

    kind: called with a layer, returns what stands for its class. A further use of a layer is {"use_of": k}, if k
    layers were described before the first use.
    """
    numbers: dict[int, int] = {}

    def one(layer: Layer) -> dict[str, Any]:
        first = id(layer.original)
        if first in numbers:
            return {"use_of": numbers[first]}
        numbers[first] = len(numbers)
        settings = layer.config()
        for name in layer.inner:
            value = settings[name]
            if value is not None:
                settings[name] = [one(part) for part in value] if isinstance(value, list | tuple) else one(value)
        return {"kind": kind(layer), **settings}

    return [one(layer) for layer in layers]


def made(descriptions: Sequence[Mapping[str, Any]], find: Callable[[Any], type[Layer]]) -> list[Layer]:
    """Return the layers that `describe` described. find: called with a kind, returns the class.

    Raises KeyError, TypeError or ValueError for what describes no layers.
    """
    known: dict[int, Layer | None] = {}

    def one(description: Mapping[str, Any]) -> Layer:
        if "use_of" in description:
            first = known[description["use_of"]]
            if first is None or first.inner:  # layers of layers are described once for each use
                raise ValueError(f"use_of: {description['use_of']!r} is no layer that can be used again")
            return first
        number, kind = len(known), find(description["kind"])
        known[number] = None
        settings = {name: value for name, value in description.items() if name != "kind"}
        for name in kind.inner:
            value = settings.get(name)
            if value is not None:
                settings[name] = [one(part) for part in value] if isinstance(value, list | tuple) else one(value)
        known[number] = layer = kind(**settings)
        return layer

    return [one(description) for description in descriptions]


@contextmanager
def watched(
    layers: Iterable[Layer],
    forward: Callable[..., Array] | None = None,
    backward: Callable[..., Array] | None = None,
) -> Iterator[None]:
    """Send the passes of the layers through functions as long as the block runs.

    forward: called as forward(layer, run, x, training), where run(x, training) is the layer's own pass; its result is
    y. backward: the same, as backward(layer, run, dy, need_dx).
    """
    watched_layers = list(layers)
    try:
        for layer in watched_layers:
            if forward is not None:
                vars(layer)["forward"] = partial(_run, forward, layer, layer.forward, False)
            if backward is not None:
                vars(layer)["backward"] = partial(_run, backward, layer, layer.backward, True)
        yield
    finally:
        for layer in watched_layers:
            for name in ("forward", "backward"):
                vars(layer).pop(name, None)


def _run(function: Callable[..., Array], layer: Layer, run: Any, default: bool, a: Array, flag: Any = None) -> Array:
    return function(layer, run, a, default if flag is None else flag)


def _split(dy: Array, widths: Sequence[int]) -> list[Array]:
    parts, start = [], 0
    for width in widths:
        parts.append(dy[..., start : start + width])
        start += width
    return parts


def _trains(layer: Layer) -> bool:
    return any(part.own_parameters() and not part.frozen for part in layer.walk())


def _layers(argument: str, layers: Any) -> list[Layer]:
    """Return a list of layers. Raise TypeError for anything else."""
    if isinstance(layers, Layer | str | Mapping) or not isinstance(layers, Iterable):
        raise TypeError(f"{argument}: expected a list of layers, got {layers!r}")
    found = list(layers)
    for i, layer in enumerate(found):
        if not isinstance(layer, Layer):
            raise TypeError(f"{argument}[{i}]: expected a layer, got {layer!r}")
    return found


def _layer(argument: str, layer: Any) -> Layer:
    """Return a layer, of a list a Sequential. Raise TypeError for anything else."""
    return layer if isinstance(layer, Layer) else Sequential(_layers(argument, layer))
