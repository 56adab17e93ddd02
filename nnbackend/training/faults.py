"""Where did the numbers stop being finite?"""

from __future__ import annotations

from nnbackend.functions.array import Array, array_namespace
from nnbackend.network import Network


def all_finite(a: Array) -> bool:
    """Is every element of `a` finite? One host read."""
    xp = array_namespace(a)
    return bool(xp.all(xp.isfinite(a)))


def first_not_finite(network: Network, x: Array, t: Array) -> str:
    """Pass the batch once more and name the first thing in it that is not finite: a parameter, a layer's output,
    the loss, or a gradient on the way back. Reads the device at every layer.
    """
    for name, values in network.params.items():
        if not all_finite(values):
            return f"the parameter {name}"
    y = x
    for name, layer in network.layers.items():
        y = layer.forward(y, training=True)
        if not all_finite(y):
            return f"the output of {name}"
    if not all_finite(network.loss_layer.forward(y, t)):
        return "the loss"
    dy = network.loss_layer.backward()
    if not all_finite(dy):
        return "the gradient of the loss"
    for name, layer in reversed(network.layers.items()):
        dy = layer.backward(dy)
        gradients = [parameter.grad for parameter in layer.parameters().values()]
        if not all(all_finite(g) for g in [dy, *gradients]):
            return f"the gradient of {name}"
    return "the update that follows (the gradients are finite): the learning rate is too large"
