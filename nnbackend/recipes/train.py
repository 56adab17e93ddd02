"""Train a network on a data set of any kind and test it, as `nnbackend train` does it."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from nnbackend import __version__
from nnbackend.backends import Backend, to_numpy, using
from nnbackend.backends import backend as current_backend
from nnbackend.checks import not_negative
from nnbackend.datasets import SAMPLE_NOTE
from nnbackend.datasets.prepared import PreparedData, Rows, load_prepared
from nnbackend.datasets.table import TablePreparation
from nnbackend.errors import unknown_name
from nnbackend.functions.array import Array
from nnbackend.images import preparation_of
from nnbackend.layers import (
    Affine,
    Dropout,
    Flatten,
    Layer,
    Loss,
    MeanSquaredError,
    RandomAffine,
    RandomElastic,
    SoftmaxWithLoss,
    activation,
)
from nnbackend.network import Network, convolutional_network
from nnbackend.optimizers import optimizer
from nnbackend.report import LayerRecord, TrainingReport, run_record
from nnbackend.schedules import Cosine, rate
from nnbackend.training import Checkpoint, Communicator, History, Trainer

# The learning rates at which training begins, measured on MNIST. Other optimizers begin with their default.
INITIAL_LEARNING_RATES = {"adam": 0.004, "adamw": 0.004, "momentum": 0.1, "nesterov": 0.1, "sgd": 0.5}
MODELS = ("cnn", "mlp")
SHIFT, DEGREES, SCALE, BEND = 0.07, 10.0, 0.1, 0.7  # of augmentation; BEND in pixels of images of 28 x 28
# the pictures that are seen, with repetitions, and the most passes; measured on held-out digits, with augmentation
PICTURES_SEEN = {"mlp": (900_000, 40), "cnn": (960_000, 30)}
# of a cnn: more pictures fill more channels, and need fewer changes at random
MANY_PICTURES, CHANNELS, MORE_CHANNELS = 30_000, (16, 32), (32, 64)
STEPS_OF_PICTURES, STEPS_OF_TABLES = 3000, 600  # a small set is passed over as often as it takes to make so many steps
JUDGED = 10_000  # the most rows to train on that are looked at to see whether they are known by heart
BY_HEART = 0.03  # a gap between training and test, as a part of all answers, that is worth a word


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Holds the settings of a training run. A setting that is None is chosen to suit the data.

    data, target, task, drop, validation, side: see nnbackend.datasets.load_prepared. model: "mlp" is fully connected,
    with hidden layers of the widths `hidden`, each followed by `activation` and dropout; "cnn", for pictures, is
    nnbackend.convolutional_network, with twice the channels for 30,000 pictures or more. It ignores `hidden` and
    `activation`. dropout: the part of the activations that is dropped while training. augment: how much pictures are
    shifted, turned, scaled and, if they are of the form of MNIST, bent at random while training: 1 for as much as suits
    digits, 0 for not at all. lr: the learning rate of the first step. It falls to 0 along half a cosine. accumulate:
    the batches of a step, see nnbackend.Trainer. backend: the name of a backend, or None for the current one.
    """

    data: str = "auto"
    target: str | None = None
    task: str = "auto"
    drop: tuple[str, ...] = ()
    validation: float | None = None
    side: int | None = None
    model: str | None = None
    hidden: tuple[int, ...] | None = None
    activation: str = "relu"
    dropout: float | None = None
    augment: float | None = None
    optimizer: str = "adam"
    lr: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    seed: int = 0
    dtype: str = "float32"
    backend: str | None = None


MnistSettings = TrainSettings  # the name of earlier versions


@dataclass(frozen=True)
class TrainingResult:
    """Holds the result of a training run.

    network: the trained network, without the layers that change pictures at random while training.
    test_loss, test_accuracy: of the trained network, on the test rows of the data; if it has none, on the rows that
    were held out, or if there are none, on those it was trained on. `tested_on` says which: "test", "validation" or
    "training". test_accuracy is None for numbers. Then test_error is the root of the mean squared error, in the unit of
    the target, and r_squared the coefficient of determination: 1 for exact answers, 0 for always the mean.
    seconds: the time of the training alone. settings: the settings of the run, with what was chosen in the place of
    None; also the source of the data, the number of parameters and the version of nnbackend.
    advice: what to try if the network only learned its data by heart, or None.
    """

    network: Network
    history: History
    test_loss: float
    test_accuracy: float | None
    seconds: float
    settings: dict[str, Any]
    tested_on: str = "test"
    test_error: float | None = None
    r_squared: float | None = None
    advice: str | None = None
    data: PreparedData | None = field(default=None, repr=False)

    def rows(self, part: str) -> Rows | None:
        """Return rows and targets of "training", "validation" or "test", as the network takes them, on the host.

        Returns None if the data has no such part.
        """
        found = None if self.data is None else getattr(self.data, {"training": "train"}.get(part, part))
        if found is None or len(self.network.input_shape or ()) != 1:
            return found
        x, t = found
        return x.reshape(len(x), -1), t

    def record(self) -> dict[str, Any]:
        """Return the settings, the history and the results as values that JSON can express."""
        names = ("test_accuracy", "test_loss", "test_error", "r_squared", "seconds")
        results = {name: getattr(self, name) for name in names}
        return run_record(self.history, self.settings, **results) | {"tested_on": self.tested_on}


def train_data(
    settings: TrainSettings | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    resume: bool = False,
    communicator: Communicator | None = None,
    report: TrainingReport | None = None,
) -> TrainingResult:
    """Train a network on a data set, and test it.

    settings: None uses the defaults, which train on MNIST. say: a function that is called with lines about the backend,
    the data and the network before the training. progress: show a bar for each epoch. checkpoint: where and when to
    write checkpoints. resume: go on with the checkpoint that is there; if there is none, begin. communicator: the
    processes that train together, see nnbackend.communicator; make it before the backend is selected. report: follows
    the training, so that it can write a page about it.
    Ctrl-C ends the training after the current step, and sets `history.interrupted`.

    Raises ValueError for settings that are out of range, DataError if the data cannot be read or downloaded,
    BackendError if the backend does not work, and NumericalError if the training diverges. Raises CheckpointError if
    the checkpoint cannot be written or belongs to a run with other settings, and ModelFileError if it is damaged.
    """
    settings = TrainSettings() if settings is None else settings
    _check(settings)
    communicator = Communicator() if communicator is None else communicator
    with using(settings.backend or current_backend()) as chosen:
        say(f"backend   {chosen.name}")
        names = ("target", "task", "drop", "validation", "side", "seed", "dtype")
        load = partial(load_prepared, settings.data, **{name: getattr(settings, name) for name in names})
        data = communicator.first_on_root(load)  # one process downloads the files for all
        for line in _about(data, settings.task):
            say(line)
        settings = _completed(settings, data)
        network, words = _network(settings, data)
        network.preparation = _preparation(data)
        size = sum(math.prod(values.shape) for values in network.params.values())
        say(f"network   {words}, {size:,} parameters, {settings.dtype}")
        say(
            f"training  {settings.optimizer}, learning rate {settings.lr:g} falling to 0, "
            f"{_steps(settings, communicator)}, {settings.epochs} epochs, seed {settings.seed}"
        )
        trainer = _trainer(settings, network, len(data.train[0]), checkpoint, communicator)
        if resume and trainer.resume():
            say(f"resumed   after {trainer.epoch} epochs and {trainer.state.step} steps")
        parts = {"test": data.test, "validation": data.validation, "training": data.train}
        placed = {name: _on_backend(chosen, settings, rows) for name, rows in parts.items() if rows is not None}
        state, began = trainer.state, time.perf_counter()
        before = sum(state.history.seconds) + state.seconds * (state.step > 0)
        x, t = placed["training"]
        validation = placed.get("validation") or placed.get("test")
        tested_on = next(iter(placed))
        callbacks = [] if report is None else [_watched(report, trainer, data, settings, (x, t), placed[tested_on])]
        history = trainer.fit(x, t, settings.epochs or 1, validation=validation, callbacks=callbacks, progress=progress)
        seconds = before + time.perf_counter() - began
        score = _score(network, data, placed[tested_on])
        advice = None if tested_on == "training" else _advice(network, data, placed["training"], placed[tested_on])
        network = _deployed(settings, network)
    others = {"source": data.source, "parameters": size, "version": __version__, "backend": chosen.name}
    return TrainingResult(
        network, history, *score[:2], seconds, asdict(settings) | others, tested_on, *score[2:], advice, data
    )


train_mnist = train_data  # the name of earlier versions


def _check(settings: TrainSettings) -> None:
    """Raise ValueError, before any data is read, if a setting is out of range."""
    if settings.model is not None and settings.model not in MODELS:
        raise ValueError(f"model: {unknown_name('model', settings.model, MODELS)}")
    Dropout(0.0 if settings.dropout is None else settings.dropout)
    if settings.augment is not None:
        not_negative("augment", settings.augment)
    _first_rate(settings)


def _about(data: PreparedData, task: str) -> list[str]:
    """Return lines that describe the data."""
    of_mnist = data.preparation is None
    what = "images" if of_mnist else "pictures" if data.pictures else "rows"
    counts = [f"{len(data.train[0]):,} {what} to train on"]
    counts += [f"{len(data.validation[0]):,} held out"] if data.validation is not None else []
    counts += [f"{len(data.test[0]):,} to test"] if data.test is not None else []
    lines = [f"data      {data.name} ({data.source}): {', '.join(counts)}"]
    if data.source == "sample":
        lines.append(textwrap.fill(SAMPLE_NOTE, 100, initial_indent=" " * 10, subsequent_indent=" " * 10))
    if of_mnist:
        return lines
    if data.pictures:
        height, width, channels = data.train[0].shape[1:]
        lines.append(f"pictures  {height} x {width} pixels, {'grey' if channels == 1 else f'{channels} channels'}")
    elif data.features:
        lines.append(f"features  {_listed(data.features)}")
    doubtful = task == "auto" and data.target.classes is not None and all(map(_is_number, data.target.classes))
    hint = "; --task numbers takes them for numbers" if doubtful and not data.pictures else ""
    return [*lines, f"target    {data.target}{hint}"]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _listed(names: tuple[str, ...]) -> str:
    shown = [name if len(name) <= 24 else f"{name[:21]}..." for name in names[:8]]
    return f"{len(names)}: {', '.join(shown)}" + (", ..." if len(names) > len(shown) else "")


def _completed(settings: TrainSettings, data: PreparedData) -> TrainSettings:
    """Return the settings with what suits the data in the place of None."""
    rows, of_mnist = len(data.train[0]), data.preparation is None
    model = settings.model or ("cnn" if data.pictures and not of_mnist else "mlp")
    if model == "cnn" and not data.pictures:
        raise ValueError("model: 'cnn' is for pictures, and the data is a table; use 'mlp'")
    if model == "cnn" and data.target.classes is None:
        raise ValueError("model: 'cnn' answers with classes, and the data asks for numbers; use 'mlp'")
    batch_size = settings.batch_size or max(1, min(100 if data.pictures else 50, rows // 10))
    seen, most = PICTURES_SEEN[model] if data.pictures else (0, 0)
    many = rows >= MANY_PICTURES
    passes = max(12, min(most, seen // rows))
    least = math.ceil((STEPS_OF_PICTURES if data.pictures else STEPS_OF_TABLES) / math.ceil(rows / batch_size))
    epochs = max(passes, min(200, least))
    suited: dict[str, Any] = {
        "model": model,
        "hidden": (512, 256) if data.pictures else (64, 64),
        "dropout": (0.3 if many else 0.2) if model == "cnn" else 0.0 if data.pictures else 0.1,
        "augment": (0.5 if many and model == "cnn" else 1.0) if data.pictures else 0.0,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": _first_rate(replace(settings, model=model)),
    }
    return replace(settings, **{name: value for name, value in suited.items() if getattr(settings, name) is None})


def _trainer(
    settings: TrainSettings,
    network: Network,
    rows: int,
    checkpoint: Checkpoint | None,
    communicator: Communicator,
) -> Trainer:
    assert settings.epochs is not None
    assert settings.batch_size is not None
    assert settings.lr is not None
    step_rows = settings.batch_size * settings.accumulate
    falling = Cosine(settings.lr, steps=settings.epochs * math.ceil(rows / step_rows))
    return Trainer(
        network,
        optimizer(settings.optimizer, lr=falling),
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        seed=settings.seed,
        checkpoint=checkpoint,
        communicator=communicator,
    )


def _on_backend(backend: Backend, settings: TrainSettings, rows: Rows) -> tuple[Array, Array]:
    """Return rows and targets on the backend; for a fully connected network, pictures as rows of pixels."""
    x, t = rows
    x = x.reshape(len(x), -1) if settings.model == "mlp" and not settings.augment else x
    return backend.asarray(x, settings.dtype), backend.asarray(t, "int64" if t.dtype.kind == "i" else settings.dtype)


def _score(
    network: Network, data: PreparedData, rows: tuple[Array, Array]
) -> tuple[float, float | None, float | None, float | None]:
    """Return loss and accuracy or, for numbers, loss, None, the error in the unit of the target, and R squared."""
    loss, t = network.loss(*rows), to_numpy(rows[1]).astype("float64")
    if data.target.classes is not None:
        return loss, network.accuracy(*rows), None, None
    squared = float(((to_numpy(network.predict(rows[0])).reshape(-1) - t) ** 2).mean())
    spread = float(t.var())
    return loss, None, math.sqrt(squared) * data.target.scale, 1.0 - squared / spread if spread > 0 else None


def _watched(
    report: TrainingReport,
    trainer: Trainer,
    data: PreparedData,
    settings: TrainSettings,
    rows: tuple[Array, Array],
    held_out: tuple[Array, Array],
) -> LayerRecord:
    """Let a report follow the training. Return its callback."""
    target, prepared = data.target, data.preparation
    return report.watch(
        trainer,
        rows,
        held_out,
        classes=target.classes,
        features=data.features or None,
        feature_scaling=prepared.scaling if isinstance(prepared, TablePreparation) else None,
        target_scaling=None if target.classes is not None else (target.mean, target.scale),
        image_shape=data.train[0].shape[1:] if data.pictures else None,
        data={"data": data.name, "source": data.source, "target": str(target)},
        settings=asdict(settings),
    )


def _advice(
    network: Network,
    data: PreparedData,
    fitted: tuple[Array, Array],
    others: tuple[Array, Array],
) -> str | None:
    """Return what to try if the network knows the rows to train on far better than others, or None.

    A gap counts if it is larger than BY_HEART, and than three standard errors of the figure that was measured.
    """
    figures, n = [], min(JUDGED, others[0].shape[0])
    for x, t in (fitted, others):
        rows = slice(min(JUDGED, x.shape[0]))
        figures.append(_score(network, data, (x[rows, ...], t[rows])))
    (_, accuracy, _, r_squared), (_, other_accuracy, _, other_r_squared) = figures
    if accuracy is not None and other_accuracy is not None:
        gap, noise = accuracy - other_accuracy, 3.0 * math.sqrt(other_accuracy * (1.0 - other_accuracy) / n)
        found = f"accuracy {accuracy:.2%} in training, {other_accuracy:.2%} on other rows"
    elif r_squared is not None and other_r_squared is not None:
        gap, noise = r_squared - other_r_squared, 3.0 * (1.0 - other_r_squared) / math.sqrt(n)
        found = f"R squared {r_squared:.3f} in training, {other_r_squared:.3f} on other rows"
    else:
        return None
    if gap <= max(BY_HEART, noise):
        return None
    tries = ["more data", "more --dropout", "narrower layers (--hidden)", "fewer --epochs"]
    tries[1:1] = ["more --augment"] if data.pictures else []
    return f"it knows its training rows by heart ({found}); try {', '.join(tries)}"


def _steps(settings: TrainSettings, communicator: Communicator) -> str:
    """Return in words what a step is."""
    words = f"batches of {settings.batch_size}"
    if settings.accumulate > 1:
        words += f", {settings.accumulate} a step"
    return words if communicator.size == 1 else f"{words}, shared by {communicator.size} processes"


def _preparation(data: PreparedData) -> dict[str, Any] | None:
    """Return how new data is prepared, for the network's file. Of images like MNIST's it is measured."""
    if data.preparation is not None:
        return data.preparation.stored()
    images = data.train[0][:1000, :, :, 0]
    return asdict(preparation_of(images)) if images.shape[1] == images.shape[2] else None


def _first_rate(settings: TrainSettings) -> float:
    """Return the learning rate of the first step. Raise ValueError if it is out of range."""
    known = INITIAL_LEARNING_RATES.get(settings.optimizer) if settings.lr is None else settings.lr
    if settings.lr is None and settings.model == "cnn" and known is not None:
        known /= 2  # measured on MNIST
    return rate(optimizer(settings.optimizer, **({} if known is None else {"lr": known})).lr, 0)


def _network(settings: TrainSettings, data: PreparedData) -> tuple[Network, str]:
    """Return a network for the data, and a description of it in words."""
    shape, classes = data.train[0].shape[1:], data.target.classes
    outputs = 1 if classes is None else len(classes)
    assert settings.dropout is not None
    assert settings.hidden is not None
    layers, words = _augmentation(settings, data)
    if settings.model == "cnn":
        height, width, channels = shape
        wide = MORE_CHANNELS if len(data.train[0]) >= MANY_PICTURES else CHANNELS
        plain = convolutional_network((height, width, channels), outputs, channels=wide, dropout_ratio=settings.dropout)
        layers += [type(layer)(**layer.config()) for layer in plain.layers.values()]
        network = Network(layers, seed=settings.seed, dtype=settings.dtype)
        return network, " ".join(plain.layers) + words
    widths = [math.prod(shape), *settings.hidden, outputs]
    layers += [Flatten()] if layers else []
    for before, width in pairwise(widths[:-1]):
        layers += [Affine(before, width), activation(settings.activation)]
        layers += [Dropout(settings.dropout)] if settings.dropout else []
    layers.append(Affine(widths[-2], outputs))
    loss: Loss = MeanSquaredError() if classes is None else SoftmaxWithLoss()
    network = Network(layers, loss, seed=settings.seed, dtype=settings.dtype)
    dropped = f", dropout {settings.dropout:g}" if settings.dropout else ""
    return network, f"{'-'.join(map(str, widths))}, {settings.activation}{dropped}{words}"


def _augmentation(settings: TrainSettings, data: PreparedData) -> tuple[list[Layer], str]:
    """Return the layers that change pictures at random while training, and what they do in words."""
    much = settings.augment
    if not much:
        return [], ""
    if not data.pictures:
        raise ValueError(f"augment: only pictures are changed at random, and the data is a table; got {much}")
    fill = data.background
    layers: list[Layer] = [RandomAffine(SHIFT * much, DEGREES * much, min(0.9, SCALE * much), fill)]
    if data.preparation is not None:
        return layers, ", pictures shifted, turned and scaled at random"
    side = min(data.train[0].shape[1:3])
    layers.append(RandomElastic(BEND * much * side / 28, max(1.0, side / 4), fill))
    return layers, ", images shifted, turned, scaled and bent at random"


def _deployed(settings: TrainSettings, network: Network) -> Network:
    """Return the network without the layers that change pictures while training; it shares no values with it."""
    if not settings.augment:
        return network
    kept = [layer for layer in network.layers.values() if not layer.identity]
    if settings.model == "mlp":
        kept = kept[1:]  # which made rows of the pictures
    plain = Network(
        [type(layer)(**layer.config()) for layer in kept],
        network.loss_layer,
        seed=network.seed,
        dtype=network.dtype,
        backend=network.backend,
    )
    with network.backend.active():
        plain.buffer.restore(network.buffer.snapshot())
    plain.preparation = network.preparation
    return plain
