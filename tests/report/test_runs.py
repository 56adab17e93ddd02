"""Records of runs: what is written is read again, and files that are none are refused by name and place."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.report import RUN_FORMAT, read_run, run_record
from nnbackend.report.runs import curves_of

HISTORY = nn.History(loss=[1.0, 0.5], val_loss=[2.0, 1.0], accuracy=[0.1, 0.2], seconds=[1.0, 1.0], skipped=[0, 1])


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    record = run_record(HISTORY, {"lr": 0.1, "hidden": [3, 4]}, test_loss=0.25, test_accuracy=None)
    assert record["format"] == RUN_FORMAT
    assert record["test_accuracy"] is None
    run = read_run(written(tmp_path / "first run.json", record))
    assert run.name == "first run"
    assert run.curves == {"loss": [1.0, 0.5], "val_loss": [2.0, 1.0], "accuracy": [0.1, 0.2]}
    assert run.settings == {"lr": 0.1, "hidden": [3, 4]}
    assert run.results == {"test_loss": 0.25}


def test_a_history_alone_and_records_of_earlier_versions(tmp_path: Path) -> None:
    alone = read_run(written(tmp_path / "a.json", HISTORY.as_dict()))
    assert alone.curves == curves_of(HISTORY)
    assert (alone.settings, alone.results) == ({}, {})
    old = {"settings": {"seed": 1}, "history": HISTORY.as_dict(), "seconds": 2.5}
    assert read_run(written(tmp_path / "b.json", old)).results == {"seconds": 2.5}


def test_values_that_are_not_finite_and_metrics_of_the_users_own(tmp_path: Path) -> None:
    text = '{"history": {"loss": [NaN, null, Infinity], "metrics": {"f1": [1, 2, 3], "short": [1]}}}'
    curves = read_run(written(tmp_path / "a.json", text)).curves
    assert math.isnan(curves["loss"][0])
    assert math.isnan(curves["loss"][1])
    assert curves["loss"][2] == math.inf
    assert curves["val_f1"] == [1.0, 2.0, 3.0]
    assert set(curves) == {"loss", "val_f1"}


def test_tuples_arrays_and_numbers_of_numpy_are_curves() -> None:
    lists = {"loss": (1.0, 0.5), "val_loss": np.array([2.0, 1.0]), "accuracy": [np.float32(0.5), np.float64(0.25)]}
    assert curves_of(lists) == {"loss": [1.0, 0.5], "val_loss": [2.0, 1.0], "accuracy": [0.5, 0.25]}
    with pytest.raises(TypeError, match="history: expected a History, or lists by name, got int"):
        curves_of(3)


def test_integers_that_no_float_holds(tmp_path: Path) -> None:
    run = read_run(written(tmp_path / "a.json", {"history": {"loss": [10**400, -(10**400)]}, "test_loss": 10**400}))
    assert run.curves["loss"] == [math.inf, -math.inf]
    assert run.results["test_loss"] == math.inf
    with pytest.raises(nn.DataError, match=r"a\.json: one of its numbers has too many digits"):
        read_run(written(tmp_path / "a.json", '{"loss": [1' + 5000 * "0" + "]}"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a\.json: line 1, column 2: it is not JSON"),
        ('{"history":\n {"loss": [1,]}}', r"a\.json: line 2, column \d+: it is not JSON"),
        ("[1]", "expected an object with the history of a run, got list"),
        ({"history": {}}, "it is no record of a run: it has no history with a list named loss"),
        ({"history": [1]}, "it is no record of a run"),
        ({"history": {"loss": [1]}, "format": RUN_FORMAT + 1}, "its format 2 is newer than this version"),
        ({"history": {"loss": [1]}, "format": "new"}, "format: expected a number, got 'new'"),
        ({"history": {"loss": [1]}, "settings": 3}, "settings: expected an object, got int"),
        ({"history": {"loss": [1, "two"]}}, "history: loss of epoch 2 is 'two', expected a number"),
        ("[" * 100_000, r"a\.json: its values are nested too deeply"),
    ],
)
def test_files_that_are_no_records(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(nn.DataError, match=message):
        read_run(written(tmp_path / "a.json", content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(nn.DataError, match=r"none\.json: No such file"):
        read_run(tmp_path / "none.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(nn.DataError, match=r"a\.json: it is not a text file in UTF-8"):
        read_run(tmp_path / "a.json")
    with pytest.raises(nn.DataError, match=str(tmp_path)):
        read_run(tmp_path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(100_000_001)  # a hole, which takes no room
    with pytest.raises(nn.DataError, match="it has 100,000,001 bytes"):
        read_run(tmp_path / "a.json")
