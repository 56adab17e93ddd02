"""How the steps of an epoch are run: their rows, and the runner that takes one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

from nnbackend.functions import take_rows
from nnbackend.functions.array import Array, pieces

# step(rows, figures, at, update, *data): take its rows of the data, record its figures at `at`, call update(p, g)
Step: TypeAlias = Callable[..., None]
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

    def batches(self, batch_size: int, *arrays: Array) -> Iterator[tuple[Any, ...]]:
        """Gather these rows in batches of at most `batch_size`, one after the other."""
        for piece in pieces(self.size, batch_size):
            yield self.take(*arrays, start=piece.start, size=piece.stop - piece.start)


class Uncaptured:
    """Runs steps as they are."""

    def epoch(
        self,
        step: Step,
        stride: int,
        order: Array,
        figures: Array,
        state: dict[str, Any],
        optimizer: Any,
        data: tuple[Array, ...],
        *,
        first: int = 0,
        ahead: int = 0,
        depends: Callable[[], dict[str, object]] = dict,
    ) -> Launch:
        """Prepare the steps of an epoch and return the function that does step i of it.

        step: see above. stride: rows of a step; order: (n,) integers, the shuffled rows; figures: (k, steps).
        first: the first step that will be asked for. ahead: whole batches that are still to come, of this epoch and
        later ones. depends: returns what the step reads beside its arguments, for comparison with an earlier epoch.
        """

        def update(p: Array, g: Array) -> None:
            optimizer.step(p, g, state)

        return lambda i: step(Rows(order, i, stride), figures, i, update, *data)
