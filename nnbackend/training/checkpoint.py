"""Checkpoints: where a training run is kept in a file, and how often."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from nnbackend import serialization
from nnbackend.checks import positive_integer
from nnbackend.errors import CheckpointError
from nnbackend.training.checkpoint_file import CheckpointFile

FILE_NAME = "checkpoint.safetensors"  # in a folder
UNITS = {"s": "seconds", "step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs"}


@dataclass(frozen=True)
class Checkpoint:
    """Says where a Trainer writes checkpoints, and when: periodically, at an interrupt, and at the end of a fit.

    path: a file, or an existing folder, in which the file is `checkpoint.safetensors`.
    every: "30s", "500steps" or "2epochs".
    keep: how many checkpoints are kept: the newest at `path`, older ones at `path`.1, `path`.2, ...
    on_error: if a periodic checkpoint cannot be written (a full disk), "warn" and go on, or "stop" with a
    CheckpointError. The checkpoint before it stays in either case. At an interrupt and at the end it is always an
    error.

    Raises ValueError for an `every` that does not have this form, a keep that is not a positive integer, or another
    on_error.
    """

    path: str | os.PathLike[str]
    every: str = "1epochs"
    keep: int = 1
    on_error: str = "warn"

    def __post_init__(self) -> None:
        path = Path(self.path)
        with suppress(OSError, ValueError):  # a name that no file can have is reported when the file is written
            path = Path(os.path.realpath(path))  # one file has one name, and one lock
            path = path / FILE_NAME if path.is_dir() else path
        object.__setattr__(self, "path", path)
        period(self.every)
        positive_integer("keep", self.keep)
        if self.on_error not in ("warn", "stop"):
            raise ValueError(f'on_error must be "warn" or "stop", got {self.on_error!r}')

    @property
    def file(self) -> Path:
        """Return the path of the newest checkpoint."""
        return Path(self.path)


def period(text: str) -> tuple[int, str]:
    """Return the number and the unit of a period: "30s" gives 30, "seconds"; likewise "500steps" and "2epochs".

    Raises ValueError for any other text.
    """
    match = re.fullmatch(r"([0-9]{1,9}) ?([a-z]*)", text) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0 or match[2] not in UNITS:
        raise ValueError(
            f'every: expected a positive integer with its unit, as in "30s", "500steps" or "2epochs", got {text!r}'
        )
    return int(match[1]), UNITS[match[2]]


class Keeper:
    """Writes the checkpoints of one fit.

    content: returns what to write; its argument says whether a callback has ended the fit.
    """

    def __init__(self, checkpoint: Checkpoint, file: CheckpointFile, content: Callable[[bool], serialization.Content]):
        self._checkpoint, self._file, self._content = checkpoint, file, content
        self._every, self._unit = period(checkpoint.every)
        self._count, self._time = 0, time.monotonic()

    def claim(self, stack: ExitStack) -> None:
        """Keep all other processes from writing the file until the stack is closed.

        Raises CheckpointError if another process writes the file, or if it holds the checkpoint of another run.
        """
        _, description = self._content(False)
        serialization.through_json(description)  # a description that cannot be written fails before the first step
        stack.enter_context(self._file.held())

    def elapsed(self) -> bool:
        """Say whether it is time for a checkpoint, if they are written every so many seconds."""
        return self._unit == "seconds" and time.monotonic() - self._time >= self._every

    def after(self, unit: str, elapsed: bool) -> bool:
        """Count one of the "steps" or "epochs", and say whether a checkpoint is due. elapsed: that of all processes."""
        self._count += unit == self._unit
        return elapsed or (self._unit != "seconds" and self._count >= self._every)

    def begin_period(self) -> None:
        """Wait for the next checkpoint from now on."""
        self._count, self._time = 0, time.monotonic()

    def write(self, *, last: bool = False, stopped: bool = False) -> None:
        """Write a checkpoint. last: whether the fit ends here. stopped: whether a callback has ended it."""
        path = self._file.path
        try:
            self._file.write(*self._content(stopped), keep=self._checkpoint.keep)
        except (OSError, MemoryError) as error:
            there = "; the one before is still there" if path.exists() else ""
            problem = f"cannot write the checkpoint {path}: {error}{there}"
            if last or self._checkpoint.on_error == "stop":
                raise CheckpointError(problem) from error
            warnings.warn(f"{problem}, training goes on", stacklevel=2)
