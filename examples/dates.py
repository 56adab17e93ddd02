"""Attention learns to read dates: "TUESDAY, SEPTEMBER 27, 1994" is answered by "1994-09-27".

The task is that of chapter 8 of the book's second volume, the network two blocks of causal attention. A row is a
question, and then its answer; only the characters of the answer count in the loss. After half a minute on a CPU the
network answers nearly all questions that it has not seen. The picture shows where it looks as it writes an answer: at
the year, then at the month, then at the day, wherever in the question they stand. Often that is the sign after a
number, because the first block can gather there what stands before it.

    python examples/dates.py    prints the losses and some answers; draws dates.png
    python examples/dates.py --ask "July 7, 2007" 7/7/07
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.book2.dataset import sequence
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import INK, tidy

BATCH_SIZE = 64
THE_SAME_DATE = ("9/27/94", "Sep 27, 1994", "TUESDAY, SEPTEMBER 27, 1994")
IGNORED = -1


@dataclass
class Task:
    """Holds rows of ids, (n, question + answer): to train with, and held out. An answer begins with "_"."""

    train: np.ndarray
    test: np.ndarray
    question: int  # characters of a question, with the spaces that fill it up

    @classmethod
    def of(cls, rows: int, without: Sequence[str] = ()) -> Task:
        """Take `rows` rows for training, and a fifth of that of other questions. without: questions to leave out."""
        (x_train, t_train), (x_test, t_test) = sequence.load_data("date.txt")
        left_out = {question.ljust(x_train.shape[1]) for question in without}
        new = [i for i, question in enumerate(x_train) if written(question) not in left_out][:rows]
        train = np.concatenate([x_train[new], t_train[new]], axis=1)
        seen = {written(question) for question in x_train[new]}
        others = {written(question): i for i, question in enumerate(x_test)}
        new = [i for question, i in others.items() if question not in seen][: max(1, rows // 5)]
        return cls(train, np.concatenate([x_test[new], t_test[new]], axis=1), x_train.shape[1])

    def targets(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and t, which is the next character at every place that comes in an answer after its "_"."""
        t = rows[:, 1:].copy()
        t[:, : self.question] = IGNORED
        return rows[:, :-1], t

    def asked(self, questions: Sequence[str]) -> np.ndarray:
        """Return rows of questions: ids, (n, question)."""
        numbers, _ = sequence.get_vocab()
        return np.array([[numbers[c] for c in question.ljust(self.question)] for question in questions])


def written(ids: np.ndarray) -> str:
    """Return the characters of a row."""
    _, characters = sequence.get_vocab()
    return "".join(characters[i] for i in ids.tolist())


def network(steps: int, width: int = 48, heads: int = 4) -> nn.Network:
    """Two blocks of attention for rows of at most so many steps."""
    characters = len(sequence.get_vocab()[0])
    layers: list[nn.Layer] = [nn.Embedding(characters, width, weight=0.3)]
    layers += [nn.PositionalEncoding(width, steps, learned=True)]
    for _ in range(2):
        layers += [nn.Residual([nn.LayerNormalization(width), nn.MultiHeadAttention(width, heads, causal=True)])]
    layers += [nn.LayerNormalization(width), nn.Affine(width, characters)]
    return nn.Network(layers, nn.SoftmaxWithLoss(ignore_label=IGNORED), seed=0)


def train(net: nn.Network, task: Task, epochs: int) -> nn.History:
    steps = epochs * math.ceil(len(task.train) / BATCH_SIZE)
    optimizer = nn.Adam(lr=nn.OneCycle(0.005, steps))
    trainer = nn.Trainer(net, optimizer, batch_size=min(BATCH_SIZE, len(task.train)), clip_norm=1.0, seed=0)
    x, t = task.targets(task.train)
    return trainer.fit(x, t, epochs, validation=task.targets(task.test), callbacks=[print_epoch])


def print_epoch(trainer: nn.Trainer) -> None:
    h = trainer.history
    print(f"pass {trainer.epoch}: loss {h.loss[-1]:.4f}; {h.val_accuracy[-1]:.2%} of the characters held out")


def answered(net: nn.Network, task: Task, questions: np.ndarray) -> np.ndarray:
    """Return the rows that the network makes of the questions, of which it writes the likeliest character each time."""
    size = task.train.shape[1]
    start = np.full((len(questions), 1), sequence.get_vocab()[0]["_"])
    rows = np.concatenate([questions, start], axis=1)
    while rows.shape[1] < size:
        likeliest = nn.to_numpy(net.predict(rows))[:, -1].argmax(axis=1)
        rows = np.concatenate([rows, likeliest[:, None]], axis=1)
    return rows


def looks(net: nn.Network, task: Task, row: np.ndarray) -> np.ndarray:
    """Return how much each character of an answer looked at those of the question, (answer, question): the mean of the
    heads of the last block.
    """
    net.predict(row[None, :-1])
    last = [layer for layer in net.every_layer().values() if isinstance(layer, nn.MultiHeadAttention)][-1]
    weights: np.ndarray = nn.to_numpy(last.attention_weights)[0].mean(axis=0)
    return weights[task.question :, : task.question]


def draw(net: nn.Network, task: Task, rows: np.ndarray, path: Path) -> None:
    """Draw a panel for each row: the question from left to right, the answer from top to bottom."""
    questions = [written(row[: task.question]).rstrip() for row in rows]
    widths = [max(len(question), 5) for question in questions]
    figure = Figure(figsize=(2.2 + 0.24 * sum(widths) + 0.3 * len(rows), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, width_ratios=widths)[0]
    weights = [looks(net, task, row)[:, : len(question)] for row, question in zip(rows, questions, strict=True)]
    largest = max(float(weight.max()) for weight in weights)
    for axes, row, question, weight in zip(panels, rows, questions, weights, strict=True):
        image = axes.imshow(weight, cmap="Blues", vmin=0, vmax=largest)
        tidy(axes, "", "question", "answer" if axes is panels[0] else "")
        axes.grid(visible=False)
        axes.set_xticks(range(len(question)), list(question), family="monospace")
        axes.set_yticks(range(len(weight)), list(written(row[task.question + 1 :])), family="monospace")
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=list(panels), aspect=15, pad=0.02)
    bar.set_label("attention, mean of the heads", fontsize=10, color=INK)
    bar.ax.tick_params(labelsize=9, color="#B0B0B0", labelcolor=INK)
    bar.outline.set_visible(False)
    title = "Where the network looks as it writes"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=6, help="passes over the rows (6)")
    parser.add_argument(
        "--rows", type=positive, default=10_000, help="questions to train with, at most 45,000 (10,000)"
    )
    parser.add_argument("--ask", nargs="+", default=THE_SAME_DATE, help="the questions of the picture (a date thrice)")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)
    questions = [question.strip() for question in options.ask]

    task = Task.of(options.rows, without=questions)
    characters, _ = sequence.get_vocab()
    for question in questions:
        if not 0 < len(question) <= task.question or set(question) - set(characters):
            known = "".join(sorted(characters))
            parser.error(f"--ask: expected 1 to {task.question} of the characters {known!r}, got {question!r}")
    print(f"{len(task.train):,} questions to learn, {len(task.test):,} others held out")
    net = network(task.train.shape[1] - 1)
    train(net, task, options.epochs)

    rows = answered(net, task, task.test[:, : task.question])
    right = (rows == task.test).all(axis=1)
    some = [*np.flatnonzero(right)[:5], *np.flatnonzero(~right)[:2]]
    asked = answered(net, task, task.asked(questions))
    print()
    for row, mark in [(rows[i], "" if right[i] else "  (wrong)") for i in some] + [(row, "") for row in asked]:
        print(f"{written(row[: task.question])}  {written(row[task.question + 1 :])}{mark}")
    print(f"\n{right.mean():.2%} of the answers held out are wholly right")
    path = options.out / "dates.png"
    draw(net, task, asked, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
