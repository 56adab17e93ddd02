"""Measurements that are kept, and what NNBACKEND=auto makes of them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import cuda_standin as standin
import numpy as np
import pytest

import nnbackend as nn
from nnbackend.backends import crossover, resolve
from nnbackend.backends.crossover import HIDDEN, Crossover


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(
    first: tuple[float, ...] = (10.0, 20.0, 90.0), second: tuple[float, ...] = (30.0, 15.0, 40.0)
) -> Crossover:
    return Crossover("numpy", "cupy", "a GPU", {"numpy": "2"}, HIDDEN, (32, 128, 512)[: len(first)], first, second)


@pytest.mark.parametrize(
    ("second", "overtakes"),
    [
        ((30.0, 15.0, 40.0), 128),
        ((5.0, 15.0, 40.0), 32),
        ((5.0, 25.0, 40.0), 512),  # ahead, behind, ahead: what counts is from where it stays ahead
        ((30.0, 25.0, 95.0), None),
        ((5.0, 5.0, 90.0), None),  # as fast is not faster
    ],
)
def test_where_the_second_overtakes(second: tuple[float, ...], overtakes: int | None) -> None:
    assert measured(second=second).overtakes == overtakes


def test_the_nearest_batch_that_was_measured() -> None:
    assert measured().at(100) == (20.0, 15.0)
    assert measured().at(1) == (10.0, 30.0)
    assert measured().at(10**6) == (90.0, 40.0)


def test_what_is_written_is_read(cache: Path) -> None:
    assert crossover.read("cupy") is None
    assert crossover.write(measured()) == cache / "measured-cupy.json"
    assert crossover.read("cupy") == measured()
    other = dataclasses.replace(measured(), second="torch:cuda:0")
    crossover.write(other)
    assert crossover.read("torch:cuda:0") == other
    assert crossover.read("cupy") == measured()
    assert sorted(path.name for path in cache.iterdir()) == ["measured-cupy.json", "measured-torch-cuda-0.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"first": 3},
        {"versions": []},
        {"versions": {"numpy": 2}},
        {"batches": [128, 32, 512]},
        {"batches": [32, 32, 512]},
        {"batches": []},
        {"batches": "abc"},
        {"us_first": [1.0, 2.0]},
        {"us_second": [1.0, 2.0, -3.0]},
        {"us_second": [1.0, 2.0, float("nan")]},
        {"us_second": [1.0, 2.0, float("inf")]},
        {"us_second": [1.0, 2.0, True]},
        {"us_second": [1.0, 2.0, 10**400]},
        {"hidden": [10**400]},
        {"us_second": [1.0, 2.0, None]},
        {"hidden": [0]},
        {"second": "torch"},
        {"second": "\x1b[2J"},
    ],
)
def test_damaged_measurements_are_refused(change: dict[str, Any]) -> None:
    path = crossover.write(measured())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(nn.DataError, match="measured-cupy.json: not a measurement of nnbackend") as error:
        crossover.read("cupy")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"first": "numpy"}'])
def test_what_is_no_measurement_at_all(content: bytes, cache: Path) -> None:
    cache.mkdir()
    (cache / "measured-cupy.json").write_bytes(content)
    with pytest.raises(nn.DataError, match="not a measurement of nnbackend"):
        crossover.read("cupy")


def test_what_is_no_file_is_not_waited_for(cache: Path) -> None:
    path = cache / "measured-cupy.json"
    path.mkdir(parents=True)
    with pytest.raises(nn.DataError, match="it is not a file"):
        crossover.read("cupy")
    path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        with pytest.raises(nn.DataError, match="it is not a file"):
            crossover.read("cupy")


def chosen(caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with standin.installed():
        name = resolve("auto").name
    (line,) = caplog.messages
    assert line.startswith(f"NNBACKEND=auto chose {name}")
    return line.removeprefix("NNBACKEND=auto chose ")


def test_auto_heeds_a_measurement_of_this_device(caplog: pytest.LogCaptureFixture, cache: Path) -> None:
    assert chosen(caplog) == "cupy"
    with standin.installed():
        gpu = resolve("cupy")
        here = {"device": gpu.device_name(), "versions": gpu.versions()}
    slower = dataclasses.replace(measured(second=(30.0, 25.0, 40.0)), **here)
    crossover.write(slower)
    assert chosen(caplog) == "numpy (measured: 20 us per step of 128 rows on the CPU, 25 on the GPU)"
    crossover.write(dataclasses.replace(measured(), **here))
    assert chosen(caplog) == "cupy (measured: 20 us per step of 128 rows on the CPU, 15 on the GPU)"
    for change in ({"device": "another"}, {"versions": {}}, {"hidden": (3,)}, {"first": "torch"}):
        crossover.write(dataclasses.replace(slower, **change))
        assert chosen(caplog) == "cupy", change
    (cache / "measured-cupy.json").write_text("{")
    assert chosen(caplog).startswith("cupy (without a measurement: ")


def test_auto_outlives_a_device_that_does_not_say_its_name(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossover.write(measured())

    def fail(index: int) -> None:
        raise RuntimeError("cudaErrorUnknown:\nunknown error")

    monkeypatch.setattr(standin.CUPY.cuda.runtime, "getDeviceProperties", fail)
    assert chosen(caplog) == "cupy (without a measurement: cudaErrorUnknown: unknown error)"


def test_devices_and_versions() -> None:
    on = resolve("numpy")
    assert on.device_name() == "cpu"
    assert on.versions() == {"nnbackend": nn.__version__, "numpy": np.__version__}


def test_a_measurement_that_cannot_be_written_names_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = crossover.write(measured())

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as the system says it, without a name

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*measured-cupy.json'$"):
        crossover.write(measured(second=(1.0, 1.0, 1.0)))
    assert crossover.read("cupy") == measured()  # the last measurement is still there
    assert list(path.parent.iterdir()) == [path]
