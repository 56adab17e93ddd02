"""The history for other programs: CSV read by Python's reader, events read by TensorBoard's own format."""

from __future__ import annotations

import csv
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Stops

import nnbackend as nn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 6)).astype("float32")
T = (X @ RNG.standard_normal((6, 3))).argmax(axis=1)
METRICS = {"spread, of y": lambda y, t: y.std()}


def trainer_of(**settings: Any) -> nn.Trainer:
    net = nn.Network([nn.Affine(6, 8), nn.ReLU(), nn.Affine(8, 3)], seed=1)
    return nn.Trainer(net, nn.Adam(nn.Cosine(0.01, steps=40)), **({"batch_size": 8, "seed": 2} | settings))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# --- CSV -------------------------------------------------------------------------------------------------------------


def test_a_line_for_each_epoch_with_all_digits(tmp_path: Path) -> None:
    path, lines = tmp_path / "run.csv", []
    trainer = trainer_of()
    callbacks = [nn.CSVLogger(path), lambda t: lines.append(len(read(path)))]
    history = trainer.fit(X, T, 3, validation=(X, T), metrics=METRICS, callbacks=callbacks)
    assert lines == [1, 2, 3]
    rows = read(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds", "samples_per_second", "spread, of y"):
        assert [float(row[name]) for row in rows] == history.values(name)
    assert "skipped" not in rows[0]


def test_lists_that_began_later_have_empty_cells(tmp_path: Path) -> None:
    trainer = trainer_of()
    trainer.fit(X, T, 2)
    history = trainer.fit(X, T, 1, validation=(X, T))
    history.to_csv(tmp_path / "run.csv")
    rows = read(tmp_path / "run.csv")
    assert [row["val_loss"] for row in rows] == ["", "", str(history.val_loss[0])]
    nn.History().to_csv(tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text() == "epoch\n"


def test_a_resumed_run_writes_the_whole_table(tmp_path: Path) -> None:
    for epochs in (1, 3):
        trainer = trainer_of(checkpoint=tmp_path / "run.safetensors")
        trainer.resume()
        trainer.fit(X, T, epochs, callbacks=[nn.CSVLogger(tmp_path / "run.csv")])
    assert [float(row["loss"]) for row in read(tmp_path / "run.csv")] == trainer.history.loss
    assert len(trainer.history) == 3


class Second(nn.Communicator):
    """The second of two processes, as far as writing is concerned."""

    rank = 1


def test_one_process_writes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    trainer = trainer_of()
    trainer.communicator = Second()
    callbacks = [nn.CSVLogger(tmp_path / "run.csv"), nn.TensorBoard(tmp_path / "run")]
    for callback in callbacks:
        callback(trainer)
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent/run.csv: there is no folder"):
        nn.CSVLogger(tmp_path / "absent" / "run.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        trainer_of().fit(X, T, callbacks=[nn.CSVLogger(tmp_path / "folder")])


# --- TensorBoard -----------------------------------------------------------------------------------------------------


def events(folder: Path) -> list[Any]:
    """The events of all files of a folder, the oldest first: each is a record of its length, two checks and data."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(Event.FromString(content[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag, step and value of all events that TensorBoard shows: a later start takes back what came after its step."""
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            found = {tag: {s: v for s, v in values.items() if s < event.step} for tag, values in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_has_all_steps_and_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    trainer, losses = trainer_of(), []

    class Losses:
        def __call__(self, trainer: nn.Trainer) -> None:
            pass

        def after_step(self, trainer: nn.Trainer) -> None:
            losses.append(float(trainer.state.metrics[0, trainer.state.step - 1]))

    board = nn.TensorBoard(tmp_path)
    history = trainer.fit(X, T, 3, validation=(X, T), metrics=METRICS, callbacks=[board, Losses()])
    board.close()
    found = scalars(tmp_path)
    assert found.pop("loss/step") == pytest.approx(dict(enumerate(losses, 1)))
    rates = found.pop("learning_rate")
    assert rates == pytest.approx({step: nn.Cosine(0.01, steps=40)(step) for step in (8, 16, 24)})
    lists = {
        "loss/training": history.loss,
        "loss/validation": history.val_loss,
        "accuracy/training": history.accuracy,
        "accuracy/validation": history.val_accuracy,
        "samples_per_second": history.samples_per_second,
    }
    lists["metrics/spread, of y"] = history.metrics["spread, of y"]
    assert set(found) == set(lists)
    for tag, values in lists.items():
        assert found[tag] == pytest.approx(dict(zip((8, 16, 24), values, strict=True)), rel=1e-6)


def dies(trainer: nn.Trainer) -> None:
    if trainer.epoch == 3 and not dies.dead:  # type: ignore[attr-defined]
        dies.dead = True  # type: ignore[attr-defined]
        raise RuntimeError("power cut")


def test_a_run_that_lost_an_epoch_is_shown_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    dies.dead = False  # type: ignore[attr-defined]
    for attempt in range(2):
        trainer = trainer_of(checkpoint=nn.Checkpoint(tmp_path / "run.safetensors", every="2epochs"))
        assert trainer.resume() == (attempt == 1)
        assert trainer.epoch == 2 * attempt
        try:
            trainer.fit(X, T, 4, callbacks=[nn.TensorBoard(tmp_path / "board"), dies])
        except RuntimeError:
            assert attempt == 0
    found = scalars(tmp_path / "board")
    assert sorted(found["loss/step"]) == list(range(1, 33))
    steps = dict(zip((8, 16, 24, 32), trainer.history.loss, strict=True))
    assert found["loss/training"] == pytest.approx(steps, rel=1e-6)


def test_skipped_steps_are_no_updates(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    spoiled = X.copy()
    spoiled[5] = 3e38
    trainer = trainer_of(on_fault="skip")
    with np.errstate(all="ignore"):
        trainer.fit(spoiled, T, 2, callbacks=[nn.TensorBoard(tmp_path)])
    assert sorted(scalars(tmp_path)["loss/step"]) == list(range(1, trainer.state.optimizer["t"] + 1))
    assert trainer.state.optimizer["t"] == 14


def test_ctrl_c_and_a_second_fit(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")

    trainer, board = trainer_of(), nn.TensorBoard(tmp_path)
    trainer.fit(X, T, 3, callbacks=[board, Stops((1, 3))])
    assert trainer.history.interrupted
    trainer.fit(X, T, 2, callbacks=[board])
    assert sorted(scalars(tmp_path)["loss/step"]) == list(range(1, 25))
    again = pickle.loads(pickle.dumps(board))
    assert again.folder == board.folder


def test_without_tensorboardx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'tensorboardX: pip install "nnbackend\[tensorboard\]"'):
        nn.TensorBoard(tmp_path)
