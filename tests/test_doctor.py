"""What the doctor says, above all of a CuPy that does not work: every cause is played by a module that pretends."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_compat
import numpy as np
import pytest

from nnbackend import doctor
from nnbackend.backend import why_not
from nnbackend.cli import main
from nnbackend.doctor import Check

backend_module = sys.modules["nnbackend.backend"]


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
        monkeypatch.setitem(sys.modules, "nnbackend.kernels.cupy", ModuleType("nnbackend.kernels.cupy"))
        says_driver(driver // 1000, driver % 1000 // 10) if driver else says_driver(None)

    def says_driver(*version: Any) -> None:
        monkeypatch.setattr(backend_module, "driver_cuda_version", lambda: None if version == (None,) else version)
        monkeypatch.setattr(doctor, "driver_cuda_version", lambda: None if version == (None,) else version)

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
        *(("extra", name) for name in ("matplotlib", "pillow", "scikit-learn")),
        ("selected", "numpy"),
    ]
    assert of(checks, "version", "numpy").detail == np.__version__
    assert of(checks, "backend", "numpy") == Check("backend", "numpy", True, np.__version__, ("cpu",))
    assert of(checks, "selected", "numpy").detail == "NNBACKEND is not set"
    for check in checks:
        if check.kind == "backend":
            assert check.works == (why_not(check.name) is None)
        assert check.works or "pip install" in check.detail
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
        ({"driver": 0}, "CuPy 14.0.0 is installed, but there is no NVIDIA driver. No NVIDIA driver was found"),
        (
            {"runtime": 13000},
            "this CuPy wheel is built for CUDA 13, but the driver supports CUDA 12 at most. "
            "pip uninstall -y cupy-cuda13x && pip install cupy-cuda12x",
        ),
        ({"count": no_device}, "CuPy finds no CUDA device: cudaErrorNoDevice: no CUDA-capable device is detected. "),
        ({"count": lambda: 0}, "CuPy finds no CUDA device. Check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"ones": bad_product}, "a product on CUDA device 0 failed: cudaErrorNoKernelImageForDevice. pip install cupy"),
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
    assert found.detail.endswith("pip install cupy-cuda12x")


@pytest.mark.parametrize(
    ("driver", "mends"),
    [
        ((13, 0), "pip install cupy-cuda13x"),
        ((14, 2), "pip install cupy-cuda13x"),
        ((12, 4), "pip install cupy-cuda12x"),
        ((11, 8), "The driver supports CUDA 11.8: update it, then pip install cupy-cuda13x"),
        ((None,), "No NVIDIA driver was found either: install one for your GPU, then pip install cupy-cuda13x"),
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


def test_a_failure_that_nobody_thought_of(pretend: Callable[..., None]) -> None:
    pretend()
    sys.modules["cupy"].cuda.runtime = SimpleNamespace()
    found = of(doctor.examine(), "backend", "cupy")
    assert not found.works
    assert found.detail.startswith("failed with AttributeError: ")


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
