"""What the doctor says, above all of a CuPy that does not work: every cause is played by a module that pretends."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat
import cuda_standin as standin
import numpy as np
import pytest

from nnbackend import doctor
from nnbackend.backends import available, crossover, why_not
from nnbackend.backends.crossover import HIDDEN, Crossover
from nnbackend.backends.cupy import cuda
from nnbackend.backends.cupy.graph import _Graph
from nnbackend.backends.numpy import NumpyBackend
from nnbackend.cli import main
from nnbackend.doctor import Check
from nnbackend.network import Network


class CudaError(RuntimeError):
    pass


class Device:
    def __init__(self, index: int = 0):
        self.index = index

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None

    def use(self) -> None:
        return None


def no_device() -> int:
    raise CudaError("cudaErrorNoDevice: no CUDA-capable device is detected")


def bad_product(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    raise CudaError("cudaErrorNoKernelImageForDevice")


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a CuPy that works, except for what the arguments say."""

    def install(
        *,
        runtime: int = 12090,
        driver: int = 12080,
        count: Callable[[], int] = lambda: 2,
        ones: Callable[..., Any] = np.ones,
    ) -> None:
        properties = {"name": b"NVIDIA H200", "totalGlobalMem": 150 * 2**30, "major": 9, "minor": 0}
        cupy: Any = ModuleType("cupy")
        cupy.__spec__, cupy.__version__, cupy.ones = ModuleSpec("cupy", None), "14.0.0", ones
        cupy.cuda = SimpleNamespace(
            Device=Device,
            runtime=SimpleNamespace(
                runtimeGetVersion=lambda: runtime,
                driverGetVersion=lambda: driver,
                getDeviceCount=count,
                getDeviceProperties=lambda index: properties,
                CUDARuntimeError=CudaError,
            ),
        )
        xp: Any = ModuleType("array_api_compat.cupy")
        xp.zeros = lambda shape, dtype, device: np.zeros(shape, dtype)
        xp.reshape, xp.float32 = np.reshape, np.float32
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "array_api_compat.cupy", xp)
        monkeypatch.setattr(array_api_compat, "cupy", xp, raising=False)
        monkeypatch.setitem(
            sys.modules, "nnbackend.backends.cupy.kernels", ModuleType("nnbackend.backends.cupy.kernels")
        )
        says_driver(driver // 1000, driver % 1000 // 10) if driver else says_driver(None)

    def says_driver(*version: Any) -> None:
        monkeypatch.setattr(cuda, "driver_version", lambda: None if version == (None,) else version)

    install.driver = says_driver  # type: ignore[attr-defined]
    return install


def of(checks: list[Check], kind: str, name: str) -> Check:
    return next(check for check in checks if check.kind == kind and check.name == name)


def test_what_is_examined() -> None:
    checks = doctor.examine()
    names = [(check.kind, check.name) for check in checks]
    assert names == [
        *(("version", name) for name in ("python", "nnbackend", "numpy", "array-api-compat")),
        *(("backend", name) for name in ("numpy", "cupy", "torch", "array_api_strict")),
        *(("extra", name) for name in ("matplotlib", "pillow", "scikit-learn", "loops in C")),
        ("selected", "numpy"),
    ]
    assert of(checks, "version", "numpy").detail == np.__version__
    assert of(checks, "backend", "numpy") == Check("backend", "numpy", True, np.__version__, ("cpu",))
    assert of(checks, "selected", "numpy").detail == "NNBACKEND is not set"
    for check in checks:
        if check.kind == "backend":
            assert check.works == (why_not(check.name) is None)
        assert check.works or check.name == "loops in C" or "pip install" in check.detail
    assert doctor.healthy(checks)


def test_devices_of_installed_libraries() -> None:
    checks = doctor.examine()
    torch, strict = of(checks, "backend", "torch"), of(checks, "backend", "array_api_strict")
    if torch.works:
        assert torch.devices[0] == "torch:cpu"
    if strict.works:
        assert "device1" in strict.devices


def test_a_cupy_that_works(pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend()
    monkeypatch.setenv("NNBACKEND", "cupy:1")
    checks = doctor.examine()
    found = of(checks, "backend", "cupy")
    assert found.works
    assert found.detail == "14.0.0, CUDA runtime 12.9, driver up to CUDA 12.8"
    assert found.devices == tuple(f"cupy:{index}: NVIDIA H200, 150.0 GiB, compute capability 9.0" for index in range(2))
    assert of(checks, "selected", "cupy:1").detail == "NNBACKEND=cupy:1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"driver": 0}, "CuPy 14.0.0 is installed, but there is no NVIDIA driver. Install one for your GPU. Without"),
        (
            {"runtime": 13000},
            "this CuPy wheel is built for CUDA 13, but the driver supports CUDA 12 at most. "
            'pip uninstall -y cupy-cuda13x && pip install "cupy-cuda12x[ctk]"',
        ),
        (
            {"driver": 11080},
            "this CuPy wheel is built for CUDA 12, but the driver supports CUDA 11 at most. "
            'The driver supports CUDA 11.8: update it, then pip install "cupy-cuda13x[ctk]"',
        ),
        ({"count": no_device}, "CuPy finds no CUDA device: cudaErrorNoDevice: no CUDA-capable device is detected. "),
        ({"count": lambda: 0}, "CuPy finds no CUDA device. Check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (
            {"ones": bad_product},
            'a product on CUDA device 0 failed: cudaErrorNoKernelImageForDevice. pip install "cupy-cuda12x[ctk]"',
        ),
        (
            {"ones": lambda shape, dtype: np.zeros(shape, dtype)},
            "a product on CUDA device 0 came out wrong: the device or its driver is faulty",
        ),
    ],
)
def test_a_cupy_that_does_not_work(
    settings: dict[str, Any], message: str, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(**settings)
    monkeypatch.setenv("NNBACKEND", "cupy")
    checks = doctor.examine()
    for kind in ("backend", "selected"):
        found = of(checks, kind, "cupy")
        assert not found.works
        assert found.detail.startswith(message)
    assert not doctor.healthy(checks)
    assert of(checks, "backend", "numpy").works


@pytest.mark.parametrize("name", ["cupy:2", "cupy:x", "cupy:-1"])
def test_a_device_that_is_not_there(name: str, pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend()
    monkeypatch.setenv("NNBACKEND", name)
    checks = doctor.examine()
    assert of(checks, "backend", "cupy").works
    assert of(checks, "selected", name).detail == f"{name}: there is no such device; this machine has 0 to 1"


def test_a_cupy_that_cannot_be_imported(pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend()

    class Broken:
        """What CuPy's own report of a failed import looks like."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "array_api_compat.cupy":
                ruler = "=" * 64
                raise ImportError(f"\n{ruler}\nFailed to import CuPy.\n\nlibcudart.so.12: not found\n{ruler}\n")

    monkeypatch.delitem(sys.modules, "array_api_compat.cupy")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    found = of(doctor.examine(), "backend", "cupy")
    assert found.detail.startswith(
        "CuPy is installed but cannot be imported: Failed to import CuPy. libcudart.so.12: not found"
    )
    assert found.detail.endswith('pip install "cupy-cuda12x[ctk]"')


@pytest.mark.parametrize(
    ("driver", "mends"),
    [
        ((13, 0), 'pip install "cupy-cuda13x[ctk]"'),
        ((14, 2), 'pip install "cupy-cuda13x[ctk]"'),
        ((12, 4), 'pip install "cupy-cuda12x[ctk]"'),
        ((11, 8), 'The driver supports CUDA 11.8: update it, then pip install "cupy-cuda13x[ctk]"'),
        ((None,), 'No NVIDIA driver was found either: install one for your GPU, then pip install "cupy-cuda13x[ctk]"'),
    ],
)
def test_a_cupy_that_is_not_installed(
    driver: tuple[int | None, ...], mends: str, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend.driver(*driver)
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "cupy" else there(name, *rest))
    found = of(doctor.examine(), "backend", "cupy")
    assert found.detail.startswith(f"CuPy is not installed. {mends}")


def test_a_failure_that_nobody_thought_of(pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend()
    sys.modules["cupy"].cuda.Device = None
    monkeypatch.setattr(NumpyBackend, "version", lambda self: 1 / 0)
    found = of(doctor.examine(), "backend", "numpy")
    assert not found.works
    assert found.detail == "failed with ZeroDivisionError: division by zero"


def test_what_fails_outside_of_a_product_is_a_backend_error(
    pretend: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend()
    monkeypatch.setitem(sys.modules, "nnbackend.backends.cupy.kernels", None)  # importing it fails
    assert str(why_not("cupy")).startswith(
        "the kernels for CuPy cannot be made: import of nnbackend.backends.cupy.kernels"
    )
    sys.modules["cupy"].cuda.runtime.getDeviceCount = lambda: 1 / 0
    assert str(why_not("cupy")).startswith("CuPy finds no CUDA device: division by zero. Check nvidia-smi")
    sys.modules["cupy"].cuda.runtime = SimpleNamespace()
    assert str(why_not("cupy")).startswith("CuPy's CUDA runtime does not answer: ")
    assert str(why_not("cupy")).endswith('pip install "cupy-cuda12x[ctk]"')
    del sys.modules["cupy"].cuda  # what an empty folder called cupy looks like
    assert str(why_not("cupy")).startswith("CuPy's CUDA runtime does not answer: ")
    assert "cupy" not in available()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            RuntimeError("CuPy failed to load libnvrtc.so.12: OSError: libnvrtc.so.12: cannot open shared object file"),
            "a library of CUDA is missing",
        ),
        (RuntimeError('Failure finding "libcublas.so": No such file'), "a library of CUDA is missing"),
        (ValueError('catastrophic error: cannot open source file "vector_types.h"'), "headers of CUDA are missing"),
        (RuntimeError("NVRTC_ERROR_COMPILATION (6)"), "CUDA's compiler refused a kernel"),
        (RuntimeError("nvrtc: error: invalid value for --gpu-architecture"), "CUDA's compiler refused a kernel"),
        (MemoryError("Out of memory allocating 512 bytes"), None),
        (CudaError("cudaErrorIllegalAddress: an illegal memory access was encountered"), None),
    ],
)
def test_what_is_missing_of_cuda_is_named(error: Exception, cause: str | None, pretend: Any) -> None:
    pretend.driver(12, 4)
    assert cuda.mend(error) == (f'Most likely {cause}: pip install "cupy-cuda12x[ctk]"' if cause else "")
    pretend(ones=lambda shape, dtype: (_ for _ in ()).throw(error))
    mend = f"Most likely {cause}: " if cause else ""
    assert str(why_not("cupy")) == f'a product on CUDA device 0 failed: {error}. {mend}pip install "cupy-cuda12x[ctk]"'


def test_extras_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    known = doctor.version

    def version(name: str) -> str:
        if name in ("matplotlib", "scikit-learn"):
            raise doctor.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(doctor, "version", version)
    checks = doctor.examine()
    assert of(checks, "extra", "matplotlib").detail == 'not installed. pip install "nnbackend[plot]"'
    assert of(checks, "extra", "scikit-learn").detail == 'not installed. pip install "nnbackend[sklearn]"'
    assert doctor.healthy(checks)


def test_loops_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> Check:
        return of(doctor.examine(), "extra", "loops in C")

    def failing(error: Exception) -> Any:
        known = doctor.importlib.import_module

        def import_module(name: str) -> Any:
            if name == "nnbackend.backends.numpy.native":
                raise error
            return known(name)

        return import_module

    monkeypatch.setattr(
        doctor.importlib, "import_module", failing(ModuleNotFoundError("nnbackend.backends.numpy._native"))
    )
    monkeypatch.setattr(doctor, "__file__", "/usr/lib/site-packages/nnbackend/doctor.py")
    assert found().detail == (
        "not built for this Python, which takes a C compiler and Python's headers; training on NumPy is slower. "
        "Install both, then nnbackend again"
    )
    monkeypatch.setattr(doctor.importlib, "import_module", failing(ImportError("undefined symbol: expf")))
    assert (found().works, found().detail) == (False, "undefined symbol: expf")
    monkeypatch.setenv("NNBACKEND_NATIVE", "0")
    assert found().detail == "NNBACKEND_NATIVE=0 leaves them out"
    assert doctor.healthy(doctor.examine())


def test_loops_that_are_missing_in_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Installed:
        def __init__(self, place: Path):
            self.place = place

        def locate_file(self, name: str) -> Path:
            return self.place / name

    clone, site = tmp_path / "clone", tmp_path / "site-packages"
    (site / "nnbackend").mkdir(parents=True)
    clone.mkdir()
    monkeypatch.setattr(doctor, "__file__", str(clone / "nnbackend" / "doctor.py"))
    assert doctor._source_tree() == ""  # any folder on the path
    (clone / "pyproject.toml").touch()
    head = f"not built in the source tree {clone}, which Python imports here; training on NumPy is slower. "
    monkeypatch.setattr(doctor, "distribution", lambda name: Installed(site))
    assert doctor._source_tree() == f"{head}Start Python in another folder, and it imports {site / 'nnbackend'}"
    of_this_clone = f"{head}pip install -e {clone} builds them, which takes a C compiler and Python's headers"
    monkeypatch.setattr(doctor, "distribution", lambda name: Installed(clone))
    assert doctor._source_tree() == of_this_clone

    def missing(name: str) -> None:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "distribution", missing)
    assert doctor._source_tree() == of_this_clone


def test_the_driver_alone_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnbackend.backends.cupy import cuda

    monkeypatch.setattr(cuda, "driver_version", lambda: None)
    assert cuda.mend_cupy().startswith("No NVIDIA driver was found: install one for your GPU, then pip install")
    assert cuda.mend_cupy(missing=True).startswith("No NVIDIA driver was found either: install one")


def test_the_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if line and not line.startswith(" ")] == [
        "versions",
        "backends",
        "optional",
        "selected now",
    ]
    assert "  ok  numpy             NNBACKEND is not set" in page
    assert all(len(line) <= 100 for line in page.splitlines())

    monkeypatch.setenv("NNBACKEND", "numpi")
    assert main(["doctor"]) == 1
    page = capsys.readouterr().out
    assert "  --  numpi             NNBACKEND: unknown backend 'numpi'. Did you mean 'numpy'?" in page


def test_the_record(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNBACKEND", "numpi")
    assert main(["doctor", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record[-1]["kind"] == "selected"
    assert record[-1]["works"] is False
    assert set(record[0]) == {"kind", "name", "works", "detail", "devices"}


# --- a training step, and when a GPU pays -----------------------------------------------------------------------


def test_a_training_step_is_captured() -> None:
    with standin.installed():
        found = of(doctor.examine(), "step", "cupy")
    assert found == Check("step", "cupy", True, "it works, captured as a CUDA graph")


def test_a_training_step_that_is_not_captured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("no graphs today")

    monkeypatch.setattr("nnbackend.backends.cupy.graph._Graph._capture", refuse)
    with standin.installed():
        found = of(doctor.examine(), "step", "cupy")
        monkeypatch.setenv("NNBACKEND_CAPTURE", "0")
        asked_for = of(doctor.examine(), "step", "cupy")
    assert found.works
    assert found.detail.startswith("it works, but it is not captured. training goes on without a CUDA graph, more sl")
    assert "no graphs today" in found.detail
    assert asked_for == Check("step", "cupy", True, "it works, kernel by kernel, as NNBACKEND_CAPTURE=0 asks")


def test_another_warning_does_not_stand_for_a_step_that_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*arguments: Any, **settings: Any) -> Any:
        warnings.warn("CUDA path could not be detected", UserWarning, stacklevel=2)
        return Network(*arguments, **settings)

    monkeypatch.setattr(doctor, "Network", warn)
    with standin.installed():
        found = of(doctor.examine(), "step", "cupy")
    assert found.works
    assert found.detail == "it works, captured as a CUDA graph. CUDA path could not be detected"


def test_a_selected_backend_that_cannot_train_is_not_healthy() -> None:
    step = Check("step", "cupy", False, "a training step failed")
    assert not doctor.healthy([step, Check("selected", "cupy:1", True, "")])
    assert doctor.healthy([step, Check("selected", "numpy", True, "")])
    assert not doctor.healthy([Check("selected", "numpy", False, "")])


def test_a_kernel_that_does_not_compile_names_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    class CompileException(Exception):
        pass

    def fail(*arguments: Any, **settings: Any) -> None:
        raise CompileException("catastrophic error: cannot open source file cuda_fp16.h")

    monkeypatch.setattr("nnbackend.training.trainer.recorded_pass", fail)
    monkeypatch.setattr(cuda, "driver_version", lambda: (12, 8))
    with standin.installed():
        found = of(doctor.examine(), "step", "cupy")
    assert not found.works
    assert found.detail == (
        "a training step failed with CompileException: catastrophic error: cannot open source file cuda_fp16.h. "
        'Most likely headers of CUDA are missing: pip install "cupy-cuda12x[ctk]"'
    )


@pytest.mark.parametrize("second", ["array_api_strict", "torch"])
def test_two_backends_are_measured(second: str) -> None:
    if why_not(second):
        pytest.skip(f"{second}: not installed")
    found = doctor.measure(second, hidden=[4], batches=(8192, 2048), rounds=2)
    assert (found.first, found.second, found.hidden, found.batches) == ("numpy", second, (4,), (2048, 8192))
    assert set(found.versions) == {"nnbackend", "numpy", second}
    assert all(us > 0 for us in (*found.us_first, *found.us_second))
    lines = doctor.table(found).splitlines()
    assert lines[0] == "784-4-10, Adam, float32: us per training step"
    assert [line.split()[0] for line in lines[2:4]] == ["2048", "8192"]


def test_capturing_a_step_is_no_part_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    capture, captures, now = _Graph._capture, 0, 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001  # seconds that pass between two looks at the clock
        return now

    def slow(graph: Any, *arguments: Any) -> Any:
        nonlocal captures, now
        captures += 1
        now += 1000.0
        return capture(graph, *arguments)

    monkeypatch.setattr(_Graph, "_capture", slow)
    monkeypatch.setattr(time, "perf_counter", clock)
    with standin.installed():
        found = doctor.measure(hidden=[4], batches=[2048], rounds=1)
    assert captures == 1
    assert found.us_second[0] < 1e6  # microseconds a step


def test_bad_measurements_are_refused() -> None:
    for bad in ({"rounds": 0}, {"batches": []}, {"batches": [0]}):
        with pytest.raises(ValueError, match="rounds and batches must be positive"):
            doctor.measure("numpy", **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="output_size"):
        doctor.measure("numpy", hidden=[0])


def test_measure_prints_and_keeps(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "cache"))
    measured = Crossover("numpy", "torch", "cpu", {"numpy": "2"}, HIDDEN, (32, 128), (10.0, 20.0), (15.0, 12.0))
    asked: list[Any] = []
    monkeypatch.setattr(doctor, "measure", lambda *a, **k: asked.append((a, k)) or measured)
    assert main(["doctor", "--measure", "--against", "torch"]) == 0
    out = capsys.readouterr().out
    assert asked == [(("torch",), {"hidden": HIDDEN})]
    assert "      32          10                  15    0.67\n" in out
    assert "torch (cpu) is faster from batches of 128 on\n" in out
    assert out.endswith(f"kept in {tmp_path / 'cache' / 'measured-torch.json'}\n")
    assert crossover.read("torch") == measured
    assert main(["doctor", "--measure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["us_second"] == [15.0, 12.0]
    crossover.path("torch").unlink()
    monkeypatch.setattr(doctor, "measure", lambda *a, **k: dataclasses.replace(measured, hidden=(3,)))
    assert main(["doctor", "--measure", "--hidden", "3"]) == 0
    assert capsys.readouterr().out.endswith(
        "\nnot kept: NNBACKEND=auto uses measurements of the default network only\n"
    )
    assert crossover.read("torch") is None
    monkeypatch.setattr(doctor, "measure", lambda *a, **k: measured)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "file"))
    assert main(["doctor", "--measure"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("nnbackend: the measurement could not be kept: ")
    assert said.out.endswith("torch (cpu) is faster from batches of 128 on\n")


def test_measure_without_a_gpu_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    cause = why_not("cupy")
    if cause is None:
        pytest.skip("cupy: there is a GPU")
    assert main(["doctor", "--measure"]) == 1
    assert str(cause) in capsys.readouterr().err
