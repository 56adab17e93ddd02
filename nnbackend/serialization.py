"""Files of named arrays and a JSON description, in the safetensors format, which never executes code."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.errors import ModelFileError
from nnbackend.files import write_atomically

HostArray = np.ndarray[Any, Any]
Content = tuple[dict[str, HostArray], dict[str, Any]]
FORMAT = 1
_KEY, _DIGEST = "nnbackend", "sha256"


def write(
    path: str | os.PathLike[str],
    tensors: dict[str, HostArray],
    description: dict[str, Any],
    before: Callable[[], object] = lambda: None,
) -> None:
    """Write `tensors` and the JSON-able `description` to `path`, atomically and durably: on return they are on disk.

    before: called when the new file is on disk, just before it replaces the file at `path`.
    Raises OSError, which names `path`, if there is no such folder, or if it cannot be written to or is full. A file
    that was there before is then unchanged.
    """
    from safetensors.numpy import save

    # np.ascontiguousarray would give a number, of shape (), one axis
    tensors = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    description = {"format": FORMAT, **description}
    description[_DIGEST] = _digest(tensors, description)
    # one key, because safetensors writes several in a varying order, and equal content must give equal files
    content = save(tensors, {_KEY: _json(description)})
    write_atomically(path, content, before)


def size_limit(parameters: int) -> int:
    """Return the largest size in bytes of a file of a network with so many parameters.

    It counts 16 float64 numbers for each parameter (its value, the optimizer's state, the best values that callbacks
    keep) and 64 MiB for content that does not grow with the network.
    """
    return 16 * 8 * parameters + 2**26


def read(
    path: str | os.PathLike[str], largest: Callable[[dict[str, Any]], float] = lambda description: math.inf
) -> Content:
    """Return the arrays and the description in a file of `write`.

    largest: called with the description, returns the largest size in bytes that such a file can have. A larger file
    is refused before its arrays are read.
    Raises ModelFileError, which names the file, if it is missing, damaged, too large, of a newer format, or not
    written by nnbackend.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for some names that no file can have)
        raise ModelFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            description = _description(path, file.metadata() or {})
            if path.stat().st_size > largest(description):
                raise ModelFileError(f"{path}: it is larger than what it describes can be")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        checksum = description.pop(_DIGEST, None)  # a file by another program may have none
        if checksum is not None and checksum != _digest(tensors, description):
            raise ModelFileError(f"{path}: damaged: its content does not have the checksum that was written with it")
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{path}: damaged, or not a safetensors file ({error})") from error
    except (MemoryError, RecursionError) as error:
        raise ModelFileError(f"{path}: damaged, or too large to be read ({error})") from error
    return tensors, description


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the description in the header of a file. Raise ModelFileError if it is not one of nnbackend."""
    if _KEY not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not written by nnbackend (no {_KEY!r} in its metadata)")
    try:
        description: dict[str, Any] = json.loads(metadata[_KEY])
        version = description["format"]
        if type(version) is not int or version < 1:
            raise ValueError(f"format {version!s:.100}")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path}: its description is damaged ({error})") from error
    if version > FORMAT:
        raise ModelFileError(
            f"{path}: written in format {version}, but this nnbackend reads up to {FORMAT}: install a newer nnbackend"
        )
    return description


def _json(description: Any) -> str:
    """Return the JSON text of a value. Equal values give equal text. NumPy's numbers become plain numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"settings must be values that JSON can express, got {value!r}")

    return json.dumps(description, sort_keys=True, default=plain)


def through_json(value: Any) -> Any:
    """Return the value that reading gives back after writing `value`. Raise TypeError if JSON cannot express it."""
    return json.loads(_json(value))


def _digest(tensors: dict[str, HostArray], description: dict[str, Any]) -> str:
    """Return the SHA-256 of the arrays and the description of a file."""
    import hashlib

    digest = hashlib.sha256(_json(description).encode())
    for name, value in sorted(tensors.items()):
        value = np.asarray(value, value.dtype.newbyteorder("<"))  # as the file has it
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
