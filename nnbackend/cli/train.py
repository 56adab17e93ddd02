"""Parse the arguments of `nnbackend train`, and print its results."""

from __future__ import annotations

import argparse
import glob
import json
import os
import shlex
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnbackend.cli.output import INTERRUPTED, TERMINATED, complain, drop_output, say, warn
from nnbackend.cli.parser import (
    EXIT_STATUS,
    Parser,
    UsageError,
    backend_option,
    check_apart,
    check_output,
    natural,
    positive,
)
from nnbackend.datasets.targets import TASKS
from nnbackend.diagnosis import Finding
from nnbackend.errors import NumericalError, unknown_name
from nnbackend.files import WINDOWS
from nnbackend.layers import ACTIVATIONS
from nnbackend.network import DTYPES
from nnbackend.optimizers import OPTIMIZERS
from nnbackend.plotting import plot_history
from nnbackend.recipes.train import MODELS, TrainingResult, TrainSettings, train_data
from nnbackend.report import TrainingReport
from nnbackend.training import Checkpoint, communicator


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add `train` to the sub-commands."""
    parser = commands.add_parser(
        "train",
        parents=[backend_option()],
        help="train a network on a data set",
        description="Train a network and test it. Ctrl-C ends the training early; the files are still written.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument(
        "data_set",
        metavar="DATA",
        help="mnist; or a folder with one folder of pictures for each class; a folder of IDX files; an .npz file with "
        "inputs and answers; or a table (.csv, .tsv, .parquet) with --target",
    )
    _add_settings(parser)
    for name, text in (
        ("--save", "write the trained network to this file (safetensors)"),
        ("--plot", "draw loss and accuracy by epoch in this file (.png, .svg or .pdf)"),
        ("--json", "write settings, history and result to this file, which `nnbackend report` compares"),
        ("--report", "write a page about the training to this file (.html), which needs no network connection"),
    ):
        parser.add_argument(name, type=Path, metavar="FILE", help=text)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="write checkpoints to this file, or into this folder; --resume goes on with them",
    )
    parser.add_argument(
        "--every", metavar="N", help="write a checkpoint every N epochs, or Nsteps, or Ns (seconds) (default: 1)"
    )
    parser.add_argument("--keep", type=positive, metavar="K", help="keep the last K checkpoints (default: 1)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the checkpoint if there is one, else begin; all settings must be the same, also --epochs",
    )
    parser.add_argument("--quiet", action="store_true", help="print the result only, without progress bar and table")
    parser.set_defaults(run=_run)


def _add_settings(parser: Parser) -> None:
    """Add an option for each field of TrainSettings, with the same default."""
    defaults = asdict(TrainSettings())

    def add(option: str, text: str, shown: bool = True, **how: Any) -> None:
        value = defaults[option.strip("-").replace("-", "_")]
        note = "" if value is None or not shown else f" (default: {value})"
        parser.add_argument(option, default=value, help=text + note, **how)

    add(
        "--data",
        "sample: the sample of MNIST that ships with nnbackend; full: all of MNIST, downloaded once; PATH: a folder of "
        "IDX or CSV files, or mnist.npz; auto: the path in NNBACKEND_DATA if it is set, else full if it was downloaded "
        "before, else sample",
        metavar="auto|sample|full|PATH",
    )
    add("--target", "column of a table to predict", metavar="COLUMN")
    add(
        "--task",
        "whether the answers are classes or numbers (default: words and a few different integers are classes)",
        choices=TASKS,
        shown=False,
    )
    add("--drop", "columns of a table to leave out", nargs="+", metavar="COLUMN", shown=False)
    add(
        "--validation",
        "part of the rows that is held out, to see how the network does on what it has not learned (default: 0.1, or 0 "
        "if the data has a part for a test)",
        type=float,
        metavar="PART",
    )
    add("--side", "height and width to which pictures in a folder are scaled (default: at most 32)", type=positive)
    add(
        "--model",
        "mlp: fully connected; cnn: convolutional, without --hidden and --activation (default: cnn for folders of "
        "pictures, else mlp)",
        choices=MODELS,
    )
    add(
        "--hidden",
        "widths of the hidden layers (default: 512 256; for tables 64 64)",
        type=positive,
        nargs="+",
        metavar="N",
    )
    add("--activation", "activation after each hidden layer", choices=sorted(ACTIVATIONS))
    add(
        "--dropout",
        "part of the activations that is dropped while training (default: 0.2 of a cnn, 0.3 from 30,000 "
        "pictures on, 0.1 for tables, else 0)",
        type=float,
        metavar="PART",
    )
    add(
        "--augment",
        "how much pictures are shifted, turned, scaled and bent at random while training; 0: not at all (default: 1 "
        "for pictures, 0.5 for a cnn that sees 30,000)",
        type=float,
        metavar="X",
    )
    add("--optimizer", "update rule", choices=sorted(OPTIMIZERS))
    add(
        "--lr",
        "learning rate of the first step, from where it falls to 0 (default: one that suits the optimizer)",
        type=float,
    )
    add("--epochs", "passes over the rows to train on (default: as many as suit the data)", type=positive, metavar="N")
    add(
        "--batch-size",
        "rows per step (default: 100 pictures or 50 rows of a table, fewer of small data)",
        type=positive,
        metavar="N",
    )
    add("--accumulate", "batches per step; several processes of mpiexec share them", type=positive, metavar="N")
    add("--seed", "seed of the initial weights and of the order of the rows", type=natural, metavar="N")
    add("--dtype", "precision of weights and data", choices=DTYPES)


def _run(arguments: argparse.Namespace) -> int:
    checkpoint = _checkpoint(arguments)
    files = {name: getattr(arguments, name) for name in ("save", "plot", "json", "report")}
    for name, path in files.items():
        if path is not None:
            check_output(f"--{name}", path)
    settings = _settings(arguments)
    taken = [] if settings.data in ("auto", "full", "sample") else [Path(settings.data)]
    inputs = len(taken)
    for name, path in (("checkpoint", None if checkpoint is None else checkpoint.file), *files.items()):
        if path is not None:
            check_apart(f"--{name}", path, taken[:inputs])
            check_apart(f"--{name}", path, taken[inputs:], "is written twice by")
            taken.append(path)
    processes = communicator()

    def tell(line: str) -> None:
        try:
            say(line)
        except BrokenPipeError:  # as in `nnbackend train ... | head`: the files are still written
            if checkpoint is None and not any(files.values()):
                raise
            drop_output()

    def note(line: str) -> None:
        if processes.is_root and not arguments.quiet:
            tell(line)

    report = None if arguments.report is None else TrainingReport(arguments.report, command=_repeating(arguments))
    how_to_go_on = "" if checkpoint is None else f"go on with: {_command(arguments)}"
    try:
        with _termination(), _warnings_printed(processes.is_root):
            result = train_data(
                settings,
                say=note,
                progress=not arguments.quiet,
                checkpoint=checkpoint,
                resume=arguments.resume,
                communicator=processes,
                report=report,
            )
    except Exception as error:
        if report is not None and isinstance(error, NumericalError) and processes.is_root:
            report.write(failure=str(error))
            note(f"wrote the report to {arguments.report}")
        if processes.size > 1:  # the others would wait for this one
            processes.abort(complain(f"rank {processes.rank}: {error}"))
        raise
    except KeyboardInterrupt:
        processes.abort(INTERRUPTED)  # nothing happens if there is one process
        raise
    except _Terminated:
        if checkpoint is None:  # else all processes have stopped after the same step
            processes.abort(TERMINATED)
        return complain(f"terminated; {how_to_go_on}" if how_to_go_on else "terminated", TERMINATED)
    history = result.history
    if not processes.is_root:
        return INTERRUPTED if history.interrupted else 0
    for line in _table(result):
        note(line)
    if history.interrupted:
        tell(f"interrupted after {len(history)} of {result.settings['epochs']} epochs")
        if how_to_go_on:
            tell(how_to_go_on)
    tell(_summary(result))
    if result.advice is not None and not history.interrupted:
        note(result.advice)
    if arguments.save is not None:
        result.network.save(arguments.save)
        note(f"saved the network to {arguments.save}")
    if arguments.plot is not None and len(history):
        plot_history(history, arguments.plot)
        note(f"drew the curves in {arguments.plot}")
    elif arguments.plot is not None:
        tell(f"no epoch was completed: {arguments.plot} is not drawn")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result.record(), indent=2) + "\n", encoding="utf-8")
        note(f"wrote the record to {arguments.json}")
    if report is not None:
        what, _, tries = (result.advice or "").partition("; try ")
        report.write(findings=[Finding("data", what, tries)] if what else [])
        note(f"wrote the report to {arguments.report}")
    return INTERRUPTED if history.interrupted else 0


def _settings(arguments: argparse.Namespace) -> TrainSettings:
    """Return the settings that the arguments give. Raise UsageError if DATA names no data set."""
    values = {name: getattr(arguments, name) for name in TrainSettings.__dataclass_fields__}
    for name in ("drop", "hidden"):
        values[name] = None if values[name] is None else tuple(values[name])
    if arguments.data_set != "mnist":
        path = Path(arguments.data_set)
        if arguments.data != "auto":
            raise UsageError(f"argument --data: it belongs to mnist, and DATA is {arguments.data_set}")
        if not path.suffix and path.parent == Path() and not any(Path().glob(f"{glob.escape(path.name)}*")):
            raise UsageError(f"{unknown_name('data set', arguments.data_set, ['mnist'])} Or the path of data.")
        values["data"] = os.fspath(path)
    return TrainSettings(**values)


def _summary(result: TrainingResult) -> str:
    """Return the line that tells how the trained network does."""
    where = result.tested_on
    if result.test_accuracy is not None:
        figures = f"{where} accuracy {result.test_accuracy:.2%}, {where} loss {result.test_loss:.4f}"
    else:
        name = "" if result.data is None else f" of {result.data.target.name!r}"
        figures = f"{where} error{name} {result.test_error:.4g} (root of the mean square)"
        figures += "" if result.r_squared is None else f", R squared {result.r_squared:.4f}"
    return f"{figures}, trained in {result.seconds:.1f} s"


def _checkpoint(arguments: argparse.Namespace) -> Checkpoint | None:
    """Return the Checkpoint that --checkpoint, --every and --keep describe, or None without --checkpoint."""
    if arguments.checkpoint is None:
        for option in ("every", "keep", "resume"):
            if getattr(arguments, option):
                raise UsageError(f"argument --{option}: it needs --checkpoint PATH")
        return None
    chosen = {name: value for name in ("every", "keep") if (value := getattr(arguments, name)) is not None}
    try:
        if isinstance(chosen.get("every"), str) and chosen["every"].isdecimal():
            chosen["every"] += "epochs"
        checkpoint = Checkpoint(arguments.checkpoint, **chosen)
    except ValueError as error:
        raise UsageError(f"argument --every: {error}") from error
    check_output("--checkpoint", checkpoint.file)
    if checkpoint.file.exists() and not arguments.resume:
        raise UsageError(
            f"argument --checkpoint: {checkpoint.file} is there already: --resume goes on with it; remove it to begin "
            f"anew"
        )
    return checkpoint


def _command(arguments: argparse.Namespace) -> str:
    """Return the command line that resumes this run, quoted for the shell of this system."""
    return _quoted([*arguments.argv, *([] if arguments.resume else ["--resume"])])


def _repeating(arguments: argparse.Namespace) -> str:
    """Return the command line that repeats this run, also where NNBACKEND is not set."""
    chosen = os.environ.get("NNBACKEND", "")
    return _quoted([*arguments.argv, *(["--backend", chosen] if chosen and arguments.backend is None else [])])


def _quoted(arguments: list[str]) -> str:
    words = ["nnbackend", *arguments]
    return subprocess.list2cmdline(words) if WINDOWS else shlex.join(words)


class _Terminated(BaseException):
    """The process received SIGTERM."""


@contextmanager
def _termination() -> Iterator[None]:
    """Let SIGTERM raise _Terminated within the block, so that a checkpoint is still written before the process ends."""

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield  # the handler could not be set, or not be put back
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _warnings_printed(shown: bool) -> Iterator[None]:
    """Print each UserWarning within the block as a line of the command, or leave it out if not `shown`."""
    with warnings.catch_warnings():
        python_shows = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
            if category is not UserWarning:
                python_shows(message, category, *where, **how)
            elif shown:
                warn(message)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _table(result: TrainingResult) -> Iterator[str]:
    """Yield the lines of a table with a row for each epoch."""
    history, data = result.history, result.data
    other = "test" if data is None or data.validation is None else "validation"
    heads = ["training loss", "accuracy", f"{other} loss", "accuracy", "seconds"]
    widths = [15, 10, len(heads[2]) + 2, 10, 9]
    columns = [history.loss, history.accuracy, history.val_loss, history.val_accuracy, history.seconds]
    forms = [".4f", ".2%", ".4f", ".2%", ".2f"]
    there = [i for i, column in enumerate(columns) if column]
    if there:
        yield "epoch" + "".join(f"{heads[i]:>{widths[i]}}" for i in there)
    for epoch in range(len(history)):
        yield f"{epoch + 1:5}" + "".join(f"{columns[i][epoch]:{widths[i]}{forms[i]}}" for i in there)
