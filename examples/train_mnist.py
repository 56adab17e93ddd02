"""Digits: train, draw, save, load, predict, in a script (`nnbackend train mnist` does the same from a shell).

A 784-256-128-10 network of ReLUs learns MNIST with Adam, whose learning rate falls along half a cosine: about 95 % of
the sample's test images after ten epochs, 98 % with all of MNIST. Nothing here says where the arrays live:

    python examples/train_mnist.py                     a few seconds on a CPU; draws train_mnist.png
    NNBACKEND=cupy python examples/train_mnist.py      the same on a GPU
    python examples/train_mnist.py --data full         all 60,000 images, downloaded once
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive

BATCH_SIZE = 100


def train(data: nn.datasets.Dataset, epochs: int) -> tuple[nn.Network, nn.History]:
    """The trained network and its history; prints a line per epoch."""
    net = nn.Network(
        [nn.Affine(784, 256), nn.ReLU(), nn.Affine(256, 128), nn.ReLU(), nn.Affine(128, 10)],
        nn.SoftmaxWithLoss(),
        seed=0,
    )
    steps = epochs * math.ceil(data.t_train.shape[0] / BATCH_SIZE)
    trainer = nn.Trainer(net, nn.Adam(lr=nn.Cosine(0.004, steps)), batch_size=BATCH_SIZE, seed=0)
    history = trainer.fit(
        data.x_train, data.t_train, epochs, validation=(data.x_test, data.t_test), callbacks=[print_epoch]
    )
    return net, history


def print_epoch(trainer: nn.Trainer) -> None:
    """What the history has recorded last."""
    h = trainer.history
    print(
        f"epoch {trainer.epoch:2}: training loss {h.loss[-1]:.4f}, accuracy {h.accuracy[-1]:.2%}; "
        f"test loss {h.val_loss[-1]:.4f}, accuracy {h.val_accuracy[-1]:.2%}; {h.seconds[-1]:.2f} s"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=10, help="passes over the training images (10)")
    parser.add_argument("--data", default="auto", help="auto, sample, full or a folder of four IDX files (auto)")
    parser.add_argument(
        "--out", type=output_folder, default=Path(), help="folder for picture and network (the current one)"
    )
    options = parser.parse_args(argv)

    data = nn.datasets.mnist(options.data)
    print(f"{data} on {nn.backend().name}")
    net, history = train(data, options.epochs)

    picture, file = options.out / "train_mnist.png", options.out / "train_mnist.safetensors"
    history.plot(picture)
    print(f"drawn: {picture}")
    net.save(file)
    print(f"saved: {file}")

    loaded = nn.load(file)
    p = nn.to_numpy(loaded.predict_proba(data.x_test[:5, ...]))
    for row, label in zip(p, nn.to_numpy(data.t_test[:5]), strict=True):
        print(f"a {label} is taken for a {row.argmax()} with probability {row.max():.3f}")
    print(f"test accuracy {loaded.accuracy(data.x_test, data.t_test):.2%}")


if __name__ == "__main__":
    main()
