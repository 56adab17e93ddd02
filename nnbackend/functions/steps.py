"""The two ends of a training step: the rows that go in, the metrics that come out.

`at` says which step of the epoch it is. It is an int, or counters on the device, so that a recorded step can be
repeated: an array, (k,), int64, of which the first is the number of the step.
"""

from __future__ import annotations

from functools import singledispatch

from nnbackend.functions.array import Array, array_namespace, device, gather
from nnbackend.functions.losses import count_correct, softmax_cross_entropy, softmax_cross_entropy_backward

__all__ = ["record", "softmax_cross_entropy_recorded", "take_rows"]


@singledispatch
def take_rows(order: Array, at: Array | int, stride: int, start: int, size: int, *arrays: Array) -> tuple[Array, ...]:
    """Return, of each array, the rows order[first:first + size], where first = at * stride + start.

    order: (n,) integers; stride: the number of rows of a whole step; arrays: (m, ...), m larger than any of `order`.
    """
    if isinstance(at, int):
        first = at * stride + start
        rows = order[first : first + size]
    else:
        xp = array_namespace(order)
        numbers = xp.arange(start, start + size, dtype=at.dtype, device=device(at))
        rows = xp.take(order, at[0] * stride + numbers, axis=0)
    return tuple([gather(a, rows) for a in arrays])


@singledispatch
def record(metrics: Array, at: Array | int, *values: Array | float) -> None:
    """metrics[i, at] <- values[i], in place; counters on the device are then each advanced by one.

    metrics: (k, steps), floating; values: at most k numbers or 0-d arrays, cast to the dtype of metrics.
    """
    xp = array_namespace(metrics)
    for i, value in enumerate(values):
        if not isinstance(value, int | float):
            value = xp.astype(value, metrics.dtype, copy=False)
        if isinstance(at, int):
            metrics[i, at] = value
        else:
            here = xp.arange(metrics.shape[1], dtype=at.dtype, device=device(at)) == at[0]
            metrics[i, ...] = xp.where(here, value, metrics[i, ...])
    if not isinstance(at, int):
        at += 1


@singledispatch
def softmax_cross_entropy_recorded(
    x: Array,
    t: Array,
    metrics: Array,
    at: Array | int,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    divisor: float | None = None,
) -> Array:
    """Do all that the end of a classifier does in a training step: record the mean loss and the number of correct
    rows in metrics[:2, at], as `record` does, and return dx, the gradient of the mean loss.

    x: (n, classes) logits; t, class_weight, label_smoothing, divisor: as `softmax_cross_entropy` takes them.
    """
    loss, y = softmax_cross_entropy(x, t, None, class_weight, label_smoothing, divisor)
    record(metrics, at, loss, count_correct(x, t))
    return softmax_cross_entropy_backward(y, t, None, class_weight, label_smoothing, divisor)
