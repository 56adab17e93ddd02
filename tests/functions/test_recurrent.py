"""RNN, LSTM and GRU: PyTorch's values and gradients, one step by its formula, and gradients by projection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close, check_projection

from nnbackend import functions
from nnbackend.backends import to_numpy

# n, T, d, h
SIZES = [(2, 5, 3, 4), (1, 1, 1, 1), (1, 4, 2, 3), (3, 1, 2, 5), (4, 3, 1, 2)]
IDS = ["-".join(map(str, size)) for size in SIZES]
ORDERS = {"rnn": [0], "lstm": [2, 0, 1, 3], "gru": [0, 1, 2]}  # for each part of PyTorch's, the number of ours
KINDS = pytest.mark.parametrize("kind", ORDERS)


def drawn(kind: str, size: tuple[int, ...], dtype: str = "float64") -> dict[str, np.ndarray]:
    """Arguments of a forward by name, in its order."""
    n, steps, d, h = size
    rng, columns = np.random.default_rng(1), len(ORDERS[kind]) * h
    shapes = {"x": (n, steps, d), "Wx": (d, columns), "Wh": (h, columns), "b": (columns,)}
    shapes |= {"gru": {"bh": (h,)}}.get(kind, {}) | {"h": (n, h)} | {"lstm": {"c": (n, h)}}.get(kind, {})
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def forward(on: Namespace, kind: str, arguments: dict[str, Any]) -> tuple[Any, ...]:
    results = getattr(functions, kind)(*arguments.values())
    return results if isinstance(results, tuple) else (results,)


def states(on: Namespace, results: tuple[Any, ...]) -> Any:
    return on.xp.permute_dims(results[0][1:, ...], (1, 0, 2))


def backward(on: Namespace, kind: str, dy: Any, arguments: dict[str, Any], results: tuple[Any, ...]) -> dict[str, Any]:
    """Gradients by the names of the arguments."""
    names = ["Wx", "Wh", "b", *(["bh"] if kind == "gru" else [])]
    written = [on.backend.asarray(np.full(tuple(arguments[name].shape), 9.0), dtype_of(dy)) for name in names]
    first = [arguments[name] for name in ("x", "Wx", "Wh")]
    dx = getattr(functions, f"{kind}_backward")(dy, *first, *results, *written)
    return {"x": dx, **dict(zip(names, written, strict=True))}


def dtype_of(a: Any) -> str:
    return str(a.dtype).rpartition(".")[2]


@KINDS
@pytest.mark.parametrize("size", SIZES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, kind: str, size: tuple[int, ...], dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    host, h = drawn(kind, size, dtype), size[3]
    module = getattr(torch.nn, kind.upper())(size[2], h, batch_first=True).to(getattr(torch, dtype))

    def parts(values: np.ndarray, order: list[int]) -> np.ndarray:
        return np.concatenate([np.split(values, len(order))[k] for k in order])

    order = ORDERS[kind]
    second = np.zeros_like(host["b"])
    if kind == "gru":
        second[2 * h :] = host["bh"]
    theirs = {"weight_ih_l0": host["Wx"].T, "weight_hh_l0": host["Wh"].T, "bias_ih_l0": host["b"], "bias_hh_l0": second}
    module.load_state_dict({name: torch.tensor(parts(values, order)) for name, values in theirs.items()})
    x = torch.tensor(host["x"], requires_grad=True)
    start = [torch.tensor(host[name])[None] for name in ("h", "c") if name in host]
    y, last = module(x, tuple(start) if len(start) == 2 else start[0])
    dy = np.random.default_rng(2).standard_normal(tuple(y.shape)).astype(dtype)
    y.backward(torch.tensor(dy))

    arguments = {name: on.array(value) for name, value in host.items()}
    results = forward(on, kind, arguments)
    terms = 10 * (size[2] + h) * size[1]
    assert_close(states(on, results), y.detach().numpy(), dtype, terms)
    if kind == "lstm":
        assert_close(results[2][-1, ...], last[1][0].detach().numpy(), dtype, terms)
    found = backward(on, kind, on.array(dy), arguments, results)
    back = [order.index(k) for k in range(len(order))]
    gradients = {name: parts(value.grad.numpy(), back) for name, value in module.named_parameters()}
    expected = {"x": x.grad.numpy(), "Wx": gradients["weight_ih_l0"].T, "Wh": gradients["weight_hh_l0"].T}
    expected["b"] = gradients["bias_ih_l0"]
    if kind == "gru":
        expected["bh"] = gradients["bias_hh_l0"][2 * h :]
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert_close(found[name], value, dtype, 4 * terms)


@KINDS
@pytest.mark.parametrize("size", SIZES[:2], ids=IDS[:2])
def test_gradient(on: Namespace, kind: str, size: tuple[int, ...]) -> None:
    host = drawn(kind, size)
    names, latest = [name for name in host if name not in "hc"], list[Any]()

    def function(*values: Any) -> Any:
        arguments = {name: on.array(value) for name, value in host.items()} | dict(zip(names, values, strict=True))
        latest[:] = [arguments, forward(on, kind, arguments)]
        return states(on, latest[1])

    def gradients(u: Any) -> list[Any]:
        found = backward(on, kind, u, *latest)
        return [found[name] for name in names]

    check_projection(on, function, gradients, [host[name] for name in names])


@KINDS
def test_without_dx(on: Namespace, kind: str) -> None:
    host = drawn(kind, SIZES[0])
    arguments = {name: on.array(value) for name, value in host.items()}
    results = forward(on, kind, arguments)
    dy = on.array(np.ones((2, 5, 4)))
    found = backward(on, kind, dy, arguments, results)
    written = [on.backend.asarray(np.zeros(tuple(value.shape))) for name, value in found.items() if name != "x"]
    first = [arguments[name] for name in ("x", "Wx", "Wh")]
    assert getattr(functions, f"{kind}_backward")(dy, *first, *results, *written, False) is None
    for ours, (name, value) in zip(written, list(found.items())[1:], strict=True):
        assert to_numpy(ours).tolist() == to_numpy(value).tolist(), name


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_one_step_by_the_formulas(on: Namespace) -> None:
    rng = np.random.default_rng(3)
    a, r, c = rng.standard_normal((3, 8)), rng.standard_normal((3, 8)), rng.standard_normal((3, 2))
    f, g, i, o = np.split(a + r, 4, axis=1)
    c_next = logistic(f) * c + logistic(i) * np.tanh(g)
    expected = [np.hstack([logistic(f), np.tanh(g), logistic(i), logistic(o)]), c_next, logistic(o) * np.tanh(c_next)]
    for found, value in zip(functions.lstm_gates(on.array(a), on.array(r), on.array(c)), expected, strict=True):
        assert_close(found, value, "float64", 4)

    a, r, bh, h = a[:, :6], r[:, :6], rng.standard_normal(2), c
    reset, z = logistic(a[:, :2] + r[:, :2]), logistic(a[:, 2:4] + r[:, 2:4])
    u = r[:, 4:] + bh
    new = np.tanh(a[:, 4:] + reset * u)
    found_gates, found_h = functions.gru_gates(on.array(a), on.array(r), on.array(bh), on.array(h))
    assert_close(found_gates, np.hstack([reset, z, new, u]), "float64", 4)
    assert_close(found_h, (1 - z) * new + z * h, "float64", 4)


def test_saturated_gates_stay_finite(on: Namespace) -> None:
    huge = on.array(np.full((2, 8), 1e4) * np.array([[1.0], [-1.0]]))
    zeros, c = on.array(np.zeros((2, 8))), on.array(np.full((2, 2), 0.5))
    gates, c_next, h = functions.lstm_gates(huge, zeros, c)
    da, dc = functions.lstm_gates_backward(c, c, gates, c, c_next)
    assert np.isfinite(np.concatenate([to_numpy(a).reshape(-1) for a in (gates, c_next, h, da, dc)])).all()
    assert to_numpy(gates)[0].tolist() == [1.0] * 8


def test_what_is_no_array_of_numbers_is_refused(on: Namespace) -> None:
    with pytest.raises(TypeError, match="lstm: x must be an array of floating numbers"):
        functions.lstm(*(on.array(np.ones((1, 1, 1), int)) for _ in range(6)))
