"""Checkpoints: what was cut short goes on as if nothing had happened, and nothing is lost on the way."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend import files, serialization
from nnbackend.backends import to_numpy, why_not
from nnbackend.training.checkpoint import period
from nnbackend.training.checkpoint_content import differences, fingerprints
from nnbackend.training.checkpoint_file import older

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 6)).astype("float32")
T = (X @ RNG.standard_normal((6, 3))).argmax(axis=1)
WEIGHT = RNG.uniform(0.5, 2.0, 60).astype("float32")
STEPS = 5  # an epoch of 40 rows in batches of 8

RULES: dict[str, Callable[[], nn.Optimizer]] = {
    "momentum": lambda: nn.Momentum(nn.Cosine(0.1, steps=6 * STEPS)),
    "nesterov": lambda: nn.Nesterov(nn.WarmUp(nn.StepDecay(0.1, every=7), steps=4), weight_decay=1e-3),
    "adam": lambda: nn.Adam(nn.OneCycle(0.05, steps=6 * STEPS)),
    "adamw": lambda: nn.AdamW(0.01),
    "rmsprop": lambda: nn.RMSprop(nn.Exponential(0.01, 0.99)),
    "sgd": lambda: nn.SGD(0.1),
}


def make(rule: str = "momentum", file: Any = None, backend: str = "numpy", **settings: Any) -> nn.Trainer:
    layers = [nn.Affine(6, 16), nn.BatchNormalization(16), nn.ReLU(), nn.Dropout(0.3), nn.Affine(16, 3)]
    network = nn.Network(layers, seed=1, backend=backend)
    return nn.Trainer(network, RULES[rule](), **{"batch_size": 8, "seed": 2, "checkpoint": file, **settings})


def fit(trainer: nn.Trainer, epochs: int = 6, callbacks: Any = None, weight: Any = None) -> nn.Trainer:
    stopping = [nn.EarlyStopping("val_loss", patience=6)] if callbacks is None else callbacks
    weight = None if weight is None else weight[:40]
    trainer.fit(X[:40], T[:40], epochs, sample_weight=weight, validation=(X[40:], T[40:]), callbacks=stopping)
    return trainer


def outcome(trainer: nn.Trainer) -> dict[str, Any]:
    """Everything that a run leaves, but for how long it took."""
    arrays = {name: to_numpy(a).tobytes() for name, a in trainer.network.buffer.snapshot().items()}
    state = {name: a if isinstance(a, int) else to_numpy(a).tobytes() for name, a in trainer.state.optimizer.items()}
    history = trainer.history.as_dict()
    return (
        arrays | state | {name: history[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy", "skipped")}
    )


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C within the step of that number, counted from 1 and over all trainers."""
    monkeypatch.setenv("NNBACKEND_CAPTURE", "0")  # Python does not see the steps of a graph
    count = 0
    original = nn.Trainer._step

    def counted(self: nn.Trainer, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            signal.raise_signal(signal.SIGINT)
        original(self, *arguments)

    monkeypatch.setattr(nn.Trainer, "_step", counted)


# --- the same end -----------------------------------------------------------------------------------------------


def resumed_at(step: int, rule: str, backend: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Trainer:
    interrupt_at(monkeypatch, step)
    cut_short = fit(make(rule, file, backend))
    assert cut_short.history.interrupted
    assert (cut_short.epoch, cut_short.state.step) == divmod(step, STEPS)
    trainer = make(rule, file, backend)
    assert trainer.resume()
    return trainer


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("step", [1, 7, STEPS, 12, 29])
def test_a_resumed_run_ends_with_the_same_bits(
    rule: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = fit(make(rule))
    trainer = resumed_at(step, rule, "numpy", tmp_path / "run", monkeypatch)
    assert outcome(fit(trainer)) == outcome(reference)
    assert not trainer.history.interrupted


@pytest.mark.parametrize(("rule", "step"), [("momentum", 7), ("adam", 12)])
def test_so_it_does_on_every_backend(
    rule: str, step: int, on: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNBACKEND_CAPTURE", "0")  # other products than those of a graph, so other bits
    reference = fit(make(rule, backend=on.backend.name))
    trainer = resumed_at(step, rule, on.backend.name, tmp_path / "run", monkeypatch)
    assert outcome(fit(trainer)) == outcome(reference)


@pytest.mark.parametrize(
    "settings", [{"clip_norm": 0.5}, {"accumulate": 2}, {"on_fault": "skip"}, {"batch_size": 7}], ids=str
)
def test_with_other_settings_too(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = fit(make(**settings), weight=WEIGHT)
    interrupt_at(monkeypatch, 8)
    fit(make(file=tmp_path / "run", **settings), weight=WEIGHT)
    trainer = make(file=tmp_path / "run", **settings)
    assert trainer.resume()
    assert outcome(fit(trainer, weight=WEIGHT)) == outcome(reference)


def test_a_run_may_be_cut_short_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = fit(make("adam"))
    for step in (3, 1, 9, 2):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            trainer = make("adam", tmp_path / "run")
            trainer.resume()
            fit(trainer)
    trainer = make("adam", tmp_path / "run")
    assert trainer.resume()
    assert (trainer.epoch, trainer.state.step) == (3, 0)
    assert outcome(fit(trainer)) == outcome(reference)


def test_early_stopping_goes_on_and_restores_the_best_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(trainer: nn.Trainer) -> nn.EarlyStopping:
        stopping = nn.EarlyStopping("val_loss", patience=3, min_delta=10.0)  # the first epoch is the best for good
        fit(trainer, 20, [stopping])
        return stopping

    reference = make()
    best = run(reference)
    interrupt_at(monkeypatch, 12)
    run(make(file=tmp_path / "run"))
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    stopping = run(trainer)
    assert trainer.epoch == reference.epoch == 4
    assert (stopping.best, stopping.best_epoch) == (best.best, best.best_epoch)
    assert outcome(trainer) == outcome(reference)


@pytest.mark.parametrize(("first", "second"), [("numpy", "torch"), ("torch", "numpy"), ("numpy", "array_api_strict")])
def test_another_backend_goes_on(first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (first, second):
        if why_not(name):
            pytest.skip(f"{name}: not installed")
    reference = fit(make(), callbacks=[])
    interrupt_at(monkeypatch, 12)
    fit(make(file=tmp_path / "run", backend=first), callbacks=[])
    trainer = make(file=tmp_path / "run", backend=second)
    assert trainer.resume()
    fit(trainer, callbacks=[])
    # float32, and 30 steps that each add some roundings. (Adam would blow up the gradient of the bias in front of the
    # normalisation, which is nothing but rounding.)
    for name in ("data", "state"):
        expected, values = getattr(reference.network.buffer, name), getattr(trainer.network.buffer, name)
        np.testing.assert_allclose(to_numpy(values), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(trainer.history.loss, reference.history.loss, rtol=1e-4)


def test_a_script_of_two_fits_is_the_same_script_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(file: Path | None) -> nn.Trainer:
        trainer = make(file=file)
        if file is not None:
            trainer.resume()
        fit(trainer, 2, [])
        return fit(trainer, 3, []) if not trainer.history.interrupted else trainer

    reference = script(None)
    for step in (7, 4, 8):  # in the first fit, at its end's beginning, in the second
        with monkeypatch.context() as patch:
            interrupt_at(patch, step)
            script(tmp_path / "run")
    done = script(tmp_path / "run")
    assert outcome(done) == outcome(reference)
    assert outcome(script(tmp_path / "run")) == outcome(reference)  # complete: nothing is trained any more


def test_a_learning_rate_that_an_earlier_fit_has_lowered_stays_low(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(file: Any) -> nn.Trainer:
        trainer = make("adamw", file)
        if file is not None:
            trainer.resume()
        fit(trainer, 2, [nn.ReduceLROnPlateau("loss", patience=1, min_delta=1e9, factor=0.5)])
        return trainer if trainer.history.interrupted else fit(trainer, 2, [])

    expected, file = script(None), tmp_path / "run.safetensors"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2 * STEPS + 3)
        assert script(file).history.interrupted
    trainer = script(file)
    assert trainer.state.optimizer["lr_scale"] == 0.5
    assert outcome(trainer) == outcome(expected)


def test_a_complete_run_returns_at_once_and_more_epochs_go_on(tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 2, [])
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    fit(trainer, 2, [])
    assert (trainer.epoch, len(trainer.history)) == (2, 2)
    fit(trainer, 1, [])
    assert outcome(trainer) == outcome(fit(make(), 3, []))
    longer = make(file=tmp_path / "run")
    longer.resume()
    longer.fit(X[:40], T[:40], 5, validation=(X[40:], T[40:]))  # counted from where the second fit began
    assert longer.epoch == 3, "the first fit of the script has long been done"


def test_a_fit_that_a_callback_has_ended_stays_ended(tmp_path: Path) -> None:
    stop = nn.EarlyStopping("val_loss", patience=1, min_delta=10.0)
    first = fit(make(file=tmp_path / "run"), 9, [stop])
    assert first.epoch == 2
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    assert outcome(fit(trainer, 9, [nn.EarlyStopping("val_loss", patience=1, min_delta=10.0)])) == outcome(first)


def test_a_shorter_run_is_made_longer(tmp_path: Path) -> None:
    fit(make("adamw", tmp_path / "run"), 2, [])
    trainer = make("adamw", tmp_path / "run")
    assert trainer.resume()
    assert outcome(fit(trainer, 5, [])) == outcome(fit(make("adamw"), 5, []))


def test_nothing_there_yet_the_run_simply_begins(tmp_path: Path) -> None:
    trainer = make(file=tmp_path / "run")
    assert not trainer.resume()
    assert outcome(fit(trainer)) == outcome(fit(make()))
    assert (tmp_path / "run").exists()


def test_a_run_is_taken_up_from_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 8)
    fit(make(file=tmp_path / "old"))
    before = (tmp_path / "old").read_bytes()
    trainer = make(file=tmp_path / "new")
    assert trainer.resume(tmp_path / "old")
    assert outcome(fit(trainer)) == outcome(fit(make()))
    assert (tmp_path / "new").exists()
    assert (tmp_path / "old").read_bytes() == before


# --- when, and how many -----------------------------------------------------------------------------------------


def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Epoch and position of every checkpoint that is written from now on."""
    places: list[tuple[int, int]] = []
    original = serialization.write

    def noted(path: Any, tensors: Any, description: Any, **how: Any) -> None:
        places.append((description["training"]["epoch"], description["training"]["position"]))
        original(path, tensors, description, **how)

    monkeypatch.setattr(serialization, "write", noted)
    return places


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("1epochs", [(1, 0), (2, 0), (3, 0)]),
        ("2epochs", [(2, 0), (3, 0)]),
        ("3steps", [(0, 3), (1, 1), (1, 4), (2, 2), (3, 0)]),
        ("5 steps", [(1, 0), (2, 0), (3, 0)]),
        ("1step", [(e, p) for e in range(3) for p in range(5) if e or p] + [(3, 0)]),
        ("1000s", [(3, 0)]),
    ],
)
def test_checkpoints_are_written_every_so_often(
    every: str, expected: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = written(monkeypatch)
    fit(make(file=nn.Checkpoint(tmp_path / "run", every=every)), 3, [])
    assert places == expected


def test_seconds_count_from_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnbackend.training import checkpoint

    now = iter(range(0, 10000, 2))  # two seconds pass between any two looks at the clock
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: float(next(now)))
    places = written(monkeypatch)
    fit(make(file=nn.Checkpoint(tmp_path / "run", every="5s")), 2, [])
    assert places == [(0, 3), (1, 0), (1, 3), (2, 0)]


def test_the_last_k_are_kept(tmp_path: Path) -> None:
    fit(make(file=nn.Checkpoint(tmp_path, keep=3)), 5, [])
    newest = tmp_path / "checkpoint.safetensors"
    files = [newest, older(newest, 1), older(newest, 2)]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert [serialization.read(file)[1]["training"]["epoch"] for file in files] == [5, 4, 3]


def test_without_links_the_last_are_kept_as_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    fit(make(file=nn.Checkpoint(tmp_path / "run", keep=2)), 2, [])
    assert [serialization.read(tmp_path / name)[1]["training"]["epoch"] for name in ("run", "run.1")] == [2, 1]


# --- nothing is lost --------------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From the n-th write on, the disk is full."""

    def fills(after: int) -> None:
        count = 0
        original = os.fsync

        def fsync(handle: int) -> None:
            nonlocal count
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                count += 1
                if count > after:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    return fills


def test_a_full_disk_leaves_the_one_before_and_training_goes_on(
    tmp_path: Path, full_disk: Callable[[int], None]
) -> None:
    full_disk(2)
    trainer = make(file=nn.Checkpoint(tmp_path / "run", keep=3))
    with (
        pytest.warns(UserWarning, match="No space left on device; the one before is still there, training goes on"),
        pytest.raises(nn.CheckpointError, match="No space left"),  # the last one is not optional
    ):
        fit(trainer, 5, [])
    assert trainer.epoch == 5
    assert outcome(trainer) == outcome(fit(make(), 5, []))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1"]
    assert serialization.read(tmp_path / "run")[1]["training"]["epoch"] == 2


def test_a_full_disk_stops_the_training_if_asked(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    full_disk(1)
    trainer = make(file=nn.Checkpoint(tmp_path / "run", on_error="stop"))
    with pytest.raises(nn.CheckpointError, match="No space left"):
        fit(trainer, 5, [])
    assert trainer.epoch == 2
    again = make(file=tmp_path / "run")
    assert again.resume()
    assert again.epoch == 1


def test_a_folder_that_cannot_be_written_is_noticed_before_the_first_step(tmp_path: Path) -> None:
    for place in (tmp_path / "none" / "run", Path(__file__) / "run"):
        trainer = make(file=place)
        with pytest.raises(nn.CheckpointError, match="cannot write checkpoints to"):
            fit(trainer)
        assert trainer.state.optimizer["t"] == 0


def test_the_checkpoint_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 1, [])
    before = (tmp_path / "run").read_bytes()
    with pytest.raises(nn.CheckpointError, match="holds the checkpoint of another run"):
        fit(make(file=tmp_path / "run"))
    late = make(file=tmp_path / "run")
    late.resume()
    other = make(file=tmp_path / "run")
    other.resume()
    fit(other, 2, [])
    assert (tmp_path / "run").read_bytes() != before
    with pytest.raises(nn.CheckpointError, match="another run"):  # it has gone on since `late` read it
        fit(late, 2, [])


def test_two_processes_notice_each_other(tmp_path: Path) -> None:
    def second(trainer: nn.Trainer) -> None:
        code = f"""
            import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
            import nnbackend as nn, test_checkpoint as tests
            trainer = tests.make(file={str(tmp_path / "run")!r})
            try:
                tests.fit(trainer)
            except nn.CheckpointError as error:
                print(error)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        said.append(done.stdout.strip())

    said: list[str] = []
    fit(make(file=tmp_path / "run"), 1, [second])
    assert said == [f"{tmp_path / 'run'} is being written by another process (number {os.getpid()}, or a child of it)"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    others = ["other.abcdefgh.tmp", "run.b.abcdefgh.tmp", "run1.abcdefgh.tmp", "run.tmp"]  # perhaps being written
    for name in ("run[1].abcd_123.tmp", "run[1].lock", *others):
        (tmp_path / name).write_text("1")
    fit(make(file=tmp_path / "run[1]"), 1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run[1]", *others])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="SIGKILL: this system has none")
def test_killed_at_random_moments_it_ends_with_the_same_bits() -> None:
    command = [sys.executable, str(ROOT / "ci" / "faults.py"), "--kills", "6", "--epochs", "40"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("6 kills, ")
    assert done.stdout.endswith(" 0 ended differently\n")


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM: Windows ends a process without asking it")
@pytest.mark.parametrize("kept", [True, False])
def test_sigterm_finishes_the_step_writes_and_ends_the_process(kept: bool, tmp_path: Path) -> None:
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
        import nnbackend as nn, test_checkpoint as tests
        step = nn.Trainer._step
        def stepped(self, *arguments):
            if self.state.optimizer["t"] == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            step(self, *arguments)
        nn.Trainer._step = stepped
        tests.fit(tests.make(file={str(tmp_path / "run")!r} if {kept} else None))
        print("not reached")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")
    assert (tmp_path / "run").exists() == kept
    if kept:
        trainer = make(file=tmp_path / "run")
        assert trainer.resume()
        assert (trainer.epoch, trainer.state.step) == (1, 3)
        assert outcome(fit(trainer)) == outcome(fit(make()))


# --- what is refused or fails half-way counts for nothing -------------------------------------------------------


def test_a_refused_fit_can_be_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        fit(make(file=tmp_path / "run"))
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    for _ in range(2):
        with pytest.raises(nn.CheckpointError, match="x changed"):
            trainer.fit(-X[:40], T[:40], 6, validation=(X[40:], T[40:]), callbacks=[nn.EarlyStopping(patience=6)])
    lock = tmp_path / "run.lock"
    with monkeypatch.context() as patch:
        patch.setattr("nnbackend.training.checkpoint_file._lock", held)
        with pytest.raises(nn.CheckpointError, match="being written by another process"):
            fit(trainer)
    lock.unlink()
    assert outcome(fit(trainer)) == outcome(fit(make()))


def held(handle: int) -> None:
    raise BlockingIOError


def test_the_advice_to_resume_can_be_followed(tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 2, [])
    trainer = make(file=tmp_path / "run")
    with pytest.raises(nn.CheckpointError, match="another run"):
        fit(trainer, 4, [])
    assert trainer.resume()
    assert outcome(fit(trainer, 4, [])) == outcome(fit(make(), 4, []))


def test_a_checkpoint_that_was_removed_is_written_again(tmp_path: Path) -> None:
    trainer = fit(make(file=tmp_path / "run"), 1, [])
    (tmp_path / "run").unlink()
    fit(trainer, 1, [])
    assert serialization.read(tmp_path / "run")[1]["training"]["epoch"] == 2


def test_one_file_by_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(make(file="run"), 1, [])
    trainer = make(file="run")
    assert trainer.resume(tmp_path / "run")
    assert fit(trainer, 2, []).epoch == 2


def test_a_lock_that_cannot_be_written_or_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        trainer = fit(make(file=tmp_path / "run"), 1, [])
    fit(trainer, 1, [])
    fcntl = pytest.importorskip("fcntl")

    def unknown(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.warns(UserWarning, match="would not be noticed: .*No locks available"):
        fit(trainer, 1, [])
    assert trainer.epoch == 3


def test_a_folder_that_cannot_be_synchronised_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    trainer = fit(make(file=tmp_path / "run"), 1, [])
    assert fit(trainer, 1, []).epoch == 2


def test_without_one_before_none_is_said_to_be_there(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    full_disk(0)
    with pytest.raises(nn.CheckpointError, match=r"No space left on device$"):
        fit(make(file=tmp_path / "run"), 1, [])
    assert list(tmp_path.iterdir()) == []


def test_memory_that_ends_while_writing_is_no_matter_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise MemoryError("4 GiB")

    monkeypatch.setattr(serialization, "write", fail)
    with pytest.raises(nn.CheckpointError, match="4 GiB"):
        fit(make(file=nn.Checkpoint(tmp_path / "run", every="1steps", on_error="stop")), 1, [])


def test_an_attempt_that_failed_half_way_ages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fit(make(file=nn.Checkpoint(tmp_path / "run", keep=3)), 3, [])

    def killed(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise KeyboardInterrupt  # after the link to the newest, before the new one takes its place
        return replace(self, target)

    replace = Path.replace
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                fit(trainer, 1, [])
    going_on = make(file=nn.Checkpoint(tmp_path / "run", keep=3))
    assert going_on.resume()
    fit(going_on, 4, [])
    names = ("run", "run.1", "run.2")
    assert [serialization.read(tmp_path / name)[1]["training"]["epoch"] for name in names] == [4, 3, 2]


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM: Windows ends a process without asking it")
@pytest.mark.parametrize("case", ["twice", "an error at the end"])
def test_sigterm_is_never_lost(case: str, tmp_path: Path) -> None:
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r}); sys.path.insert(0, {str(ROOT / "tests")!r})
        import nnbackend as nn, test_checkpoint as tests
        step = nn.Trainer._step
        def stepped(self, *arguments):
            if self.state.optimizer["t"] == 7:
                for _ in range({2 if case == "twice" else 1}):
                    os.kill(os.getpid(), signal.SIGTERM)
            step(self, *arguments)
        nn.Trainer._step = stepped
        def fail(*a, **k):
            raise RuntimeError("at the end")
        if {case != "twice"}:
            nn.serialization.write = fail
        try:
            tests.fit(tests.make(file=nn.Checkpoint({str(tmp_path / "run")!r}, every="100s")))
        except Exception:
            pass
        print("not reached")
    """
    code = textwrap.dedent(code).replace("nn.serialization", "__import__('nnbackend.serialization').serialization")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")
    assert (tmp_path / "run").exists() == (case == "twice")


def test_ctrl_c_in_the_last_step_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 2 * STEPS)
    trainer = fit(make(), 2, [])
    assert trainer.epoch == 2
    assert trainer.history.interrupted


def test_early_stopping_that_served_another_trainer_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = nn.EarlyStopping("val_loss", patience=6)
    fit(make("adam"), 30, [stopping])
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        fit(make(file=tmp_path / "run"), callbacks=[stopping])  # cut short before it was asked for the first time
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    assert outcome(fit(trainer)) == outcome(fit(make()))


@dataclass(eq=False)
class Odd(nn.Layer):
    """Settings that JSON knows in its own way."""

    setting: Any = None

    def forward(self, x: Any, training: bool = False) -> Any:
        return x

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy


@pytest.mark.parametrize(
    "setting", [(1, 2), {1: 0.5, 2: 1.0}, np.float32(0.1), math.nan, {"a": (1, np.int64(2))}], ids=str
)
def test_settings_are_compared_as_json_knows_them(setting: Any, tmp_path: Path) -> None:
    def odd() -> nn.Trainer:
        network = nn.Network([Odd(setting), nn.Affine(6, 3)], backend="numpy")
        return nn.Trainer(network, nn.SGD(), checkpoint=tmp_path / "run", batch_size=8)

    fit(odd(), 1, [])
    assert odd().resume()


def test_settings_that_json_does_not_know_are_refused_before_the_first_step(tmp_path: Path) -> None:
    network = nn.Network([Odd({1, 2}), nn.Affine(6, 3)], backend="numpy")
    trainer = nn.Trainer(network, nn.SGD(), checkpoint=tmp_path / "run", batch_size=8)
    with pytest.raises(TypeError, match=r"values that JSON can express, got \{1, 2\}"):
        fit(trainer, 1, [])
    assert trainer.state.optimizer["t"] == 0


class Counting(nn.SGD):
    """An optimizer of one's own, with numbers in its state."""

    def init(self, p: Any) -> dict[str, Any]:
        return {"t": 0, "factor": 1.0}

    def step(self, p: Any, g: Any, state: dict[str, Any]) -> None:
        p -= self.lr * state["factor"] * g
        state["t"] += 1
        state["factor"] *= 0.99


def test_numbers_in_the_state_of_an_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(file: Path | None = None) -> nn.Trainer:
        return nn.Trainer(make().network, Counting(0.1), batch_size=8, checkpoint=file)

    reference = fit(counting(), callbacks=[])
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        fit(counting(tmp_path / "run"), callbacks=[])
    trainer = counting(tmp_path / "run")
    assert trainer.resume()
    fit(trainer, callbacks=[])
    assert trainer.state.optimizer == reference.state.optimizer
    assert trainer.network.buffer.data.tobytes() == reference.network.buffer.data.tobytes()


@pytest.mark.parametrize("shape", [(2, 9), (4, 5), (1, 5)])
def test_metrics_of_another_data_set(shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 7)
    fit(make(file=tmp_path / "run"))
    tampered(tmp_path / "run", lambda tensors, d: tensors.update({"training.figures": np.zeros(shape, "float32")}))
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    with pytest.raises(nn.ModelFileError, match="metrics"):
        fit(trainer)


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not make().resume(tmp_path / "file" / "run")
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(nn.CheckpointError, match="cannot be read"):
            make().resume(tmp_path / name)
        with pytest.raises(nn.CheckpointError, match="cannot (be read|write)"):
            fit(make(file=tmp_path / name))


class Hoards:
    """A callback that keeps much."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, trainer: nn.Trainer) -> None:
        pass

    def snapshot(self, trainer: nn.Trainer) -> dict[str, Any]:
        return {"kept": np.zeros(self.size, "uint8"), "number": 3}

    def restore(self, trainer: nn.Trainer, snapshot: Any) -> None:
        self.restored = snapshot


def test_what_callbacks_keep_can_be_read_again_or_is_not_written(tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 1, [Hoards(2**24)])
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    hoards = Hoards(0)
    fit(trainer, 2, [hoards])
    assert (hoards.restored["kept"].shape, hoards.restored["number"]) == ((2**24,), 3)
    trainer = make(file=tmp_path / "more")
    with pytest.raises(nn.CheckpointError, match="callbacks keep more than a checkpoint of this network may hold"):
        fit(trainer, 1, [Hoards(2**26)])
    assert trainer.state.optimizer["t"] == 0


class Keeps:
    """A callback that keeps one value, and sets a factor of the learning rate."""

    def __init__(self, value: Any, scale: Any = 1.0):
        self.value, self.scale = value, scale

    def __call__(self, trainer: nn.Trainer) -> None:
        trainer.state.optimizer["lr_scale"] = self.scale

    def snapshot(self, trainer: nn.Trainer) -> dict[str, Any]:
        return {"kept": self.value}

    def restore(self, trainer: nn.Trainer, snapshot: Any) -> None:
        self.value = snapshot["kept"]


@pytest.mark.parametrize("value", ["text", [[1], [2, 3]], object(), 1j, np.array(["a"])])
def test_what_a_file_cannot_hold_is_refused_before_the_first_step(value: Any, tmp_path: Path) -> None:
    trainer = make(file=tmp_path / "run")
    with pytest.raises(nn.CheckpointError, match=r"Keeps\.snapshot must give numbers .* but 'kept' is "):
        fit(trainer, 1, [Keeps(value)])
    assert trainer.state.optimizer["t"] == 0


@pytest.mark.parametrize(("value", "read"), [(np.int64(3), 3), (np.float32(0.5), 0.5), (None, None), (True, True)])
def test_numbers_of_numpy_are_numbers(value: Any, read: Any, tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 1, [Keeps(value)])
    trainer, callback = make(file=tmp_path / "run"), Keeps("nothing")
    trainer.resume()
    callback.value = value
    fit(trainer, 2, [callback])
    assert callback.value == read
    assert type(callback.value) is type(read)


@pytest.mark.parametrize("scale", [0.25, np.float32(0.25), np.array(0.25), np.float64(0.25), 1])
def test_any_number_scales_the_learning_rate(scale: Any, tmp_path: Path) -> None:
    expected = fit(make(), 3, [Keeps(1, scale)])
    fit(make(file=tmp_path / "run"), 1, [Keeps(1, scale)])
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    fit(trainer, 3, [Keeps(1, scale)])
    assert trainer.network.buffer.data.tobytes() == expected.network.buffer.data.tobytes()


def test_a_complete_run_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(make(file=tmp_path / "run"), 2, [])
    monkeypatch.setattr("nnbackend.training.checkpoint_file._lock", held)
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    assert fit(trainer, 2, []).epoch == 2
    with pytest.raises(nn.CheckpointError, match="being written"):
        fit(trainer, 1, [])


def test_a_full_disk_ages_nothing_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    trainer = fit(make(file=nn.Checkpoint(tmp_path / "run", keep=3)), 3, [])

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    def fill(source: Path, target: Path) -> None:
        target.write_bytes(b"par")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", fill)
    with pytest.raises(nn.CheckpointError, match="No space left"):
        fit(trainer, 1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1", "run.2"]
    epochs = [serialization.read(tmp_path / name)[1]["training"]["epoch"] for name in ("run", "run.1", "run.2")]
    assert epochs == [3, 2, 1]


def test_a_damaged_checkpoint_names_the_one_before(tmp_path: Path) -> None:
    fit(make(file=nn.Checkpoint(tmp_path / "run", keep=2)), 2, [])
    (tmp_path / "run").write_bytes(b"damaged")
    with pytest.raises(nn.ModelFileError, match=r"the one before it is .*run\.1: rename it to go on"):
        make(file=tmp_path / "run").resume()
    (tmp_path / "run.1").replace(tmp_path / "run")
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    assert outcome(fit(trainer, 2, [])) == outcome(fit(make(), 2, []))


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "kept")
    fit(make(file=tmp_path / "run"), 1, [])
    assert (tmp_path / "run").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["kept"]


# --- what has changed is named ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 10}, "batch_size: 8 then, 10 now"),
        ({"seed": 3}, "seed: 2 then, 3 now"),
        ({"clip_norm": 1.0}, "clip_norm: None then, 1.0 now"),
        ({"accumulate": 2}, "accumulate: 1 then, 2 now"),
        ({"on_fault": "skip"}, "on_fault: 'stop' then, 'skip' now"),
        ({"rule": "adam"}, "optimizer kind: 'Momentum' then, 'Adam' now"),
    ],
)
def test_a_changed_setting_is_named(settings: Any, message: str, tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 1, [])
    trainer = make(file=tmp_path / "run", **settings)
    before = outcome(trainer)
    with pytest.raises(nn.CheckpointError, match=message):
        trainer.resume()
    assert outcome(trainer) == before


@pytest.mark.parametrize(
    ("layers", "dtype", "message"),
    [
        ([nn.Affine(6, 16), nn.Affine(16, 3)], "float32", r"network layers: \["),
        (None, "float64", "network dtype: 'float32' then, 'float64' now"),
    ],
)
def test_a_changed_network_is_named(layers: Any, dtype: str, message: str, tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 1, [])
    if layers is None:
        layers = [nn.Affine(6, 16), nn.BatchNormalization(16), nn.ReLU(), nn.Dropout(0.3), nn.Affine(16, 3)]
    trainer = nn.Trainer(
        nn.Network(layers, seed=1, dtype=dtype, backend="numpy"), RULES["momentum"](), batch_size=8, seed=2
    )
    with pytest.raises(nn.CheckpointError, match=message):
        trainer.resume(tmp_path / "run")


def test_changed_data_is_named_and_changed_callbacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 7)
    fit(make(file=tmp_path / "run"))

    def resumed() -> nn.Trainer:
        trainer = make()
        assert trainer.resume(tmp_path / "run")
        return trainer

    stopping = [nn.EarlyStopping("val_loss", patience=2)]
    x, t, validation = X[:40], T[:40], (X[40:], T[40:])
    changed = X[:40].copy()
    changed[13, 2] += 1e-6
    for arguments, named in (
        ({"x": changed, "t": t, "validation": validation}, "x changed"),
        ({"x": x, "t": t[::-1].copy(), "validation": validation}, "t changed"),
        ({"x": x, "t": t, "validation": validation, "sample_weight": WEIGHT[:40]}, "sample_weight changed"),
        ({"x": x, "t": t, "validation": (X[40:], 1 - T[40:].clip(0, 1))}, "validation t changed"),
        ({"x": x, "t": t}, "validation t, data validation x changed"),
    ):
        with pytest.raises(nn.CheckpointError, match=f"other data: data {named}"):
            resumed().fit(epochs=6, callbacks=stopping, **arguments)
    with pytest.raises(nn.CheckpointError, match=r"with the callbacks \['EarlyStopping'\], not \[\]"):
        resumed().fit(x, t, 6, validation=validation)


def test_numbers_of_numpy_are_settings_like_others(tmp_path: Path) -> None:
    def numpys() -> nn.Trainer:
        trainer = make(batch_size=np.int64(8), clip_norm=np.float32(0.3), file=tmp_path / "run")
        trainer.optimizer = nn.SGD(np.float32(0.1))  # type: ignore[arg-type]
        return trainer

    fit(numpys(), 1, [])
    assert numpys().resume()


def test_what_is_no_checkpoint_is_refused_at_once() -> None:
    for bad in (5, b"run", True, ["run"]):
        with pytest.raises(TypeError, match="checkpoint: expected a Checkpoint or a path"):
            make(file=bad)


def test_bad_settings_and_files_are_refused(tmp_path: Path) -> None:
    for every in ("", "0s", "5", "s", "1.5s", "-1s", "3hours", "9999999999s", 3, None):
        with pytest.raises(ValueError, match="every: expected a positive integer with its unit"):
            nn.Checkpoint(tmp_path, every=every)  # type: ignore[arg-type]
    for keep in (0, True, 1.5):
        with pytest.raises(ValueError, match="keep must be a positive integer"):
            nn.Checkpoint(tmp_path, keep=keep)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error must be"):
        nn.Checkpoint(tmp_path, on_error="retry")
    with pytest.raises(ValueError, match="no path"):
        make().resume()
    with pytest.raises(ValueError, match="before the first fit"):
        fit(make(), 1, []).resume(tmp_path / "run")
    network = make().network
    network.save(tmp_path / "saved")
    with pytest.raises(nn.CheckpointError, match="a saved network without a state of training"):
        make().resume(tmp_path / "saved")


def tampered(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Rewrite a checkpoint, checksum and all."""
    tensors, description = serialization.read(path)
    change(tensors, description)
    serialization.write(path, tensors, description)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, d: tensors.pop("W1"),
        lambda tensors, d: tensors.pop("optimizer.v"),
        lambda tensors, d: tensors.pop("training.clock"),
        lambda tensors, d: tensors.pop("training.figures"),
        lambda tensors, d: tensors.update(W1=tensors["W1"].T.copy()),
        lambda tensors, d: tensors.update({"optimizer.v": tensors["optimizer.v"].astype("float64")}),
        lambda tensors, d: d["training"].update(epoch=-1),
        lambda tensors, d: d["training"].update(position=10**9),
        lambda tensors, d: d["training"].update(began=10**9),
        lambda tensors, d: d["training"].update(fits=0),
        lambda tensors, d: d["training"].update(last_epoch=0),
        lambda tensors, d: d["training"].update(seconds="nan"),
        lambda tensors, d: d["training"].update(seconds=-1),
        lambda tensors, d: d["training"]["optimizer"].update(t=10**400),
        lambda tensors, d: tensors["W1"].fill(np.nan),
        lambda tensors, d: tensors["optimizer.v"].fill(np.inf),
        lambda tensors, d: tensors.update({"callback7.x": np.zeros(3, "float32")}),
        lambda tensors, d: tensors.update({"training.figures": np.zeros(3, "float32")}),
        lambda tensors, d: d["training"].update(position="3"),
        lambda tensors, d: d["training"].update(history={"loss": 3}),
        lambda tensors, d: d["training"].update(history={"loss": [1.0] * 99}),
        lambda tensors, d: d["training"].update(history={"loss": ["x"]}),
        lambda tensors, d: d["training"].update(history={"nonsense": []}),
        lambda tensors, d: d["training"].update(optimizer={}),
        lambda tensors, d: d["training"].update(callbacks=[{}]),
        lambda tensors, d: d["training"].update(callbacks=3),
        lambda tensors, d: d["training"].update(seconds="long"),
        lambda tensors, d: d["training"].update(data=[]),
        lambda tensors, d: d.update(training=[]),
        lambda tensors, d: d.pop("network"),
        lambda tensors, d: d.pop("settings"),
    ],
)
def test_a_checkpoint_that_makes_no_sense_changes_nothing(
    change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 7)
    fit(make(file=tmp_path / "run"))
    tampered(tmp_path / "run", change)
    trainer = make(file=tmp_path / "run")
    before = outcome(trainer)
    with pytest.raises((nn.ModelFileError, nn.CheckpointError)):
        trainer.resume()
    assert outcome(trainer) == before
    assert (trainer.epoch, trainer.state.step, trainer.state.fits) == (0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, state: state.pop("waited"),
        lambda tensors, state: state.update(best="low"),
        lambda tensors, state: state.update(best_epoch=[1]),
        lambda tensors, state: tensors.pop("callback0.kept.data"),
        lambda tensors, state: tensors.update({"callback0.kept.data": np.zeros(3, "float32")}),
        lambda tensors, state: tensors.update({"callback0.kept.more": np.zeros(3, "float32")}),
    ],
)
def test_a_callback_whose_state_makes_no_sense(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 7)
    fit(make(file=tmp_path / "run"))
    tampered(tmp_path / "run", lambda tensors, d: change(tensors, d["training"]["callbacks"][0]["state"]))
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    with pytest.raises(nn.ModelFileError, match="state of EarlyStopping makes no sense"):
        fit(trainer)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    fit(make(file=tmp_path / "run"), 1, [])
    content = bytearray((tmp_path / "run").read_bytes())
    content[-100] ^= 4
    (tmp_path / "run").write_bytes(content)
    with pytest.raises(nn.ModelFileError, match="checksum"):
        make(file=tmp_path / "run").resume()


def test_a_checkpoint_is_a_saved_network(tmp_path: Path) -> None:
    trainer = fit(make(file=tmp_path / "run"), 2, [])
    network = nn.load(tmp_path / "run", backend="numpy")
    np.testing.assert_array_equal(network.predict(X), trainer.network.predict(X))


# --- the parts --------------------------------------------------------------------------------------------------


def test_period() -> None:
    assert period("30s") == (30, "seconds")
    assert period("500 steps") == (500, "steps")
    assert period("1epoch") == (1, "epochs")


def test_fingerprints_are_those_of_the_values(on: Namespace) -> None:
    values = RNG.standard_normal((5000, 3)).astype("float32")
    here = fingerprints({"x": on.array(values, "float32"), "nothing": None})
    assert here == fingerprints({"x": values})
    assert set(here) == {"x"}
    for other in (values[:-1], values.reshape(3, 5000), values.astype("float64"), -values):
        assert fingerprints({"x": other}) != here
    assert fingerprints({"x": values.copy(order="F")}) == here


def test_differences_are_named() -> None:
    then = {"a": 1, "b": {"c": [1, 2, {"d": 3}]}, "e": None}
    assert differences("", then, json.loads(json.dumps(then))) == []
    now = {"a": 1, "b": {"c": [1, 5, {"d": 4}]}, "f": 0}
    assert differences("", then, now) == ["b c[1]: 2 then, 5 now", "b c[2] d: 3 then, 4 now", "f: None then, 0 now"]


# --- faults -----------------------------------------------------------------------------------------------------


def poison(monkeypatch: pytest.MonkeyPatch, at: tuple[int, ...], value: float) -> None:
    """Give the gradient of those updates, counted from 0, another value."""
    count = -1
    original = nn.Momentum.step

    def step(self: nn.Momentum, p: Any, g: Any, state: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count in at:
            g[...] = value
        original(self, p, g, state)

    monkeypatch.setattr(nn.Momentum, "step", step)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_step_that_leaves_what_is_not_finite_is_skipped_if_asked(
    value: float, on: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNBACKEND_CAPTURE", "0")  # Python does not see the steps of a graph
    at, count = (0, 3, 4, 11), -1
    with monkeypatch.context() as patch:
        original = nn.Trainer._step

        def step(self: nn.Trainer, *arguments: Any) -> None:
            nonlocal count
            count += 1
            if count not in at:
                original(self, *arguments)

        patch.setattr(nn.Trainer, "_step", step)
        reference = fit(make(backend=on.backend.name), 3, [])
    poison(monkeypatch, at, value)
    trainer = fit(make(backend=on.backend.name, on_fault="skip"), 3, [])
    assert trainer.history.skipped == [3, 0, 1]
    for name in ("data", "state", "clock", "v", "t"):
        assert outcome(trainer)[name] == outcome(reference)[name], name
    assert all(math.isfinite(loss) and loss > 0.1 for loss in trainer.history.loss)


def test_a_loss_that_is_not_finite_is_skipped_and_counts_for_nothing() -> None:
    x = X[:40].copy()
    x[5] = 3e38  # finite, but no sum over it is
    layers = [nn.Affine(6, 8), nn.ReLU(), nn.Affine(8, 3)]
    trainer = nn.Trainer(nn.Network(layers, backend="numpy"), nn.SGD(0.1), batch_size=8, on_fault="skip")
    trainer.network.params["W1"][...] *= 10.0
    with np.errstate(all="ignore"):
        history = trainer.fit(x, T[:40], 3)
    assert history.skipped == [1, 1, 1]
    assert all(0 < loss < 100 for loss in history.loss)
    assert all(0 <= accuracy <= 1 for accuracy in history.accuracy)


def test_an_epoch_of_faults_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, tuple(range(5, 10)), math.nan)
    trainer = make(on_fault="skip")
    with pytest.raises(nn.NumericalError, match="every step of epoch 2 was skipped"):
        fit(trainer, 4, [])
    assert np.isfinite(trainer.network.buffer.data).all()
    assert len(trainer.history) == 1


def test_a_fault_never_reaches_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Momentum.step

    def step(self: nn.Momentum, p: Any, g: Any, state: dict[str, Any]) -> None:
        if state["t"] == 7:
            g[...] = math.nan
        original(self, p, g, state)

    monkeypatch.setattr(nn.Momentum, "step", step)
    with pytest.raises(nn.NumericalError, match="epoch 2, step 3"):
        fit(make(file=nn.Checkpoint(tmp_path / "run", every="1steps")), 4, [])
    trainer = make(file=tmp_path / "run")
    assert trainer.resume()
    assert (trainer.epoch, trainer.state.step) == (1, 2)
    assert np.isfinite(trainer.network.buffer.data).all()


def test_a_diverging_optimizer_state_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("rmsprop")
    original = nn.RMSprop.step

    def step(self: nn.RMSprop, p: Any, g: Any, state: dict[str, Any]) -> None:
        if state["t"] == 6:
            g[...] = 1e30  # its square overflows: the update is 0, for ever
        original(self, p, g, state)

    monkeypatch.setattr(nn.RMSprop, "step", step)
    with pytest.raises(nn.NumericalError, match="epoch 2, step 2"), np.errstate(over="ignore"):
        fit(trainer, 4, [])
    assert np.isfinite(trainer.state.optimizer["h"]).all()


def test_on_fault_is_checked() -> None:
    with pytest.raises(ValueError, match='on_fault must be "stop" or "skip"'):
        make(on_fault="ignore")


# --- where it runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r" * 250, "\N{HIRAGANA LETTER A}" * 80], ids=["letters", "kana"])
def test_names_of_250_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    file = tmp_path / name
    expected = outcome(fit(make()))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        fit(make(file=nn.Checkpoint(file, every="3steps", keep=2)))
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {f"{files.stem(file)}.lock"} == {name, f"{name}.1"}
    trainer = make(file=nn.Checkpoint(file, keep=2))
    assert trainer.resume()
    assert outcome(fit(trainer)) == expected


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(nn.CheckpointError, match=r"cannot write checkpoints to .*runs: there is no such folder$"):
        fit(make(file=tmp_path / "runs" / "run"), 1, [])
    assert list(tmp_path.iterdir()) == []


def test_a_handler_that_python_did_not_install_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # as of a program that embeds Python
    monkeypatch.setattr(signal, "signal", lambda number, handler: taken.append(number))
    trainer = fit(make(file=tmp_path / "run"), 2, [])
    assert len(trainer.history) == 2
    assert taken == []


def test_what_rounds_otherwise_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run"
    fit(make(file=file), 2, [])
    assert make(file=file).resume()  # the same: no word
    loops = serialization.read(file)[1]["training"]["computed by"]["loops in C"]
    on = nn.backends.resolve("numpy")
    monkeypatch.setattr(type(on), "arithmetic", lambda self: {"numpy": np.__version__, "loops in C": not loops})
    with pytest.warns(UserWarning, match=f"never interrupted: loops in C: {loops} then, {not loops} now$") as said:
        assert make(file=file).resume()
    assert said[0].filename == __file__
    monkeypatch.setattr(type(on), "arithmetic", lambda self: {"numpy": "3.0", "loops in C": loops})
    with pytest.warns(UserWarning, match="numpy: .* then, '3.0' now"):
        assert make(file=file).resume()
    monkeypatch.setattr(
        type(on), "arithmetic", lambda self: {"another": "1.0"}
    )  # a library promises no bits of another
    assert make(file=file).resume()


def test_a_checkpoint_that_does_not_say_what_computed_it(tmp_path: Path) -> None:
    file = tmp_path / "run"
    fit(make(file=file), 2, [])
    tensors, description = serialization.read(file)
    del description["training"]["computed by"]  # as before it was written
    serialization.write(file, tensors, description)
    assert make(file=file).resume()
    serialization.write(file, tensors, description | {"training": description["training"] | {"computed by": 7}})
    with pytest.raises(nn.ModelFileError, match="makes no checkpoint"):
        make(file=file).resume()


def test_the_loops_in_c_are_what_the_backend_says(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import nnbackend as nn; print(nn.backend().arithmetic()['loops in C'])"
    for value, found in (("0", {"False"}), ("1", {"False", "True"})):
        environment = os.environ | {"NNBACKEND_NATIVE": value}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() in found


def test_where_inodes_never_agree_the_lock_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnbackend.training import checkpoint_file

    monkeypatch.setattr(checkpoint_file, "_inode", lambda path: -1)
    assert fit(make(file=tmp_path / "run"), 1, []).epoch == 1
    monkeypatch.setattr(files, "WINDOWS", True)  # where they differ, and the lock cannot be removed
    monkeypatch.setattr(checkpoint_file, "_lock", lambda handle: None)
    asked = []
    monkeypatch.setattr(checkpoint_file, "_inode", asked.append)
    (tmp_path / "run").unlink()
    assert fit(make(file=tmp_path / "run"), 1, []).epoch == 1
    assert asked == []


def test_on_windows_a_scanner_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnbackend.training import checkpoint_file

    replace, count = Path.replace, 0

    def hold(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count % 2:
            raise PermissionError(13, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", hold)
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(checkpoint_file, "_lock", lambda handle: None)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    fit(make(file=nn.Checkpoint(tmp_path / "run", keep=2)), 3, [])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "run.1", "run.lock"}
