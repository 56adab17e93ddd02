"""Parse the arguments of the command `nnbackend`, run it, and print. The work is done by `nnbackend.recipes`.

A script may also import the functions of `nnbackend.recipes` from here, by the names that they had in earlier versions.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from nnbackend import __version__
from nnbackend.backends.base import ROOMS
from nnbackend.cli import completion, doctor, interchange, predict, report, train
from nnbackend.cli.output import INTERRUPTED, complain, drop_output, say
from nnbackend.cli.parser import EXIT_STATUS, Parser, UsageError
from nnbackend.errors import NNBackendError
from nnbackend.recipes import MnistSettings as Settings
from nnbackend.recipes import Prediction, predict_file, train_mnist
from nnbackend.recipes import TrainingResult as Run

__all__ = ["Prediction", "Run", "Settings", "main", "predict_file", "train_mnist"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    argv: the arguments, or None for the arguments of the process. Exit status 0: done. 1: the command failed, and one
    line on stderr says why. 2: the arguments are wrong. 130: Ctrl-C ended it. 143: SIGTERM ended it.
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.argv = sys.argv[1:] if argv is None else list(argv)
        status: int = arguments.run(arguments)
        if sys.stdout is not None:  # as in `nnbackend ... >&-`
            sys.stdout.flush()
    except UsageError as error:
        return complain(error, 2)
    except BrokenPipeError:  # as in `nnbackend ... | head`: drop the rest of the buffer
        drop_output()
        return 1
    except (NNBackendError, ValueError, TypeError, OSError, ImportError) as error:
        return complain(error)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except SystemExit as done:  # argparse raises it after --help and --version
        return int(done.code or 0)
    return status


def _parser() -> Parser:
    parser = Parser(
        prog="nnbackend",
        description="Train and use neural networks on NumPy or, with NNBACKEND=cupy, on a GPU.",
        epilog="NNBACKEND selects the backend: numpy (default), cupy, cupy:1, torch, torch:DEVICE, auto. "
        f"{EXIT_STATUS}",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions of all that computes, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (train, predict, report, doctor, interchange):
        command.add(commands)
    completion.add(commands, parser)
    return parser


class _Version(argparse.Action):
    """Prints the versions of nnbackend, Python and the array libraries, without importing the libraries."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        say(f"nnbackend {__version__}")
        say(f"python {platform.python_version()}")
        owners = metadata.packages_distributions()
        for name in ("array_api_compat", *ROOMS):
            for owner in sorted(set(owners.get(name, []))):
                say(f"{owner} {metadata.version(owner)}")
        parser.exit()
