"""What an array library can do here: every function, every layer, and networks that train, compared with NumPy."""

from __future__ import annotations

import importlib
import linecache
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from nnbackend import functions
from nnbackend.backends import Backend, resolve, to_numpy
from nnbackend.backends.base import ROOMS
from nnbackend.backends.select import check_views
from nnbackend.errors import BackendError
from nnbackend.functions import optimizers as steps
from nnbackend.functions.array import array_namespace, device
from nnbackend.interchange.parts import HostArray, with_values
from nnbackend.layers import (
    ELU,
    GRU,
    LAYERS,
    LSTM,
    RNN,
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Embedding,
    Flatten,
    GaussianNoise,
    LastStep,
    Layer,
    LayerNormalization,
    LeakyReLU,
    MaxPooling,
    MeanSquaredError,
    MultiHeadAttention,
    Parallel,
    PositionalEncoding,
    RandomAffine,
    RandomElastic,
    RandomFlip,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SoftmaxWithLoss,
    Tanh,
)
from nnbackend.network import Network
from nnbackend.optimizers import Adam
from nnbackend.training import Trainer

FUNCTION, INFERENCE, TRAINING, NETWORK = "function", "layer, inference", "layer, training", "network"
LARGEST = math.sqrt(float(np.finfo(np.float32).eps))  # a difference, in units of the largest value, that is no rounding
LONGEST = 200  # characters of a note


@dataclass(frozen=True)
class Row:
    """One thing that was tried. note: the largest difference from NumPy, or the call that failed and its message."""

    kind: str
    name: str
    works: bool
    note: str


@dataclass(frozen=True)
class Conformance:
    """What `conformance` found. immutable: why networks cannot train on such arrays; "" if they can be written to."""

    library: str
    version: str
    device: str
    immutable: str
    rows: tuple[Row, ...]

    @property
    def works(self) -> bool:
        """Whether everything works."""
        return all(row.works for row in self.rows)

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{self.library} {self.version} on {self.device}"]
        if self.immutable:
            lines.append(f"its arrays are immutable: {self.immutable}")
        for kind in dict.fromkeys(row.kind for row in self.rows):
            rows = [row for row in self.rows if row.kind == kind]
            lines += ["", f"{kind}: {sum(row.works for row in rows)} of {len(rows)} work"]
            lines += [f"  {row.name:{width}}  {'works' if row.works else 'FAILS'}  {row.note}" for row in rows]
        return "\n".join(lines)


def conformance(xp: ModuleType | str) -> Conformance:
    """Try every function, layer and kind of network on an array library, and return a table of what works.

    xp: an array-API namespace, its import path such as "jax.numpy", or the name of a backend such as "torch:cuda:0".
    A library that is no backend yet is one while this runs. Results in float32 are compared with NumPy's in float64.
    Raises BackendError for a library that is not installed or does not work at all.
    """
    with _opened(xp) as (on, version):
        immutable = ""
        try:
            check_views(on)
        except BackendError as error:
            immutable = str(error)
        rows = [_tried(FUNCTION, name, on, _function, function, arguments) for name, function, arguments in _calls()]
        for name, (make, shape) in MAKE.items():
            rows.append(_tried(INFERENCE, name, on, _inference, make, shape))
        for name, (make, shape) in MAKE.items():
            rows.append(_tried(TRAINING, name, on, _training, make, shape))
        for name, (network, shape) in NETWORKS.items():
            rows.append(_tried(NETWORK, f"{name}, inference", on, _network_inference, network, shape))
            rows.append(_tried(NETWORK, f"{name}, training", on, _network_training, network, shape))
        return Conformance(on.name, version, str(on.device), immutable, tuple(rows))


def markdown(results: Sequence[Conformance]) -> str:
    """Return one table of several libraries, and below it what fails, as Markdown."""
    heads = [f"{result.library} {result.version}" for result in results]
    lines = [
        "# What works on which array library",
        "",
        f"Written by `nnbackend conformance {' '.join(result.library for result in results)} --markdown FILE`. The "
        f"numbers are the largest differences of results in float32 from NumPy's in float64, in units of the largest "
        f"value; those of networks are of float32 from NumPy's float32.",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    kind, notes = "", list[str]()
    for rows in zip(*(result.rows for result in results), strict=True):
        if rows[0].kind != kind:
            kind = rows[0].kind
            counts = [sum(row.works for row in result.rows if row.kind == kind) for result in results]
            total = sum(row.kind == kind for row in results[0].rows)
            lines.append(f"| **{kind}** | " + " | ".join(f"**{count} of {total}**" for count in counts) + " |")
        lines.append(f"| {rows[0].name} | " + " | ".join(row.note if row.works else "fails" for row in rows) + " |")
    for result, head in zip(results, heads, strict=True):
        failed = [row for row in result.rows if not row.works]
        if result.immutable:
            notes += ["", f"{head}: its arrays are immutable ({result.immutable})."]
        if failed:
            notes += ["", f"What fails on {head}:", "", *(f"- {row.kind} {row.name}: {row.note}" for row in failed)]
    return "\n".join([*lines, *notes, ""])


# --- the library ------------------------------------------------------------------------------------------------


class Guest(Backend):
    """A library that has no room of its own."""

    family: ClassVar[str] = ""

    @classmethod
    def to_host(cls, x: Any) -> Any:
        for method in ("asnumpy", "unwrap_numpy"):  # for libraries whose arrays do not become NumPy's by themselves
            if hasattr(x, method):
                return getattr(x, method)()
        return np.asarray(x)

    def version(self) -> str:
        return str(getattr(sys.modules[self.name.partition(".")[0]], "__version__", "of unknown version"))

    def arithmetic(self) -> dict[str, Any]:
        return {self.family: self.version()}


@contextmanager
def _opened(xp: ModuleType | str) -> Iterator[tuple[Backend, str]]:
    """Yield the backend of a library, and its version; one without a room gets one for as long as the block runs."""
    name = xp if isinstance(xp, str) else xp.__name__.removeprefix("array_api_compat.")
    root = name.partition(":")[0].partition(".")[0]
    if root in ROOMS:
        on = resolve(name if isinstance(xp, str) else root)
        yield on, on.version()
        return
    try:
        module = importlib.import_module(name) if isinstance(xp, str) else xp
    except ImportError as error:
        raise BackendError(f"{name!r} cannot be imported: {error}") from error
    try:
        sample = module.asarray([1.0])
        namespace, where = array_namespace(sample), device(sample)
    except Exception as error:  # whatever an unknown library raises
        raise BackendError(f"{name!r} is no array-API namespace: {_message(error)}") from error
    family = type(sample).__module__.partition(".")[0]
    kind = type("Guest", (Guest,), {"family": family})
    former = ROOMS.get(family)
    ROOMS[family] = kind
    try:
        on = kind(name, namespace, where)
        yield on, on.version()
    finally:
        if former is None:
            del ROOMS[family]
        else:
            ROOMS[family] = former


def _tried(kind: str, name: str, on: Backend, what: Callable[..., float], *arguments: Any) -> Row:
    try:
        with np.errstate(all="ignore"):
            difference = what(on, *arguments)
    except Exception as error:  # whatever an unknown library raises
        return Row(kind, name, False, _cause(error))
    works = difference <= LARGEST
    return Row(kind, name, works, f"{difference:.1g}" if works else f"differs by {difference:.2g} of the largest value")


def _cause(error: Exception) -> str:
    """Return the line of this library at which an error arose, and its message."""
    here, at = Path(functions.__file__).parent.parent, ""
    trace = error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if here in path.parents and path != Path(__file__):
            line = linecache.getline(str(path), trace.tb_lineno).strip()
            at = f"{path.relative_to(here)}:{trace.tb_lineno} `{line}`: "
        trace = trace.tb_next
    return (at + _message(error))[:LONGEST]


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _difference(found: Any, expected: Any) -> float:
    """Return the largest difference of two results, in units of the largest value. Raise ValueError for two shapes."""
    if isinstance(expected, tuple | list):
        return _largest(_difference(a, b) for a, b in zip(found, expected, strict=True))
    if expected is None or type(expected) in (int, float):
        return 0.0 if found == expected else math.inf
    a, b = np.asarray(to_numpy(found), np.float64), np.asarray(to_numpy(expected), np.float64)
    if a.shape != b.shape:
        raise ValueError(f"got shape {a.shape}, expected {b.shape}")
    return float(np.max(np.abs(a - b), initial=0.0)) / max(float(np.max(np.abs(b), initial=0.0)), 1e-30)


def _largest(differences: Iterable[float]) -> float:
    """Return the largest difference, NaN if one of them is NaN: `max` may pass it over."""
    return float(np.max(list(differences), initial=0.0))


# --- functions --------------------------------------------------------------------------------------------------


def _function(on: Backend, function: Callable[..., Any], arguments: list[Any]) -> float:
    def moved(value: Any, put: Callable[[HostArray], Any]) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(moved(part, put) for part in value)
        return put(value.copy()) if isinstance(value, np.ndarray) else value

    def double(host: HostArray) -> HostArray:
        return host.astype(np.float64) if host.dtype.kind == "f" else host

    theirs, ours = moved(arguments, on.asarray), moved(arguments, double)
    results = function(*theirs), function(*ours)
    written = [(a, b) for a, b in zip(theirs, ours, strict=True) if isinstance(b, np.ndarray)]
    return _largest(_difference(*pair) for pair in [results, *written])


def _calls() -> Iterator[tuple[str, Callable[..., Any], list[Any]]]:
    """Yield name, function and arguments for every function that `nnbackend.functions` offers, and every update."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> HostArray:
        return rng.standard_normal(shape).astype(np.float32)

    def positive(*shape: int) -> HostArray:
        return np.abs(draw(*shape)) + np.float32(0.1)

    x, dy, t = draw(6, 5), draw(6, 5), rng.integers(0, 5, 6)
    zero_one = (draw(6, 5) > 0).astype(np.float32)
    images, filters, windows = draw(2, 6, 7, 3), draw(3, 2, 3, 4), ((2, 3), (2, 1), (1, 0))
    pooled, sequences = functions.max_pooling(images, *windows), draw(2, 4, 5)
    p = functions.softmax(x)
    positions = [3 + 2 * draw(2, 4, 5) for _ in range(2)]
    clock, order = np.array([2, 5]), rng.permutation(9)
    special: dict[str, list[Any]] = {
        "affine": [x, draw(5, 3), draw(3)],
        "affine_backward": [draw(6, 3), x, draw(5, 3), draw(5, 3), draw(3)],
        "attention": [draw(2, 3, 4, 5), draw(2, 3, 6, 5), draw(2, 3, 6, 2), draw(2, 1, 1, 6) > 0, True],
        "attention_backward": [
            *(draw(*shape) for shape in ((2, 3, 4, 2), (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2))),
            functions.softmax(draw(2, 3, 4, 6)),
        ],
        "average_pooling": [images, *windows],
        "average_pooling_backward": [draw(*pooled.shape), images.shape, *windows],
        "batch_normalization": [x, draw(5), draw(5), 1e-5],
        "batch_normalization_backward": [dy, x, draw(5), positive(5), draw(5), draw(5)],
        "channels_first": [images],
        "channels_last": [images],
        "clip_by_norm": [draw(20), 0.5],
        "convolution": [images, filters, draw(4), (2, 1), 1],
        "convolution_backward": [draw(2, 3, 8, 4), images, filters, draw(*filters.shape), draw(4), (2, 1), 1],
        "count_correct": [x, t, positive(6)],
        "count_correct_multilabel": [x, zero_one, positive(6)],
        "dropout_mask": [x, 0.3, 2**35 + 1, 2, np.array([4])],
        "embedding": [x, t.reshape(2, 3)],
        "embedding_backward": [draw(2, 3, 5), t.reshape(2, 3), draw(6, 5)],
        "gru": [sequences, *(draw(*shape) for shape in ((5, 9), (3, 9), (9,), (3,), (2, 3)))],
        "gru_backward": [
            draw(2, 4, 3),
            sequences,
            *(draw(*shape) for shape in ((5, 9), (3, 9), (5, 2, 3), (4, 2, 12), (5, 9), (3, 9), (9,), (3,))),
        ],
        "gru_gates": [draw(2, 9), draw(2, 9), draw(3), draw(2, 3)],
        "gru_gates_backward": [draw(2, 3), draw(2, 12), draw(2, 3)],
        "lstm": [sequences, draw(5, 12), draw(3, 12), draw(12), draw(2, 3), draw(2, 3)],
        "lstm_backward": [
            draw(2, 4, 3),
            sequences,
            *(draw(*shape) for shape in ((5, 12), (3, 12), (5, 2, 3), (4, 2, 12), (5, 2, 3))),
            *(draw(*shape) for shape in ((5, 12), (3, 12), (12,))),
        ],
        "lstm_gates": [draw(2, 12), draw(2, 12), draw(2, 3)],
        "lstm_gates_backward": [draw(2, 3), draw(2, 3), draw(2, 12), draw(2, 3), draw(2, 3)],
        "rnn": [sequences, draw(5, 3), draw(3, 3), draw(3), draw(2, 3)],
        "rnn_backward": [
            draw(2, 4, 3),
            sequences,
            *(draw(*shape) for shape in ((5, 3), (3, 3), (5, 2, 3), (5, 3), (3, 3), (3,))),
        ],
        "affine_positions": [draw(2, 4), (6, 7), 0.1, 30.0, 0.2],
        "elastic_draws": [3, (6, 7), 2.5],
        "elastic_positions": [positive(*functions.elastic_draws(2, (6, 7), 2.5)), (6, 7), 0.7, 2.5],
        "flip": [images, np.array([True, False])],
        "gather": [x, np.array([3, 0, 3])],
        "is_finite": [x],
        "layer_normalization": [x, draw(5), draw(5), 1e-5],
        "layer_normalization_backward": [dy, x, draw(5), positive(6, 1), draw(5), draw(5)],
        "max_pooling": [images, *windows],
        "max_pooling_backward": [draw(*pooled.shape), images, pooled, *windows],
        "normal": [x, (3, 5), 2**35 + 1, 2, np.array([4])],
        "philox": [tuple(np.arange(4) + 2**31 for _ in range(4)), (7, 8)],
        "product": [draw(2, 3, 4), draw(2, 4, 5)],
        "record": [draw(2, 9), clock, draw(1)[0, ...], draw(1)[0, ...]],
        "sinusoids": [sequences],
        "resample": [images, *positions, 0.5],
        "resample_backward": [draw(2, 4, 5, 3), *positions, (6, 7)],
        "softmax_backward": [dy, p],
        "softmax_cross_entropy": [x, t, positive(6), positive(5), 0.1],
        "softmax_cross_entropy_backward": [p, t, positive(6), positive(5), 0.1],
        "softmax_cross_entropy_recorded": [x, t, draw(2, 9), clock],
        "softmax_cross_entropy_rows": [x, t, positive(6), positive(5), 0.1],
        "softmax_cross_entropy_variants": [x, draw(6, 3), draw(3, 5), t, positive(5), 0.1],
        "take_columns": [x, np.array([3, 0, 3])],
        "take_rows": [order, clock, 3, 0, 3, draw(9, 4), t.repeat(2)[:9]],
        "total_weight": [t, positive(6), positive(5)],
        "uniform": [x, (3, 5), 2**35 + 1, 2, np.array([4])],
        "average_step": [draw(20), draw(20), 0.9],
        "sgd_step": [draw(20), draw(20), 0.1, 0.2],
        "momentum_step": [draw(20), draw(20), draw(20), 0.1, 0.9, 0.2],
        "nesterov_step": [draw(20), draw(20), draw(20), 0.1, 0.9, 0.2],
        "adagrad_step": [draw(20), draw(20), positive(20), 0.1, 1e-8, 0.2],
        "rmsprop_step": [draw(20), draw(20), positive(20), 0.1, 0.9, 1e-8, 0.2],
        "adam_step": [draw(20), draw(20), draw(20), positive(20), 3, 1e-3, 0.9, 0.999, 1e-8, 0.2],
        "adamw_step": [draw(20), draw(20), draw(20), positive(20), 3, 1e-3, 0.9, 0.999, 1e-8, 0.2],
    }
    for name in functions.__all__:
        usual = [x, zero_one] if "error" in name or "huber" in name or "quantile" in name or "entropy" in name else [x]
        yield name, getattr(functions, name), special.get(name) or ([dy, x] if _of_activation(name) else usual)
    for name in steps.__all__:
        yield name, getattr(steps, name), special[name]


def _of_activation(name: str) -> bool:
    return name in {f"{kind}_backward" for kind in ("elu", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "tanh")}


# --- layers and networks ----------------------------------------------------------------------------------------

# ways to make each layer, and the shape of a row that it takes
MAKE: dict[str, tuple[Callable[[], Layer], tuple[int, ...]]] = {
    **{name: (LAYERS[name], (4,)) for name in ("Sigmoid", "ReLU", "GELU", "SiLU", "Tanh", "Softmax")},
    "Affine": (lambda: Affine(5, 3), (5,)),
    "AveragePooling": (lambda: AveragePooling((2, 3)), (5, 6, 2)),
    "BatchNormalization": (lambda: BatchNormalization(3), (5, 2, 3)),
    "Convolution": (lambda: Convolution(2, 3, 3, padding=1), (4, 5, 2)),
    "Dropout": (lambda: Dropout(0.4), (4,)),
    "ELU": (lambda: ELU(0.7), (4,)),
    "Embedding": (lambda: Embedding(5, 3), (4,)),
    "Flatten": (Flatten, (2, 3, 2)),
    "GRU": (lambda: GRU(3, 2), (4, 3)),
    "LastStep": (LastStep, (4, 3)),
    "LSTM": (lambda: LSTM(3, 2), (4, 3)),
    "RNN": (lambda: RNN(3, 2), (4, 3)),
    "LayerNormalization": (lambda: LayerNormalization(3), (5, 2, 3)),
    "LeakyReLU": (lambda: LeakyReLU(0.2), (4,)),
    "MaxPooling": (lambda: MaxPooling(3, 2, 1), (4, 5, 2)),
    "MultiHeadAttention": (lambda: MultiHeadAttention(6, 2, causal=True), (4, 6)),
    "PositionalEncoding": (lambda: PositionalEncoding(3, 8, learned=True), (4, 3)),
    "Parallel": (lambda: Parallel([[], [Affine(4, 3), Tanh()]], "concatenate"), (4,)),
    "Residual": (lambda: Residual([Affine(4, 3), Tanh()], Affine(4, 3)), (4,)),
    "Sequential": (lambda: Sequential([Affine(4, 3), Tanh()]), (4,)),
    "GaussianNoise": (lambda: GaussianNoise(0.3), (4,)),
    "RandomAffine": (lambda: RandomAffine(0.2, 30.0, 0.2, 0.5), (5, 6, 2)),
    "RandomElastic": (lambda: RandomElastic(0.7, 2.5), (5, 6, 2)),
    "RandomFlip": (RandomFlip, (5, 6, 2)),
}


def _rows(shape: tuple[int, ...], n: int = 6) -> HostArray:
    return np.random.default_rng(1).standard_normal((n, *shape)).astype(np.float32)


def _batch(layer: Layer, shape: tuple[int, ...], dtype: str) -> HostArray:
    """Return rows for a layer, in the dtype that it takes in a network of `dtype`; ids are 0 to 4."""
    if layer.input_dtype:
        return np.random.default_rng(1).integers(0, 5, (6, *shape)).astype(layer.input_dtype)
    return _rows(shape).astype(dtype)


def _inference(on: Backend, make: Callable[[], Layer], shape: tuple[int, ...]) -> float:
    reference = make().initialize(seed=3, dtype="float64", on=resolve("numpy"))
    layer = with_values(reference, lambda host: on.asarray(host, "float32"))
    x, exact = _batch(layer, shape, "float32"), _batch(layer, shape, "float64")
    return _difference(layer.forward(on.asarray(x)), reference.forward(exact))


def _training(on: Backend, make: Callable[[], Layer], shape: tuple[int, ...]) -> float:
    results = []
    for backend, dtype in ((on, "float32"), (resolve("numpy"), "float64")):
        layer = make().initialize(seed=3, dtype=dtype, on=backend)
        y = layer.forward(backend.asarray(_batch(layer, shape, dtype)), training=True)
        dy = backend.asarray(np.random.default_rng(2).standard_normal(tuple(y.shape)), dtype)
        trained = [p.grad for p in layer.parameters().values() if p.trainable]
        results.append([y, layer.backward(dy), *trained])
    return _difference(*results)


def _perceptron(on: Backend) -> Network:
    layers = [Affine(12, 8), BatchNormalization(8), ReLU(), Dropout(0.2), Affine(8, 3)]
    return Network(layers, SoftmaxWithLoss(), seed=1, backend=on)


def _autoencoder(on: Backend) -> Network:
    return Network([Affine(12, 4), Tanh(), Affine(4, 12), Sigmoid()], MeanSquaredError(), seed=1, backend=on)


def _images(on: Backend) -> Network:
    layers = [Convolution(1, 3, 3, padding=1), ReLU(), MaxPooling(2), Flatten(), Affine(27, 3)]
    return Network(layers, SoftmaxWithLoss(), seed=1, backend=on)


NETWORKS: dict[str, tuple[Callable[[Backend], Network], tuple[int, ...]]] = {
    "classifier": (_perceptron, (12,)),
    "autoencoder": (_autoencoder, (12,)),
    "CNN": (_images, (6, 6, 1)),
}


def _network_inference(on: Backend, make: Callable[[Backend], Network], shape: tuple[int, ...]) -> float:
    reference, x = make(resolve("numpy")), _rows(shape)
    y = on.asarray(x)
    for layer in reference.layers.values():
        y = with_values(layer, lambda host: on.asarray(host, "float32")).forward(y)
    return _difference(y, reference.predict(x))


def _network_training(on: Backend, make: Callable[[Backend], Network], shape: tuple[int, ...]) -> float:
    x, losses = _rows(shape, 40), []
    for backend in (on, resolve("numpy")):
        net = make(backend)
        t = np.arange(40) % 3 if net.loss_layer.classifies else 1 / (1 + np.exp(-x))
        history = Trainer(net, Adam(0.01), batch_size=10, seed=0).fit(backend.asarray(x), backend.asarray(t), 3)
        losses.append(np.asarray(history.loss))
    return _difference(*losses)
