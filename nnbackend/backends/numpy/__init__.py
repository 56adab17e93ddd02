"""NumPy on the CPU. All other backends are compared with it.

Importing this package registers its kernels. The loops in C take precedence over them, if the package was built with
the loops and NNBACKEND_NATIVE is not 0.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from nnbackend.backends.base import Backend
from nnbackend.backends.numpy import kernels
from nnbackend.backends.numpy.processors import for_loops, threads
from nnbackend.backends.steps import ParameterStore, Uncaptured
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
    wider: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def open(cls, device: str) -> Backend:
        if device not in ("", "cpu"):
            raise BackendError(f"numpy has one device, 'cpu'; got {device!r}")
        import array_api_compat.numpy as xp

        return cls("numpy", xp, "cpu")

    def fits(self, x: Any) -> bool:
        return type(x) is np.ndarray and x.dtype.kind in "biuf" and x.dtype.isnative

    def arithmetic(self) -> dict[str, Any]:
        return {
            **super().arithmetic(),
            "loops in C": _loops() is not None,
            "products in C": self.products_in_loops,
        }

    @property
    def products_in_loops(self) -> bool:
        loops = _loops()
        return bool(loops and loops.PRODUCTS)

    def for_loops(self) -> AbstractContextManager[object]:
        loops = _loops()
        if loops is None:
            return super().for_loops()
        return for_loops(_keep if loops.PRODUCTS else loops._native.use_threads)

    def compile(self, store: ParameterStore) -> Uncaptured:
        """Return a runner that calls the loops in C without what Python does between them, if products are among them.

        With NNBACKEND_CAPTURE=0 every step goes through Python.
        """
        if not self.products_in_loops or os.environ.get("NNBACKEND_CAPTURE") == "0":
            return Uncaptured()
        from nnbackend.backends.numpy.replay import Replayed

        return Replayed(store)

    @property
    def threads(self) -> int:
        return threads()

    def put(self, host: np.ndarray[Any, Any]) -> Array:
        return host


def _loops() -> ModuleType | None:
    """Return the loops in C, or None without them. `_native` may be there, but stale."""
    return sys.modules.get(f"{__name__}.native")


def _keep(threads: int) -> None:
    """Leave the loops the threads that they have had since the import."""


BACKEND = NumpyBackend
