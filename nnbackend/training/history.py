"""Record a training run: lists with one entry per epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any


@dataclass
class History:
    """Holds lists with one entry per epoch.

    loss, accuracy: the means over the batches of the epoch, each as it was trained. val_loss, val_accuracy: those of
    the validation data after the epoch. seconds: the time that training and validation took. samples_per_second: the
    training rows per second. skipped: the steps that were left out, if the trainer's on_fault is "skip".
    metrics: for each of the metrics that `fit` was given, by its name, its values on the validation data.

    Accuracies are fractions. A list that does not apply (no validation data, no classes) stays empty. interrupted:
    whether Ctrl-C came during the last `fit`.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples_per_second: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.loss)

    def __str__(self) -> str:
        head, rows = self._table()
        widths = [max(9, len(name)) for name in head]
        return "\n".join("  ".join(map(str.rjust, row, widths)) for row in [head, *rows]) if rows else "no epochs yet"

    def _repr_html_(self) -> str:
        from nnbackend.markup import table
        from nnbackend.plotting import history_picture

        head, rows = self._table()
        return history_picture(self) + table(head, rows) if rows else "<p>no epochs yet</p>"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Return the names of the lists with an entry for every epoch, and a row of text for each epoch."""
        lists = {name: values for name, values in vars(self).items() if isinstance(values, list)} | self.metrics
        columns = {name: values for name, values in lists.items() if values and len(values) == len(self)}
        rows = [[str(i + 1), *(f"{values[i]:.5g}" for values in columns.values())] for i in range(len(self))]
        return ["epoch", *(name.replace("_", " ") for name in columns)], rows

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any], epochs: int) -> History:
        """Return the history that `as_dict` has returned. Raise ValueError if it is not one of so many epochs."""
        history = cls(**record)
        if len(history) != epochs:
            raise ValueError(f"its history has {len(history)} epochs, and the run has {epochs}")
        for name, values in [*vars(history).items(), *history.metrics.items()]:
            if name not in ("interrupted", "metrics") and not (
                isinstance(values, list) and len(values) <= epochs and all(isinstance(v, int | float) for v in values)
            ):
                raise ValueError(f"its history of {name} is {values!r:.50}")
        return history

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the record to a CSV file: a line with the names, and a line for each epoch.

        A list that does not reach back to the first epoch, because there was no validation data then, has empty cells
        at its beginning. Raises OSError if the file cannot be written; one that was there before is then unchanged.
        """
        import csv
        import io

        from nnbackend.files import write_atomically

        lists = {name: values for name, values in vars(self).items() if isinstance(values, list)} | self.metrics
        columns = {name: [""] * (len(self) - len(values)) + values for name, values in lists.items() if values}
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["epoch", *columns])
        rows.writerows(zip(range(1, len(self) + 1), *columns.values(), strict=True))
        write_atomically(path, text.getvalue().encode())

    def values(self, name: str) -> list[float]:
        """Return the list of that name, such as "val_loss", or that of a metric. It is empty if there is none."""
        found = self.metrics.get(name, getattr(self, name, None))
        return found if isinstance(found, list) else []

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Draw loss and accuracy by epoch. Return the matplotlib figure, and write it to `path` if one is given.

        Raises ImportError, with the pip line, if matplotlib is missing, and ValueError if no epoch is recorded.
        """
        from nnbackend.plotting import plot_history

        return plot_history(self, path)
