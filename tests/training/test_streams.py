"""Data that is not in memory: the same run as from memory, and what happens if reading fails."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_standin as standin
import numpy as np
import pytest
from processes import alone, launch, needs_mpi, results
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.datasets import Items, Shards

N, BATCH = 230, 32
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (N, 8)).astype("uint8")
T = (BYTES @ RNG.standard_normal((8, 3))).argmax(axis=1)
WEIGHT = RNG.uniform(0.1, 2, N)
NAME = "nnbackend reads ahead"


class Source:
    """Rows of arrays; it counts what is read, and fails, or acts, when a row is asked for."""

    def __init__(self, x: Any = BYTES, t: Any = T, at: int = -1, act: Any = None):
        self.x, self.t, self.at, self.act, self.read = x, t, at, act, []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: np.ndarray) -> tuple[Any, Any]:
        self.read += list(rows)
        if self.at in rows and threading.current_thread().name == NAME:
            changed = self.act()
            if changed is not None:
                return changed
        return self.x[rows], self.t[rows]

    def __repr__(self) -> str:
        return "my source"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not any(thread.name == NAME for thread in threading.enumerate())


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap:
    array = np.memmap(tmp_path / "x.bytes", "uint8", "w+", shape=BYTES.shape)
    array[...] = BYTES
    return array


def make(loss: nn.Loss | None = None, dtype: str = "float32") -> nn.Network:
    layers = [nn.BatchNormalization(8), nn.Affine(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Affine(16, 3)]
    return nn.Network(layers, loss, seed=1, dtype=dtype)


def train(
    *data: Any, epochs: int = 3, fit: dict[str, Any] | None = None, loss: nn.Loss | None = None, **settings: Any
) -> nn.Trainer:
    trainer = nn.Trainer(make(loss), nn.Adam(0.01), **({"batch_size": BATCH, "seed": 2} | settings))
    trainer.fit(*data, epochs=epochs, **(fit or {}))
    return trainer


def state(trainer: nn.Trainer) -> list[Any]:
    buffer, history = trainer.network.buffer, trainer.history
    arrays = [buffer.data, buffer.state, buffer.clock, *(trainer.state.optimizer[name] for name in "mv")]
    curves = [history.loss, history.accuracy, history.val_loss, history.val_accuracy]
    return [to_numpy(a).tobytes() for a in arrays] + curves


def shards(folder: Path, *, cuts: tuple[int, ...] = (0, 50, 51, 180, N)) -> Shards:
    paths: list[list[Path]] = [[], []]
    for i, (start, stop) in enumerate(itertools.pairwise(cuts)):
        for of, name, array in zip(paths, "xt", (BYTES, T), strict=True):
            of.append(folder / f"{name}{i}.npy")
            np.save(of[-1], array[start:stop])
    return Shards(*paths)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate": {"batch_size": 8, "accumulate": 4},
    "drop_last": {"drop_last": True},
    "sample_weight": {"fit": {"sample_weight": WEIGHT}},
    "class_weight": {"loss": nn.SoftmaxWithLoss([1.0, 2.0, 0.5], 0.1), "fit": {"sample_weight": WEIGHT}},
    "skip": {"on_fault": "skip"},
    "clip": {"clip_norm": 0.3},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["map", "source", "shards", "items"])
def test_a_run_has_the_bits_of_the_run_from_memory(
    on: Namespace, kind: str, case: str, mapped: np.memmap, tmp_path: Path
) -> None:
    data: tuple[Any, ...] = {
        "map": (mapped, T),
        "source": (Source(),),
        "shards": (shards(tmp_path),),
        "items": (Items(list(zip(BYTES, T, strict=True))),),
    }[kind]
    settings = {**CASES[case]}
    fit = settings.pop("fit", {})
    held_out = (BYTES[:40], T[:40])
    streamed = (mapped[:40], T[:40]) if kind == "map" else Source(*held_out)
    expected = train(BYTES, T, fit=fit | {"validation": held_out}, **settings)
    actual = train(*data, fit=fit | {"validation": streamed}, **settings)
    assert state(actual) == state(expected)


def test_numbers_and_images(on: Namespace, tmp_path: Path) -> None:
    images, t = RNG.standard_normal((50, 4, 4, 1)), RNG.standard_normal((50, 1))
    mapped = np.memmap(tmp_path / "x", "float64", "w+", shape=images.shape)
    mapped[...] = images
    runs = []
    for data in ((images, t), (mapped, t), (Source(images, t[:, 0]),)):
        layers = [nn.RandomAffine(), nn.Convolution(1, 2, 3), nn.Flatten(), nn.Affine(8, 1)]
        trainer = nn.Trainer(nn.Network(layers, nn.MeanSquaredError(), seed=3), nn.SGD(0.01), batch_size=8)
        runs.append([trainer.fit(*data, epochs=2).loss, to_numpy(trainer.network.buffer.data).tobytes()])
    assert runs[0] == runs[1] == runs[2]


def test_ids(on: Namespace) -> None:
    ids, t = RNG.integers(0, 20, (50, 4)).astype("uint8"), RNG.integers(0, 3, 50)
    runs = []
    for data in ((ids, t), (Source(ids, t),)):
        net = nn.Network([nn.Embedding(20, 5), nn.Flatten(), nn.Affine(20, 3)], seed=3)
        trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=8)
        runs.append([trainer.fit(*data, epochs=2).loss, to_numpy(net.buffer.data).tobytes()])
    assert runs[0] == runs[1]
    ids[30, 2] = 21
    with pytest.raises(ValueError, match=r"x, rows \d+, \d+, \d+, ...: .*21"):
        trainer.fit(Source(ids, t), epochs=1)
    with pytest.raises(ValueError, match=r"takes integers, got dtype .*float64"):
        trainer.fit(Source(ids.astype(float), t), epochs=1)


def test_a_step_reads_its_rows_and_no_others() -> None:
    source = Source()
    train(source, epochs=2)
    assert sorted(source.read[-2 * N :]) == sorted([*range(N)] * 2)
    assert len(source.read) <= 2 * N + 4  # and the first row a few times, to see what rows look like


def test_memory_holds_a_few_steps_of_a_map(tmp_path: Path) -> None:
    """64 MB of bytes, which would be 256 MB as float32, in a process that has no more than 100 MB beside Python's."""
    resource = pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip(f"the unit of ru_maxrss on {sys.platform} is another one")
    assert resource
    code = f"""
import resource, numpy as np, nnbackend as nn
x = np.memmap({str(tmp_path / "x")!r}, "uint8", "w+", shape=(64, 1024, 1024))
t = np.zeros(64, "int64")
net = nn.Network([nn.Flatten(), nn.Affine(1024 * 1024, 2)])
trainer = nn.Trainer(net, nn.SGD(1e-9), batch_size=2)
trainer.fit(x[:8], t[:8])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
trainer.fit(x, t)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100  # the pages of the map itself among them


@pytest.mark.parametrize("kind", ["map", "source"])
def test_resumed_within_an_epoch_even_from_memory(kind: str, mapped: np.memmap, tmp_path: Path) -> None:
    expected = train(BYTES, T)
    data: tuple[Any, ...] = (mapped, T) if kind == "map" else (Source(),)
    path = tmp_path / "run.safetensors"
    for number, rows in enumerate((data, (BYTES, T), data)):

        def stop(trainer: nn.Trainer, number: int = number) -> None:
            if (trainer.epoch, trainer.state.step) == ((1, 3), (2, 5), (9, 9))[number]:
                signal.raise_signal(signal.SIGINT)

        trainer = nn.Trainer(make(), nn.Adam(0.01), batch_size=BATCH, seed=2, checkpoint=path)
        trainer.resume()
        original = trainer._guarded
        trainer._guarded = lambda launch, o=original, t=trainer, s=stop: (o(launch), s(t))  # type: ignore[method-assign]
        trainer.fit(*rows, epochs=3)
    assert trainer.epoch == 3
    assert state(trainer) == state(expected)


def test_other_data_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(Source(), epochs=1, checkpoint=path)
    other = BYTES.copy()
    other[3, 3] ^= 1
    trainer = nn.Trainer(make(), nn.Adam(0.01), batch_size=BATCH, seed=2, checkpoint=path)
    trainer.resume()
    with pytest.raises(nn.CheckpointError, match="other data: data x changed"):
        trainer.fit(Source(other), epochs=2)


@needs_mpi
def test_two_processes_have_the_bits_of_one_from_memory() -> None:
    assert results(launch(2, stream=True, weights=True)) == alone(weights=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_captured_steps(accumulate: int) -> None:
    with standin.installed() as machine, nn.using("cupy"):
        actual = train(Source(), epochs=12, accumulate=accumulate)
        assert machine.counts["graph launches"] > 12
    with nn.using("numpy"):
        expected = train(BYTES, T, epochs=12, accumulate=accumulate)
    np.testing.assert_allclose(actual.history.loss, expected.history.loss, rtol=1e-3)


def test_a_source_that_ends_the_program_ends_it() -> None:
    trainer = nn.Trainer(make(), nn.Adam(0.01), batch_size=BATCH, seed=2)
    with pytest.raises(SystemExit, match="3"):  # it once left the steps to wait for ever
        trainer.fit(Source(at=100, act=lambda: sys.exit(3)))


def test_an_error_of_the_source_comes_with_its_cause() -> None:
    def fail() -> None:
        raise OSError("the disk is on fire")

    source = Source(at=100, act=fail)
    trainer = nn.Trainer(make(), nn.Adam(0.01), batch_size=BATCH, seed=2)
    with pytest.raises(nn.DataError, match=r"x: reading rows .* of my source failed: OSError: the disk is on") as error:
        trainer.fit(source)
    assert isinstance(error.value.__cause__, OSError)
    source.at = -1
    trainer.fit(source, epochs=3)  # from the step that had no rows
    assert state(trainer) == state(train(BYTES, T))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_source_that_ends_the_program_ends_the_fit(error: BaseException) -> None:
    def leave() -> None:
        raise error

    with pytest.raises(type(error)):
        train(Source(at=100, act=leave))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda: (BYTES[:3], T[:32]), nn.DataError, r"x: my source gave x of shape \(3, 8\) for 32 row numbers"),
        (lambda: (BYTES[:32], T[:3]), ValueError, r"x, rows .*: x has 32 rows, but t has 3"),
        (lambda: (BYTES[:32, :4], T[:32]), nn.DataError, r"have shape \(4,\), but row 0 has \(8,\)"),
        (lambda: (BYTES[:32], T[:32] + 3), ValueError, r"x, rows .*: t: labels must lie in 0 to 2, got 3 to "),
        (lambda: BYTES[:32], nn.DataError, r"failed: ValueError: too many values to unpack"),
        (lambda: ([["a"] * 8] * 32, T[:32]), nn.DataError, r"reading rows .* failed: "),
        (lambda: (np.full((32, 8), np.inf), T[:32]), ValueError, r"x contains NaN or infinity in row \d+"),
    ],
)
def test_rows_that_are_not_what_they_should_be(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(Source(at=50, act=answer))


def test_ctrl_c_ends_after_the_step_and_the_next_fit_goes_on() -> None:
    trainer = nn.Trainer(make(), nn.Adam(0.01), batch_size=BATCH, seed=2)
    trainer.fit(Source(at=100, act=lambda: os.kill(os.getpid(), signal.SIGINT)), epochs=3)
    assert trainer.history.interrupted
    trainer.fit(Source(), epochs=3 - trainer.epoch)
    assert state(trainer) == state(train(BYTES, T))


def test_a_second_ctrl_c_ends_even_a_source_that_never_answers() -> None:
    done = threading.Event()

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        done.wait(60)

    with pytest.raises(KeyboardInterrupt):
        train(Source(at=100, act=hang))
    done.set()
    # the interruption may come in the middle of a join, after which Python 3.11 takes the thread for one that has ended
    while any(thread.name == NAME for thread in threading.enumerate()):
        threading.Event().wait(0.01)


def test_a_fault_goes_back_to_the_last_good_values() -> None:
    spoiled = BYTES.astype("float32")
    spoiled[77] = 3e38
    errors, values = [], []
    for data in ((spoiled, T), (Source(spoiled, T),)):
        net = nn.Network([nn.Affine(8, 16), nn.ReLU(), nn.Affine(16, 3)], seed=1)
        trainer = nn.Trainer(net, nn.SGD(1e-4), batch_size=BATCH, seed=2)
        with np.errstate(all="ignore"), pytest.raises(nn.NumericalError) as error:
            trainer.fit(*data, epochs=2)
        errors.append(str(error.value))
        values.append(trainer.network.buffer.data.tobytes())
    assert errors[0] == errors[1]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((BYTES,), TypeError, "t: the targets of x are missing"),
        ((BYTES.tolist(),), TypeError, "t: the targets of x are missing"),
        ((7,), TypeError, "t is missing, and x is no source of rows .* got a int"),
        ((Source(BYTES[:0], T[:0]),), ValueError, "x is empty"),
        ((Source(BYTES[:, :5], T),), ValueError, r"x: expected shape \(n, 8\), got \(1, 5\)"),
        ((Source(BYTES[:10], T[:10]),), ValueError, "batch_size is 32, but the data has only 10 rows"),
        ((Source(BYTES, T + 7),), ValueError, "x, rows 0: t: labels must lie in 0 to 2"),
    ],
)
def test_bad_data(data: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(*data)


def test_bad_maps(mapped: np.memmap) -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 8\)"):
        train(mapped[:, :5], T)
    with pytest.raises(ValueError, match="x has 230 rows, but t has 229"):
        train(mapped, T[1:])
    with pytest.raises(ValueError, match="sample_weight: expected shape"):
        train(mapped, T, fit={"sample_weight": WEIGHT[1:]})
    with pytest.raises(ValueError, match=r"validation x: expected shape \(n, 8\)"):
        train(mapped, T, fit={"validation": (mapped[:, :5], T)})
