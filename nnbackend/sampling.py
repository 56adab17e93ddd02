"""Generate sequences of ids with a network that predicts the next one.

The draws are made on the host, each by the seed and its number alone. A seed therefore gives the same ids on every
backend, unless a draw falls within rounding of the border between two ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.checks import at_least, not_negative, positive_integer
from nnbackend.network import Network
from nnbackend.random import host_generator

__all__ = ["choose", "generate", "probabilities"]


def generate(
    network: Network,
    prompt: Sequence[int] | Any,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    context: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Return `length` ids that follow those of the prompt, each drawn by what the network says of those before it.

    network: takes rows of ids, (T,), and gives the logits of the next id, (classes,), or of the next id at every step,
    (T, classes), of which the last are taken. prompt: at least one id. temperature: 0 takes the likeliest id (greedy),
    1 draws by the network's probabilities, and more draws the unlikely ids more often. top_k: only so many of the
    likeliest ids may be drawn. context: the network sees the last so many ids; all of them by default.

    Raises ValueError for settings out of range, for a prompt that is not a sequence of ids that the network takes, for
    more ids than it takes at a time, for a network with outputs of another form, and for logits that are not finite.
    Raises TypeError for what is not a network.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network: expected a Network, got {network!r}")
    at_least("length", length, 0)
    _check_settings(temperature, top_k)
    if context is not None:
        positive_integer("context", context)
    host = np.asarray(to_numpy(prompt))
    if host.ndim != 1 or host.size == 0 or host.dtype.kind not in "iu":
        raise ValueError(f"prompt: expected at least one id in a row, got shape {host.shape} of {host.dtype}")
    ids = [int(number) for number in host]
    longest = min(len(ids) + max(length - 1, 0), context or len(ids) + length)
    try:
        network.output_shape((longest,))
    except ValueError as error:
        raise ValueError(
            f"context is {context}, so the network would see up to {longest} ids, which do not fit: {error}"
        ) from error
    with network.backend.active():
        network.inputs(np.asarray([ids if context is None else ids[-context:]]), "prompt")
    for number in range(length):
        window = ids if context is None else ids[-context:]
        y = to_numpy(network.predict(np.asarray([window])))
        if y.ndim not in (2, 3):
            raise ValueError(f"network: expected logits, (classes,) or (T, classes), for a row, got {y.shape[1:]}")
        draw = float(host_generator(seed, number).random())
        ids.append(choose(y[0] if y.ndim == 2 else y[0, -1], draw, temperature, top_k))
    return ids[host.size :]


def choose(logits: Any, draw: float, temperature: float = 1.0, top_k: int | None = None) -> int:
    """Return the id at which the sum of the `probabilities` of the ids up to it first exceeds the draw.

    logits: (classes,). draw: a number of at least 0 and below 1. Raises ValueError for arguments out of range.
    """
    if not 0 <= draw < 1:
        raise ValueError(f"draw must be at least 0 and below 1, got {draw!r}")
    p = probabilities(logits, temperature, top_k)
    sums = np.cumsum(p)
    return int(np.searchsorted(sums, draw * sums[-1], side="right"))


def probabilities(logits: Any, temperature: float = 1.0, top_k: int | None = None) -> np.ndarray[Any, Any]:
    """Return the probability of every id: softmax(logits / temperature) over the `top_k` largest logits, 0 for others.

    logits: (classes,). A temperature of 0 gives all to the largest. Among equal logits the lower ids come first. The
    result is in float64, on the host. Raises ValueError for settings out of range and for logits that are not finite.
    """
    _check_settings(temperature, top_k)
    x = np.asarray(to_numpy(logits), np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"logits: expected shape (classes,), got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"logits must be finite, got {x[~np.isfinite(x)][0]} for id {int(np.argmin(np.isfinite(x)))}")
    kept = np.argsort(-x, kind="stable")[: 1 if temperature == 0 else top_k]
    p = np.zeros_like(x)
    with np.errstate(over="ignore"):  # far apart at a low temperature: e^-inf is 0
        p[kept] = np.exp((x[kept] - x[kept[0]]) / (temperature or 1.0))
    return np.asarray(p / p.sum())


def _check_settings(temperature: float, top_k: int | None) -> None:
    not_negative("temperature", temperature)
    if top_k is not None:
        positive_integer("top_k", top_k)
