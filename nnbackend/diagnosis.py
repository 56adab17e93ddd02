"""Find common causes that keep a network from learning, and name them in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnbackend.functions.array import Array, array_namespace, one_hot
from nnbackend.layers import Layer, Loss
from nnbackend.layers.containers import back_through, watched
from nnbackend.network import Network, check_network

__all__ = ["Diagnosis", "Finding", "diagnose"]

SOLVED = 0.1  # below this fraction of the constant answer's loss, a network has learnt and has no findings
SAME = 0.05  # answers are nearly the same if their spread is below this fraction of the targets' spread
FLAT = 0.01  # below this slope an activation passes hardly any gradient (sigmoid: |x| > 4.6, tanh: |x| > 3)
MANY_DEAD, MOSTLY_FLAT = 0.25, 0.6  # report dead units, flat outputs from these fractions of a layer on
FAR = 1e3  # inputs of this size show between which bounds a layer without parameters keeps its outputs
FADED, GROWN = 1e-3, 1e2  # factors from which on a gradient counts as vanished or exploded, a value as exploded

_SAME_ADVICE = "a larger learning rate or Adam, another initializer or activation (ReLU with He)"
_FLAT_ADVICE = "smaller initial weights (Xavier), inputs scaled to about 1, or an activation that is not bounded (ReLU)"
_DEAD_ADVICE = "a smaller learning rate, the He initializer, or an activation that is flat nowhere (LeakyReLU)"
_FADED_ADVICE = "ReLU with He, larger initial weights (Xavier), BatchNormalization, Adam, or fewer layers"
_GROWN_ADVICE = "smaller initial weights (He, Xavier), inputs scaled to about 1, a smaller learning rate"


@dataclass(frozen=True)
class Finding:
    """Holds one cause that hinders learning: the layer (or "output"), what is wrong there, and what to try."""

    layer: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.what}. Try {self.advice}."


@dataclass(frozen=True)
class Diagnosis:
    """Holds the result of `diagnose`. `str()` gives it in words.

    loss: the mean loss. constant_loss: the mean loss of a constant answer, the mean of the network's outputs.
    """

    loss: float
    constant_loss: float
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Say whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        head = f"loss {self.loss:.4g}; the same answer for every input would cost {self.constant_loss:.4g}"
        if self.ok:
            return f"{head}. Nothing hinders learning."
        return "\n".join([f"{head}.", *(f"- {finding}" for finding in self.findings)])


def diagnose(net: Network, x: Any, t: Any) -> Diagnosis:
    """Look for causes that keep `net` from learning the targets t of the rows x, in inference mode.

    x: (n, ...) rows; some hundred are enough. t: n targets, as the network's loss takes them. The network's parameters
    and gradients do not change.

    The returned Diagnosis reports answers that are nearly the same for every input, outputs that are kept between
    bounds at which the loss cannot become small (probabilities that a loss turns into probabilities once more),
    saturated and dead units, gradients that vanish or explode on their way down, and values that explode or are not
    finite. Layers are judged by their effect on these rows and on a gradient, never by their kind. A network whose loss
    is below a tenth of the constant answer's loss has learnt its rows and has no findings.

    Call it after some training: with small initial weights, a fresh network often gives nearly the same answer for
    every input.

    Raises TypeError for a network that is none, and ValueError for data that does not fit it.
    """
    check_network("net", net)
    x, t = net.data(x, t)
    with net.backend.active():
        gradient = net.backend.xp.asarray(net.buffer.grad, copy=True)
        try:
            return _diagnose(net, x, t)
        finally:
            net.buffer.grad[...] = gradient


def _diagnose(net: Network, x: Array, t: Array) -> Diagnosis:
    xp, loss_layer = net.backend.xp, net.loss_layer
    outputs: dict[str, Array] = {}
    arriving: dict[str, float] = {}
    slopes: dict[str, Array] = {}

    def forward(layer: Layer, run: Callable[..., Array], x: Array, training: bool) -> Array:
        outputs[layer.name] = y = run(x, training)
        return y

    def backward(layer: Layer, run: Callable[..., Array], dy: Array, need_dx: bool) -> Array:
        arriving[layer.name] = _size(dy)
        if layer.elementwise:  # a gradient of ones comes back as the slope of every element
            slopes[layer.name] = run(xp.ones_like(dy), True)
        return run(dy, True)

    with watched(net.every_layer().values(), forward):
        y = net.forward(x)
    constant = float(loss_layer.forward(xp.zeros_like(y) + xp.mean(y, axis=0, keepdims=True), t))
    loss = float(loss_layer.forward(y, t))
    broken = [name for name, y in outputs.items() if not xp.all(xp.isfinite(y))]
    if broken or not loss < float("inf"):
        place, what = (broken[0], "its output is") if broken else ("output", "the loss is")
        return Diagnosis(loss, constant, (Finding(place, f"{what} not finite", _GROWN_ADVICE),))
    if loss < SOLVED * constant:
        return Diagnosis(loss, constant, ())
    with watched(net.every_layer().values(), backward=backward):
        back_through(list(net.layers.values()), loss_layer.backward())
    usual = max([1.0, *(_size(a) for a in (x, t) if a.dtype == y.dtype)])  # ids and labels have no size
    causes = [*_stuck_units(outputs, slopes), *_faded_or_grown(net, arriving), *_large_values(outputs, usual)]
    advice = "what is advised below" if causes else _SAME_ADVICE
    same = _same_answers(loss_layer, loss_layer.output(y), t, advice)
    return Diagnosis(loss, constant, (*same, *_bounded_answers(net, outputs, t, constant), *causes))


def _same_answers(end: Loss, answers: Array, t: Array, advice: str) -> list[Finding]:
    """Report answers that are nearly the same for every input."""
    if t.shape != answers.shape:
        if t.shape != answers.shape[:-1]:
            return []  # targets and answers differ in form, so their spreads cannot be compared
        t = _one_hot(end, t, answers)
    wanted, spread = _spread(t), _spread(answers)
    if spread >= SAME * wanted:
        return []
    what = (
        f"the network answers nearly the same for every input: its answers spread by {spread:.2g}, "
        f"the targets by {wanted:.2g}"
    )
    return [Finding("output", what, advice)]


def _bounded_answers(net: Network, outputs: dict[str, Array], t: Array, constant: float) -> list[Finding]:
    """Report outputs that stay between bounds for any input, if the loss must then stay large.

    The layers after the last layer with parameters cannot learn. The function gives them large values of either sign,
    and computes the smallest loss that outputs within the range of the results can have.
    """
    names = list(net.layers)
    trained = [i for i, name in enumerate(names) if net.layers[name].parameters()]
    if not trained or trained[-1] == len(names) - 1:
        return []
    xp, place = net.backend.xp, names[-1]
    y = outputs[names[trained[-1]]]
    reach = FAR * max(1.0, float(xp.max(xp.abs(t))) if t.dtype == y.dtype else 0.0)
    y = y * (reach / (_size(y) or 1.0))
    y = xp.concat([y, -y], axis=0)
    low, high = -reach, reach
    for name in names[trained[-1] + 1 :]:
        y = net.layers[name].forward(y)
        if not xp.all(xp.isfinite(y)):
            return []
        before, (low, high) = (low, high), (float(xp.min(y)), float(xp.max(y)))
        place = name if (low, high) != before else place
    least = _least_loss(net, y[: t.shape[0], ...], t, low, high)
    if not least - _least_loss(net, y[: t.shape[0], ...], t, -reach, reach) > SOLVED * constant:
        return []
    total = xp.sum(y, axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else xp.zeros_like(y)
    already = "are probabilities already, that is, " if low >= 0 and xp.all(xp.abs(total - 1.0) < 1e-3) else ""
    bounds = f"lie in {round(low, 3):g} to {round(high, 3):g} whatever arrives"
    what = f"its outputs {already}{bounds}, so the loss cannot fall below {least:.3g}"
    return [Finding(place, what, f"leaving it out: {net.loss_layer} takes numbers of any size")]


def _least_loss(net: Network, like: Array, t: Array, low: float, high: float) -> float:
    """Return the smallest loss that outputs in the shape of `like` can have between two bounds."""
    xp, end = net.backend.xp, net.loss_layer
    if not end.classifies:
        return float(end.forward(xp.minimum(xp.maximum(t, xp.zeros_like(t) + low), xp.zeros_like(t) + high), t))
    wanted = t if t.ndim == like.ndim else _one_hot(end, t, like)
    best = low + (high - low) * wanted
    # a loss that does not ask for certainty (label smoothing) is smallest somewhere within the bounds
    return min(float(end.forward(best * 0.5**k, t)) for k in range(24))


def _stuck_units(outputs: dict[str, Array], slopes: dict[str, Array]) -> list[Finding]:
    """Report layers with many dead units or with mostly saturated outputs."""
    found = []
    for name, y in outputs.items():
        if name not in slopes:
            continue
        xp = array_namespace(y)
        rows = tuple(range(y.ndim - 1))  # a unit is one place of the last axis: a neuron, or a channel
        units, dead = y.shape[-1], _sum(xp.all((y == 0.0) & (slopes[name] == 0.0), axis=rows))
        flat = _sum((y != 0.0) & (xp.abs(slopes[name]) < FLAT)) / math.prod(y.shape)
        if dead >= MANY_DEAD * units:
            what = f"{dead} of {units} units are dead: they answer 0 to every input and pass no gradient"
            found.append(Finding(name, what, _DEAD_ADVICE))
        if flat >= MOSTLY_FLAT:
            what = f"{flat:.0%} of its outputs are saturated: their slope is below {FLAT}, hardly any gradient passes"
            found.append(Finding(name, what, _FLAT_ADVICE))
    return found


def _faded_or_grown(net: Network, arriving: dict[str, float]) -> list[Finding]:
    """Report the first layer with parameters, from the output down, at which the gradient has vanished or exploded."""
    sent, layers = next(iter(arriving.values()), 0.0), net.every_layer()
    for name, size in arriving.items():
        if sent == 0 or not layers[name].own_parameters():
            continue
        if not size < GROWN * sent:
            what = f"the gradient explodes: it arrives here {size / sent:.2g} times as large as it left the loss"
            return [Finding(name, what, _GROWN_ADVICE)]
        if size < FADED * sent:
            what = f"the gradient vanishes: {size / sent:.2g} of what left the loss arrives here"
            return [Finding(name, what, _FADED_ADVICE)]
    return []


def _large_values(outputs: dict[str, Array], usual: float) -> list[Finding]:
    """Report the first layer whose outputs are much larger than usual."""
    for name, y in outputs.items():
        if _size(y) >= GROWN * usual:
            what = f"values explode: {_size(y):.2g} on average, where about {usual:.2g} is usual"
            return [Finding(name, what, _GROWN_ADVICE)]
    return []


def _one_hot(end: Loss, t: Array, like: Array) -> Array:
    """Return labels t as one-hot rows, in the shape of `like`. A label that does not count stands for class 0."""
    xp, counted = array_namespace(t), end.is_counted(t)
    labels = t if counted is None else t * xp.astype(counted, t.dtype)
    rows = one_hot(xp.reshape(labels, (math.prod(t.shape),)), like.shape[-1], like.dtype)
    return xp.reshape(rows, tuple(like.shape))


def _size(a: Array) -> float:
    """Return the mean magnitude as a Python float."""
    xp = array_namespace(a)
    return float(xp.mean(xp.abs(a)))


def _spread(a: Array) -> float:
    """Return the mean distance of the rows from their mean, per element."""
    return _size(a - array_namespace(a).mean(a, axis=0, keepdims=True))


def _sum(mask: Array) -> int:
    """Return the number of elements that are true."""
    xp = array_namespace(mask)
    return int(xp.sum(xp.astype(mask, xp.int64)))
