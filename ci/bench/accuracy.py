"""Measure the test accuracy on MNIST after ten epochs, as the median of three seeds, for the documented networks, and
that of `nnbackend train mnist` with its defaults, in one run.

NNBACKEND_DATA=... python ci/bench/accuracy.py [NAME ...]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import nnbackend as nn
from nnbackend.recipes import TrainSettings, train_data


@dataclass
class Case:
    """Holds a network, the settings of its training, and the accuracy that it must reach."""

    layers: Callable[[], list[nn.Layer]]
    target: float
    batch_size: int = 100
    lr: float = 1e-3
    falling: bool = False  # whether the learning rate falls to 0 along a cosine
    seeds: int = 3


def mlp(*widths: int, activation: Callable[[], nn.Layer], dropout: float = 0.0) -> list[nn.Layer]:
    layers: list[nn.Layer] = []
    for before, width in zip((784, *widths[:-1]), widths, strict=True):
        layers += [nn.Affine(before, width), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return [*layers, nn.Affine(widths[-1], 10)]


def batch_normalized(*widths: int) -> list[nn.Layer]:
    layers: list[nn.Layer] = []
    for before, width in zip((784, *widths[:-1]), widths, strict=True):
        layers += [nn.Affine(before, width), nn.BatchNormalization(width), nn.ReLU()]
    return [*layers, nn.Affine(widths[-1], 10)]


CASES = {
    "784-50-10 sigmoid": Case(lambda: mlp(50, activation=nn.Sigmoid), 0.965, lr=3e-3),
    "784-256-128-10 ReLU": Case(lambda: mlp(256, 128, activation=nn.ReLU), 0.978),
    "784-100-10 Leaky ReLU": Case(lambda: mlp(100, activation=nn.LeakyReLU), 0.973),
    "784-512-256-10 ReLU, dropout 0.2": Case(
        lambda: mlp(512, 256, activation=nn.ReLU, dropout=0.2), 0.984, falling=True
    ),
    "784-512-256-10 batch normalisation": Case(lambda: batch_normalized(512, 256), 0.984, falling=True),
}


DEFAULTS = {  # the settings that are not the default, the accuracy to reach, and the seconds on two cores
    "nnbackend train mnist, sample": (TrainSettings(data="sample"), 0.975, 60),
    "nnbackend train mnist, sample, cnn": (TrainSettings(data="sample", model="cnn"), 0.985, 60),
    "nnbackend train mnist, full": (TrainSettings(data="full"), 0.985, 60),
    "nnbackend train mnist, full, cnn": (TrainSettings(data="full", model="cnn"), 0.994, 600),
}


def main() -> None:
    for name, (settings, target, most) in DEFAULTS.items():
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        run = train_data(settings)
        print(
            f"{name:36} {run.test_accuracy:.2%} (at least {target:.1%}), {run.seconds:.0f} s (at most {most} on two "
            f"cores), {run.settings['epochs']} epochs",
            flush=True,
        )
    data = nn.datasets.mnist()
    rows = data.x_train.shape[0]
    print(f"{data.source}: {rows} training rows; Adam, 10 epochs")
    for name, case in CASES.items():
        if len(sys.argv) > 1 and not any(word in name for word in sys.argv[1:]):
            continue
        accuracies, began = [], time.perf_counter()
        for seed in range(case.seeds):
            lr = nn.Cosine(case.lr, steps=10 * -(-rows // case.batch_size)) if case.falling else case.lr
            net = nn.Network(case.layers(), seed=seed)
            trainer = nn.Trainer(net, nn.Adam(lr=lr), batch_size=case.batch_size, seed=seed)
            trainer.fit(data.x_train, data.t_train, 10)
            accuracies.append(net.accuracy(data.x_test, data.t_test))
        listed = " ".join(f"{a:.2%}" for a in accuracies)
        seconds = (time.perf_counter() - began) / case.seeds
        median = statistics.median(accuracies)
        print(f"{name:36} {median:.2%} (at least {case.target:.1%}; seeds {listed}), {seconds:.0f} s each", flush=True)


if __name__ == "__main__":
    main()
