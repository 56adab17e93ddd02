"""Parameters, and the flat buffers of values and gradients; all parameters of a network are views of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from nnbackend.backends import Backend, on_its_device
from nnbackend.functions.array import Array, MaybeArray
from nnbackend.initializers import Initializer


class Parameter:
    """Holds the values and the gradients of one parameter, which are views of a network's buffers.

    `data` and `grad` are None until a ParameterBuffer exists. `initializer` may be None until the network knows which
    activation follows. A parameter that is not trainable (a running statistic) is saved and
    restored with the others, but has no gradient, and no optimizer changes it.
    source: None, or the Parameter whose values this one shares, because a layer is used twice. Its gradient is then
    that of the further use alone, and `ParameterBuffer.add_up` adds it to the source's.
    """

    source: Parameter | None = None

    def __init__(self, shape: tuple[int, ...], initializer: Initializer | None, *, trainable: bool = True):
        self.shape = shape
        self.size = math.prod(shape)
        self.initializer = initializer
        self.trainable = trainable
        self.data: MaybeArray = None
        self.grad: MaybeArray = None

    def shared(self) -> Parameter:
        """Return a Parameter for a further use of this one."""
        other = copy(self)
        other.source = self
        return other

    def __setattr__(self, name: str, value: Any) -> None:
        """Write an assigned value or gradient into the view, because an optimizer sees only the network's buffers."""
        view = vars(self).get(name) if name in ("data", "grad") else None
        if view is None:
            object.__setattr__(self, name, value)
        elif value is not view:  # an in-place operator assigns the view itself
            shape = tuple(value.shape if hasattr(value, "shape") else np.shape(value))
            if shape not in (self.shape, ()):
                raise ValueError(f"Parameter.{name}: expected shape {self.shape}, got {shape}")
            view[...] = value


class ParameterBuffer:
    """Holds one flat array of values and one of gradients; every parameter is a reshaped slice of both.

    An optimizer step, a gradient norm and a checkpoint are therefore one operation each.

    data, grad: (size,), the trainable parameters. state: a flat array of the parameters that are not trainable.
    clock: (1,), int64, on the device: the number of training passes so far, if a layer draws random numbers by it.
    """

    def __init__(self, parameters: Sequence[Parameter], backend: Backend, dtype: str, generator: np.random.Generator):
        self.backend, self.dtype = backend, dtype
        self._shared = [parameter for parameter in parameters if parameter.source is not None]
        parameters = [parameter for parameter in parameters if parameter.source is None]
        trainable = [parameter for parameter in parameters if parameter.trainable]
        kept = [parameter for parameter in parameters if not parameter.trainable]
        with backend.active():
            self.data = self._lay_out(trainable, "data")
            self.grad = self._lay_out(trainable, "grad")
            self.state = self._lay_out(kept, "data")
            self.clock = backend.zeros((1,), "int64")
            self._lay_out(self._shared, "grad")
            for parameter in self._shared:
                object.__setattr__(parameter, "data", parameter.source.data)  # type: ignore[union-attr]
            for parameter in parameters:
                if parameter.initializer is not None:
                    host = parameter.initializer.draw(parameter.shape, generator)
                    parameter.data[...] = backend.asarray(host, dtype)

    def _lay_out(self, parameters: Sequence[Parameter], attribute: str) -> Array:
        """Return a flat array of zeros as large as `parameters`, and set `attribute` of each to its view."""
        flat = self.backend.zeros((sum(parameter.size for parameter in parameters),), self.dtype)
        start = 0
        for parameter in parameters:
            stop = start + parameter.size
            object.__setattr__(parameter, attribute, self.backend.xp.reshape(flat[start:stop], parameter.shape))
            start = stop
        return flat

    def add_up(self) -> None:
        """Add the gradients of further uses to those of the Parameters whose values they share."""
        for parameter in self._shared:
            total = parameter.source.grad  # type: ignore[union-attr]
            total += parameter.grad

    @on_its_device
    def snapshot(self, *names: str) -> dict[str, Array]:
        """Return copies by name: of the attributes `names`, or of all that training changes if there are none."""
        return {name: self.backend.xp.asarray(getattr(self, name), copy=True) for name in names or self._KEPT}

    @on_its_device
    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """Write the arrays that `snapshot` returned back to their places."""
        for name, value in snapshot.items():
            getattr(self, name)[...] = value

    _KEPT = ("data", "state", "clock")


class Views(Mapping[str, Array]):
    """Maps names to live views. `views[name][...] = x` and `views[name] = x` both write into the buffer."""

    def __init__(self, views: dict[str, Array], backend: Backend, dtype: str):
        self._views, self._backend, self._dtype = views, backend, dtype

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __setitem__(self, name: str, value: Array) -> None:
        view = self._views[name]
        value = self._backend.asarray(value, self._dtype)
        if tuple(value.shape) != tuple(view.shape):
            raise ValueError(f"{name}: expected shape {tuple(view.shape)}, got {tuple(value.shape)}")
        with self._backend.active():
            view[...] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name}: {tuple(view.shape)}' for name, view in self._views.items())}}}"
