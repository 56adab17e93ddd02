"""Leaky ReLU and Adam on MNIST: the published run of such a network reached 89 % after 10 passes over the data.

A 784-256-10 network, Leaky ReLU (slope 0.01), softmax with cross entropy, Adam (learning rate 0.001), batches of 50.
The data are the full MNIST where it has been downloaded (`--data full` fetches it), else the embedded sample of 10,000
training and 2,000 test images.

    python examples/leaky_relu_adam_mnist.py    some seconds on a CPU; draws leaky_relu_adam_mnist.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

PUBLISHED = 0.89  # after ten passes


def train(data: nn.datasets.Dataset, epochs: int) -> nn.History:
    """Train for `epochs` passes, printing the accuracies after each."""
    features, hidden, classes = data.x_train.shape[1], 256, 10
    net = nn.Network([nn.Affine(features, hidden), nn.LeakyReLU(), nn.Affine(hidden, classes)], seed=0)
    trainer = nn.Trainer(net, nn.Adam(lr=0.001), batch_size=50, seed=0)
    for epoch in range(1, epochs + 1):
        history = trainer.fit(data.x_train, data.t_train, validation=(data.x_test, data.t_test))
        trained, tested = history.accuracy[-1], history.val_accuracy[-1]
        print(f"pass {epoch:2}: {trained:.1%} of the training images, {tested:.1%} of the test images")
    return trainer.history


def draw(history: nn.History, source: str, path: Path) -> None:
    epochs = range(1, len(history) + 1)
    figure = Figure(figsize=(6.8, 4.3), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = figure.subplots()
    axes.axhline(100 * PUBLISHED, color="#B0B0B0", linewidth=1, linestyle="--")
    text = f"published, after 10 passes: {PUBLISHED:.0%}"
    at, place = (len(history), 100 * PUBLISHED), {"textcoords": "offset points", "ha": "right", "va": "top"}
    axes.annotate(text, at, (0, -5), fontsize=9, color=INK, **place)
    for name, values, color, style in (
        ("training images", history.accuracy, COLORS[0], "o-"),
        ("test images", history.val_accuracy, COLORS[1], "s--"),
    ):
        percent = [100 * value for value in values]
        label = f"{name}, {percent[-1]:.1f} % at the end"
        axes.plot(epochs, percent, style, color=color, linewidth=1.8, markersize=4.5, label=label)
    axes.set_ylim(top=100.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes, f"Leaky ReLU and Adam on MNIST ({source})", "pass over the data", "right answers (%)")
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, loc="lower right")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=10, help="passes over the data (10)")
    parser.add_argument("--data", default="auto", help="auto, sample, full, or a folder of IDX files (auto)")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    data = nn.datasets.mnist(options.data)
    history = train(data, options.epochs)
    passes, reached = len(history), history.val_accuracy[-1]
    difference = 100 * (reached - PUBLISHED)
    print(f"{reached:.1%} of the test images after {passes} passes: {difference:+.1f} points from {PUBLISHED:.0%}")
    path = options.out / "leaky_relu_adam_mnist.png"
    draw(history, "the embedded sample" if data.source == "sample" else data.source, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
