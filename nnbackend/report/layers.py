"""Record how large outputs and gradients are in each layer while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import array_api_compat
import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.checks import positive_integer
from nnbackend.functions.array import Array, array_namespace, device
from nnbackend.layers import Layer
from nnbackend.layers.containers import back_through, watched
from nnbackend.network import Network
from nnbackend.training import Trainer

HostArray = np.ndarray[Any, Any]
MEASURES = ("output", "zeros", "gradient")


class LayerRecord:
    """Measures every layer after every epoch, on the same rows; a callback for `Trainer.fit`.

    x, t: rows and targets, as the network takes them. rows: how many of them, the first ones, are measured; all if
    there are fewer.

    The measures are taken in inference mode: "output", the root mean square of a layer's output; "zeros", the fraction
    of its elements that are 0; "gradient", the root mean square of the gradient of the loss with respect to that
    output, down to the lowest layer that trains. An epoch costs one forward and one backward pass of these rows, and
    one read of the device. Training is not altered, and a checkpoint keeps the record.

    epochs: the epochs that were measured, from 1. layers: the names of the layers, in their order.
    Raises ValueError for rows that is not a positive integer, and after the first epoch for data that does not fit.
    """

    def __init__(self, x: Any, t: Any, rows: int = 256):
        positive_integer("rows", rows)
        x, t = (a if array_api_compat.is_array_api_obj(a) else np.asarray(a) for a in (x, t))
        self.rows = min(int(rows), x.shape[0])
        self.epochs: list[int] = []
        self.layers: list[str] = []
        self._given = x[: self.rows, ...], t[: self.rows, ...]
        self._data: tuple[Array, Array] | None = None
        self._values: list[HostArray] = []

    def __call__(self, trainer: Trainer) -> None:
        network = trainer.network
        self.layers = list(network.every_layer())
        if self._data is None:
            self._data = network.data(*self._given)
        self._values.append(measured(network, *self._data))
        self.epochs.append(trainer.epoch)

    def values(self, measure: str) -> HostArray:
        """Return a measure of every epoch and layer: (epochs, layers). Raise ValueError for an unknown measure."""
        if measure not in MEASURES:
            raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
        if not self._values:
            return np.zeros((0, len(self.layers)))
        return np.stack(self._values)[:, :, MEASURES.index(measure)]

    def snapshot(self, trainer: Trainer) -> dict[str, Any]:
        """Return the record for a checkpoint: arrays by name."""
        if not self.epochs:
            return {}
        place = trainer.network.backend.asarray
        return {"epochs": place(np.array(self.epochs)), "values": place(np.stack(self._values), "float64")}

    def restore(self, trainer: Trainer, snapshot: Mapping[str, Any]) -> None:
        """Take back the record that `snapshot` has returned. Raise ValueError if it is not one of this network."""
        names = list(trainer.network.every_layer())
        found = {name: to_numpy(value) for name, value in snapshot.items()}
        epochs = found.get("epochs", np.zeros(0, np.int64))
        values = found.get("values", np.zeros((0, len(names), len(MEASURES))))
        if epochs.ndim != 1 or values.shape != (len(epochs), len(names), len(MEASURES)):
            raise ValueError(f"LayerRecord cannot go on from values of shape {values.shape} for {len(names)} layers")
        self.layers, self.epochs, self._values = names, epochs.astype(int).tolist(), list(values)


def measured(network: Network, x: Array, t: Array) -> HostArray:
    """Return the measures of every layer of a network for rows x and targets t, on its backend: (layers, 3).

    Layers within layers are among them. A layer that is used in several places is measured in one of them. A measure is
    NaN where there is nothing to measure: no gradient goes below the lowest layer that trains.
    """
    xp, buffer, layers = network.backend.xp, network.buffer, network.every_layer()
    outputs: dict[str, list[Array]] = {}
    gradients: dict[str, Array] = {}

    def forward(layer: Layer, run: Callable[..., Array], x: Array, training: bool) -> Array:
        y = run(x, training)
        outputs[layer.name] = [_rms(y), xp.mean(xp.astype(y == 0.0, y.dtype))]
        return y

    def backward(layer: Layer, run: Callable[..., Array], dy: Array, need_dx: bool) -> Array:
        gradients[layer.name] = _rms(dy)
        return run(dy, need_dx)

    with network.backend.active():
        kept = xp.asarray(buffer.grad, copy=True)
        try:
            with watched(layers.values(), forward, backward):
                network.loss_layer.forward(network.forward(x), t)
                back_through(list(network.layers.values()), network.loss_layer.backward(), need_dx=False)
        finally:
            buffer.grad[...] = kept
        some = next(iter(outputs.values()))[0]
        nothing = xp.full((), float("nan"), dtype=some.dtype, device=device(some))
        values = [(*outputs.get(name, [nothing, nothing]), gradients.get(name, nothing)) for name in layers]
        flat = to_numpy(xp.stack([value for measures in values for value in measures]))
    return flat.astype(np.float64).reshape(len(layers), len(MEASURES))


def _rms(a: Array) -> Array:
    xp = array_namespace(a)
    return xp.sqrt(xp.mean(a * a))
