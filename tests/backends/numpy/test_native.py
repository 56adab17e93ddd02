"""The loops in C: what they take, what they leave to NumPy, and that they leave no trace when they do."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.test_kernels import KERNELS, arguments, behind, recurrent_arguments
from support import assert_close

import nnbackend as nn
from nnbackend import functions
from nnbackend.functions.optimizers import sgd_step

native = pytest.importorskip("nnbackend.backends.numpy._native", reason="the package was built without a C compiler")
if os.environ.get("NNBACKEND_NATIVE") == "0":
    pytest.skip("NNBACKEND_NATIVE=0 leaves the loops out", allow_module_level=True)
registrations = importlib.import_module("nnbackend.backends.numpy.native")  # fails where it failed in silence before

LOOPS = {name: kernel for name, _, kernel in KERNELS if kernel.__module__.endswith(".native")}
ROOM = Path(nn.__file__).parent / "backends" / "numpy"
ELEMENTWISE = {  # arrays, numbers, and which of the arrays are written
    "sgd": (2, 2, {0}),
    "momentum": (3, 3, {0, 2}),
    "nesterov": (3, 3, {0, 2}),
    "rmsprop": (3, 5, {0, 2}),
    "adam": (4, 6, {0, 2, 3}),
    "masked": (3, 0, {2}),
    "relu": (2, 0, {1}),
    "relu_backward": (3, 0, {2}),
    "sigmoid": (2, 0, {1}),
    "sigmoid_backward": (3, 0, {2}),
    "gelu": (2, 0, {1}),
    "gelu_backward": (3, 0, {2}),
    "silu": (2, 0, {1}),
    "silu_backward": (3, 0, {2}),
    "leaky_relu": (2, 1, {1}),
    "leaky_relu_backward": (3, 1, {2}),
}
DRAWS = {"dropout_mask": 5, "uniform": 3}  # numbers
LABELLED = {"softmax_cross_entropy": {2}, "softmax_cross_entropy_backward": {2}}
ROWWISE = {"add_bias": {0}, "sum_rows": {1}}
FORMS = {  # of each array whether it is x, (n, columns), a row of columns, or 1 number of each row; and what is written
    "softmax": ("xx", {1}),
    "softmax_backward": ("xxx", {2}),
    "layer_normalization": ("xccxx1", {3, 4, 5}),
    "layer_normalization_backward": ("xxc1xcc", {4, 5, 6}),
    "batch_normalization": ("xccxxccc", {3, 4, 5, 6, 7}),
    "batch_normalization_backward": ("xxccxcc", {4, 5, 6}),
}
POOLINGS = {"max_pooling": {1}, "max_pooling_backward": {3}}
SWAPS = {"swap_ends": {1}}
CONVOLUTIONS = {"convolution": {3}, "convolution_filters": {2, 3}}
GATES = {  # of each array how many times as wide as the last; 0: a single row; and which of the arrays are written
    "lstm_gates": ("441411", {3, 4, 5}),
    "lstm_gates_backward": ("1141141", {5, 6}),
    "gru_gates": ("330141", {4, 5}),
    "gru_gates_backward": ("141331", {3, 4, 5}),
}
RECURRENCES = {  # of each array how many times as wide as the state, and one step more for the state before the first
    "rnn": (("1", "1+", "W1"), {0, 1}),
    "rnn_backward": (("1+", "1+", "1", "W1"), {0, 2}),
    "lstm": (("4", "1+", "1+", "W4"), {0, 1, 2}),
    "lstm_backward": (("1+", "4", "1+", "4", "W4"), {0, 3}),
    "gru": (("3", "1+", "4", "b", "W3"), {1, 2}),
    "gru_backward": (("1+", "4", "1+", "3", "3", "W3"), {0, 3, 4}),
}
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def recurrent_shape(form: str) -> tuple[int, ...]:
    if form == "b":
        return (5,)
    if form[0] == "W":
        return (5, 5 * int(form[1]))
    return (3 + form.count("+"), 6, 5 * int(form[0]))


def arrays_for(name: str, dtype: str = "float32") -> list[np.ndarray]:
    """Arrays that the loop takes."""
    rng = np.random.default_rng(0)
    if name in ELEMENTWISE:
        return [np.abs(rng.standard_normal((6, 5))).astype(dtype) for _ in range(ELEMENTWISE[name][0])]
    if name == "max_pooling_backward":
        dy, x = rng.standard_normal((3, 2, 2, 5)).astype(dtype), rng.standard_normal((3, 5, 6, 5)).astype(dtype)
        return [dy, x, x[:, :2, :2].copy(), np.zeros_like(x)]
    if name in DRAWS:
        return [np.zeros((6, 5), dtype), np.array([7])]
    if name == "advance":
        return [np.array([7])]
    if name == "swap_ends":
        return [rng.standard_normal((6, 4, 5)).astype(dtype), np.zeros((5, 4, 6), dtype)]
    if name == "max_pooling":
        return [rng.standard_normal((3, 5, 6, 5)).astype(dtype), np.zeros((3, 2, 2, 5), dtype)]
    if name in CONVOLUTIONS:
        x, W, y = (rng.standard_normal(s).astype(dtype) for s in ((3, 7, 6, 21), (3, 2, 3, 6), (6, 3, 5, 21)))
        b = rng.standard_normal(6).astype(dtype)
        return [x, W, b, np.zeros_like(y)] if name == "convolution" else [x, y, np.zeros_like(W), np.zeros_like(b)]
    if name == "softmax_cross_entropy_variants":
        y, dx, w = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 6), (3, 6), (3, 5)))
        return [y, dx, w, rng.integers(0, 5, 6), np.zeros_like(dx)]
    if name == "resample":
        x, at = rng.standard_normal((6, 4, 3, 2)).astype(dtype), rng.uniform(-2, 5, (2, 6, 3, 5)).astype(dtype)
        return [x, *at, np.zeros((6, 3, 5, 2), dtype)]
    if name in FORMS:
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes_of_rows(name, 6, 5)]
    if name in ROWWISE:
        return [rng.standard_normal((6, 5)).astype(dtype), rng.standard_normal(5).astype(dtype)]
    if name == "is_finite":
        return [rng.standard_normal((6, 5)).astype(dtype)]
    if name in GATES:
        shapes = [(6, 5 * int(width)) if width != "0" else (5,) for width in GATES[name][0]]
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    if name in RECURRENCES:
        return [rng.standard_normal(recurrent_shape(form)).astype(dtype) for form in RECURRENCES[name][0]]
    if name == "product":
        return [rng.standard_normal(shape).astype(dtype) for shape in ((6, 5), (5, 7), (6, 7))]
    if name == "sum_by_id":
        return [rng.standard_normal((6, 5)).astype(dtype), rng.integers(0, 9, 6), np.zeros((9, 5), dtype)]
    if name == "gather":
        return [rng.standard_normal((9, 5)).astype(dtype), rng.integers(0, 9, 6), np.zeros((6, 5), dtype)]
    arrays = [rng.standard_normal((6, 5)).astype(dtype), rng.integers(0, 5, 6), np.zeros((6, 5), dtype)]
    return [*arrays, np.zeros((3, 4), dtype)] if name == "softmax_cross_entropy_recorded" else arrays


def shapes_of_rows(name: str, n: int, columns: int) -> list[tuple[int, ...]]:
    return [{"x": (n, columns), "c": (columns,), "1": (n, 1)}[form] for form in FORMS[name][0]]


def numbers_for(name: str) -> list[float]:
    if name in POOLINGS:
        return [2, 3, 2, 3]
    if name in DRAWS:
        return [0.5] * DRAWS[name]
    if name in ("resample", "layer_normalization", "batch_normalization"):
        return [0.5]
    if name in CONVOLUTIONS:
        return [2, 1, 0, 0] if name == "convolution" else [2]
    if name in ("product", "softmax_cross_entropy_recorded", "advance"):
        return [1]
    return [0.5] * ELEMENTWISE[name][1] if name in ELEMENTWISE else []


NAMES = [
    *ELEMENTWISE,
    *DRAWS,
    "advance",
    *ROWWISE,
    *FORMS,
    *LABELLED,
    "gather",
    "sum_by_id",
    *GATES,
    *RECURRENCES,
    "product",
    "is_finite",
    "softmax_cross_entropy_variants",
    "softmax_cross_entropy_recorded",
    "resample",
    *POOLINGS,
    *SWAPS,
    *CONVOLUTIONS,
]


def written(name: str) -> set[int]:
    if name in ELEMENTWISE:
        return ELEMENTWISE[name][2]
    if name in GATES:
        return GATES[name][1]
    if name in FORMS:
        return FORMS[name][1]
    if name in RECURRENCES:
        return RECURRENCES[name][1]
    others = {"is_finite": set[int](), "softmax_cross_entropy_variants": {4}, "resample": {3}}
    others |= {"softmax_cross_entropy_recorded": {2, 3}, "advance": {0}, **{loop: {0} for loop in DRAWS}}
    return {**ROWWISE, **POOLINGS, **SWAPS, **CONVOLUTIONS, **others}.get(name, {2})


def refused(name: str, arrays: list[Any]) -> bool:
    """Did the loop answer NotImplemented, and leave every array as it was?"""
    before = [np.array(a, copy=True) for a in arrays]
    answer = getattr(native, name)(*arrays, *numbers_for(name))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    return answer is NotImplemented


def test_the_loops_are_known_by_their_sources() -> None:
    text = "".join((ROOM / name).read_text("utf-8") for name in ("native.c", "loops.h", "product.h", "threads.h"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest == native.SOURCES, "install the package again"


def test_loops_from_other_sources_are_refused(tmp_path: Path) -> None:
    old = tmp_path / "_native.so"
    old.touch()
    os.utime(old, (0, 0))
    code = f"""
import sys
from types import ModuleType
sys.modules["nnbackend.backends.numpy._native"] = other = ModuleType("_native")
other.SOURCES, other.__file__ = "0123456789abcdef", {str(old)!r}
import nnbackend as nn
from nnbackend.doctor import examine
print("nnbackend.backends.numpy.native" in sys.modules, [c.detail for c in examine() if c.name == "loops in C"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cause = "they were compiled from other sources than those that are here: install the package again"
    assert done.stdout.strip() == f"False ['{cause}']"


def test_the_stub_lists_what_the_module_has() -> None:
    declared = {
        node.name for node in ast.parse((ROOM / "_native.pyi").read_text()).body if isinstance(node, ast.FunctionDef)
    }
    declared -= {"use_threads", "use_vectors"}
    assert (
        declared
        == set(NAMES)
        == {name for name in dir(native) if not name.startswith("_")}
        - {"PRODUCTS", "SOURCES", "use_threads", "use_vectors"}
    )


has_products = pytest.mark.skipif(not registrations.PRODUCTS, reason="matrix products are NumPy's here")
compiles_products = pytest.mark.skipif(not native.PRODUCTS, reason="this processor has no matrix products in C")
OF_PRODUCTS = {"product", "rnn", "rnn_backward", "lstm", "lstm_backward", "gru", "gru_backward"}
SERVED = [pytest.param(name, marks=compiles_products if name in OF_PRODUCTS else ()) for name in NAMES]


# --- what they take ----------------------------------------------------------------------------------------------


@DTYPES
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=has_products if name == "product" else ()) for name in sorted(LOOPS)]
)
def test_a_loop_takes_plain_arrays(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise NumPy's kernel would pass all the tests in its place."""
    answers: list[Any] = []

    class Spy:
        def __getattr__(self, loop: str) -> Any:
            return lambda *given: answers.append(getattr(native, loop)(*given)) or answers[-1]

    taken = arguments(name, 100, dtype, np.random.default_rng(0))[0]
    monkeypatch.setattr(registrations, "_native", Spy())
    LOOPS[name](*taken)
    assert answers
    assert NotImplemented not in answers


@DTYPES
@pytest.mark.parametrize("name", SERVED)
def test_what_is_only_read_may_be_read_only(name: str, dtype: str) -> None:
    arrays = arrays_for(name, dtype)
    for i in set(range(len(arrays))) - written(name):
        arrays[i].flags.writeable = False
    assert getattr(native, name)(*arrays, *numbers_for(name)) is not NotImplemented


@DTYPES
@pytest.mark.parametrize("name", sorted(name for name in LOOPS if name.endswith("_step") or name in DRAWS))
def test_updates_and_masks_have_the_bits_of_numpys_kernels(name: str, dtype: str) -> None:
    for seed in range(5):
        for case in arguments(name, 7, dtype, np.random.default_rng(seed)):
            special = np.array([np.inf, -np.inf, np.nan, -0.0, 0.0], dtype)
            for i, value in enumerate(case):
                if name not in DRAWS and isinstance(value, np.ndarray):
                    value[: len(special)] = np.roll(special, i * seed)
            ours, numpys = ([np.array(v) if isinstance(v, np.ndarray) else v for v in case] for _ in range(2))
            with np.errstate(invalid="ignore"):
                results = LOOPS[name](*ours), behind(LOOPS[name])(*numpys)
            for a, b in [*zip(ours, numpys, strict=True), results]:
                np.testing.assert_array_equal(a, b)
                if isinstance(a, np.ndarray):
                    known = ~np.isnan(a)
                    assert a[known].tobytes() == b[known].tobytes()  # the signs of zeros among them


@DTYPES
@pytest.mark.parametrize(("step", "state"), [("sgd_step", ()), ("adagrad_step", (1e-7,)), ("adagrad_step", (0.0,))])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_that_skip_rows_without_a_gradient_have_the_bits_of_numpys(step, state, decay, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for size in (63, 64, 128, 1000, 4099):
        p, g, h = (rng.standard_normal(size).astype(dtype) for _ in range(3))
        h = np.abs(h)
        g[rng.random(size // 16 + 1).repeat(16)[:size] < 0.7] = 0  # most pieces, and the neighbours of others
        g[size // 2 :] = 0
        p[::7], p[3::11], h[::5] = -0.0, np.inf, 0.0
        g[-1] = -0.0  # an update with it turns a value of -0 into 0
        p[-1] = -0.0
        arrays = [(p.copy(), g.copy(), *([h.copy()] if state else [])) for _ in range(2)]
        with np.errstate(invalid="ignore", divide="ignore"):
            LOOPS[step](*arrays[0], 0.1, *state, decay)
            behind(LOOPS[step])(*arrays[1], 0.1, *state, decay)
        for ours, numpys in zip(*arrays, strict=True):
            known = ~np.isnan(numpys)
            assert (np.isnan(ours) == np.isnan(numpys)).all()
            assert ours[known].tobytes() == numpys[known].tobytes()


@DTYPES
@pytest.mark.parametrize("name", sorted(DRAWS))
def test_threads_draw_the_numbers_of_one(name: str, dtype: str) -> None:
    settings = [3, 4, 5, 2**23, 2.0][: DRAWS[name]]
    for size in (1, 3, 65, 100_003):
        drawn = []
        for threads in (1, 2, 3):
            native.use_threads(threads)
            out = np.full(size, np.nan, dtype)
            assert getattr(native, name)(out, np.array([2**33 + 5]), *settings) is None
            drawn.append(out.tobytes())
        native.use_threads(registrations._processors if registrations.PRODUCTS else 1)
        assert len(set(drawn)) == 1


@DTYPES
@pytest.mark.parametrize(
    "shape", [(128, 28, 1), (1, 1, 1), (17, 33, 19), (5, 1, 40), (33, 3, 16), (2, 0, 3), (0, 4, 2)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_ends_are_swapped(shape: tuple[int, ...], threads: int, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y = np.full(shape[::-1], np.nan, dtype)
    try:
        native.use_threads(threads)
        assert native.swap_ends(x, y) is None
    finally:
        native.use_threads(registrations._processors if registrations.PRODUCTS else 1)
    np.testing.assert_array_equal(y, x.transpose(2, 1, 0))


@DTYPES
@pytest.mark.parametrize(
    ("size", "stride"), [(2, 2), (3, 3), ((2, 3), (2, 3)), (2, 1), (3, 2), (2, 3), (1, 2), ((1, 2), (2, 2))]
)
def test_pooling_backward_writes_every_element(size: Any, stride: Any, dtype: str) -> None:
    """Windows side by side, overlapping ones and ones with gaps; also the lines and columns that no window reaches."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (70, 8, 9, 2)).astype(dtype)  # equal elements: the first counts
    x = np.ascontiguousarray(x.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    y = functions.max_pooling(x, size, stride)
    dy = -rng.integers(0, 3, y.shape).astype(dtype)
    garbage = [np.full((2, 8, 9, 70), np.nan, dtype) for _ in range(3)]
    del garbage  # such memory is what the result may be made in
    ours = functions.max_pooling_backward(dy, x, y, size, stride)
    numpys = behind(LOOPS["max_pooling_backward"])(dy, x, y, size, stride)
    np.testing.assert_array_equal(ours, numpys)


@DTYPES
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200])
def test_is_finite_sees_every_element(size: int, dtype: str) -> None:
    x = np.full(size, np.finfo(dtype).max, dtype)  # their sum is infinite; they are not
    assert native.is_finite(x) is True
    for i in range(size):
        for bad in (np.nan, np.inf, -np.inf):
            spoiled = x.copy()
            spoiled[i] = bad
            assert native.is_finite(spoiled) is False


@DTYPES
def test_not_a_number_stays_one(dtype: str) -> None:
    x, none = np.array([np.nan, -np.inf, -1.0, 0.0, np.inf], dtype), np.zeros(5, dtype)
    np.testing.assert_array_equal(functions.relu(x), np.array([np.nan, 0.0, 0.0, 0.0, np.inf], dtype))
    np.testing.assert_array_equal(functions.relu_backward(x, none), none)
    np.testing.assert_array_equal(functions.leaky_relu(x, 0.5), np.array([np.nan, -np.inf, -0.5, 0.0, np.inf], dtype))
    loss, y = functions.softmax_cross_entropy(np.array([[0.0, np.nan], [np.nan, 0.0]], dtype), np.array([0, 1]))
    assert np.isnan(loss)
    assert np.isnan(y).all()


@DTYPES
def test_softmax_of_large_numbers_does_not_overflow(dtype: str) -> None:
    far = np.finfo(dtype).max / 4
    x = np.array([[far, 0.0, -far], [-far, -far, -far]], dtype)
    loss, y = functions.softmax_cross_entropy(x, np.array([0, 2]))
    np.testing.assert_allclose(y, [[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(loss, np.log(3) / 2, rtol=1e-6)
    assert (loss.shape, loss.dtype) == ((), x.dtype)


@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name not in DRAWS])
def test_the_order_of_the_axes_is_free_where_all_have_the_same(name: str) -> None:
    plain, turned = arrays_for(name), [np.asfortranarray(a) for a in arrays_for(name)]
    getattr(native, name)(*plain, *numbers_for(name))
    assert getattr(native, name)(*turned, *numbers_for(name)) is None
    for a, b in zip(turned, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    for i in range(len(plain)):
        assert refused(
            name, [*arrays_for(name)[:i], np.asfortranarray(arrays_for(name)[i]), *arrays_for(name)[i + 1 :]]
        )


@pytest.mark.parametrize(
    "numbers", [[2, 3, 4, 3], [2, 3, 2, 4], [4, 3, 2, 3], [2, 5, 2, 3], [0, 3, 2, 3], [2, 3, 0, 3]]
)
@pytest.mark.parametrize("name", POOLINGS)
def test_windows_that_reach_out_of_the_image_are_refused(name: str, numbers: list[int]) -> None:
    images = arrays_for(name)
    results = images[-1].copy()
    assert getattr(native, name)(*images, *numbers) is NotImplemented
    assert getattr(native, name)(*images, *[float("nan")] * 4) is NotImplemented
    np.testing.assert_array_equal(images[-1], results)


@pytest.mark.parametrize(
    "numbers",
    [[3, 1, 0, 0], [2, 2, 0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [2, 1, -1, 0], [2, 1, 0, -1], [float("nan")] * 4],
)
def test_filters_that_reach_out_of_the_image_are_refused(numbers: list[float]) -> None:
    x, W, b, y = arrays_for("convolution")
    assert native.convolution(x, W, b, y, *numbers) is NotImplemented
    assert native.convolution_filters(x, y, W, b, 3) is NotImplemented
    assert native.convolution_filters(x, y, W, b, float("nan")) is NotImplemented
    assert not y.any()


@DTYPES
def test_the_correct_rows_of_a_step_are_those_of_argmax(dtype: str) -> None:
    """Of equal elements the first counts, and NaN counts as the largest."""
    x = np.random.default_rng(0).choice(np.array([0, 1, 2, np.nan], dtype), (500, 4))
    for label in range(4):
        t, metrics = np.full(len(x), label), np.zeros((2, 1), dtype)
        assert native.softmax_cross_entropy_recorded(x, t, np.empty_like(x), metrics, 0) is None
        assert metrics[1, 0] == np.count_nonzero(x.argmax(axis=1) == t)


@DTYPES
@pytest.mark.parametrize("place", [-1, 4, float("nan"), float("inf"), 2**70])
def test_a_step_without_a_place_in_the_metrics_is_refused(place: float, dtype: str) -> None:
    x, t, dx, metrics = arrays_for("softmax_cross_entropy_recorded", dtype)
    assert native.softmax_cross_entropy_recorded(x, t, dx, metrics[:1], 0) is NotImplemented
    assert native.softmax_cross_entropy_recorded(x, t, dx, metrics, place) is NotImplemented
    assert not dx.any()
    assert not metrics.any()


@DTYPES
@pytest.mark.parametrize(
    "name", [*CONVOLUTIONS, *POOLINGS, *ROWWISE, *FORMS, "adam", "sigmoid", "relu_backward", "gelu", "silu_backward"]
)
def test_threads_change_no_bit(name: str, dtype: str) -> None:
    rng, results = np.random.default_rng(0), []
    shapes = {
        "convolution": ((5, 20, 21, 40), (3, 3, 5, 7), (7,), (7, 20, 21, 40)),
        "convolution_filters": ((8, 22, 23, 40), (13, 20, 21, 40), (3, 3, 8, 13), (13,)),
        "max_pooling": ((6, 40, 42, 40), (6, 20, 21, 40)),
        "max_pooling_backward": ((6, 20, 21, 40), (6, 40, 42, 40), (6, 20, 21, 40), (6, 40, 42, 40)),
        "add_bias": ((301, 1003), (1003,)),
        "sum_rows": ((301, 1003), (1003,)),
    }.get(name, ((500_009,),) * 4)
    shapes = tuple(shapes_of_rows(name, 1009, 203)) if name in FORMS else shapes
    shapes = shapes[: ELEMENTWISE[name][0]] if name in ELEMENTWISE else shapes
    numbers = {"convolution": [1, 1, 1, 1], "convolution_filters": [1]}.get(name, [2] * 4)
    numbers = numbers_for(name) if name in (*ELEMENTWISE, *ROWWISE, *FORMS) else numbers
    arrays = [np.abs(rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    for threads in (1, 3, 100):
        native.use_threads(threads)
        try:
            given = [array.copy() for array in arrays]
            assert getattr(native, name)(*given, *numbers) is None
        finally:
            native.use_threads(1)
        results.append([given[i].tobytes() for i in sorted(written(name))])
    assert results[0] == results[1] == results[2]


@DTYPES
@pytest.mark.parametrize("shape", [(33, 4, 5, 70), (9, 5, 1), (40, 21, 20, 3), (1, 7)])
def test_batch_normalisation_of_channels_that_are_runs_of_memory(dtype: str, shape: tuple[int, ...]) -> None:
    """As convolutions leave them. Against the definition, whose arrays are in C order, with one thread and three."""
    rng, channels = np.random.default_rng(0), shape[-1]
    x, dy = (3 * rng.standard_normal(shape).astype(dtype) + 1 for _ in range(2))
    gamma, beta = rng.standard_normal((2, channels)).astype(dtype)
    expected = functions.batch_normalization.dispatch(object)(x, gamma, beta, 0.1)
    runs = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1) for a in (x, dy)]
    results = []
    for threads in (1, 3):
        native.use_threads(threads)
        try:
            y, x_hat, *rest = [np.empty_like(runs[0]) for _ in range(2)] + [np.empty_like(beta) for _ in range(3)]
            assert native.batch_normalization(runs[0], gamma, beta, y, x_hat, *rest, 0.1) is None
            sums, dx = [np.empty_like(beta) for _ in range(2)], np.empty_like(runs[0])
            assert native.batch_normalization_backward(runs[1], x_hat, gamma, rest[0], dx, *sums) is None
        finally:
            native.use_threads(1)
        for a, e in zip((y, x_hat, *rest), expected, strict=True):
            assert_close(a, e, dtype, terms=100)
        written = [np.empty_like(beta) for _ in range(2)]
        dx_expected = functions.batch_normalization_backward.dispatch(object)(
            dy, expected[1], gamma, expected[2], *written
        )
        mixed = functions.batch_normalization_backward(dy, x_hat, gamma, rest[0], *[np.empty_like(beta) for _ in "gb"])
        for a, e in zip((dx, mixed, *sums), (dx_expected, dx_expected, *written), strict=True):
            np.testing.assert_allclose(a, e, rtol=0, atol=np.finfo(dtype).eps * dy.size * 10)  # sums may cancel
        results.append([a.tobytes() for a in (y, x_hat, *rest, dx, *sums)])
    assert results[0] == results[1]


@pytest.mark.parametrize("count", [64, 20_000, 1_000_000])
@pytest.mark.parametrize(("name", "roundings"), [("layer", 1), ("runs", 1), ("columns", 4)])
def test_normalisation_keeps_the_digits_of_a_mean_far_from_0(name: str, roundings: int, count: int) -> None:
    """However many elements it is the mean of."""
    x = (np.random.default_rng(0).standard_normal((4, count)) + 10_000).astype("float32")
    exact = (x - x.mean(axis=1, keepdims=True, dtype="float64")) / x.std(axis=1, keepdims=True, dtype="float64")
    ones = np.ones(count if name == "layer" else 4, "float32")
    if name == "layer":
        x_hat = functions.layer_normalization(x, ones, ones, 0.0)[1]
    else:
        x_hat = functions.batch_normalization(x.T if name == "runs" else x.T.copy(), ones, ones, 0.0)[1].T
    np.testing.assert_allclose(x_hat, exact, rtol=0, atol=roundings * np.spacing(np.float32(10_000)))


def test_a_gradient_of_another_dtype_keeps_it_in_batch_normalisation() -> None:
    """A copy in the order of the other array would cast it to the other dtype."""
    dy, x_hat, ones = np.ones((6, 5)), np.ones((6, 5), "float32"), np.ones(5, "float32")
    dx = functions.batch_normalization_backward(dy, x_hat, ones, ones, ones.copy(), ones.copy())
    assert dx.dtype == "float64"


@DTYPES
def test_threads_change_no_bit_of_a_loss(dtype: str) -> None:
    rng, results = np.random.default_rng(0), []
    x, t = rng.standard_normal((3001, 203)).astype(dtype), rng.integers(0, 203, 3001)
    for threads in (1, 3, 100):
        native.use_threads(threads)
        try:
            y, dx, again, metrics = np.empty_like(x), np.empty_like(x), np.empty_like(x), np.zeros((2, 1), dtype)
            loss = native.softmax_cross_entropy(x, t, y)
            assert native.softmax_cross_entropy_backward(y, t, dx) is None
            assert native.softmax_cross_entropy_recorded(x, t, again, metrics, 0) is None
        finally:
            native.use_threads(1)
        assert (again == dx).all()
        assert metrics[0, 0] == np.asarray(loss, dtype)
        results.append([loss, y.tobytes(), dx.tobytes(), metrics.tobytes()])
    assert results[0] == results[1] == results[2]


@DTYPES
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64", "aarch64"), reason="the loops set no modes here")
def test_a_running_mean_without_gradients_ends_at_0(dtype: str, threads: int) -> None:
    """With rounding alone it stays at a few times the smallest number, with which some processors are slow."""
    tiny = np.finfo(dtype).tiny
    p, g, m, v = (np.full(500_009, value, dtype) for value in (1, 0, 2 * tiny, 2 * tiny))
    native.use_threads(threads)
    try:
        for _ in range(10):
            assert native.adam(p, g, m, v, 0.1, 1e-8, 0.9, 0.999, 0.0, 1.0) is None
        assert not m.any()
        assert v.all()  # it is still a normal number
    finally:
        native.use_threads(1)
    assert (np.full(3, tiny / 4, dtype) * np.asarray(2, dtype) == tiny / 2).all()  # outside the loops nothing changes


@DTYPES
def test_an_activation_is_exact_next_to_0_in_every_thread(dtype: str) -> None:
    least = np.finfo(dtype).smallest_subnormal
    x, ones = np.full(500_009, least, dtype), np.ones(500_009, dtype)
    y, dx = np.zeros_like(x), np.zeros_like(x)
    native.use_threads(3)
    try:
        assert native.adam(*np.zeros((4, 500_009), dtype), 0.1, 1e-8, 0.9, 0.999, 0.0, 1.0) is None  # other modes
        assert native.relu(x, y) is None
        assert native.relu_backward(ones, y, dx) is None
    finally:
        native.use_threads(1)
    assert (y == least).all()
    assert (dx == 1).all()


@DTYPES
@pytest.mark.parametrize("n", [8, 16, 17, 33])
@pytest.mark.parametrize(("c", "o"), [(1, 1), (1, 6), (3, 5), (4, 4)])
def test_a_convolution_is_a_sum_of_products(n: int, c: int, o: int, dtype: str) -> None:
    rng = np.random.default_rng(n)
    x, W, b = (rng.standard_normal(shape).astype(dtype) for shape in ((c, 6, 5, n), (3, 2, c, o), (o,)))
    y = np.full((o, 4, 6, n), np.nan, dtype)
    enough = n * x.itemsize >= 64
    assert native.convolution(x, W, b, y, 2, 1, 2, 1) is (None if enough else NotImplemented)
    padded = np.zeros((c, 10, 7, n))
    padded[:, 2:8, 1:6] = x
    patches = np.stack([padded[:, i : i + 8 : 2, j : j + 6] for i in range(3) for j in range(2)])  # (6, c, 4, 6, n)
    exact = np.einsum("kchwn,kco->ohwn", patches, W.reshape(6, c, o)) + b[:, None, None, None]
    if enough:
        assert_close(y, exact, dtype, 6 * c)
    dy = exact.astype(dtype)
    dW, db = np.full(W.shape, np.nan, dtype), np.full(o, np.nan, dtype)
    assert native.convolution_filters(padded.astype(dtype), dy, dW, db, 2) is None
    assert_close(dW, np.einsum("kchwn,ohwn->kco", patches, dy.astype(float)).reshape(W.shape), dtype, 24 * n)
    assert_close(db, dy.astype(float).sum(axis=(1, 2, 3)), dtype, 24 * n)


def product(a: np.ndarray, b: np.ndarray, *more: Any) -> np.ndarray:
    c = np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)
    assert native.product(a, b, c, *more or (0,)) is None
    return c


@has_products
@DTYPES
@pytest.mark.parametrize(("m", "k", "n"), [(61, 1000, 70), (200, 33, 50), (5, 500, 300), (70, 385, 31), (1, 7, 1)])
def test_the_bits_of_a_product_depend_on_its_row_and_its_column_alone(m: int, k: int, n: int, dtype: str) -> None:
    """Not on the batch, the number of threads, the width of the vectors, or where the elements lie in memory."""
    rng = np.random.default_rng(m)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
    expected = product(a, b)
    assert_close(expected, a.astype(float) @ b.astype(float), dtype, k)
    try:
        for threads in (1, 3, 100):
            native.use_threads(threads)
            for vectors in (32, 64):
                native.use_vectors(vectors)
                for left in (a, np.asfortranarray(a), np.repeat(a, 2, axis=1)[:, ::2], a[::-1].copy()[::-1]):
                    for right in (b, np.asfortranarray(b), np.repeat(b, 2, axis=0)[::2]):
                        assert product(left, right).tobytes() == expected.tobytes()
                for i, j in zip(rng.integers(0, m, 9), rng.integers(0, n, 9), strict=True):
                    assert product(a[i : i + 1], b).tobytes() == expected[i].tobytes()
                    assert product(a[i : i + 4], b[:, j : j + 3]).tobytes() == expected[i : i + 4, j : j + 3].tobytes()
                assert product(np.stack([a, -a]), b)[1].tobytes() == product(-a, b).tobytes()
    finally:
        native.use_threads(1)
        native.use_vectors(64)


@has_products
@DTYPES
@pytest.mark.parametrize("vectors", [32, 64])
def test_a_product_adds_what_it_is_told_to_and_writes_nothing_else(vectors: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    native.use_vectors(vectors)
    try:
        for m, k, n in [*rng.integers(0, 40, (40, 3)), (7, 900, 65), (30, 0, 5)]:
            a, b, bias, room = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n), n, (m, n + 9)))
            for more in (0, 1):
                around, c = room.copy(), room[:, 4 : 4 + n].copy()
                exact = a.astype(float) @ b.astype(float) + more * c + bias
                assert native.product(a, b, around[:, 4 : 4 + n], bias, more) is None
                assert_close(around[:, 4 : 4 + n], exact, dtype, k + 2)
                around[:, 4 : 4 + n] = room[:, 4 : 4 + n]
                np.testing.assert_array_equal(around, room)
    finally:
        native.use_vectors(64)


def test_products_that_do_not_fit_are_refused() -> None:
    ones = np.ones
    for a, b, c in (
        (ones((3, 4)), ones((5, 6)), ones((3, 6))),
        (ones((3, 4)), ones((4, 6)), ones((3, 5))),
        (ones((3, 4)), ones((4, 6)), ones((2, 6))),
        (ones((3, 4)), ones((4, 6)), np.asfortranarray(ones((3, 6)))),
        (ones((2, 3, 4)), ones((3, 4, 6)), ones((2, 3, 6))),
        (ones((2, 3, 4)), ones((4, 6)), ones((3, 3, 6))),
        (ones((3, 4)), ones((2, 4, 6)), ones((2, 3, 6))),
        (ones(4), ones(4), ones(())),
        (ones((3, 4)), ones((4, 6), "float32"), ones((3, 6))),
        (ones((3, 4)), ones((4, 6)), np.broadcast_to(ones(6), (3, 6))),
    ):
        before = c.copy()
        assert native.product(a, b, c, 0) is NotImplemented
        np.testing.assert_array_equal(c, before)
    assert native.product(ones((3, 4)), ones((4, 6)), ones((3, 6)), ones(5), 0) is NotImplemented


@DTYPES
@pytest.mark.parametrize(
    "name", ["affine", "affine_backward", "product", "lstm", "lstm_backward", "gru", "rnn_backward"]
)
def test_products_may_be_left_to_numpy(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without fused multiply-add, and beside many processors."""
    monkeypatch.setattr(registrations, "PRODUCTS", False)
    monkeypatch.setattr(native, "product", None)
    for given in arguments(name, 7, dtype, np.random.default_rng(0)):
        ours, numpys = ([a.copy() for a in given if isinstance(a, np.ndarray)] for _ in range(2))
        results = functions.__dict__[name](*ours), functions.__dict__[name].dispatch(object)(*numpys)
        for a, b in [*zip(ours, numpys, strict=True), results]:
            for one, other in zip(*(part if isinstance(part, tuple) else (part,) for part in (a, b)), strict=True):
                assert_close(one, other, dtype, 500)


@has_products
@DTYPES
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Affine(6, 50), nn.BatchNormalization(50), nn.ReLU(), nn.LayerNormalization(50), nn.Affine(50, 3)],
        lambda: [nn.Affine(6, 20), nn.Sigmoid(), nn.Affine(20, 20), nn.GELU(), nn.Affine(20, 20), nn.Tanh()],
        *(lambda kind=kind: [kind(6, 40), nn.Affine(40, 5)] for kind in (nn.RNN, nn.LSTM, nn.GRU)),
        lambda: [nn.Affine(6, 32), nn.MultiHeadAttention(32, 4, causal=True), nn.Affine(32, 5)],
    ],
)
def test_a_row_alone_has_the_bits_of_its_prediction_in_a_batch(layers: Callable[[], list[Any]], dtype: str) -> None:
    net = nn.Network(layers(), seed=0, dtype=dtype)
    net.buffer.data[...] += drawing(dtype)(net.buffer.data.size) / 10  # biases among them
    kinds = (nn.RNN, nn.LSTM, nn.GRU, nn.MultiHeadAttention)
    sequences = any(isinstance(layer, kinds) for layer in net.layers.values())
    x = drawing(dtype)(60, 9, 6) if sequences else drawing(dtype)(60, 6)
    together = net.predict(x)
    for first, rows in ((0, 1), (7, 1), (20, 3), (30, 29)):
        assert net.predict(x[first : first + rows]).tobytes() == together[first : first + rows].tobytes()


@has_products
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (lambda: nn.Network([nn.Affine(70, 90), nn.ReLU(), nn.Dropout(0.2), nn.Affine(90, 10)], seed=0), (70,)),
        (lambda: nn.convolutional_network((12, 12, 1), seed=0), (12, 12, 1)),
        (
            lambda: nn.Network(
                [nn.Convolution(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Affine(200, 10)], seed=0
            ),
            (12, 12, 1),
        ),
    ],
)
def test_a_run_has_the_same_bits_with_any_number_of_threads(network: Callable[[], Any], shape: tuple[int, ...]) -> None:
    x, t, results = drawing("float32")(600, *shape), np.arange(600) % 10, []
    for threads in (1, 2, 5):
        native.use_threads(threads)
        try:
            net = network()
            nn.Trainer(net, nn.Adam(), batch_size=64, seed=1).fit(x, t, epochs=2)
        finally:
            native.use_threads(1)
        results.append(net.buffer.data.tobytes())
    assert results[0] == results[1] == results[2]


def drawing(dtype: str) -> Callable[..., np.ndarray]:
    rng = np.random.default_rng(0)
    return lambda *shape: rng.standard_normal(shape).astype(dtype)


@has_products
@DTYPES
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_threads_change_no_bit_of_a_sequence(name: str, dtype: str) -> None:
    results = []
    for threads, vectors in ((1, 64), (3, 64), (100, 32)):
        native.use_threads(threads)
        native.use_vectors(vectors)
        try:
            draw = drawing(dtype)
            given = recurrent_arguments(name, 40, 3, 5, 130, draw)[0]
            backward = recurrent_arguments(f"{name}_backward", 40, 3, 5, 130, draw)[0]
            made = [getattr(functions, name)(*given), getattr(functions, f"{name}_backward")(*backward), *backward]
        finally:
            native.use_threads(1)
            native.use_vectors(64)
        results.append([a.tobytes() for part in made for a in (part if isinstance(part, tuple) else (part,))])
    assert results[0] == results[1] == results[2]


def test_arrays_that_overlap_are_worked_on_in_order() -> None:
    x = np.linspace(-1, 1, 100, dtype="float32")
    expected = functions.relu(x)
    native.relu(x, x)
    np.testing.assert_array_equal(x, expected)


def test_the_interpreter_is_free_while_a_loop_runs() -> None:
    """Two loops at a time: a count in another thread goes on."""
    code = """
import sys, threading
import numpy as np
from nnbackend.backends.numpy import _native
sys.setswitchinterval(60)  # only a loop that lets go of the lock lets the other thread run
mask, counted, done = np.empty(2**24, "float32"), [0], threading.Event()
def count():
    while not done.is_set():
        counted[0] += 1
        done.wait(0.001)
thread = threading.Thread(target=count)
thread.start()
while counted[0] < 3:
    _native.dropout_mask(mask, np.array([0]), 0, 0, 0, 1, 1.0)
done.set()
thread.join()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


EXACT = pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long double is double on this machine")


def ulps(actual: np.ndarray, exact: np.ndarray) -> float:
    """The largest error, in units of the last place of the right value."""
    return float(np.max(np.abs(actual - exact) / np.spacing(np.abs(exact).astype(actual.dtype))))


@EXACT
@DTYPES
def test_the_exponential_is_as_exact_as_a_library_s(dtype: str) -> None:
    """Where e^x is lost beside 1, the sigmoid is e^x."""
    least, from_here = (-708.39, -37.5) if dtype == "float64" else (-87.33, -17.5)
    rng = np.random.default_rng(0)
    near = np.log(2) * np.arange(int(least / np.log(2)), from_here / np.log(2))  # n is another one from here on
    halves = near[1:] - np.log(2) / 2
    x = np.concatenate([rng.uniform(least, from_here, 10**6), near, halves, np.nextafter(halves, 0), [least]])
    x = x.astype(dtype)
    x = x[(x > least) & (x < from_here)]
    y = np.empty_like(x)
    assert native.sigmoid(x, y) is None
    exact = np.exp(x.astype(np.longdouble))
    assert 0.5 < ulps(y, exact) < 1.0  # one of a million is always rounded by half of the last place


@EXACT
@DTYPES
def test_the_sigmoid_on_the_whole_range(dtype: str) -> None:
    x = np.concatenate([np.linspace(-40, 40, 10**5), np.geomspace(1e-30, 80, 999), -np.geomspace(1e-30, 80, 999)])
    x, y = x.astype(dtype), np.empty(len(x), dtype)
    assert native.sigmoid(x, y) is None
    assert ulps(y, 1 / (1 + np.exp(-x.astype(np.longdouble)))) < 2.5
    info = np.finfo(dtype)
    x = np.array([0.0, -0.0, info.tiny, -info.tiny, info.smallest_subnormal, np.inf, -np.inf, np.nan], dtype)
    y = np.empty_like(x)
    native.sigmoid(x, y)
    np.testing.assert_array_equal(y, np.array([0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 0.0, np.nan], dtype))
    x = np.concatenate([np.linspace(-2000, -700, 99999), [-info.max]]).astype(dtype)
    y = np.empty_like(x)
    native.sigmoid(x, y)
    with np.errstate(under="ignore"):
        exact = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(y - exact)) < info.tiny  # what is smaller has few digits or none


@EXACT
@DTYPES
@pytest.mark.parametrize("n", [1, 3, 63, 64, 65, 200])
def test_losses_of_variants_are_exact(n: int, dtype: str) -> None:
    rng = np.random.default_rng(n)
    y, dx, w = (rng.standard_normal(shape).astype(dtype) for shape in ((4, n), (5, n), (5, 4)))
    y *= np.geomspace(1e-3, 300, n, dtype=dtype)
    dx[:, n // 2] = dx[1, : n // 3] = dx[2, : n // 3] = dx[3, : n // 4] = (
        0.0  # the second and third change the same rows
    )
    dx[4, :] = 0.0
    t, losses = rng.integers(0, 4, n), np.empty_like(dx)
    assert native.softmax_cross_entropy_variants(y, dx, w, t, losses) is None
    logits = y + (dx[:, None, :] * w[:, :, None]).astype(np.longdouble)  # (k, classes, n)
    shifted = logits - logits.max(axis=1, keepdims=True)
    exact = np.log(np.exp(shifted).sum(axis=1)) - shifted[:, t, np.arange(n)]
    size = np.abs(logits).max(axis=1) + 1
    assert np.max(np.abs(losses - exact) / size) < 4 * np.finfo(dtype).eps
    unchanged = np.broadcast_to(losses[4], dx.shape)
    np.testing.assert_array_equal(losses[dx == 0], unchanged[dx == 0])  # to the bit: their differences are 0


@DTYPES
def test_losses_of_variants_know_nan_and_infinity(dtype: str) -> None:
    y = np.array([[0, np.nan, 0, np.inf, -np.inf], [1, 0, 1, 0, 0]], dtype)
    dx, w = np.array([[0, 0, np.nan, 1, 1]], dtype), np.ones((1, 2), dtype)
    losses = np.empty_like(dx)
    assert native.softmax_cross_entropy_variants(y, dx, w, np.array([1, 1, 1, 0, 1]), losses) is None
    first = np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(losses, np.array([[first, np.nan, np.nan, np.nan, 0]], dtype), rtol=1e-6)


# --- what they do not take -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "form", ["strided", "readonly", "byteorder", "half", "integer", "object", "misaligned", "list"]
)
def test_other_arrays_are_refused_untouched(name: str, form: str) -> None:
    places = written(name) if form == "readonly" else set(range(len(arrays_for(name))))
    if form == "strided":  # products copy what they read
        places -= {0, 1} if name == "product" else {len(places) - 1} if name in RECURRENCES else set()
        places = {i for i in places if arrays_for(name)[i].size > 1}
    for i in places:
        arrays: list[Any] = arrays_for(name)
        match form:
            case "strided":
                arrays[i] = np.repeat(arrays[i], 2, axis=-1)[..., ::2]
            case "readonly":
                arrays[i].flags.writeable = False
            case "byteorder":
                arrays[i] = arrays[i].astype(arrays[i].dtype.newbyteorder())
            case "half":
                arrays[i] = arrays[i].astype("float16")
            case "integer":
                arrays[i] = arrays[i].astype("int32")
            case "object":
                arrays[i] = arrays[i].astype(object)
            case "misaligned":
                room = np.zeros(arrays[i].nbytes + 1, "uint8")[1:]
                moved = room.view(arrays[i].dtype).reshape(arrays[i].shape)
                moved[...] = arrays[i]
                arrays[i] = moved
            case "list":
                arrays[i] = arrays[i].tolist()
        assert refused(name, arrays), f"argument {i}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "is_finite"])
def test_arrays_that_do_not_belong_together_are_refused(name: str) -> None:
    for i in range(len(arrays_for(name))):
        for shape in ((7, 5), (5, 6), (30,), (6, 5, 1), ()):
            if (name in (*ROWWISE, "gather") and (i, shape) == (0, (7, 5))) or len(arrays_for(name)) == 1:
                continue
            if name in DRAWS and i == 0:  # of any shape
                continue
            if (name, i, len(shape)) == ("softmax_cross_entropy_recorded", 3, 2):  # of any number of steps
                continue
            arrays = arrays_for(name)
            if arrays[i].shape == shape:
                continue
            arrays[i] = np.zeros(shape, arrays[i].dtype)
            assert refused(name, arrays), f"argument {i} of shape {shape}"
        if name in ELEMENTWISE and len(arrays_for(name)) > 1:
            arrays = arrays_for(name)
            arrays[i] = arrays[i].astype("float64")
            assert refused(name, arrays)


@pytest.mark.parametrize(
    "name", [*LABELLED, "gather", "sum_by_id", "softmax_cross_entropy_variants", "softmax_cross_entropy_recorded"]
)
@pytest.mark.parametrize("label", [-1, 9, 2**40, -(2**63)])
def test_rows_and_labels_out_of_range_are_refused(name: str, label: int) -> None:
    arrays = arrays_for(name)
    next(array for array in arrays if array.dtype == np.int64)[-1] = label
    assert refused(name, arrays)


@pytest.mark.parametrize("name", SERVED)
def test_a_refusal_keeps_no_hold_of_an_array(name: str) -> None:
    """The memory of a bytearray cannot grow while anybody holds on to it."""
    rooms = [bytearray(a.tobytes()) for a in arrays_for(name)]
    views = [
        memoryview(room).cast("B").cast("f" if a.dtype == np.float32 else "q", a.shape)
        for room, a in zip(rooms, arrays_for(name), strict=True)
    ]
    call = getattr(native, name)
    assert call(*views, *numbers_for(name)) is not NotImplemented
    for i in range(len(views)):
        assert call(*views[:i], b"no", *views[i + 1 :], *numbers_for(name)) is NotImplemented
    del views
    for room in rooms:
        room.append(0)


@pytest.mark.parametrize("name", NAMES)
def test_bad_calls_say_what_is_wrong(name: str) -> None:
    call, arrays, numbers = getattr(native, name), arrays_for(name), numbers_for(name)
    expected = len(arrays) + len(numbers)
    more = [1.0, 1.0] if name == "product" else [1.0]  # a product may have one more: a bias
    with pytest.raises(TypeError, match=f"expected {expected} arguments?, got {expected + len(more)}"):
        call(*arrays, *numbers, *more)
    with pytest.raises(TypeError, match=f"expected {expected} arguments?, got 0"):
        call()
    if numbers:
        with pytest.raises(TypeError, match="must be real number, not str"):
            call(*arrays, *numbers[:-1], "1")


def test_one_column_is_summed_in_pairs() -> None:
    """One after the other the sum of 10^6 numbers would be off by a percent."""
    dy, x, db = np.full((10**6, 1), 0.1, "float32"), np.zeros((10**6, 1), "float32"), np.zeros(1, "float32")
    functions.affine_backward(dy, x, np.ones((1, 1), "float32"), np.zeros((1, 1), "float32"), db)
    np.testing.assert_allclose(db, 1e5, rtol=1e-6)


def test_arrays_of_nothing_are_refused_where_a_loop_would_divide_or_read() -> None:
    none = np.empty(0, "int64")
    assert native.gather(np.zeros((0, 3)), none, np.zeros((0, 3))) is NotImplemented
    assert native.gather(np.zeros((4, 0)), none, np.zeros((0, 0))) is NotImplemented
    for name in LABELLED:
        assert getattr(native, name)(np.zeros((0, 3)), none, np.zeros((0, 3))) is NotImplemented
        assert getattr(native, name)(np.zeros((2, 0)), np.zeros(2, "int64"), np.zeros((2, 0))) is NotImplemented
    metrics = np.zeros((2, 4))
    assert native.softmax_cross_entropy_recorded(np.zeros((0, 3)), none, np.zeros((0, 3)), metrics, 0) is NotImplemented
    empty = np.zeros((3, 0)), np.zeros((2, 0)), np.zeros((2, 3)), none, np.zeros((2, 0))
    assert native.softmax_cross_entropy_variants(*empty) is NotImplemented


def test_subclasses_are_numpys() -> None:
    hidden = np.ma.MaskedArray([1.0, np.inf], mask=[False, True])
    assert functions.is_finite(hidden)
    assert isinstance(functions.gather(hidden, np.array([0, 1])), np.ma.MaskedArray)


def test_masks_of_streams_that_are_no_32_bit_words_are_numpys() -> None:
    x, clock = np.zeros(9), np.array([1])
    reference = functions.dropout_mask.dispatch(object)
    np.testing.assert_array_equal(functions.dropout_mask(x, 0.5, 3, 2**32, clock), reference(x, 0.5, 3, 2**32, clock))
    even = functions.uniform.dispatch(object)
    np.testing.assert_array_equal(functions.uniform(x, (5,), 3, 2**32, clock), even(x, (5,), 3, 2**32, clock))


def test_what_a_loop_refuses_numpy_does() -> None:
    x, t = arrays_for("softmax_cross_entropy", "float64")[:2]
    loss, y = functions.softmax_cross_entropy(x, t)
    again, z = functions.softmax_cross_entropy(x, t.astype("int16"))
    np.testing.assert_allclose(again, loss)
    np.testing.assert_allclose(z, y)
    with pytest.raises(ValueError, match="labels must lie in 0 to 4"):
        functions.softmax_cross_entropy(x, t + 5)
    with pytest.raises(IndexError, match="out of bounds"):
        functions.gather(x, np.array([6]))
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        sgd_step(frozen, np.ones(3), 0.1)
    half = np.ones(3, "float16")
    sgd_step(half, half.copy(), 0.5)
    np.testing.assert_array_equal(half, np.full(3, 0.5, "float16"))


# --- with and without them ------------------------------------------------------------------------------------------

TRAINING = """
import json, sys
import nnbackend as nn
x, t = nn.datasets.spiral(seed=0)
layers = [nn.Affine(2, 20), nn.ReLU(), nn.Dropout(0.2), nn.Affine(20, 3)]
net = nn.Network(layers, dtype="float64", seed=1, backend="numpy")
for optimizer in (nn.SGD(), nn.Momentum(), nn.Nesterov(), nn.AdaGrad(), nn.RMSprop(), nn.Adam(), nn.AdamW()):
    nn.Trainer(net, optimizer, batch_size=32).fit(x, t, 2)
values = [value for name in net.params for value in net.params[name].ravel().tolist()]
print(json.dumps(["nnbackend.backends.numpy.native" in sys.modules, values]))
"""


def test_training_is_the_same_without_them() -> None:
    outcomes = []
    for setting in ("1", "0"):
        environment = os.environ | {"NNBACKEND_NATIVE": setting}
        done = subprocess.run([sys.executable, "-c", TRAINING], env=environment, capture_output=True, check=True)
        outcomes.append(json.loads(done.stdout))
    (with_loops, ours), (without, numpys) = outcomes
    assert (with_loops, without) == (True, False)
    np.testing.assert_allclose(ours, numpys, rtol=1e-9, atol=1e-12)  # rounding, grown in 140 steps
