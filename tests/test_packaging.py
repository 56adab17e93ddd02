"""How the package is built, and where it must run: from a wheel, a zip file, a packaged program, in a browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nnbackend as nn
from nnbackend.backends.base import ROOMS as LIBRARIES

PACKAGE = Path(nn.__file__).parent
CLONE = Path(__file__).parents[1]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def run(code: str, **environment: str) -> str:
    """Run Python code in a process of its own, and return what it prints."""
    command = [sys.executable, "-P", "-W", "error", "-c", code]  # -P: this folder is not searched for modules
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- wheels


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The build hook, as a module."""
    for needed in ("hatchling", "setuptools"):
        pytest.importorskip(needed, reason=f"{needed} builds the package: pip install {needed}")
    spec = importlib.util.spec_from_file_location("build_hook", PACKAGE / "backends" / "numpy" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OPTIONS", [] if sys.platform == "win32" else ["-O0"])  # compiles fast
    return module


@pytest.fixture
def compiler() -> None:
    """Skip if there is no C compiler."""
    if shutil.which("cc") is None and sys.platform != "win32":
        pytest.skip("there is no C compiler")


class Warnings(list[str]):
    """The part of hatchling's application that the hook uses."""

    display_warning = list.append


def data_of(hook: ModuleType) -> tuple[dict[str, Any], Warnings]:
    """Run the hook for a wheel. Return what it asks of hatchling, and its warnings."""
    from hatchling.builders.wheel import WheelBuilder

    builder, warnings = WheelBuilder(str(CLONE)), Warnings()
    data: dict[str, Any] = {"force_include": {}, "pure_python": True, "infer_tag": False}
    made = hook.NativeHook(str(CLONE), {}, builder.config, builder.metadata, "", "wheel", warnings)
    made.initialize("standard", data)
    for built in data["force_include"]:
        assert Path(built).is_file()
    made.finalize("standard", data, "")
    return data, warnings


@pytest.mark.skipif(not (CLONE / "nnbackend").is_dir(), reason="the tests lie outside a clone")
class TestTheBuildHook:
    @pytest.mark.skipif(FREE_THREADED, reason="the free-threaded CPython has no stable ABI")
    @pytest.mark.usefixtures("compiler")
    def test_one_wheel_is_for_every_cpython(self, hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NNBACKEND_NATIVE", raising=False)
        data, warnings = data_of(hook)
        assert warnings == []
        assert data["tag"].startswith("cp311-abi3-")
        assert data["pure_python"] is False
        (name,) = data["force_include"].values()
        assert name.endswith(("/_native.abi3.so", "/_native.pyd"))

    def test_a_switch_leaves_the_loops_out(self, hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NNBACKEND_NATIVE", "0")
        data, warnings = data_of(hook)
        assert (data, warnings) == ({"force_include": {}, "pure_python": True, "infer_tag": False}, [])

    @pytest.mark.skipif(sys.platform == "win32", reason="CC chooses no compiler there")
    def test_without_a_compiler(self, hook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", "false")
        monkeypatch.delenv("NNBACKEND_NATIVE", raising=False)
        data, warnings = data_of(hook)
        assert data["pure_python"] is True
        assert len(warnings) == 1
        assert "built without its loops in C" in warnings[0]
        monkeypatch.setenv("NNBACKEND_NATIVE", "1")
        with pytest.raises(Exception, match="exit code 1|exit status 1"):
            data_of(hook)

    @pytest.mark.usefixtures("compiler")
    def test_an_editable_installation_compiles_for_its_python(self, hook: ModuleType, tmp_path: Path) -> None:
        assert hook.compiled(CLONE, str(tmp_path), stable=False).name.endswith(sysconfig.get_config_var("EXT_SUFFIX"))

    @pytest.mark.skipif(shutil.which("clang") is None or sys.platform == "win32", reason="there is no Clang")
    def test_clang_compiles_the_loops(self, hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It refuses vectors as arguments of functions for other registers, which GCC takes."""
        monkeypatch.setenv("CC", "clang")
        assert hook.compiled(CLONE, str(tmp_path), stable=False).is_file()

    @pytest.mark.skipif(FREE_THREADED, reason="the free-threaded CPython has no stable ABI")
    @pytest.mark.usefixtures("compiler")
    def test_the_stable_module_runs_and_is_not_stale(self, hook: ModuleType, tmp_path: Path) -> None:
        shutil.copytree(PACKAGE, tmp_path / "nnbackend", ignore=shutil.ignore_patterns("_native.*.so", "_native.*.pyd"))
        shutil.copy(hook.compiled(CLONE, str(tmp_path), stable=True), tmp_path / "nnbackend" / "backends" / "numpy")
        code = """
import numpy as np
from nnbackend.backends.numpy import _native, native
x = np.array([-1.0, 2.0], "float32")
print("abi3" in _native.__file__ or _native.__file__.endswith(".pyd"), _native.relu(x, y := np.empty_like(x)), y)
"""
        assert run(code, PYTHONPATH=str(tmp_path)) == "True None [0. 2.]\n"


# --- a zip file


def test_a_zip_file_holds_all_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops in C cannot be loaded from it; data, CUDA sources and the templates of pages can."""
    packed = tmp_path / "program.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in PACKAGE.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, Path("nnbackend") / path.relative_to(PACKAGE))
    code = """
import sys, types
sys.modules["cupy"] = cupy = types.ModuleType("cupy")
import nnbackend as nn
from importlib.resources import files
data = nn.datasets.mnist("sample")
net = nn.TwoLayerNet(784, 5, 10, seed=0)
nn.Trainer(net, nn.SGD(0.1), batch_size=100).fit(data.x_train[:500], data.t_train[:500], epochs=1)
assert ".zip" in nn.__file__
print(data.x_train.shape, "KERNEL" in files("nnbackend.backends.cupy").joinpath("kernels.cu").read_text("utf-8"))
try:
    import jinja2, vl_convert
except ImportError:
    print("page")
else:
    from nnbackend.report import write_report
    write_report("page.html", net, data.x_test[:50], data.t_test[:50])
    print("page" if "学習の報告" in open("page.html", encoding="utf-8").read() else "")
"""
    monkeypatch.chdir(tmp_path)
    assert run(code, PYTHONPATH=str(packed)) == "(10000, 784) True\npage\n"


# --- a packaged program


def test_pyinstaller_finds_its_hook() -> None:
    entries = tomllib.loads((CLONE / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["pyinstaller40"]
    folders = EntryPoint("hook-dirs", entries["hook-dirs"], "pyinstaller40").load()()
    assert [path.name for folder in folders for path in Path(folder).glob("hook-*.py")] == ["hook-nnbackend.py"]


def test_a_packaged_program_gets_what_is_read_and_what_is_imported_by_name() -> None:
    pytest.importorskip("PyInstaller", reason="PyInstaller packages programs: pip install pyinstaller")
    code = """
import runpy, sys
from pathlib import Path
import nnbackend.pyinstaller
(folder,) = nnbackend.pyinstaller.hook_dirs()
hook = runpy.run_path(str(Path(folder) / "hook-nnbackend.py"))
print(sorted(Path(source).name for source, _ in hook["datas"]), sorted(hook["hiddenimports"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'kernels.cu'" in done.stdout
    assert "'train-images-idx3-ubyte.gz'" in done.stdout
    assert "'words.json'" in done.stdout
    assert "'page.css'" in done.stdout
    for room in LIBRARIES.values():
        assert f"'{getattr(room, '__module__', room)}'" in done.stdout
    for name in ("nnbackend.backends.cupy.kernels", "array_api_compat.numpy.fft"):
        assert f"'{name}'" in done.stdout
    assert "build'" not in done.stdout


# --- a browser: Pyodide has neither threads nor other processes, and these modules or parts of them are missing

MISSING = [
    "_multiprocessing",
    "_ssl",
    "fcntl",
    "msvcrt",
    "multiprocessing",
    "pooch",
    "requests",
    "resource",
    "ssl",
    "termios",
]


def test_it_trains_in_a_browser(tmp_path: Path) -> None:
    """It imports, trains on the sample, writes a checkpoint and resumes from it, and ends with the same bits."""
    code = f"""
import sys, _thread, threading, warnings
def refuse(*arguments, **named):
    raise RuntimeError("can't start new thread")
_thread.start_new_thread = threading._start_new_thread = refuse
for name in {MISSING}:
    assert name not in sys.modules, name
    sys.modules[name] = None  # importing it raises ImportError
import nnbackend as nn

data = nn.datasets.mnist("sample")
x, t = data.x_train[:600], data.t_train[:600]
def trainer(**settings):
    net = nn.Network([nn.Affine(784, 8), nn.ReLU(), nn.Dropout(0.1), nn.Affine(8, 10)], seed=0)
    return nn.Trainer(net, nn.Adam(), batch_size=100, seed=0, **settings)
def weights(made):
    return made.network.buffer.data.tobytes()
alone = trainer()
history = alone.fit(x, t, epochs=3)
first = trainer(checkpoint="run.safetensors")
first.fit(x, t, epochs=1)
second = trainer(checkpoint="run.safetensors")
second.resume()
second.fit(x, t, epochs=3)
second.network.save("net.safetensors")
loaded = nn.load("net.safetensors")
print(history.loss[0] > history.loss[-1], weights(alone) == weights(second) != weights(first))
print(loaded.accuracy(x, t) == alone.network.accuracy(x, t))
"""
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\nTrue\n"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 2
