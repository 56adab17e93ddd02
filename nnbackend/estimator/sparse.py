"""Train on sparse rows without a dense copy of them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnbackend.backends import to_numpy
from nnbackend.backends.steps import Uncaptured
from nnbackend.functions.array import Array, gather
from nnbackend.training import Trainer


class SparseRows:
    """Gives batches of the rows of a CSR matrix, prepared for the network at each access.

    x: a CSR matrix of SciPy, (n, features). prepare: a function that takes some of its rows, as a CSR matrix, and
    returns the input of the network's first layer.
    """

    ndim = 2

    def __init__(self, x: Any, prepare: Callable[[Any], Any]):
        self._x, self._prepare = x, prepare
        self.shape: tuple[int, int] = x.shape

    def __getitem__(self, rows: Any) -> Any:
        """Return the batch of these rows. rows: a slice or row numbers, alone or before an Ellipsis."""
        return self._prepare(self._x[rows[0] if isinstance(rows, tuple) else rows])


@gather.register
def _(x: SparseRows, rows: Array) -> Any:  # type: ignore[misc]  # its rows are made when they are asked for
    return x[to_numpy(rows)]


class SparseTrainer(Trainer):
    """Trains on `SparseRows` as well. Its steps are not captured, because they read row numbers on the host."""

    def _checked(self, x: Any, t: Any, argument: str, weight: Any = None) -> Any:
        if not isinstance(x, SparseRows):
            return super()._checked(x, t, argument, weight)
        network, n = self.network, x.shape[0]
        shape = network.output_shape(x.shape[1:])
        return (
            x,
            network.loss_layer.target(t, n, shape, network.backend, network.dtype),
            network.weights(weight, n, argument.replace("x", "sample_weight")),
        )

    def _run_epoch(self, *arguments: Any) -> None:
        self._runner = Uncaptured()
        super()._run_epoch(*arguments)
