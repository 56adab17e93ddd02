"""What works on this machine, what does not and why, and what would mend it."""

from __future__ import annotations

import os
import platform
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from nnbackend import __version__
from nnbackend.backend import Backend, driver_cuda_version, resolve
from nnbackend.errors import BackendError

__all__ = ["Check", "examine", "healthy", "text"]

_FAMILIES = ("numpy", "cupy", "torch", "array_api_strict")
_EXTRAS = {"matplotlib": "plot", "pillow": "plot", "scikit-learn": "sklearn"}


@dataclass(frozen=True)
class Check:
    """One thing that was examined.

    kind: "version" of what is always there, "backend" for each family, "extra" for what is optional, "selected" for
    the backend that NNBACKEND selects. detail: a version, or, where it does not work, the cause and what mends it.
    """

    kind: Literal["version", "backend", "extra", "selected"]
    name: str
    works: bool
    detail: str
    devices: tuple[str, ...] = ()


def examine() -> list[Check]:
    """Try everything. Imports CuPy and PyTorch where they are installed; raises nothing for what does not work."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    found = [Check("version", "python", True, python), Check("version", "nnbackend", True, __version__)]
    found += [_installed("version", name, f"pip install {name}") for name in ("numpy", "array-api-compat")]
    found += [_backend(family) for family in _FAMILIES]
    found += [_installed("extra", name, f'pip install "nnbackend[{extra}]"') for name, extra in _EXTRAS.items()]
    return [*found, _selected()]


def healthy(checks: Sequence[Check]) -> bool:
    """Does the backend that NNBACKEND selects work?"""
    return all(check.works for check in checks if check.kind == "selected")


def text(checks: Sequence[Check]) -> str:
    """The checks, for a terminal, in 100 columns."""
    titles = {"version": "versions", "backend": "backends", "extra": "optional", "selected": "selected now"}
    lines: list[str] = []
    for kind, title in titles.items():
        lines += [*([""] if lines else []), title]
        for check in (f for f in checks if f.kind == kind):
            head = f"  {'ok' if check.works else '--'}  {check.name:<18}"
            for part in (check.detail, *check.devices):
                wrapped = textwrap.wrap(part, 100 - len(head), break_long_words=False, break_on_hyphens=False)
                for line in wrapped or [""]:
                    lines.append(f"{head}{line}".rstrip())
                    head = " " * len(head)
    return "\n".join(lines)


def _installed(kind: Literal["version", "extra"], name: str, mend: str) -> Check:
    try:
        return Check(kind, name, True, version(name))
    except PackageNotFoundError:
        return Check(kind, name, False, f"not installed. {mend}")


def _backend(family: str) -> Check:
    try:
        found = resolve(family)
        detail, devices = _describe(found)
    except BackendError as error:
        return Check("backend", family, False, _flat(error))
    except Exception as error:  # a doctor who faints helps nobody
        return Check("backend", family, False, f"failed with {type(error).__name__}: {_flat(error)}")
    return Check("backend", family, True, detail, devices)


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


def _describe(found: Backend) -> tuple[str, tuple[str, ...]]:
    """The version of a working backend's library, and its devices."""
    library = sys.modules[found.family]  # `resolve` has imported it
    match found.family:
        case "cupy":
            return _cupy(library)
        case "torch":
            return library.__version__, _torch_devices(library)
        case "array_api_strict":
            devices = library.__array_namespace_info__().devices()
            return library.__version__, tuple(str(getattr(device, "_device", device)) for device in devices)
    return library.__version__, ("cpu",)


def _cupy(cupy: Any) -> tuple[str, tuple[str, ...]]:
    runtime = cupy.cuda.runtime
    built, driver = runtime.runtimeGetVersion(), driver_cuda_version()
    newest = "unknown" if driver is None else f"{driver[0]}.{driver[1]}"
    detail = f"{cupy.__version__}, CUDA runtime {built // 1000}.{built % 1000 // 10}, driver up to CUDA {newest}"
    devices = []
    for index in range(runtime.getDeviceCount()):
        of = runtime.getDeviceProperties(index)
        name, memory = os.fsdecode(of["name"]), of["totalGlobalMem"] / 2**30
        capability = f"{of['major']}.{of['minor']}"
        devices.append(f"cupy:{index}: {name}, {memory:.1f} GiB, compute capability {capability}")
    return detail, tuple(devices)


def _torch_devices(torch: Any) -> tuple[str, ...]:
    devices = ["torch:cpu"]
    if torch.cuda.is_available():
        devices += [f"torch:cuda:{i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("torch:mps")
    return tuple(devices)


def _flat(error: Exception) -> str:
    """A message on one line: that of a CuPy that cannot be imported is a page with rulers."""
    return " ".join(word for word in str(error).split() if word.strip("=-"))
