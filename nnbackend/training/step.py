"""The passes of a training step: gradients and figures, all on the device."""

from __future__ import annotations

from nnbackend.backends.steps import Rows
from nnbackend.functions import record
from nnbackend.functions.array import Array
from nnbackend.functions.losses import fraction
from nnbackend.network import Network, given


def one_pass(network: Network, x: Array, t: Array, weight: Array | None = None) -> tuple[Array, Array | None]:
    """Write the gradient of one batch to the network's buffer.

    Returns the mean loss of the batch and the number of correct rows, or the sum of their weights; None in place of
    the latter if the loss does not classify.
    """
    loss, y = network.loss_and_output(x, t, weight)
    network.backward()
    end = network.loss_layer
    return loss, end.count_correct(y, t, *given(weight)) if end.classifies else None


def recorded_pass(
    network: Network, figures: Array, at: Array | int, x: Array, t: Array, weight: Array | None = None
) -> None:
    """Write the gradient of one batch to the network's buffer, and record its figures in figures[:, at].

    figures: (2, steps) for the mean loss and the number of correct rows; or (4, steps), in which case what each of the
    two is divided by follows.
    """
    if figures.shape[0] > 2:
        record_all(network, figures, at, *one_pass(network, x, t, weight), t, weight)
        return
    network.tick()
    y = network.forward(x, training=True)
    network.backward(network.loss_layer.recorded(y, t, figures, at))


def several_passes(
    network: Network,
    rows: Rows,
    batch_size: int,
    gradient_sum: Array,
    figures: Array,
    at: Array | int,
    x: Array,
    t: Array,
    weight: Array | None = None,
) -> None:
    """Do the same for rows of x, t and weight that are gathered and passed batch_size at a time: the gradient is that
    of all rows as one batch. gradient_sum: (size,), room for the sum.
    """
    targets = rows.take(t, *given(weight))
    gradient, total = network.buffer.grad, network.loss_layer.total
    whole, loss, correct = total(*targets), 0.0, None
    gradient_sum[...] = 0.0
    for batch in rows.batches(batch_size, x, t, *given(weight)):
        part_loss, part_correct = one_pass(network, *batch)
        share = fraction(total(*batch[1:]), whole)
        gradient *= share
        gradient_sum += gradient
        loss = loss + share * part_loss
        correct = part_correct if correct is None else correct + part_correct
    gradient[...] = gradient_sum
    record_all(network, figures, at, loss, correct, *targets)


def record_all(
    network: Network,
    figures: Array,
    at: Array | int,
    loss: Array,
    correct: Array | None,
    t: Array,
    weight: Array | None = None,
) -> None:
    """Record the figures of a step with the targets t in figures[:, at]; see `recorded_pass`."""
    values = [loss, 0.0 if correct is None else correct]
    if figures.shape[0] > 2:
        count = float(t.shape[0]) if weight is None else network.backend.xp.sum(weight)
        values += [network.loss_layer.total(t, *given(weight)), count]
    record(figures, at, *values)
