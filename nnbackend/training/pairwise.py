"""Add the gradients of a step's batches in a fixed order: that of a binary tree over their numbers.

The order does not depend on how many processes the batches are dealt out to, if each process has neighbouring batches.
A node of the tree at `level` is the sum of 2**level batches, and its first batch has a number that this divides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nnbackend.backends import Backend
from nnbackend.functions.array import Array


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
    stack: list[Node] = []
    for number in range(first, last):
        node = Node(number, 0)
        while stack and node.completes(stack[-1]):
            node = Node(stack.pop().first, node.level + 1)
        stack.append(node)
    return stack


def add_nodes(nodes: Iterable[tuple[Node, Any]]) -> Any:
    """Return the sum of all nodes of a tree, which come from left to right, each with its array or number."""
    stack: list[tuple[Node, Any]] = []
    for node, value in nodes:
        while stack and node.completes(stack[-1][0]):
            left, left_value = stack.pop()
            node, value = Node(left.first, node.level + 1), left_value + value
        stack.append((node, value))
    total = stack.pop()[1]
    while stack:
        total = stack.pop()[1] + total
    return total


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
        before = self._nodes
        node = Node(before[-1][0].first + 2 ** before[-1][0].level if before else self.first, 0)
        while before and node.completes(before[-1][0]):
            left, left_metrics = before.pop()
            gradient += self.gradients[len(before), ...]
            metrics = [a + b for a, b in zip(left_metrics, metrics, strict=True)]
            node = Node(left.first, node.level + 1)
        self.gradients[len(before), ...] = gradient
        before.append((node, metrics))

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
            metrics = [a + b for a, b in zip(left_metrics, metrics, strict=True)]
        return metrics
