"""Parse the arguments of `nnbackend report`, which compares runs on a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnbackend.cli.output import say
from nnbackend.cli.parser import EXIT_STATUS, Parser, check_apart, check_output
from nnbackend.report import read_run, write_comparison


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `report` to the sub-commands."""
    parser = commands.add_parser(
        "report",
        help="compare runs on one page",
        description="Compare runs on one page, an HTML file that needs no network connection. `nnbackend train "
        "--report` writes the page about one run.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a file of `nnbackend train --json`")
    parser.add_argument(
        "--output", type=Path, default=Path("comparison.html"), metavar="FILE", help="the page (default: %(default)s)"
    )
    parser.add_argument("--title", metavar="TEXT", help="the title of the page")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    check_apart("--output", arguments.output, arguments.runs)
    check_output("--output", arguments.output)
    write_comparison(arguments.output, [read_run(path) for path in arguments.runs], title=arguments.title)
    say(f"compared {len(arguments.runs)} runs in {arguments.output}")
    return 0
