"""The sub-commands `export` and `conformance`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.cli import main


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    nn.convolutional_network((8, 8, 1), 3, channels=[2], hidden_size=4).save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_export_onnx(saved: Path, tmp_path: Path, capsys: Any) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    assert main(["export", str(saved), str(tmp_path / "net.onnx"), "--input-shape", "8", "8", "1"]) == 0
    assert "net.onnx: 9 nodes, opset 20; onnxruntime differs by at most" in capsys.readouterr().out
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["n", 8, 8, 1]


def test_export_torch(saved: Path, tmp_path: Path, capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    assert main(["export", str(saved), str(tmp_path / "net.pt")]) == 0
    assert f"{tmp_path / 'net.pt'}: a state dict of PyTorch\n" == capsys.readouterr().out
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    net = nn.load(saved)
    assert torch.equal(state["6.weight"], torch.tensor(nn.to_numpy(net.params["W3"]).T))


def test_export_c(tmp_path: Path, capsys: Any) -> None:
    nn.TwoLayerNet(3, 4, 2).save(tmp_path / "net.safetensors")
    assert main(["export", str(tmp_path / "net.safetensors"), str(tmp_path / "digit.h")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'digit.h'}: one function of C99\n"
    assert "digit_predict(const float x[3], float y[2])" in (tmp_path / "digit.h").read_text()


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (["net.safetensors", "net.onxx"], 2, "argument FILE: 'net.onxx': unknown suffix '.onxx'. Did you mean '.onnx'?"),
    (["net.safetensors", "net.onnx", "--input-shape", "0"], 2, "argument --input-shape: expected an integer of at"),
    (["none.safetensors", "net.h"], 1, "none.safetensors: there is no such file"),
    (["net.safetensors", "net.h"], 1, "Convolution1 cannot be written to C"),
    (["net.safetensors", "none/net.onnx"], 1, "there is no folder none"),
    (["net.safetensors", "net.onnx", "--input-shape", "8", "8"], 1, "the network takes rows of shape (None, None, 1)"),
])  # fmt: skip
def test_export_of_what_cannot_be(
    arguments: list[str], status: int, message: str, saved: Path, monkeypatch: Any, capsys: Any
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.chdir(saved.parent)
    assert main(["export", *arguments]) == status
    assert message in capsys.readouterr().err
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_conformance_prints_and_writes_the_table(tmp_path: Path, capsys: Any) -> None:
    assert main(["conformance", "numpy", "--markdown", str(tmp_path / "table.md")]) == 0
    assert f"numpy {np.__version__} on cpu" in capsys.readouterr().out
    assert f"\n| | numpy {np.__version__} |\n" in (tmp_path / "table.md").read_text()


def test_conformance_of_what_is_no_library(capsys: Any) -> None:
    assert main(["conformance", "no_such_library"]) == 1
    assert "nnbackend: error: 'no_such_library' cannot be imported" in capsys.readouterr().err
