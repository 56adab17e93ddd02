"""Write files atomically and durably: a reader finds the old content or the new, also after a loss of power."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TEMPORARY = ".tmp"  # the suffix of a file that is being written
LONGEST = 120  # bytes; a longer name leaves too little room for a suffix
WINDOWS = os.name == "nt"


def write_atomically(path: str | os.PathLike[str], content: bytes, before: Callable[[], object] = lambda: None) -> None:
    """Write `content` to `path`, atomically and durably: on return it is on disk.

    before: called when the new file is on disk, just before it replaces the file at `path`.
    The new file has the permissions of the old one. A device or a pipe, such as /dev/stdout, is written to as it is.
    Raises OSError if there is no such folder, or if it cannot be written to or is full. If the error names a file, it
    names `path`. A file that was there before is then unchanged.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder, a file name is needed", str(target))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}", str(target))
    with named(target):
        if target.exists() and not target.is_file():  # a file in its place would take it from all who use it
            before()
            target.write_bytes(content)
        else:
            _write(target.resolve() if target.is_symlink() else target, content, before)  # a link stays one


def _write(target: Path, content: bytes, before: Callable[[], object]) -> None:
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=stem(target) + ".", suffix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())
        Path(temporary).chmod(_mode(target))
        before()
        replace(Path(temporary), target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    _sync_folder(target.parent)


def stem(path: Path) -> str:
    """Return the beginning of the names of the auxiliary files of `path`: its name, or a digest if the name is long.

    A name has room for 255 bytes, on some file systems for 143.
    """
    import hashlib

    encoded = os.fsencode(path.name)
    return path.name if len(encoded) <= LONGEST else hashlib.sha256(encoded).hexdigest()[:32]


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let errors about the auxiliary files of `path` name `path`, because the user knows no other name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`. On Windows a virus scanner may hold a file for a moment; wait for it."""
    for pause in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if WINDOWS else ():
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(pause)
    source.replace(target)


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


def _mode(target: Path) -> int:
    """Return the permissions of a file, or those of a new one if there is none."""
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777
    except OSError:
        return 0o666 & ~_umask()


def _umask() -> int:
    """Return the umask of the process. Python can read it only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
