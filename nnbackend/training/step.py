"""The passes of a training step: gradients and metrics, all on the device."""

from __future__ import annotations

from nnbackend.backends.steps import Rows
from nnbackend.functions import record
from nnbackend.functions.array import Array
from nnbackend.network import Network, given


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
    return loss, end.count_correct(y, t, *given(weight)) if end.classifies else None


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

    metrics: (2, steps) for the mean loss and the number of correct rows; with sample weights (3, steps), in which the
    correct rows are counted by their weights, and the sum of the batch's weights follows. mean_weight: that of the
    whole training set, or None if nothing weights its rows.
    """
    divisor = None if mean_weight is None else x.shape[0] * mean_weight
    if weight is None:
        network.tick()
        y = network.forward(x, training=True)
        settings = () if divisor is None else (divisor,)
        network.backward(network.loss_layer.recorded(y, t, metrics, at, *settings))
    else:
        _record(network, metrics, at, *one_pass(network, x, t, weight, divisor), weight)


def several_passes(
    network: Network,
    rows: Rows,
    batch_size: int,
    gradient_sum: Array,
    metrics: Array,
    at: Array | int,
    mean_weight: float | None,
    x: Array,
    t: Array,
    weight: Array | None = None,
) -> None:
    """Do the same for rows of x, t and weight that are gathered and passed batch_size at a time: the gradient is that
    of all rows as one batch. gradient_sum: (size,), room for the sum.
    """
    loss: Array | float = 0.0
    gradient, correct = network.buffer.grad, None
    gradient_sum[...] = 0.0
    for batch in rows.batches(batch_size, x, t, *given(weight)):
        if mean_weight is None:
            part_loss, part_correct = one_pass(network, *batch)
            share = batch[0].shape[0] / rows.size
            gradient *= share
            part_loss = part_loss * share
        else:
            part_weight = batch[2] if len(batch) > 2 else None
            part_loss, part_correct = one_pass(network, batch[0], batch[1], part_weight, rows.size * mean_weight)
        gradient_sum += gradient
        loss = loss + part_loss
        correct = part_correct if correct is None else correct + part_correct
    gradient[...] = gradient_sum
    _record(network, metrics, at, loss, correct, *rows.take(*given(weight)))


def _record(
    network: Network,
    metrics: Array,
    at: Array | int,
    loss: Array | float,
    correct: Array | None,
    weight: Array | None = None,
) -> None:
    values = [loss, 0.0 if correct is None else correct]
    if weight is not None:
        values.append(network.backend.xp.sum(weight))
    record(metrics, at, *values)
