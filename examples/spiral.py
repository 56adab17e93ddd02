"""Spirals: a network of ten sigmoids learns to tell arms apart that no straight line can separate.

The experiment of Deep Learning from Scratch 2 (section 1.4): a 2-10-classes network, sigmoid, softmax with cross
entropy, weights 0.01 randn, biases zero, batches of 30, SGD with learning rate 1.0.

    3 classes of 100 points, 300 epochs: the loss goes to 0.10, as in the book.
    5 classes of 50 points, 600 epochs: the loss goes to 0.3.

The five arms are spaced evenly and learn more easily than three (100 points each: 0.18), so they get fewer points.

    python examples/spiral.py    about 2 seconds on a CPU; draws spiral.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

STORIES = ((3, 100, (20, 100, 300)), (5, 50, (100, 300, 600)))  # classes, points of each, epochs to look at
SIDE = np.linspace(-1.15, 1.15, 241)
PALETTE = np.array([to_rgb(color) for color in COLORS])


def learn(classes: int, points: int, looks: Sequence[int]) -> tuple[nn.History, list[np.ndarray]]:
    """Train until the last of the epochs `looks`; returns the history and, for each of them, the probabilities of
    the classes over the square that is drawn, (side * side, classes).
    """
    x, t = nn.datasets.spiral(classes, points, seed=0)
    net = nn.Network([nn.Affine(2, 10, weight=0.01), nn.Sigmoid(), nn.Affine(10, classes, weight=0.01)], seed=0)
    trainer = nn.Trainer(net, nn.SGD(lr=1.0), batch_size=30, seed=0)
    grid = np.stack(np.meshgrid(SIDE, SIDE), axis=-1).reshape(-1, 2)
    views = []
    for epoch in looks:
        trainer.fit(x, t, epochs=epoch - trainer.epoch)
        views.append(nn.to_numpy(net.predict_proba(grid)))
    print(
        f"{classes} classes: loss {trainer.history.loss[-1]:.3f} in epoch {looks[-1]}, {net.accuracy(x, t):.1%} right"
    )
    return trainer.history, views


def draw_points(axes: Axes, classes: int, points: int) -> None:
    x, t = (nn.to_numpy(a) for a in nn.datasets.spiral(classes, points, seed=0))
    axes.scatter(*x.T, s=11, c=PALETTE[t], edgecolors="white", linewidths=0.4, zorder=3)
    axes.set(xlim=(SIDE[0], SIDE[-1]), ylim=(SIDE[0], SIDE[-1]), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))


def draw_regions(axes: Axes, probabilities: np.ndarray) -> None:
    """Every place in the mixture of the classes' colours that the network gives it, with the borders between them."""
    classes = probabilities.shape[1]
    mixed = 1 - 0.45 * (1 - probabilities @ PALETTE[:classes])
    extent = (SIDE[0], SIDE[-1], SIDE[0], SIDE[-1])
    axes.imshow(mixed.reshape(SIDE.size, SIDE.size, 3), origin="lower", extent=extent, interpolation="bilinear")
    for k in range(classes):
        others = np.delete(probabilities, k, axis=1).max(axis=1)
        ahead = (probabilities[:, k] - others).reshape(SIDE.size, SIDE.size)
        if ahead.min() < 0 < ahead.max():
            axes.contour(SIDE, SIDE, ahead, levels=[0], colors="white", linewidths=0.8)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shorten", type=positive, default=1, metavar="N", help="train 1/N of the epochs (1)")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    figure = Figure(figsize=(15.4, 6.4), dpi=130, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    for row, (classes, points, epochs) in zip(figure.subplots(2, 5), STORIES, strict=True):
        looks = [max(i + 1, epoch // options.shorten) for i, epoch in enumerate(epochs)]
        history, views = learn(classes, points, looks)
        draw_points(row[0], classes, points)
        tidy(row[0], f"{classes} classes, {points} points each")
        for axes, epoch, view in zip(row[1:4], looks, views, strict=True):
            draw_regions(axes, view)
            draw_points(axes, classes, points)
            tidy(axes, f"epoch {epoch}: loss {history.loss[epoch - 1]:.2f}")
            axes.grid(visible=False)
        row[4].plot(range(1, len(history) + 1), history.loss, color=INK, linewidth=1.6)
        row[4].plot(looks, [history.loss[epoch - 1] for epoch in looks], "o", color=COLORS[1], zorder=3)
        row[4].set_ylim(bottom=0)
        tidy(row[4], "Loss", "epoch", "mean cross entropy")
    path = options.out / "spiral.png"
    figure.savefig(path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
