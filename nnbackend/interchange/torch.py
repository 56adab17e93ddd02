"""Networks from PyTorch and for it.

PyTorch has images as (n, c, h, w), filters as (o, c, kh, kw), and the weights of a linear layer as (outputs, inputs).
`Flatten` there orders the features of an image by channel first; the weights behind it are put into the other order.
A network that ends with such features is refused.

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
from nnbackend.functions import sinusoids
from nnbackend.interchange.parts import (
    HostArray,
    Part,
    channels_first_rows,
    channels_last_rows,
    checked_shape,
    refusal,
    stacks_of,
)
from nnbackend.layers import (
    ELU,
    GELU,
    GRU,
    LSTM,
    RNN,
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Embedding,
    Flatten,
    LastStep,
    Layer,
    LayerNormalization,
    LeakyReLU,
    Loss,
    MaxPooling,
    MultiHeadAttention,
    PositionalEncoding,
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
    Embedding: {"W": "weight"},
    MultiHeadAttention: {
        "W": "in_proj_weight",
        "b": "in_proj_bias",
        "Wo": "out_proj.weight",
        "bo": "out_proj.bias",
    },
    PositionalEncoding: {"P": "weight"},  # if it is learned, such as the table of an Embedding
}
# of each recurrent layer: for each part of PyTorch's columns, which of ours it is
PARTS: dict[Any, list[int]] = {RNN: [0], LSTM: [2, 0, 1, 3], GRU: [0, 1, 2]}
# what stands for what bias=False or affine=False leave out
LEFT_OUT = {"b": 0.0, "bh": 0.0, "bo": 0.0, "beta": 0.0, "gamma": 1.0}
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
        parent, _, own = prefix.rpartition(".")
        if own == "out_proj" and (f"{parent}.in_proj_weight" if parent else "in_proj_weight") in values:
            prefix, name = parent, f"out_proj.{name}"  # of one module with the attention around it
        if name != IGNORED:
            groups.setdefault(prefix, {})[name] = value
    layers_with_values = [layer for layer in net.every_layer().values() if layer.own_parameters()]
    takers = [layer for layer in layers_with_values if layer.original is layer]
    if len(groups) == len(layers_with_values) != len(takers):  # a module that is used twice has its values twice there
        groups = _once(layers_with_values, groups)
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


def _once(layers: Sequence[Layer], groups: Mapping[str, dict[str, HostArray]]) -> dict[str, dict[str, HostArray]]:
    """Return the groups without those of further uses of a layer. Raise ValueError if one has other values."""
    first: dict[int, str] = {}
    for layer, (prefix, group) in zip(layers, groups.items(), strict=True):
        other = first.setdefault(id(layer.original), prefix)
        same = group.keys() == groups[other].keys() and all(
            np.array_equal(values, groups[other][name], equal_nan=True) for name, values in group.items()
        )
        if not same:
            raise ValueError(
                f"{layer} is a further use of {layer.original}, but source has other values for {prefix!r} than for "
                f"{other!r}"
            )
    return {prefix: groups[prefix] for prefix in first.values()}


def to_torch(net: Network, *, input_shape: Sequence[int] | None = None) -> Any:
    """Return a `torch.nn.Sequential` on the CPU, in evaluation mode, that computes what `Network.predict` does.

    It takes images as (n, c, h, w), and returns the raw output: the loss is not part of it. Its `state_dict()` has
    PyTorch's names and layouts. A Residual or a Parallel becomes a `torch.fx.GraphModule`, with the stacks of layers as
    its modules "stack1", "stack2", ... A layer that is used twice is one module at two places.
    input_shape: the shape of one row as this library has it, (h, w, c) for images; it is needed only if no layer says
    whether rows are images, or how many channels they have.

    Raises TypeError for a layer that PyTorch has no counterpart of, ValueError for an input_shape that is missing or
    does not fit, and ImportError if PyTorch is not installed.
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
        make = MODULES.get(kind)
        if make is None and kind is not None and kind.identity:
            make = _identity
        if make is None or (kind is LayerNormalization and place.rank == 3):
            raise refusal(layer, "PyTorch", "it has no module for that")
        module = make(torch.nn, layer, place.rank)
        host = {name: to_numpy(parameter.data) for name, parameter in layer.parameters().items()}
        state = {
            name: torch.tensor(np.ascontiguousarray(values)) for name, values in _state(kind, host, place.order).items()
        }
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
    LastStep: lambda nn, layer, rank: _last_step(nn),
    MultiHeadAttention: lambda nn, layer, rank: _attention(nn, layer),
    PositionalEncoding: lambda nn, layer, rank: _positional_encoding(nn, layer),
    **{
        kind: lambda nn, layer, rank: _first_output(
            getattr(nn, layer.kind), layer.input_size, layer.hidden_size, batch_first=True
        )
        for kind in PARTS
    },
    Embedding: lambda nn, layer, rank: nn.Embedding(layer.vocabulary, layer.features),
    ReLU: lambda nn, layer, rank: nn.ReLU(),
    LeakyReLU: lambda nn, layer, rank: nn.LeakyReLU(layer.alpha),
    ELU: lambda nn, layer, rank: nn.ELU(layer.alpha),
    GELU: lambda nn, layer, rank: nn.GELU("tanh"),
    SiLU: lambda nn, layer, rank: nn.SiLU(),
    Sigmoid: lambda nn, layer, rank: nn.Sigmoid(),
    Tanh: lambda nn, layer, rank: nn.Tanh(),
    Softmax: lambda nn, layer, rank: nn.Softmax(dim=1 if rank == 3 else -1),
}


def _first_output(kind: Any, *settings: Any, **named: Any) -> Any:
    """Return a module of PyTorch that returns the first of its outputs alone, as a Sequential wants it."""

    class FirstOutput(kind):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x)[0]

    FirstOutput.__name__ = kind.__name__
    return FirstOutput(*settings, **named)


def _attention(nn: Any, layer: Any) -> Any:
    torch, causal = _torch(), layer.causal

    class MultiheadAttention(nn.MultiheadAttention):  # type: ignore[misc]
        """PyTorch's module, of one input and one output."""

        def forward(self, x: Any) -> Any:
            ones = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
            mask = torch.triu(ones, 1) if causal else None  # True where a step must not look
            return super().forward(x, x, x, need_weights=False, attn_mask=mask)[0]

    return MultiheadAttention(layer.features, layer.heads, batch_first=True)


def _positional_encoding(nn: Any, layer: Any) -> Any:
    torch, learned = _torch(), layer.learned
    table = torch.zeros(layer.length, layer.features)
    if not learned:
        table = torch.tensor(sinusoids(np.zeros((1, layer.length, layer.features))))

    class PositionalEncoding(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            if learned:
                self.weight = nn.Parameter(table)
            else:
                self.register_buffer("weight", table, persistent=False)

        def forward(self, x: Any) -> Any:
            return x + self.weight[: x.shape[1]]

    return PositionalEncoding()


def _identity(nn: Any, layer: Any, rank: int | None) -> Any:
    return nn.Identity()


def _last_step(nn: Any) -> Any:
    class LastStep(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x[:, -1]

    return LastStep()


# --- layouts ----------------------------------------------------------------------------------------------------


def _state(kind: Any, host: Mapping[str, HostArray], channels: int) -> dict[str, HostArray]:
    """Return the values of a layer by PyTorch's names, in its layouts. host: ours, by attribute."""
    if kind not in PARTS:
        names = {ours: name for ours, name in NAMES.get(kind, {}).items() if ours in host}
        return {name: _to_torch(kind, ours, host[ours], channels) for ours, name in names.items()}
    h, second = len(host["Wh"]), np.zeros_like(host["b"])
    if kind is GRU:
        second[2 * h :] = host["bh"]
    rows = (host["Wx"].T, host["Wh"].T, host["b"], second)
    return {name: _parts(values, PARTS[kind]) for name, values in zip(RECURRENT, rows, strict=True)}


def _host_values(kind: Any, state: Mapping[str, HostArray], channels: int) -> dict[str, HostArray]:
    """Return the inverse of `_state`."""
    if kind not in PARTS:
        return {ours: _from_torch(kind, ours, state[name], channels) for ours, name in NAMES[kind].items()}
    back = [PARTS[kind].index(k) for k in range(len(PARTS[kind]))]
    Wx, Wh, first, second = (_parts(state[name], back) for name in RECURRENT)
    h = Wh.shape[1]
    own = {"bh": second[2 * h :]} if kind is GRU else {}
    b = first + second
    if kind is GRU:
        b[2 * h :] = first[2 * h :]
    return {"Wx": Wx.T, "Wh": Wh.T, "b": b, **own}


RECURRENT = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def _parts(values: HostArray, order: Sequence[int]) -> HostArray:
    """Return the equal parts of axis 0 in another order."""
    parts = np.split(values, len(order))
    return np.concatenate([parts[k] for k in order])


def _to_torch(kind: Any, attribute: str, values: HostArray, channels: int) -> HostArray:
    """Return values of ours in PyTorch's layout. channels: of the image whose features the layer takes, else 0."""
    if channels and not (kind is Affine and attribute == "b"):
        values = channels_first_rows(values, channels)
    if kind is Convolution and attribute == "W":
        return values.transpose(3, 2, 0, 1)
    if kind in (Affine, MultiHeadAttention):
        values = values.T  # a bias stays what it is
    return values


def _from_torch(kind: Any, attribute: str, values: HostArray, channels: int) -> HostArray:
    """Return the inverse of `_to_torch`."""
    if kind is Convolution and attribute == "W":
        return values.transpose(2, 3, 1, 0)
    if kind in (Affine, MultiHeadAttention):
        values = values.T
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
    shape = checked_shape(net, input_shape) if input_shape is not None else net.input_shape
    rank = None if shape is None else len(shape)
    places: dict[str, Place] = {}
    end = _follow(net.steps(), Place(rank, shape[-1] if shape is not None and rank == 3 else None), places)
    known = shape is not None and None not in shape
    same = {0, 1, *(net.output_shape(shape) if known else ())}  # type: ignore[arg-type]  # of one channel or one pixel
    if end.unknown or end.pending not in same:
        raise TypeError(
            "the network ends with the features of a flattened image, which PyTorch orders in another way: put an "
            "Affine behind Flatten, or leave Flatten out"
            + ("" if known else "; if the image has one channel or one pixel, pass input_shape=(h, w, c)")
        )
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
        elif kind is LastStep:
            at = replace(at, rank=1)
        elif kind in PARTS or kind in (MultiHeadAttention, PositionalEncoding):
            at = replace(at, rank=2)
        elif kind is Embedding:
            at = replace(at, rank=(at.rank or 1) + 1)
        elif kind is Flatten:
            if at.rank in (None, 3):
                at = replace(at, pending=at.channels or 0, unknown=None if at.channels else layer)
            at = replace(at, rank=1)
        elif layer.parameters():
            if kind not in NAMES and kind not in PARTS:
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

    parameters = layer.parameters()
    absent = {name: np.full(p.shape, LEFT_OUT.get(name, math.nan)) for name, p in parameters.items()}
    state = _state(kind, absent, channels)  # the values of what is left out; NaN for what must be there
    unknown = set(group) - set(state)
    if unknown:
        raise ValueError(f"{layer} takes {', '.join(state)}, but source has {key(min(unknown))!r}")
    for name, values in state.items():
        if name not in group and np.isnan(values).any():
            raise ValueError(f"{layer}: source has no {key(name)!r}")
        if name in group and group[name].shape != values.shape:
            raise ValueError(f"{layer}: {key(name)!r} has shape {group[name].shape}, expected {values.shape}")
    with net.backend.active():
        for attribute, values in _host_values(kind, {**state, **group}, channels).items():
            parameters[attribute].data[...] = net.backend.asarray(np.ascontiguousarray(values), net.dtype)


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
    normalizations = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)
    for ours, theirs, kinds in (("eps", "eps", normalizations), ("heads", "num_heads", torch.nn.MultiheadAttention)):
        layers = [layer for layer in net.every_layer().values() if hasattr(layer, ours)]
        for layer, other in zip(layers, (m for m in module.modules() if isinstance(m, kinds)), strict=False):
            here, there = getattr(layer, ours), getattr(other, theirs)
            if not math.isclose(here, there):
                raise ValueError(f"{layer}: {ours} is {here}, but {there} in PyTorch: make it with {ours}={there}")
    for other in module.modules():
        if isinstance(other, torch.nn.RNN) and other.nonlinearity != "tanh":
            raise ValueError(f"PyTorch's RNN has the nonlinearity {other.nonlinearity!r}, but RNN has tanh alone")
    if any(isinstance(m, torch.nn.GELU) and m.approximate == "none" for m in module.modules()):
        warnings.warn("its GELU is exact; here it is in the tanh form, which differs by less than 5e-4", stacklevel=3)
