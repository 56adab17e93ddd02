"""A residual network on MNIST, and the same layers without shortcuts: what depth costs without them (He et al. 2015).

Each has a first convolution, three stages of blocks, and one affine layer. A block is two convolutions, batch
normalisations and ReLU. In the residual network its result is added to its input; where a stage halves the image and
doubles the channels, a convolution of size 1 makes the input fit. With five blocks a stage there are 31 convolutions in
a row: without shortcuts the loss falls slowly.

    python examples/residual_cnn.py                   some minutes on a CPU; draws residual_cnn.png
    python examples/residual_cnn.py --blocks 2        shallower and faster: the difference is small
    python examples/residual_cnn.py --onnx net.onnx   also writes the residual network for onnxruntime
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import nnbackend as nn
from nnbackend.cli.parser import output_file, output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

BATCH_SIZE = 100


def convolution(before: int, after: int, size: int = 3, stride: int = 1) -> list[nn.Layer]:
    """A convolution that keeps the size of an image if the stride is 1, and its normalisation."""
    return [nn.Convolution(before, after, size, stride, padding=size // 2), nn.BatchNormalization(after)]


def block(before: int, after: int, stride: int, shortcut: bool) -> list[nn.Layer]:
    layers = [*convolution(before, after, 3, stride), nn.ReLU(), *convolution(after, after)]
    fits = before == after and stride == 1
    if not shortcut:
        return [*layers, nn.ReLU()]
    return [nn.Residual(layers, None if fits else convolution(before, after, 1, stride)), nn.ReLU()]


def network(shortcut: bool, channels: Sequence[int], blocks: int, side: int = 28) -> nn.Network:
    """A network of `blocks` blocks for each of the channels; the stages after the first halve the image."""
    layers: list[nn.Layer] = [*convolution(1, channels[0], 3, 2), nn.ReLU()]
    before, side = channels[0], (side + 1) // 2
    for stage, after in enumerate(channels):
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            layers += block(before, after, stride, shortcut)
            before, side = after, (side + stride - 1) // stride
    return nn.Network([*layers, nn.AveragePooling(side), nn.Flatten(), nn.Affine(before, 10)], seed=0)


def train(net: nn.Network, data: nn.datasets.Dataset, epochs: int) -> nn.History:
    trainer = nn.Trainer(net, nn.Adam(lr=0.002), batch_size=BATCH_SIZE, seed=0)
    return trainer.fit(
        data.x_train, data.t_train, epochs, validation=(data.x_test, data.t_test), callbacks=[print_epoch]
    )


def print_epoch(trainer: nn.Trainer) -> None:
    h = trainer.history
    print(
        f"  epoch {trainer.epoch:2}: training loss {h.loss[-1]:.4f}; "
        f"{h.val_accuracy[-1]:.2%} of the test images; {h.seconds[-1]:.1f} s"
    )


def draw(histories: dict[str, nn.History], title: str, path: Path) -> None:
    figure = Figure(figsize=(6.8, 4.3), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    axes = figure.subplots()
    for (name, history), color, style in zip(histories.items(), COLORS, ("o-", "s--"), strict=False):
        label = f"{name}, {history.val_accuracy[-1]:.1%} of the test images"
        epochs = range(1, len(history) + 1)
        axes.plot(epochs, history.loss, style, color=color, linewidth=1.8, markersize=4.5, label=label)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    shown = "123456789" if high < 10 * low else "25"  # first digits
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in shown else "")
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes, title, "epoch", "loss of the training images")
    axes.legend(fontsize=9, frameon=False, labelcolor=INK)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=5, help="passes over the training images (5)")
    parser.add_argument("--blocks", type=positive, default=5, help="blocks in each of the stages (5)")
    parser.add_argument("--channels", type=positive, nargs="+", default=[8, 16, 32], help="of the stages (8 16 32)")
    parser.add_argument("--rows", type=positive, help="train with so many images (all)")
    parser.add_argument("--data", default="sample", help="auto, sample, full, or a folder of IDX files (sample)")
    parser.add_argument("--onnx", type=output_file, help="write the residual network to this file")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    data = nn.datasets.mnist(options.data, flatten=False)
    x, t = data.x_train[: options.rows, ...], data.t_train[: options.rows]
    data = nn.datasets.Dataset(x, t, data.x_test, data.t_test, data.name, data.source)
    histories = {}
    for name, shortcut in (("residual", True), ("without shortcuts", False)):
        net = network(shortcut, options.channels, options.blocks, x.shape[1])
        print(f"{name}: {1 + 2 * len(options.channels) * options.blocks} convolutions in a row")
        histories[name] = train(net, data, options.epochs)
        if shortcut and options.onnx is not None:
            print(net.to_onnx(options.onnx, input_shape=tuple(x.shape[1:])))

    path = options.out / "residual_cnn.png"
    depth = 1 + 2 * len(options.channels) * options.blocks
    source = "a sample" if data.source == "sample" else data.source
    draw(histories, f"{depth} convolutions on MNIST ({source})", path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
