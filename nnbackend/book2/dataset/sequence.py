"""Provide the book's dataset.sequence: questions and answers as rows of characters (chapters 7 and 8).

If addition.txt or date.txt of the book is in the folder that NNBACKEND_DATA names (without that variable, the current
folder), it is read. Otherwise a task of the same form is made: 50,000 sums of two numbers below 1,000, or dates of the
years 1970 to 2017 in eight ways of writing.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from nnbackend.errors import DataError, unknown_name

__all__ = ["char_to_id", "get_vocab", "id_to_char", "load_data", "numpy", "os"]

id_to_char: dict[int, str] = {}
char_to_id: dict[str, int] = {}

ROWS = 50_000


def load_data(file_name: str = "addition.txt", seed: int | None = 1984) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Return ((x_train, t_train), (x_test, t_test)): character numbers, 90 % and 10 % of the shuffled rows.

    x: the questions, (n, T); t: the answers, (n, T'), which begin with "_". seed: of numpy.random, which goes on from
    there; None keeps its state. Raises ValueError for another file_name that is not there; DataError for a file whose
    lines differ in length.
    """
    lines = _lines(file_name)
    at = [line.find("_") for line in lines]
    questions, answers = (
        [line[:i] for line, i in zip(lines, at, strict=True)],
        [line[i:] for line, i in zip(lines, at, strict=True)],
    )
    widths = len(questions[0]), len(answers[0])
    for number, pair in enumerate(zip(questions, answers, strict=True), 1):
        if tuple(map(len, pair)) != widths or min(widths) == 0:
            raise DataError(f"{file_name}, line {number}: expected {widths[0]} characters before '_', as line 1")
    for question, answer in zip(questions, answers, strict=True):
        for character in question + answer:
            if character not in char_to_id:
                id_to_char[len(char_to_id)] = character
                char_to_id[character] = len(char_to_id)
    x = numpy.array([[char_to_id[c] for c in question] for question in questions])
    t = numpy.array([[char_to_id[c] for c in answer] for answer in answers])
    order = numpy.arange(len(x))
    if seed is not None:
        numpy.random.seed(seed)
    numpy.random.shuffle(order)
    train = len(x) - len(x) // 10
    return (x[order[:train]], t[order[:train]]), (x[order[train:]], t[order[train:]])


def get_vocab() -> tuple[dict[str, int], dict[int, str]]:
    """Return the tables from character to number and back, of all that was loaded."""
    return char_to_id, id_to_char


def _lines(file_name: str) -> list[str]:
    path = Path(os.environ.get("NNBACKEND_DATA", ".")) / file_name
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines:
            raise DataError(f"{path}: the file is empty")
        return lines
    if file_name not in TASKS:
        raise ValueError(f"file_name: {unknown_name('task', file_name, TASKS)}, and there is no file {path}")
    return TASKS[file_name](numpy.random.default_rng(1984))


def _additions(rng: numpy.random.Generator) -> list[str]:
    """Return different sums, such as "16+75  _91  "."""
    found: dict[str, str] = {}
    while len(found) < ROWS:
        a, b = (int(rng.integers(0, 10 ** rng.integers(1, 4))) for _ in range(2))
        found.setdefault(f"{a}+{b}".ljust(7), f"_{a + b}".ljust(5))
    return [question + answer for question, answer in found.items()]


def _dates(rng: numpy.random.Generator) -> list[str]:
    """Return dates, such as "september 27, 1994           _1994-09-27"."""
    first = datetime.date(1970, 1, 1).toordinal()
    days = rng.integers(first, datetime.date(2017, 12, 31).toordinal() + 1, ROWS)
    ways = rng.choice(len(WAYS), ROWS, p=[0.25, 0.25, 0.15, 0.1, 0.05, 0.1, 0.05, 0.05])
    dates = [datetime.date.fromordinal(int(day)) for day in days]
    return [f"{WAYS[way](day).ljust(29)}_{day.isoformat()}" for way, day in zip(ways, dates, strict=True)]


def _long(day: datetime.date) -> str:
    return f"{MONTHS[day.month]} {day.day}, {day.year}"


def _with_day(day: datetime.date) -> str:
    return f"{DAYS[day.weekday()]}, {_long(day)}"


MONTHS = ["", "January", "February", "March", "April", "May", "June"]
MONTHS += ["July", "August", "September", "October", "November", "December"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WAYS: tuple[Callable[[datetime.date], str], ...] = (
    lambda day: f"{day.month}/{day.day}/{day.year % 100:02}",
    _long,
    lambda day: f"{MONTHS[day.month][:3]} {day.day}, {day.year}",
    _with_day,
    lambda day: _with_day(day).lower(),
    lambda day: _long(day).lower(),
    lambda day: _long(day).upper(),
    lambda day: _with_day(day).upper(),
)
TASKS: dict[str, Callable[[numpy.random.Generator], list[str]]] = {"addition.txt": _additions, "date.txt": _dates}
