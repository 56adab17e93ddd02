"""Files of named arrays and a JSON description, in the safetensors format: no pickle, nothing is ever executed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.errors import ModelFileError

HostArray = np.ndarray[Any, Any]
Content = tuple[dict[str, HostArray], dict[str, Any]]
FORMAT = 1
_KEY = "nnbackend"


def write(path: str | os.PathLike[str], tensors: dict[str, HostArray], description: dict[str, Any]) -> None:
    """Write `tensors` and the JSON-able `description` to `path`, whole or not at all.

    Raises OSError when the folder cannot be written to; a file that was there before is then still there.
    """
    from safetensors.numpy import save

    metadata = {_KEY: json.dumps({"format": FORMAT, **description}, sort_keys=True), "format": "pt"}
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata)
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name + ".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def read(path: str | os.PathLike[str]) -> Content:
    """The arrays and the description that `write` put there.

    Raises ModelFileError, which names the file and what is wrong with it: missing, damaged, not one of ours, or of
    a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise ModelFileError(f"{path}: damaged, or no safetensors file ({error})") from error
    if _KEY not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not written by nnbackend (no {_KEY!r} in its metadata)")
    try:
        description = json.loads(metadata[_KEY])
        version = int(description["format"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"{path}: its description is damaged ({error})") from error
    if version > FORMAT:
        raise ModelFileError(
            f"{path}: written in format {version}, but this nnbackend reads up to {FORMAT}: install a newer nnbackend"
        )
    return tensors, description


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
