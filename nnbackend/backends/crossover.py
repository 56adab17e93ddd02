"""From which batch size on is one backend faster than another? A measurement (made by `nnbackend doctor --measure`),
kept for NNBACKEND=auto.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnbackend.cache import cache_root
from nnbackend.errors import DataError

HIDDEN = (512, 256)  # of the network that `nnbackend train` trains by default, between 784 pixels and 10 classes
LARGE = 2**53  # what no batch, width or time reaches, and a float holds
BATCH = 128  # the measured batch size that is nearest to what training uses by default


@dataclass(frozen=True)
class Crossover:
    """Microseconds per training step of a 784-hidden-10 network (ReLU, Adam, float32) on two backends.

    first, second: names of backends; device: that of the second. versions: of the libraries that computed.
    batches: ascending. us_first, us_second: medians, one for each of them.
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
        """The smallest measured batch size from which on the second is faster; None where it is not at the largest."""
        found = None
        for batch, first, second in zip(self.batches, self.us_first, self.us_second, strict=True):
            if second >= first:
                found = None
            elif found is None:
                found = batch
        return found

    def concerns(self, first: str, device: str, versions: dict[str, str]) -> bool:
        """Say whether the default network was measured on the backend `first` and that device, by those versions."""
        return (self.first, self.hidden, self.device, self.versions) == (first, HIDDEN, device, versions)

    def at(self, batch: int) -> tuple[float, float]:
        """Microseconds per step of both at the measured batch size that is nearest."""
        i = min(range(len(self.batches)), key=lambda i: abs(self.batches[i] - batch))
        return self.us_first[i], self.us_second[i]


def path(second: str) -> Path:
    """Where the last measurement of that backend is kept."""
    return cache_root() / f"measured-{second.replace(':', '-')}.json"


def write(crossover: Crossover) -> Path:
    """Keep it, in the place of the last one. Raises OSError where the cache cannot be written."""
    target = path(crossover.second)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(asdict(crossover), indent=2) + "\n", encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error  # the other name says nothing to anybody
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def read(second: str) -> Crossover | None:
    """The last measurement of that backend; None where there is none. Raises DataError for a file that is not what
    `write` writes.
    """
    source = path(second)
    try:
        if source.exists() and not source.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        with source.open(encoding="utf-8") as file:
            content = json.loads(file.read(2**16))
        found = _checked(content)
        if found.second != second:
            raise ValueError(f"it is of {found.second!r:.40}")
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{source}: no measurement of nnbackend ({type(error).__name__}: {error})") from error


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
