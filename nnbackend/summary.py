"""Sum up a network: its layers, the shapes of their outputs, its parameters, and the memory of a training step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nnbackend.backends import resolve
from nnbackend.checks import lengths, positive_integer
from nnbackend.layers.base import Part, Shape
from nnbackend.markup import size, table
from nnbackend.network import Network
from nnbackend.optimizers import Optimizer

__all__ = ["LayerSummary", "Summary", "described", "summarize"]

ITEM = {"float32": 4, "float64": 8}  # bytes
_HEAD = ("layer", "settings", "output", "parameters")


@dataclass(frozen=True)
class LayerSummary:
    """Holds one layer: its name, its settings, the shape of one row of its output, and its numbers of parameters.

    shape: None if nothing says how large a row of the input is. fixed: the values that no optimizer changes.
    """

    name: str
    settings: str
    shape: Shape | None
    parameters: int
    fixed: int


@dataclass(frozen=True)
class Summary:
    """Holds the result of `Network.summary`. `print(summary)` shows it as a table, and so does a notebook.

    input_shape: the shape of one row, or None if nothing fixes it. parameters: the values that are trained. fixed: the
    values that are kept but not trained, such as running means. batch_size: the rows of the step below.
    bytes_of_values: values and gradients. bytes_of_state: the state of the optimizer. bytes_of_pass: the most memory
    that a forward and a backward pass hold beside them. The last one is None if no pass was measured.
    """

    layers: tuple[LayerSummary, ...]
    loss: str
    dtype: str
    input_shape: Shape | None
    parameters: int
    fixed: int
    batch_size: int | None
    bytes_of_values: int
    bytes_of_state: int
    bytes_of_pass: int | None

    @property
    def bytes_of_step(self) -> int | None:
        """Return the memory of a training step, without the data set; None if no pass was measured."""
        return None if self.bytes_of_pass is None else self.bytes_of_values + self.bytes_of_state + self.bytes_of_pass

    def __str__(self) -> str:
        rows = [_HEAD, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3].rjust(10)]).rstrip() for row in rows]
        return "\n".join([*lines, *self._sentences()])

    def _repr_html_(self) -> str:
        return table(_HEAD, self._rows()) + "".join(f"<p>{sentence}</p>" for sentence in self._sentences())

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        yield "input", "", _shown(self.input_shape), ""
        for layer in self.layers:
            counted = f"{layer.parameters:,}" + (f" + {layer.fixed:,} fixed" if layer.fixed else "")
            yield layer.name, layer.settings, _shown(layer.shape), counted
        yield "loss", self.loss, "", ""

    def _sentences(self) -> Iterator[str]:
        fixed = f" and {self.fixed:,} fixed values" if self.fixed else ""
        yield f"{self.parameters:,} parameters{fixed} in {self.dtype}."
        if self.bytes_of_step is None or self.bytes_of_pass is None:
            return
        parts = [f"values and gradients {size(self.bytes_of_values)}"]
        parts += [f"the optimizer's state {size(self.bytes_of_state)}"] if self.bytes_of_state else []
        parts.append(f"one pass {size(self.bytes_of_pass)}, measured on NumPy")
        yield f"A training step of {self.batch_size:,} rows takes {size(self.bytes_of_step)}: {', '.join(parts)}."


def summarize(
    network: Network,
    batch_size: int | Literal["auto"] | None = "auto",
    *,
    input_shape: Sequence[int] | None = None,
    optimizer: Optimizer | None = None,
) -> Summary:
    """Sum up a network.

    batch_size: the rows of the training step whose memory is measured: a copy of the network does one pass on NumPy.
    "auto" stands for 100, or for the rows whose state the network carries over. None leaves that out.
    input_shape: the shape of one row, where the layers leave it open; without it the shapes and the memory stay open,
    too. optimizer: one whose state is counted.

    Raises ValueError for a batch_size that is not a positive integer or too small for a layer, and for an input_shape
    that does not fit; TypeError for an optimizer that is none.
    """
    if isinstance(batch_size, str) and batch_size == "auto":
        batch_size = network.carried_rows or 100
    if batch_size is not None:
        positive_integer("batch_size", batch_size)
    if not isinstance(optimizer, Optimizer | None):
        raise TypeError(f"optimizer: expected an optimizer such as Adam(), got {optimizer!r}")
    first = _row(network, input_shape)
    shape = None if first is None else network.output_shape(first)
    shapes = {} if first is None else {layer.name: layer.output_shape(row) for layer, row in network.places(first)}
    layers = []
    for name, layer in network.every_layer().items():
        own = [p for p in layer.own_parameters().values() if p.source is None]
        counts = [sum(p.size for p in own if p.trainable is kind) for kind in (True, False)]
        layers.append(LayerSummary(name, described(layer), shapes.get(name), *counts))
    parameters, fixed = (sum(getattr(layer, kind) for layer in layers) for kind in ("parameters", "fixed"))
    measured = None
    if batch_size is not None and first is not None and shape is not None:
        least, name = network.least_rows(first)
        if batch_size < least:
            raise ValueError(f"batch_size is {batch_size}, but {name} needs at least {least} rows to train with")
        measured = _bytes_of_pass(network, (int(batch_size), *first), shape)
    return Summary(
        tuple(layers),
        described(network.loss_layer),
        network.dtype,
        first,
        parameters,
        fixed,
        batch_size,
        ITEM[network.dtype] * (2 * parameters + fixed),
        0 if optimizer is None else _bytes_of_state(network, optimizer),
        measured,
    )


def described(part: Part) -> str:
    """Return the kind of a layer or a loss, with those of its settings that are not the default, and are no layers."""
    try:
        settings = {name: value for name, value in part.config().items() if name not in getattr(part, "inner", ())}
    except TypeError:  # a class of the user's that cannot be saved
        return repr(part)
    arguments = inspect.signature(type(part)).parameters
    changed = [f"{name}={value!r}" for name, value in settings.items() if arguments[name].default != value]
    return f"{part.kind}({', '.join(changed)})"


def _row(network: Network, input_shape: Sequence[int] | None) -> Shape | None:
    """Return the shape of one row, or None if it is open. Raise ValueError if input_shape does not fit the layers."""
    fixed = network.input_shape
    if input_shape is None:
        return None if fixed is None else tuple(n for n in fixed if n is not None) if None not in fixed else None
    shape = lengths("input_shape", input_shape)
    if not network.takes(shape):
        raise ValueError(f"input_shape: the network takes rows of shape {fixed}, got {shape}")
    return shape


def _bytes_of_state(network: Network, optimizer: Optimizer) -> int:
    with network.backend.active():
        arrays = [value for value in optimizer.init(network.buffer.data).values() if hasattr(value, "shape")]
    return sum(ITEM[network.dtype] * math.prod(value.shape) for value in arrays)


def _bytes_of_pass(network: Network, shape: Shape, output: Shape) -> int:
    """Return the most memory that one training pass of a batch of `shape` holds, on a copy of the network on NumPy."""
    import tracemalloc

    on = resolve("numpy")
    copy = network.to(on)
    t = _target(copy, shape[0], output)
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        x = on.zeros(shape, network.first.input_dtype or network.dtype)  # a step gathers its rows, too
        copy.loss_and_output(x, t)
        copy.backward()
        return max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        if not was_tracing:
            tracemalloc.stop()


def _target(network: Network, n: int, output: Shape) -> Any:
    """Return targets of zero for n rows: labels if the loss takes them, else the shape of the output."""
    on, end = network.backend, network.loss_layer
    if end.classifies:
        try:
            return end.target(on.zeros((n, *output[:-1]), "int64"), n, output, on, network.dtype)
        except ValueError:  # it takes one number for each output
            pass
    return end.target(on.zeros((n, *output), network.dtype), n, output, on, network.dtype)


def _shown(shape: Shape | None) -> str:
    return "open" if shape is None else str(shape)
