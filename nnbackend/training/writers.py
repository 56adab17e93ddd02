"""Callbacks that write the history of a run for other programs: a table, and the files of TensorBoard."""

from __future__ import annotations

import importlib.util
import math
import os
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnbackend.backends import to_numpy
from nnbackend.training.trainer import Trainer

RECORDED = ("loss", "accuracy", "val_loss", "val_accuracy", "samples_per_second")  # of the history, for TensorBoard


@dataclass
class CSVLogger:
    """Writes `trainer.history` to a CSV file after every epoch; see `History.to_csv`.

    path: the file. If several processes train, that of rank 0 writes. Raises FileNotFoundError if there is no such
    folder, and OSError if the file cannot be written.
    """

    path: str | os.PathLike[str]

    def __post_init__(self) -> None:
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{os.fspath(self.path)}: there is no folder {folder}")

    def __call__(self, trainer: Trainer) -> None:
        if trainer.communicator.is_root:
            trainer.history.to_csv(self.path)


@dataclass
class TensorBoard:
    """Writes a run for TensorBoard after every epoch: the loss of each step, and the values of the history.

    folder: of the run. All of it is drawn over the number of updates. A run that is resumed goes on in the same folder,
    and TensorBoard leaves out what a part that was lost had written. If several processes train, that of rank 0 writes.
    Raises ImportError, with the pip line, if tensorboardX is not installed.
    """

    folder: str | os.PathLike[str]

    def __post_init__(self) -> None:
        if importlib.util.find_spec("tensorboardX") is None:
            raise ImportError('TensorBoard needs tensorboardX: pip install "nnbackend[tensorboard]"')
        self._writer: Any = None
        self._trainer: Trainer | None = None

    def __call__(self, trainer: Trainer) -> None:
        if not trainer.communicator.is_root:
            return
        steps, history = trainer.state.optimizer["t"], trainer.history
        losses = to_numpy(trainer.state.metrics)[0]  # of the epoch that has ended
        losses = [float(loss) for loss in losses if math.isfinite(loss)]  # a step that was skipped is no update
        first = steps - len(losses) + 1
        if trainer is not self._trainer:
            self.close()
            self._trainer, self._writer = trainer, _Events(self.folder, first)
        for i, loss in enumerate(losses):
            self._writer.add(first + i, {"loss/step": loss})
        lists = {_tag(name): history.values(name) for name in RECORDED}
        lists |= {f"metrics/{name}": values for name, values in history.metrics.items()}
        last = {tag: values[-1] for tag, values in lists.items() if values}
        self._writer.add(steps, last | {"learning_rate": trainer.optimizer.next_rate(trainer.state.optimizer)})
        self._writer.flush()

    def close(self) -> None:
        """Close the file. The next epoch would begin another one."""
        if self._writer is not None:
            self._writer.close()
        self._writer = self._trainer = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the open file."""
        return vars(self) | {"_writer": None, "_trainer": None}


class _Events:
    """Writes an event file, with what tensorboardX has for it: its SummaryWriter writes in a thread and loses the end.

    first: the number of the update with which the file begins. TensorBoard leaves out what older files have from there.
    """

    def __init__(self, folder: str | os.PathLike[str], first: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        Path(folder).mkdir(parents=True, exist_ok=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        # the name has the second of its making; the suffix tells files of one second apart
        self._file = EventsWriter(os.path.join(folder, "events"), f".{first:012d}")  # noqa: PTH118
        self.close = weakref.finalize(self, self._file.close)  # at the latest when nobody holds this object
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.write_event(self._event(wall_time=time.time(), step=first, session_log=start))

    def add(self, step: int, values: dict[str, float]) -> None:
        parts = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=parts)))

    def flush(self) -> None:
        self._file.flush()


def _tag(name: str) -> str:
    """Return the name under which TensorBoard draws a list of the history: training and validation side by side."""
    if name in ("loss", "accuracy"):
        return f"{name}/training"
    return f"{name.removeprefix('val_')}/validation" if name.startswith("val_") else name
