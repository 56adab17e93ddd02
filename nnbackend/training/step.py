"""The passes of a training step: gradients and figures, all on the device."""

from __future__ import annotations

from nnbackend.functions.array import Array, gather, pieces
from nnbackend.functions.losses import fraction
from nnbackend.network import Network, given


def one_pass(network: Network, x: Array, t: Array, weight: Array | None = None) -> tuple[Array, Array | None]:
    """Write the gradient of one batch to the network's buffer; its mean loss, and how many rows (or which weight of
    rows) are right, None where the loss does not classify.
    """
    loss, y = network.loss_and_output(x, t, weight)
    network.backward()
    end = network.loss_layer
    return loss, end.count_correct(y, t, *given(weight)) if end.classifies else None


def passes(
    network: Network,
    x: Array,
    rows: Array,
    t: Array,
    weight: Array | None = None,
    *,
    batch_size: int,
    gradient_sum: Array,
) -> tuple[Array, Array | None]:
    """The same for the rows x[rows], gathered and passed batch_size at a time: the gradient of all as one batch.

    t, weight: of these rows, gathered already. gradient_sum: (size,), room for the sum.
    """
    gradient, total = network.buffer.grad, network.loss_layer.total
    whole, loss, correct = total(t, *given(weight)), 0.0, None
    gradient_sum[...] = 0.0
    for piece in pieces(rows.shape[0], batch_size):
        part = (t[piece, ...], *(w[piece] for w in given(weight)))
        part_loss, part_correct = one_pass(network, gather(x, rows[piece]), *part)
        share = fraction(total(*part), whole)
        gradient *= share
        gradient_sum += gradient
        loss = loss + share * part_loss
        correct = part_correct if correct is None else correct + part_correct
    gradient[...] = gradient_sum
    return loss, correct
