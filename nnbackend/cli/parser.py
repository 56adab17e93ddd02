"""Parse and check the arguments that the sub-commands have in common."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from nnbackend.errors import unknown_name
from nnbackend.plotting import check_picture
from nnbackend.report import check_libraries

EXIT_STATUS = (
    "Exit status: 0: done. 1: failed, and the last line on stderr says why. 2: the arguments are wrong. 130: Ctrl-C "
    "ended it. 143: SIGTERM ended it."
)


class UsageError(Exception):
    """The arguments are wrong."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError for wrong arguments. The message names the nearest known name for an unknown one."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.dest.replace("_", " ")
            raise argparse.ArgumentError(None, unknown_name(kind, value, list(action.choices)))


def backend_option() -> Parser:
    """Return a parent parser with the option --backend."""
    parent = Parser(add_help=False)
    parent.add_argument("--backend", metavar="NAME", help="use this backend instead of the one that NNBACKEND selects")
    return parent


def positive(text: str) -> int:
    """Convert an argument to an integer of at least 1."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """Convert an argument to an integer of at least 0."""
    return _integer(text, 0)


def _integer(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {low}, got {text!r}")
    return value


def check_apart(argument: str, path: Path, read: Iterable[str | os.PathLike[str]], what: str = "is read by") -> None:
    """Raise UsageError if the file `path`, which is to be written, is one of those that are read, by whatever name."""
    if any(_same(path, other) for other in read):
        raise UsageError(f"argument {argument}: {path} {what} this command")


def _same(path: Path, other: str | os.PathLike[str]) -> bool:
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, such as /dev/null, holds nothing to spare
            return False
        return os.path.realpath(path) == os.path.realpath(other) or path.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False


def output_folder(text: str) -> Path:
    """Convert an argument to a folder in which files can be written."""
    _refuse(_why_not(Path(text) / "file"))
    return Path(text)


def output_file(text: str) -> Path:
    """Convert an argument to a file that can be written."""
    _refuse(_why_not(Path(text)))
    return Path(text)


def _refuse(reason: str) -> None:
    if reason:
        raise argparse.ArgumentTypeError(reason)


def check_output(argument: str, path: Path) -> None:
    """Raise UsageError if the file `path` cannot be written. The check comes before a long training, not after it."""
    reason = _why_not(path)
    try:
        if not reason and argument == "--plot":
            check_picture(path)
        if not reason and argument in ("--report", "--output"):
            check_libraries()
    except (OSError, ValueError, ImportError) as error:
        reason = _cannot_write(path, error)
    if reason:
        raise UsageError(f"argument {argument}: {reason}")


def _why_not(path: Path) -> str:
    """Say why the file `path` cannot be written; "" if it can."""
    try:
        if path.is_dir():
            return f"{path} is a folder, a file name is needed"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            return f"cannot write {path}: it may not be overwritten"
    except (OSError, ValueError) as error:
        return _cannot_write(path, error)
    return ""


def _cannot_write(path: Path, error: Exception) -> str:
    return f"cannot write {path}: {(error.strerror if isinstance(error, OSError) else None) or error}"
