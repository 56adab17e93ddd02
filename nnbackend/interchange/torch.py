"""Networks from PyTorch and for it.

PyTorch has images as (n, c, h, w), filters as (o, c, kh, kw), and the weights of a linear layer as (outputs, inputs).
`Flatten` there orders the features of an image by channel first; the weights behind it are put into the other order.

One function differs: `torch.nn.GELU()` is exact, `nnbackend.GELU` is `torch.nn.GELU("tanh")`; they differ by less than
5e-4.
"""

from __future__ import annotations

import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.backends import Backend, to_numpy
from nnbackend.errors import ModelFileError
from nnbackend.files import write_atomically
from nnbackend.interchange.parts import HostArray, Part, channels_first_rows, channels_last_rows, refusal
from nnbackend.layers import (
    ELU,
    GELU,
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Embedding,
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
    takers = [layer for layer in net.layers.values() if layer.parameters()]
    if len(takers) != len(groups):
        raise ValueError(
            f"source has values for {len(groups)} modules ({', '.join(groups)}), but {len(takers)} layers have "
            f"parameters ({', '.join(map(str, takers))})"
        )
    orders = _orders(net, input_shape)
    for layer, (prefix, group) in zip(takers, groups.items(), strict=True):
        _take(layer, prefix, group, orders.get(layer.name, 0), net)
    if module is not None:
        _check_settings(module, net)
    return net


def to_torch(net: Network, *, input_shape: Sequence[int] | None = None) -> Any:
    """Return a `torch.nn.Sequential` on the CPU, in evaluation mode, that computes what `Network.predict` does.

    It takes images as (n, c, h, w), and returns the raw output: the loss is not part of it. Its `state_dict()` has
    PyTorch's names and layouts.
    input_shape: the shape of one row as this library has it, (h, w, c) for images; it is needed only if no layer says
    whether rows are images, or how many channels they have.

    Raises TypeError for a layer that PyTorch has no counterpart of, ValueError for a missing input_shape, and
    ImportError if PyTorch is not installed.
    """
    torch = _torch()
    orders = _orders(net, input_shape)
    rank = _rank(net, input_shape)
    modules = []
    for layer in net.layers.values():
        kind = Part(layer, ()).kind
        rank = 3 if kind in (Convolution, MaxPooling, AveragePooling) else 1 if kind in (Affine, Flatten) else rank
        make = MODULES.get(kind)
        if make is None and kind is not None and kind.identity:
            make = _identity
        if make is None or (kind is LayerNormalization and rank == 3):
            raise refusal(layer, "PyTorch", "it has no module for that")
        module = make(torch.nn, layer, rank)
        state = {}
        for attribute, name in NAMES.get(kind, {}).items():
            values = _to_torch(kind, attribute, to_numpy(getattr(layer, attribute).data), orders.get(layer.name, 0))
            state[name] = torch.tensor(np.ascontiguousarray(values))
        module = module.to(getattr(torch, net.dtype))
        if state:
            module.load_state_dict(state, strict=False)  # without the count of batches, which is 0
        modules.append(module)
    return torch.nn.Sequential(*modules).eval()


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


def _identity(nn: Any, layer: Any, rank: int | None) -> Any:
    return nn.Identity()


# --- layouts ----------------------------------------------------------------------------------------------------


def _to_torch(kind: Any, attribute: str, values: HostArray, channels: int) -> HostArray:
    """Return values of ours in PyTorch's layout. channels: of the image whose features the layer takes, else 0."""
    if channels and not (kind is Affine and attribute == "b"):
        values = channels_first_rows(values, channels)
    if attribute == "W" and kind is not Embedding:
        values = values.T if kind is Affine else values.transpose(3, 2, 0, 1)
    return values


def _from_torch(kind: Any, attribute: str, values: HostArray, channels: int) -> HostArray:
    """Return the inverse of `_to_torch`."""
    if attribute == "W" and kind is not Embedding:
        values = values.T if kind is Affine else values.transpose(2, 3, 1, 0)
    if channels and not (kind is Affine and attribute == "b"):
        values = channels_last_rows(values, channels)
    return values


def _rank(net: Network, input_shape: Sequence[int] | None) -> int | None:
    shape = input_shape if input_shape is not None else net.input_shape
    return None if shape is None else len(shape)


def _orders(net: Network, input_shape: Sequence[int] | None) -> dict[str, int]:
    """Return, for the layers behind a Flatten of images that take its features, how many channels the images had."""
    shape = tuple(input_shape) if input_shape is not None else net.input_shape
    rank = None if shape is None else len(shape)
    channels: int | None = shape[-1] if shape is not None and rank == 3 else None
    pending, unknown = 0, None
    orders: dict[str, int] = {}
    for name, layer in net.layers.items():
        kind = Part(layer, ()).kind
        settings: Any = layer
        if kind is Convolution:
            rank, channels = 3, settings.out_channels
        elif kind in (MaxPooling, AveragePooling):
            rank = 3
        elif kind is Flatten and rank != 1:
            if rank in (None, 3):
                pending, unknown = channels or 0, None if channels else layer
            rank = 1
        elif layer.parameters():
            if kind not in NAMES:
                raise TypeError(f"{layer}: PyTorch has no module for the parameters of a {layer.kind}")
            if unknown is not None:
                raise ValueError(
                    f"{layer}: {unknown} comes before any layer that says how many channels its images have, which "
                    f"decides the order of the features: pass input_shape=(h, w, c)"
                )
            if pending:
                orders[name] = pending
            if kind is Affine:
                pending, rank = 0, 1
            elif rank == 3:
                channels = settings.features
    return orders


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
    normalizations: list[Any] = [layer for layer in net.layers.values() if hasattr(layer, "eps")]
    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)
    theirs = [m for m in module.modules() if isinstance(m, kinds)]
    for layer, other in zip(normalizations, theirs, strict=False):
        if not math.isclose(layer.eps, other.eps):
            raise ValueError(f"{layer}: eps is {layer.eps}, but {other.eps} in PyTorch: make it with eps={other.eps}")
    if any(isinstance(m, torch.nn.GELU) and m.approximate == "none" for m in module.modules()):
        warnings.warn("its GELU is exact; here it is in the tanh form, which differs by less than 5e-4", stacklevel=3)
