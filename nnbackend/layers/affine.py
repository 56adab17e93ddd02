"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnbackend.checks import positive_integer
from nnbackend.functions import affine, affine_backward
from nnbackend.functions.array import Array, array_namespace, as_rows
from nnbackend.initializers import Initializer, initializer
from nnbackend.layers.base import Layer, Shape, check_input
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class Affine(Layer):
    """Computes y = x W + b (the book's Affine). x: (n, input_size), y: (n, output_size).

    x may have axes between these, such as one for time: (n, ..., input_size). Each of their positions is then a row.
    On NumPy x may also be a CSR matrix or array of SciPy in the parameters' dtype. Its products skip the zeros.
    weight, bias: an Initializer, its name, or the standard deviation of a normal distribution. If weight is None, the
    next activation decides: He for ReLU and Leaky ReLU, Xavier otherwise.
    Raises ValueError for sizes that are not positive integers and for unknown initializers.
    """

    input_size: int
    output_size: int
    weight: Initializer | str | float | None = None
    bias: Initializer | str | float = "zeros"

    def __post_init__(self) -> None:
        for argument in ("input_size", "output_size"):
            positive_integer(f"Affine: {argument}", getattr(self, argument))
        chosen = None if self.weight is None else initializer(self.weight, "Affine: weight")
        self.W = Parameter((self.input_size, self.output_size), chosen)
        self.b = Parameter((self.output_size,), initializer(self.bias, "Affine: bias"))

    def forward(self, x: Array, training: bool = False) -> Array:
        if type(x) is not type(self.W.data) and self._takes_sparse(x):
            self._x = x
            return x @ self.W.data + self.b.data
        ndim = getattr(x, "ndim", 2)
        check_input(self, x, self.W.data, self.input_size, axes=None if ndim > 2 else 2)
        self._x, self._axes = x, tuple(x.shape[:-1])
        if ndim == 2:
            return affine(x, self.W.data, self.b.data)
        self._x = as_rows(x)
        y = affine(self._x, self.W.data, self.b.data)
        return array_namespace(x).reshape(y, (*self._axes, self.output_size))

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        # a kernel is chosen by dy and cannot read a sparse x; the definition can
        backward = affine_backward if type(self._x) is type(dy) else affine_backward.dispatch(object)
        if dy.ndim == 2:
            return backward(dy, self._x, self.W.data, self.W.grad, self.b.grad, need_dx)
        dx = backward(as_rows(dy), self._x, self.W.data, self.W.grad, self.b.grad, need_dx)
        return array_namespace(dy).reshape(dx, (*self._axes, self.input_size)) if need_dx else dx

    def _takes_sparse(self, x: Any) -> bool:
        """Say whether x is a CSR matrix that fits the parameters."""
        W = self.W.data
        return (
            getattr(x, "format", "") == "csr"
            and type(x.data) is type(W)
            and x.dtype == W.dtype
            and x.shape[1:] == (self.input_size,)
        )

    def config(self) -> dict[str, Any]:
        return {
            "input_size": self.input_size,
            "output_size": self.output_size,
        }  # a file holds the values, so it needs no initializers

    @property
    def input_shape(self) -> Shape:
        return (self.input_size,)

    def output_shape(self, shape: Shape) -> Shape:
        if shape[-1:] != (self.input_size,):
            raise ValueError(f"{self} takes rows of shape ({self.input_size},), but what comes before gives {shape}")
        return (*shape[:-1], self.output_size)
