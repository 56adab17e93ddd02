"""NumPy on the CPU. All other backends are compared with it.

Importing this package registers its kernels. The loops in C take precedence over them, if the package was built with
the loops and NNBACKEND_NATIVE is not 0.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from typing import Any

import numpy as np

from nnbackend.backends.base import Backend
from nnbackend.backends.numpy import kernels
from nnbackend.errors import BackendError
from nnbackend.functions.array import Array

__all__ = ["BACKEND", "NumpyBackend", "kernels"]

if os.environ.get("NNBACKEND_NATIVE") != "0":
    with suppress(ImportError):  # `nnbackend doctor` says why
        importlib.import_module("nnbackend.backends.numpy.native")


class NumpyBackend(Backend):
    """Creates NumPy arrays."""

    family = "numpy"
    host = True

    @classmethod
    def open(cls, device: str) -> Backend:
        if device not in ("", "cpu"):
            raise BackendError(f"numpy has one device, 'cpu'; got {device!r}")
        import array_api_compat.numpy as xp

        return cls("numpy", xp, "cpu")

    def asarray(self, x: Any, dtype: str | None = None) -> Array:
        return super().asarray(self._host_array(x, dtype), dtype)

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        return host


BACKEND = NumpyBackend
