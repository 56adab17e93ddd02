"""Provide the book's common.trainer: loops over mini-batches that print as the book's do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy

from nnbackend.book.arrays import take, together, whole
from nnbackend.book2.np import GPU, np
from nnbackend.book2.util import check_norm, clip_grads
from nnbackend.checks import number
from nnbackend.functions.array import Array, array_namespace

__all__ = ["GPU", "RnnlmTrainer", "Trainer", "clip_grads", "np", "numpy", "remove_duplicate", "sys", "time"]


class _Loop:
    """Base class of the trainers. model: has forward(x, t), which returns the loss, backward, params and grads."""

    word: str  # what is printed, and drawn, every eval_interval steps

    def __init__(self, model: Any, optimizer: Any):
        self.model, self.optimizer = model, optimizer
        self.eval_interval: int | None = None
        self.current_epoch = 0

    def _fit(self, steps: int, epochs: Iterator[Iterator[tuple[Array, Array]]], max_grad: float | None) -> list[float]:
        """Train, and return what was printed. steps: in an epoch."""
        shown: list[float] = []
        total, count, start = 0.0, 0, time.time()
        for batches in epochs:
            for i, (x, t) in enumerate(batches):
                total += self.model.forward(x, t)
                count += 1
                self.model.backward()
                params, grads = remove_duplicate(self.model.params, self.model.grads)
                if max_grad is not None:
                    clip_grads(grads, max_grad)
                self.optimizer.update(params, grads)
                if self.eval_interval is not None and i % self.eval_interval == 0:
                    shown.append(self._value(total / count))
                    place = f"| epoch {self.current_epoch + 1} |  iter {i + 1} / {steps}"
                    print(f"{place} | time {int(time.time() - start)}[s] | {self.word} {shown[-1]:.2f}")
                    total, count = 0.0, 0
            self.current_epoch += 1
        return shown

    def _value(self, loss: Any) -> float:
        return float(loss)

    def _plot(self, values: Sequence[float], ylim: tuple[float, float] | None) -> None:
        import matplotlib.pyplot as plt

        if ylim is not None:
            plt.ylim(*ylim)
        plt.plot(numpy.arange(len(values)), values, label="train")
        plt.xlabel(f"iterations (x{self.eval_interval})")
        plt.ylabel(self.word)
        plt.show()


class Trainer(_Loop):
    """Trains with mini-batches of rows, which are shuffled in every epoch by numpy.random.

    loss_list: the mean losses that were printed. The rows that are left over at the end of an epoch are not used.
    """

    word = "loss"

    def __init__(self, model: Any, optimizer: Any):
        super().__init__(model, optimizer)
        self.loss_list: list[float] = []

    def fit(
        self,
        x: Any,
        t: Any,
        max_epoch: int = 10,
        batch_size: int = 32,
        max_grad: float | None = None,
        eval_interval: int | None = 20,
    ) -> None:
        """Train for max_epoch epochs. x, t: arrays with a row each. max_grad: the largest norm of all gradients.

        Raises ValueError if x and t differ in their number of rows, if that is smaller than batch_size, and for
        numbers out of range.
        """
        batch_size = whole("batch_size", batch_size, 1)
        _check_loop(max_epoch, max_grad, eval_interval)
        (x,), (t,) = together(x=x), together(t=t)
        n, steps = x.shape[0], x.shape[0] // batch_size
        if t.shape[0] != n:
            raise ValueError(f"t: expected {n} rows, as x has, got {t.shape[0]}")
        if steps == 0:
            raise ValueError(f"batch_size: expected at most {n}, the rows of x, got {batch_size}")
        self.eval_interval = eval_interval

        def epochs() -> Iterator[Iterator[tuple[Array, Array]]]:
            order = numpy.arange(n)
            for _ in range(max_epoch):
                order = order[numpy.random.permutation(numpy.arange(n))]
                chosen = [order[i * batch_size : (i + 1) * batch_size] for i in range(steps)]
                yield ((take(x, these), take(t, these)) for these in chosen)

        self.loss_list += self._fit(steps, epochs(), max_grad)

    def plot(self, ylim: tuple[float, float] | None = None) -> None:
        """Draw loss_list. ylim: the range of the losses."""
        self._plot(self.loss_list, ylim)


class RnnlmTrainer(_Loop):
    """Trains a language model on pieces of a text, in order: truncated backpropagation through time (section 5.5).

    ppl_list: the perplexities that were printed, exp of the mean loss. time_idx: the place in the text.
    """

    word = "perplexity"

    def __init__(self, model: Any, optimizer: Any):
        super().__init__(model, optimizer)
        self.time_idx: int | None = None
        self.ppl_list: list[float] | None = None

    def get_batch(self, x: Any, t: Any, batch_size: int, time_size: int) -> tuple[Array, Array]:
        """Return the next (batch_size, time_size) of x and of t, whose rows begin at even distances in the text."""
        (x,), (t,) = together(x=x), together(t=t)
        start = self.time_idx or 0
        places = numpy.arange(batch_size)[:, None] * (len(x) // batch_size) + start + numpy.arange(time_size)
        self.time_idx = start + time_size
        places = (places % len(x)).reshape(-1)
        shape = batch_size, time_size
        return tuple(array_namespace(a).reshape(take(a, places), shape) for a in (x, t))  # type: ignore[return-value]

    def fit(
        self,
        xs: Any,
        ts: Any,
        max_epoch: int = 10,
        batch_size: int = 20,
        time_size: int = 35,
        max_grad: float | None = None,
        eval_interval: int | None = 20,
    ) -> None:
        """Train for max_epoch epochs. xs, ts: (n,) word numbers, and the words that follow them.

        Raises ValueError if xs and ts differ in length, if xs has fewer words than a batch, and for numbers out of
        range.
        """
        batch_size, time_size = whole("batch_size", batch_size, 1), whole("time_size", time_size, 1)
        _check_loop(max_epoch, max_grad, eval_interval)
        (xs,), (ts,) = together(xs=xs), together(ts=ts)
        steps = len(xs) // (batch_size * time_size)
        if len(ts) != len(xs):
            raise ValueError(f"ts: expected {len(xs)} words, as xs has, got {len(ts)}")
        if steps == 0:
            raise ValueError(f"xs: expected at least {batch_size * time_size} words, those of a batch, got {len(xs)}")
        self.time_idx, self.ppl_list, self.eval_interval = 0, [], eval_interval

        def epochs() -> Iterator[Iterator[tuple[Array, Array]]]:
            for _ in range(max_epoch):
                yield (self.get_batch(xs, ts, batch_size, time_size) for _ in range(steps))

        self.ppl_list = self._fit(steps, epochs(), max_grad)

    def plot(self, ylim: tuple[float, float] | None = None) -> None:
        """Draw ppl_list. ylim: the range of the perplexities."""
        self._plot(self.ppl_list or [], ylim)

    def _value(self, loss: Any) -> float:
        return float(numpy.exp(loss))


def _check_loop(max_epoch: Any, max_grad: Any, eval_interval: Any) -> None:
    """Raise ValueError for what is no number of epochs, no norm, or no number of steps."""
    whole("max_epoch", max_epoch, 0)
    if max_grad is not None:
        check_norm("max_grad", max_grad)
    if eval_interval is not None:
        number("eval_interval", eval_interval)
        if not eval_interval > 0:
            raise ValueError(f"eval_interval: expected a number above 0, or None, got {eval_interval!r}")


def remove_duplicate(params: Sequence[Any], grads: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the parameters and gradients without repetition; the gradients of one weight are added.

    A parameter that occurs twice is one weight, and so is one that is the transpose of another in the same memory
    (section 6.5). The sum is written into the gradient of the first. Raises ValueError if the lists differ in length.
    """
    if len(params) != len(grads):
        raise ValueError(f"grads: expected {len(params)} arrays, one for each of params, got {len(grads)}")
    kept: list[Any] = []
    sums: list[Any] = []
    for param, grad in zip(params, grads, strict=True):
        for before, total in zip(kept, sums, strict=True):
            if before is param:
                total += grad
                break
            if param.ndim == 2 and _is_same(before, param.T):
                total += grad.T
                break
        else:
            kept.append(param)
            sums.append(grad)
    return kept, sums


def _is_same(a: Any, b: Any) -> bool:
    """Say whether two arrays are the same elements of the same memory."""
    same = type(a) is type(b) and a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype
    return same and _address(a) == _address(b)


def _address(a: Any) -> int:
    interface = getattr(a, "__cuda_array_interface__", None) or a.__array_interface__
    return int(interface["data"][0])
