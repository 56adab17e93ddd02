"""Printing, and the exit statuses of the command."""

from __future__ import annotations

import sys
from typing import TextIO

INTERRUPTED, TERMINATED = 130, 143  # what a shell reports for a program that Ctrl-C, or SIGTERM, ended


def say(line: str) -> None:
    print_line(line, sys.stdout)


def warn(doubt: object) -> None:
    print_line(f"nnbackend: warning: {doubt}", sys.stderr)


def complain(error: object, status: int = 1) -> int:
    print_line(f"nnbackend: error: {error}", sys.stderr)
    return status


def print_line(line: str, stream: TextIO) -> None:
    """Print a line; characters that the stream does not know (in a file's name, say) are escaped."""
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
