"""Training by numerical differentiation alone, and what backpropagation saves.

Noughts and crosses: made images of 16 x 16 pixels, a ring or a diagonal cross drawn in ones, with Gaussian noise of
standard deviation 1.2 on every pixel, so that single pixels tell little. A 256-64-2 network (sigmoid, softmax with
cross entropy, float64) is trained on 300 of them with learning rate 0.1 in 15 steps of 100: test accuracy goes from
0.50 to 0.96. The gradient is taken in three ways:

    net.gradient              backpropagation
    net.numerical_gradient    central differences, many perturbations in one batch
    nn.numerical_gradient     central differences one number at a time, two forward passes each, as in Deep Learning
                              from Scratch (section 4.4): the "unbearably slow" way. Timed on W2 and scaled to all
                              parameters; --plain times all of them

All three agree; only the time differs.

    python examples/numerical_training.py    about 5 seconds on a CPU; draws numerical_training.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

NOISE, LR = 1.2, 0.1
TRAINING, TESTING, BATCH = 300, 1000, 100


def noughts_and_crosses(
    n: int, generator: np.random.Generator, side: int = 16, noise: float = NOISE
) -> tuple[np.ndarray, np.ndarray]:
    """n images in rows, (n, side * side), and their labels, 0 for a ring and 1 for a cross, in turn: (n,)."""
    r, c = np.abs(np.mgrid[:side, :side] - (side - 1) / 2) / side  # distances from the middle, in images
    ring = np.abs(np.hypot(r, c) - 0.31) < 1 / 16
    cross = (np.abs(r - c) < 1.5 / 16) & (np.maximum(r, c) < 0.38)
    t = np.arange(n) % 2
    x = np.stack([ring, cross])[t] + noise * generator.standard_normal((n, side, side))
    return x.reshape(n, -1), t


@dataclass
class Record:
    """Test accuracy before the first and after every step, of both networks; seconds of every gradient."""

    accuracy: dict[str, list[float]] = field(default_factory=lambda: {"numerical": [], "backpropagation": []})
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"numerical": [], "backpropagation": []})
    difference: float = 0.0  # the largest between the two gradients, of any parameter in any step


def train(steps: int, side: int = 16, hidden: int = 64) -> tuple[Record, nn.TwoLayerNet, tuple[Any, Any]]:
    """Two equal networks, one trained by each kind of gradient on the same batches; returns what happened, the one
    trained by differences, and the last batch.
    """
    generator = np.random.default_rng(0)
    x, t = place(*noughts_and_crosses(TRAINING, generator, side))
    test = place(*noughts_and_crosses(TESTING, generator, side))
    nets = {kind: nn.TwoLayerNet(side**2, hidden, 2, 0.1, seed=0, dtype="float64") for kind in Record().accuracy}
    xp, record = nn.backend().xp, Record()

    def note_accuracy() -> None:
        for kind, net in nets.items():
            record.accuracy[kind].append(net.accuracy(*test))

    note_accuracy()
    for rows in batches(steps, generator):
        batch = xp.take(x, rows, axis=0), xp.take(t, rows, axis=0)
        slow, seconds = timed(nets["numerical"].numerical_gradient, *batch)
        record.seconds["numerical"].append(seconds)
        fast, seconds = timed(nets["backpropagation"].gradient, *batch)
        record.seconds["backpropagation"].append(seconds)
        record.difference = max(record.difference, *(float(xp.max(xp.abs(slow[name] - fast[name]))) for name in fast))
        for net, gradient in zip(nets.values(), (slow, fast), strict=True):
            for name, value in net.params.items():
                net.params[name] = value - LR * gradient[name]
        note_accuracy()
    return record, nets["numerical"], batch


def plain_seconds(net: nn.Network, x: Any, t: Any, every: bool) -> float:
    """The time of one gradient by differences, one number after the other: for W2 and scaled up, or for all."""
    names = list(net.params) if every else ["W2"]
    count = sum(np.prod(net.params[name].shape) for name in names)
    _, seconds = timed(lambda: [nn.numerical_gradient(lambda _: net.loss(x, t), net.params[name]) for name in names])
    return seconds / float(count) * net.buffer.data.shape[0]


def place(x: np.ndarray, t: np.ndarray) -> tuple[Any, Any]:
    return nn.backend().asarray(x, "float64"), nn.backend().asarray(t, "int64")


def batches(steps: int, generator: np.random.Generator) -> Iterator[Any]:
    """The row numbers of each step: all rows in a new order, as often as it takes."""
    per_epoch = TRAINING // BATCH
    for step in range(steps):
        if step % per_epoch == 0:
            order = nn.backend().asarray(generator.permutation(TRAINING), "int64")
        first = step % per_epoch * BATCH
        yield order[first : first + BATCH]


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    nn.backend().synchronize()
    began = time.perf_counter()
    result = function(*arguments)
    nn.backend().synchronize()
    return result, time.perf_counter() - began


def draw(record: Record, times: dict[str, float], side: int, path: Path) -> None:
    figure = Figure(figsize=(13.6, 4.1), dpi=140, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    images, axes, clock = figure.subplots(1, 3, width_ratios=(1.15, 1.1, 1.25))
    draw_images(images, side)

    steps = range(len(record.accuracy["numerical"]))
    axes.plot(steps, record.accuracy["backpropagation"], color=COLORS[0], linewidth=5, alpha=0.3)
    axes.plot(steps, record.accuracy["numerical"], "o-", color=COLORS[1], linewidth=1.5, markersize=4)
    final = record.accuracy["numerical"][-1]
    style = {"textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 10, "color": INK}
    axes.annotate(f"{final:.2f}", (steps[-1], final), (0, -9), **style)
    axes.legend(["backpropagation", "numerical differentiation"], fontsize=9, frameon=False, labelcolor=INK)
    axes.set_ylim(0.45, 1.02)
    tidy(axes, "Test accuracy", "step")

    draw_times(clock, times)
    figure.savefig(path)


def draw_images(axes: Axes, side: int) -> None:
    """A ring and a cross: without noise, then twice as the network sees them, side by side with a gap of one pixel."""
    mosaic = np.full((2 * side + 1, 3 * side + 2), np.nan)
    for column, noise in enumerate((0.0, NOISE, NOISE)):
        x, _ = noughts_and_crosses(2, np.random.default_rng(column), side, noise)
        for row in range(2):
            top, left = row * (side + 1), column * (side + 1)
            mosaic[top : top + side, left : left + side] = x[row].reshape(side, side)
    axes.imshow(mosaic, cmap="Greys", vmin=-1.5, vmax=2.2)
    tidy(axes, "Noughts and crosses, clean and noisy")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_times(axes: Axes, times: dict[str, float]) -> None:
    base = next(iter(times.values()))
    axes.barh(range(len(times)), list(times.values()), color=COLORS[: len(times)], height=0.42)
    style = {"xycoords": ("axes fraction", "data"), "fontsize": 10}
    for i, (name, seconds) in enumerate(times.items()):
        ratio = "" if i == 0 else f", {seconds / base:,.0f} times as long"
        axes.annotate(name, (0, i - 0.27), color=INK, va="bottom", **style)
        axes.annotate(f"{in_words(seconds)}{ratio}", (0.015, i), color="white", va="center", **style)
    axes.set(xscale="log", yticks=[], ylim=(len(times) - 0.65, -0.65))
    axes.set_xlim(base / 100, max(times.values()) * 2)
    tidy(axes, "Time of one gradient", "seconds (each line ten times the last)")
    axes.tick_params(which="minor", length=0)
    axes.grid(visible=False, axis="y")


def in_words(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=positive, default=15, help="steps of training (15)")
    parser.add_argument("--side", type=positive, default=16, help="height and width of the images (16)")
    parser.add_argument("--hidden", type=positive, default=64, help="hidden units (64)")
    parser.add_argument("--plain", action="store_true", help="time the slow way on all parameters, not on W2 alone")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    record, net, batch = train(options.steps, options.side, options.hidden)
    accuracy = record.accuracy["numerical"]
    print(f"test accuracy {accuracy[0]:.3f} before, {accuracy[-1]:.3f} after {options.steps} steps by differences")
    print(f"the same steps by backpropagation: {record.accuracy['backpropagation'][-1]:.3f}")
    print(f"the largest difference between the two gradients, over all steps: {record.difference:.1e}")
    times = {
        "backpropagation": median(record.seconds["backpropagation"]),
        "differences, many in one batch": median(record.seconds["numerical"]),
        "differences, one number at a time": plain_seconds(net, *batch, options.plain),
    }
    for name, seconds in times.items():
        print(f"{name}: {in_words(seconds)}, {seconds / times['backpropagation']:,.0f} times backpropagation")
    path = options.out / "numerical_training.png"
    draw(record, times, options.side, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
