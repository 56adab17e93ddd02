"""The header, compiled by a C compiler with every warning an error, and compared with the network."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.functions.array import array_namespace
from nnbackend.layers import ACTIVATIONS, LOSSES

CC = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
FLAGS = [
    "-std=c99",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wdouble-promotion",
    "-Wshadow",
    "-Werror",
]
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler")


def network(layers: list[nn.Layer], dtype: str = "float32", loss: nn.Loss | None = None) -> nn.Network:
    net = nn.Network(layers, loss or nn.MeanSquaredError(), dtype=dtype)
    rng = np.random.default_rng(0)
    for views in (net.params, net.statistics):
        for name, view in views.items():
            views[name] = rng.uniform(0.5, 2.0, view.shape) if "var" in name else rng.standard_normal(view.shape)
    return net


def compiled(header: Path, name: str, net: nn.Network, x: np.ndarray) -> np.ndarray:
    source, library = header.with_suffix(".c"), header.with_suffix(".so")
    kind = {"float32": "float", "float64": "double"}[net.dtype]
    source.write_text(
        f'#include "{header.name}"\n'
        f"void run(const {kind} *x, {kind} *y);\n"
        f"void run(const {kind} *x, {kind} *y) {{ {name}_predict(x, y); }}\n"
        f"int sizes(int i);\n"
        f"int sizes(int i) {{ return i ? {name.upper()}_OUTPUTS : {name.upper()}_INPUTS; }}\n"
    )
    subprocess.run([str(CC), *FLAGS, "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)
    code = ctypes.CDLL(str(library))
    assert code.sizes(0) == x[0].size
    y = np.empty((len(x), code.sizes(1)), net.dtype)
    for row, out in zip(x, y, strict=True):
        row = np.ascontiguousarray(row)
        code.run(row.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p))
    return y


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [
    *(pytest.param(lambda make=make: [nn.Affine(5, 7), make(), nn.Affine(7, 3)], id=name)
      for name, make in ACTIVATIONS.items()),
    pytest.param(lambda: [nn.Tanh(), nn.Affine(5, 9), nn.GELU(), nn.Affine(9, 2), nn.ELU(0.3)], id="ends"),
    pytest.param(lambda: [nn.Affine(5, 4), nn.BatchNormalization(4), nn.ReLU(), nn.BatchNormalization(4)], id="batch"),
    pytest.param(lambda: [nn.BatchNormalization(5), nn.Tanh(), nn.Affine(5, 4)], id="batch first"),
    pytest.param(lambda: [nn.Affine(5, 4), nn.LayerNormalization(4), nn.Softmax(), nn.Affine(4, 4)], id="rows"),
    pytest.param(lambda: [nn.Affine(5, 9), *(nn.Affine(9, 9) for _ in range(3)), nn.Affine(9, 1)], id="deep"),
])  # fmt: skip
def test_the_function_computes_the_same(make: Any, dtype: str, tmp_path: Path) -> None:
    net = network(make(), dtype)
    net.to_c(tmp_path / "my-net.h")
    x = np.random.default_rng(1).standard_normal((6, 5)).astype(dtype)
    assert_close(compiled(tmp_path / "my-net.h", "my_net", net, x), net.predict(x), dtype, terms=60)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [*ACTIVATIONS.values(), lambda: nn.LeakyReLU(0.0)], ids=[*ACTIVATIONS, "leaky by 0"])
def test_numbers_without_a_bound(make: Any, dtype: str, tmp_path: Path) -> None:
    net = network([make()], dtype)
    net.to_c(tmp_path / "net.h", input_shape=(9,))
    x = np.array([[0.0, -88.0, 800.0, -800.0, 1e20, -1e20, np.inf, -np.inf, np.nan]], dtype)
    np.testing.assert_allclose(compiled(tmp_path / "net.h", "net", net, x), net.predict(x), 1e-6, 1e-30)


@needs_compiler
@pytest.mark.parametrize("name", LOSSES)
def test_the_output_is_that_of_the_loss(name: str, tmp_path: Path) -> None:
    net = network([nn.Affine(5, 4)], loss=LOSSES[name]())
    net.to_c(tmp_path / "2net.h")
    x = 50 * np.random.default_rng(1).standard_normal((6, 5)).astype("float32")
    assert_close(compiled(tmp_path / "2net.h", "net_2net", net, x), net.predict_proba(x), "float32", terms=5)


@needs_compiler
def test_rows_of_images_and_no_affine_layer(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 2, 2, 3)).astype("float32")
    for layers in ([nn.BatchNormalization(3), nn.SiLU(), nn.Flatten()], [nn.Flatten()]):
        net = network(layers)
        net.to_c(tmp_path / f"net{len(layers)}.h", input_shape=(2, 2, 3))
        assert_close(compiled(tmp_path / f"net{len(layers)}.h", f"net{len(layers)}", net, x), net.predict(x), "float32")


@needs_compiler
def test_it_is_c_plus_plus_too(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    network([nn.Affine(5, 4), nn.Tanh()]).to_c(tmp_path / "net.h")
    (tmp_path / "net.cpp").write_text('#include "net.h"\nint main() { float x[5] = {}, y[4]; net_predict(x, y); }\n')
    subprocess.run([compiler, "-Wall", "-Werror", "-c", "-o", tmp_path / "net.o", tmp_path / "net.cpp"], check=True)


def test_from_every_backend(on: Namespace, tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(2, 1)], nn.MeanSquaredError())
    net.params["W1"], net.params["b1"] = np.array([[0.5], [0.1]]), np.array([3.0])
    net.to_c(tmp_path / "net.h")
    text = (tmp_path / "net.h").read_text()
    assert "static const float W1[1][2] = {{0.5f, 0.100000001f}};" in text
    assert "static const float b2[1] = {3.0f};" in text


class Log(nn.MeanSquaredError):
    def output(self, y: Any) -> Any:
        return array_namespace(y).exp(y)


class Double(nn.ReLU):
    def forward(self, x: Any, training: bool = False) -> Any:
        return 2.0 * x


@pytest.mark.parametrize(("layers", "loss", "message"), [
    ([nn.Convolution(1, 1, 1)], None, "Convolution1 cannot be written to C: only affine layers"),
    ([nn.Affine(2, 1), Double()], None, "Double1 cannot be written to C"),
    ([nn.Affine(2, 1)], Log(), "Log cannot be written to C: it has an output of its own"),
])  # fmt: skip
def test_what_cannot_be_written(layers: Any, loss: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        network(layers, loss=loss).to_c(tmp_path / "net.h")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    net = network([nn.Affine(2, 1)])
    net.params["b1"] = np.array([np.inf])
    with pytest.raises(ValueError, match="not finite"):
        net.to_c(tmp_path / "net.h")
