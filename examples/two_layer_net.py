"""The book's TwoLayerNet before any training: what its loss is, and that backpropagation tells the truth.

A 784-50-10 network (Deep Learning from Scratch, section 4.5) is shown 100 rows of uniform random numbers with random
labels. With weights of 0.01 randn it gives every class a probability of about 1/10, so its loss is close to
ln 10 = 2.303. Then the gradient of all 39,760 parameters is taken by backpropagation and by central differences, and
that of W2 also one number at a time, as the book does it.

    python examples/two_layer_net.py    about 2 seconds on a CPU; draws two_layer_net.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

CLASSES = 10
Gradients = dict[str, np.ndarray]


def compare(input_size: int, hidden_size: int, batch: int) -> tuple[float, np.ndarray, Gradients, Gradients]:
    """The loss, the probabilities of all rows, and the gradients by backpropagation and by differences."""
    generator = np.random.default_rng(0)
    x, t = generator.random((batch, input_size)), generator.integers(0, CLASSES, batch)
    net = nn.TwoLayerNet(input_size, hidden_size, CLASSES, seed=0, dtype="float64")
    x, t = nn.backend().asarray(x), nn.backend().asarray(t)
    exact, differences = net.gradient(x, t), net.numerical_gradient(x, t)
    one_by_one = nn.numerical_gradient(lambda _: net.loss(x, t), net.params["W2"])
    to_host = nn.to_numpy
    print(f"W2, one number at a time: {np.max(np.abs(to_host(one_by_one) - to_host(exact['W2']))):.1e} apart")
    return (
        net.loss(x, t),
        to_host(net.predict(x)),
        {name: to_host(value) for name, value in exact.items()},
        {name: to_host(value) for name, value in differences.items()},
    )


def draw(loss: float, probabilities: np.ndarray, exact: Gradients, differences: Gradients, path: Path) -> None:
    figure = Figure(figsize=(13, 4.2), dpi=140, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    answers, both, apart = figure.subplots(1, 3)

    answers.axhline(1 / CLASSES, color="#B0B0B0", linewidth=1, linestyle="--")
    answers.bar(range(CLASSES), probabilities.mean(axis=0), color=COLORS[0], width=0.7)
    answers.set_xticks(range(CLASSES))
    answers.set_ylim(0, 1.6 / CLASSES)
    text = f"loss {loss:.3f}, ln 10 = {math.log(CLASSES):.3f}"
    answers.annotate(text, (0.5, 0.97), xycoords="axes fraction", ha="center", va="top", fontsize=10, color=INK)
    tidy(answers, "What it answers, untrained", "class", "mean probability")

    for color, (name, value) in zip(COLORS, exact.items(), strict=False):
        style = {"s": 6 if value.size > 1000 else 14, "linewidths": 0, "rasterized": True}
        label = f"{name}, {value.size:,} numbers"
        both.scatter(np.abs(value), np.abs(differences[name]), color=color, label=label, **style)
    both.set(xscale="log", yscale="log")
    both.axline((1e-6, 1e-6), (1e-3, 1e-3), color=INK, linewidth=0.6)
    both.legend(fontsize=9, frameon=False, labelcolor=INK, loc="upper left", markerscale=1.5)
    tidy(both, "Every gradient, taken both ways", "by backpropagation (magnitude)", "by central differences")

    names = list(exact)
    gaps = [np.max(np.abs(exact[name] - differences[name])) for name in names]
    sizes = [np.max(np.abs(exact[name])) for name in names]
    apart.bar(names, sizes, color="#D8D8D8", width=0.55, label="largest gradient")
    apart.bar(names, gaps, color=COLORS[: len(names)], width=0.55)
    for i, gap in enumerate(gaps):
        style = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": INK}
        apart.annotate(f"{gap:.0e}", (i, gap), (0, 4), **style)
    apart.set(yscale="log", ylim=(min(gaps) / 30, max(sizes) * 30))
    apart.legend(fontsize=9, frameon=False, labelcolor=INK, loc="upper left")
    tidy(apart, "Largest difference between them")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--input-size", type=positive, default=784, help="inputs (784)")
    parser.add_argument("--hidden-size", type=positive, default=50, help="hidden units (50)")
    parser.add_argument("--batch", type=positive, default=100, help="rows (100)")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    loss, probabilities, exact, differences = compare(options.input_size, options.hidden_size, options.batch)
    print(f"initial loss {loss:.4f}, ln {CLASSES} = {math.log(CLASSES):.4f}")
    for name, value in exact.items():
        gap = np.max(np.abs(value - differences[name]))
        print(f"{name} {value.shape}: largest gradient {np.max(np.abs(value)):.1e}, largest difference {gap:.1e}")
    path = options.out / "two_layer_net.png"
    draw(loss, probabilities, exact, differences, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
