"""Parse the arguments of `nnbackend doctor`, and print its results."""

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
    """Add `doctor` to the sub-commands."""
    parser = commands.add_parser(
        "doctor",
        help="check which backends work here, and how to mend the others",
        description="Check this installation. Exit status 0 if the backend that NNBACKEND selects works, else 1; with "
        "--measure, 0 if the measurement was made.",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure from which batch size on a GPU is faster; NNBACKEND=auto uses the result",
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
            say("not kept: NNBACKEND=auto uses measurements of the default network only")
        return 0
    try:
        kept = crossover.write(found)
    except OSError as error:  # the measurement is on the screen, so the command has not failed
        print_line(f"nnbackend: the measurement could not be kept: {error}", sys.stderr)
        return 0
    if not arguments.json:
        say(f"kept in {kept}")
    return 0
