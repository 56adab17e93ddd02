"""What the tests share: namespaces, comparison with a reason for the tolerance, the projection gradient check."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.backends import Backend, to_numpy
from nnbackend.datasets import write_idx
from nnbackend.training import Trainer

# dpnp is tested where somebody has installed it: it brings the runtime of a compiler
DPNP = ["dpnp"] if importlib.util.find_spec("dpnp") else []
NAMESPACES = ["numpy", "numpy-readonly", "array_api_strict:device1", "torch", *DPNP, "cupy"]
SIDE = 8  # of the pictures of write_bars

# the program that starts several processes, from Python's own folder or from PATH; None if MPI is not installed
MPIEXEC = importlib.util.find_spec("mpi4py") and shutil.which(
    "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)


@dataclass
class Namespace:
    """A backend, and whether the arrays that tests feed it may be written to."""

    backend: Backend
    readonly: bool

    @property
    def xp(self) -> Any:
        return self.backend.xp

    def array(self, host: Any, dtype: str | None = None) -> Any:
        """`host` on this backend: a fresh array, read-only where the namespace is."""
        array = self.backend.asarray(np.array(host), dtype)
        if self.readonly:
            array.flags.writeable = False
        return array


def tolerance(dtype: str, terms: int = 1) -> float:
    """Relative error to allow after a sum of `terms` products: each adds up to one rounding, and the exponential,
    the square root and their like are good to a few units in the last place.
    """
    return float(np.finfo(dtype).eps) * (8 + 2 * math.sqrt(terms) + 0.5 * min(terms, 1000))


def assert_close(actual: Any, expected: Any, dtype: str, terms: int = 1, scale: float | None = None) -> None:
    """Equal up to `tolerance`, relative to the largest expected magnitude (or `scale`)."""
    actual, expected = to_numpy(actual), to_numpy(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    size = float(np.max(np.abs(expected), initial=0.0)) if scale is None else scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance(dtype, terms) * max(size, 1e-30))


def check_projection(
    on: Namespace,
    function: Callable[..., Any],
    gradients: Callable[[Any], list[Any]],
    inputs: list[np.ndarray],
    seed: int = 0,
) -> None:
    """For random directions: sum(u (f(x + e/2 v) - f(x - e/2 v))) / e equals sum(v gradient(u)), in float64.

    function takes `inputs` as arrays and returns one array; gradients(u) returns one gradient per input, for the
    forward pass that ran last. The truncation error is e^2 and the rounding error eps / e times the values' size:
    both about 1e-10 for e = 1e-5, so 1e-7 of the size of the terms is a safe and telling bound.
    """
    rng = np.random.default_rng(seed)
    xp, e = on.xp, 1e-5
    arrays = [on.array(value, "float64") for value in inputs]
    y = function(*arrays)
    u = on.array(rng.standard_normal(tuple(y.shape)), "float64")
    analytic = gradients(u)
    assert len(analytic) == len(inputs)
    for i, (value, gradient) in enumerate(zip(inputs, analytic, strict=True)):
        direction = rng.standard_normal(value.shape)
        ends = []
        for sign in (0.5, -0.5):
            moved = list(arrays)
            moved[i] = on.array(value + sign * e * direction, "float64")
            ends.append(function(*moved))
        numeric = float(xp.sum(u * (ends[0] - ends[1]))) / e
        projected = float(xp.sum(on.array(direction, "float64") * gradient))
        size = float(np.sum(np.abs(direction * to_numpy(gradient)))) + 1e-3
        assert abs(numeric - projected) < 1e-7 * size, (i, numeric, projected)


class Stops:
    """Sends Ctrl-C after a step of an epoch. at: the epochs that are done, and the steps."""

    def __init__(self, at: tuple[int, int]):
        self.at = at

    def __call__(self, trainer: Trainer) -> None:
        pass

    def after_step(self, trainer: Trainer) -> None:
        if (trainer.epoch, trainer.state.step) == self.at:
            signal.raise_signal(signal.SIGINT)


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian values at least 0.01 from zero, where ReLU and its like have a kink."""
    x = rng.standard_normal(shape)
    return x + np.where(x < 0, -0.01, 0.01)


def write_bars(folder: Path) -> None:
    """Make a folder as MNIST's, of 8 x 8 pictures. The label tells which third of the columns is bright."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, n in (("train", 120), ("t10k", 30)):
        labels = rng.integers(0, 3, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, SIDE, SIDE)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 1 + 2 * label : 3 + 2 * label] = 250
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)
