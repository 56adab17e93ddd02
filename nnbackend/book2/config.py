"""Provide the book's common.config: whether the scripts compute on a GPU.

GPU: True if the selected backend keeps its arrays on a device. `config.GPU = True`, before `nnbackend.book2.np` and
whatever imports it, selects CuPy.
"""

from __future__ import annotations

import numpy

from nnbackend.backends import backend

GPU: bool


def __getattr__(name: str) -> bool:
    if name != "GPU":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return not isinstance(backend().zeros((1,), "float32"), numpy.ndarray)
