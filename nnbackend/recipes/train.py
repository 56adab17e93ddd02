"""Train a network on MNIST, or on a data set of its form, as `nnbackend train` does it."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from nnbackend import __version__
from nnbackend.backends import backend as current_backend
from nnbackend.backends import to_numpy, using
from nnbackend.datasets import SAMPLE_NOTE, Dataset, mnist
from nnbackend.images import preparation_of
from nnbackend.layers import Affine, Layer, activation
from nnbackend.network import Network, convolutional_network
from nnbackend.optimizers import optimizer
from nnbackend.report import LayerRecord, TrainingReport, run_record
from nnbackend.schedules import Cosine, rate
from nnbackend.training import Checkpoint, Communicator, History, Trainer

# The learning rates at which training begins, measured on MNIST. Other optimizers begin with their default.
INITIAL_LEARNING_RATES = {"adam": 0.004, "adamw": 0.004, "momentum": 0.1, "nesterov": 0.1, "sgd": 0.5}


@dataclass(frozen=True, kw_only=True)
class MnistSettings:
    """Holds the settings of a training run. With the defaults the sample gives an accuracy of 95.5 % or more.

    data: see nnbackend.datasets.mnist. model: "mlp" is fully connected, with hidden layers of the widths `hidden`, each
    followed by `activation`; "cnn" is nnbackend.convolutional_network, which ignores `hidden` and `activation`. lr: the
    learning rate of the first step. It falls to 0 along half a cosine. None chooses a rate that suits the optimizer.
    accumulate: the batches of a step, see nnbackend.Trainer. backend: the name of a backend, or None for the current
    one.
    """

    data: str = "auto"
    model: str = "mlp"
    hidden: tuple[int, ...] = (512, 256)
    activation: str = "relu"
    optimizer: str = "adam"
    lr: float | None = None
    epochs: int = 12
    batch_size: int = 50
    accumulate: int = 1
    seed: int = 0
    dtype: str = "float32"
    backend: str | None = None


@dataclass(frozen=True)
class TrainingResult:
    """Holds the result of a training run.

    test_loss, test_accuracy: of the trained network, on the test images. seconds: the time of the training alone.
    settings: the settings of the run, with the chosen learning rate and backend in the place of None; also the source
    of the data, the number of parameters and the version of nnbackend.
    """

    network: Network
    history: History
    test_loss: float
    test_accuracy: float
    seconds: float
    settings: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the settings, the history and the results as values that JSON can express."""
        results = {name: getattr(self, name) for name in ("test_accuracy", "test_loss", "seconds")}
        return run_record(self.history, self.settings, **results)


def train_mnist(
    settings: MnistSettings | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    communicator: Communicator | None = None,
    report: TrainingReport | None = None,
) -> TrainingResult:
    """Train a network on MNIST, or on a data set of its form, and test it.

    settings: None uses the defaults. say: a function that is called with lines about the backend, the data and the
    network before the training. progress: show a bar for each epoch. checkpoint: where and when to write checkpoints.
    resume: go on with the checkpoint that is there; if there is none, begin. communicator: the processes that train
    together, see nnbackend.communicator; make it before the backend is selected. report: follows the training, so that
    it can write a page about it.
    Ctrl-C ends the training after the current step, and sets `history.interrupted`.

    Raises ValueError for settings that are out of range, DataError if the data cannot be read or downloaded,
    BackendError if the backend does not work, and NumericalError if the training diverges. Raises CheckpointError if
    the checkpoint cannot be written or belongs to a run with other settings, and ModelFileError if it is damaged.
    """
    settings = MnistSettings() if settings is None else settings
    lr = _first_rate(settings)
    communicator = Communicator() if communicator is None else communicator
    with using(settings.backend or current_backend()) as chosen:
        say(f"backend   {chosen.name}")
        load = partial(mnist, settings.data, dtype=settings.dtype, flatten=settings.model == "mlp")
        data = communicator.first_on_root(load)  # one process downloads the files for all
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
            f"training  {settings.optimizer}, learning rate {lr:g} falling to 0, {_steps(settings, communicator)}, "
            f"{settings.epochs} epochs, seed {settings.seed}"
        )
        step_rows = settings.batch_size * settings.accumulate
        falling = Cosine(lr, steps=settings.epochs * math.ceil(rows / step_rows))
        rule = optimizer(settings.optimizer, lr=falling)
        trainer = Trainer(
            network,
            rule,
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            seed=settings.seed,
            checkpoint=checkpoint,
            communicator=communicator,
        )
        if resume and trainer.resume():
            say(f"resumed   after {trainer.epoch} epochs and {trainer.state.step} steps")
        state, began = trainer.state, time.perf_counter()
        before = sum(state.history.seconds) + state.seconds * (state.step > 0)
        watched = (
            [] if report is None else [_watched(report, trainer, train, test, data, asdict(settings) | {"lr": lr})]
        )
        history = trainer.fit(*train, settings.epochs, validation=test, callbacks=watched, progress=progress)
        seconds = before + time.perf_counter() - began
        test_loss, test_accuracy = network.loss(*test), network.accuracy(*test)
    chosen_settings = {
        "lr": lr,
        "backend": chosen.name,
        "source": data.source,
        "parameters": size,
        "version": __version__,
    }
    return TrainingResult(network, history, test_loss, test_accuracy, seconds, asdict(settings) | chosen_settings)


def _watched(
    report: TrainingReport, trainer: Trainer, train: Any, test: Any, data: Dataset, settings: dict[str, Any]
) -> LayerRecord:
    facts = {"data": data.name, "source": data.source}
    return report.watch(trainer, train, test, data=facts, settings=settings)


def _steps(settings: MnistSettings, communicator: Communicator) -> str:
    """Return in words what a step is."""
    words = f"batches of {settings.batch_size}"
    if settings.accumulate > 1:
        words += f", {settings.accumulate} a step"
    return words if communicator.size == 1 else f"{words}, shared by {communicator.size} processes"


def _preparation(x: Any) -> dict[str, Any] | None:
    """Measure how to prepare pictures for a network that learns from x. Return None if its images are not square."""
    images = to_numpy(x[: min(1000, x.shape[0]), ...])
    side = math.isqrt(math.prod(images.shape[1:]))
    square = side * side == math.prod(images.shape[1:]) and (images.ndim == 2 or images.shape[1] == side)
    return asdict(preparation_of(images.reshape(-1, side, side))) if square else None


def _first_rate(settings: MnistSettings) -> float:
    """Return the learning rate of the first step. Raise ValueError, before any data is read, if it is out of range."""
    known = INITIAL_LEARNING_RATES.get(settings.optimizer) if settings.lr is None else settings.lr
    if settings.lr is None and settings.model == "cnn" and known is not None:
        known /= 2  # measured on MNIST
    return rate(optimizer(settings.optimizer, **({} if known is None else {"lr": known})).lr, 0)


def _fully_connected(settings: MnistSettings, shape: tuple[int, ...], classes: int) -> tuple[Network, str]:
    """Return a fully connected network and a description of it in words."""
    widths = [*shape, *settings.hidden, classes]
    layers: list[Layer] = []
    for before, width in pairwise(widths):
        layers += [Affine(before, width), activation(settings.activation)]
    network = Network(layers[:-1], seed=settings.seed, dtype=settings.dtype)
    return network, f"{'-'.join(map(str, widths))}, {settings.activation}"


def _convolutional(settings: MnistSettings, shape: tuple[int, ...], classes: int) -> tuple[Network, str]:
    """Return a convolutional network and a description of it in words."""
    height, width, channels = shape
    network = convolutional_network(
        (height, width, channels), classes, dropout_ratio=0.5, seed=settings.seed, dtype=settings.dtype
    )
    return network, " ".join(network.layers)


MODELS = {"cnn": _convolutional, "mlp": _fully_connected}
