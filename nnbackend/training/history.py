"""What a training run has recorded: lists with one entry per epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any


@dataclass
class History:
    """Per epoch: mean training loss and accuracy over its batches as they were trained, the same on the validation
    data after it, its duration (training and validation) in seconds, training samples per second, and the steps that
    were left out (where the trainer's on_fault is "skip").

    Accuracies are fractions. Lists that do not apply (no validation, no classes) stay empty. `interrupted` says that
    Ctrl-C came during the last `fit`.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples_per_second: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.loss)

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON knows it."""
        return asdict(self)

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Draw loss and accuracy by epoch; returns the matplotlib figure, and writes it to `path` where given.

        Raises ImportError with the pip line where matplotlib is missing, ValueError where no epoch is recorded.
        """
        from nnbackend.plotting import plot_history

        return plot_history(self, path)
