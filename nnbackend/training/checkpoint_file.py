"""The file of a run's checkpoints: its lock, its version, and the older checkpoints that are kept beside it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from nnbackend import files, serialization
from nnbackend.errors import CheckpointError, ModelFileError

FileVersion: TypeAlias = tuple[int, ...] | None  # differs for every content of a file; None if there is no file

# How often to try to open a lock file that its holder may have removed. On a file system without lasting inode numbers
# no try would be the last.
ATTEMPTS = 100


class CheckpointFile:
    """Holds the path of a checkpoint and what the caller knows of its content.

    known: the version of the file that the caller read or wrote last; None if the caller has done neither.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: FileVersion = None

    def exists(self) -> bool:
        """Say whether there is such a file. Raise CheckpointError for a path that no file can have."""
        return file_version(self.path) is not None

    def read(self, largest: int) -> serialization.Content:
        """Return the arrays and the description in the file. largest: in bytes, as `serialization.read` takes it."""
        version = file_version(self.path)
        try:
            content = serialization.read(self.path, lambda description: largest)
        except ModelFileError as error:
            before = older(self.path, 1)
            if before.exists():
                raise ModelFileError(f"{error}; the one before it is {before}: rename it to go on with it") from error
            raise
        self.known = version
        return content

    def write(self, arrays: dict[str, Any], description: Mapping[str, Any], keep: int) -> None:
        """Write a checkpoint, and keep so many in all. Raise OSError or MemoryError if that is impossible."""
        try:
            serialization.write(self.path, arrays, dict(description), before=lambda: self._age(keep))
        finally:
            self.known = file_version(self.path)  # no other process writes it, because this one holds the lock

    def _age(self, keep: int) -> None:
        """Rename the newest checkpoint to path.1, and so on. At every moment there is one at `path`."""
        newest, previous = self.path, older(self.path, 1)
        if keep == 1 or not newest.exists() or _same(newest, previous):  # the latter after an attempt that failed
            return
        link = newest.with_name(f"{files.stem(newest)}.previous{files.TEMPORARY}")
        link.unlink(missing_ok=True)
        try:
            os.link(newest, link)
        except OSError:  # a file system without links
            import shutil

            try:
                shutil.copy2(newest, link)
            except OSError:
                link.unlink(missing_ok=True)
                raise
        for age in range(keep - 1, 1, -1):  # from here on nothing needs more room on the disk
            if older(newest, age - 1).exists():
                files.replace(older(newest, age - 1), older(newest, age))
        files.replace(link, previous)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep all other processes from writing the file within the block.

        Raises CheckpointError if another process writes it, or if it has changed since the caller read or wrote it.
        """
        with _locked(self.path):
            if file_version(self.path) not in (None, self.known):
                raise CheckpointError(
                    f"{self.path} holds the checkpoint of another run, which is not overwritten: go on with it "
                    f"(Trainer.resume, --resume), or remove it"
                )
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of a process that was killed while it wrote."""
        ours = re.compile(re.escape(files.stem(self.path)) + r"\.\w{8}" + re.escape(files.TEMPORARY))
        with suppress(OSError):  # a file that cannot be removed does no harm
            for file in self.path.parent.iterdir():
                if ours.fullmatch(file.name):
                    file.unlink(missing_ok=True)


def file_version(path: Path) -> FileVersion:
    """Return numbers that change whenever the file is written, or None if there is no file.

    Raises CheckpointError for a path that no file can have.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size


def older(path: Path, age: int) -> Path:
    """Return the path of the checkpoint that is `age` older than the newest."""
    return path.with_name(f"{path.name}.{age}")


def _same(one: Path, other: Path) -> bool:
    """Say whether one file is a link to the other, or a copy of it."""
    a, b = file_version(one), file_version(other)
    return a is not None and b is not None and a[1:] == b[1:]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path`.lock. The system releases the lock however the process ends."""
    lock = path.with_name(f"{files.stem(path)}.lock")
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write checkpoints to {path.parent}: there is no such folder")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            for _ in range(ATTEMPTS):
                if files.WINDOWS or os.fstat(handle).st_ino == _inode(lock):
                    break
                os.close(handle)  # its holder has removed it in between, which is impossible on Windows
                handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
                _lock(handle)
        except BlockingIOError:
            owner = "unknown"
            with suppress(OSError):  # on Windows a locked file cannot be read either
                owner = os.read(handle, 32).decode(errors="replace") or owner
            os.close(handle)
            raise CheckpointError(
                f"{path} is being written by another process (number {owner}, or a child of it)"
            ) from None
        with suppress(OSError):  # the number is for people
            os.truncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot write checkpoints to {path.parent}: {error}") from error
    try:
        yield
    finally:
        if not files.WINDOWS:  # there an open file cannot be removed
            with suppress(OSError):
                lock.unlink()
        os.close(handle)


def _inode(path: Path) -> int | None:
    found = file_version(path)
    return None if found is None else found[0]


def _lock(handle: int) -> None:
    """Lock an open file. Raise BlockingIOError if another process holds it; warn if the file system has no locks."""
    if files.WINDOWS:
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            raise BlockingIOError from error
        return
    try:
        import fcntl
    except ImportError:  # Python in a browser: there are no other processes
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        warnings.warn(f"another process that writes the same checkpoint would not be noticed: {error}", stacklevel=2)
