"""Read the pickles of the book's scripts without running what is in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from nnbackend.errors import ModelFileError

# The names in a pickle of NumPy arrays. Loading it needs no other names.
_NAMED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


def load_arrays(file_name: str | os.PathLike[str]) -> Any:
    """Return the content of a pickle: lists and dictionaries of NumPy arrays, numbers and texts.

    Raises ModelFileError for a file that is no such pickle.
    """
    with Path(file_name).open("rb") as file:
        try:
            return _Arrays(file).load()
        except Exception as error:  # a damaged pickle may raise any error
            raise ModelFileError(f"{os.fspath(file_name)}: not a pickle of parameters: {error!s:.1000}") from error


class _Arrays(pickle.Unpickler):
    """Loads a pickle of dictionaries of NumPy arrays, and refuses any other content."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # its name before NumPy 2
        if (module, name) not in _NAMED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
