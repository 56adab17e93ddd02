"""Measure a training step on NumPy with the loops in C and without them.

    python ci/bench/native.py

Two processes, one with NNBACKEND_NATIVE=0, train the same networks on the same MNIST images, an epoch each in turn.
Before each is a pause in which the threads of the other's products fall asleep.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they would limit NumPy to the kernels of an older processor
    os.environ.pop(name, None)

import nnbackend as nn  # noqa: E402  (NumPy reads the environment)

WORKERS = ("without", "with")


@dataclass(frozen=True)
class Case:
    title: str
    network: Callable[[], nn.Network]
    optimizer: str
    batch: int
    images: int
    shape: tuple[int, ...] = (784,)

    def trainer(self) -> nn.Trainer:
        optimizer = nn.SGD(lr=0.1) if self.optimizer == "sgd" else nn.Adam()
        return nn.Trainer(self.network(), optimizer, batch_size=self.batch)


def affine(widths: list[int], dropout: float) -> nn.Network:
    layers: list[nn.Layer] = []
    for a, b in pairwise([784, *widths]):
        layers += [nn.Affine(a, b), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Network([*layers, nn.Affine(widths[-1], 10)], backend="numpy")


def normalised() -> nn.Network:
    layers: list[nn.Layer] = []
    for a, b in ((1, 16), (16, 32)):
        layers += [nn.Convolution(a, b, 3, padding=1), nn.BatchNormalization(b), nn.ReLU(), nn.MaxPooling(2)]
    return nn.Network([*layers, nn.Flatten(), nn.Affine(7 * 7 * 32, 10)], backend="numpy")


def transformer() -> nn.Network:
    """The lines of an image as a sequence"""
    inner = [nn.Affine(64, 256), nn.GELU(), nn.Affine(256, 64)]
    attention = nn.Residual([nn.LayerNormalization(64), nn.MultiHeadAttention(64, 4)])
    layers = [nn.Affine(28, 64), nn.PositionalEncoding(64, 28), attention]
    layers += [nn.Residual([nn.LayerNormalization(64), *inner]), nn.Flatten(), nn.Affine(28 * 64, 10)]
    return nn.Network(layers, backend="numpy")


CASES = [
    Case(
        f"{'-'.join(map(str, (784, *widths, 10)))}, {optimizer}" + (" and dropout" if dropout else ""),
        partial(affine, widths, dropout),
        optimizer,
        batch,
        images,
    )
    for widths, batch, images in (([50], 100, 20_000), ([256, 128], 128, 10_000), ([1024, 1024], 256, 5_120))
    for optimizer, dropout in (("sgd", 0.0), ("adam", 0.0), ("sgd", 0.2))
] + [
    Case("convolutions, adam", partial(nn.convolutional_network, backend="numpy"), "adam", 128, 1_280, (28, 28, 1)),
    Case("with batch normalisation, adam", normalised, "adam", 128, 1_280, (28, 28, 1)),
    Case("transformer, adam", transformer, "adam", 64, 1_280, (28, 28)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work()
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {
        n: subprocess.Popen(
            [sys.executable, __file__, "--worker", n],
            env=os.environ | {"NNBACKEND_NATIVE": "0" if n == "without" else "1"},
            **pipes,
        )
        for n in WORKERS
    }
    loops = {n: ask(worker, "loops") for n, worker in workers.items()}
    if loops != {"without": False, "with": True}:
        sys.exit("this nnbackend was built without its loops in C")
    print(f"{'us per step':34}" + "".join(f"{n:>12}" for n in WORKERS) + f"{'ratio':>8}")
    for number, case in enumerate(CASES):
        found: dict[str, list[float]] = {n: [] for n in workers}
        for turn in range(arguments.rounds + 1):
            for n in WORKERS[:: 1 if turn % 2 else -1]:
                time.sleep(0.15)
                found[n].append(ask(workers[n], number))
        us = {n: statistics.median(found[n][1:]) for n in WORKERS}  # the first is a warm-up
        print(f"{case.title:34}" + "".join(f"{us[n]:12.0f}" for n in WORKERS) + f"{us['with'] / us['without']:8.2f}")
    for worker in workers.values():
        worker.communicate()


def ask(worker: subprocess.Popen[str], question: object) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{json.dumps(question)}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def work() -> None:
    """Read numbers of cases from stdin until it ends. Print the microseconds per step of each."""
    data = nn.datasets.mnist()
    trainers = [case.trainer() for case in CASES]
    for line in sys.stdin:
        question = json.loads(line)
        if question == "loops":
            print(json.dumps("nnbackend.backends.numpy.native" in sys.modules), flush=True)
            continue
        case = CASES[question]
        x, t = data.x_train[: case.images].reshape(-1, *case.shape), data.t_train[: case.images]
        began = time.perf_counter()
        trainers[question].fit(x, t)
        print(json.dumps((time.perf_counter() - began) * 1e6 / -(-len(x) // case.batch)), flush=True)


if __name__ == "__main__":
    main()
