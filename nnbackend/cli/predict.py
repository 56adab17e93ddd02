"""Parse the arguments of `nnbackend predict`, and print its results."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnbackend.cli.output import complain, say, warn
from nnbackend.cli.parser import EXIT_STATUS, Parser, UsageError, backend_option, check_apart, check_output, positive
from nnbackend.errors import DataError
from nnbackend.images import draw_images
from nnbackend.network import load
from nnbackend.recipes.predict import OUTPUTS, gives_table, predict_data, predict_file


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `predict` to the sub-commands."""
    parser = commands.add_parser(
        "predict",
        parents=[backend_option()],
        help="apply a saved network to pictures, tables and arrays",
        description="Answer with a network that `train` saved: for each picture (PNG, JPEG, ...; IDX files hold many) "
        "a line with the likeliest classes; for a table the table with the answers in columns of their own; for a "
        "folder of pictures a table of the files; for an .npz file the answers to its inputs. Tables are printed as "
        "CSV, or written with -o.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="the file of a saved network")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a picture, an IDX file of images (.gz or not), a folder of pictures, a table (.csv, .tsv, .parquet) or "
        "an .npz file",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write the answers to this table (.csv, .tsv, .parquet, .npz), with the probability of each class",
    )
    parser.add_argument("--top", type=positive, default=1, metavar="K", help="show the K likeliest classes")
    parser.add_argument(
        "--limit",
        type=positive,
        default=20,
        metavar="N",
        help="classify the first N images of an IDX file (default: 20)",
    )
    parser.add_argument(
        "--show",
        type=Path,
        metavar="FILE",
        help="draw the images that the network saw, with its answers, in this file (.png)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.show is not None:
        _check_drawing(arguments)
    if arguments.output is not None:
        _check_table(arguments)
    network = load(arguments.model, backend=arguments.backend)
    if arguments.output is not None:
        (path,) = arguments.files
        with _doubts():
            answers = predict_data(network, path)
        answers.write(arguments.output)
        say(f"wrote {len(answers):,} answers to {arguments.output}")
        return 0
    status, shown, captions = 0, list[Any](), list[str]()
    for path in arguments.files:
        try:
            if gives_table(path):
                with _doubts():
                    text = predict_data(network, path).text()
                say(text.removesuffix("\n"))
                continue
            with _doubts(" (--show FILE.png draws the image that the network saw)"):
                predictions, total = predict_file(network, path, top=arguments.top, limit=arguments.limit, shown=shown)
        except DataError as error:  # go on with the other files
            status = complain(error)
            continue
        captions += [f"{label} {p:.2%}" for prediction in predictions for label, p in prediction.best[:1]]
        for prediction in predictions:
            say("  ".join([prediction.name, *(f"{label} {p:.2%}" for label, p in prediction.best)]))
        if total > len(predictions):
            say(f"... {total:,} images in {path}; --limit {total} shows all")
    if arguments.show is not None and shown:
        draw_images(arguments.show, shown, captions)
        say(f"drew the images that the network saw in {arguments.show}")
    elif arguments.show is not None:
        say(f"no image was classified by itself: {arguments.show} is not drawn")
    return status


@contextmanager
def _doubts(hint: str = "") -> Iterator[None]:
    """Print the warnings of the block, each on a line."""
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", UserWarning)
        yield
    for doubt in doubts:
        warn(f"{doubt.message}{hint}")


def _check_table(arguments: argparse.Namespace) -> None:
    """Raise UsageError, before the work, if -o cannot write its file or would overwrite an input."""
    if arguments.output.suffix.lower() not in OUTPUTS:
        raise UsageError(f"argument -o: {arguments.output}: a name that ends in {', '.join(OUTPUTS)} is needed")
    if arguments.show is not None:
        raise UsageError("argument --show: with -o the answers are written to a table, and nothing is drawn")
    if len(arguments.files) > 1:
        raise UsageError(f"argument -o: one file holds the answers to one FILE, and there are {len(arguments.files)}")
    check_apart("-o", arguments.output, (*arguments.files, arguments.model))
    check_output("-o", arguments.output)


def _check_drawing(arguments: argparse.Namespace) -> None:
    """Raise UsageError, before the work, if --show cannot draw in its file or would overwrite an input."""
    if arguments.show.suffix.lower() != ".png":
        raise UsageError(f"argument --show: {arguments.show}: a name that ends in .png is needed")
    check_apart("--show", arguments.show, (*arguments.files, arguments.model))
    check_output("--show", arguments.show)
    if find_spec("PIL") is None:
        raise UsageError('argument --show: drawing needs Pillow: pip install "nnbackend[plot]"')
