"""Files of named arrays and a JSON description, in the safetensors format, which never executes code."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.errors import ModelFileError

HostArray = np.ndarray[Any, Any]
Content = tuple[dict[str, HostArray], dict[str, Any]]
FORMAT = 1
TEMPORARY = ".tmp"  # the suffix of a file that is being written
LONGEST = 120  # bytes of a name to which something may be added
WINDOWS = os.name == "nt"
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

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    description = {"format": FORMAT, **description}
    description[_DIGEST] = _digest(tensors, description)
    # one key, because safetensors writes several in a varying order, and equal content must give equal files
    content = save(tensors, {_KEY: _json(description)})
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder, a file name is needed", str(target))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}", str(target))
    with named(target):
        _write(target, content, before)


def _write(target: Path, content: bytes, before: Callable[[], object]) -> None:
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=stem(target) + ".", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        before()
        replace(Path(temporary), target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    _sync_folder(target.parent)


def stem(path: Path) -> str:
    """Return what begins the names of the files beside `path` that belong to it: its name, or a digest of a long one,
    since a name has room for 255 bytes, on some file systems for 143.
    """
    import hashlib

    encoded = os.fsencode(path.name)
    return path.name if len(encoded) <= LONGEST else hashlib.sha256(encoded).hexdigest()[:32]


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let errors about the files beside `path` that belong to it speak of `path`, which is what the user knows."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`. On Windows a scanner may hold either for a moment: wait for it."""
    for pause in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if WINDOWS else ():
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(pause)
    source.replace(target)


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
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _sync(handle: int) -> None:
    """Wait until the disk has stored the file. On macOS fsync alone does not wait for that."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # some file systems support fsync alone
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable.

    Windows has no such call and needs none. If the file system does not support the call, do nothing.
    """
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
