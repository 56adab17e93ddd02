"""The command `nnbackend`: arguments and printing. `nnbackend.recipes` has what it does, as functions for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from nnbackend import __version__
from nnbackend.cli import doctor, predict, train
from nnbackend.cli.output import INTERRUPTED, complain
from nnbackend.cli.parser import Parser, UsageError
from nnbackend.errors import NNBackendError
from nnbackend.recipes import MnistSettings as Settings
from nnbackend.recipes import Prediction, predict_file, train_mnist
from nnbackend.recipes import TrainingResult as Run

__all__ = ["Prediction", "Run", "Settings", "main", "predict_file", "train_mnist"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process) and return its exit status.

    0: done. 1: it failed, and one line on stderr says why. 2: the arguments make no sense. 130: Ctrl-C. 143: SIGTERM.
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.argv = sys.argv[1:] if argv is None else list(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        return complain(error, 2)
    except BrokenPipeError:  # `nnbackend ... | head`: nobody reads on, also not what is left in the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (NNBackendError, ValueError, TypeError, OSError, ImportError) as error:
        return complain(error)
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)
    return status


def _parser() -> Parser:
    parser = Parser(
        prog="nnbackend",
        description="Train and use neural networks on NumPy or, with NNBACKEND=cupy, on a GPU.",
        epilog="NNBACKEND selects the backend: numpy (default), cupy, cupy:1, torch, torch:DEVICE, auto.",
    )
    parser.add_argument("--version", action="version", version=f"nnbackend {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (train, predict, doctor):
        command.add(commands)
    return parser
