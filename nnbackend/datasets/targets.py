"""Recognise what a data set asks for, a class or a number, and turn its answers into targets and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnbackend.datasets.idx import HostArray
from nnbackend.errors import DataError, unknown_name

__all__ = ["TASKS", "Target", "as_numbers", "is_scaling", "moments", "recognised", "word"]

TASKS = ("auto", "classes", "numbers")
FEW = 20  # so many different integers, or fewer, are taken for classes


@dataclass(frozen=True)
class Target:
    """Describes the answers: the names of the classes, or for numbers their mean and standard deviation.

    A network learns classes as integers from 0, and numbers scaled to mean 0 and deviation 1. name: of the column, or
    what the answers are.
    """

    name: str
    classes: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 1.0

    def __str__(self) -> str:
        if self.classes is None:
            return f"{self.name!r}: numbers"
        shown = [name[:30] for name in self.classes[:10]]
        more = [f"... {len(self.classes) - len(shown)} more"] if len(self.classes) > len(shown) else []
        return f"{self.name!r}: {len(self.classes)} classes ({', '.join([*shown, *more])})"

    def measured(self, t: HostArray) -> Target:
        """Return the target with mean and deviation of these numbers; for classes, the target as it is."""
        if self.classes is not None:
            return self
        mean, scale = moments(t)
        return replace(self, mean=mean, scale=scale)

    def scaled(self, t: HostArray) -> HostArray:
        """Return what a network learns from numbers of the data's unit. Classes stay as they are."""
        return t if self.classes is not None else (t - self.mean) / self.scale

    def restored(self, y: HostArray) -> HostArray:
        """Invert `scaled`: return numbers in the data's unit, float64."""
        return np.asarray(y, np.float64) * self.scale + self.mean

    def stored(self) -> dict[str, Any]:
        """Return the description as values that JSON can express."""
        if self.classes is None:
            return {"name": self.name, "mean": self.mean, "scale": self.scale}
        return {"name": self.name, "classes": list(self.classes)}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Target:
        """Return what `stored` has described. Raise ValueError for any other description."""
        name, classes = stored.get("name"), stored.get("classes")
        mean, scale = stored.get("mean", 0.0), stored.get("scale", 1.0)
        if not isinstance(name, str) or not is_scaling(mean, scale):
            raise ValueError(f"a target needs a name, a mean and a positive scale, got {stored!r:.200}")
        if classes is None:
            return cls(name, None, float(mean), float(scale))
        if not isinstance(classes, list) or len(classes) < 2 or not all(isinstance(one, str) for one in classes):
            raise ValueError(f"the classes of a target must be a list of two names or more, got {classes!r:.200}")
        return cls(name, tuple(classes))


def is_scaling(mean: object, scale: object) -> bool:
    """Say whether these are a finite mean and a positive, finite scale."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (mean, scale))
    return numbers and math.isfinite(mean) and 0 < scale < math.inf  # type: ignore[arg-type, operator]


def moments(values: HostArray) -> tuple[float, float]:
    """Return mean and standard deviation; 1 in the place of the deviation of a constant.

    Both are computed in float64: rounding in float32 gives a constant a deviation, and float16 overflows.
    Raises OverflowError if they are not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = (float(measure(values, dtype=np.float64)) for measure in (np.mean, np.std))
    if not (math.isfinite(mean) and math.isfinite(scale)):
        raise OverflowError("numbers so large that their mean or deviation is not finite")
    return mean, scale if scale > 1e-12 * abs(mean) else 1.0


def recognised(
    name: str, values: HostArray, task: str, where: Callable[[int], str], override: str = "the task"
) -> tuple[Target, HostArray]:
    """Return what the answers are, and the answers: classes as integers from 0, int64, or numbers, float64.

    values: (n,) strings (objects), or numbers or bools; none is missing. task: "auto" takes words, and integers of 20
    different values or fewer, for classes, and other numbers for numbers; "classes" and "numbers" decide it. where:
    says in which file and row the value of an index is. override: how a user sets the task, for messages.
    Raises ValueError for another task, and DataError if the values do not fit it.
    """
    if task not in TASKS:
        raise ValueError(f"task: {unknown_name('task', task, TASKS)}")
    yes_or_no = isinstance(values[0], bool | np.bool_)
    numbers = None if yes_or_no else as_numbers(values)
    bad = np.ones(len(values), bool) if numbers is None else np.isnan(numbers)
    if bad.any() and (task == "numbers" or values.dtype.kind == "f"):
        row = int(bad.argmax())
        raise DataError(f"{where(row)}: {str(values[row])[:50]!r} is not a number, and {name!r} holds numbers")
    if numbers is not None and not bad.any():
        if not np.isfinite(numbers).all():
            raise DataError(f"{where(int((~np.isfinite(numbers)).argmax()))}: {name!r} is infinite there")
        different = np.unique(numbers)
        if task == "numbers" or (task == "auto" and not ((different % 1 == 0).all() and len(different) <= FEW)):
            return Target(name), numbers
    words = np.array([word(value) for value in values], object)
    names, t = np.unique(words, return_inverse=True)
    if numbers is not None and not bad.any():  # in the order of the numbers, not of their digits
        order = np.argsort([float(one) for one in names], kind="stable")
        names, t = names[order], np.argsort(order)[t]
    if len(names) < 2:
        raise DataError(f"{where(0)}: every row has the same {name!r}, {names[0]!r:.50}; there is nothing to learn")
    if len(names) > max(FEW, len(values) // 2):
        hint = "" if bad.any() else f"; {override} takes them for numbers"
        raise DataError(
            f"{where(0)}: {name!r} has {len(names)} different values in {len(values)} rows, too many for classes{hint}"
        )
    return Target(name, tuple(map(str, names))), t.astype(np.int64)


def as_numbers(values: HostArray) -> HostArray:
    """Return strings, numbers or bools as float64, and NaN for each that is no number."""
    try:
        return values.astype(np.float64)
    except (ValueError, TypeError):
        return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError):
        return math.nan


def word(value: Any) -> str:
    """Return a cell as a word: strings without spaces around them, whole numbers without a decimal point."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
