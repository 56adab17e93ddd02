"""Train on sparse rows without a dense copy of them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnbackend.backends import to_numpy
from nnbackend.backends.steps import Uncaptured
from nnbackend.functions.array import Array, gather
from nnbackend.training import Trainer


class SparseRows:
    """The rows of a CSR matrix, made ready for the network when they are asked for.

    x: (n, features), a CSR matrix of SciPy. prepare: takes some of its rows, a CSR matrix, and returns the batch that
    the network's first layer takes.
    """

    ndim = 2

    def __init__(self, x: Any, prepare: Callable[[Any], Any]):
        self._x, self._prepare = x, prepare
        self.shape: tuple[int, int] = x.shape

    def __getitem__(self, rows: Any) -> Any:
        """The batch of these rows: a slice or row numbers, alone or before an Ellipsis."""
        return self._prepare(self._x[rows[0] if isinstance(rows, tuple) else rows])


@gather.register
def _(x: SparseRows, rows: Array) -> Any:  # type: ignore[misc]  # its rows are made when they are asked for
    return x[to_numpy(rows)]


class SparseTrainer(Trainer):
    """A Trainer whose x may be `SparseRows`. Its steps read row numbers on the host, so none is captured."""

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
