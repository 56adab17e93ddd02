"""XOR: what no single neuron can do, and four hidden ones can.

A 2-4-2 network of sigmoids with softmax and cross entropy learns exclusive or in 60,000 steps of plain gradient
descent (learning rate 0.01, all four rows in every step, the loss their mean). Its initial values come from NumPy's
legacy generator with seed 42, in the order W1, b1, W2, b2: weights uniform on [0, 1), biases normal. With them the
parameters end, to all eight printed decimals, at

    W1 = [[ 0.69638447  5.57807722  3.73301229  1.27710358]
          [-0.02576369  5.5070093   3.82151436  1.32686045]]
    b1 =  [ 1.46459913 -2.22010371 -5.78779532  0.7035585 ]
    W2 = [[ 1.43463791 -1.06940843] [-5.00845106  5.83744973] [ 5.90110456 -5.1779304 ] [ 0.41666394  0.33468281]]
    b2 =  [ 0.30761498 -2.62794276]

With --stall there are two hidden layers and a tenth of the learning rate: every answer stays near 0.5, and
`nn.diagnose` says so.

    python examples/xor.py            about 5 seconds on a CPU; draws xor.png
    python examples/xor.py --stall    draws xor_stalled.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

SHADES = LinearSegmentedColormap.from_list("answers", ["#9DC6E0", "#FFFFFF", "#F2BE9A"])


@dataclass(frozen=True)
class Drawn(nn.Initializer):
    """Values from a generator of one's own, in the order in which a network asks: layer by layer, W before b."""

    source: Callable[..., Any]

    def draw(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.asarray(self.source(size=shape))


def build(hidden: Sequence[int]) -> nn.Network:
    """A network 2-hidden-...-2 of sigmoids, in float64, with the initial values of the legacy generator."""
    legacy = np.random.RandomState(42)
    uniform, normal = Drawn(legacy.uniform), Drawn(legacy.normal)
    layers: list[nn.Layer] = []
    widths = [2, *hidden, 2]
    for before, after in pairwise(widths):
        layers += [nn.Affine(before, after, weight=uniform, bias=normal), nn.Sigmoid()]
    return nn.Network(layers[:-1], nn.SoftmaxWithLoss(), dtype="float64")  # no sigmoid after the last Affine


def train(steps: int, stall: bool = False) -> tuple[nn.Network, nn.History]:
    """The network after `steps` steps, and its history (an epoch is one step: the batch is all there is)."""
    net = build([4, 4] if stall else [4])
    trainer = nn.Trainer(net, nn.SGD(lr=0.001 if stall else 0.01), batch_size=4)
    return net, trainer.fit(*nn.datasets.xor(dtype="float64"), epochs=steps)


def draw(net: nn.Network, history: nn.History, path: Path) -> None:
    """The loss by step, the answers over the plane of inputs, and where the last hidden layer puts the inputs."""
    x, t = (nn.to_numpy(a) for a in nn.datasets.xor(dtype="float64"))
    hidden = list(net.layers)[-2]
    places = nn.to_numpy(net.activations(x)[hidden])
    W, b = (nn.to_numpy(list(net.params.values())[i]) for i in (-2, -1))

    figure = Figure(figsize=(12.4, 4), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    loss, plane, units = figure.subplots(1, 3)

    loss.axhline(np.log(2), color="#B0B0B0", linewidth=1, linestyle="--")
    loss.text(len(history), np.log(2) + 0.01, "ln 2: knows nothing", ha="right", va="bottom", fontsize=9, color=INK)
    loss.plot(range(1, len(history) + 1), history.loss, color=COLORS[0], linewidth=2)
    loss.set_ylim(0, 1.06 * max(history.loss))
    tidy(loss, f"Loss, {history.loss[-1]:.4f} at the end", "step", "mean cross entropy")

    side = np.linspace(-0.25, 1.25, 121)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    _regions(plane, side, nn.to_numpy(net.predict_proba(grid))[:, 1])
    answers = nn.to_numpy(net.predict_proba(x))[:, 1]
    _points(plane, x, t, [f"{answer:.3f}" for answer in answers])
    tidy(plane, "Probability of 1, over the inputs", "first input", "second input")

    used = np.sort(np.argsort(-np.abs(W[:, 1] - W[:, 0]))[:2])  # the two units that decide most
    side = np.linspace(-0.25, 1.25, 121)
    grid = np.tile(places.mean(axis=0), (side.size**2, 1))  # the others stay at their mean
    grid[:, used] = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    scores = grid @ W + b
    _regions(units, side, 1 / (1 + np.exp(scores[:, 0] - scores[:, 1])))
    _points(units, places[:, used], t, [f"({int(a)}, {int(b)})" for a, b in x])
    tidy(units, "As the hidden layer sees them", f"unit {used[0] + 1}", f"unit {used[1] + 1}")
    plane.grid(visible=False)
    units.grid(visible=False)
    figure.savefig(path)


def _regions(axes: Axes, side: np.ndarray, probability: np.ndarray) -> None:
    """Probabilities over a square as shades, with the line on which they are 1/2."""
    p = probability.reshape(side.size, side.size)
    extent = (side[0], side[-1], side[0], side[-1])
    axes.imshow(p, origin="lower", extent=extent, cmap=SHADES, vmin=0, vmax=1, interpolation="bilinear")
    if p.min() < 0.5 < p.max():
        axes.contour(side, side, p, levels=[0.5], colors=INK, linewidths=1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])


def _points(axes: Axes, places: np.ndarray, t: np.ndarray, labels: list[str]) -> None:
    """The four inputs at their places, coloured by target; those that share a place share a line of text."""
    axes.scatter(*places.T, s=90, c=[COLORS[label] for label in t], edgecolors="white", linewidths=1.5, zorder=3)
    style = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 9, "color": INK, "zorder": 4}
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        group = next((g for g in groups if np.hypot(*(place - places[g[0]])) < 0.15), None)
        groups.append([i]) if group is None else group.append(i)
    for group in groups:
        text = "  ".join(labels[i] for i in group)
        axes.annotate(text, (places[group, 0].mean(), places[group, 1].max()), (0, 7), **style)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=positive, default=60_000, help="steps of gradient descent (60000)")
    parser.add_argument("--stall", action="store_true", help="two hidden layers, a tenth of the learning rate")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    net, history = train(options.steps, options.stall)
    x, t = nn.datasets.xor(dtype="float64")
    with np.printoptions(precision=8, suppress=True):
        for name, value in net.params.items():
            print(f"{name} =\n{nn.to_numpy(value)}")
        print(f"answers =\n{nn.to_numpy(net.predict_proba(x))}")
        for name, value in net.activations(x).items():
            if name.startswith("Sigmoid"):
                print(f"{name} =\n{nn.to_numpy(value)}")
    print(f"after {len(history)} steps: {nn.diagnose(net, x, t)}")
    path = options.out / ("xor_stalled.png" if options.stall else "xor.png")
    draw(net, history, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
