"""Find the place at which numbers stop being finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from nnbackend.functions.array import Array, array_namespace, is_finite, pieces
from nnbackend.layers import Layer
from nnbackend.layers.containers import back_through, watched
from nnbackend.network import Network

AT_ONCE = 2**20  # elements that are checked together: NumPy needs twice as long for all of MNIST at once


def all_finite(*arrays: Array) -> bool:
    """Say whether every element of the arrays is finite. The host reads the device once."""
    finite: Array | bool = True
    for a in arrays:
        xp = array_namespace(a)
        whole = xp.reshape(a, (1,)) if a.ndim == 0 else a
        rows = max(1, AT_ONCE // max(1, math.prod(whole.shape[1:])))
        for piece in pieces(whole.shape[0], rows):
            finite = is_finite(whole[piece, ...]) & finite
    return bool(finite)


def first_not_finite(network: Network, batches: Iterable[tuple[Array, ...]]) -> str:
    """Pass batches as a step does, and name the first thing that is not finite.

    batches: (x, t) or (x, t, weight) each. The result names a parameter, a layer's output, the loss, or a gradient.
    The host reads the device at every layer. Running statistics and the count of passes stay as they were.
    """
    kept = network.buffer.snapshot()
    try:
        places = (_first_in_pass(network, *batch) for batch in batches)
        return next(filter(None, places), "") or (
            "the update that follows (the gradients are finite): the learning rate is too large"
        )
    finally:
        network.buffer.restore(kept)


def _first_in_pass(network: Network, x: Array, t: Array, *weight: Any) -> str:
    for name, values in network.params.items():
        if not all_finite(values):
            return f"the parameter {name}"
    network.tick()
    found: list[str] = []

    def forward(layer: Layer, run: Callable[..., Array], x: Array, training: bool) -> Array:
        y = run(x, training)
        if not found and not all_finite(y):
            found.append(f"the output of {layer}")
        return y

    def backward(layer: Layer, run: Callable[..., Array], dy: Array, need_dx: bool) -> Array:
        dx = run(dy, True)
        gradients = [parameter.grad for parameter in layer.own_parameters().values() if parameter.trainable]
        if not found and not all_finite(*([] if dx is None else [dx]), *gradients):  # ids have no gradient
            found.append(f"the gradient of {layer}")
        return dx

    with watched(network.every_layer().values(), forward, backward):
        y = network.forward(x, training=True)
        if found:
            return found[0]
        if not all_finite(network.loss_layer.forward(y, t, *weight)):
            return "the loss"
        dy = network.loss_layer.backward()
        if not all_finite(dy):
            return "the gradient of the loss"
        back_through(list(network.layers.values()), dy)
    return found[0] if found else ""
