"""Run the steps of an epoch: the rows of a step, what all steps work on, and the runner that does one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

from nnbackend.functions import take_rows
from nnbackend.functions.array import Array, pieces

# step(rows, metrics, at, update, *data) takes its rows of the data, records its metrics at `at`, calls update(p, g).
# A generator yields functions: each is to be called before the generator goes on, and not to be captured.
Step: TypeAlias = Callable[..., Iterable[Callable[[], None]] | None]
Launch: TypeAlias = Callable[[int], None]  # does the step of that number in the epoch


class ParameterStore(Protocol):
    """What a step changes beside the optimizer's state."""

    def snapshot(self) -> dict[str, Array]: ...

    def restore(self, snapshot: dict[str, Array]) -> None: ...


class Rows:
    """The rows of one step: `size` rows of the shuffled `order`, in the epoch's step `at` of `stride` rows each."""

    __slots__ = ("at", "order", "size", "stride")

    def __init__(self, order: Array, at: Array | int, stride: int):
        self.order, self.at, self.stride = order, at, stride
        self.size = min(stride, order.shape[0] - at * stride) if isinstance(at, int) else stride

    def take(self, *arrays: Array, start: int = 0, size: int | None = None) -> tuple[Any, ...]:
        """Gather `size` of these rows of each array, from number `start` on; all of them by default."""
        return take_rows(self.order, self.at, self.stride, start, self.size if size is None else size, *arrays)

    def batches(
        self, batch_size: int, *arrays: Array, first: int = 0, count: int | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Gather these rows in batches of at most `batch_size`: `count` of them from number `first` on, or all."""
        last = None if count is None else first + count
        for piece in islice(pieces(self.size, batch_size), first, last):
            yield self.take(*arrays, start=piece.start, size=piece.stop - piece.start)


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Epoch:
    """Holds what the steps of one epoch work on.

    step: does one step, see `Step`. stride: the rows of a step. order: (n,) integers, the shuffled rows. metrics:
    (k, steps), which a step writes. state: the optimizer's state. data: the arrays that a step takes rows from.
    depends: returns what the step reads beside its arguments, for a comparison with an earlier epoch.
    """

    step: Step
    stride: int
    order: Array
    metrics: Array
    state: dict[str, Any]
    optimizer: Any
    data: tuple[Array, ...]
    depends: Callable[[], dict[str, object]] = dict
    passes: Callable[..., None] | None = None
    update: Callable[[Callable[[Array, Array], None]], None] | None = None

    @property
    def whole_steps(self) -> int:
        """Return the number of steps that have `stride` rows; a last step with fewer rows may follow."""
        return int(self.order.shape[0]) // self.stride

    def run(self, i: int) -> None:
        """Do step i without a graph."""
        for outside in self.step(Rows(self.order, i, self.stride), self.metrics, i, self.change, *self.data) or ():
            outside()

    def change(self, p: Array, g: Array) -> None:
        """Update the values p by the gradient g."""
        self.optimizer.step(p, g, self.state)


class Uncaptured:
    """Runs steps as they are."""

    def prepare(self, epoch: Epoch, *, first: int = 0, ahead: int = 0) -> Launch:
        """Prepare the steps of an epoch, and return the function that does step i of it.

        first: the first step that the caller will ask for. ahead: the whole batches that are still to come, in this
        epoch and in later ones.
        """
        return epoch.run
