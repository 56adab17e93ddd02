"""Print what lets a shell complete the commands, options and files of `nnbackend`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnbackend.cli.output import say
from nnbackend.cli.parser import EXIT_STATUS, Parser

SHELLS = ("bash", "tcsh", "zsh")
# DATA of `train` is the name mnist or a file
_DATA = {"bash": "_nnbackend_data", "zsh": "_files", "tcsh": "f"}
_PREAMBLE = {"bash": '_nnbackend_data() { compgen -W mnist -- "$1"; _shtab_compgen_files "$1"; }'}


def add(commands: argparse._SubParsersAction[Parser], whole: Parser) -> None:
    """Add `completion` to the sub-commands. whole: the parser of the command `nnbackend`."""
    parser = commands.add_parser(
        "completion",
        help="print a script that lets a shell complete this command",
        description='Print a completion script (pip install "nnbackend[completion]"). In bash: eval "$(nnbackend '
        'completion bash)"; in zsh, write it to a file _nnbackend in a folder of $fpath.',
        epilog=EXIT_STATUS,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=lambda arguments: _run(arguments, whole))


def _run(arguments: argparse.Namespace, whole: Parser) -> int:
    try:
        import shtab
    except ImportError as error:
        raise ImportError('shtab writes the script: pip install "nnbackend[completion]"') from error
    _complete_files(whole, shtab.FILE)
    say(shtab.complete(whole, arguments.shell, preamble=_PREAMBLE))
    return 0


def _complete_files(parser: argparse.ArgumentParser, how: dict[str, str]) -> None:
    """Let every argument that is a file be completed by the files that are there."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, how)
        elif action.type is Path or action.metavar == "FILE":
            action.complete = how  # type: ignore[attr-defined]
        elif action.metavar == "DATA":
            action.complete = _DATA  # type: ignore[attr-defined]
