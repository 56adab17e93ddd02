"""Which backend is in force: NNBACKEND, `use` and `using`.

Whoever creates arrays asks `backend()`. From then on every array carries its own namespace and device, and nothing
below this file asks which backend is selected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from nnbackend.backends.base import IMMUTABLE, ROOMS, Backend, room, to_numpy
from nnbackend.errors import BackendError, unknown_name

MEANT = {
    "cpu": "numpy",
    "cuda": "cupy",
    "gpu": "cupy",
    "nvidia": "cupy",
    "pytorch": "torch",
    "strict": "array_api_strict",
}

_selected: Backend | None = None
_local_rank: int | None = None  # the number of this process among those of its machine that train together
_override: ContextVar[Backend | None] = ContextVar("nnbackend_override", default=None)


def backend() -> Backend:
    """Return the backend in force: that of `using`, else of `use`, else of NNBACKEND (read once), else NumPy's."""
    global _selected
    override = _override.get()
    if override is not None:
        return override
    if _selected is None:
        _selected = resolve(os.environ.get("NNBACKEND") or "numpy", "NNBACKEND")
        _selected.activate()
    return _selected


def use(name: str | Backend) -> Backend:
    """Select the backend on which arrays are created from now on.

    name: "numpy", "cupy", "cupy:1", "torch", "torch:DEVICE", "array_api_strict", "array_api_strict:DEVICE" or
    "auto" (CuPy if a device works, else NumPy; it says which). Raises BackendError with the exact cause and
    what mends it; the selection then stays as it was.
    """
    global _selected
    chosen = resolve(name)
    chosen.activate()
    _selected = chosen
    return chosen


@contextmanager
def using(name: str | Backend) -> Iterator[Backend]:
    """Select a backend as `use` does, within a `with` block and for the current thread or task only."""
    chosen = resolve(name)
    outer = _override.get() or _selected
    chosen.activate()
    token = _override.set(chosen)
    try:
        yield chosen
    finally:
        _override.reset(token)
        if outer is not None:
            outer.activate()


def spread_over_devices(local_rank: int) -> None:
    """Let each process of a machine have a device of its own if a backend's name does not say which.

    local_rank: the number of this process among those of its machine. A backend that is selected already stays.
    """
    global _local_rank
    _local_rank = local_rank


def available() -> list[str]:
    """Return the names of the array libraries that work here; `nnbackend doctor` says why the others do not."""
    return [name for name in ROOMS if why_not(name) is None]


def why_not(name: str) -> BackendError | None:
    """Return the error that selecting `name` would raise, or None if it works."""
    try:
        resolve(name)
    except BackendError as error:
        return error
    return None


def resolve(name: str | Backend, source: str = "backend") -> Backend:
    """Return the Backend that `name` stands for, without selecting it. Raises BackendError as `use` does.

    source: what the name came from, for the error.
    """
    if isinstance(name, Backend):
        return name
    family, _, device = str(name).strip().partition(":")
    if family == "auto":
        return _auto()
    if family in IMMUTABLE:
        raise BackendError(f"{source}={name!r}: {family} arrays are immutable, but gradients are written through views")
    if family not in ROOMS:
        raise BackendError(f"{source}: " + unknown_name("backend", family, [*ROOMS, "auto"], MEANT))
    if _local_rank is not None and not device:
        device = room(family).device_of(_local_rank)
    resolved = room(family).open(device)
    check_views(resolved)
    return resolved


def check_views(chosen: Backend) -> None:
    """Raise BackendError unless writing through a reshaped slice reaches the array: parameters are such slices."""
    buffer = chosen.zeros((4,), "float32")
    try:
        with chosen.active():
            view = chosen.xp.reshape(buffer[2:], (1, 2))
            view[...] = view + 1.0
        written = to_numpy(buffer).tolist() == [0.0, 0.0, 1.0, 1.0]
    except (TypeError, ValueError, RuntimeError) as error:
        raise BackendError(f"{chosen.name}: writing to an array and reading it back failed: {error}") from error
    if not written:
        raise BackendError(f"{chosen.name}: a reshaped slice is a copy there, but parameters must be views")


# --- auto ---------------------------------------------------------------------------------------------------------


def _auto() -> Backend:
    """Choose a library that may be chosen and works, unless a measurement speaks against it, else NumPy; say which."""
    chosen, reason = resolve("numpy"), ""
    for family in ROOMS:
        if room(family).automatic:
            error = why_not(family)
            if error is None:
                chosen, reason = _measured(chosen, resolve(family))
                break
            reason = str(error)
    import logging

    # a warning, so that it is seen if nobody has set logging up
    logging.getLogger("nnbackend").warning("NNBACKEND=auto chose %s", chosen.name + (f" ({reason})" if reason else ""))
    return chosen


def _measured(cpu: Backend, gpu: Backend) -> tuple[Backend, str]:
    """Return the GPU, or the CPU if a measurement says that it is faster, and the reason."""
    from nnbackend.backends import crossover

    try:
        found = crossover.read(gpu.name)
        if found is None or not found.concerns(cpu.name, gpu.device_name(), gpu.versions()):
            return gpu, ""
    except Exception as error:  # of the file or of CUDA: neither is worth a GPU that works
        return gpu, f"without a measurement: {' '.join(str(error).split())}"
    cpu_us, gpu_us = found.at(crossover.BATCH)
    reason = f"measured: {cpu_us:.0f} us per step of {crossover.BATCH} rows on the CPU, {gpu_us:.0f} on the GPU"
    return (cpu if cpu_us < gpu_us else gpu), reason
