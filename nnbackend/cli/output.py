"""Print results, warnings and errors of the command."""

from __future__ import annotations

import os
import sys
from typing import TextIO

INTERRUPTED, TERMINATED = 130, 143  # the exit statuses that shells use for Ctrl-C and SIGTERM


def say(line: str) -> None:
    """Print a line on stdout."""
    print_line(line, sys.stdout)


def warn(doubt: object) -> None:
    """Print a warning on stderr."""
    print_line(f"nnbackend: warning: {doubt}", sys.stderr)


def complain(error: object, status: int = 1) -> int:
    """Print an error on stderr and return the exit status."""
    print_line(f"nnbackend: error: {error}", sys.stderr)
    return status


def drop_output() -> None:
    """Drop what is printed on stdout from here on, since nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_line(line: str, stream: TextIO | None) -> None:
    """Print a line. Escape characters that the encoding of the stream lacks; names of files may hold some.

    A process that was started without this stream has None in its place, and prints nothing.
    """
    if stream is None:
        return
    try:
        try:
            print(line, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        if stream is not sys.stderr:  # that nobody reads a warning ends no work
            raise
