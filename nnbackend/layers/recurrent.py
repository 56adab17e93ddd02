"""Recurrent layers over sequences, and the layer that keeps the last step of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nnbackend.checks import at_least, positive_integer
from nnbackend.functions import gru, gru_backward, lstm, lstm_backward, rnn, rnn_backward
from nnbackend.functions.array import Array, MaybeArray, array_namespace, device
from nnbackend.functions.recurrent import batch_first
from nnbackend.initializers import Constant, Initializer, initializer
from nnbackend.layers.base import Layer, RowShape, Shape, check_input, check_steps, checked_sequence
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class Recurrent(Layer):
    """Base class of recurrent layers. x: (n, T, input_size), T >= 1; y: (n, T, hidden_size), the state of every step.

    weight, bias: an Initializer, its name, or the standard deviation of a normal distribution. The weights are drawn as
    the book's: Wx with 1 / sqrt(input_size), Wh with 1 / sqrt(hidden_size). PyTorch draws all values, the biases too,
    evenly from -1 / sqrt(hidden_size) to 1 / sqrt(hidden_size).
    stateful: 0, or the number of rows of every training batch. The state is 0 before the first step if it is 0.
    Otherwise each row goes on, while training, with the state in which the same row of the batch before has ended; no
    gradient crosses this border (truncated backpropagation through time). A `Trainer` then leaves the rows in their
    order, and resets the state at the beginning of every epoch. In inference mode every row begins with a state of 0.
    Raises ValueError for sizes that are not positive integers, a negative `stateful`, and for unknown initializers.
    """

    input_size: int
    hidden_size: int
    weight: Initializer | str | float = "xavier"
    bias: Initializer | str | float = "zeros"
    stateful: int = 0

    keeps_shape = False
    parts: ClassVar[int] = 1  # columns of the weights for each of `hidden_size`

    def __post_init__(self) -> None:
        for argument in ("input_size", "hidden_size"):
            positive_integer(f"{self.kind}: {argument}", getattr(self, argument))
        at_least(f"{self.kind}: stateful", self.stateful, 0)
        weight, bias = (initializer(getattr(self, name), f"{self.kind}: {name}") for name in ("weight", "bias"))
        columns = self.parts * self.hidden_size
        self.Wx = Parameter((self.input_size, columns), weight)
        self.Wh = Parameter((self.hidden_size, columns), weight)
        self.b = Parameter((columns,), bias)
        if self.stateful:
            for name in self._states:
                setattr(self, name, Parameter((self.stateful, self.hidden_size), Constant(0.0), trainable=False))

    _states: ClassVar[tuple[str, ...]] = ("h",)

    def _checked(self, x: Array) -> None:
        check_input(self, x, self.Wx.data, self.input_size, axes=3)
        check_steps(self, x)

    def _begin(self, x: Array, training: bool) -> list[Array]:
        """Return the state before the first step."""
        if not (training and self.stateful):
            zeros = array_namespace(x).zeros((x.shape[0], self.hidden_size), dtype=x.dtype, device=device(x))
            return [zeros] * len(self._states)
        if x.shape[0] != self.stateful:
            raise ValueError(
                f"{self}: it carries the state of {self.stateful} rows over, but the batch has {x.shape[0]} rows"
            )
        return [getattr(self, name).data for name in self._states]

    def _keep(self, training: bool, *states: Array) -> None:
        """Keep the state after the last step for the next batch."""
        if training and self.stateful:
            for name, value in zip(self._states, states, strict=True):
                getattr(self, name).data[...] = value[-1, ...]

    @property
    def carried_rows(self) -> int:
        return self.stateful

    def reset_state(self) -> None:
        for name in self._states if self.stateful else ():
            getattr(self, name).data[...] = 0.0

    def config(self) -> dict[str, Any]:
        return {"input_size": self.input_size, "hidden_size": self.hidden_size, "stateful": self.stateful}

    @property
    def input_shape(self) -> RowShape:
        return (None, self.input_size)

    def output_shape(self, shape: Shape) -> Shape:
        return (checked_sequence(self, shape, self.input_size)[0], self.hidden_size)


@dataclass(eq=False)
class RNN(Recurrent):
    """A simple recurrent layer: h <- tanh(x Wx + h Wh + b) for every step (the second volume of the book, section 5.2).

    Settings as in `Recurrent`. PyTorch has two biases, whose sum is b.
    """

    def forward(self, x: Array, training: bool = False) -> Array:
        self._checked(x)
        (h,) = self._begin(x, training)
        self._x, self._hidden = x, rnn(x, self.Wx.data, self.Wh.data, self.b.data, h)
        self._keep(training, self._hidden)
        return batch_first(self._hidden[1:, ...])

    def backward(self, dy: Array, need_dx: bool = True) -> MaybeArray:
        gradients = (self.Wx.grad, self.Wh.grad, self.b.grad)
        return rnn_backward(dy, self._x, self.Wx.data, self.Wh.data, self._hidden, *gradients, need_dx)


@dataclass(eq=False)
class LSTM(Recurrent):
    """Long short-term memory (the second volume of the book, section 6.2); see `nnbackend.functions.lstm`.

    Settings as in `Recurrent`. The columns of Wx and Wh, and b, are in the book's order f, g, i, o. PyTorch's order is
    i, f, g, o, and it has two biases, whose sum is b; `load_torch` and `to_torch` change the one into the other.
    """

    parts = 4
    _states = ("h", "c")

    def forward(self, x: Array, training: bool = False) -> Array:
        self._checked(x)
        self._x = x
        state = self._begin(x, training)
        self._hidden, self._gates, self._cells = lstm(x, self.Wx.data, self.Wh.data, self.b.data, *state)
        self._keep(training, self._hidden, self._cells)
        return batch_first(self._hidden[1:, ...])

    def backward(self, dy: Array, need_dx: bool = True) -> MaybeArray:
        kept = (self._hidden, self._gates, self._cells)
        gradients = (self.Wx.grad, self.Wh.grad, self.b.grad)
        return lstm_backward(dy, self._x, self.Wx.data, self.Wh.data, *kept, *gradients, need_dx)


@dataclass(eq=False)
class GRU(Recurrent):
    """A gated recurrent unit in PyTorch's form; see `nnbackend.functions.gru`.

    Settings as in `Recurrent`. The columns of Wx and Wh, and b, are in PyTorch's order r, z, n. bh is the bias of the
    state's product in n; that of r and z is in b.
    """

    parts = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bh = Parameter((self.hidden_size,), self.b.initializer)

    def forward(self, x: Array, training: bool = False) -> Array:
        self._checked(x)
        self._x = x
        (h,) = self._begin(x, training)
        self._hidden, self._gates = gru(x, self.Wx.data, self.Wh.data, self.b.data, self.bh.data, h)
        self._keep(training, self._hidden)
        return batch_first(self._hidden[1:, ...])

    def backward(self, dy: Array, need_dx: bool = True) -> MaybeArray:
        gradients = (self.Wx.grad, self.Wh.grad, self.b.grad, self.bh.grad)
        return gru_backward(dy, self._x, self.Wx.data, self.Wh.data, self._hidden, self._gates, *gradients, need_dx)


@dataclass(eq=False)
class LastStep(Layer):
    """Keeps the last step of every sequence. x: (n, T, ...), T >= 1; y: (n, ...)."""

    keeps_shape = False

    def forward(self, x: Array, training: bool = False) -> Array:
        if x.ndim < 2 or x.shape[1] == 0:
            raise ValueError(f"{self}: argument x must have shape (n, T, ...), T at least 1, got {tuple(x.shape)}")
        self._shape = tuple(x.shape)
        return x[:, -1, ...]

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        dx = array_namespace(dy).zeros(self._shape, dtype=dy.dtype, device=device(dy))
        dx[:, -1, ...] = dy
        return dx

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or shape[0] < 1:
            raise ValueError(f"{self} takes rows of shape (T, ...), T at least 1, but what comes before gives {shape}")
        return shape[1:]
