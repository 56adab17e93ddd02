"""The CUDA kernels without a GPU: NVRTC compiles them for real devices, and g++ for this CPU, where they run."""

from __future__ import annotations

import ctypes
import importlib
import inspect
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_standin as standin
import numpy as np
import pytest
from backends.test_kernels import LONG, ROWS, arguments, dispatched, prepare, writes
from support import tolerance

import nnbackend as nn
from nnbackend import functions
from nnbackend.backends import to_numpy
from nnbackend.backends.cupy import cublas

SOURCE = (Path(nn.__file__).parent / "backends" / "cupy" / "kernels.cu").read_text()
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")  # A100, H100 and H200, B200, RTX 50


@pytest.fixture(scope="module")
def cupy() -> Iterator[nn.Backend]:
    with standin.installed(), nn.using("cupy") as backend:
        yield backend


# --- for real devices -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    if sys.platform != "linux":
        pytest.skip(f"NVRTC on {sys.platform}: the test extra brings it on Linux only")
    try:
        folders = importlib.import_module("nvidia").__path__
    except ImportError:
        folders = []
    found = sorted(path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.1?"))
    assert found, "NVRTC is missing: pip install nvidia-cuda-nvrtc (the test extra brings it)"
    return ctypes.CDLL(str(found[-1]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("real", ["float", "double"])
def test_the_source_compiles_for_real_devices(nvrtc: ctypes.CDLL, architecture: str, real: str) -> None:
    program = ctypes.c_void_p()
    source = f"typedef {real} T;\n{SOURCE}".encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={architecture}".encode(), b"-std=c++14", b"--ptxas-options=-v"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert (status, b"warning" in log.value) == (0, False), log.value.decode()
    used = re.findall(r"entry function 'nn_(\w+)'.*?Used (\d+) registers", log.value.decode(), re.S)
    assert {name for name, _ in used} == set(standin.kernel_names(SOURCE))
    blocks = {name for kind, name in standin.DEFINITION.findall(SOURCE) if kind == "BLOCK"}
    assert blocks
    # a multiprocessor has 65536 registers, and a block is launched only if it has enough of them for all threads
    assert [name for name, count in used if int(count) * (1024 if name in blocks else 256) > 65536] == []
    assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    cubin = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetCUBIN(program, cubin) == 0
    assert all(f"nn_{name}".encode() in cubin.raw for name in standin.kernel_names(SOURCE))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


# --- on this CPU ------------------------------------------------------------------------------------------------------


# read off the source: importing it here would register the stand-in for every test that is collected later
PYTHON = (Path(nn.__file__).parent / "backends" / "cupy" / "kernels.py").read_text()
REGISTERED = sorted(set(re.findall(r"^@kernel\((\w+), cupy\.ndarray\)", PYTHON, re.M)) & set(dispatched()))


def test_every_kernel_is_found(cupy: nn.Backend) -> None:
    found = {name for name, function in dispatched().items() if standin.ndarray in function.registry}
    assert found == set(REGISTERED)


@pytest.mark.parametrize("name", REGISTERED)
def test_signatures(cupy: nn.Backend, name: str) -> None:
    function = dispatched()[name]
    reference, kernel = (inspect.signature(function.dispatch(k)).parameters for k in (object, standin.ndarray))
    assert [(p.name, p.default) for p in kernel.values()] == [(p.name, p.default) for p in reference.values()]


@pytest.mark.parametrize("name", REGISTERED)
@pytest.mark.parametrize("form", ["plain", "strided"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernel_equals_its_reference(cupy: nn.Backend, name: str, form: str, dtype: str) -> None:
    function = dispatched()[name]
    for n in ROWS:
        if n == 0 and name.startswith(("softmax", "count")) and name != "softmax_backward":
            continue  # over no rows a mean has no value
        rng = np.random.default_rng(n)
        for host in arguments(name, n, dtype, rng):
            compare(cupy, function, host, form, dtype)


@pytest.mark.parametrize("form", ["plain", "strided"])
def test_many_arrays_are_joined_without_the_host(cupy: nn.Backend, form: str) -> None:
    own: Any = object()  # a handle, which nothing here uses
    with cublas.capturing(own):
        for n in ROWS:
            for host in arguments("concat", n, "float32", np.random.default_rng(n)):
                compare(cupy, dispatched()["concat"], host, form, "float32")


def compare(cupy: nn.Backend, function: Any, host: list[Any], form: str, dtype: str) -> None:
    ours = [prepare(value, form, cupy.asarray) for value in host]
    theirs = [prepare(value, "plain", lambda a: a) for value in host]
    actual, expected = function.dispatch(standin.ndarray)(*ours), function.dispatch(object)(*theirs)
    pairs = list(zip(ours, theirs, strict=True)) if writes(function.__name__) else []
    for a, e in [*pairs, *zip(listed(actual), listed(expected), strict=True)]:
        if isinstance(e, np.ndarray | np.generic):
            a = to_numpy(a)
            assert a.shape == np.shape(e)
            assert a.dtype == e.dtype
            scale = max(1.0, float(np.max(np.abs(e), initial=0.0)))
            np.testing.assert_allclose(a, e, rtol=0, atol=tolerance(dtype, 100) * scale)
        else:
            assert a == e


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("name", REGISTERED)
def test_what_a_kernel_is_not_made_for_goes_to_the_reference(cupy: nn.Backend, name: str) -> None:
    function, rng = dispatched()[name], np.random.default_rng(0)
    before = cupy_launches(name)
    for host in arguments(name, 7, "float64", rng)[:1]:
        half = [v.astype("float16") if isinstance(v, np.ndarray) and v.dtype == "float64" else v for v in host]
        function.dispatch(standin.ndarray)(*(prepare(value, "plain", cupy.asarray) for value in half))
    assert cupy_launches(name) == before


def cupy_launches(name: str) -> int:
    return standin.MACHINE.counts[f"kernel nn_{name}"]


@pytest.mark.parametrize("classes", [1, 2, 256, 257])
def test_rows_of_any_length(cupy: nn.Backend, classes: int) -> None:
    rng = np.random.default_rng(classes)
    x, t = rng.standard_normal((5, classes)), rng.integers(0, classes, 5)
    for name, host in {
        "softmax": [x],
        "softmax_backward": [x, x + 1],
        "softmax_cross_entropy": [x, t],
        "softmax_cross_entropy_backward": [x, t],
        "count_correct": [x, t],
    }.items():
        compare(cupy, dispatched()[name], host, "plain", "float64")


def test_labels_of_other_kinds_and_outside_the_classes(cupy: nn.Backend) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3))
    for t in (np.array([0, 1, 2, 1], "int32"), np.array([0, 3, -1, 2]), np.eye(3, dtype="int64")[[0, 1, 2, 2]]):
        for name in ("softmax_cross_entropy_rows", "softmax_cross_entropy_backward", "count_correct"):
            compare(cupy, dispatched()[name], [x, t], "plain", "float64")


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(cupy: nn.Backend, special: float) -> None:
    x = np.array([[special, 1.0, -1.0], [1.0, special, 2.0], [0.0, 0.0, special]])
    with np.errstate(all="ignore"):
        for name in ("relu", "leaky_relu", "tanh", "sigmoid", "elu", "softmax"):
            expected = dispatched()[name].dispatch(object)(x)
            actual = to_numpy(dispatched()[name](cupy.asarray(x)))
            assert (np.isnan(actual) == np.isnan(expected)).all(), name
        labels = np.argmax(x, axis=1)
    assert int(functions.count_correct(cupy.asarray(x), cupy.asarray(labels))) == 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_ends_of_the_numbers(cupy: nn.Backend, dtype: str) -> None:
    x = np.array([math.inf, 3e38, 1e30, 1e19, 1e5, 100.0, 20.0, 1.0, 1e-40, 0.0], dtype)
    x = np.concatenate([x, -x, [math.nan]]).astype(dtype)
    calls: list[tuple[str, list[Any]]] = [("leaky_relu", [x, 0.0])]
    for name in ("sigmoid", "relu", "leaky_relu", "tanh", "elu", "silu", "gelu"):
        read = x if name in ("silu", "gelu") else dispatched()[name].dispatch(object)(x)
        calls += [(name, [x]), (f"{name}_backward", [np.ones_like(x), read])]
    eps = np.finfo(dtype).eps
    for name, (first, *rest) in calls:
        expected = dispatched()[name].dispatch(object)(first, *rest)
        moved = [cupy.asarray(value) if isinstance(value, np.ndarray) else value for value in rest]
        actual = to_numpy(dispatched()[name].dispatch(standin.ndarray)(cupy.asarray(first), *moved))
        np.testing.assert_allclose(actual, expected, rtol=8 * eps, atol=60 * eps, err_msg=name)


PUBLISHED = [  # Random123's known-answer file, philox4x32 with ten rounds: counter, key, result
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
PROBE = """
KERNEL(probe)(long long n, unsigned int* out, const unsigned int* in) {
    THREAD(i, n);
    const Words counter = {{in[0], in[1], in[2], in[3]}}, result = philox(counter, in[4], in[5]);
    for (int j = 0; j < 4; j++) out[j] = result.w[j];
}
"""


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_philox_gives_the_published_vectors(
    cupy: nn.Backend, counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    kernel = standin.RawModule(code=f"typedef float T;\n{SOURCE}{PROBE}").get_function("nn_probe")
    words, out = cupy.asarray(np.array([*counter, *key], "uint32")), cupy.asarray(np.zeros(4, "uint32"))
    kernel((1,), (1,), (1, out, words))
    assert tuple(int(word) for word in to_numpy(out)) == expected


@pytest.mark.parametrize("shape", [(7, 5), (4,), (1,), (3, 2, 5), (0, 4), ()])
@pytest.mark.parametrize("seed", [0, 2**35 + 1, 2**63 + 12345, 2**64 - 1])
def test_masks_are_the_same_bit_for_bit(cupy: nn.Backend, shape: tuple[int, ...], seed: int) -> None:
    for dtype in ("float32", "float64"):
        host = [np.zeros(shape, dtype), 0.3, seed, 2**31 + 3, np.array([2**33 + 17])]
        expected = functions.dropout_mask.dispatch(object)(*host)
        actual = to_numpy(functions.dropout_mask(*(prepare(v, "plain", cupy.asarray) for v in host)))
        assert actual.dtype == dtype
        assert (actual == expected).all()


@pytest.mark.parametrize("name", [name for name in REGISTERED if name.endswith("_step")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_step_count_and_learning_rate_may_live_on_the_device(cupy: nn.Backend, name: str, dtype: str) -> None:
    step, host = dispatched()[name], arguments(name, LONG, dtype, np.random.default_rng(0))[0]
    names = list(inspect.signature(step.dispatch(object)).parameters)
    plain = [prepare(value, "plain", cupy.asarray) for value in host]
    moved = [
        cupy.asarray(np.array([value], "float64" if dtype == "float32" else dtype)) if which in ("t", "lr") else value
        for which, value in zip(names, (prepare(v, "plain", cupy.asarray) for v in host), strict=False)
    ]
    step(*plain)
    step(*moved)
    assert (to_numpy(plain[0]) == to_numpy(moved[0])).all()


# --- products through a handle of one's own ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", cublas.PRECISIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_through_our_own_handle(cupy: nn.Backend, precision: str, dtype: str) -> None:
    rng, machine = np.random.default_rng(0), standin.MACHINE
    cublas.set_precision(precision)
    try:
        for n, k, m in [(5, 4, 3), (1, 4, 3), (5, 1, 3), (5, 4, 1), (1, 1, 1), (0, 4, 3), (5, 0, 3)]:
            x, W, b = (rng.standard_normal(shape).astype(dtype) for shape in ((n, k), (k, m), (m,)))
            dy, dW = rng.standard_normal((n, m)).astype(dtype), np.ones((k, m), dtype)
            for form in ("plain", "strided"):
                machine.counts.clear()
                compare(cupy, functions.affine, [x, W, b], form, dtype)
                compare(cupy, functions.affine_backward, [dy, x, W, dW, np.ones(m, dtype)], "plain", dtype)
                compare(cupy, functions.affine_backward, [dy, x, W, dW, np.ones(m, dtype)], form, dtype)
                used = {name for name in machine.counts if name.startswith(("gemm", "matmul"))}
                if precision == "float32":
                    assert used == {"matmul"}
                elif min(n, k):
                    assert f"gemm {70 if dtype == 'float64' else cublas.PRECISIONS[precision]}" in used
    finally:
        cublas.set_precision("float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stacks_of_products_through_our_own_handle(cupy: nn.Backend, dtype: str) -> None:
    cublas.set_precision("tf32")
    try:
        for host in arguments("product", 5, dtype, np.random.default_rng(0)):
            standin.MACHINE.counts.clear()
            compare(cupy, functions.product, host, "plain", dtype)
            assert (standin.MACHINE.counts["stack of gemm"] == 1) == (host[0].ndim > 2)
            assert not standin.MACHINE.counts["matmul"]
    finally:
        cublas.set_precision("float32")


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        cublas.set_precision("bfloat")
