"""The table of vectors for ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnbackend.backends import describe
from nnbackend.checks import positive_integer
from nnbackend.errors import BackendError
from nnbackend.functions import embedding, embedding_backward
from nnbackend.functions.array import Array, MaybeArray, array_namespace
from nnbackend.initializers import Initializer, initializer
from nnbackend.layers.base import Layer, RowShape, Shape
from nnbackend.parameters import Parameter


@dataclass(eq=False)
class Embedding(Layer):
    """Looks up the vector of every id: y = W[x] (the second volume of the book, section 4.1).

    x: (n,) or (n, T), or more axes, integers from 0 to vocabulary - 1, such as numbers of words or characters.
    y: the shape of x and one more axis, `features`. Ids have no gradient, so the layer is the first of a network.
    weight: an Initializer, its name, or the standard deviation of a normal distribution. The default is the book's
    0.01; PyTorch takes 1.
    Raises ValueError for sizes that are not positive integers and for unknown initializers.
    """

    vocabulary: int
    features: int
    weight: Initializer | str | float = 0.01
    keeps_shape = False
    input_dtype = "int64"

    def __post_init__(self) -> None:
        for argument in ("vocabulary", "features"):
            positive_integer(f"Embedding: {argument}", getattr(self, argument))
        self.W = Parameter((self.vocabulary, self.features), initializer(self.weight, "Embedding: weight"))

    def forward(self, x: Array, training: bool = False) -> Array:
        W = self.W.data
        if W is None:
            raise ValueError(f"{self} has no parameter values yet: put it in a Network, or call its initialize(seed)")
        if type(x) is not type(W) or x.device != W.device:
            raise BackendError(f"{self}: argument x is {describe(x)}, but the parameters are {describe(W)}")
        if not array_namespace(x).isdtype(x.dtype, "integral"):
            raise ValueError(f"{self}: argument x must hold integers, got dtype {x.dtype}")
        self._x = x
        return embedding(W, x)

    def backward(self, dy: Array, need_dx: bool = True) -> MaybeArray:
        """Write the gradient of W. Return None: ids have no gradient."""
        embedding_backward(dy, self._x, self.W.grad)
        return None

    def check_values(self, x: Array, argument: str) -> None:
        xp = array_namespace(x)
        if 0 in x.shape:
            return
        low, high = int(xp.min(x)), int(xp.max(x))
        if low < 0 or high >= self.vocabulary:
            raise ValueError(
                f"{argument}: {self} has a vocabulary of {self.vocabulary}, so ids must lie in 0 to "
                f"{self.vocabulary - 1}, got {low} to {high}"
            )

    def config(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "features": self.features}

    def shape_before(self, following: RowShape | None) -> RowShape | None:
        # an affine layer behind it says the last axis alone, and the ids may have any axes
        return following[:-1] if following and len(following) > 1 else None

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape, self.features)
