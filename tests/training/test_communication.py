"""Several processes train together: with the bits of one, through faults, and resumed by another number of them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import alone, launch, needs_mpi, program, results
from support import MPIEXEC

import nnbackend as nn
from nnbackend import serialization
from nnbackend.backends import resolve, select, to_numpy
from nnbackend.cli import main
from nnbackend.training.communication import SIZES, MPICommunicator
from nnbackend.training.communication import _portable as portable
from nnbackend.training.pairwise import PairwiseSum, add_nodes, nodes_of

# --- the order of a sum ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0, 1, [(0, 0)]),
        (0, 4, [(0, 2)]),
        (0, 6, [(0, 2), (4, 1)]),
        (0, 7, [(0, 2), (4, 1), (6, 0)]),
        (3, 6, [(3, 0), (4, 1)]),
        (5, 12, [(5, 0), (6, 1), (8, 2)]),
    ],
)
def test_the_nodes_of_neighbouring_batches(first: int, last: int, expected: list[tuple[int, int]]) -> None:
    assert [(node.first, node.level) for node in nodes_of(first, last)] == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.data())
def test_a_sum_has_the_same_bits_however_it_is_dealt_out(count: int, data: Any) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1)), label="cuts")) if count > 1 else []
    values = np.random.default_rng(count).standard_normal((count, 3)).astype("float32") * 10.0 ** np.arange(3)
    values = values.astype("float32")
    on = resolve("numpy")
    whole = PairwiseSum(on, "float32", 3, count)
    whole.begin(0, count)
    for value in values:
        whole.add(value.copy(), [value[0], 1])
    out = np.empty(3, "float32")
    metrics = whole.total(out)
    parts = []
    for first, last in zip([0, *cuts], [*cuts, count], strict=True):
        part = PairwiseSum(on, "float32", 3, count, whole=first == 0)
        part.begin(first, last - first)
        for value in values[first:last]:
            part.add(value.copy(), [value[0], 1])
        nodes = [(node, gradient.copy(), numbers) for node, gradient, numbers in part.parts()]
        assert [node for node, _, _ in nodes] == nodes_of(first, last)
        parts += nodes
    assert add_nodes((node, gradient) for node, gradient, _ in parts).tobytes() == out.tobytes()
    assert add_nodes((node, numbers[0]) for node, _, numbers in parts).tobytes() == metrics[0].tobytes()
    assert metrics[1] == count
    exact = np.add.reduce(values.astype("float64"))
    np.testing.assert_allclose(out, exact, rtol=0, atol=7 * 2**-23 * np.abs(values).sum(axis=0).max())


# --- one process ----------------------------------------------------------------------------------------------------


def test_without_a_launcher_there_is_one_process_and_no_mpi() -> None:
    code = "import sys, nnbackend as nn; c = nn.communicator(); print(c, c.is_root, 'mpi4py' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name not in SIZES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "<Communicator: rank 0 of 1> True False\n"


def test_one_process_is_no_communicator() -> None:
    one, other = program.run(None, nn.communicator()), program.run(None, None)
    assert program.digest(one) == program.digest(other)


def test_a_launcher_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(nn.CommunicationError, match=r'started 4 processes.*pip install "nnbackend\[mpi\]"'):
        nn.communicator()


@pytest.mark.parametrize("communicator", [4, "mpi", object()])
def test_what_is_no_communicator(communicator: Any) -> None:
    with pytest.raises(TypeError, match=r"communicator: expected the result of nn.communicator\(\)"):
        nn.Trainer(nn.Network([nn.Affine(2, 2)]), nn.SGD(), communicator=communicator)


class Ranks(nn.Communicator):
    """What a trainer sees of several processes before the first step."""

    size = 4


def test_batches_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="accumulate is 6, which 4 processes cannot share equally"):
        nn.Trainer(nn.Network([nn.Affine(2, 2)]), nn.SGD(), accumulate=6, communicator=Ranks())


def test_statistics_that_cannot_be_shared() -> None:
    class Counting(nn.Layer):
        def __init__(self) -> None:
            self.count = nn.Parameter((1,), nn.Constant(0.0), trainable=False)

    with pytest.raises(ValueError, match="Counting1 keeps statistics and has no method `follow`"):
        nn.Trainer(nn.Network([Counting(), nn.Affine(2, 2)]), nn.SGD(), accumulate=4, communicator=Ranks())


# --- several processes ----------------------------------------------------------------------------------------------


@needs_mpi
@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {}),
        (4, {"weights": True}),
        (3, {"accumulate": 6}),
        (2, {"accumulate": 6, "class_weight": True}),
        (2, {"on_fault": "skip", "weights": True, "class_weight": True}),
    ],
)
def test_several_processes_end_with_the_bits_of_one(processes: int, options: dict[str, Any]) -> None:
    """With dropout, batch normalisation, Adam, clipping, a last step with fewer rows, and its last batch of three."""
    assert results(launch(processes, **options)) == alone(**options)


@needs_mpi
def test_other_namespaces_add_on_the_host() -> None:
    strict = {"backend": "array_api_strict:device1", "epochs": 1}
    assert results(launch(2, **strict)) == alone(**strict)


@needs_mpi
def test_an_exception_in_one_process_ends_all() -> None:
    begun = time.monotonic()
    done = launch(4, rank2={"act": "raise"})
    assert done.returncode != 0
    assert "rank 2 of 4 failed:" in done.stderr
    assert "RuntimeError: the disk of this rank is on fire" in done.stderr
    assert time.monotonic() - begun < 30  # seconds, on a machine that starts an interpreter in five


@needs_mpi
@pytest.mark.parametrize(
    ("differing", "words"),
    [
        ({"batch_size": 7}, "batch_size: 5 in rank 0, 7 in rank 1"),
        ({"data": 1}, "data x: "),
        ({"network": 9}, "values parameters: "),
        ({"epochs": 4}, "epochs: 3 in rank 0, 4 in rank 1"),
        ({"every": "2steps"}, "checkpoint[0]: '1steps' in rank 0, '2steps' in rank 1"),
    ],
)
def test_processes_that_differ_notice_it_before_the_first_step(
    differing: dict[str, Any], words: str, tmp_path: Path
) -> None:
    done = launch(2, tmp_path, rank1={**differing})
    assert done.returncode != 0
    assert "CommunicationError: the processes do not train the same: " in done.stderr
    assert words in done.stderr


@needs_mpi
@pytest.mark.skipif(os.name == "nt", reason="SIGTERM: Windows ends a process without asking it")
@pytest.mark.parametrize(("rank", "then"), [(0, 4), (1, 1)])
def test_sigterm_stops_all_after_the_same_step(rank: int, then: int, tmp_path: Path) -> None:
    """The process that got the signal ends by it; the checkpoint goes on with the bits of an undisturbed run."""
    done = launch(2, tmp_path, **{f"rank{rank}": {"act": "SIGTERM", "at": (1, 2)}})
    assert done.returncode != 0
    stopped = [line.split()[1:3] for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 ")]
    assert all(line == ["1", "4"] for line in stopped), done.stdout  # the signal travels with the sum of the next step
    written = serialization.read(tmp_path / "run")[1]["training"]
    assert (written["epoch"], written["position"]) == (1, 4)
    assert results(launch(then, tmp_path)) == alone()


@needs_mpi
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL: Windows has none")
@pytest.mark.parametrize(("rank", "at", "then"), [(1, (0, 2), 4), (0, (1, 3), 2), (3, (2, 0), 1)])
def test_a_killed_process_ends_the_run_which_goes_on_with_any_number(
    rank: int, at: tuple[int, int], then: int, tmp_path: Path
) -> None:
    done = launch(4, tmp_path, **{f"rank{rank}": {"act": "SIGKILL", "at": at}})
    assert done.returncode != 0
    assert (tmp_path / "run").exists()
    assert results(launch(then, tmp_path)) == alone()


@needs_mpi
def test_the_command_prints_once_and_ends_with_the_bits_of_one_process(tmp_path: Path) -> None:
    settings = ["train", "mnist", "--data=sample", "--hidden=4", "--epochs=1", "--batch-size=250", "--accumulate=4"]
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "nnbackend", *settings, "--save", str(tmp_path / "two")]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "batches of 250, 4 a step, shared by 2 processes" in done.stdout
    assert done.stdout.count("test accuracy") == done.stdout.count("saved the network") == 1
    assert main([*settings, "--quiet", "--save", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@needs_mpi
def test_an_error_of_the_command_ends_all_processes() -> None:
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "nnbackend", "train", "mnist", "--accumulate=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "accumulate is 3, which 2 processes cannot share equally" in done.stderr


@needs_mpi
def test_a_value_that_is_not_finite_is_noticed_by_all_alike_also_with_a_bar() -> None:
    done = launch(2, lr=1e30, progress=True, catch=True, warnings="ignore")
    assert done.returncode == 0, done.stderr
    found = {line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert len(found) == 1, found
    assert "NumericalError: training met a value that is not finite at epoch 1, step " in found.pop()


def test_sums_are_taken_up_after_others() -> None:
    """As a captured step does after the last, smaller step of an epoch, which ran without a graph."""
    sums, out = PairwiseSum(resolve("numpy"), "float32", 1, 6, whole=False), np.zeros(1, "float32")
    sums.begin(3, 3)
    for value in (1.0, 2.0, 4.0):
        sums.add(np.array([value], "float32"), [value])
    parts = sums.parts()
    sums.begin(0, 2)
    sums.add(np.array([8.0], "float32"), [8.0])
    for (_, gradient, _), value in zip(parts, (1.0, 6.0), strict=True):
        gradient[...] = value  # the passes were repeated on the same arrays
    sums.resume(3, 3, parts)
    assert (sums.first, sums.count) == (3, 3)
    assert sums.total(out) == [7.0]
    assert out.tolist() == [7.0]


class Stubborn(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


@pytest.mark.parametrize("answer", [(None, Stubborn("no room")), (lambda: 0, None)])
def test_an_answer_that_cannot_be_sent_becomes_an_error_that_can(answer: Any) -> None:
    result, error = portable(answer)
    assert result is None
    assert isinstance(error, nn.CommunicationError)
    assert "rank 0: " in str(error)
    assert portable((3, None)) == (3, None)


def test_batches_of_another_size_are_summed_anew() -> None:
    x, t = np.eye(8, dtype="float32"), np.arange(8) % 2
    trainers = []
    for first in ((2, 4), (4, 2)):
        trainer = nn.Trainer(nn.Network([nn.Affine(8, 2)], seed=0), nn.SGD(), batch_size=first[0], accumulate=first[1])
        trainer.fit(x, t, 1)
        trainer.batch_size, trainer.accumulate = 2, 4
        trainer.fit(x, t, 1)
        trainers.append(trainer)
    assert trainers[1]._several_passes().settings[:2] == (2, 4)
    np.testing.assert_allclose(*(trainer.network.params["W1"] for trainer in trainers), rtol=1e-5)


# --- sums on devices ------------------------------------------------------------------------------------------------


@pytest.fixture
def nccl(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for CuPy's NCCL in which the other process holds what this one holds."""
    calls: list[tuple[Any, ...]] = []

    class NcclCommunicator:
        def __init__(self, size: int, identifier: tuple[int, ...], rank: int):
            calls.append(("init", size, identifier, rank))

        def allReduce(self, *arguments: int) -> None:
            calls.append(("allReduce", *arguments))

    module = SimpleNamespace(
        available=True, NcclCommunicator=NcclCommunicator, NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_SUM=0,
        get_unique_id=lambda: (1, 2, 3), calls=calls,
    )  # fmt: skip
    cuda = SimpleNamespace(nccl=module, get_current_stream=lambda: SimpleNamespace(ptr=99))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    return module


@pytest.mark.parametrize(("char", "number"), [("f", 7), ("d", 8)])
def test_nccl_adds_in_place_on_the_current_stream(nccl: SimpleNamespace, char: str, number: int) -> None:
    room = importlib.import_module("nnbackend.backends.cupy.nccl")
    shared: list[Any] = []
    add = room.device_sum(sys.modules["cupy"], 2, 0, lambda value: shared.append(value) or value, bool)
    array = SimpleNamespace(data=SimpleNamespace(ptr=4096), size=10, dtype=SimpleNamespace(char=char))
    add(array)
    assert shared == [(1, 2, 3)]
    assert nccl.calls == [("init", 2, (1, 2, 3), 0), ("allReduce", 4096, 4096, 10, number, 0, 99)]


def test_without_nccl_hosts_add(nccl: SimpleNamespace) -> None:
    nccl.available = False
    room = importlib.import_module("nnbackend.backends.cupy.nccl")
    assert room.device_sum(sys.modules["cupy"], 2, 1, lambda value: value, bool) is None


def test_sums_on_devices_are_used_if_the_library_has_them() -> None:
    """NCCL's part is played by a function that doubles, as two equal processes would."""
    on = resolve("numpy")
    comm = object.__new__(MPICommunicator)
    comm.size, comm.rank = 2, 0
    comm.any = lambda *flags: flags  # type: ignore[method-assign]

    def double(array: Any) -> None:
        array *= 2

    comm._device_sum = on.name, double
    sums = PairwiseSum(on, "float32", 2, 2)
    sums.begin(0, 1)
    sums.add(np.array([1.0, 2.0], "float32"), [np.float32(3.0), 4.0])
    out = np.zeros(2, "float32")
    metrics, flags = comm.add(sums, out, (True, False))
    assert out.tolist() == [2.0, 4.0]
    assert [float(to_numpy(value)) for value in metrics] == [6.0, 8.0]
    assert flags == (True, False)


def test_each_process_of_a_machine_takes_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    room = type(resolve("array_api_strict"))
    monkeypatch.setattr(room, "device_of", classmethod(lambda cls, local_rank: f"device{local_rank}"))
    monkeypatch.setattr(select, "_local_rank", 1)
    assert resolve("array_api_strict").name == "array_api_strict:device1"
    assert resolve("array_api_strict:device2").name == "array_api_strict:device2"
    assert resolve("numpy").name == "numpy"
