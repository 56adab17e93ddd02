"""Matrix products through cuBLAS handles of our own. CuPy's handle cannot be captured and offers no precisions.

This module does not import CuPy. It takes arrays and passes their addresses to cuBLAS.
"""

from __future__ import annotations

import ctypes
import importlib
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeAlias

from nnbackend.errors import unknown_name

CuPyArray: TypeAlias = Any

# cublasComputeType_t for products of float32 arrays; sums and results are float32 in all three
PRECISIONS = {"float32": 68, "tf32": 77, "bfloat16": 75}
_FLOAT64 = 70
_TYPES = {"f": 0, "d": 1}  # cudaDataType_t by dtype.char
_DEFAULT_ALGORITHM = -1

_precision = "float32"
_captured: ContextVar[Handle | None] = ContextVar("nnbackend_captured_handle", default=None)


def set_precision(name: str) -> None:
    """Set the precision to which products of float32 arrays may round their factors.

    name: "float32" (no rounding), "tf32" (10 bits of fraction) or "bfloat16" (7 bits). Arrays, and so the weights,
    stay float32. Raises ValueError for another name.
    """
    global _precision
    if name not in PRECISIONS:
        raise ValueError(unknown_name("precision", name, PRECISIONS))
    _precision = name


class Handle:
    """A cuBLAS handle.

    stream: the address of the stream that it works on, or None if each call names a stream.
    workspace: device memory for cuBLAS, kept alive by the handle (a captured product must not allocate memory).
    """

    def __init__(self, stream: int | None = None, workspace: CuPyArray | None = None):
        self._library, self._handle = library(), ctypes.c_void_p()
        self._bound, self._workspace = stream is not None, workspace
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        weakref.finalize(self, self._library.cublasDestroy_v2, self._handle).atexit = False
        if stream is not None:
            self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        if workspace is not None:  # after the stream, because setting the stream resets the workspace
            address, size = ctypes.c_void_p(workspace.data.ptr), ctypes.c_size_t(workspace.nbytes)
            self._call("cublasSetWorkspace_v2", self._handle, address, size)

    def matmul(self, a: CuPyArray, b: CuPyArray, out: CuPyArray, stream: int) -> None:
        """Compute out <- a b. a: (n, k), b: (k, m), out: (n, m), all float32 or all float64; or stacks of as many.

        Each matrix needs an axis of stride 1. In `out` it is the last axis.
        """
        if not self._bound:
            self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        stacked = a.ndim == 3
        (n, k), m, real = a.shape[-2:], b.shape[-1], a.dtype.char
        compute = PRECISIONS[_precision] if real == "f" else _FLOAT64
        number = ctypes.c_float if real == "f" else ctypes.c_double
        layouts = [layout(x[0] if stacked else x) for x in (a, b, out)]
        (transpose_a, lead_a), (transpose_b, lead_b), (_, lead) = layouts  # type: ignore[misc]
        kind, one, zero = _TYPES[real], number(1), number(0)
        # cuBLAS is column-major and reads these arrays as their transposes; out^T = b^T a^T
        steps = [(ctypes.c_longlong(x.strides[0] // x.itemsize),) if stacked else () for x in (a, b, out)]
        factor_b = (ctypes.c_void_p(b.data.ptr), kind, lead_b, *steps[1])
        factor_a = (ctypes.c_void_p(a.data.ptr), kind, lead_a, *steps[0])
        product = (ctypes.c_void_p(out.data.ptr), kind, lead, *steps[2])
        shape = (transpose_b, transpose_a, m, n, k)
        scales = ctypes.byref(one), ctypes.byref(zero)
        self._call(
            "cublasGemmStridedBatchedEx" if stacked else "cublasGemmEx",
            *(self._handle, *shape, scales[0], *factor_b, *factor_a, scales[1], *product),
            *((a.shape[0],) if stacked else ()),
            *(compute, _DEFAULT_ALGORITHM),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} returned cuBLAS status {status}")


def layout(x: CuPyArray) -> tuple[int, int] | None:
    """Return 1 if the matrix x is stored transposed (else 0), and its leading dimension as cuBLAS defines it.

    The result is None if neither axis has stride 1.
    """
    rows, columns = x.shape
    row, column = (stride // x.itemsize for stride in x.strides)
    if (column == 1 or columns == 1) and (row >= columns or rows == 1):
        return 0, max(row, columns)
    if (row == 1 or rows == 1) and (column >= rows or columns == 1):
        return 1, max(column, rows)
    return None


def handle(device: int) -> Handle | None:
    """Return the handle that products on a device must use.

    It is the handle of the current capture, a shared handle if a precision other than float32 is set, or None for
    CuPy's own product.
    """
    return _captured.get() or (None if _precision == "float32" else _shared(device))


def is_capturing() -> bool:
    """Say whether this thread captures a step, or rehearses it for a capture."""
    return _captured.get() is not None


@contextmanager
def capturing(own: Handle) -> Iterator[None]:
    """Make every product within the block use the handle `own`."""
    token = _captured.set(own)
    try:
        yield
    finally:
        _captured.reset(token)


@cache
def _shared(device: int) -> Handle:
    return Handle()  # on the current device, which is `device`


@cache
def library() -> Any:
    """Load the cuBLAS library that CuPy uses as well, and return it."""
    found = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublas")
    return ctypes.CDLL(found.abs_path)
