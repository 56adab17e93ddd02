"""Check which backends and extras work on this machine, why others do not, and how to mend them."""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from nnbackend import __version__
from nnbackend.backends import Backend, resolve, using
from nnbackend.backends.base import ROOMS, room
from nnbackend.backends.crossover import HIDDEN, Crossover
from nnbackend.backends.cupy.graph import WORTH
from nnbackend.errors import BackendError
from nnbackend.layers import Affine, Layer, ReLU
from nnbackend.network import Network
from nnbackend.optimizers import Adam
from nnbackend.training import Trainer

__all__ = ["Check", "examine", "healthy", "measure", "table", "text"]

BATCHES = (32, 128, 512, 2048, 8192)
_EXTRAS = {"matplotlib": "plot", "pillow": "plot", "scikit-learn": "sklearn"}


@dataclass(frozen=True)
class Check:
    """Holds the result of one check.

    kind: "version" for a required package, "backend" for each array library, "step" for a training step on a backend
    that records steps (CuPy), "extra" for an optional package, "selected" for the backend that NNBACKEND selects.
    detail: a version, or the cause and the remedy if it does not work.
    """

    kind: Literal["version", "backend", "step", "extra", "selected"]
    name: str
    works: bool
    detail: str
    devices: tuple[str, ...] = ()


def examine() -> list[Check]:
    """Run all checks and return their results. CuPy and PyTorch are imported if installed. A failure does not raise."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    found = [Check("version", "python", True, python), Check("version", "nnbackend", True, __version__)]
    found += [_installed("version", name, f"pip install {name}") for name in ("numpy", "array-api-compat")]
    found += [_backend(family) for family in ROOMS]
    found += [
        _step(check.name) for check in found if check.kind == "backend" and check.works and room(check.name).captures
    ]
    found += [_installed("extra", name, f'pip install "nnbackend[{extra}]"') for name, extra in _EXTRAS.items()]
    found.append(_loops())
    return [*found, _selected()]


def healthy(checks: Sequence[Check]) -> bool:
    """Say whether the backend that NNBACKEND selects works and trains."""
    families = {check.name.partition(":")[0] for check in checks if check.kind == "selected"}
    return all(c.works for c in checks if c.kind == "selected" or (c.kind == "step" and c.name in families))


def text(checks: Sequence[Check]) -> str:
    """Return the checks as text for a terminal of 100 columns."""
    titles = {
        "version": "versions",
        "backend": "backends",
        "step": "a training step",
        "extra": "optional",
        "selected": "selected now",
    }
    lines: list[str] = []
    for kind, title in titles.items():
        of_kind = [check for check in checks if check.kind == kind]
        lines += [*([""] if lines and of_kind else []), *([title] if of_kind else [])]
        for check in of_kind:
            head = f"  {'ok' if check.works else '--'}  {check.name:<18}"
            for part in (check.detail, *check.devices):
                wrapped = textwrap.wrap(part, 100 - len(head), break_long_words=False, break_on_hyphens=False)
                for line in wrapped or [""]:
                    lines.append(f"{head}{line}".rstrip())
                    head = " " * len(head)
    return "\n".join(lines)


# --- the batch size from which on a GPU is faster ---------------------------------------------------------------


def measure(
    second: str = "cupy",
    first: str = "numpy",
    *,
    hidden: Sequence[int] = HIDDEN,
    batches: Sequence[int] = BATCHES,
    rounds: int = 3,
) -> Crossover:
    """Measure training steps of a 784-hidden-10 network (ReLU, Adam, float32) on two backends; return a Crossover.

    first, second: names of backends. hidden: widths of the hidden layers. batches: batch sizes. rounds: measured
    epochs per backend and batch size, in turns. An epoch has about 8192 rows of generated data, in 4 to 64 batches. A
    fit before the rounds compiles kernels and captures the step; its time does not count.
    Raises BackendError if a backend does not work, and ValueError for sizes that are not positive.
    """
    contestants = [resolve(first), resolve(second)]
    if rounds < 1 or not batches or min(batches) < 1:
        raise ValueError(f"rounds and batches must be positive, got {rounds} and {list(batches)}")
    generator, us = np.random.default_rng(0), []
    for batch in sorted(set(batches)):
        steps = min(64, max(4, 8192 // batch))
        x = generator.random((steps * batch, 784), dtype=np.float32)
        t = generator.integers(0, 10, len(x))
        trainers = [_trainer(on, hidden, batch) for on in contestants]
        data = [(on.asarray(x), on.asarray(t)) for on in contestants]
        for epochs in (-(-WORTH // steps), *[1] * rounds):  # the first fit is long enough for a capture
            for trainer, (xs, ts) in zip(trainers, data, strict=True):
                trainer.fit(xs, ts, epochs)
        us.append([statistics.median(trainer.history.seconds[-rounds:]) / steps * 1e6 for trainer in trainers])
    us_first, us_second = zip(*us, strict=True)
    libraries = contestants[0].versions() | contestants[1].versions()
    device, sizes = contestants[1].device_name(), tuple(sorted(set(batches)))
    return Crossover(
        contestants[0].name, contestants[1].name, device, libraries, tuple(hidden), sizes, us_first, us_second
    )


def table(found: Crossover) -> str:
    """Return a measurement as text for a terminal."""
    widths = "-".join(map(str, (784, *found.hidden, 10)))
    lines = [
        f"{widths}, Adam, float32: us per training step",
        f"{'batch':>8}{found.first:>12}{found.second:>20}{'ratio':>8}",
    ]
    for batch, first, second in zip(found.batches, found.us_first, found.us_second, strict=True):
        lines.append(f"{batch:8}{first:12.0f}{second:20.0f}{first / second:8.2f}")
    overtakes = found.overtakes
    where = f"is faster from batches of {overtakes} on" if overtakes else "is not faster, even at the largest batch"
    return "\n".join([*lines, f"{found.second} ({found.device}) {where}"])


def _trainer(on: Backend, hidden: Sequence[int], batch: int) -> Trainer:
    layers: list[Layer] = []
    for before, width in pairwise((784, *hidden, 10)):
        layers += [Affine(before, width), ReLU()]
    return Trainer(Network(layers[:-1], backend=on), Adam(), batch_size=batch)


# --- the single checks ------------------------------------------------------------------------------------------


def _installed(kind: Literal["version", "extra"], name: str, mend: str) -> Check:
    try:
        return Check(kind, name, True, version(name))
    except PackageNotFoundError:
        return Check(kind, name, False, f"not installed. {mend}")


def _backend(family: str) -> Check:
    try:
        found = resolve(family)
        detail, devices = found.version(), found.devices()
    except BackendError as error:
        return Check("backend", family, False, _flat(error))
    except Exception as error:  # the other checks must still run
        return Check("backend", family, False, f"failed with {type(error).__name__}: {_flat(error)}")
    return Check("backend", family, True, detail, devices)


def _step(name: str) -> Check:
    """Train a tiny network. Its kernels are compiled, and its step is captured and launched."""
    x, t = np.zeros((16, 4)), np.arange(16) % 3
    try:
        with using(name) as on, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            network = Network([Affine(4, 8), ReLU(), Affine(8, 3)])
            Trainer(network, Adam(), batch_size=8).fit(x, t, WORTH // 2)
            on.synchronize()
    except Exception as error:
        cause = f"a training step failed with {type(error).__name__}: {_flat(error)}"
        return Check("step", name, False, f"{cause.rstrip('.')}. {room(name).mend(error)}".rstrip())
    warned = [_flat(warning.message) for warning in said if isinstance(warning.message, Exception)]
    if os.environ.get("NNBACKEND_CAPTURE") == "0":
        how = "it works, kernel by kernel, as NNBACKEND_CAPTURE=0 asks"
    elif any("without a CUDA graph" in warning for warning in warned):
        how = "it works, but it is not captured"
    else:
        how = "it works, captured as a CUDA graph"
    return Check("step", name, True, ". ".join([how, *warned]))


def _loops() -> Check:
    """Check whether the loops in C serve in place of NumPy's kernels."""
    name = "loops in C"
    if os.environ.get("NNBACKEND_NATIVE") == "0":
        return Check("extra", name, False, "NNBACKEND_NATIVE=0 leaves them out")
    try:
        loops = importlib.import_module("nnbackend.backends.numpy.native")
    except ModuleNotFoundError:
        cause = "not built for this Python, which takes a C compiler and Python's headers; training on NumPy is slower"
        return Check("extra", name, False, _source_tree() or f"{cause}. Install both, then nnbackend again")
    except ImportError as error:
        return Check("extra", name, False, _flat(error))
    products = "matrix products among them" if loops.PRODUCTS else "but matrix products are NumPy's own"
    return Check("extra", name, True, f"in front of NumPy's kernels, {products}")


def _source_tree() -> str:
    """Return why the loops are missing if Python imports nnbackend from a clone, where nothing is built; else ""."""
    package = Path(__file__).parent
    if not (package.parent / "pyproject.toml").is_file():
        return ""
    where = f"not built in the source tree {package.parent}, which Python imports here; training on NumPy is slower"
    try:
        installed = Path(str(distribution("nnbackend").locate_file("nnbackend")))
    except PackageNotFoundError:
        installed = package
    if installed.resolve() != package.resolve() and installed.is_dir():
        return f"{where}. Start Python in another folder, and it imports {installed}"
    return f"{where}. pip install -e {package.parent} builds them, which takes a C compiler and Python's headers"


def _selected() -> Check:
    name = os.environ.get("NNBACKEND", "")
    why = f"NNBACKEND={name}" if name else "NNBACKEND is not set"
    try:
        found = resolve(name or "numpy", "NNBACKEND")
    except BackendError as error:
        return Check("selected", name, False, _flat(error))
    except Exception as error:
        return Check("selected", name, False, f"failed with {type(error).__name__}: {_flat(error)}")
    return Check("selected", found.name, True, why)


def _flat(error: Exception) -> str:
    """Return a message on one line, because CuPy's import errors fill a page with rulers."""
    return " ".join(word for word in str(error).split() if word.strip("=-"))
