"""Parameters, and the two flat buffers (values and gradients) of which all of a network's parameters are views."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nnbackend.backend import Backend
from nnbackend.functions.array import Array
from nnbackend.initializers import Initializer


class Parameter:
    """A named place in a network's buffers. `data` and `grad` are views, set when a ParameterBuffer takes it in.

    `initializer` may stay None until the network knows which activation follows.
    """

    def __init__(self, shape: tuple[int, ...], initializer: Initializer | None):
        self.shape = shape
        self.size = math.prod(shape)
        self.initializer = initializer
        self.data: Array = None
        self.grad: Array = None


class ParameterBuffer:
    """One flat array of values and one of gradients; every parameter is a reshaped slice of both.

    An optimizer step, a gradient norm, a checkpoint are therefore one operation each.
    """

    def __init__(self, parameters: Sequence[Parameter], backend: Backend, dtype: str, generator: np.random.Generator):
        size = sum(parameter.size for parameter in parameters)
        self.backend, self.dtype = backend, dtype
        self.data = backend.zeros((size,), dtype)
        self.grad = backend.zeros((size,), dtype)
        start = 0
        for parameter in parameters:
            stop = start + parameter.size
            parameter.data = backend.xp.reshape(self.data[start:stop], parameter.shape)
            parameter.grad = backend.xp.reshape(self.grad[start:stop], parameter.shape)
            if parameter.initializer is not None:
                parameter.data[...] = backend.asarray(parameter.initializer.draw(parameter.shape, generator), dtype)
            start = stop


class Views(Mapping[str, Array]):
    """Live views by name. `views[name][...] = x` and `views[name] = x` both write into the buffer."""

    def __init__(self, views: dict[str, Array], backend: Backend, dtype: str):
        self._views, self._backend, self._dtype = views, backend, dtype

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __setitem__(self, name: str, value: Array) -> None:
        view = self._views[name]
        value = self._backend.asarray(value, self._dtype)
        if tuple(value.shape) != tuple(view.shape):
            raise ValueError(f"{name}: expected shape {tuple(view.shape)}, got {tuple(value.shape)}")
        view[...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: {tuple(view.shape)}' for name, view in self._views.items())}}}"
