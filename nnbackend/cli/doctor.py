"""The sub-command `nnbackend doctor`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from nnbackend import doctor
from nnbackend.backends import crossover
from nnbackend.cli.output import print_line, say
from nnbackend.cli.parser import Parser, positive


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the sub-command to the command."""
    parser = commands.add_parser(
        "doctor",
        help="say which backends work here, and what would mend the others",
        description="Examine this installation. Exit status 0 if the backend that NNBACKEND selects works, else 1; "
        "with --measure, 0 if the measurement was made.",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure from which batch size on a GPU is faster; NNBACKEND=auto heeds the result",
    )
    parser.add_argument("--against", default="cupy", metavar="NAME", help="the backend to measure (default: cupy)")
    parser.add_argument(
        "--hidden",
        type=positive,
        nargs="+",
        default=crossover.HIDDEN,
        metavar="N",
        help=f"widths of the hidden layers (default: {' '.join(map(str, crossover.HIDDEN))})",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.measure:
        return _measure(arguments)
    checks = doctor.examine()
    say(json.dumps([asdict(check) for check in checks], indent=2) if arguments.json else doctor.text(checks))
    return 0 if doctor.healthy(checks) else 1


def _measure(arguments: argparse.Namespace) -> int:
    found = doctor.measure(arguments.against, hidden=arguments.hidden)
    say(json.dumps(asdict(found), indent=2) if arguments.json else doctor.table(found))
    if found.hidden != crossover.HIDDEN:
        if not arguments.json:
            say("not kept: NNBACKEND=auto heeds a measurement of the default network")
        return 0
    try:
        kept = crossover.write(found)
    except OSError as error:  # it was made, and is on the screen
        print_line(f"nnbackend: the measurement could not be kept: {error}", sys.stderr)
        return 0
    if not arguments.json:
        say(f"kept in {kept}")
    return 0
