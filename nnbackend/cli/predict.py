"""Parse the arguments of `nnbackend predict`, and print its results."""

from __future__ import annotations

import argparse
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnbackend.cli.output import complain, say, warn
from nnbackend.cli.parser import EXIT_STATUS, Parser, UsageError, backend_option, check_output, positive
from nnbackend.errors import DataError
from nnbackend.images import draw_images
from nnbackend.network import load
from nnbackend.recipes.predict import predict_file


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `predict` to the sub-commands."""
    parser = commands.add_parser(
        "predict",
        parents=[backend_option()],
        help="classify pictures with a saved network",
        description="Classify digits in pictures (PNG, JPEG, ...) and IDX files with a network that `train` saved.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="the file of a saved network")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a picture, or an IDX file of images (.gz or not)")
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
    network = load(arguments.model, backend=arguments.backend)
    status, shown, captions = 0, list[Any](), list[str]()
    for path in arguments.files:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", UserWarning)
            try:
                predictions, total = predict_file(network, path, top=arguments.top, limit=arguments.limit, shown=shown)
            except DataError as error:  # go on with the other files
                status = complain(error)
                continue
        for doubt in doubts:
            warn(f"{doubt.message} (--show FILE.png draws the image that the network saw)")
        captions += [f"{label} {p:.2%}" for prediction in predictions for label, p in prediction.best[:1]]
        for prediction in predictions:
            say("  ".join([prediction.name, *(f"{label} {p:.2%}" for label, p in prediction.best)]))
        if total > len(predictions):
            say(f"... {total:,} images in {path}; --limit {total} shows all")
    if arguments.show is not None and shown:
        draw_images(arguments.show, shown, captions)
        say(f"drew the images that the network saw in {arguments.show}")
    return status


def _check_drawing(arguments: argparse.Namespace) -> None:
    """Raise UsageError, before the work, if --show cannot draw in its file or would overwrite an input."""
    if arguments.show.suffix.lower() != ".png":
        raise UsageError(f"argument --show: {arguments.show}: a name that ends in .png is needed")
    if any(arguments.show.absolute() == Path(path).absolute() for path in (*arguments.files, arguments.model)):
        raise UsageError(f"argument --show: {arguments.show} is read by this command")
    check_output("--show", arguments.show)
    if find_spec("PIL") is None:
        raise UsageError('argument --show: drawing needs Pillow: pip install "nnbackend[plot]"')
