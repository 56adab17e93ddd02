"""The command `nnbackend`: arguments and printing. What a sub-command does is a function for scripts, too."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TextIO

from nnbackend import __version__, doctor
from nnbackend.backends import backend as current_backend
from nnbackend.backends import crossover, to_numpy, using
from nnbackend.datasets import SAMPLE_NOTE, mnist
from nnbackend.errors import DataError, NNBackendError, unknown_name
from nnbackend.images import Preparation, draw_images, preparation_of, read_images
from nnbackend.interchange import command
from nnbackend.layers import ACTIVATIONS, Affine, Layer, activation
from nnbackend.network import DTYPES, Network, convolutional_network, load
from nnbackend.optimizers import OPTIMIZERS, optimizer
from nnbackend.plotting import check_picture, plot_history
from nnbackend.schedules import Cosine, rate
from nnbackend.serialization import WINDOWS
from nnbackend.training import Checkpoint, History, Trainer

__all__ = ["Prediction", "Run", "Settings", "main", "predict_file", "train_mnist"]

INTERRUPTED, TERMINATED = 130, 143  # what a shell reports for a program that Ctrl-C, or SIGTERM, ended
MNIST_SIDE = 28  # for a network that takes images of any size
# the first learning rate, measured on MNIST; other optimizers use their default
FIRST_LEARNING_RATES = {"adam": 0.004, "adamw": 0.004, "momentum": 0.1, "nesterov": 0.1, "sgd": 0.5}


# --- train ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training run depends on. The defaults bring the embedded sample to 95.5 % or more in a few seconds.

    model: "mlp" is fully connected, with hidden layers of the widths `hidden`, each followed by `activation`; "cnn" is
    nnbackend.convolutional_network, which has layers of its own. lr: the first learning rate, which falls to 0 along
    half a cosine; None is one that suits the optimizer. backend: None is the current one.
    """

    data: str = "auto"
    model: str = "mlp"
    hidden: tuple[int, ...] = (512, 256)
    activation: str = "relu"
    optimizer: str = "adam"
    lr: float | None = None
    epochs: int = 12
    batch_size: int = 50
    seed: int = 0
    dtype: str = "float32"
    backend: str | None = None


@dataclass(frozen=True)
class Run:
    """What a training run gave. seconds: of the training alone. settings: those asked for, and what they became."""

    network: Network
    history: History
    test_loss: float
    test_accuracy: float
    seconds: float
    settings: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """The run as JSON knows it."""
        return {
            "settings": self.settings,
            "history": self.history.as_dict(),
            "test_accuracy": self.test_accuracy,
            "test_loss": self.test_loss,
            "seconds": self.seconds,
        }


def train_mnist(
    settings: Settings | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
) -> Run:
    """Train a fully connected network on MNIST, or a data set of its form, and test it.

    say: called with lines about backend, data and network before the training. progress: show a bar per epoch.
    checkpoint: where and when the run is kept; resume: go on with the one that is there, if there is one.
    Ctrl-C ends the training after the step in hand; `history.interrupted` then says so.
    Raises ValueError for settings that make no sense, DataError for data that cannot be had, BackendError for a
    backend that does not work, NumericalError for a training that diverges, CheckpointError for a checkpoint that
    cannot be written or is of a run with other settings, ModelFileError for one that is damaged.
    """
    settings = Settings() if settings is None else settings
    lr = _first_rate(settings)
    with using(settings.backend or current_backend()) as chosen:
        say(f"backend   {chosen.name}")
        data = mnist(settings.data, dtype=settings.dtype, flatten=settings.model == "mlp")
        train, test = (data.x_train, data.t_train), (data.x_test, data.t_test)
        rows = data.t_train.shape[0]
        say(f"data      {data.name} ({data.source}): {rows:,} images to train on, {data.t_test.shape[0]:,} to test")
        if data.source == "sample":
            say(textwrap.fill(SAMPLE_NOTE, 100, initial_indent=" " * 10, subsequent_indent=" " * 10))
        classes = 1 + max(int(chosen.xp.max(t)) for t in (data.t_train, data.t_test))
        network, words = MODELS[settings.model](settings, tuple(data.x_train.shape[1:]), classes)
        network.preparation = _preparation(data.x_train)
        size = sum(math.prod(values.shape) for values in network.params.values())
        say(f"network   {words}, {size:,} parameters, {settings.dtype}")
        say(
            f"training  {settings.optimizer}, learning rate {lr:g} falling to 0, batches of {settings.batch_size}, "
            f"{settings.epochs} epochs, seed {settings.seed}"
        )
        falling = Cosine(lr, steps=settings.epochs * math.ceil(rows / settings.batch_size))
        rule = optimizer(settings.optimizer, lr=falling)
        trainer = Trainer(network, rule, batch_size=settings.batch_size, seed=settings.seed, checkpoint=checkpoint)
        if resume and trainer.resume():
            say(f"resumed   after {trainer.epoch} epochs and {trainer.position} steps")
        before, began = sum(trainer.history.seconds) + trainer.seconds * (trainer.position > 0), time.perf_counter()
        history = trainer.fit(*train, settings.epochs, validation=test, progress=progress)
        seconds = before + time.perf_counter() - began
        test_loss, test_accuracy = network.loss(*test), network.accuracy(*test)
    became = {
        "lr": lr,
        "backend": chosen.name,
        "source": data.source,
        "parameters": size,
        "version": __version__,
    }
    return Run(network, history, test_loss, test_accuracy, seconds, asdict(settings) | became)


def _preparation(x: Any) -> dict[str, Any] | None:
    """How pictures are prepared for a network that learns from these images; None if they are no squares."""
    images = to_numpy(x[: min(1000, x.shape[0]), ...])
    side = math.isqrt(math.prod(images.shape[1:]))
    square = side * side == math.prod(images.shape[1:]) and (images.ndim == 2 or images.shape[1] == side)
    return asdict(preparation_of(images.reshape(-1, side, side))) if square else None


def _first_rate(settings: Settings) -> float:
    """The learning rate to begin with. ValueError where the optimizer would refuse it, before any data is read."""
    known = FIRST_LEARNING_RATES.get(settings.optimizer) if settings.lr is None else settings.lr
    if settings.lr is None and settings.model == "cnn" and known is not None:
        known /= 2  # measured, as above
    return rate(optimizer(settings.optimizer, **({} if known is None else {"lr": known})).lr, 0)


def _fully_connected(settings: Settings, shape: tuple[int, ...], classes: int) -> tuple[Network, str]:
    """The network that --model mlp stands for, and what it is in words."""
    widths = [*shape, *settings.hidden, classes]
    layers: list[Layer] = []
    for before, width in pairwise(widths):
        layers += [Affine(before, width), activation(settings.activation)]
    network = Network(layers[:-1], seed=settings.seed, dtype=settings.dtype)
    return network, f"{'-'.join(map(str, widths))}, {settings.activation}"


def _convolutional(settings: Settings, shape: tuple[int, ...], classes: int) -> tuple[Network, str]:
    """The network that --model cnn stands for, and what it is in words."""
    height, width, channels = shape
    network = convolutional_network(
        (height, width, channels), classes, dropout_ratio=0.5, seed=settings.seed, dtype=settings.dtype
    )
    return network, " ".join(network.layers)


MODELS = {"cnn": _convolutional, "mlp": _fully_connected}


def _train(arguments: argparse.Namespace) -> int:
    checkpoint = _checkpoint(arguments)
    files = {name: getattr(arguments, name) for name in ("save", "plot", "json")}
    for name, path in files.items():
        if path is not None:
            _check_output(f"--{name}", path)
    names = [name for name in Settings.__dataclass_fields__ if name != "hidden"]
    settings = Settings(hidden=tuple(arguments.hidden), **{name: getattr(arguments, name) for name in names})

    def note(line: str) -> None:
        if not arguments.quiet:
            _say(line)

    how_to_go_on = "" if checkpoint is None else f"go on with: {_command(arguments)}"
    try:
        with _termination():
            run = train_mnist(
                settings, say=note, progress=not arguments.quiet, checkpoint=checkpoint, resume=arguments.resume
            )
    except _Terminated:
        return _complain(f"terminated; {how_to_go_on}" if how_to_go_on else "terminated", TERMINATED)
    history = run.history
    for line in _table(history):
        note(line)
    if history.interrupted:
        _say(f"interrupted after {len(history)} of {settings.epochs} epochs")
        if how_to_go_on:
            _say(how_to_go_on)
    _say(f"test accuracy {run.test_accuracy:.2%}, test loss {run.test_loss:.4f}, trained in {run.seconds:.1f} s")
    if arguments.save is not None:
        run.network.save(arguments.save)
        note(f"saved the network to {arguments.save}")
    if arguments.plot is not None and len(history):
        plot_history(history, arguments.plot)
        note(f"drew the curves in {arguments.plot}")
    elif arguments.plot is not None:
        _say(f"no epoch was completed: {arguments.plot} is not drawn")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(run.record(), indent=2) + "\n", encoding="utf-8")
        note(f"wrote the record to {arguments.json}")
    return INTERRUPTED if history.interrupted else 0


def _checkpoint(arguments: argparse.Namespace) -> Checkpoint | None:
    """What --checkpoint, --every and --keep stand for."""
    if arguments.checkpoint is None:
        for option in ("every", "keep", "resume"):
            if getattr(arguments, option):
                raise _UsageError(f"argument --{option}: it needs --checkpoint PATH")
        return None
    chosen = {name: value for name in ("every", "keep") if (value := getattr(arguments, name)) is not None}
    try:
        if isinstance(chosen.get("every"), str) and chosen["every"].isdecimal():
            chosen["every"] += "epochs"
        checkpoint = Checkpoint(arguments.checkpoint, **chosen)
    except ValueError as error:
        raise _UsageError(f"argument --every: {error}") from error
    _check_output("--checkpoint", checkpoint.file)
    if checkpoint.file.exists() and not arguments.resume:
        raise _UsageError(
            f"argument --checkpoint: {checkpoint.file} is there already: --resume goes on with it; remove it to begin "
            f"anew"
        )
    return checkpoint


def _command(arguments: argparse.Namespace) -> str:
    """The command that goes on with this one, as the shell of this system takes it."""
    words = ["nnbackend", *arguments.argv, *([] if arguments.resume else ["--resume"])]
    return subprocess.list2cmdline(words) if WINDOWS else shlex.join(words)


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def _termination() -> Iterator[None]:
    """Within the block SIGTERM raises _Terminated: what is written at the end of a block is still written."""

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield  # a signal that cannot be taken, or whose handler could not be put back
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _table(history: History) -> Iterator[str]:
    yield "epoch  training loss  accuracy  test loss  accuracy  seconds"
    rows = zip(history.loss, history.accuracy, history.val_loss, history.val_accuracy, history.seconds, strict=True)
    for epoch, (loss, accuracy, val_loss, val_accuracy, seconds) in enumerate(rows, 1):
        yield f"{epoch:5}{loss:15.4f}{accuracy:10.2%}{val_loss:11.4f}{val_accuracy:10.2%}{seconds:9.2f}"


def _check_output(argument: str, path: Path) -> None:
    """Fail before the training, not after it: could a file be written there?"""
    try:
        if path.is_dir():
            raise _UsageError(f"argument {argument}: {path} is a folder, a file name is needed")
        if not path.parent.is_dir():
            raise _UsageError(f"argument {argument}: there is no folder {path.parent}")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(None, "it may not be overwritten")
        if argument == "--plot":
            check_picture(path)
    except (OSError, ValueError, ImportError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise _UsageError(f"argument {argument}: cannot write {path}: {reason}") from error


# --- predict ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """What a network makes of one image. best: the likeliest classes and their probabilities, likeliest first."""

    name: str
    best: list[tuple[int, float]]


def predict_file(
    network: Network,
    path: str | os.PathLike[str],
    *,
    top: int = 1,
    limit: int | None = None,
    shown: list[Any] | None = None,
) -> tuple[list[Prediction], int]:
    """The predictions for the images in a file, the first `limit` of them, and how many images it holds.

    path: a picture, or an IDX file of images (see nnbackend.images). A picture is prepared as `network.preparation`
    says. shown: the images, (side, side), as the network was shown them, are appended to this list.
    Raises ValueError for a network that is no classifier of square images, DataError for the file.
    """
    shape = tuple(MNIST_SIDE if length is None else length for length in network.input_shape or ())
    side = math.isqrt(math.prod(shape))
    if not shape or side * side != math.prod(shape):
        raise ValueError(f"the network takes rows of shape {network.input_shape}, and no square image fits that")
    images = read_images(path, side, Preparation.of(network.preparation, side))
    total, images = len(images), images[:limit]
    probabilities = to_numpy(network.predict_proba(images.reshape(-1, *shape)))
    if not network.loss_layer.classifies or probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"the network ends in {network.loss_layer}: it gives no probabilities of classes")
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
    if shown is not None:
        shown += list(images.reshape(-1, side, side))
    name = os.fspath(path)
    names = [name] if total == 1 else [f"{name}[{i}]" for i in range(len(images))]
    return [
        Prediction(label, [(int(k), float(row[k])) for k in ranked])
        for label, row, ranked in zip(names, probabilities, order, strict=True)
    ], total


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.show is not None:
        _check_drawing(arguments)
    network = load(arguments.model, backend=arguments.backend)
    status, shown, captions = 0, list[Any](), list[str]()
    for path in arguments.files:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", UserWarning)
            try:
                predictions, total = predict_file(network, path, top=arguments.top, limit=arguments.limit, shown=shown)
            except DataError as error:  # the other files are still worth a look
                status = _complain(error)
                continue
        for doubt in doubts:
            _warn(f"{doubt.message} (--show FILE.png draws what the network is shown)")
        captions += [f"{label} {p:.2%}" for prediction in predictions for label, p in prediction.best[:1]]
        for prediction in predictions:
            _say("  ".join([prediction.name, *(f"{label} {p:.2%}" for label, p in prediction.best)]))
        if total > len(predictions):
            _say(f"... {total:,} images in {path}; --limit {total} shows all")
    if arguments.show is not None and shown:
        draw_images(arguments.show, shown, captions)
        _say(f"drew what the network was shown in {arguments.show}")
    return status


def _check_drawing(arguments: argparse.Namespace) -> None:
    """Fail before the work: may --show draw there, and can it?"""
    if arguments.show.suffix.lower() != ".png":
        raise _UsageError(f"argument --show: {arguments.show}: a name that ends in .png is needed")
    if any(arguments.show.absolute() == Path(path).absolute() for path in (*arguments.files, arguments.model)):
        raise _UsageError(f"argument --show: {arguments.show} is read by this command")
    _check_output("--show", arguments.show)
    if find_spec("PIL") is None:
        raise _UsageError('argument --show: drawing needs Pillow: pip install "nnbackend[plot]"')


# --- doctor -----------------------------------------------------------------------------------------------------


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.measure:
        return _measure(arguments)
    checks = doctor.examine()
    _say(json.dumps([asdict(check) for check in checks], indent=2) if arguments.json else doctor.text(checks))
    return 0 if doctor.healthy(checks) else 1


def _measure(arguments: argparse.Namespace) -> int:
    found = doctor.measure(arguments.against, hidden=arguments.hidden)
    _say(json.dumps(asdict(found), indent=2) if arguments.json else doctor.table(found))
    if found.hidden != crossover.HIDDEN:
        if not arguments.json:
            _say("not kept: NNBACKEND=auto heeds a measurement of the default network")
        return 0
    try:
        kept = crossover.write(found)
    except OSError as error:  # it was made, and is on the screen
        _print(f"nnbackend: the measurement could not be kept: {error}", sys.stderr)
        return 0
    if not arguments.json:
        _say(f"kept in {kept}")
    return 0


# --- the command ------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process) and return its exit status.

    0: done. 1: it failed, and one line on stderr says why. 2: the arguments make no sense. 130: Ctrl-C. 143: SIGTERM.
    """
    try:
        arguments = _parser().parse_args(argv)
        arguments.argv = sys.argv[1:] if argv is None else list(argv)
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except _UsageError as error:
        return _complain(error, 2)
    except BrokenPipeError:  # `nnbackend ... | head`: nobody reads on, also not what is left in the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (NNBackendError, ValueError, TypeError, OSError, ImportError) as error:
        return _complain(error)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)
    return status


class _UsageError(Exception):
    """The arguments make no sense."""


class _Parser(argparse.ArgumentParser):
    """One line for an error, and the nearest known name for one that is unknown."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = action.dest.replace("_", " ")
            raise argparse.ArgumentError(None, unknown_name(kind, value, list(action.choices)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nnbackend",
        description="Train and use neural networks on NumPy or, with NNBACKEND=cupy, on a GPU.",
        epilog="NNBACKEND selects the backend: numpy (default), cupy, cupy:1, torch, torch:DEVICE, auto.",
    )
    parser.add_argument("--version", action="version", version=f"nnbackend {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    backend = _Parser(add_help=False)
    backend.add_argument("--backend", metavar="NAME", help="use this backend, whatever NNBACKEND says")

    train = commands.add_parser(
        "train",
        parents=[backend],
        help="train a network on a data set",
        description="Train a fully connected network and test it. Ctrl-C ends the training; files are still written.",
    )
    train.add_argument("data_set", choices=["mnist"], help="what to learn from")
    _add_settings(train)
    for name, text in (
        ("--save", "write the trained network there (safetensors)"),
        ("--plot", "draw loss and accuracy by epoch there (.png, .svg or .pdf)"),
        ("--json", "write settings, history and result there"),
    ):
        train.add_argument(name, type=Path, metavar="FILE", help=text)
    train.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="keep the run in this file (or in this folder), so that --resume can go on with it",
    )
    train.add_argument(
        "--every", metavar="N", help="write a checkpoint every N epochs, or Nsteps, or Ns (seconds) (default: 1)"
    )
    train.add_argument("--keep", type=_positive, metavar="K", help="keep the last K checkpoints (default: 1)")
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on with the checkpoint, with the same settings (--epochs, too); where there is none yet, begin",
    )
    train.add_argument("--quiet", action="store_true", help="no progress bar and no table, only the result")
    train.set_defaults(run=_train)

    predict = commands.add_parser(
        "predict",
        parents=[backend],
        help="classify pictures with a saved network",
        description="Classify digits in pictures (PNG, JPEG, ...) and IDX files with a network that `train` saved.",
    )
    predict.add_argument("model", type=Path, metavar="MODEL", help="file of a saved network")
    predict.add_argument("files", nargs="+", metavar="FILE", help="a picture, or an IDX file of images (.gz or not)")
    predict.add_argument("--top", type=_positive, default=1, metavar="K", help="show the K likeliest classes")
    predict.add_argument(
        "--limit", type=_positive, default=20, metavar="N", help="images to show of an IDX file (default: 20)"
    )
    predict.add_argument(
        "--show", type=Path, metavar="FILE", help="draw there (.png) what the network was shown, above its answers"
    )
    predict.set_defaults(run=_predict)

    examine = commands.add_parser(
        "doctor",
        help="say which backends work here, and what would mend the others",
        description="Examine this installation. Exit status 0 if the backend that NNBACKEND selects works, else 1; "
        "with --measure, 0 if the measurement was made.",
    )
    examine.add_argument("--json", action="store_true", help="print the result as JSON")
    examine.add_argument(
        "--measure",
        action="store_true",
        help="measure from which batch size on a GPU is faster; NNBACKEND=auto heeds the result",
    )
    examine.add_argument("--against", default="cupy", metavar="NAME", help="the backend to measure (default: cupy)")
    examine.add_argument(
        "--hidden",
        type=_positive,
        nargs="+",
        default=crossover.HIDDEN,
        metavar="N",
        help=f"widths of the hidden layers (default: {' '.join(map(str, crossover.HIDDEN))})",
    )
    examine.set_defaults(run=_doctor)
    command.add_parsers(commands, _say)
    return parser


def _add_settings(train: argparse.ArgumentParser) -> None:
    """The options that stand for the fields of Settings, with the defaults there."""
    defaults = asdict(Settings())

    def add(option: str, text: str, **how: Any) -> None:
        value = defaults[option.strip("-").replace("-", "_")]
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        note = "" if shown is None else f" (default: {shown})"
        train.add_argument(option, default=value, help=text + note, **how)

    add(
        "--data",
        "the sample that ships with nnbackend, all of MNIST (downloaded once), a folder of IDX or CSV files, or "
        "mnist.npz; auto: what NNBACKEND_DATA names if that is set, else all of MNIST if it is there already, else the "
        "sample",
        metavar="auto|sample|full|PATH",
    )
    add("--model", "mlp: fully connected; cnn: convolutions, with layers of its own", choices=sorted(MODELS))
    add("--hidden", "widths of the hidden layers", type=_positive, nargs="+", metavar="N")
    add("--activation", "what follows each hidden layer", choices=sorted(ACTIVATIONS))
    add("--optimizer", "update rule", choices=sorted(OPTIMIZERS))
    add("--lr", "first learning rate, which falls to 0; without it one that suits the optimizer", type=float)
    add("--epochs", "passes over the training images", type=_positive, metavar="N")
    add("--batch-size", "images per step", type=_positive, metavar="N")
    add("--seed", "decides the initial weights and the order of the images", type=_natural, metavar="N")
    add("--dtype", "of weights and data", choices=DTYPES)


def _positive(text: str) -> int:
    return _integer(text, 1)


def _natural(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {low}, got {text!r}")
    return value


def _say(line: str) -> None:
    _print(line, sys.stdout)


def _warn(doubt: object) -> None:
    _print(f"nnbackend: warning: {doubt}", sys.stderr)


def _complain(error: object, status: int = 1) -> int:
    _print(f"nnbackend: error: {error}", sys.stderr)
    return status


def _print(line: str, stream: TextIO) -> None:
    """Print a line; characters that the stream does not know (in a file's name, say) are escaped."""
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
