"""A measurement of the batch size from which on one backend is faster than another.

`nnbackend doctor --measure` makes it and keeps it for NNBACKEND=auto.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnbackend.cache import cache_root
from nnbackend.errors import DataError
from nnbackend.files import write_atomically

HIDDEN = (512, 256)  # hidden widths of the default network of `nnbackend train`, between 784 pixels and 10 classes
LARGE = 2**53  # above every possible batch size, width or time, and exact as a float
BATCH = 128  # the measured batch size nearest to the default of training


@dataclass(frozen=True)
class Crossover:
    """Holds microseconds per training step of a 784-hidden-10 network (ReLU, Adam, float32) on two backends.

    first, second: the names of the backends. device: the device of the second. versions: the versions of the
    libraries, by name. hidden: widths of the hidden layers. batches: batch sizes, ascending. us_first, us_second: the
    median for each batch size.
    """

    first: str
    second: str
    device: str
    versions: dict[str, str]
    hidden: tuple[int, ...]
    batches: tuple[int, ...]
    us_first: tuple[float, ...]
    us_second: tuple[float, ...]

    @property
    def overtakes(self) -> int | None:
        """Return the smallest measured batch size from which on the second is faster, or None if the largest is not."""
        found = None
        for batch, first, second in zip(self.batches, self.us_first, self.us_second, strict=True):
            if second >= first:
                found = None
            elif found is None:
                found = batch
        return found

    def concerns(self, first: str, device: str, versions: dict[str, str]) -> bool:
        """Say whether the default network was measured with this first backend, this device and these versions."""
        return (self.first, self.hidden, self.device, self.versions) == (first, HIDDEN, device, versions)

    def at(self, batch: int) -> tuple[float, float]:
        """Return the microseconds per step of both backends at the measured batch size nearest to `batch`."""
        i = min(range(len(self.batches)), key=lambda i: abs(self.batches[i] - batch))
        return self.us_first[i], self.us_second[i]


def path(second: str) -> Path:
    """Return the path of the last measurement of the backend `second`."""
    return cache_root() / f"measured-{second.replace(':', '-')}.json"


def write(crossover: Crossover) -> Path:
    """Write a measurement in place of the last one; return its path. Raise OSError if the cache cannot be written."""
    target = path(crossover.second)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(target, (json.dumps(asdict(crossover), indent=2) + "\n").encode())
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(target)) from error
    return target


def read(second: str) -> Crossover | None:
    """Return the last measurement of the backend `second`, or None if there is none.

    Raises DataError for a file that `write` has not written.
    """
    try:
        source = path(second)
    except FileNotFoundError:  # no cache, no measurement
        return None
    try:
        if source.exists() and not source.is_file():  # reading a pipe would wait
            raise ValueError("it is not a file")
        with source.open(encoding="utf-8") as file:
            content = json.loads(file.read(2**16))
        found = _checked(content)
        if found.second != second:
            raise ValueError(f"it is of {found.second!r:.40}")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{source}: not a measurement of nnbackend ({type(error).__name__}: {error})") from error


def _checked(content: Any) -> Crossover:
    names = {name: _text(content[name]) for name in ("first", "second", "device")}
    versions = {_text(name): _text(version) for name, version in content["versions"].items()}
    hidden, batches = (_positive(content[name], int) for name in ("hidden", "batches"))
    us_first, us_second = (_positive(content[name], float) for name in ("us_first", "us_second"))
    if not len(batches) == len(us_first) == len(us_second) or not batches or list(batches) != sorted(set(batches)):
        raise ValueError("its batch sizes and times do not fit together")
    return Crossover(**names, versions=versions, hidden=hidden, batches=batches, us_first=us_first, us_second=us_second)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r:.40}")
    return value


def _positive(values: Sequence[Any], kind: type) -> tuple[Any, ...]:
    if not isinstance(values, list) or not all(type(v) in (int, kind) and 0 < v < LARGE for v in values):
        raise ValueError(f"expected a list of positive numbers, got {values!r:.40}")
    return tuple(values)
