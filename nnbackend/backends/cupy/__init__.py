"""CuPy on an NVIDIA GPU: kernels (kernels.cu), matrix products in several precisions, and steps as CUDA graphs.

CuPy is not imported until a backend is opened.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nnbackend.backends.base import Backend
from nnbackend.backends.cupy import cuda
from nnbackend.backends.steps import ParameterStore, Uncaptured
from nnbackend.errors import BackendError
from nnbackend.functions.array import Array


class CupyBackend(Backend):
    """Creates CuPy arrays."""

    family = "cupy"
    automatic = True
    captures = True

    @classmethod
    def open(cls, device: str) -> Backend:
        if importlib.util.find_spec("cupy") is None:
            raise BackendError(f"CuPy is not installed. {cuda.mend_cupy(missing=True)}")
        _choose_precision()
        try:
            import array_api_compat.cupy as xp
            import cupy
        except Exception as error:  # a broken wheel fails in many ways, and each must reach the user
            raise BackendError(f"CuPy is installed but cannot be imported: {error}. {cuda.mend_cupy()}") from error
        index = _working_device(cupy, device)
        try:
            importlib.import_module("nnbackend.backends.cupy.kernels")  # registers itself
        except Exception as error:
            raise BackendError(
                f"the kernels for CuPy cannot be made: {error}. {cuda.mend(error) or cuda.mend_cupy()}"
            ) from error
        return cls(f"cupy:{index}" if device else "cupy", xp, cupy.cuda.Device(index))

    @classmethod
    def to_host(cls, x: Any) -> Any:
        return x.get()

    @classmethod
    def name_of(cls, x: Any) -> str:
        return f"cupy:{x.device.id}" if x.device.id else "cupy"

    @classmethod
    def mend(cls, error: Exception) -> str:
        return cuda.mend(error)

    def active(self) -> AbstractContextManager[object]:
        # CuPy uses the thread's current device; zeros and similar functions ignore device=
        return self.device  # type: ignore[no-any-return]

    def activate(self) -> None:
        self.device.use()

    def synchronize(self) -> None:
        self.device.synchronize()

    def compile(self, store: ParameterStore) -> Uncaptured:
        """Return a runner that launches each step as a CUDA graph, or kernel by kernel if NNBACKEND_CAPTURE=0."""
        if os.environ.get("NNBACKEND_CAPTURE") == "0":
            return Uncaptured()
        import cupy

        from nnbackend.backends.cupy.graph import Captured

        return Captured(store, cupy)

    @classmethod
    def device_of(cls, local_rank: int) -> str:
        try:
            import cupy

            return str(local_rank % cupy.cuda.runtime.getDeviceCount())
        except Exception:  # `open` says what is wrong
            return ""

    def device_sum(
        self, size: int, rank: int, share: Callable[[Any], Any], agree: Callable[[bool], bool]
    ) -> Callable[[Array], None] | None:
        import cupy

        from nnbackend.backends.cupy import nccl

        with self.device:
            return nccl.device_sum(cupy, size, rank, share, agree)

    def memory(self) -> dict[str, int]:
        import cupy

        with self.device:
            pool, (free, total) = cupy.get_default_memory_pool(), self.device.mem_info
            used, held = pool.used_bytes(), pool.total_bytes()
        return {"used": used, "held": held, "available": free + held - used, "total": total}

    def version(self) -> str:
        import cupy

        built, driver = cupy.cuda.runtime.runtimeGetVersion(), cuda.driver_version()
        newest = "unknown" if driver is None else f"{driver[0]}.{driver[1]}"
        return f"{cupy.__version__}, CUDA runtime {built // 1000}.{built % 1000 // 10}, driver up to CUDA {newest}"

    def devices(self) -> tuple[str, ...]:
        import cupy

        runtime, found = cupy.cuda.runtime, []
        for index in range(runtime.getDeviceCount()):
            of = runtime.getDeviceProperties(index)
            name, memory = os.fsdecode(of["name"]), of["totalGlobalMem"] / 2**30
            capability = f"{of['major']}.{of['minor']}"
            found.append(f"cupy:{index}: {name}, {memory:.1f} GiB, compute capability {capability}")
        return tuple(found)

    def device_name(self) -> str:
        import cupy

        return os.fsdecode(cupy.cuda.runtime.getDeviceProperties(self.device.id)["name"])


def _choose_precision() -> None:
    from nnbackend.backends.cupy.cublas import set_precision

    precision = os.environ.get("NNBACKEND_PRECISION") or "float32"
    try:
        set_precision(precision)
    except ValueError as error:
        raise BackendError(f"NNBACKEND_PRECISION: {error}") from error
    if precision == "tf32":  # for CuPy's own products; CuPy reads it once, at the first product
        os.environ.setdefault("CUPY_TF32", "1")


def _working_device(cupy: Any, device: str) -> int:
    """Return the index of the device, after a test product on it. Raise BackendError if it does not work."""
    try:
        runtime = cupy.cuda.runtime
        built, driver = runtime.runtimeGetVersion() // 1000, runtime.driverGetVersion() // 1000
    except Exception as error:
        raise BackendError(f"CuPy's CUDA runtime does not answer: {error}. {cuda.mend_cupy()}") from error
    if driver == 0:
        mend = "Install one for your GPU. Without a GPU use NNBACKEND=numpy."
        raise BackendError(f"CuPy {cupy.__version__} is installed, but there is no NVIDIA driver. {mend}")
    if built > driver:
        lines = f"pip uninstall -y cupy-cuda{built}x && {cuda.pip_line(driver)}"
        mend = lines if driver >= cuda.OLDEST else cuda.mend_cupy()
        raise BackendError(
            f"this CuPy wheel is built for CUDA {built}, but the driver supports CUDA {driver} at most. {mend}"
        )
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        raise BackendError(f"CuPy finds no CUDA device: {error}. {cuda.NO_DEVICE}") from error
    if count == 0:
        raise BackendError(f"CuPy finds no CUDA device. {cuda.NO_DEVICE}")
    index = _index(device, count)
    try:
        with cupy.cuda.Device(index):
            ones = cupy.ones((2, 2), dtype="float32")
            works = float((ones @ ones).sum()) == 8.0
    except Exception as error:
        raise BackendError(
            f"a product on CUDA device {index} failed: {error}. {cuda.mend(error) or cuda.mend_cupy()}"
        ) from error
    if not works:
        raise BackendError(f"a product on CUDA device {index} came out wrong: the device or its driver is faulty")
    return index


def _index(device: str, count: int) -> int:
    if not device:
        return 0
    if not device.isdecimal() or int(device) >= count:
        raise BackendError(f"cupy:{device}: there is no such device; this machine has 0 to {count - 1}")
    return int(device)


BACKEND = CupyBackend
