"""Evaluation of a network: loss and accuracy, and for a classifier the mistakes by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.functions.array import Array, pieces
from nnbackend.markup import table
from nnbackend.network import ROWS_AT_ONCE, Network, check_network

HostArray = np.ndarray[Any, Any]
CLASSES_SHOWN = 20  # a larger confusion matrix does not fit on a screen


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Holds the result of `evaluate`, on the host. `print(evaluation)` shows it as a table.

    loss: the mean loss, as Network.loss gives it. accuracy: the fraction of correct rows, or None for regression.
    losses: (n,), the loss of every row. predicted, truth: (n,), the predicted and the true class of every row.
    With a time axis every position is a row here, and those that the loss leaves out are left out. places: (n, 2), the
    row and the position of each; None if every row is one.
    confusion: (classes, classes), the number of rows of class i (row) that were taken for class j (column).
    predicted, truth, confusion and the scores by class are None if a row does not belong to exactly one class
    (regression, several labels a row).
    """

    loss: float
    accuracy: float | None
    losses: HostArray
    predicted: HostArray | None = None
    truth: HostArray | None = None
    confusion: HostArray | None = None
    places: HostArray | None = None

    @property
    def most_wrong(self) -> HostArray:
        """Return the row numbers of the mistakes, largest loss first; of all rows if there are no classes."""
        order = np.argsort(-self.losses, kind="stable")
        return order if self.predicted is None else order[(self.predicted != self.truth)[order]]

    @property
    def precision(self) -> HostArray | None:
        """Return, for each class, the fraction of the rows taken for it that belong to it: (classes,); 0 if none."""
        return None if self.confusion is None else _scores(self.confusion)[0]

    @property
    def recall(self) -> HostArray | None:
        """Return, for each class, the fraction of its rows that were taken for it: (classes,); 0 if it has none."""
        return None if self.confusion is None else _scores(self.confusion)[1]

    @property
    def f1(self) -> HostArray | None:
        """Return, for each class, the harmonic mean of precision and recall: (classes,); 0 if both are 0."""
        return None if self.confusion is None else _scores(self.confusion)[2]

    @property
    def _unit(self) -> str:
        return "rows" if self.places is None or not self.places[:, 1].any() else "positions"

    def _repr_html_(self) -> str:
        parts = [f"<p>{str(self).partition(chr(10))[0]}</p>"]
        if self.confusion is not None:
            columns = [*_scores(self.confusion).tolist(), self.confusion.sum(axis=1).tolist()]
            scores = (
                [i, f"{p:.3f}", f"{r:.3f}", f"{f:.3f}", n] for i, (p, r, f, n) in enumerate(zip(*columns, strict=True))
            )
            parts.append(table(["class", "precision", "recall", "f1", self._unit], scores))
            if len(self.confusion) <= CLASSES_SHOWN:
                head = ["truth", *range(len(self.confusion))]
                rows = ([i, *row] for i, row in enumerate(self.confusion.tolist()))
                parts.append(table(head, rows, "rows: the truth; columns: what it was taken for"))
        return "".join(parts)

    def __str__(self) -> str:
        n = len(self.losses)
        lines = [f"loss {self.loss:.4f}"]
        if self.accuracy is not None:
            lines[0] += f", accuracy {100 * self.accuracy:.2f} % ({round(n * self.accuracy)} of {n} {self._unit})"
        if self.confusion is not None:
            columns = _scores(self.confusion).T
            rows = [
                *zip(range(n), columns, self.confusion.sum(axis=1), strict=False),
                ("mean", columns.mean(axis=0), n),
            ]
            wide = max(6, len(self._unit))
            lines += ["", f"class  precision  recall     f1  {self._unit:>{wide}}"]
            lines += [f"{name:>5}  {p:9.3f}  {r:6.3f}  {f:5.3f}  {count:{wide}d}" for name, (p, r, f), count in rows]
            if len(self.confusion) <= CLASSES_SHOWN:
                width = max(4, len(str(self.confusion.max())) + 1)
                header = "".join(f"{j:>{width}}" for j in range(len(self.confusion)))
                lines += ["", "rows: the truth; columns: what it was taken for", " " * 5 + header]
                lines += [
                    f"{i:>5}" + "".join(f"{count or '.':>{width}}" for count in row.tolist())
                    for i, row in enumerate(self.confusion)
                ]
        return "\n".join(lines)


def evaluate(network: Network, x: Any, t: Any) -> Evaluation:
    """Evaluate a network in inference mode; return an Evaluation.

    x: rows, (n, ...). t: targets, as the network's loss takes them. The rows go through the network in pieces. The
    number of reads from the device does not depend on n.
    Raises TypeError for a network that is none, and ValueError for data that does not fit it.
    """
    check_network("network", network)
    x, t = network.data(x, t)
    with network.backend.active():
        return _evaluate(network, x, t)


def _evaluate(network: Network, x: Array, t: Array) -> Evaluation:
    end, xp = network.loss_layer, network.backend.xp
    correct: Array | int = 0
    losses, classes, width = [], [], 0
    for piece in pieces(x.shape[0], ROWS_AT_ONCE):
        y, targets = end.positions(network.forward(x[piece, ...]), t[piece, ...])
        losses.append(end.rows(y, targets))
        labels = end.classes(y, targets)
        if labels is not None:
            classes.append(xp.stack(labels))
            width = y.shape[1]
            if width == 1:  # one column stands for two classes (sigmoid) or for one (softmax)
                yes: Any = end.classes(xp.ones_like(y[:1, ...]), targets[:1, ...])
                width = 1 + int(yes[0][0])
        elif end.classifies:
            correct = correct + end.count_correct(y, targets)
    on_host = to_numpy(xp.concat(losses)).astype(np.float64)
    mask, per_row = end.is_counted(t), len(on_host) // x.shape[0]
    total = per_row * float(end.total(t))
    loss = float(on_host.sum()) / total if total else 0.0
    if not classes:
        return Evaluation(loss, float(correct) / len(on_host) if end.classifies else None, on_host)
    predicted, truth = to_numpy(xp.concat(classes, axis=1))
    places = np.stack(np.divmod(np.arange(len(on_host)), per_row), axis=1)
    if mask is not None:
        kept = to_numpy(mask).reshape(-1)
        on_host, predicted, truth, places = on_host[kept], predicted[kept], truth[kept], places[kept]
    counts = np.bincount(width * truth + predicted, minlength=width * width)
    accuracy = float(np.mean(predicted == truth)) if len(truth) else 0.0
    confusion = counts.reshape(width, width)
    return Evaluation(
        loss, accuracy, on_host, predicted, truth, confusion, places if per_row > 1 or mask is not None else None
    )


def _scores(confusion: HostArray) -> HostArray:
    """Return precision, recall and F1 by class: (3, classes)."""
    right, taken, rows = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    parts, wholes = np.stack([right, right, 2 * right]), np.stack([taken, rows, taken + rows])
    scores: HostArray = np.divide(parts, wholes, out=np.zeros(parts.shape), where=wholes > 0)
    return scores
