"""Do the passes of a training step: gradients and metrics, all on the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from nnbackend.backends.steps import Rows
from nnbackend.functions import record
from nnbackend.functions.array import Array, stack
from nnbackend.layers import Layer
from nnbackend.network import Network, optional
from nnbackend.training.communication import Communicator
from nnbackend.training.pairwise import PairwiseSum


def one_pass(
    network: Network, x: Array, t: Array, weight: Array | None = None, divisor: float | None = None
) -> tuple[Array, Array | None]:
    """Write the gradient of one batch to the network's buffer.

    divisor: as `Loss` takes it. Returns the mean loss of the batch and the number of correct rows, or the sum of their
    weights; None in place of the latter if the loss does not classify.
    """
    loss, y = network.loss_and_output(x, t, weight, divisor)
    network.backward()
    end = network.loss_layer
    return loss, end.count_correct(y, t, *optional(weight)) if end.classifies else None


def recorded_pass(
    network: Network,
    metrics: Array,
    at: Array | int,
    mean_weight: float | None,
    x: Array,
    t: Array,
    weight: Array | None = None,
) -> None:
    """Write the gradient of one batch to the network's buffer, and record its metrics in metrics[:, at].

    metrics: (2, steps) for the mean loss and the number of correct rows. If what these are a part of differs from batch
    to batch, by sample weights or by labels that are left out, it follows: (3, steps), of sums of weights. mean_weight:
    that of the whole training set, or None if nothing weights its rows.
    """
    divisor = None if mean_weight is None else x.shape[0] * mean_weight
    if weight is None:
        network.tick()
        y = network.forward(x, training=True)
        settings = () if divisor is None else (divisor,)
        network.backward(network.loss_layer.recorded(y, t, metrics, at, *settings))
    else:
        record(metrics, at, *metrics_of(network, *one_pass(network, x, t, weight, divisor), t, weight))


def metrics_of(
    network: Network, loss: Array, correct: Array | None, t: Array, weight: Array | None = None
) -> list[Any]:
    """Return what a step records of a batch: loss, correct rows, and what they are a part of if it is not fixed."""
    counted = network.loss_layer.counted(t, *optional(weight))
    values: list[Any] = [loss, 0.0 if correct is None else correct]
    return values if isinstance(counted, int) else [*values, counted]


Exchange: TypeAlias = Callable[[Sequence[bool]], tuple[bool, ...]]


class SeveralPasses:
    """Computes the gradient of a step of several batches, which are dealt out to the processes.

    The gradients, and the metrics, add up to those of one batch. batch_size: rows of a batch. accumulate: batches of
    a step. communicator: the processes; each does the same number of batches. The last step of an epoch, if it has
    fewer rows, is done by every process alone.
    """

    def __init__(self, network: Network, batch_size: int, accumulate: int, communicator: Communicator):
        self.settings = batch_size, accumulate, communicator
        self._network, self._batch_size, self._accumulate = network, batch_size, accumulate
        self._communicator = communicator
        size, alone = network.buffer.grad.shape[0], communicator.size == 1
        self.sums = PairwiseSum(network.backend, network.dtype, size, accumulate, whole=alone)
        self.metrics = network.backend.zeros((3,), network.dtype)  # of the last step that was shared

    def alone(self, rows: Rows, mean_weight: float | None, *data: Array) -> list[Any]:
        """Write the gradient to the network's buffer, and return the metrics.

        mean_weight: as `recorded_pass` takes it. data: x, t and perhaps the weights.
        """
        self.sums.begin(0, math.ceil(rows.size / self._batch_size))
        self._add(rows, mean_weight, *data)
        return self.sums.total(self._network.buffer.grad)

    def shared(self, rows: Rows, mean_weight: float | None, *data: Array) -> Exchange:
        """Pass the batches of this process. Return the function that then adds the gradients of all processes.

        That function writes the gradient to the network's buffer, and the metrics to `self.metrics`. It takes decisions
        of this process, and returns for each whether any process has made it. It can be called again after the passes
        were repeated on the same arrays.
        """
        network, communicator, sums = self._network, self._communicator, self.sums
        count = self._accumulate // communicator.size
        first = communicator.rank * count
        sums.begin(first, count)
        network.tick(first)  # a batch has the random masks that it has in one process
        with waiting_statistics(network) as updates:
            self._add(rows, mean_weight, *data)
        network.tick(self._accumulate - first - count)
        parts = sums.parts()

        def exchange(flags: Sequence[bool]) -> tuple[bool, ...]:
            for layer, update in updates:
                for values in communicator.gather(update).reshape(-1, update.shape[1]):
                    follow(layer, network.backend.asarray(values), network.backend.xp)
            sums.resume(first, count, parts)
            metrics, decisions = communicator.add(sums, network.buffer.grad, flags)
            for i, value in enumerate(metrics):
                self.metrics[i] = value
            return decisions

        return exchange

    def _add(self, rows: Rows, mean_weight: float | None, *data: Array) -> None:
        """Pass the batches of this process, and add up their gradients and metrics, weighted by their rows."""
        network, sums = self._network, self.sums
        gradient = network.buffer.grad
        for x, t, *weight in rows.batches(self._batch_size, *data, first=sums.first, count=sums.count):
            if mean_weight is None:
                loss, correct = one_pass(network, x, t)
                share = x.shape[0] / rows.size
                gradient *= share
                loss = loss * share
            else:
                loss, correct = one_pass(network, x, t, weight[0] if weight else None, rows.size * mean_weight)
            sums.add(gradient, metrics_of(network, loss, correct, t, *weight))


@contextmanager
def waiting_statistics(network: Network) -> Iterator[list[tuple[Layer, Array]]]:
    """Keep running statistics as they are within the block.

    Gives a list, which at the end of the block receives the layers that keep statistics, each with the updates of its
    batches, (batches, size).
    """
    layers = [a for a in network.every_layer().values() if keeps_statistics(a) and not a.frozen]
    found: list[tuple[Layer, Array]] = []
    for layer in layers:
        layer.waiting = []
    try:
        yield found
        xp = network.backend.xp
        for layer in layers:
            updates = [xp.concat([xp.reshape(a, (-1,)) for a in update]) for update in layer.waiting or []]
            found.append((layer, stack(updates)))
    finally:
        for layer in layers:
            layer.waiting = None


def follow(layer: Layer, values: Array, xp: Any) -> None:
    """Let the statistics of a layer follow one batch. values: its update as a flat array."""
    update, start = [], 0
    for parameter in layer.own_parameters().values():
        if not parameter.trainable:
            update.append(xp.reshape(values[start : start + parameter.size], parameter.shape))
            start += parameter.size
    layer.follow(update)


def keeps_statistics(layer: Layer) -> bool:
    """Say whether a layer has parameters of its own that are not trained but follow the batches."""
    return any(not parameter.trainable for parameter in layer.own_parameters().values())
