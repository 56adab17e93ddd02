"""Training on MNIST, or on a data set of its form, as `nnbackend train` does it."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from nnbackend import __version__
from nnbackend.backends import backend as current_backend
from nnbackend.backends import to_numpy, using
from nnbackend.datasets import SAMPLE_NOTE, mnist
from nnbackend.images import preparation_of
from nnbackend.layers import Affine, Layer, activation
from nnbackend.network import Network, convolutional_network
from nnbackend.optimizers import optimizer
from nnbackend.schedules import Cosine, rate
from nnbackend.training import Checkpoint, History, Trainer

# the first learning rate, measured on MNIST; other optimizers use their default
INITIAL_LEARNING_RATES = {"adam": 0.004, "adamw": 0.004, "momentum": 0.1, "nesterov": 0.1, "sgd": 0.5}


@dataclass(frozen=True, kw_only=True)
class MnistSettings:
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
class TrainingResult:
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
    settings: MnistSettings | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
) -> TrainingResult:
    """Train a fully connected network on MNIST, or a data set of its form, and test it.

    say: called with lines about backend, data and network before the training. progress: show a bar per epoch.
    checkpoint: where and when the run is kept; resume: go on with the one that is there, if there is one.
    Ctrl-C ends the training after the step in hand; `history.interrupted` then says so.
    Raises ValueError for settings that make no sense, DataError for data that cannot be had, BackendError for a
    backend that does not work, NumericalError for a training that diverges, CheckpointError for a checkpoint that
    cannot be written or is of a run with other settings, ModelFileError for one that is damaged.
    """
    settings = MnistSettings() if settings is None else settings
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
    return TrainingResult(network, history, test_loss, test_accuracy, seconds, asdict(settings) | became)


def _preparation(x: Any) -> dict[str, Any] | None:
    """How pictures are prepared for a network that learns from these images; None if they are no squares."""
    images = to_numpy(x[: min(1000, x.shape[0]), ...])
    side = math.isqrt(math.prod(images.shape[1:]))
    square = side * side == math.prod(images.shape[1:]) and (images.ndim == 2 or images.shape[1] == side)
    return asdict(preparation_of(images.reshape(-1, side, side))) if square else None


def _first_rate(settings: MnistSettings) -> float:
    """The learning rate to begin with. ValueError where the optimizer would refuse it, before any data is read."""
    known = INITIAL_LEARNING_RATES.get(settings.optimizer) if settings.lr is None else settings.lr
    if settings.lr is None and settings.model == "cnn" and known is not None:
        known /= 2  # measured, as above
    return rate(optimizer(settings.optimizer, **({} if known is None else {"lr": known})).lr, 0)


def _fully_connected(settings: MnistSettings, shape: tuple[int, ...], classes: int) -> tuple[Network, str]:
    """The network that --model mlp stands for, and what it is in words."""
    widths = [*shape, *settings.hidden, classes]
    layers: list[Layer] = []
    for before, width in pairwise(widths):
        layers += [Affine(before, width), activation(settings.activation)]
    network = Network(layers[:-1], seed=settings.seed, dtype=settings.dtype)
    return network, f"{'-'.join(map(str, widths))}, {settings.activation}"


def _convolutional(settings: MnistSettings, shape: tuple[int, ...], classes: int) -> tuple[Network, str]:
    """The network that --model cnn stands for, and what it is in words."""
    height, width, channels = shape
    network = convolutional_network(
        (height, width, channels), classes, dropout_ratio=0.5, seed=settings.seed, dtype=settings.dtype
    )
    return network, " ".join(network.layers)


MODELS = {"cnn": _convolutional, "mlp": _fully_connected}
