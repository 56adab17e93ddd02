"""Classify pictures with a saved network, as `nnbackend predict` does it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from nnbackend.backends import to_numpy
from nnbackend.images import Preparation, read_images
from nnbackend.network import Network

MNIST_SIDE = 28  # the side of the images if the network takes images of any size


@dataclass(frozen=True)
class Prediction:
    """Holds the answer of a network for one image.

    name: the name of the file, with the number of the image if the file has several. best: the likeliest classes and
    their probabilities, the likeliest first.
    """

    name: str
    best: list[tuple[int, float]]


def predict_file(
    network: Network,
    path: str | os.PathLike[str],
    *,
    top: int = 1,
    limit: int | None = None,
    shown: list[Any] | None = None,
) -> tuple[list[Prediction], int]:
    """Classify the images in a file. Return a prediction for each, and the number of images that the file holds.

    path: a picture, or an IDX file of images (see nnbackend.images). A picture is prepared as `network.preparation`
    says. top: the number of classes in each prediction. limit: classify the first `limit` images only. shown: a list;
    the images that the network saw, each (side, side), are appended to it.
    Raises ValueError if the network does not classify square images, and DataError if the file cannot be read.
    """
    shape = tuple(MNIST_SIDE if length is None else length for length in network.input_shape or ())
    side = math.isqrt(math.prod(shape))
    if not shape or side * side != math.prod(shape):
        raise ValueError(
            f"the network takes rows of shape {network.input_shape}, which is not the shape of a square image"
        )
    images = read_images(path, side, Preparation.of(network.preparation, side))
    total, images = len(images), images[:limit]
    probabilities = to_numpy(network.predict_proba(images.reshape(-1, *shape)))
    if not network.loss_layer.classifies or probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(f"the network ends in {network.loss_layer}, which gives no class probabilities")
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :top]
    if shown is not None:
        shown += list(images.reshape(-1, side, side))
    name = os.fspath(path)
    names = [name] if total == 1 else [f"{name}[{i}]" for i in range(len(images))]
    return [
        Prediction(label, [(int(k), float(row[k])) for k in ranked])
        for label, row, ranked in zip(names, probabilities, order, strict=True)
    ], total
