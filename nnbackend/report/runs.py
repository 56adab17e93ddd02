"""Records of runs as JSON files, which a page compares."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from nnbackend.errors import DataError

RUN_FORMAT = 1
_LARGEST = 100_000_000  # bytes: a record of a million epochs is smaller
_NOT_CURVES = ("seconds", "samples_per_second", "skipped")


@dataclass(frozen=True)
class Run:
    """Holds what a record tells about a run.

    name: the name of the file. curves: lists with one number for each epoch, by name; a number may be NaN. settings:
    by name. results: numbers by name, such as test_accuracy.
    """

    name: str
    curves: dict[str, list[float]]
    settings: dict[str, Any] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)


def run_record(history: Any, settings: Mapping[str, Any], **results: float | None) -> dict[str, Any]:
    """Return the record of a run as JSON-able values, which `read_run` reads.

    history: a History, or lists by name. settings: names with numbers, text, or lists of them. results: numbers by
    name, such as test_accuracy; None if one does not apply.
    """
    return {
        "format": RUN_FORMAT,
        "settings": dict(settings),
        "history": _by_name(history),
        **results,
    }


def curves_of(history: Any) -> dict[str, list[float]]:
    """Return the lists of a history (a History, or a mapping) with a number for every epoch, but not its times."""
    lists = _by_name(history)
    for name, value in [*lists.items()]:
        if isinstance(value, Mapping):  # metrics of the user's own, which are measured on the validation data
            lists.update({f"val_{metric}": values for metric, values in value.items()})
            del lists[name]
    lists = {name: list(value) for name, value in lists.items() if _is_list(value) and name not in _NOT_CURVES}
    for name, values in lists.items():
        for i, value in enumerate(values):
            if value is not None and not _is_number(value):
                raise ValueError(f"history: {name} of epoch {i + 1} is {value!r:.50}, expected a number")
    epochs = max(map(len, lists.values()), default=0)
    return {
        name: [math.nan if value is None else _float(value) for value in values]
        for name, values in lists.items()
        if values and len(values) == epochs
    }


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read the record of a run: a file that `nnbackend train --json` has written, or the JSON of a history alone.

    Raises DataError, which names the file and what is wrong there, if it is missing, no JSON, of a newer format, or no
    record of a run.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file}: it has {file.stat().st_size:,} bytes, a record of a run has fewer")
        record = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: it is not a text file in UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: line {error.lineno}, column {error.colno}: it is not JSON: {error.msg}") from error
    except ValueError as error:  # Python limits the digits of an integer
        raise DataError(f"{file}: one of its numbers has too many digits") from error
    except RecursionError as error:
        raise DataError(f"{file}: its values are nested too deeply") from error
    if not isinstance(record, dict):
        raise DataError(f"{file}: expected an object with the history of a run, got {type(record).__name__}")
    version = record.get("format", RUN_FORMAT)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DataError(f"{file}: format: expected a number, got {version!r:.50}")
    if version > RUN_FORMAT:
        raise DataError(
            f"{file}: its format {version} is newer than this version of nnbackend, which reads {RUN_FORMAT}"
        )
    history = record.get("history", record)
    if not isinstance(history, dict) or not isinstance(history.get("loss"), list):
        raise DataError(f"{file}: it is no record of a run: it has no history with a list named loss")
    settings = record.get("settings", {}) if "history" in record else {}
    if not isinstance(settings, dict):
        raise DataError(f"{file}: settings: expected an object, got {type(settings).__name__}")
    try:
        curves = curves_of(history)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    outside = record.items() if "history" in record else ()
    results = {name: _float(value) for name, value in outside if name != "format" and _is_number(value)}
    return Run(file.stem, curves, settings, results)


def _by_name(history: Any) -> dict[str, Any]:
    if not isinstance(history, Mapping) and not hasattr(history, "as_dict"):
        raise TypeError(f"history: expected a History, or lists by name, got {type(history).__name__}")
    return dict(history) if isinstance(history, Mapping) else history.as_dict()


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer, of which a float cannot be that large
        return math.copysign(math.inf, value > 0 or -1)
