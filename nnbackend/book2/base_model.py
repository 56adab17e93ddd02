"""Provide the book's common.base_model: a model whose parameters go to a file and back."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy

from nnbackend.backends import to_numpy
from nnbackend.book.arrays import together
from nnbackend.book.pickles import load_arrays
from nnbackend.book2.np import GPU, np
from nnbackend.book2.util import to_cpu, to_gpu
from nnbackend.errors import ModelFileError
from nnbackend.files import write_atomically

__all__ = ["GPU", "BaseModel", "np", "os", "pickle", "to_cpu", "to_gpu"]


class BaseModel:
    """Base class of models. params, grads: lists of arrays."""

    def __init__(self) -> None:
        self.params: Any = None
        self.grads: Any = None

    def forward(self, *args: Any) -> Any:
        raise NotImplementedError

    def backward(self, *args: Any) -> Any:
        raise NotImplementedError

    def save_params(self, file_name: str | os.PathLike[str] | None = None) -> None:
        """Write the parameters in float16 to a pickle of a list of NumPy arrays, which the book's own code reads too.

        file_name: by default the name of the class, with ".pkl". A file that was there before stays as it is if the new
        one cannot be written. Raises ValueError if there are no parameters.
        """
        if self.params is None:
            raise ValueError(f"params: {type(self).__name__} has none yet, so there is nothing to save")
        content = pickle.dumps([to_numpy(p).astype(numpy.float16) for p in self.params])
        write_atomically(file_name or f"{type(self).__name__}.pkl", content)

    def load_params(self, file_name: str | os.PathLike[str] | None = None) -> None:
        """Write the values of a pickle that `save_params`, here or in the book, has written into the parameters.

        Nothing in the file is run. Raises FileNotFoundError if there is no file; ModelFileError, before anything is
        written, for a file that holds anything but a list of arrays of the parameters' shapes.
        """
        path = Path(file_name or f"{type(self).__name__}.pkl")
        if not path.exists():
            raise FileNotFoundError(f"No file: {path}")
        values = load_arrays(path)
        shapes = [tuple(p.shape) for p in self.params]
        found = [getattr(value, "shape", None) for value in values] if isinstance(values, list) else type(values)
        if found != shapes:
            raise ModelFileError(f"{path}: expected a list of arrays of shapes {shapes}, got {found!s:.1000}")
        for p, value in zip(self.params, values, strict=True):
            _, there = together(p=p, value=value.astype(numpy.float32))
            p[...] = there
