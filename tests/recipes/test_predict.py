"""Classifying pictures as the command does it, from a script."""

from __future__ import annotations

from pathlib import Path

import pytest

import nnbackend as nn
from nnbackend.datasets import mnist_host, write_idx
from nnbackend.recipes import predict_file


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda: nn.Network([nn.Affine(10, 3)]),
            r"takes rows of shape \(10,\), which is not the shape of a square image",
        ),
        (lambda: nn.Network([nn.ReLU()]), "takes rows of shape None, which is not the shape of a square image"),
        (
            lambda: nn.Network([nn.Affine(784, 2)], nn.MeanSquaredError()),
            "MeanSquaredError.*, which gives no class prob",
        ),
    ],
)
def test_networks_that_classify_no_pictures(network: object, message: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "a", mnist_host("sample").x_test[:1])
    with pytest.raises(ValueError, match=message):
        predict_file(network(), tmp_path / "a")  # type: ignore[operator]


def test_networks_of_other_kinds(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", mnist_host("sample").x_test[:4])
    book = nn.TwoLayerNet(784, 5, 10)
    convolutional = nn.Network([nn.Convolution(1, 2, 5), nn.Flatten(), nn.Affine(24 * 24 * 2, 10)])
    for network in (book, convolutional):
        predictions, total = predict_file(network, tmp_path / "a", top=99, limit=3)
        assert (len(predictions), total) == (3, 4)
        for prediction in predictions:
            assert sorted(label for label, _ in prediction.best) == list(range(10))
            assert sum(p for _, p in prediction.best) == pytest.approx(1, abs=1e-5)
