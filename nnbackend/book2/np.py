"""Provide the book's common.np: `np`, which is NumPy, or CuPy if it is selected; and GPU, which says so.

Importing it selects CuPy if `config.GPU` is True. Raises BackendError if CuPy does not work then, and if another
library is selected that has not NumPy's names.
"""

from __future__ import annotations

import sys
from typing import Any

from nnbackend.backends import backend, use
from nnbackend.book2 import config
from nnbackend.errors import BackendError

__all__ = ["GPU", "np"]

GPU = config.GPU
if GPU and "GPU" in vars(config):  # the script has set it
    use("cupy")
np: Any = sys.modules[backend().family]
if not hasattr(np, "c_"):
    raise BackendError(f"the book's scripts need NumPy's names, which {backend().name!r} has not: use numpy or cupy")
