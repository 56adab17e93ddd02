"""Digits in a browser: train a network, write it to an ONNX file, run that in onnxruntime, and draw digits on a page.

A small convolutional network learns MNIST, and is exported with the preparation that its images had. onnxruntime then
gives the same answers as this library, but for rounding. The page beside it runs the file in the browser, with
onnxruntime-web, on what is drawn with the mouse; nothing is sent anywhere:

    pip install ".[onnx]"                   onnx and onnxruntime
    python examples/export_digits.py        a minute on a CPU; writes export_digits.onnx and export_digits.html
    npm install onnxruntime-web             into the same folder
    python -m http.server --bind 127.0.0.1  and open http://127.0.0.1:8000/export_digits.html
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.images import preparation_of

TEMPLATE = Path(__file__).parent / "pages" / "export_digits.html"


def train(data: nn.datasets.Dataset, epochs: int, rows: int) -> nn.Network:
    """A trained network that knows how its images were prepared."""
    net = nn.convolutional_network(data.x_train.shape[1:], dropout_ratio=0.3, seed=0)
    x, t = data.x_train[:rows, ...], data.t_train[:rows]
    steps = epochs * -(-x.shape[0] // 100)
    nn.Trainer(net, nn.Adam(lr=nn.Cosine(0.003, steps)), batch_size=100, seed=0).fit(x, t, epochs, progress=True)
    net.preparation = asdict(preparation_of(nn.to_numpy(x)[:1000, :, :, 0]))
    return net


def run(path: Path, x: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of the images: probabilities, (n, 10)."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=4, help="passes over the training images (4)")
    parser.add_argument("--rows", type=positive, default=60_000, help="training images, at most (all)")
    parser.add_argument("--data", default="auto", help="auto, sample, full or a folder of four IDX files (auto)")
    parser.add_argument(
        "--out", type=output_folder, default=Path(), help="folder for network and page (the current one)"
    )
    options = parser.parse_args(argv)

    data = nn.datasets.mnist(options.data, flatten=False)
    net = train(data, options.epochs, options.rows)
    path, page = options.out / "export_digits.onnx", options.out / "export_digits.html"
    print(net.to_onnx(path, input_shape=(28, 28, 1)))

    p = run(path, nn.to_numpy(data.x_test))
    right = np.mean(p.argmax(axis=1) == nn.to_numpy(data.t_test))
    print(f"test accuracy: {net.accuracy(data.x_test, data.t_test):.2%} here, {right:.2%} in onnxruntime")

    page.write_text(
        TEMPLATE.read_text(encoding="utf-8").replace("{}", json.dumps(net.preparation), 1), encoding="utf-8"
    )
    print(f"written: {page}; npm install onnxruntime-web beside it, and serve the folder")


if __name__ == "__main__":
    main()
