"""Measure the answers of a trained network for a page: calibration, mistakes, errors, and its first weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.checks import lengths
from nnbackend.evaluation import Evaluation, evaluate
from nnbackend.markup import can_draw, picture
from nnbackend.network import Network

HostArray = np.ndarray[Any, Any]
BINS = 10  # of a calibration curve
POINTS = 1000  # the most points of a chart of answers against targets
PAIRS = 20  # the most pairs of classes that a list of confusions names


@dataclass(frozen=True)
class Answers:
    """Holds the answers of a network for n rows, on the host.

    probabilities: (n, classes) for a classifier of one class a row, else None; of sequences each position is a row.
    outputs, targets: (n, columns), the answers and what they should be, if the rows do not belong to one class each,
    else None.
    """

    evaluation: Evaluation
    probabilities: HostArray | None
    outputs: HostArray | None
    targets: HostArray | None

    def in_unit(self, scaling: tuple[float, float] | None) -> Answers:
        """Return the answers of a regression in the unit of the data. scaling: mean and deviation of the targets."""
        if scaling is None or self.outputs is None or self.targets is None:
            return self
        if np.shape(scaling) != (2,):
            raise ValueError(f"target_scaling: expected (mean, deviation), got {scaling!r}")
        mean, deviation = scaling
        return replace(self, outputs=self.outputs * deviation + mean, targets=self.targets * deviation + mean)


def answers(network: Network, x: Any, t: Any) -> Answers:
    """Return the answers of a network for rows x with targets t. Raises ValueError for data that does not fit."""
    found = evaluate(network, x, t)
    y = to_numpy(network.predict_proba(x)).astype(np.float64)
    if found.predicted is not None:
        if found.places is not None:  # positions of sequences, or rows that the loss counts
            y = y[found.places[:, 0], found.places[:, 1]] if y.ndim == 3 else y[found.places[:, 0]]
        p = y if y.shape[1] > 1 else np.concatenate([1.0 - y, y], axis=1)
        return Answers(found, p if len(found.confusion) > 1 else np.ones_like(y), None, None)  # type: ignore[arg-type]
    _, targets = network.data(x, t)
    columns = to_numpy(targets).astype(np.float64).reshape(len(y), -1)
    return Answers(found, None, y.reshape(len(y), -1), columns)


# --- a classifier -------------------------------------------------------------------------------------------------


def calibration(confidence: HostArray, correct: HostArray, bins: int = BINS) -> tuple[list[dict[str, float]], float]:
    """Compare how sure a classifier is with how often it is right.

    confidence: (n,), the probability of the predicted class. correct: (n,), whether it is the true one. Bins of equal
    width divide 0 to 1. Returns for each bin that is not empty its mean confidence, its accuracy and its rows; and the
    expected calibration error, the mean of their difference over all rows (Naeini, Cooper, Hauskrecht 2015).
    """
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = np.bincount(places, minlength=bins)
    sure, right = (np.bincount(places, weights=values, minlength=bins) for values in (confidence, correct))
    found = [
        {"confidence": float(sure[i] / rows[i]), "accuracy": float(right[i] / rows[i]), "rows": int(rows[i])}
        for i in np.flatnonzero(rows)
    ]
    return found, float(np.abs(sure - right).sum() / len(confidence))


def confusions(confusion: HostArray, count: int = PAIRS) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes as (truth, answer, rows), the most frequent first."""
    mistakes = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    places = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [(int(i), int(j), int(mistakes[i, j])) for i, j in places if mistakes[i, j]]


# --- a regression -------------------------------------------------------------------------------------------------


def scores(outputs: HostArray, targets: HostArray) -> tuple[float, float | None]:
    """Return the root mean square error, and R^2: the part of the targets' variance that the answers explain.

    outputs, targets: (n, columns). R^2 is None if the targets do not vary.
    """
    squares = float(np.square(outputs - targets).sum())
    spread = float(np.square(targets - targets.mean(axis=0)).sum())
    return math.sqrt(squares / outputs.size), 1.0 - squares / spread if spread > 0 else None


def some(n: int, count: int = POINTS) -> list[int]:
    """Return at most `count` of n row numbers, evenly spread."""
    return [i * n // min(n, count) for i in range(min(n, count))]


# --- pictures -----------------------------------------------------------------------------------------------------


def image_shape(network: Network, x: Any, given: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the shape of the images that rows of x are, (h, w) or (h, w, 3), or None if they are no images.

    given: the shape, or None to find it: rows of (h, w), (h, w, 1) or (h, w, 3) are images, flat rows only if the
    network says that it has learned from square pictures. Raises ValueError for a shape that does not fit.
    """
    row = tuple(int(length) for length in x.shape[1:])
    numbers = math.prod(row)
    if given is None:
        side = math.isqrt(numbers)
        # the preparation of tables, and of pictures of any form, has a kind
        prepared = network.preparation
        if len(row) == 1 and prepared is not None and "kind" not in prepared and side * side == numbers:
            return side, side
        given = row
        if len(row) not in (2, 3) or (len(row) == 3 and row[2] not in (1, 3)):
            return None
    shape = lengths("image_shape", given)
    if len(shape) not in (2, 3) or math.prod(shape) != numbers or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ValueError(f"image_shape: expected (h, w) or (h, w, 1 or 3) of {numbers} numbers, got {shape}")
    return shape[:2] if shape[2:] == (1,) else shape


def pictures(rows: HostArray, shape: tuple[int, ...]) -> list[str]:
    """Return a PNG, as an address, of each row, from black for the least to white for the largest number of all."""
    low, high = float(rows.min(initial=0.0)), float(rows.max(initial=0.0))
    bright = (255.0 * (rows - low) / ((high - low) or 1.0)).round().astype(np.uint8)
    return [picture(image.tobytes(), *shape) for image in bright.reshape(-1, *shape)] if can_draw() else []


def filters(network: Network, shape: tuple[int, ...] | None, count: int = 64) -> tuple[str, int, list[str]] | None:
    """Return the first weights as pictures: the layer, its number of units, and a PNG of each of the first `count`.

    shape: that of the images of the network's rows. Weights of one channel are red if they are positive and blue if
    they are negative, all on one scale; those of three channels are shown as colours. The result is None if the first
    weights are no images.
    """
    found = next(
        ((name, layer) for name, layer in network.every_layer().items() if "W" in layer.own_parameters()), None
    )
    if found is None or not can_draw():
        return None
    name, layer = found
    W = to_numpy(layer.own_parameters()["W"].data).astype(np.float64)
    if W.ndim == 2 and shape is not None and W.shape[0] == math.prod(shape):
        W = W.reshape(*shape, W.shape[1])
    elif W.ndim != 4 or W.shape[2] not in (1, 3):
        return None
    units = np.moveaxis(W, -1, 0)[:count]
    units = units[..., 0] if units.ndim == 4 and units.shape[3] == 1 else units
    units = units / (np.abs(units).max() or 1.0)
    if units.ndim == 3:  # towards red, white, blue
        away = 1.0 - np.abs(units)
        units = np.stack([np.where(units < 0, away, 1.0), away, np.where(units > 0, away, 1.0)], axis=-1)
    else:
        units = 0.5 + 0.5 * units
    return name, W.shape[-1], [picture(u.tobytes(), *u.shape) for u in (255 * units).round().astype(np.uint8)]


def feature_weights(network: Network) -> tuple[str, HostArray] | None:
    """Return the layer with the first weights, and the root mean square of those of each input: (inputs,).

    The result is None if they are those of a convolution, or if there are none.
    """
    found = next(
        ((name, layer) for name, layer in network.every_layer().items() if "W" in layer.own_parameters()), None
    )
    if found is None:
        return None
    W = to_numpy(found[1].own_parameters()["W"].data).astype(np.float64)
    return (found[0], np.sqrt(np.mean(W * W, axis=1))) if W.ndim == 2 else None
