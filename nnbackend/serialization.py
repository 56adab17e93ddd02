"""Files of named arrays and a JSON description, in the safetensors format: no pickle, nothing is ever executed."""

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
TEMPORARY = ".tmp"  # ends the name of a file that is being written
LONGEST = 120  # bytes of a name to which something may be added
WINDOWS = os.name == "nt"
_KEY, _DIGEST = "nnbackend", "sha256"


def write(
    path: str | os.PathLike[str],
    tensors: dict[str, HostArray],
    description: dict[str, Any],
    before: Callable[[], object] = lambda: None,
) -> None:
    """Write `tensors` and the JSON-able `description` to `path`, whole or not at all, and durably: on return they are
    on the disk. before: called when they are safe there and about to take the place of what `path` was.

    Raises OSError, which names `path`, where there is no such folder, it cannot be written to or is full; a file that
    was there before is then still there.
    """
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    description = {"format": FORMAT, **description}
    description[_DIGEST] = _digest(tensors, description)
    # one key: safetensors writes several in an order that is another each time, and equal content makes equal files
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


def room(parameters: int) -> int:
    """Bytes that a file of a network with so many parameters can have, in float64: they themselves, the optimizer's
    state, best values that callbacks keep, and 64 MiB for what does not grow with them.
    """
    return 16 * 8 * parameters + 2**26


def read(
    path: str | os.PathLike[str], largest: Callable[[dict[str, Any]], float] = lambda description: math.inf
) -> Content:
    """The arrays and the description that `write` put there. largest: asked, with the description, how many bytes
    such a file can have, before there is memory for more.

    Raises ModelFileError, which names the file and what is wrong with it: missing, damaged, not one of ours, or of
    a newer format.
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
        checksum = description.pop(_DIGEST, None)  # without one it is a file that somebody else wrote
        if checksum is not None and checksum != _digest(tensors, description):
            raise ModelFileError(f"{path}: damaged: its content does not have the checksum that was written with it")
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{path}: damaged, or no safetensors file ({error})") from error
    except (MemoryError, RecursionError) as error:
        raise ModelFileError(f"{path}: damaged, or too large to be read ({error})") from error
    return tensors, description


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the header of a file says, checked as far as all files are alike."""
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
    """The same text for the same values; NumPy's numbers are numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"settings are to be what JSON knows, got {value!r}")

    return json.dumps(description, sort_keys=True, default=plain)


def through_json(value: Any) -> Any:
    """What comes back of a value that is written. TypeError for one that JSON does not know."""
    return json.loads(_json(value))


def _digest(tensors: dict[str, HostArray], description: dict[str, Any]) -> str:
    """The SHA-256 of everything in a file."""
    import hashlib

    digest = hashlib.sha256(_json(description).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def _sync(handle: int) -> None:
    """Wait until the disk has it; on macOS fsync alone does not."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # a file system that knows only the other
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: it is an entry of the folder. Windows has no such call and needs none; where a file
    system refuses it, there is nothing more to be done.
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
