"""A network as the writers of other formats see it: layers with their values on the host, and what can be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nnbackend.backends import to_numpy
from nnbackend.checks import lengths
from nnbackend.layers import Affine, BatchNormalization, Convolution, Layer, Loss
from nnbackend.layers.base import RowShape, Shape
from nnbackend.layers.containers import Stacks
from nnbackend.network import Network
from nnbackend.parameters import Parameter

HostArray = npt.NDArray[Any]
T = TypeVar("T")

LARGEST_SIDE = 1024  # of images, in the search for a size that a network takes


@dataclass
class Part:
    """A layer, and its values by attribute in float64. shape: that of one row of its input.

    stacks: of a layer that joins stacks of layers, the parts of each.
    """

    layer: Layer
    shape: Shape
    values: dict[str, HostArray] = field(default_factory=dict)
    stacks: list[list[Part]] = field(default_factory=list)

    @property
    def kind(self) -> type[Layer] | None:
        """The class of this library that computes what the layer does; None if the layer has a way of its own."""
        own = type(self.layer)
        for kind in own.__mro__:
            if kind.__module__.startswith("nnbackend.layers.") and "forward" in vars(kind):
                same = own.forward is vars(kind)["forward"] and own.to_onnx is Layer.to_onnx
                return kind if same and kind is not Layer else None
        return None


def parts(net: Network, shape: Shape) -> list[Part]:
    """Return the layers of a network for rows of `shape`, without those that do nothing in inference mode.

    A Sequential is taken apart. Batch normalisation is folded into the affine layer or the convolution before or
    behind it.
    """
    return _parts(net.steps(), shape, float(np.finfo(net.dtype).max))


def _parts(layers: Sequence[Layer], shape: Shape, largest: float) -> list[Part]:
    found = []
    for layer in layers:
        values = {name: to_numpy(p.data).astype(np.float64) for name, p in layer.own_parameters().items()}
        part = Part(layer, shape, values)
        if part.kind is Stacks:
            part.stacks = [_parts(steps, shape, largest) for steps in stacks_of(layer)]
        shape = layer.output_shape(shape)
        if part.kind is None or not part.kind.identity:
            found.append(part)
    return _folded(found, largest)


def stacks_of(layer: Any) -> list[list[Layer]]:
    """Return the stacks that a layer joins. A Sequential within them is taken apart."""
    return [[step for within in stack for step in within.steps()] for stack in layer.stacks()]


def scale_and_shift(part: Part) -> tuple[HostArray, HostArray]:
    """Return scale and shift of each feature, (features,), which are all that batch normalisation does in inference."""
    v, eps = part.values, part.layer.eps  # type: ignore[attr-defined]
    scale = v["gamma"] / np.sqrt(v["running_var"] + eps)
    return scale, v["beta"] - v["running_mean"] * scale


def _folded(given: Sequence[Part], largest: float) -> list[Part]:
    found: list[Part] = []
    for part in given:
        last = found[-1] if found else None
        merged = None
        if last is not None and part.kind is BatchNormalization and last.kind in (Affine, Convolution):
            scale, shift = scale_and_shift(part)
            merged = replace(last, values={"W": last.values["W"] * scale, "b": last.values["b"] * scale + shift})
        elif (
            last is not None
            and last.kind is BatchNormalization
            and part.kind in (Affine, Convolution)
            and not any(getattr(part.layer, "padding", ()))  # zeros around an image are not normalised
        ):
            scale, shift = scale_and_shift(last)
            W, b = part.values["W"], part.values["b"]
            sums = (shift[:, None] * W).reshape(-1, b.size).sum(axis=0)
            merged = replace(part, shape=last.shape, values={"W": scale[:, None] * W, "b": b + sums})
        if merged is not None and all(np.all(np.abs(value) <= largest) for value in merged.values.values()):
            found[-1] = merged
        else:
            found.append(part)
    return found


def row_shape(net: Network, input_shape: Sequence[int] | None, format: str) -> tuple[Shape, RowShape]:
    """Return the shape of a row that the network takes, and the same with None for the lengths that it leaves open.

    input_shape: what the caller fixes; None to leave open what the network does. For lengths that are left open, the
    first is that of the smallest square image that the network takes. Raises ValueError if input_shape does not fit,
    or if it is missing and the network leaves more open than the sides of an image.
    """
    if input_shape is not None:
        shape = checked_shape(net, input_shape)
        return shape, shape
    open_shape = net.input_shape
    if open_shape is None or (open_shape[-1] is None and not net.first.input_dtype):
        raise ValueError(
            f"the layers do not say what one row of input looks like ({open_shape}), which {format} needs: "
            f"pass input_shape, such as (784,) or (28, 28, 1)"
        )
    if None not in open_shape:
        return open_shape, open_shape  # type: ignore[return-value]
    reason: ValueError | None = None
    for side in range(1, LARGEST_SIDE + 1):
        shape = tuple(side if length is None else length for length in open_shape)
        try:
            net.output_shape(shape)
        except ValueError as error:
            reason = error
        else:
            return shape, open_shape
    raise ValueError(
        f"no square image of up to {LARGEST_SIDE} pixels fits all layers ({reason}): pass input_shape=(h, w, c)"
    )


def checked_shape(net: Network, input_shape: Sequence[int]) -> Shape:
    """Return the shape of a row as a tuple. Raise ValueError if it is none, or if the network takes no such rows."""
    shape = lengths("input_shape", input_shape, "(28, 28, 1)")
    if not net.takes(shape):
        raise ValueError(f"input_shape: the network takes rows of shape {net.input_shape}, got {shape}")
    net.output_shape(shape)  # raises, and names the layer
    return shape


def channels_first_rows(values: HostArray, channels: int) -> HostArray:
    """Return `values` with its rows, which stand for (h, w, c), in the order (c, h, w)."""
    return np.swapaxes(values.reshape(-1, channels, *values.shape[1:]), 0, 1).reshape(values.shape)


def channels_last_rows(values: HostArray, channels: int) -> HostArray:
    """Return the inverse of `channels_first_rows`."""
    return np.swapaxes(values.reshape(channels, -1, *values.shape[1:]), 0, 1).reshape(values.shape)


def output_function(loss: Loss, known: dict[type[Loss], T]) -> T | None:
    """Return the entry of `known` for the class whose `output` a loss has; None for an `output` of its own."""
    return next((entry for kind, entry in known.items() if type(loss).output is kind.output), None)


def with_values(part: Any, asarray: Callable[[HostArray], Any]) -> Any:
    """Return a copy of a layer whose parameters hold the same values in arrays that `asarray` makes."""

    def moved(parameter: Parameter) -> Parameter:
        other = copy(parameter)
        vars(other)["data"] = asarray(to_numpy(parameter.data))
        return other

    return part.twin(moved) if hasattr(part, "twin") else copy(part)


def refusal(layer: object, format: str, why: str) -> TypeError:
    """Return the error for a layer or a loss that a format cannot hold."""
    return TypeError(f"{layer} cannot be written to {format}: {why}")
