"""Every registered kernel against its reference, found by looking: a new registration needs no new test."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support import tolerance

from nnbackend import functions
from nnbackend.backends import resolve, to_numpy
from nnbackend.backends.base import ROOMS

ROWS = (0, 1, 7, 100)  # empty and one-row batches among them
LONG = 20_011  # longer than the pieces in which updates are done, and no multiple of them


def dispatched() -> dict[str, Any]:
    """Every singledispatch function of ours by name."""
    modules = [
        importlib.import_module(m.name) for m in pkgutil.iter_modules(functions.__path__, "nnbackend.functions.")
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if hasattr(value, "registry") and value.__module__ == module.__name__
    }


def behind(kernel: Any) -> Any:
    """What answers in the place of a kernel that is not made for its arguments."""
    return inspect.getclosurevars(kernel).nonlocals["slower"]


def registered() -> Iterator[tuple[str, type, Any]]:
    """Every kernel, with the name of its function and its kind of array; also those behind the loops in C."""
    for name, function in sorted(dispatched().items()):
        for kind in function.registry:
            if kind.__module__.partition(".")[0] not in ROOMS:
                continue  # rows of another form than arrays, such as sparse ones
            kernel = function.dispatch(kind)
            while kind is not object and kernel is not function.dispatch(object):
                yield name, kind, kernel
                kernel = behind(kernel)


KERNELS = list(registered())


def label(kind: type, kernel: Any) -> str:
    return f"{kind.__module__}{'-in-c' if kernel.__module__.endswith('.native') else ''}"


def arguments(name: str, n: int, dtype: str, rng: np.random.Generator) -> list[list[Any]]:
    """Argument lists for the function called `name`, for a batch of n rows."""

    def draw(*shape: int) -> np.ndarray:
        return (3 * rng.standard_normal(shape)).astype(dtype)

    labels, one_hot = rng.integers(0, 5, n), np.eye(5)[rng.integers(0, 5, n)]
    probabilities = to_numpy(functions.softmax.dispatch(object)(draw(n, 5)))
    match name:
        case "affine":
            return [[draw(n, 6), draw(6, 5), draw(5)]]
        case "product_into":
            return [[draw(n, 6), draw(6, 5), draw(n, 5)], [draw(n, 6), draw(5, 6).T, draw(n, 5)]]
        case "product":
            turned = draw(2, 5, 4, n).transpose(0, 1, 3, 2)
            return [
                [draw(n, 6), draw(6, 5)],
                [draw(n, 6), draw(5, 6).T],
                [draw(4, n, 6), draw(4, 6, 5)],
                [draw(2, 5, 4, n), turned],
                [draw(3, n, 6), draw(3, 5, 6).transpose(0, 2, 1)],
            ]
        case "affine_backward":
            return [[draw(n, 5), draw(n, 6), draw(6, 5), draw(6, 5), draw(5), need] for need in (True, False)]
        case "softmax_cross_entropy" | "softmax_cross_entropy_backward":
            first = probabilities if name.endswith("backward") else draw(n, 5)
            weight, class_weight = np.abs(draw(n)), np.abs(draw(5))
            settings: list[list[Any]] = [
                [],
                [weight],
                [weight, class_weight, 0.1],
                [None, class_weight],
                [None, None, 0.1],
            ]
            wide = draw(n, 70) if first is not probabilities else np.abs(draw(n, 70))
            given = [[first, t, *more] for t in (labels, one_hot) for more in settings]
            return [*given, [wide, rng.integers(0, 70, n)]]
        case "softmax" | "softmax_backward":
            return [[draw(*shape) for _ in range(1 + name.endswith("backward"))] for shape in ((n, 5), (2, n, 70))]
        case "batch_normalization":
            return [[draw(*shape), draw(shape[-1]), draw(shape[-1]), 0.1] for shape in ((n, 5), (n, 3, 4, 70))]
        case "batch_normalization_backward":
            return [
                [draw(*shape, c), draw(*shape, c), *(draw(c) for _ in "gsgb")] for *shape, c in ((n, 5), (n, 3, 4, 70))
            ]
        case "layer_normalization":
            return [[draw(*shape), draw(shape[-1]), draw(shape[-1]), 0.1] for shape in ((n, 5), (2, n, 70))]
        case "layer_normalization_backward":
            return [
                [draw(*shape, c), draw(*shape, c), draw(c), draw(*shape, 1), draw(c), draw(c)]
                for *shape, c in ((n, 5), (2, n, 70))
            ]
        case "softmax_cross_entropy_variants":
            y, dx, W = draw(n, 5), draw(n, 3), draw(3, 5)
            dx[: n // 2, 1] = 0.0  # rows that do not change
            dx[:, 2] = 0.0
            more = [[], [None, 0.1], [np.abs(draw(5))]]
            return [[y, dx, W, t, *rest] for t in (labels, one_hot) for rest in more] + [[y, dx[:, :0], W[:0], labels]]
        case "count_correct":
            return [[draw(n, 5), t, *more] for t in (labels, one_hot) for more in ([], [np.abs(draw(n))])]
        case (
            "convolution" | "convolution_backward" | "max_pooling" | "max_pooling_backward" | "average_pooling_backward"
        ):
            return [image_arguments(name, n, *sizes, draw) for sizes in IMAGES]
        case "leaky_relu_backward" | "elu" | "elu_backward":
            arrays = [draw(n, 5) for _ in range(1 + name.endswith("backward"))]
            arrays[-1][: n // 2, 0] = 0.0  # the kink
            return [[*arrays, *more] for more in ([], [0.3], [0.0])]
        case "concat":
            return [[draw(n, 5), 0, draw(3, 5)], [draw(n, 5, 2), -2, *(draw(n, k % 2, 2) for k in range(10))]]
        case "gather":
            rows = rng.integers(0, 9, n)
            return [[draw(9, 6), rows], [draw(9), rows], [draw(9, 2, 3), rows], [rng.integers(0, 5, 9), rows]]
        case "flatten":
            return [[draw(3, 4, 5, n).transpose(3, 1, 2, 0)], [draw(n, 4, 5, 3)], [draw(n, 3)]]
        case "flatten_backward":
            shapes = [(n, 4, 5, 3), (n, 4, 5, 1), (n, 3)]
            layouts = [draw(3, 4, 5, n).transpose(3, 1, 2, 0), draw(n, 4, 5, 1), draw(n, 3)]
            return [[draw(n, math.prod(shape[1:])), x] for shape, x in zip(shapes, layouts, strict=True)]
        case "embedding":
            return [[draw(9, 6), rng.integers(0, 9, shape)] for shape in ((n,), (n, 3), (n, 2, 2))]
        case "embedding_backward":
            shapes = ((n,), (n, 3), (n, 2, 2))
            return [[draw(*shape, 6), rng.integers(0, 9, shape), draw(9, 6)] for shape in shapes]
        case "product":
            pairs = [
                (draw(n, 5), draw(5, 3)),
                (draw(3, n).T, draw(40, n).T),
                (draw(n, 900)[:, ::2], draw(450, 70)[::-1]),
            ]
            stacks = [(draw(2, 3, n, 6), draw(2, 3, 6, 9)), (draw(4, n, 6), draw(6, 9)), (draw(n, 4, 6), draw(n, 6, 4))]
            return [[a, b] for a, b in pairs + stacks] + [[draw(n, 3, 4).mT, draw(n, 3, 4)], [draw(n), draw(n)]]
        case "rnn" | "rnn_backward" | "lstm" | "lstm_backward" | "gru" | "gru_backward":
            return [
                arguments
                for shape in ((4, 3, 5), (2, 3, 70))
                for arguments in recurrent_arguments(name, n, *shape, draw)
            ]
        case "for_products":
            return [[draw(n, 5)], [draw(n, 1024)], [draw(5, n).T], [draw(1024, n).T]]
        case "lstm_gates":
            return [[draw(n, 4 * h), draw(n, 4 * h), draw(n, h)] for h in (5, 70)]
        case "lstm_gates_backward":
            gates = [functions.lstm_gates.dispatch(object)(draw(n, 4 * h), draw(n, 4 * h), draw(n, h)) for h in (5, 70)]
            return [[draw(*c.shape), draw(*c.shape), g, draw(*c.shape), c] for g, c, _ in gates]
        case "gru_gates":
            return [[draw(n, 3 * h), draw(n, 3 * h), draw(h), draw(n, h)] for h in (5, 70)]
        case "gru_gates_backward":
            arguments_of_forward = [(draw(n, 3 * h), draw(n, 3 * h), draw(h), draw(n, h)) for h in (5, 70)]
            gates_and_h = [functions.gru_gates.dispatch(object)(*args) for args in arguments_of_forward]
            return [[draw(*h.shape), g, draw(*h.shape)] for g, h in gates_and_h]
        case "is_finite":
            spoiled = draw(n, 5)
            spoiled[n // 2 :, 3] = np.inf if n == 7 else np.nan
            return [[draw(n, 5)], [draw(n + 9, 7)], [spoiled]]
        case "clip_by_norm":
            return [[draw(size), limit] for size in (n, LONG) for limit in (0.1, 1e9)]
        case "take_rows":
            order, step = rng.permutation(3 * n + 2), np.array([2, 5])
            x, t, weight = draw(3 * n + 2, 6), rng.integers(0, 5, 3 * n + 2), draw(3 * n + 2)
            return [
                *[[order, at, n, 0, n, x, t, weight] for at in (1, step)],
                *[[order, at, n, 1, max(n - 3, 0), x] for at in (1, step)],
                [order, step, n, 0, n, draw(3 * n + 2, 2, 3), draw(3 * n + 2, 5)],
                [order, 2, n, n, 2, t],
            ]
        case "record":
            loss, correct = draw(1)[0, ...], np.asarray(n)
            return [
                [draw(4, 3), at, *values]
                for at in (1, np.array([2, 5]))
                for values in ([loss], [loss, correct], [loss, correct, 3.0, draw(1)[0]])
            ]
        case "softmax_cross_entropy_recorded":
            return [
                [draw(n, 5), t, draw(2, 3), at, *more]
                for t in (labels, one_hot)
                for at in (1, np.array([2, 5]))
                for more in ([], [None, 0.1], [np.abs(draw(5))])
            ] + [[draw(n, 70), rng.integers(0, 70, n), draw(2, 3), 1]]
        case "masked":
            return [[draw(n, 5), draw(n, 5)]]
        case "advance":
            return [[np.array([2**40 + n]), 3]]
        case "dropout_mask":
            return [[draw(n, 5), 0.3, 2**35 + 1, 2, np.array([4])]]
        case "uniform":
            return [[draw(n, 5), shape, 2**35 + 1, 2, np.array([4])] for shape in ((n, 5), (3, 2, n, 7), (1,))]
        case "resample":  # positions inside of the images and outside, some of them on a pixel
            cases = []
            for h, w, c in ((6, 5, 1), (4, 7, 3), (1, 3, 2)):
                at = [np.round(draw(n, 3, 8), 1) + 2 for _ in range(2)]
                cases += [[draw(n, h, w, c), *at, *more] for more in ([], [0.5])]
            return cases
        case "elastic_positions":
            spacings = (1.0, 2.5, 30.0)
            return [[draw(*functions.elastic_draws(n, (6, 7), s)), (6, 7), 0.7, s] for s in spacings]
        case "resample_backward":
            return [[draw(n, 3, 8, 2), draw(n, 3, 8) + 2, draw(n, 3, 8) + 2, (6, 5)]]
        case "sgd_step":
            return [[draw(size), draw(size), 0.1, *more] for size in (n, LONG) for more in ([], [0.2])]
        case "average_step":
            return [[draw(size), draw(size), 0.9] for size in (n, LONG)]
        case "momentum_step" | "nesterov_step":
            return [[*(draw(size) for _ in "pgv"), 0.1, 0.9, *more] for size in (n, LONG) for more in ([], [0.2])]
        case "adagrad_step" | "rmsprop_step":
            settings = [0.1, 1e-8] if name == "adagrad_step" else [0.1, 0.9, 1e-8]
            return [
                [draw(size), draw(size), 1 + np.abs(draw(size)), *settings, *more]
                for size in (n, LONG)
                for more in ([], [0.2])
            ]
        case "adam_step" | "adamw_step":
            return [
                [draw(size), draw(size), draw(size), np.abs(draw(size)), t, 1e-3, 0.9, 0.999, 1e-8, *more]
                for size, t in ((n, 1), (LONG, 3))
                for more in ([[]] if name == "adam_step" else []) + [[0.2]]
            ]
        case _:
            parameters = inspect.signature(dispatched()[name]).parameters
            required = [p for p in parameters.values() if p.default is inspect.Parameter.empty]
            return [[draw(n, 5) for _ in required]]


# h, w, size, stride, padding
IMAGES: list[tuple[int, int, tuple[int, int], int | tuple[int, int], int | tuple[int, int]]] = [
    (6, 5, (3, 3), 1, 1),
    (7, 8, (2, 2), 2, 0),
    (8, 6, (3, 2), (1, 3), (1, 0)),
    (5, 5, (2, 2), 3, 0),
    (40, 40, (3, 3), 1, 0),  # more than is worked on at a time
]


def recurrent_arguments(name: str, n: int, steps: int, d: int, h: int, draw: Any) -> list[list[Any]]:
    """Arguments of a recurrent network, or of its backward, with what its forward keeps."""
    kind, _, backward = name.partition("_")
    parts, states, rows = {"rnn": (1, 1, 0), "lstm": (4, 2, 0), "gru": (3, 1, 1)}[kind]
    x, Wx, Wh, b = draw(n, steps, d), draw(d, parts * h), draw(h, parts * h) * 0.3, draw(parts * h)
    given = [x, Wx, Wh, b, *(draw(h) for _ in range(rows)), *(draw(n, h) for _ in range(states))]
    if not backward:
        return [given, [x[:, :1], *given[1:]], [*given[:-states], *(np.zeros((n, h), x.dtype) for _ in range(states))]]
    kept = getattr(functions, kind).dispatch(object)(*given)
    written = [draw(d, parts * h), draw(h, parts * h), draw(parts * h), *(draw(h) for _ in range(rows))]
    kept = kept if isinstance(kept, tuple) else (kept,)
    return [[draw(n, steps, h), x, Wx, Wh, *kept, *written, *need] for need in ([], [False])]


def image_arguments(name: str, n: int, h: int, w: int, size: Any, stride: Any, padding: Any, draw: Any) -> list[Any]:
    n = min(n, 7) if h == 40 else n
    count = functions.convolution.dispatch(object)  # shapes only
    x, W, b = draw(n, h, w, 3), draw(*size, 3, 4), draw(4)
    match name:
        case "convolution":
            return [x, W, b, stride, padding]
        case "convolution_backward":
            dy = draw(*count(x, W, b, stride, padding).shape)
            return [dy, x, W, draw(*W.shape), draw(4), stride, padding, h != 7]
        case "max_pooling" | "max_pooling_backward":
            x = np.round(x)  # with ties
            if name == "max_pooling":
                return [x, size, stride, padding]
            y = functions.max_pooling.dispatch(object)(x, size, stride, padding)
            return [draw(*y.shape), x, y, size, stride, padding]
        case _:
            y = functions.average_pooling.dispatch(object)(x, size, stride, padding)
            return [draw(*y.shape), x.shape, size, stride, padding]


def prepare(value: Any, form: str, move: Callable[[Any], Any]) -> Any:
    """One argument in the form under test: as it is, strided, or (where it is only read) read-only; or, on NumPy, of
    the other byte order.
    """
    if not isinstance(value, np.ndarray):
        return value
    if form == "other byte order":
        return move(value.astype(value.dtype.newbyteorder()))
    if form == "strided" and value.ndim >= 2:
        every_other = (slice(None, None, 2),) * value.ndim
        wide = np.zeros([2 * length for length in value.shape], value.dtype)
        wide[every_other] = value
        return move(wide)[every_other]
    moved = move(value.copy())
    if form == "readonly":
        moved.flags.writeable = False
    return moved


def cases() -> Iterator[Any]:
    """Kernel, form of its arguments, rows: without what has no meaning."""
    for name, kind, kernel in KERNELS:
        mean = name.startswith(("softmax", "count", "mean", "batch"))  # over no rows it has no value
        forms = ["plain", "strided"]
        if kind is np.ndarray and not writes(name):
            forms.append("readonly")
        if kind is np.ndarray and name not in ("gather", "take_rows"):  # they answer in what they are given
            forms.append("other byte order")
        for form in forms:
            for n in ROWS[mean:]:
                yield pytest.param(name, kind, kernel, form, n, id=f"{name}-{label(kind, kernel)}-{form}-{n}")


def writes(name: str) -> bool:
    others = ("affine_backward", "clip_by_norm", "convolution_backward", "embedding_backward", "record")
    others += ("rnn_backward", "lstm_backward", "gru_backward", "softmax_cross_entropy_recorded")
    others += ("layer_normalization_backward", "batch_normalization_backward", "advance", "product_into")
    return name.endswith("_step") or name in others


@pytest.mark.parametrize(("name", "kind", "kernel", "form", "n"), list(cases()))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernel_equals_its_reference(name: str, kind: type, kernel: Any, form: str, n: int, dtype: str) -> None:
    function = dispatched()[name]
    move = (lambda a: a) if kind is np.ndarray else resolve(kind.__module__.partition(".")[0]).asarray
    rng = np.random.default_rng(n)
    for host in arguments(name, n, dtype, rng):
        ours = [prepare(value, form, move) for value in host]
        theirs = [prepare(value, "plain", lambda a: a) for value in host]
        actual, expected = kernel(*ours), function.dispatch(object)(*theirs)
        pairs = list(zip(ours, theirs, strict=True)) if writes(name) else []
        results = zip(_listed(actual), _listed(expected), strict=True)
        for a, e in [*pairs, *results]:
            if isinstance(e, np.bool_):
                assert isinstance(a, np.bool_)
                assert a == e
            elif isinstance(e, np.ndarray | np.generic):
                a = to_numpy(a)
                assert a.shape == np.shape(e)
                assert a.dtype.newbyteorder("=") == e.dtype
                scale = max(1.0, float(np.max(np.abs(e), initial=0.0)))
                np.testing.assert_allclose(a, e, rtol=0, atol=tolerance(dtype, 100) * scale)
            else:
                assert a == e


@pytest.mark.parametrize(
    ("name", "kernel"), [(n, f) for n, _, f in KERNELS], ids=[f"{n}-{label(k, f)}" for n, k, f in KERNELS]
)
def test_kernel_has_the_signature_of_its_reference(name: str, kernel: Any) -> None:
    reference = inspect.signature(dispatched()[name].dispatch(object)).parameters
    own = inspect.signature(kernel).parameters
    assert [(p.name, p.default) for p in own.values()] == [(p.name, p.default) for p in reference.values()]


def test_the_kernels_are_found() -> None:
    found = {(name, label(kind, kernel)) for name, kind, kernel in KERNELS}
    assert {("affine_backward", "numpy"), ("adam_step", "numpy")} <= found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]
