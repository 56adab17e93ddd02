"""A check of backpropagation: its gradients are compared with central differences, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nnbackend.backends import Backend, resolve, to_numpy
from nnbackend.checks import at_least, number
from nnbackend.functions.array import Array, array_namespace
from nnbackend.layers import Layer
from nnbackend.layers.containers import back_through, watched
from nnbackend.network import Network, check_network
from nnbackend.parameters import Parameter
from nnbackend.random import host_generator

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["GradientReport", "GradientRow", "check_gradients"]

STEPS = (1e-5, 1e-6, 1e-7, 1e-8)
DIRECTIONS_TRIED = 3
INPUTS_MOVED = 1000  # elements of a layer's input that one direction changes; each may cross a kink
NEGLIGIBLE = 1e-4  # a derivative below this fraction of the loss is mostly rounding if the step is 1e-5


@dataclass(frozen=True)
class GradientRow:
    """Holds the result for one gradient: of a parameter, or of a layer's input (name "x").

    projected, sampled: the largest relative error along a random direction, and in one element. against: the largest
    difference between two backends, relative to the largest element. A number is None if it was not asked for.
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    projected: float | None
    sampled: float | None
    against: float | None
    passed: bool


@dataclass(frozen=True)
class GradientReport:
    """Holds the result of `check_gradients`: rows in the order of the layers, the loss last. `str()` gives a table."""

    rows: list[GradientRow]
    tolerance: float
    against: str | None = None
    against_tolerance: float = 0.0

    @property
    def ok(self) -> bool:
        """Say whether every row passed."""
        return all(row.passed for row in self.rows)

    @property
    def worst(self) -> GradientRow:
        """Return the row with the largest error relative to its tolerance."""
        return max(self.rows, key=self._strain)

    @property
    def at_fault(self) -> str | None:
        """Return the name of the layer whose backward is wrong, or None if all rows passed.

        It is the layer nearest to the loss that has a failed row, because its error spoils the gradients of all
        layers below it.
        """
        return next((row.layer for row in reversed(self.rows) if not row.passed), None)

    def _strain(self, row: GradientRow) -> float:
        """Return the largest error of a row, relative to its tolerance."""
        shares = [error / self.tolerance for error in (row.projected, row.sampled) if error is not None]
        return max([*shares, 0.0 if row.against is None else row.against / self.against_tolerance])

    def __str__(self) -> str:
        titles = ["gradient", "layer", "shape", "projected", "sampled", f"against {self.against}", ""]
        table = [titles]
        for row in self.rows:
            errors = ["-" if e is None else f"{e:.1e}" for e in (row.projected, row.sampled, row.against)]
            table.append([row.name, row.layer, str(row.shape), *errors, "ok" if row.passed else "FAILED"])
        if self.against is None:
            table = [[*line[:5], line[6]] for line in table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
        verdict = "all agree" if self.ok else f"look first at the backward of {self.at_fault}"
        other = "" if self.against is None else f", {self.against_tolerance:.1g} against {self.against}"
        return "\n".join([*lines, f"{verdict} (relative tolerance: {self.tolerance:.1g}{other})"])


def check_gradients(
    net: Network,
    x: Any,
    t: Any,
    *,
    directions: int = 2,
    samples: int = 4,
    against: Backend | str | None = None,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> GradientReport:
    """Compare backpropagation with central differences, layer by layer, for one batch x, t.

    directions, samples: the number of random directions and of random elements that are tried for every parameter and
    for every layer's input that backpropagation passes. `seed` decides them. Each takes two forward passes. A
    direction changes about 1000 elements of an input.
    against: another backend, or its name. The parameters' gradients are then computed there as well, for the same
    values in the network's dtype. They pass if they differ by at most the square root of the dtype's epsilon.
    tolerance: the largest relative error that passes. The error is relative to the largest of the derivative, the
    size that is usual for a random direction, and 1e-4 of the loss.

    The function returns a GradientReport. It differentiates the training loss in float64, on a copy, so that the
    network does not change. Random masks are the same in every pass, and batch statistics are part of the function.

    ReLU and max pooling have kinks, where a difference says nothing about the gradient. Biases of zero, blank images
    and zeros behind a ReLU lie exactly on kinks. The parameters, x and the input of a layer under test are therefore
    moved at random by a hundredth of their size. A step may still cross a kink: steps from 1e-5 down to 1e-8 and two
    more directions are tried before a row fails. A wrong gradient fails all of them.

    Raises TypeError for a network that is none, and ValueError for data that does not fit it, for negative counts, for
    counts of 0 without another backend, and for a tolerance that is not positive. Raises BackendError for a backend
    that does not work.
    """
    check_network("net", net)
    for argument, count in (("directions", directions), ("samples", samples)):
        at_least(argument, count, 0)
    if directions == samples == 0 and against is None:
        raise ValueError("directions and samples are 0, and against is None: there is nothing to compare with")
    number("tolerance", tolerance)
    if not tolerance > 0:
        raise ValueError(f"tolerance: expected a number above 0, got {tolerance!r}")
    generator = host_generator(seed)
    x, t = net.data(x, t)
    other = None if against is None else resolve(against)
    differences = {} if other is None else _differences(net, other, x, t)
    allowed = float(net.backend.xp.finfo(net.backend.dtype(net.dtype)).eps) ** 0.5

    rows = []
    with net.backend.active():
        trial = _Trial(net, x, t, generator)
        for name, layer, gradient, loss in trial.cases():
            shape, size = tuple(gradient.shape), math.prod(gradient.shape)
            elements = [int(k) for k in generator.choice(size, min(samples, size), replace=False)]
            moved = INPUTS_MOVED if name == "x" else size
            random = [(trial.direction(shape, moved) for _ in range(DIRECTIONS_TRIED)) for _ in range(directions)]
            projected = [_error(loss, gradient, tries, tolerance) for tries in random]
            sampled = [_error(loss, gradient, [trial.unit(shape, k)], tolerance) for k in elements]
            difference = differences.get(name)
            passed = max([0.0, *projected, *sampled]) <= tolerance and (difference or 0.0) <= allowed
            errors = max(projected, default=None), max(sampled, default=None)
            rows.append(GradientRow(name, layer, shape, *errors, difference, passed))
    return GradientReport(rows, tolerance, None if other is None else other.name, allowed)


class _Trial:
    """Holds a float64 copy of a network with slightly moved values, and computes its training loss from one state."""

    def __init__(self, net: Network, x: Array, t: Array, generator: Generator):
        self.net, self.generator = net.to(net.backend, "float64"), generator
        self.layers, self.end, self.buffer = self.net.steps(), self.net.loss_layer, self.net.buffer
        x, self.t = self.net.data(x, t)
        self.x = x if self.net.first.input_dtype else self._moved(x)  # ids cannot be moved
        for values in self.net.params.values():
            values[...] = self._moved(values)
        self.start = self.buffer.snapshot()

    def cases(self) -> Iterator[tuple[str, str, Array, Callable[[Array], float]]]:
        """Yield every gradient under test: its name, the name of its layer, the gradient by backpropagation, and the
        loss as a function of a change that is added to the parameter or to the layer's input.
        """
        gradients = self.net.gradient(self.x, self.t)
        self.buffer.restore(self.start)
        names, x, passed = iter(gradients), self.x, False
        for i, layer in enumerate(self.layers):
            for part in layer.walk():
                if passed:  # backpropagation passes this input on its way to a parameter
                    within = None if part is layer else part
                    yield "x", part.name, *self._input_case(i, self._moved(x), within)
                for parameter in part.own_parameters().values():
                    if parameter.trainable:
                        passed = True
                    if parameter.trainable and parameter.source is None:
                        name = next(names)
                        yield name, part.name, gradients[name], partial(self._loss_with, parameter, i, x)
            x = self._forward(i, x, i + 1)
        yield "x", str(self.end), *self._input_case(len(self.layers), x)

    def _input_case(self, i: int, x: Array, part: Layer | None = None) -> tuple[Array, Callable[[Array], float]]:
        """Return the gradient with respect to x, the input of layer i, and the loss as a function of a change of it.

        part: a layer within layer i, whose input takes the place of x.
        """
        if part is None:
            self._loss(i, x)
            return back_through(self.layers[i:], self.end.backward()), lambda change: self._loss(i, x + change)
        gradient: list[Array] = []

        def keep(layer: Layer, run: Callable[..., Array], dy: Array, need_dx: bool) -> Array:
            gradient.append(run(dy, True))
            return gradient[0]

        def loss(change: Array) -> float:
            with watched([part], lambda layer, run, x, training: run(x + change, training)):
                return self._loss(i, x)

        with watched([part], backward=keep):
            self._loss(i, x)
            back_through(self.layers[i:], self.end.backward())
        return gradient[0], loss

    def _loss_with(self, parameter: Parameter, i: int, x: Array, change: Array) -> float:
        parameter.data[...] = parameter.data + change
        return self._loss(i, x)

    def _loss(self, i: int, x: Array) -> float:
        """Return the training loss with x as the input of layer i."""
        return float(self.end.forward(self._forward(i, x, len(self.layers)), self.t))

    def _forward(self, i: int, x: Array, stop: int) -> Array:
        """Pass x through the layers from i to before `stop` in training mode, then restore all values."""
        self.buffer.clock += 1  # as in Network.gradient, so that random masks are the same
        for layer in self.layers[i:stop]:
            x = layer.forward(x, training=True)
        self.buffer.restore(self.start)
        return x

    def direction(self, shape: tuple[int, ...], moved: int) -> Array:
        """Return an array that is Gaussian in about `moved` of its elements and zero in the others."""
        chosen = self.generator.random(shape) * math.prod(shape) < moved
        return self.net.backend.asarray(self.generator.standard_normal(shape) * chosen, "float64")

    def unit(self, shape: tuple[int, ...], k: int) -> Array:
        """Return zeros with a one as element k."""
        v = self.net.backend.zeros((math.prod(shape),), "float64")
        v[k] = 1.0
        return self.net.backend.xp.reshape(v, shape)

    def _moved(self, values: Array) -> Array:
        """Return the values, each moved by about a hundredth of their root mean square (of 1 if all are zero)."""
        xp = array_namespace(values)
        size = xp.sqrt(xp.mean(values**2))
        noise = self.direction(tuple(values.shape), math.prod(values.shape))
        return values + 0.01 * xp.where(size > 0.0, size, 1.0) * noise


def _error(loss: Callable[[Array], float], gradient: Array, directions: Iterable[Array], tolerance: float) -> float:
    """Return the relative difference between sum(gradient v) and the derivative of `loss` along a direction v.

    The function tries every direction with every step of STEPS. It returns the first error within the tolerance, or
    the smallest error if none is.
    """
    xp, best = array_namespace(gradient), math.inf
    for v in directions:
        expected = float(xp.sum(gradient * v))
        usual = math.sqrt(float(xp.sum(gradient**2)) * float(xp.sum(v**2)) / math.prod(v.shape))
        for h in STEPS:
            above, below = loss(h * v), loss(-h * v)
            found = (above - below) / (2 * h)
            error = abs(found - expected) / max(abs(found), abs(expected), usual, NEGLIGIBLE * abs(above), 1e-300)
            best = min(best, math.inf if math.isnan(error) else error)
            if best <= tolerance:
                return best
    return best


def _differences(net: Network, other: Backend, x: Array, t: Array) -> dict[str, float]:
    """Return the largest difference of each parameter's gradient between two backends, by name.

    The difference is relative to the gradient's largest element, or to a hundredth of the largest element of all
    gradients if that is larger. A gradient that should be 0 (of a bias before normalisation) holds only rounding.
    """
    here = {name: to_numpy(g) for name, g in net.to(net.backend).gradient(x, t).items()}
    there = {name: to_numpy(g) for name, g in net.to(other).gradient(to_numpy(x), to_numpy(t)).items()}
    sizes = {name: float(abs(g).max()) for name, g in here.items()}
    floor = max([1e-300, *(0.01 * size for size in sizes.values())])
    differences = {name: float(abs(g - there[name]).max()) / max(sizes[name], floor) for name, g in here.items()}
    return {name: math.inf if math.isnan(difference) else difference for name, difference in differences.items()}
