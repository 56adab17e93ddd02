"""Add the gradients of a step's batches in a fixed order: that of a binary tree over their numbers.

The order does not depend on how many processes the batches are dealt out to, if each process has neighbouring batches.
A node of the tree at `level` is the sum of 2**level batches, and its first batch has a number that this divides.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from nnbackend.backends import Backend
from nnbackend.functions.array import Array

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tree. first: the number of its first batch. level: it holds 2**level batches."""

    first: int
    level: int

    def completes(self, left: Node) -> bool:
        """Say whether this node and the one at its left are the two children of a node."""
        return left.level == self.level and left.first % (2 << self.level) == 0


def nodes_of(first: int, last: int) -> list[Node]:
    """Return the largest nodes that hold the batches from `first` to before `last`, from left to right."""
    stack: list[tuple[Node, None]] = []
    for number in range(first, last):
        _push(stack, Node(number, 0), None, lambda left, right: None)
    return [node for node, _ in stack]


def add_nodes(nodes: Iterable[tuple[Node, Any]]) -> Any:
    """Return the sum of all nodes of a tree, which come from left to right, each with its array or number."""
    stack: list[tuple[Node, Any]] = []
    for node, value in nodes:
        _push(stack, node, value, operator.add)
    return functools.reduce(lambda right, left: left[1] + right, reversed(stack[:-1]), stack[-1][1])


def _push(stack: list[tuple[Node, V]], node: Node, value: V, join: Callable[[V, V], V]) -> None:
    """Put a node at the right of the stack, after joining it with each left neighbour that it completes."""
    while stack and node.completes(stack[-1][0]):
        left, left_value = stack.pop()
        node, value = Node(left.first, node.level + 1), join(left_value, value)
    stack.append((node, value))


class PairwiseSum:
    """Adds gradients, and the metrics that go with them, batch by batch.

    size: the length of a gradient. most: the largest number of batches. The memory holds one gradient for each level
    of the tree. whole: whether the first batch has the number 0; if not, the tree may take twice the memory.
    """

    def __init__(self, backend: Backend, dtype: str, size: int, most: int, *, whole: bool = True):
        depth = most.bit_length() + (0 if whole else most.bit_length())
        self.backend = backend
        self.gradients = backend.zeros((depth, size), dtype)
        self.first, self.count = 0, 0
        self._nodes: list[tuple[Node, list[Array]]] = []

    def begin(self, first: int, count: int) -> None:
        """Begin anew. first: the number of the first batch that will be added. count: how many will be."""
        self.first, self.count, self._nodes = first, count, []

    def add(self, gradient: Array, metrics: list[Array]) -> None:
        """Add the next batch. gradient: (size,), which is overwritten."""
        nodes = self._nodes
        node = Node(nodes[-1][0].first + 2 ** nodes[-1][0].level if nodes else self.first, 0)

        def join(left: list[Array], right: list[Array]) -> list[Array]:
            nonlocal gradient
            gradient += self.gradients[len(nodes), ...]  # the left node is off the stack, and its gradient still here
            return _add(left, right)

        _push(nodes, node, metrics, join)
        self.gradients[len(nodes) - 1, ...] = gradient

    def parts(self) -> list[tuple[Node, Array, list[Array]]]:
        """Return the sums so far: for each node its gradient and its metrics."""
        return [(node, self.gradients[i, ...], metrics) for i, (node, metrics) in enumerate(self._nodes)]

    def resume(self, first: int, count: int, parts: list[tuple[Node, Array, list[Array]]]) -> None:
        """Take up the sums of these batches that `parts` has returned. Their arrays may hold other values by now."""
        self.begin(first, count)
        self._nodes = [(node, metrics) for node, _, metrics in parts]

    def total(self, out: Array) -> list[Array]:
        """Write the sum of all gradients to `out`, (size,), and return that of the metrics."""
        *others, (_, gradient, metrics) = self.parts()
        out[...] = gradient
        for _, left_gradient, left_metrics in reversed(others):
            out += left_gradient
            metrics = _add(left_metrics, metrics)
        return metrics


def _add(left: list[Array], right: list[Array]) -> list[Array]:
    return [a + b for a, b in zip(left, right, strict=True)]
