"""The same functions, faster, for one kind of array each. A file here holds registrations and nothing else: it
defines no name for other rooms, and a registered kernel has the signature, dtype rule and meaning of its reference.

NumPy's are registered here and now, and in front of them the loops in C, where the package was built with them; those
of a library that may be missing are imported when its backend is selected.
"""

import importlib
import os
from contextlib import suppress

from nnbackend.kernels import numpy

__all__ = ["numpy"]

if os.environ.get("NNBACKEND_NATIVE") != "0":
    with suppress(ImportError):  # `nnbackend doctor` says why
        importlib.import_module("nnbackend.kernels.native")
