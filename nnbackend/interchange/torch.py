"""Networks from PyTorch and for it.

PyTorch has images as (n, c, h, w), filters as (o, c, kh, kw), and the weights of a linear layer as (outputs, inputs).
`Flatten` there orders the features of an image by channel first; the weights behind it are put into the other order.

One function differs: `torch.nn.GELU()` is exact, `nnbackend.GELU` is `torch.nn.GELU("tanh")`; they differ by less than
5e-4.
"""

from __future__ import annotations

import io
import math
import operator
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.backends import Backend, to_numpy
from nnbackend.errors import ModelFileError
from nnbackend.files import write_atomically
from nnbackend.interchange.parts import HostArray, Part, channels_first_rows, channels_last_rows, refusal, stacks_of
from nnbackend.layers import (
    ELU,
    GELU,
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Flatten,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Loss,
    MaxPooling,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from nnbackend.layers.containers import Stacks
from nnbackend.network import Network

# of each layer with parameters: PyTorch's names of ours
NAMES: dict[Any, dict[str, str]] = {
    Affine: {"W": "weight", "b": "bias"},
    Convolution: {"W": "weight", "b": "bias"},
    BatchNormalization: {
        "gamma": "weight",
        "beta": "bias",
        "running_mean": "running_mean",
        "running_var": "running_var",
    },
    LayerNormalization: {"gamma": "weight", "beta": "bias"},
}
LEFT_OUT = {"b": 0.0, "beta": 0.0, "gamma": 1.0}  # what stands for what bias=False or affine=False leave out
IGNORED = "num_batches_tracked"


def load_torch(
    source: Any,
    layers: Sequence[Layer],
    loss: Loss | None = None,
    *,
    input_shape: Sequence[int] | None = None,
    backend: Backend | str | None = None,
) -> Network:
    """Return a network of these layers with the values of a PyTorch model.

    source: a state dict, a module, or a file of `torch.save(module.state_dict(), ...)`, which is read with
    `weights_only=True`. The layers with parameters take the values of its modules in their order. What bias=False or
    affine=False leaves out is 0, or 1 for a scale. A state dict holds no settings: give normalisations their `eps` and
    activations their slope. For a module, `eps` is compared, and an exact GELU is warned about.
    loss, backend: as in `Network`. input_shape: the shape of one row as this library has it, (h, w, c) for images; it
    is needed only if a Flatten comes before any layer that says how many channels there are. The dtype is float64 if
    the source has it, else float32.

    Raises ValueError, which names the layer and the key, for values that are missing, that have another shape, or that
    no layer takes; TypeError for a source of another kind and for a layer that PyTorch has no counterpart of;
    ModelFileError for a file that is no state dict; ImportError if a file is to be read without PyTorch.
    """
    values, module = _values(source)
    dtype = "float64" if any(value.dtype == np.float64 for value in values.values()) else "float32"
    net = Network(layers, loss, dtype=dtype, backend=backend)
    groups: dict[str, dict[str, HostArray]] = {}
    for key, value in values.items():
        prefix, _, name = key.rpartition(".")
        if name != IGNORED:
            groups.setdefault(prefix, {})[name] = value
    takers = [layer for layer in net.every_layer().values() if layer.own_parameters() and layer.original is layer]
    if len(takers) != len(groups):
        raise ValueError(
            f"source has values for {len(groups)} modules ({', '.join(groups)}), but {len(takers)} layers have "
            f"parameters ({', '.join(map(str, takers))})"
        )
    places = _places(net, input_shape)
    for layer, (prefix, group) in zip(takers, groups.items(), strict=True):
        _take(layer, prefix, group, places[layer.name].order, net)
    if module is not None:
        _check_settings(module, net)
    return net


def to_torch(net: Network, *, input_shape: Sequence[int] | None = None) -> Any:
    """Return a `torch.nn.Sequential` on the CPU, in evaluation mode, that computes what `Network.predict` does.

    It takes images as (n, c, h, w), and returns the raw output: the loss is not part of it. Its `state_dict()` has
    PyTorch's names and layouts. A Residual or a Parallel becomes a `torch.fx.GraphModule`, with the stacks of layers as
    its modules "stack1", "stack2", ... A layer that is used twice is one module at two places.
    input_shape: the shape of one row as this library has it, (h, w, c) for images; it is needed only if no layer says
    whether rows are images, or how many channels they have.

    Raises TypeError for a layer that PyTorch has no counterpart of, ValueError for a missing input_shape, and
    ImportError if PyTorch is not installed.
    """
    return _sequential(_torch(), net, net.steps(), _places(net, input_shape), {}).eval()


def _sequential(
    torch: Any, net: Network, layers: Sequence[Layer], places: Mapping[str, Place], made: dict[int, Any]
) -> Any:
    """Return a `torch.nn.Sequential` of these layers of a network. made: the modules of layers with parameters."""
    modules = []
    for layer in layers:
        kind, place = Part(layer, ()).kind, places[layer.name]
        if id(layer.original) in made:
            modules.append(made[id(layer.original)])
            continue
        if kind is Stacks:
            stacks = [_sequential(torch, net, stack, places, made) for stack in stacks_of(layer)]
            modules.append(_joined(torch, layer, place, stacks))
            continue
        if kind not in MODULES or (kind is LayerNormalization and place.rank == 3):
            raise refusal(layer, "PyTorch", "it has no module for that")
        module = MODULES[kind](torch.nn, layer, place.rank)
        state = {}
        for attribute, name in NAMES.get(kind, {}).items():
            values = _to_torch(kind, attribute, to_numpy(getattr(layer, attribute).data), place.order)
            state[name] = torch.tensor(np.ascontiguousarray(values))
        module = module.to(getattr(torch, net.dtype))
        if state:
            module.load_state_dict(state, strict=False)  # without the count of batches, which is 0
            made[id(layer.original)] = module
        modules.append(module)
    return torch.nn.Sequential(*modules)


def _joined(torch: Any, layer: Any, place: Place, stacks: Sequence[Any]) -> Any:
    """Return a module that joins the outputs of stacks as the layer does."""
    import torch.fx as fx

    graph, modules = fx.Graph(), torch.nn.ModuleDict()
    x = graph.placeholder("x")
    ys = []
    for i, stack in enumerate(stacks):
        modules[f"stack{i + 1}"] = stack
        ys.append(graph.call_module(f"stack{i + 1}", (x,)))
    y = ys[0]
    if layer.join == "concatenate":
        y = graph.call_function(torch.cat, (ys, 1 if place.rank == 3 else -1))
    for other in ys[1:] if layer.join == "add" else ():
        y = graph.call_function(operator.add, (y, other))
    graph.output(y)
    return fx.GraphModule(modules, graph)


def save_torch(net: Network, path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None) -> None:
    """Write the state dict of `to_torch` to a file. Raises OSError if none can be written, and as `to_torch` does."""
    content = io.BytesIO()
    _torch().save(to_torch(net, input_shape=input_shape).state_dict(), content)
    write_atomically(path, content.getvalue())


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError('this needs PyTorch: pip install "nnbackend[torch]"') from error
    return torch


MODULES: dict[Any, Callable[[Any, Any, int | None], Any]] = {
    Affine: lambda nn, layer, rank: nn.Linear(layer.input_size, layer.output_size),
    Convolution: lambda nn, layer, rank: nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
    ),
    BatchNormalization: lambda nn, layer, rank: (nn.BatchNorm2d if rank == 3 else nn.BatchNorm1d)(
        layer.features, layer.eps, 1.0 - layer.momentum
    ),
    LayerNormalization: lambda nn, layer, rank: nn.LayerNorm(layer.features, layer.eps),
    MaxPooling: lambda nn, layer, rank: nn.MaxPool2d(layer.size, layer.stride, layer.padding),
    AveragePooling: lambda nn, layer, rank: nn.AvgPool2d(layer.size, layer.stride, layer.padding),
    Dropout: lambda nn, layer, rank: nn.Dropout(layer.dropout_ratio),
    Flatten: lambda nn, layer, rank: nn.Flatten(),
    ReLU: lambda nn, layer, rank: nn.ReLU(),
    LeakyReLU: lambda nn, layer, rank: nn.LeakyReLU(layer.alpha),
    ELU: lambda nn, layer, rank: nn.ELU(layer.alpha),
    GELU: lambda nn, layer, rank: nn.GELU("tanh"),
    SiLU: lambda nn, layer, rank: nn.SiLU(),
    Sigmoid: lambda nn, layer, rank: nn.Sigmoid(),
    Tanh: lambda nn, layer, rank: nn.Tanh(),
    Softmax: lambda nn, layer, rank: nn.Softmax(dim=1 if rank == 3 else -1),
}


# --- layouts ----------------------------------------------------------------------------------------------------


def _to_torch(kind: Any, attribute: str, values: HostArray, channels: int) -> HostArray:
    """Return values of ours in PyTorch's layout. channels: of the image whose features the layer takes, else 0."""
    if channels and not (kind is Affine and attribute == "b"):
        values = channels_first_rows(values, channels)
    if attribute == "W":
        values = values.T if kind is Affine else values.transpose(3, 2, 0, 1)
    return values


def _from_torch(kind: Any, attribute: str, values: HostArray, channels: int) -> HostArray:
    """Return the inverse of `_to_torch`."""
    if attribute == "W":
        values = values.T if kind is Affine else values.transpose(2, 3, 1, 0)
    if channels and not (kind is Affine and attribute == "b"):
        values = channels_last_rows(values, channels)
    return values


@dataclass(frozen=True)
class Place:
    """What is known at the output of a layer. rank, channels: of a row there, None if unknown.

    pending: if the features of an image were flattened and not mixed since, how many channels it had. unknown: the
    layer that flattened them, if that number is unknown. order: the channels of the features that the layer takes.
    """

    rank: int | None
    channels: int | None
    pending: int = 0
    unknown: Layer | None = None
    order: int = 0


def _places(net: Network, input_shape: Sequence[int] | None) -> dict[str, Place]:
    """Return what is known at each layer, by its name."""
    shape = tuple(input_shape) if input_shape is not None else net.input_shape
    rank = None if shape is None else len(shape)
    places: dict[str, Place] = {}
    _follow(net.steps(), Place(rank, shape[-1] if shape is not None and rank == 3 else None), places)
    return places


def _follow(layers: Sequence[Layer], at: Place, places: dict[str, Place]) -> Place:
    """Enter the places of layers that follow one another from `at` on, and return the last."""
    for layer in layers:
        kind = Part(layer, ()).kind
        settings: Any = layer
        at = replace(at, order=0)
        if kind is Stacks:
            ends = [_follow(stack, at, places) for stack in stacks_of(layer)]
            if any(end.pending or end.unknown for end in ends):
                raise TypeError(
                    f"{layer}: PyTorch orders the features of a flattened image in another way, and they leave this "
                    f"layer as they came: put an Affine behind Flatten"
                )
            widths = [end.channels for end in ends]
            at = ends[0]
            if settings.join == "concatenate":
                at = replace(at, channels=None if None in widths else sum(width or 0 for width in widths))
        elif kind is Convolution:
            at = replace(at, rank=3, channels=settings.out_channels)
        elif kind in (MaxPooling, AveragePooling):
            at = replace(at, rank=3)
        elif kind is Flatten:
            if at.rank in (None, 3):
                at = replace(at, pending=at.channels or 0, unknown=None if at.channels else layer)
            at = replace(at, rank=1)
        elif layer.parameters():
            if kind not in NAMES:
                raise TypeError(f"{layer}: PyTorch has no module for the parameters of a {layer.kind}")
            if at.unknown is not None:
                raise ValueError(
                    f"{layer}: {at.unknown} comes before any layer that says how many channels its images have, which "
                    f"decides the order of the features: pass input_shape=(h, w, c)"
                )
            if (at.rank == 3 and kind is Affine) or (at.rank == 2 and kind is BatchNormalization):
                raise TypeError(f"{layer}: PyTorch's module has the features of such rows in another axis")
            at = replace(at, order=at.pending)
            if kind is Affine:
                at = replace(at, pending=0, rank=at.rank or 1)
            elif at.rank == 3:
                at = replace(at, channels=settings.features)
        places[layer.name] = at
    return at


# --- reading ----------------------------------------------------------------------------------------------------


def _take(layer: Any, prefix: str, group: Mapping[str, HostArray], channels: int, net: Network) -> None:
    """Write the values of one module into a layer. Raise ValueError, which names both, if they do not fit."""
    kind: Any = Part(layer, ()).kind

    def key(name: str) -> str:
        return f"{prefix}.{name}" if prefix else name

    unknown = set(group) - set(NAMES[kind].values())
    if unknown:
        raise ValueError(f"{layer} takes {', '.join(NAMES[kind].values())}, but source has {key(min(unknown))!r}")
    for attribute, name in NAMES[kind].items():
        parameter = getattr(layer, attribute)
        if name not in group:
            if attribute not in LEFT_OUT:
                raise ValueError(f"{layer}: source has no {key(name)!r}")
            values = np.full(parameter.shape, LEFT_OUT[attribute])
        else:
            expected = _to_torch(kind, attribute, np.zeros(parameter.shape), channels).shape
            if group[name].shape != expected:
                raise ValueError(f"{layer}: {key(name)!r} has shape {group[name].shape}, expected {expected}")
            values = np.ascontiguousarray(_from_torch(kind, attribute, group[name], channels))
        with net.backend.active():
            parameter.data[...] = net.backend.asarray(values, net.dtype)


def _values(source: Any) -> tuple[dict[str, HostArray], Any]:
    """Return the arrays of a source by key, and the module if it is one."""
    module, name = None, "source"
    if isinstance(source, str | os.PathLike):
        source, name = _read(Path(source)), str(source)
    elif not isinstance(source, Mapping) and callable(getattr(source, "state_dict", None)):
        module, source = source, source.state_dict()
    error: type[Exception] = TypeError if name == "source" else ModelFileError
    if not isinstance(source, Mapping):
        raise error(f"{name}: expected a state dict, a module or a file of a state dict, got a {type(source).__name__}")
    values = {}
    for key, value in source.items():
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            inner = [key for key, value in source.items() if isinstance(value, Mapping)]
            hint = f": pass what is under {inner[0]!r}" if inner else ""
            raise error(f"{name}: expected arrays, but {key!r} is a {type(value).__name__}{hint}")
        values[str(key)] = _host(value)
    return values, module


def _host(value: Any) -> HostArray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()  # NumPy has no bfloat16
        return np.asarray(value.numpy())
    return to_numpy(value)


def _read(path: Path) -> Any:
    torch = _torch()
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip and PyTorch
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(f"{path}: PyTorch reads no weights from it: {reason[0]}") from error


def _check_settings(module: Any, net: Network) -> None:
    """Compare what a state dict does not hold."""
    torch = sys.modules["torch"]
    normalizations: list[Any] = [layer for layer in net.every_layer().values() if hasattr(layer, "eps")]
    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)
    theirs = [m for m in module.modules() if isinstance(m, kinds)]
    for layer, other in zip(normalizations, theirs, strict=False):
        if not math.isclose(layer.eps, other.eps):
            raise ValueError(f"{layer}: eps is {layer.eps}, but {other.eps} in PyTorch: make it with eps={other.eps}")
    if any(isinstance(m, torch.nn.GELU) and m.approximate == "none" for m in module.modules()):
        warnings.warn("its GELU is exact; here it is in the tanh form, which differs by less than 5e-4", stacklevel=3)
