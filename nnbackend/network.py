"""A network: an ordered stack of layers and a loss at its end."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nnbackend.backends import Backend, on_its_device, resolve, to_numpy
from nnbackend.backends import backend as current_backend
from nnbackend.errors import BackendError, ModelFileError, unknown_name
from nnbackend.functions.array import Array, pieces
from nnbackend.functions.losses import fraction
from nnbackend.functions.philox import advance
from nnbackend.gradients import stack_gradient
from nnbackend.initializers import Constant, Xavier
from nnbackend.layers import (
    LAYERS,
    LOSSES,
    Affine,
    Convolution,
    Dropout,
    Flatten,
    Layer,
    Loss,
    MaxPooling,
    ReLU,
    Sequential,
    Sigmoid,
    SoftmaxWithLoss,
)
from nnbackend.layers.base import RowShape, Shape, numbered
from nnbackend.layers.containers import describe, made, place, watched
from nnbackend.parameters import ParameterBuffer, Views
from nnbackend.random import host_generator

if TYPE_CHECKING:
    from nnbackend.interchange import Exported
    from nnbackend.optimizers import Optimizer
    from nnbackend.summary import Summary

DTYPES = ("float32", "float64")
ROWS_AT_ONCE = 8192  # the most rows that predict and evaluate pass through the layers at once
IN_THREADS = 16  # the fewest rows for which a pass looks for several threads
WORTH_THREADS = 2**23  # the fewest products in the convolutions of a batch that gain by threads in many steps
WORTH_STARTING = 2**25  # and in one pass, for which threads are started and ended
ELEMENTS_AT_ONCE = 2**23  # the most elements of a layer's output for so many rows; for larger ones they pass fewer

CLOCK = "training.clock"  # the name of the count of training passes in a file


class Network:
    """Holds an ordered stack of layers, their parameters, and the loss of their output.

    layers: at least one Layer. The network names them by kind and count ("Affine1", "Sigmoid1", "Affine2", ...), and
    their parameters by name and count ("W1", "b1", "W2", ...). Layers within a layer are named after it
    ("Residual1.Affine1"), and their parameters are counted with the others, in the order of a forward pass.
    A layer that is used twice has one set of parameters, and the gradients of its uses add. Each further use is a copy
    that shares the values, so settings are changed at each.
    loss: SoftmaxWithLoss by default.
    seed: an int or a numpy Generator; the same seed gives the same initial values and masks on every backend.
    dtype: "float32" or "float64". backend: a Backend or its name; the current backend by default.

    Attributes: layers, params, grads and statistics are mappings by name. The last three hold live views into
    `buffer.data`, `buffer.grad` and `buffer.state` (values that layers keep but do not train, such as running means).

    Raises ValueError for an empty stack, for layers whose shapes do not fit together, for a layer that is already in
    a network, for one with running statistics that is used twice, and for an unknown dtype. Raises TypeError for an
    element that is not a Layer, and BackendError for a backend that does not work.

    Methods take x on the network's backend, or as host data, which the network moves to its backend once.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        loss: Loss | None = None,
        *,
        seed: int | np.random.Generator = 0,
        dtype: str = "float32",
        backend: Backend | str | None = None,
    ):
        if isinstance(layers, Layer) or not isinstance(layers, Iterable):
            raise TypeError(f"layers: expected a list of layers, got {layers!r}")
        stack = list(layers)
        if not stack:
            raise ValueError("layers: a network needs at least one layer")
        for position, layer in enumerate(stack):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{position}]: expected a layer, got {layer!r}")
            if layer.name:
                raise ValueError(f"layers[{position}]: {layer} is in a network already; a layer belongs to one network")
        if not isinstance(dtype, str) or dtype not in DTYPES:  # a dtype of NumPy equals its name
            raise ValueError(f"dtype: {unknown_name('dtype', dtype, DTYPES)}")
        self.loss_layer = SoftmaxWithLoss() if loss is None else loss
        if not isinstance(self.loss_layer, Loss):
            raise TypeError(f"loss: expected a loss such as SoftmaxWithLoss(), got {loss!r}")
        self.backend = current_backend() if backend is None else resolve(backend)
        self.dtype = dtype
        self.preparation: dict[str, Any] | None = (
            None  # how pictures become rows, as JSON-able values; see nnbackend.images
        )

        self._y_shape: Shape | None = None
        self._work: tuple[Shape, tuple[int, int]] | None = None  # that of the last rows, and their shape
        self._root = Sequential(stack)
        place(self._root)
        self._every = list(self._root.walk())[1:]
        self.layers = {layer.name: layer for layer in self._root.layers}
        try:
            self.input_shape = self._root.input_shape
            for layer in self._every:
                if layer.input_dtype and layer is not self.first:
                    raise ValueError(f"layers: {layer} takes ids, which no layer gives: put it first")
        except ValueError:
            for layer in self._every:
                layer.name = ""  # the caller may put the layers into another network
            raise
        self._root.suit(Xavier())
        owned = [(name, parameter) for layer in self._every for name, parameter in layer.own_parameters().items()]
        generator = host_generator(seed)
        self.buffer = ParameterBuffer([parameter for _, parameter in owned], self.backend, dtype, generator)
        self.seed = int(generator.integers(2**32)) if isinstance(seed, np.random.Generator) else int(seed)
        owned = [(name, parameter) for name, parameter in owned if parameter.source is None]
        named = dict(zip(numbered(name for name, _ in owned), (parameter for _, parameter in owned), strict=True))
        trainable = {name: p for name, p in named.items() if p.trainable}
        self.params = Views({name: p.data for name, p in trainable.items()}, self.backend, dtype)
        self.grads = Views({name: p.grad for name, p in trainable.items()}, self.backend, dtype)
        self.statistics = Views({name: p.data for name, p in named.items() if not p.trainable}, self.backend, dtype)
        for number, layer in enumerate(self._every):
            layer.bind(self.buffer.clock, number, self.seed)
        self._draws = any(layer.draws for layer in self._every)
        self._hold()

    # --- the two passes -----------------------------------------------------------------------------------------

    def forward(self, x: Array, training: bool = False) -> Array:
        """Return the raw output (logits, for a classifier) for a batch x on the network's backend and in its dtype."""
        y = self._root.forward(x, training)
        self._y_shape = tuple(y.shape)
        return y

    def backward(self, dy: Array | None = None) -> None:
        """Write the gradient of the loss of the last forward pass into `grads`.

        dy: the gradient with respect to the raw output. If dy is None, the loss layer computes it. Raises ValueError if
        there was no forward pass, unless dy is given, or if dy has not the shape of its output.
        """
        if dy is None:
            if self._y_shape is None and type(self).forward is Network.forward:
                raise ValueError("backward comes after a forward pass, and there was none")
            dy = self.loss_layer.backward()
        if self._y_shape not in (None, tuple(dy.shape)):
            raise ValueError(f"dy: expected shape {self._y_shape}, as the last output, got {tuple(dy.shape)}")
        self._root.backward(dy, need_dx=False)
        self.buffer.add_up()
        for part in self.frozen_parts:
            self.buffer.grad[part] = 0.0

    # --- for users ----------------------------------------------------------------------------------------------

    @on_its_device
    def predict(self, x: Any) -> Array:
        """Return the raw output for every row of x: (n, ...) for a batch (n, ...), and one row for one row."""
        x = self.inputs(x)
        if _fits(x.shape, self.input_shape):
            return self.forward(x[None, ...])[0, ...]
        if x.shape[0] <= 1:
            return self.forward(x)
        with self._processors(tuple(x.shape), WORTH_STARTING):
            outputs = [self.forward(x[piece, ...]) for piece in self._pieces(x)]
        return outputs[0] if len(outputs) == 1 else self.backend.xp.concat(outputs, axis=0)

    @on_its_device
    def predict_proba(self, x: Any) -> Array:
        """Return probabilities if the loss defines them (SoftmaxWithLoss), or the raw output (regression)."""
        return self.loss_layer.output(self.predict(x))

    def loss(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        """Return the mean loss over all rows, in inference mode.

        sample_weight, here and below: (n,) numbers of at least 0, not all 0. Every mean is then a weighted mean.
        """
        return float(self.evaluate(*self._weighted(x, t, sample_weight))[0])

    def accuracy(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        """Return the fraction of rows that are classified as t, with a time axis that of positions.

        Raises ValueError if the targets are not classes.
        """
        correct = self.evaluate(*self._weighted(x, t, sample_weight))[1]
        if correct is None:
            raise ValueError(f"accuracy has no meaning for {self.loss_layer}: its targets are not classes")
        return float(correct)

    @on_its_device
    def gradient(self, x: Any, t: Any, sample_weight: Any = None) -> dict[str, Array]:
        """Return the gradient of the training loss by name ("W1", ...), as copies.

        The network does not change: running statistics stay, and the next training pass draws the same masks as
        without this call. A training loop of your own calls `loss_and_output` and `backward`, which do change them.
        """
        data = self._weighted(x, t, sample_weight)
        kept = self.buffer.snapshot("state", "clock")
        try:
            self.loss_and_output(*data)
        finally:
            self.buffer.restore(kept)
        self.backward()
        return {name: self.backend.xp.asarray(view, copy=True) for name, view in self.grads.items()}

    @on_its_device
    def numerical_gradient(self, x: Any, t: Any, h: float = 1e-4) -> dict[str, Array]:
        """Return the gradient of `loss` by name, by central differences instead of a backward pass (section 4.5):
        (loss(p + h) - loss(p - h)) / (2 h) for every element p of every parameter.

        The loss is computed in inference mode. Dropout and batch normalisation have another gradient while training;
        `check_gradients` compares that one. The differences are computed in float64, on a copy, because float32
        would leave only two or three correct digits. The error is then about h^2 plus 1e-12 of the loss of a row.
        The result has the network's dtype. On NumPy the processors share the work. Temporary arrays take up to about
        64 MB for each of them (at most 8), or more if a forward pass for this batch needs more.

        Raises ValueError for data that does not fit, and for an h that is not positive.
        """
        exact, xp, dtype = self.to(self.backend, "float64"), self.backend.xp, self.backend.dtype(self.dtype)
        data = exact.data(*self.data(x, t))

        def copies() -> list[list[Layer]]:
            return [exact.to(self.backend).steps() for _ in range(self.backend.threads - 1)]

        gradients = stack_gradient(exact.steps(), exact.loss_layer, *data, h, copies)
        return {name: xp.astype(g, dtype, copy=False) for name, g in zip(self.params, gradients, strict=True)}

    def signature(self) -> dict[str, Any]:
        """Return what a recorded training step depends on beside its arguments; see `Part.signature`."""
        parts = {**self.every_layer(), "loss": self.loss_layer}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.signature().items()}

    @property
    def carried_rows(self) -> int:
        """Return the rows of a training batch, if a layer carries their state over to the next batch; else 0.

        A frozen layer carries nothing over.
        """
        return next((layer.carried_rows for layer in self._every if layer.carried_rows and not layer.frozen), 0)

    @on_its_device
    def reset_state(self) -> None:
        """Forget what layers carry over from one training batch to the next: each sequence begins anew."""
        for layer in self._every:
            layer.reset_state()

    def least_rows(self, shape: Shape) -> tuple[int, str]:
        """Return the fewest rows of `shape` that a training pass can work with, and the layer that needs them."""
        least, name = 1, ""
        for layer, taken in self.places(shape):
            if layer.least_rows(taken) > least:
                least, name = layer.least_rows(taken), str(layer)
        return least, name

    @on_its_device
    def activations(self, x: Any) -> dict[str, Array]:
        """Return the output of every layer by its name, for all rows of x, in inference mode.

        The layers within a layer come before it.
        """
        outputs = {}

        def keep(layer: Layer, run: Callable[..., Array], x: Array, training: bool) -> Array:
            outputs[layer.name] = y = run(x, training)
            return y

        with watched(self._every, keep):
            self.forward(self.inputs(x))
        return outputs

    @property
    def is_ours(self) -> bool:
        """Say whether network, loss and all layers are of the library, and so are their passes."""
        return all(map(_is_ours, [self, *self._every, self.loss_layer]))

    def every_layer(self) -> dict[str, Layer]:
        """Return all layers by name, also those within other layers, in the order of a forward pass."""
        return {layer.name: layer for layer in self._every}

    def places(self, shape: Shape) -> Iterator[tuple[Layer, Shape]]:
        """Yield all layers, each with the shape of its input rows if the network takes rows of `shape`."""
        return itertools.islice(self._root.places(shape), 1, None)

    def processors(self, shape: Shape) -> AbstractContextManager[object]:
        """Give the processors, within a `with` block, to what does most of the work for batches of `shape`.

        `fit` does it; a training loop of your own should, too. NumPy's own matrix products have one thread each then,
        in the whole process: always if ours are loops in C, or else if convolutions are most of the work of this
        network, there is enough of it, and they share the processors. `predict` and `evaluate` do it in the second
        case. Otherwise nothing changes. Results stay the same, but for the rounding of NumPy's products, which depends
        on their threads.
        """
        if self.backend.products_in_loops:
            return self.backend.for_loops()
        return self._processors(shape, WORTH_THREADS)

    def _processors(self, shape: Shape, least: int) -> AbstractContextManager[object]:
        in_turn = not self.backend.products_in_loops  # products of the library and loops of ours, in the same pass
        if not in_turn or shape[0] < IN_THREADS or not any(layer.in_loops for layer in self._every):
            return nullcontext()
        known = self._work
        if known is None or known[0] != shape[1:]:
            self._work = known = shape[1:], self._work_of(shape[1:])
        loops, products = known[1]
        return self.backend.for_loops() if loops > products and shape[0] * loops >= least else nullcontext()

    def _work_of(self, shape: Shape) -> tuple[int, int]:
        """Return how many products of numbers a row of `shape` takes in loops, and how many in products of matrices."""
        work = {True: 0, False: 0}
        for layer, taken in self.places(shape):
            values = sum(parameter.size for parameter in layer.own_parameters().values())
            if values:  # each serves every position of a row
                work[layer.in_loops] += values * math.prod(layer.output_shape(taken)[:-1])
        return work[True], work[False]

    def steps(self) -> list[Layer]:
        """Return the layers that a forward pass calls one after another. A Sequential is taken apart."""
        return self._root.steps()

    @property
    def first(self) -> Layer:
        """Return the layer that takes what the network takes."""
        return next(iter(self.steps()), self._root)

    def tick(self, passes: int = 1) -> None:
        """Advance the clock by so many passes, so that the next training pass draws new random masks."""
        if self._draws and passes:
            advance(self.buffer.clock, passes)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Return the names of the layers that `freeze` keeps as they are."""
        return tuple([name for name, layer in self.every_layer().items() if layer.frozen])

    def freeze(self, *names: str) -> None:
        """Keep layers as they are while training, as in transfer learning.

        names: of layers, such as "Affine1" or "Residual1.Affine2". With a layer go the layers within it. No optimizer
        changes their values, their gradients are 0, and while training they do what they do in inference mode: a
        normalisation keeps its running statistics. Nothing is computed below the lowest layer that trains. A saved
        file does not say which layers are frozen. Raises ValueError for an unknown name.
        """
        for layer in self._named(names):
            for part in layer.walk():
                part.frozen = True
        self._hold()

    def unfreeze(self, *names: str) -> None:
        """Let layers train again: those named, or all if none is named. Raises ValueError for an unknown name."""
        every = self.every_layer()
        for layer in self._named(names or tuple(every)):
            for part in layer.walk():
                part.frozen = False
            for name, holder in every.items():
                if layer.name.startswith(f"{name}."):
                    holder.frozen = False  # its other layers stay frozen
        self._hold()

    def _named(self, names: Sequence[str]) -> list[Layer]:
        every = self.every_layer()
        for name in names:
            if name not in every:
                raise ValueError(unknown_name("layer", name, every))
        return [every[name] for name in names]

    def _hold(self) -> None:
        """Note where the values of the frozen layers lie, and set their gradients to 0."""
        held = {id(p.source or p) for layer in self._every if layer.frozen for p in layer.own_parameters().values()}
        self.frozen_parts: list[slice] = []
        start = 0
        for parameter in (p for layer in self._every for p in layer.own_parameters().values()):
            if not parameter.trainable or parameter.source is not None:
                continue
            stop = start + parameter.size
            if id(parameter) in held:
                joins = bool(self.frozen_parts) and self.frozen_parts[-1].stop == start
                self.frozen_parts.append(slice(self.frozen_parts.pop().start if joins else start, stop))
            start = stop
        with self.backend.active():
            for part in self.frozen_parts:
                self.buffer.grad[part] = 0.0

    # --- for the trainer ----------------------------------------------------------------------------------------

    def loss_and_output(
        self, x: Array, t: Array, weight: Array | None = None, divisor: float | None = None
    ) -> tuple[Array, Array]:
        """Return the mean loss (0-d, on the device) and the raw output in training mode. divisor: see `Loss`."""
        self.tick()
        y = self.forward(x, training=True)
        weights = optional(weight) if divisor is None else (weight, divisor)
        return self.loss_layer.forward(y, t, *weights), y

    @on_its_device
    def evaluate(
        self,
        x: Array,
        t: Array,
        weight: Array | None = None,
        each: Callable[[Array, Array], object] | None = None,
    ) -> tuple[Array, Array | None]:
        """Return mean loss and accuracy in inference mode, as 0-d device arrays; accuracy is None for regression.

        each: called with the raw output and the targets of each piece of the rows.
        """
        n, end = x.shape[0], self.loss_layer
        loss: Any = 0.0
        counted: Any = 0
        correct, mean_weight = None, end.mean_weight(t, *optional(weight))
        with self._processors(tuple(x.shape), WORTH_STARTING):
            for piece in self._pieces(x):
                targets, weights = t[piece, ...], None if weight is None else weight[piece]
                y = self.forward(x[piece, ...])
                if each is not None:
                    each(y, targets)
                if mean_weight:
                    loss = loss + end.forward(y, targets, weights, n * mean_weight)
                else:  # without weights, or if all are 0 and every loss with them
                    loss = loss + end.forward(y, targets, *optional(weights)) * (y.shape[0] / n)
                if end.classifies:
                    hits = end.count_correct(y, targets, *optional(weights))
                    correct = hits if correct is None else correct + hits
                    counted = counted + end.counted(targets, *optional(weights))
        if correct is not None:
            correct = self.backend.xp.astype(correct, self.backend.dtype(self.dtype))
            correct = fraction(correct, counted)
        return loss, correct

    def inputs(self, x: Any, argument: str = "x") -> Array:
        """Return x on the network's backend, in its dtype, or as integers if the first layer takes ids.

        Raises ValueError if its shape does not fit the layers, its rows have no values, or the first layer cannot take
        its values.
        """
        first, shape = self.first, self.input_shape
        rows = self.backend.asarray(x, None if first.input_dtype else self.dtype, argument)
        if shape is not None and not self.takes(tuple(rows.shape[1:])) and not _fits(rows.shape, shape):
            expected = ", ".join(["n", *("any" if length is None else str(length) for length in shape)])
            raise ValueError(f"{argument}: expected shape ({expected}), got {tuple(rows.shape)}")
        if rows.ndim == 0:
            raise ValueError(f"{argument}: expected rows, (n, ...), got a single number")
        if 0 in rows.shape[1:]:
            raise ValueError(f"{argument}: expected rows of at least one value, got shape {tuple(rows.shape)}")
        if first.input_dtype:
            if not self.backend.xp.isdtype(rows.dtype, "integral"):
                raise ValueError(f"{argument}: {first} takes integers, got dtype {rows.dtype}")
            rows = self.backend.xp.astype(rows, self.backend.dtype(first.input_dtype), copy=False)
        first.check_values(rows, argument)
        return rows

    def takes(self, shape: Shape) -> bool:
        """Say whether the network takes rows of `shape`: as the layers fix it, or with further axes before the last."""
        fixed = self.input_shape
        if fixed is None or _fits(shape, fixed):
            return True
        try:
            return len(shape) > len(fixed) and bool(self.output_shape(shape))
        except ValueError:
            return False

    @on_its_device
    def data(self, x: Any, t: Any) -> tuple[Array, Array]:
        """Check x and t; return them on the network's backend. Raise ValueError if they do not fit or have no rows."""
        x = self.inputs(x)
        if x.ndim == 0 or _fits(x.shape, self.input_shape):
            raise ValueError(f"x: expected a batch of rows, got shape {tuple(x.shape)}")
        if x.shape[0] == 0:
            raise ValueError("x is empty: at least one row is needed")
        t = self.loss_layer.target(t, x.shape[0], self.output_shape(tuple(x.shape[1:])), self.backend, self.dtype)
        return x, t

    def _weighted(self, x: Any, t: Any, sample_weight: Any) -> tuple[Array, Array, Array | None]:
        x, t = self.data(x, t)
        return x, t, self.weights(sample_weight, x.shape[0])

    @on_its_device
    def weights(self, sample_weight: Any, n: int, argument: str = "sample_weight") -> Array | None:
        """Check the weights of n rows; return them on the network's backend, in its dtype, or None for None."""
        if sample_weight is None:
            return None
        weight, xp = self.backend.asarray(sample_weight, self.dtype, argument), self.backend.xp
        if tuple(weight.shape) != (n,):
            raise ValueError(f"{argument}: expected shape ({n},), one number a row, got {tuple(weight.shape)}")
        low, total = float(xp.min(weight)), float(xp.sum(weight))
        if not low >= 0 or not 0 < total < math.inf:
            raise ValueError(
                f"{argument} must hold finite numbers of at least 0 that do not sum to 0, got a smallest of {low} "
                f"and a sum of {total}"
            )
        return weight

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of one row of output for the shape of one row of input."""
        return self._root.output_shape(shape)

    def _pieces(self, x: Array) -> Iterator[slice]:
        """Yield slices of the rows of x, each small enough for what the layers make of it to fit in memory."""
        widest = max(layer.widest(shape) for layer, shape in self.places(tuple(x.shape[1:])))
        return pieces(x.shape[0], max(1, min(ROWS_AT_ONCE, ELEMENTS_AT_ONCE // widest)))

    # --- copies and files ---------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        """Return the architecture as JSON-able values: kinds and settings of layers and loss, dtype and seed."""
        return {
            "kind": type(self).__name__,
            "layers": describe(self._root.layers),
            "loss": {"kind": self.loss_layer.kind, **self.loss_layer.config()},
            "dtype": self.dtype,
            "seed": self.seed,
        }

    def to(self, backend: Backend | str, dtype: str | None = None) -> Network:
        """Return a new network with the same layers, values and clock on another backend, or in another dtype."""
        stack = made(describe(self._root.layers, type), lambda kind: kind)
        loss = type(self.loss_layer)(**self.loss_layer.config())
        other = _assemble(type(self), stack, loss, dtype or self.dtype, self.seed, resolve(backend))
        with other.backend.active():
            for name in ("data", "state"):
                values = to_numpy(getattr(self.buffer, name))
                getattr(other.buffer, name)[...] = other.backend.asarray(values, other.dtype)
            other.buffer.clock[...] = other.backend.asarray(to_numpy(self.buffer.clock))
        other.preparation = self.preparation
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write architecture and values to a safetensors file, without changing the network.

        If a layer draws random numbers, the file also holds the count of training passes, so that further training goes
        on with other draws. Raises OSError, which names the path, if no such file can be written.
        """
        from nnbackend import serialization

        tensors = {name: to_numpy(view) for name, view in [*self.params.items(), *self.statistics.items()]}
        if self._draws:
            tensors[CLOCK] = to_numpy(self.buffer.clock)
        prepared = {} if self.preparation is None else {"preparation": self.preparation}
        serialization.write(path, tensors, {"network": self.config(), **prepared})

    def to_onnx(self, path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None) -> Exported:
        """Write the network to an ONNX file, and return what was written; see `nnbackend.interchange.onnx.to_onnx`."""
        from nnbackend.interchange import to_onnx

        return to_onnx(self, path, input_shape=input_shape)

    def to_c(self, path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None) -> None:
        """Write the network to a header of C99 with one function; see `nnbackend.interchange.c.to_c`."""
        from nnbackend.interchange import to_c

        to_c(self, path, input_shape=input_shape)

    def to_torch(self, *, input_shape: Sequence[int] | None = None) -> Any:
        """Return a `torch.nn.Sequential` with the same output; see `nnbackend.interchange.torch.to_torch`."""
        from nnbackend.interchange import to_torch

        return to_torch(self, input_shape=input_shape)

    def summary(
        self,
        batch_size: int | Literal["auto"] | None = "auto",
        *,
        input_shape: Sequence[int] | None = None,
        optimizer: Optimizer | None = None,
    ) -> Summary:
        """Sum up layers, shapes, parameters and the memory of a training step; see `nnbackend.summary.summarize`."""
        from nnbackend.summary import summarize

        return summarize(self, batch_size, input_shape=input_shape, optimizer=optimizer)

    def _repr_html_(self) -> str:
        return self.summary(None)._repr_html_()

    def __reduce__(self) -> tuple[Any, ...]:
        """Reduce the network to classes, settings and host values, so that a pickle can be read on a machine on which
        this backend does not work.
        """
        parts = [*describe(self._root.layers, type), {"kind": type(self.loss_layer), **self.loss_layer.config()}]
        values = {name: to_numpy(value) for name, value in self.buffer.snapshot().items()}
        state = {"preparation": self.preparation, "frozen": self.frozen}
        return _unpickled, (type(self), parts, values, self.dtype, self.seed, self.backend.name), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__reduce__` returns beside the layers and their values."""
        self.preparation = state["preparation"]
        self.freeze(*state.get("frozen", ()))

    def __repr__(self) -> str:
        layers = ", ".join(repr(layer) for layer in self._root.layers)
        return f"Network([{layers}], loss={self.loss_layer!r}, dtype={self.dtype!r}, backend={self.backend.name!r})"


class TwoLayerNet(Network):
    """Builds the book's two-layer network (section 4.5.1): Affine, Sigmoid, Affine, softmax with cross entropy.

    Weights are drawn from a normal distribution with standard deviation weight_init_std. Biases begin at zero. The
    parameters are named W1, b1, W2, b2. As in the book, `predict` returns probabilities.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: float = 0.01,
        *,
        seed: int | np.random.Generator = 0,
        dtype: str = "float32",
        backend: Backend | str | None = None,
    ):
        first = Affine(input_size, hidden_size, weight=weight_init_std)
        second = Affine(hidden_size, output_size, weight=weight_init_std)
        super().__init__([first, Sigmoid(), second], SoftmaxWithLoss(), seed=seed, dtype=dtype, backend=backend)

    @on_its_device
    def predict(self, x: Any) -> Array:
        """Return class probabilities, (n, output_size)."""
        return self.loss_layer.output(super().predict(x))

    def predict_proba(self, x: Any) -> Array:
        return self.predict(x)


def check_network(argument: str, value: object) -> None:
    """Raise TypeError if the value is not a Network."""
    if not isinstance(value, Network):
        raise TypeError(f"{argument}: expected a Network, got {type(value).__name__}")


def convolutional_network(
    image_shape: tuple[int, int, int] = (28, 28, 1),
    classes: int = 10,
    *,
    channels: Sequence[int] = (16, 32),
    kernel_size: int = 3,
    hidden_size: int = 128,
    dropout_ratio: float = 0.0,
    seed: int | np.random.Generator = 0,
    dtype: str = "float32",
    backend: Backend | str | None = None,
) -> Network:
    """Return a small network for images (n, h, w, c), after the book's chapter 7 and LeNet (LeCun et al., 1998).

    Each of `channels` adds a convolution, ReLU and max pooling by 2. The convolution is padded, so that an odd
    kernel_size keeps height and width. Affine to hidden_size, ReLU, dropout (if dropout_ratio is not 0), Affine to
    `classes` and softmax with cross entropy follow.
    Raises ValueError for an image too small to be halved that often, and the errors of `Network` and the layers.
    """
    layers: list[Layer] = []
    shape: Shape = image_shape
    for width in channels:
        stage = [Convolution(shape[-1], width, kernel_size, padding=kernel_size // 2), ReLU(), MaxPooling(2)]
        for layer in stage:
            shape = layer.output_shape(shape)
        layers += stage
    (features,) = Flatten().output_shape(shape)
    layers += [Flatten(), Affine(features, hidden_size), ReLU()]
    layers += [Dropout(dropout_ratio)] if dropout_ratio else []
    layers.append(Affine(hidden_size, classes))
    return Network(layers, SoftmaxWithLoss(), seed=seed, dtype=dtype, backend=backend)


def load(
    path: str | os.PathLike[str],
    *,
    backend: Backend | str | None = None,
    layers: Iterable[type[Layer]] = (),
    losses: Iterable[type[Loss]] = (),
) -> Network:
    """Return the network that a file of `Network.save`, or a checkpoint, holds.

    backend: a Backend or its name; the current backend by default. layers, losses: classes of your own that the file
    names. Raises ModelFileError for a file that is missing, damaged, of a newer format, or whose values do not fit
    its architecture.
    """
    from nnbackend import serialization

    file = os.fspath(path)
    known = [*LAYERS.values(), *layers]
    tensors, description = serialization.read(path, lambda description: _largest_file(description, known))
    clock = tensors.get(CLOCK)
    tensors = {
        name: value for name, value in tensors.items() if "." not in name
    }  # names with a dot belong to a checkpoint
    try:
        config = description["network"]
        stack = _stack(config["layers"], known)
        loss = _part(config["loss"], [*LOSSES.values(), *losses])
        network_type = {"TwoLayerNet": TwoLayerNet}.get(config["kind"], Network)
        expected = _size(stack)
        stored = sum(value.size for value in tensors.values())
        if stored != expected:  # checked before the network is allocated, because the file may claim any size
            raise ValueError(f"its layers have {expected} parameters, but it holds {stored}")
        on = current_backend() if backend is None else resolve(backend)
        network = _assemble(network_type, stack, loss, config["dtype"], config["seed"], on)
        expected_names = {*network.params, *network.statistics}
        if set(tensors) != expected_names:
            raise ValueError(f"it holds {sorted(tensors)}, but its layers have {sorted(expected_names)}")
        for name, value in tensors.items():
            if value.dtype.name != network.dtype:
                raise ValueError(f"{name} is {value.dtype.name} in a network of {network.dtype}")
            (network.params if name in network.params else network.statistics)[name] = value
        network.preparation = description.get("preparation")
        if not isinstance(network.preparation, dict | None):
            raise ValueError(f"its preparation of pictures is {network.preparation!r:.100}")
        if clock is not None:
            if clock.shape != (1,) or clock.dtype != np.int64 or clock[0] < 0:
                raise ValueError(f"{CLOCK} is {clock.dtype.name} of shape {clock.shape}, expected a count")
            with on.active():
                network.buffer.clock[...] = on.asarray(clock)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        # cut, because the message may quote all of the file
        raise ModelFileError(f"{file}: its content does not make a network: {error!s:.1000}") from error
    return network


def _largest_file(description: Mapping[str, Any], known: Iterable[type[Any]]) -> int:
    """Return the largest size in bytes of a file with this description. A bad description counts as no parameters."""
    from nnbackend import serialization

    try:
        return serialization.size_limit(_size(_stack(description["network"]["layers"], known)))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return serialization.size_limit(0)


def _part(settings: Mapping[str, Any], kinds: Iterable[type[Any]]) -> Any:
    """Return the loss that `settings` describes."""
    return _kind(settings["kind"], kinds)(**{name: value for name, value in settings.items() if name != "kind"})


def _stack(descriptions: Sequence[Mapping[str, Any]], kinds: Iterable[type[Layer]]) -> list[Layer]:
    """Return the layers that a file describes."""
    return made(descriptions, lambda kind: _kind(kind, kinds))


def _kind(name: str, kinds: Iterable[type[Any]]) -> type[Any]:
    known = {kind.__name__: kind for kind in kinds}
    if name not in known:
        raise ValueError(unknown_name("kind", name, known))
    return known[name]


def _size(stack: Sequence[Layer]) -> int:
    """Return the number of elements of all parameters. Those of a layer that is used twice count once."""
    return sum({id(p): p.size for layer in stack for p in layer.parameters().values()}.values())


def _assemble(kind: type[Network], stack: Sequence[Layer], loss: Loss, dtype: str, seed: int, on: Backend) -> Network:
    """Return a network of class `kind` with values of zero, without calling the constructor of `kind`."""
    for layer in stack:
        for parameter in layer.parameters().values():
            parameter.initializer = Constant()
    network = kind.__new__(kind)
    Network.__init__(network, stack, loss, seed=seed, dtype=dtype, backend=on)
    return network


def _unpickled(
    kind: type[Network], parts: list[Any], values: Mapping[str, Any], dtype: str, seed: int, backend: str
) -> Network:
    """Return a pickled network on its former backend. If that backend fails, warn and use NumPy."""
    try:
        on = resolve(backend)
    except BackendError as error:
        warnings.warn(
            f"this network was pickled on {backend!r}, which fails here; it is on numpy: {error}", stacklevel=2
        )
        on = resolve("numpy")
    # older pickles hold pairs of class and settings
    described = [part if isinstance(part, dict) else {"kind": part[0], **part[1]} for part in parts]
    (loss,) = [settings.pop("kind")(**settings) for settings in described[-1:]]
    stack = made(described[:-1], lambda kind: kind)
    if not issubclass(kind, Network):  # older pickles hold networks of `nnbackend.book` as this class
        kind = {"TwoLayerNet": TwoLayerNet}.get(kind.__name__, Network)
    network = _assemble(kind, stack, loss, dtype, seed, on)
    network.buffer.restore({name: on.asarray(value) for name, value in values.items()})
    return network


def optional(weight: Array | None) -> tuple[Any, ...]:
    """Return the arguments for a loss: (weight,), or () for None, because a user's loss may not accept weights."""
    return () if weight is None else (weight,)


def _is_ours(part: Any) -> bool:
    """Say whether a class and its passes are of the library, and the object has no other passes than its class."""
    kind = type(part)
    ours = all(a.__module__.startswith("nnbackend.") for a in (kind, kind.forward, kind.backward))
    return ours and vars(part).keys().isdisjoint(("forward", "backward", "recorded", "tick"))


def _fits(shape: Sequence[int], expected: RowShape | None) -> bool:
    """Say whether `shape` is the shape of one row."""
    return (
        expected is not None
        and len(shape) == len(expected)
        and all(wanted in (None, length) for length, wanted in zip(shape, expected, strict=True))
    )
