"""The example that exports a digit classifier: its file in onnxruntime, its page in a browser, drawn on by mouse."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import nnbackend as nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = spec_from_file_location("example_export_digits", EXAMPLES / "export_digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(example: ModuleType, tmp_path_factory: Any) -> Path:
    out: Path = tmp_path_factory.mktemp("digits")
    example.main(["--data=sample", "--epochs=2", "--rows=4000", "--out", str(out)])
    return out


def test_onnxruntime_reads_the_test_images_as_the_network_does(
    example: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {path.name for path in folder.iterdir()} == {"export_digits.onnx", "export_digits.html"}
    data = nn.datasets.mnist("sample", flatten=False)
    p = example.run(folder / "export_digits.onnx", data.x_test)
    assert np.mean(p.argmax(axis=1) == data.t_test) > 0.92
    page = (folder / "export_digits.html").read_text(encoding="utf-8")
    assert '"centre": "mass"' in page
    assert "const preparation = {};" not in page


def test_on_a_device_that_refuses_the_host(example: ModuleType, tmp_path: Path, capsys: Any) -> None:
    with nn.using("array_api_strict:device1"):
        example.main(["--data=sample", "--epochs=1", "--rows=100", "--out", str(tmp_path)])
    assert "12 nodes, opset 20; onnxruntime differs by at most" in capsys.readouterr().out


# --- the page ---------------------------------------------------------------------------------------------------


def circle(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    angles = np.linspace(-np.pi / 2, 3 * np.pi / 2, 25)
    return [(x + width * float(np.cos(a)), y + height * float(np.sin(a))) for a in angles]


DRAWN = {  # one, two or more strokes, some of them small and in a corner: the page cuts out, scales and centres
    0: [circle(140, 140, 60, 95)],
    1: [[(60, 30), (55, 90)]],
    4: [[(90, 40), (75, 140), (190, 140)], [(170, 50), (165, 240)]],
    7: [[(180, 180), (250, 180), (215, 260)]],
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    modules = os.environ.get("NNBACKEND_NODE_MODULES", "")
    if not modules:
        pytest.skip("NNBACKEND_NODE_MODULES names no folder with onnxruntime-web and puppeteer-core")
    if shutil.which("chromium") is None or shutil.which("node") is None:
        pytest.skip("there is no Chromium, or no Node.js")
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(modules, target_is_directory=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/export_digits.html"
    server.shutdown()
    thread.join()
    server.server_close()


def test_digits_drawn_with_the_mouse_are_read_in_a_browser(
    example: ModuleType, folder: Path, served: str, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("draw.mjs")
    command = ["node", script, str(shutil.which("chromium")), served, json.dumps(list(DRAWN.values()))]
    done = subprocess.run([*command, tmp_path / "page.png"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    images = np.array([result["image"] for result in found["results"]], np.float32).reshape(-1, 28, 28, 1)
    expected = example.run(folder / "export_digits.onnx", images)
    np.testing.assert_allclose([result["probabilities"] for result in found["results"]], expected, atol=1e-5)
    assert [result["text"][0] for result in found["results"]] == [str(digit) for digit in DRAWN]
    for image in images[..., 0]:  # as MNIST has them: 20 pixels long, their mass in the middle
        rows, columns = np.nonzero(image > 0.2)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in range(19, 23)
        for axis in (0, 1):
            mass = np.sum(image.sum(axis=1 - axis) * (np.arange(28) + 0.5)) / image.sum()
            assert abs(mass - 14) < 0.5
    assert (tmp_path / "page.png").stat().st_size > 5000
