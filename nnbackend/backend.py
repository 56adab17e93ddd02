"""Where arrays are born.

`NNBACKEND` (or `use` / `using`) selects a backend; whoever creates arrays asks `backend()` for it. From then on
every array carries its own namespace and device, and nothing below this file asks which backend is selected.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbackend import crossover
from nnbackend.errors import BackendError, unknown_name
from nnbackend.functions.array import Array

__all__ = ["Backend", "available", "backend", "describe", "home", "resolve", "to_numpy", "use", "using", "why_not"]


@dataclass(frozen=True)
class Backend:
    """A namespace and a device on which arrays are created. `name` is what NNBACKEND would say."""

    name: str
    xp: Any
    device: Any

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]

    def dtype(self, name: str) -> Any:
        """The namespace's dtype called `name` ("float32", "int64", ...)."""
        return getattr(self.xp, name)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        return self.xp.zeros(shape, dtype=self.dtype(dtype), device=self.device)

    def owns(self, x: object) -> bool:
        """Is `x` an array of this namespace on this device?"""
        return _family(x) == self.family and _device(x) == self.device

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        """`x` on this backend: an array that is already here (cast if need be) or host data, moved once.

        Raises BackendError for an array of another device or library (`to_numpy` it first), ValueError for
        host data that is no regular array of numbers.
        """
        if self.family != "numpy" and self.owns(x):
            return x if dtype is None or x.dtype == self.dtype(dtype) else self.xp.astype(x, self.dtype(dtype))
        if _family(x) not in ("numpy", ""):
            raise BackendError(
                f"got {describe(x)}, but this backend is {self.name!r}. "
                f"Move it first: nn.backend().asarray(nn.to_numpy(x))."
            )
        host = _host_array(x)
        if dtype is not None and np.dtype(dtype).itemsize <= host.itemsize:  # the smaller of the two travels
            host = host.astype(dtype, copy=False)
        if self.family == "numpy":
            here = host
        elif self.family == "torch":  # a tensor that shares a read-only buffer is undefined behaviour: copy
            here = self.xp.tensor(np.ascontiguousarray(host), device=self.device)
        else:
            here = self.xp.asarray(host, device=self.device)
        return here if dtype is None or here.dtype == self.dtype(dtype) else self.xp.astype(here, self.dtype(dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the name: a namespace is a module, a device a thing of this machine."""
        return resolve, (self.name,)

    def synchronize(self) -> None:
        """Wait until everything that was launched on the device has finished (nothing to do on a CPU)."""
        if self.family == "cupy":
            self.device.synchronize()
        elif self.family == "torch" and self.device.type != "cpu":
            getattr(self.xp, self.device.type).synchronize()

    def compile(self, step: Callable[..., None], buffer: Any) -> Callable[..., None]:
        """`run(i, size, order, figures, state, optimizer, *data)`, which does step(rows, figures[:, i], state,
        optimizer, *data) for the i-th `size` rows of `order`; with CuPy by the launch of a CUDA graph (unless the
        environment says NNBACKEND_CAPTURE=0). buffer: the ParameterBuffer that the step changes.
        """
        from nnbackend.capture import Captured, Uncaptured

        if self.family != "cupy" or os.environ.get("NNBACKEND_CAPTURE") == "0":
            return Uncaptured(step)
        import cupy

        return Captured(step, buffer, cupy)

    def memory(self) -> dict[str, int] | None:
        """Bytes of device memory; None where the library keeps no pool of it (everywhere but with CuPy).

        "used": in arrays that are alive; "held": that CuPy's pool has taken, for these and for later ones;
        "available": what new arrays may still have, of the pool or of the device; "total": of the device.
        """
        if self.family != "cupy":
            return None
        import cupy

        pool, (free, total) = cupy.get_default_memory_pool(), self.device.mem_info
        used, held = pool.used_bytes(), pool.total_bytes()
        return {"used": used, "held": held, "available": free + held - used, "total": total}

    def activate(self) -> None:
        """Make the device current where a library has a current device (CuPy)."""
        if self.family == "cupy":
            self.device.use()


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """A NumPy array with the values of `x`, wherever they live (one device-to-host copy, or none)."""
    match _family(x):
        case "cupy":
            x = x.get()
        case "torch":
            x = x.detach().cpu().numpy()
        case "array_api_strict":
            x = x.to_device(type(x.device)("CPU_DEVICE"))
    return np.asarray(x)


def home(x: Any) -> str:
    """The name of the backend on which the array `x` lives, as NNBACKEND would say it; "" for lists, data frames and
    whatever else is host data, and for arrays on which no network can live.
    """
    match _family(x):
        case "cupy":
            return f"cupy:{x.device.id}" if x.device.id else "cupy"
        case "torch":
            return "torch" if x.device.type == "cpu" else f"torch:{x.device}"
        case "array_api_strict":
            return "array_api_strict:" + str(x.device).split("'")[1]
        case family:
            return family if family in _FAMILIES else ""


def describe(x: object) -> str:
    """The kind of an array in words: `a numpy array`, `a cupy array on device 1`."""
    family = _family(x)
    if not family:
        return f"a {type(x).__name__}"
    return f"a {family} array" if family == "numpy" else f"a {family} array on {_device(x)}"


def backend() -> Backend:
    """The backend in force: `using`, else `use`, else NNBACKEND (read at first use), else numpy."""
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
    "auto" (CuPy where a device works, else NumPy; it says which). Raises BackendError with the exact cause and
    what mends it; the selection then stays as it was.
    """
    global _selected
    chosen = resolve(name)
    chosen.activate()
    _selected = chosen
    return chosen


@contextmanager
def using(name: str | Backend) -> Iterator[Backend]:
    """Like `use`, within a `with` block and for the current thread or task only."""
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


def available() -> list[str]:
    """The names of the backend families that work here; `nnbackend doctor` says why the others do not."""
    return [name for name in _FAMILIES if why_not(name) is None]


def why_not(name: str) -> BackendError | None:
    """The error that selecting `name` would raise, or None where it works."""
    try:
        resolve(name)
    except BackendError as error:
        return error
    return None


_selected: Backend | None = None
_override: ContextVar[Backend | None] = ContextVar("nnbackend_override", default=None)


def resolve(name: str | Backend, source: str = "backend") -> Backend:
    """The Backend that `name` stands for, without selecting it. Raises BackendError as `use` does."""
    if isinstance(name, Backend):
        return name
    family, _, device = str(name).strip().partition(":")
    if family == "auto":
        return _auto()
    if family in _IMMUTABLE:
        raise BackendError(f"{source}={name!r}: {family} arrays are immutable, but gradients are written through views")
    if family not in _FAMILIES:
        raise BackendError(f"{source}: " + unknown_name("backend", name, [*_FAMILIES, "auto"]))
    resolved = _FAMILIES[family](device)
    _check_views(resolved)
    return resolved


def _auto() -> Backend:
    error = why_not("cupy")
    if error is None:
        name, reason = _measured(resolve("cupy"))
    else:
        name, reason = "numpy", str(error)
    print(f"nnbackend: auto chose {name}" + (f" ({reason})" if reason else ""), file=sys.stderr)
    return resolve(name)


def _measured(gpu: Backend) -> tuple[str, str]:
    """Of NumPy and a GPU that works the one to choose, and why: the GPU, unless a measurement speaks against it."""
    try:
        found = crossover.read(gpu.name)
        if found is None or not found.concerns(device_name(gpu), versions(gpu)):
            return gpu.name, ""
    except Exception as error:  # of the file or of CUDA: neither is worth a GPU that works
        return gpu.name, f"without a measurement: {' '.join(str(error).split())}"
    cpu_us, gpu_us = found.at(crossover.BATCH)
    chosen = "numpy" if cpu_us < gpu_us else gpu.name
    return chosen, f"measured: {cpu_us:.0f} us per step of {crossover.BATCH} rows on the CPU, {gpu_us:.0f} on the GPU"


def device_name(on: Backend) -> str:
    """What the maker calls the device."""
    if on.family == "cupy":
        import cupy

        return os.fsdecode(cupy.cuda.runtime.getDeviceProperties(on.device.id)["name"])
    return str(on.device)


def versions(on: Backend) -> dict[str, str]:
    """Of nnbackend, NumPy and the backend's library: what a measurement depends on."""
    return {name: sys.modules[name].__version__ for name in ("nnbackend", "numpy", on.family)}


def _numpy(device: str) -> Backend:
    if device not in ("", "cpu"):
        raise BackendError(f"numpy has one device, 'cpu'; got {device!r}")
    import array_api_compat.numpy as xp

    return Backend("numpy", xp, "cpu")


def _cupy(device: str) -> Backend:
    if importlib.util.find_spec("cupy") is None:
        raise BackendError(f"CuPy is not installed. {_mend_cupy()}")
    from nnbackend.cublas import set_precision

    precision = os.environ.get("NNBACKEND_PRECISION") or "float32"
    try:
        set_precision(precision)
    except ValueError as error:
        raise BackendError(f"NNBACKEND_PRECISION: {error}") from error
    if precision == "tf32":  # for the products that CuPy does itself, which asks once, at its first
        os.environ.setdefault("CUPY_TF32", "1")
    try:
        import array_api_compat.cupy as xp
        import cupy
    except Exception as error:  # a broken wheel fails in many ways, and each must reach the user
        raise BackendError(f"CuPy is installed but cannot be imported: {error}. {_mend_cupy()}") from error
    try:
        runtime = cupy.cuda.runtime
        built, driver = runtime.runtimeGetVersion() // 1000, runtime.driverGetVersion() // 1000
    except Exception as error:
        raise BackendError(f"CuPy's CUDA runtime does not answer: {error}. {_mend_cupy()}") from error
    if driver == 0:
        raise BackendError(f"CuPy {cupy.__version__} is installed, but there is no NVIDIA driver. {_mend_cupy()}")
    if built > driver:
        mend = f"pip uninstall -y cupy-cuda{built}x && {_pip_line(driver)}" if driver >= _OLDEST_CUDA else _mend_cupy()
        raise BackendError(
            f"this CuPy wheel is built for CUDA {built}, but the driver supports CUDA {driver} at most. {mend}"
        )
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        raise BackendError(f"CuPy finds no CUDA device: {error}. {_NO_DEVICE}") from error
    if count == 0:
        raise BackendError(f"CuPy finds no CUDA device. {_NO_DEVICE}")
    index = _device_index(device, count)
    try:
        with cupy.cuda.Device(index):
            ones = cupy.ones((2, 2), dtype="float32")
            works = float((ones @ ones).sum()) == 8.0
    except Exception as error:
        raise BackendError(
            f"a product on CUDA device {index} failed: {error}. {mend_cuda(error) or _mend_cupy()}"
        ) from error
    if not works:
        raise BackendError(f"a product on CUDA device {index} came out wrong: the device or its driver is faulty")
    try:
        importlib.import_module("nnbackend.kernels.cupy")  # registers itself
    except Exception as error:
        raise BackendError(
            f"the kernels for CuPy cannot be made: {error}. {mend_cuda(error) or _mend_cupy()}"
        ) from error
    return Backend(f"cupy:{index}" if device else "cupy", xp, cupy.cuda.Device(index))


def _torch(device: str) -> Backend:
    if importlib.util.find_spec("torch") is None:
        raise BackendError("PyTorch is not installed. pip install torch")
    try:
        import array_api_compat.torch as xp
    except Exception as error:
        raise BackendError(f"PyTorch is installed but cannot be imported: {error}. pip install -U torch") from error
    try:
        home = xp.zeros(1, device=device or "cpu").device  # "cuda" becomes the device it stands for
    except Exception as error:
        raise BackendError(f"torch has no working device {device!r}: {str(error).splitlines()[0]}") from error
    return Backend(f"torch:{device}" if device else "torch", xp, home)


def _strict(device: str) -> Backend:
    if importlib.util.find_spec("array_api_strict") is None:
        raise BackendError("array-api-strict is not installed. pip install array-api-strict")
    import array_api_strict as xp

    try:
        home = xp.Device(device or "CPU_DEVICE")
    except ValueError as error:
        raise BackendError(f"array_api_strict has no device {device!r}: {error}") from error
    return Backend(f"array_api_strict:{device}" if device else "array_api_strict", xp, home)


_FAMILIES: dict[str, Callable[[str], Backend]] = {
    "numpy": _numpy,
    "cupy": _cupy,
    "torch": _torch,
    "array_api_strict": _strict,
}
_IMMUTABLE = ("jax", "tensorflow", "dask", "ndonnx")


def _check_views(chosen: Backend) -> None:
    """Parameters are reshaped slices of one buffer: writing through such a view must reach the buffer."""
    buffer = chosen.zeros((4,), "float32")
    try:
        view = chosen.xp.reshape(buffer[2:], (1, 2))
        view[...] = view + 1.0
        written = to_numpy(buffer).tolist() == [0.0, 0.0, 1.0, 1.0]
    except (TypeError, ValueError, RuntimeError) as error:
        raise BackendError(f"{chosen.name}: writing to an array and reading it back failed: {error}") from error
    if not written:
        raise BackendError(f"{chosen.name}: a reshaped slice is a copy there, but parameters must be views")


def _family(x: object) -> str:
    """Which library made `x`; "" for lists, scalars and everything else that is host data or no array."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    root = type(x).__module__.partition(".")[0]
    return root if root in _FAMILIES else root if root in _IMMUTABLE or root == "jaxlib" else ""


def _device(x: Any) -> Any:
    return "cpu" if isinstance(x, np.ndarray | np.generic) else x.device


def _host_array(x: Any) -> np.ndarray[Any, Any]:
    host = np.asarray(x)
    if host.dtype.kind == "O" and host.ndim == 2 and hasattr(x, "columns"):  # a data frame of several types
        parts = {str(name): np.asarray(x[name]) for name in x.columns}
        strange = [f"{name} ({part.dtype})" for name, part in parts.items() if part.dtype.kind not in "biuf"]
        if strange:
            raise ValueError(f"expected columns of numbers, got {', '.join(strange)} in {describe(x)}")
        host = np.stack(list(parts.values()), axis=1)
    if host.dtype.kind not in "biuf":
        raise ValueError(f"expected an array of numbers, got dtype {host.dtype} from {describe(x)}")
    return host if host.dtype.isnative else host.astype(host.dtype.newbyteorder("="))


def _device_index(device: str, count: int) -> int:
    if not device:
        return 0
    if not device.isdecimal() or int(device) >= count:
        raise BackendError(f"cupy:{device}: there is no such device; this machine has 0 to {count - 1}")
    return int(device)


_OLDEST_CUDA, _NEWEST_CUDA = 12, 13  # for which there are wheels of CuPy 14
_NO_DEVICE = "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use NNBACKEND=numpy."


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA version (major, minor) that the NVIDIA driver supports; None without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def _pip_line(cuda_major: int) -> str:
    """[ctk] brings CUDA's libraries, its compiler and headers, none of which are in the wheels of CuPy 14."""
    return f'pip install "cupy-cuda{max(_OLDEST_CUDA, min(cuda_major, _NEWEST_CUDA))}x[ctk]"'


_MISSING = {
    "headers of CUDA are missing": ("cannot open source file",),
    "a library of CUDA is missing": (
        "shared object",
        "failed to load",
        "failure finding",
        "libnotfound",
        "find module",
    ),
    "CUDA's compiler refused a kernel": ("nvrtc", "compile"),
}


def mend_cuda(error: Exception) -> str:
    """What is amiss with CUDA beside CuPy, and what mends it; "" for an error that says nothing of the kind."""
    text = f"{type(error).__name__} {error}".lower()
    cause = next((cause for cause, signs in _MISSING.items() if any(sign in text for sign in signs)), "")
    return f"Most likely {cause}: {_pip_line((driver_cuda_version() or (_NEWEST_CUDA, 0))[0])}" if cause else ""


def _mend_cupy() -> str:
    """What mends a CuPy that is missing or broken on this machine."""
    version = driver_cuda_version()
    if version is None:
        return (
            "No NVIDIA driver was found either: install one for your GPU, then "
            f"{_pip_line(_NEWEST_CUDA)} (cupy-cuda12x for a driver older than 580). Without a GPU use NNBACKEND=numpy."
        )
    if version[0] < _OLDEST_CUDA:
        return f"The driver supports CUDA {version[0]}.{version[1]}: update it, then {_pip_line(_NEWEST_CUDA)}"
    return _pip_line(version[0])
