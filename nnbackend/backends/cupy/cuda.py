"""The CUDA installation beside CuPy: the driver's version, and the commands that mend an installation."""

from __future__ import annotations

import ctypes
import sys

OLDEST, NEWEST = 12, 13  # major versions of CUDA for which there are wheels of CuPy 14
NO_DEVICE = "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or use NNBACKEND=numpy."

_MISSING = {
    "headers of CUDA are missing": ("cannot open source file", "failed to find cuda headers"),
    "a library of CUDA is missing": (
        "shared object",
        "failed to load",
        "failure finding",
        "libnotfound",
        "find module",
    ),
    "CUDA's compiler refused a kernel": ("nvrtc", "compile"),
}


def driver_version() -> tuple[int, int] | None:
    """Return the newest CUDA version (major, minor) that the NVIDIA driver supports; None without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def pip_line(major: int) -> str:
    """Return the command that installs CuPy for a major version of CUDA.

    [ctk] adds CUDA's libraries, compiler and headers, which the wheels of CuPy 14 do not contain.
    """
    return f'pip install "cupy-cuda{max(OLDEST, min(major, NEWEST))}x[ctk]"'


def mend(error: Exception) -> str:
    """Return the likely fault of the CUDA installation behind an error, and its remedy; "" for any other error."""
    text = f"{type(error).__name__} {error}".lower()
    cause = next((cause for cause, signs in _MISSING.items() if any(sign in text for sign in signs)), "")
    return f"Most likely {cause}: {pip_line((driver_version() or (NEWEST, 0))[0])}" if cause else ""


def mend_cupy(missing: bool = False) -> str:
    """Return the remedy for a CuPy that is missing or broken on this machine."""
    version = driver_version()
    if version is None:
        return (
            f"No NVIDIA driver was found{' either' if missing else ''}: install one for your GPU, then "
            f"{pip_line(NEWEST)} (cupy-cuda12x for a driver older than 580). Without a GPU use NNBACKEND=numpy."
        )
    if version[0] < OLDEST:
        return f"The driver supports CUDA {version[0]}.{version[1]}: update it, then {pip_line(NEWEST)}"
    return pip_line(version[0])
