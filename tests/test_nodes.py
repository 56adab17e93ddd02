"""The nodes of a computational graph, alone and as the parts of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

import nnbackend as nn
from nnbackend import nodes
from nnbackend.backends import to_numpy

A = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
B = np.array([[0.5, -1.0, 2.0], [3.0, 0.0, -2.0]])
ROW = A[:1]


def equal(actual: Any, expected: Any) -> None:
    """Equal bit for bit: the closed forms here are sums and products of small numbers, exact in float32."""
    actual = to_numpy(actual)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, np.asarray(expected, "float32"), strict=True)


def test_add(on: Namespace) -> None:
    node = nodes.Add()
    equal(node.forward(on.array(A, "float32"), on.array(B, "float32")), A + B)
    for gradient in node.backward(on.array(B, "float32")):
        equal(gradient, B)


def test_multiply(on: Namespace) -> None:
    node = nodes.Multiply()
    equal(node.forward(on.array(A, "float32"), on.array(B, "float32")), A * B)
    dx, dy = node.backward(on.array(A - 1, "float32"))
    equal(dx, (A - 1) * B)
    equal(dy, (A - 1) * A)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_branch(on: Namespace, n: int) -> None:
    node = nodes.Branch(n)
    copies = node.forward(on.array(A, "float32"))
    assert len(copies) == n
    for copy in copies:
        equal(copy, A)
    equal(node.backward(*(on.array(B + i, "float32") for i in range(n))), sum(B + i for i in range(n)))


@pytest.mark.parametrize("n", [1, 4])
def test_repeat_and_sum_mirror_each_other(on: Namespace, n: int) -> None:
    rows = np.arange(3.0 * n).reshape(n, 3)
    repeat, total = nodes.Repeat(n), nodes.Sum()
    row_sum = rows.sum(axis=0, keepdims=True)
    equal(repeat.forward(on.array(ROW, "float32")), np.repeat(ROW, n, axis=0))
    equal(repeat.backward(on.array(rows, "float32")), row_sum)
    equal(total.forward(on.array(rows, "float32")), row_sum)
    equal(total.backward(on.array(ROW, "float32")), np.repeat(ROW, n, axis=0))


def test_matmul(on: Namespace) -> None:
    node = nodes.MatMul()
    W, dy = B.T, np.array([[1.0, -2.0], [0.5, 3.0]])
    equal(node.forward(on.array(A, "float32"), on.array(W, "float32")), A @ W)
    dx, dW = node.backward(on.array(dy, "float32"))
    equal(dx, dy @ W.T)
    equal(dW, A.T @ dy)


CASES: dict[str, tuple[Callable[[], Any], list[tuple[int, ...]]]] = {
    "Add": (nodes.Add, [(4, 3), (4, 3)]),
    "Multiply": (nodes.Multiply, [(4, 3), (4, 3)]),
    "Repeat": (lambda: nodes.Repeat(np.int64(5)), [(1, 3)]),
    "Sum": (nodes.Sum, [(5, 3)]),
    "MatMul": (nodes.MatMul, [(4, 3), (3, 2)]),
}


@pytest.mark.parametrize("name", CASES)
def test_backward_is_the_derivative_of_forward(on: Namespace, name: str) -> None:
    make, shapes = CASES[name]
    node, rng = make(), np.random.default_rng(1)

    def gradients(dy: Any) -> list[Any]:
        result = node.backward(dy)
        return list(result) if isinstance(result, tuple) else [result]

    check_projection(on, node.forward, gradients, [rng.standard_normal(shape) for shape in shapes])


def test_a_value_that_is_used_twice_gets_both_gradients(on: Namespace) -> None:
    branch, multiply = nodes.Branch(2), nodes.Multiply()

    def square(x: Any) -> Any:
        return multiply.forward(*branch.forward(x))

    def gradients(dy: Any) -> list[Any]:
        return [branch.backward(*multiply.backward(dy))]

    check_projection(on, square, gradients, [np.random.default_rng(2).standard_normal((4, 3))])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_affine_layer_is_matmul_repeat_and_add(on: Namespace, dtype: str) -> None:
    rng, n = np.random.default_rng(3), 7
    layer = nn.Affine(5, 4, bias=1.0).initialize(seed=3, dtype=dtype)
    x, dy = (on.array(rng.standard_normal(shape), dtype) for shape in ((n, 5), (n, 4)))
    matmul, repeat, add = nodes.MatMul(), nodes.Repeat(n), nodes.Add()

    y = add.forward(matmul.forward(x, layer.W.data), repeat.forward(layer.b.data[None, :]))
    d_product, d_rows = add.backward(dy)
    dx, dW = matmul.backward(d_product)
    db = repeat.backward(d_rows)

    assert_close(y, layer.forward(x), dtype, terms=6)
    assert_close(dx, layer.backward(dy), dtype, terms=4)
    assert_close(dW, layer.W.grad, dtype, terms=n)
    assert_close(db[0, :], layer.b.grad, dtype, terms=n)


def wrong(call: Callable[..., Any], *shapes: tuple[int, ...]) -> Callable[[], Any]:
    return lambda: call(*(np.zeros(shape) for shape in shapes))


def after(node: Any, *shapes: tuple[int, ...]) -> Any:
    """The node's backward, after a forward of zeros."""
    node.forward(*(np.zeros(shape) for shape in shapes))
    return node.backward


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (wrong(nodes.Add().forward, (2, 3), (3,)), r"Add: x and y must have the same shape, got \(2, 3\) and \(3,\)"),
    (wrong(nodes.Multiply().forward, (2, 3), (1, 3)), r"Multiply: x and y .* got \(2, 3\) and \(1, 3\)"),
    (wrong(nodes.Repeat(4).forward, (2, 3)), r"Repeat: x must have shape \(1, 3\), got \(2, 3\)"),
    (wrong(nodes.Repeat(4).forward, ()), r"Repeat: x must have shape \(1,\), got \(\)"),
    (wrong(nodes.Sum().forward, ()), r"Sum: x must have shape \(n, ...\), got \(\)"),
    (wrong(nodes.MatMul().forward, (2, 3), (2, 3)), r"MatMul: x and W .* got \(2, 3\) and \(2, 3\)"),
    (wrong(nodes.MatMul().forward, (3,), (3, 2)), r"MatMul: x and W .* got \(3,\) and \(3, 2\)"),
    (wrong(after(nodes.Add(), (2, 3), (2, 3)), (2,)), r"Add: dz must have shape \(2, 3\), got \(2,\)"),
    (wrong(after(nodes.Multiply(), (2, 3), (2, 3)), (1, 3)), r"Multiply: dz must have shape \(2, 3\), got \(1, 3\)"),
    (wrong(after(nodes.Branch(), (2,)), (2,)), "Branch: expected 2 gradients, one for each branch, got 1"),
    (wrong(after(nodes.Branch(), (2,)), (2,), (1,)), r"Branch: each gradient must have shape \(2,\), got \(1,\)"),
    (wrong(after(nodes.Repeat(4), (1, 3)), (1, 3)), r"Repeat: dy must have shape \(4, 3\), got \(1, 3\)"),
    (wrong(after(nodes.Sum(), (4, 3)), (4, 3)), r"Sum: dy must have shape \(1, 3\), got \(4, 3\)"),
    (wrong(after(nodes.MatMul(), (4, 3), (3, 2)), (4, 3)), r"MatMul: dy must have shape \(4, 2\), got \(4, 3\)"),
    (lambda: nodes.Repeat(0), "Repeat: n must be a positive integer, got 0"),
    (lambda: nodes.Branch(True), "Branch: n must be a positive integer, got True"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message.partition(":")[0] for _, message in REFUSED])
def test_arrays_that_do_not_meet_are_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
