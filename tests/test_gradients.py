"""Numerical gradients on every namespace, and the report that compares backpropagation with them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend import gradients
from nnbackend.backends import to_numpy
from nnbackend.gradients import Columns, Products, forward_columns, shortcut
from nnbackend.layers import ACTIVATIONS, LAYERS, LOSSES

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((5, 4)), RNG.integers(0, 3, 5)
# a central difference with h = 1e-4: the truncation is about h^2, the rounding eps / h
CLOSE = 1e-7


def weights(on: Namespace, shape: tuple[int, ...], dtype: str = "float64") -> Any:
    return on.backend.asarray(np.random.default_rng(1).standard_normal(shape), dtype)


def make(activation: str = "sigmoid", loss: nn.Loss | None = None, dtype: str = "float64", **settings: Any) -> Any:
    first, second = ACTIVATIONS[activation](), ACTIVATIONS[activation]()
    layers = [nn.Affine(4, 6, bias=0.5), first, nn.Affine(6, 5, bias=0.5), second, nn.Affine(5, 3)]
    return nn.Network(layers, loss, dtype=dtype, **settings)


def one_by_one(net: nn.Network, x: Any, t: Any) -> dict[str, Any]:
    """The whole network run for every element of every parameter, twice."""
    return {name: nn.numerical_gradient(lambda _: net.loss(x, t), view) for name, view in net.params.items()}


def differ(actual: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference, relative to the largest element of all."""
    assert list(actual) == list(expected)
    assert all(actual[name].shape == expected[name].shape for name in actual)
    size = max(float(np.max(np.abs(to_numpy(g)))) for g in expected.values())
    return max(float(np.max(np.abs(to_numpy(actual[n]) - to_numpy(expected[n])))) for n in actual) / size


# --- of a function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (2, 0)])
def test_sum_of_squares(on: Namespace, shape: tuple[int, ...]) -> None:
    x = weights(on, shape)
    before = to_numpy(x).copy()
    gradient = nn.numerical_gradient(lambda x: on.xp.sum(x**2), x)
    assert on.backend.owns(gradient)
    assert gradient.dtype == x.dtype
    np.testing.assert_allclose(to_numpy(gradient), 2 * before, rtol=0, atol=1e-9)
    assert to_numpy(x).tobytes() == before.tobytes()


def test_a_number_will_do(on: Namespace) -> None:
    x = weights(on, (3,))
    gradient = nn.numerical_gradient(lambda x: float(on.xp.sum(x**3)), x)
    np.testing.assert_allclose(to_numpy(gradient), 3 * to_numpy(x) ** 2, rtol=0, atol=2e-8)  # h^2 is 1e-8


def test_an_element_of_x_itself_will_do(on: Namespace) -> None:
    gradient = nn.numerical_gradient(lambda x: x[1], weights(on, (3,)))
    assert to_numpy(gradient) == pytest.approx([0, 1, 0], abs=1e-9)


def test_float32_has_few_digits(on: Namespace) -> None:
    x = weights(on, (4,), "float32")
    gradient = nn.numerical_gradient(lambda x: on.xp.sum(x**2), x)
    assert str(gradient.dtype).endswith("float32")
    assert to_numpy(gradient) == pytest.approx(2 * to_numpy(x), abs=2e-2)
    better = nn.numerical_gradient(lambda x: on.xp.sum(x**2), x, h=1e-2)
    assert to_numpy(better) == pytest.approx(2 * to_numpy(x), abs=2e-4)


def test_a_view_that_is_not_contiguous() -> None:
    whole = np.arange(12.0).reshape(3, 4)
    x = whole[::2, ::-1]
    np.testing.assert_allclose(nn.numerical_gradient(lambda _: np.sum(whole**2), x), 2 * x)
    np.testing.assert_array_equal(whole, np.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_x_is_restored_when_f_raises(on: Namespace, calls: int) -> None:
    x = weights(on, (2, 2), "float32")
    before = to_numpy(x).tobytes()
    left = iter(range(calls - 1))

    def f(x: Any) -> Any:
        next(left)
        return on.xp.sum(x)

    with pytest.raises(StopIteration):
        nn.numerical_gradient(f, x)
    assert to_numpy(x).tobytes() == before


def test_what_numerical_gradient_refuses(on: Namespace) -> None:
    xp, x = on.xp, weights(on, (3,))
    with pytest.raises(TypeError, match="x: expected an array of floating numbers, got a list"):
        nn.numerical_gradient(sum, [1.0, 2.0])
    with pytest.raises(TypeError, match="x: expected an array of floating numbers, got dtype .*int64"):
        nn.numerical_gradient(xp.sum, on.backend.asarray([1, 2], "int64"))
    if hasattr(xp, "float16"):
        with pytest.raises(TypeError, match="x: expected an array of float32 or float64, got dtype .*float16"):
            nn.numerical_gradient(xp.sum, xp.astype(x, xp.float16))
    for bad in (lambda x: x, lambda x: x[:1], lambda x: "a", lambda x: None):
        with pytest.raises(TypeError, match="f must return a number or a 0-d array, got "):
            nn.numerical_gradient(bad, x)
    for h in (0.0, -1e-4, float("nan"), "small"):
        with pytest.raises(ValueError, match="h: expected a finite step above 0"):
            nn.numerical_gradient(xp.sum, x, h)
    if on.readonly:
        with pytest.raises(ValueError, match="x: cannot be written to"):
            nn.numerical_gradient(np.sum, on.array([1.0, 2.0]))


# --- of a network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(on: Namespace, activation: str) -> None:
    net = make(activation)
    numerical = net.numerical_gradient(X, T)
    assert all(on.backend.owns(g) for g in numerical.values())
    assert differ(numerical, net.gradient(X, T)) < CLOSE


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_and_form_of_target(on: Namespace, kind: str) -> None:
    net = make("tanh", LOSSES[kind]())
    targets = [T, np.eye(3)[T]] if kind == "SoftmaxWithLoss" else [np.eye(3)[T]]
    for t in targets:
        assert differ(net.numerical_gradient(on.array(X, "float64"), on.array(t)), net.gradient(X, t)) < CLOSE


def test_weighted_classes(on: Namespace) -> None:
    net = make("tanh", nn.SoftmaxWithLoss(class_weight=[1.0, 2.0, 0.5], label_smoothing=0.1))
    assert differ(net.numerical_gradient(X, T), net.gradient(X, T)) < CLOSE


def test_same_values_as_one_element_at_a_time(on: Namespace) -> None:
    net = make("tanh")
    # both are differences of sums that were rounded to eps |loss|, divided by 2 h
    assert differ(net.numerical_gradient(X, T), one_by_one(net, X, T)) < 1e-10


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Affine(4, 3)],
        lambda: [nn.Tanh(), nn.Affine(4, 3), nn.Sigmoid()],
        lambda: [nn.Affine(4, 5), nn.Affine(5, 3), nn.Softmax()],
        lambda: [nn.Affine(4, 5), nn.BatchNormalization(5), nn.ReLU(), nn.Dropout(0.5), nn.Affine(5, 3)],
        lambda: [nn.Affine(4, 5), nn.LayerNormalization(5), nn.SiLU(), nn.Affine(5, 1), nn.Affine(1, 3)],
    ],
)
def test_every_path_through_the_layers(on: Namespace, layers: Any) -> None:
    net = nn.Network(layers(), nn.MeanSquaredError(), dtype="float64")
    t = np.eye(3)[T]
    net.gradient(X, t)  # running statistics that are not 0 and 1
    assert differ(net.numerical_gradient(X, t), one_by_one(net, X, t)) < 1e-10


def test_images(on: Namespace) -> None:
    net = nn.Network(
        [nn.Convolution(1, 2, 3, padding=1), nn.Tanh(), nn.AveragePooling(2), nn.Flatten(), nn.Affine(8, 3)],
        dtype="float64",
    )
    x = np.random.default_rng(2).standard_normal((2, 4, 4, 1))
    assert differ(net.numerical_gradient(x, T[:2]), net.gradient(x, T[:2])) < CLOSE


def test_xor() -> None:
    x, t = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    net = nn.TwoLayerNet(2, 3, 2, weight_init_std=1.0, dtype="float64")
    numerical = net.numerical_gradient(x, t)
    assert list(numerical) == ["W1", "b1", "W2", "b2"]
    assert differ(numerical, net.gradient(x, t)) < CLOSE


def test_float32_network_gets_its_last_digits(on: Namespace) -> None:
    net = make(dtype="float32", seed=3)
    numerical = net.numerical_gradient(X, T)
    assert all(str(g.dtype).endswith("float32") for g in numerical.values())
    exact = net.to(net.backend, "float64").gradient(X.astype("float32"), T)
    assert differ(numerical, exact) < CLOSE + 6e-8  # and the rounding of the result


@pytest.mark.parametrize("chunk", [1, 77, 400])
def test_pieces_make_no_difference(monkeypatch: pytest.MonkeyPatch, on: Namespace, chunk: int) -> None:
    net = make("tanh")
    whole = net.numerical_gradient(X, T)
    monkeypatch.setattr(gradients, "CHUNK", chunk)
    assert differ(net.numerical_gradient(X, T), whole) < 1e-10


def test_the_arrays_that_travel_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original, of_products = nn.SoftmaxWithLoss.rows, gradients.loss_of_products

    def rows(self: nn.SoftmaxWithLoss, y: Any, t: Any) -> Any:
        sizes.append(y.size)
        return original(self, y, t)

    def products(loss: nn.Loss, y: Products, t: Any) -> Any:
        sizes.append(y.rows().size)
        return of_products(loss, y, t)

    monkeypatch.setattr(nn.SoftmaxWithLoss, "rows", rows)
    monkeypatch.setattr(gradients, "loss_of_products", products)
    monkeypatch.setattr(gradients, "CHUNK", 200)
    make().numerical_gradient(X, T)
    assert 100 < max(sizes) <= 200


def test_no_backward_is_called_and_the_network_stays(monkeypatch: pytest.MonkeyPatch, on: Namespace) -> None:
    net = make()
    expected = net.gradient(X, T)
    before, kept = to_numpy(net.buffer.data).tobytes(), net.buffer.snapshot()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a backward was called")

    for kind in [*LAYERS.values(), *LOSSES.values()]:
        monkeypatch.setattr(kind, "backward", refuse)
    for name in [name for name in vars(nn.layers.activations) if name.endswith("_backward")]:
        monkeypatch.setattr(nn.layers.activations, name, refuse)
    assert differ(net.numerical_gradient(X, T), expected) < CLOSE
    monkeypatch.undo()
    assert to_numpy(net.buffer.data).tobytes() == before
    assert int(net.buffer.clock[0]) == int(kept["clock"][0])
    net.backward()  # of the pass in `gradient`, whose memory no numerical gradient has touched
    assert differ(dict(net.grads), expected) == 0.0


def test_bad_arguments_of_the_network_s() -> None:
    net = make()
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 4\)"):
        net.numerical_gradient(X[:, :3], T)
    with pytest.raises(ValueError, match="h: expected a finite step above 0"):
        net.numerical_gradient(X, T, h=0)


@pytest.mark.parametrize("kind", [*ACTIVATIONS.values(), nn.Softmax, nn.Dropout, nn.Flatten])
def test_a_layer_says_elementwise_if_it_is(kind: type[nn.Layer]) -> None:
    x = RNG.standard_normal((3, 2, 2))
    together = kind().forward(x)
    apart = np.reshape([kind().forward(np.reshape(element, (1, 1, 1))) for element in x.flat], x.shape)
    same = together.shape == x.shape and np.allclose(apart, together, rtol=1e-12)
    assert kind.elementwise == same


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_given_changed_columns_alone(on: Namespace, activation: str) -> None:
    class Watched(ACTIVATIONS[activation]):  # type: ignore[misc]
        def forward(self, x: Any, training: bool = False) -> Any:
            shapes.add(tuple(x.shape))
            return super().forward(x, training)

    shapes: set[tuple[int, ...]] = set()
    net = nn.Network([nn.Affine(4, 6), Watched(), nn.Affine(6, 3)], dtype="float64")
    assert differ(net.numerical_gradient(X, T), net.gradient(X, T)) < CLOSE
    assert shapes == {(5, 6), (5, 24), (5, 6)}  # the batch; a column for each of 24 weights, and of 6 biases


def test_columns_in_full(on: Namespace) -> None:
    x = on.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    columns = Columns(x, on.array([2, 0]), on.array([[-1.0, -2.0], [-3.0, -4.0]]))
    expected = [[1, 2, -1], [-2, 2, 3], [4, 5, -3], [-4, 5, 6]]
    assert to_numpy(columns.rows()).tolist() == expected


def test_products_in_full(on: Namespace) -> None:
    x = on.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    products = Products(x, on.array([[1.0, 2.0], [-1.0, 0.0]]), on.array([[1.0, 0.0, 10.0], [0.0, 7.0, 0.0]]))
    expected = [[2, 2, 13], [1, 16, 3], [3, 5, -4], [4, 5, 6]]
    assert to_numpy(products.rows()).tolist() == expected
    changed = Columns(x, on.array([2, 0]), on.array([[-1.0, -2.0], [-3.0, -4.0]]))
    assert to_numpy(changed.products().rows()).tolist() == to_numpy(changed.rows()).tolist()


@dataclass(eq=False)
class Halved(nn.SoftmaxWithLoss):
    def rows(self, y: Any, t: Any) -> Any:
        return super().rows(y, t) / 2


def test_a_loss_of_ones_own_is_asked(on: Namespace) -> None:
    net, halved = make(), make(loss=Halved())
    expected = {name: g / 2 for name, g in net.numerical_gradient(X, T).items()}
    assert differ(halved.numerical_gradient(X, T), expected) < 1e-10


def test_processors_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Affine(4, 6), nn.BatchNormalization(6), nn.Tanh(), nn.Affine(6, 5), nn.LayerNormalization(5)]
    net = nn.Network([*layers, nn.Affine(5, 3)], dtype="float64")
    alone = net.numerical_gradient(X, T)
    threads: set[int] = set()
    original = gradients.loss_of_products

    def noted(loss: nn.Loss, y: Products, t: Any) -> Any:
        threads.add(threading.get_ident())
        return original(loss, y, t)

    monkeypatch.setattr(gradients, "loss_of_products", noted)
    monkeypatch.setattr(gradients, "SHARED", 0)
    monkeypatch.setattr(gradients, "CHUNK", 60)
    monkeypatch.setattr(type(net.backend), "threads", 3)
    before = to_numpy(net.buffer.data).tobytes()
    assert differ(net.numerical_gradient(X, T), alone) < 1e-10  # LayerNormalization has no short way: it writes values
    assert threading.get_ident() not in threads
    assert to_numpy(net.buffer.data).tobytes() == before


@dataclass(eq=False)
class Squared(nn.Affine):
    """An Affine with another forward, which the shortcut of Affine does not know."""

    def forward(self, x: Any, training: bool = False) -> Any:
        self._y = super().forward(x, training)
        return self._y**2

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return super().backward(2 * self._y * dy, need_dx)


def test_a_subclass_with_a_forward_of_its_own_takes_the_general_way(on: Namespace) -> None:
    net = nn.Network([nn.Affine(4, 5), Squared(5, 6), Squared(6, 3)], nn.MeanSquaredError(), dtype="float64")
    assert differ(net.numerical_gradient(X, np.eye(3)[T]), net.gradient(X, np.eye(3)[T])) < CLOSE


@pytest.mark.parametrize("registered", [False, True])
def test_a_shortcut_of_one_s_own(on: Namespace, registered: bool) -> None:
    class Twice(nn.Layer):
        def forward(self, x: Any, training: bool = False) -> Any:
            seen.append(x.shape)
            return 2.0 * x

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            return 2.0 * dy

    if registered:

        @shortcut(forward_columns, Twice)
        def _(layer: nn.Layer, x: Columns, y: Any) -> Columns:
            return Columns(y, x.columns, 2.0 * x.values)

    seen: list[tuple[int, ...]] = []
    net = nn.Network([nn.Affine(4, 5), Twice(), nn.Affine(5, 3)], dtype="float64")
    assert differ(net.numerical_gradient(X, T), net.gradient(X, T)) < CLOSE
    rows = {shape[0] for shape in seen}
    assert rows == ({5} if registered else {5, 5 * 20, 5 * 5})  # 5 rows; those of 20 weights and of 5 biases


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Crooked(nn.Sigmoid):
    """A sigmoid whose gradient is a hundredth too large."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return 1.01 * super().backward(dy, need_dx)


@dataclass(eq=False)
class Forgetful(nn.Affine):
    """An Affine that forgets one element of its gradient."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        self.b.grad[1] = float("nan")
        return dx

    def config(self) -> dict[str, Any]:
        return super().config()


@dataclass(eq=False)
class Doubled(nn.MeanSquaredError):
    def backward(self) -> Any:
        return 2.0 * super().backward()


def test_a_network_that_is_right(on: Namespace) -> None:
    layers = [nn.ReLU(), nn.Affine(4, 6), nn.BatchNormalization(6), nn.ReLU(), nn.Dropout(0.2), nn.Affine(6, 3)]
    net = nn.Network(layers)
    before = net.buffer.snapshot()
    report = nn.check_gradients(net, X, T)
    assert report.ok, str(report)
    assert report.at_fault is None
    assert [(row.name, row.layer) for row in report.rows] == [
        ("W1", "Affine1"),
        ("b1", "Affine1"),
        ("x", "BatchNormalization1"),
        ("gamma1", "BatchNormalization1"),
        ("beta1", "BatchNormalization1"),
        ("x", "ReLU2"),
        ("x", "Dropout1"),
        ("x", "Affine2"),
        ("W2", "Affine2"),
        ("b2", "Affine2"),
        ("x", "SoftmaxWithLoss"),
    ]
    assert report.rows[0].shape == (4, 6)
    for name, value in net.buffer.snapshot().items():
        assert to_numpy(value).tobytes() == to_numpy(before[name]).tobytes()
    assert not to_numpy(net.buffer.grad).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", LOSSES)
def test_every_activation_with_every_loss(activation: str, kind: str) -> None:
    t = T if kind == "SoftmaxWithLoss" else np.eye(3)[T]
    report = nn.check_gradients(make(activation, LOSSES[kind](), "float32"), X, t)
    assert report.ok, str(report)


def test_a_wrong_layer_is_named() -> None:
    net = nn.Network([nn.Affine(4, 5), nn.Tanh(), nn.Affine(5, 4), Crooked(), nn.Affine(4, 3)])
    report = nn.check_gradients(net, X, T)
    assert not report.ok
    assert report.at_fault == "Crooked1"
    assert max(row.projected for row in report.rows) == pytest.approx(0.01, rel=0.5)
    assert {row.layer for row in report.rows if row.passed} == {"Affine3", "SoftmaxWithLoss"}


def test_a_wrong_loss_is_named() -> None:
    report = nn.check_gradients(make(loss=Doubled()), X, np.eye(3)[T])
    assert (report.at_fault, any(row.passed for row in report.rows)) == ("Doubled", False)


def test_a_gradient_that_is_no_number_fails() -> None:
    report = nn.check_gradients(nn.Network([nn.Affine(4, 5), nn.Tanh(), Forgetful(5, 3)]), X, T)
    assert [row.name for row in report.rows if not row.passed] == ["b2"]
    assert report.worst.projected == float("inf")


def test_a_kink_within_the_step_is_no_error() -> None:
    net = nn.Network([nn.Affine(1, 1), nn.ReLU(), nn.Affine(1, 1)], nn.MeanSquaredError(), dtype="float64")
    net.params["W1"], net.params["b1"] = np.ones((1, 1)), np.full(1, 1e-6)
    net.params["W2"], net.params["b2"] = np.ones((1, 1)), np.ones(1)
    assert nn.check_gradients(net, np.zeros((1, 1)), np.zeros((1, 1))).ok


def test_zero_biases_and_blank_images_are_no_error() -> None:
    layers = [nn.Convolution(1, 2, 3), nn.ReLU(), nn.MaxPooling(2), nn.Flatten(), nn.Affine(8, 4), nn.ReLU()]
    report = nn.check_gradients(nn.Network([*layers, nn.Affine(4, 3)]), np.zeros((2, 6, 6, 1)), T[:2])
    assert report.ok, str(report)


def test_two_backends(on: Namespace) -> None:
    net = make()
    report = nn.check_gradients(net, X, T, against="numpy", directions=0, samples=0)
    assert report.ok, str(report)
    assert all((row.projected, row.sampled) == (None, None) for row in report.rows)
    assert all((row.against is None) == (row.name == "x") for row in report.rows)


def test_two_backends_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("array_api_strict")
    original = nn.Affine.backward

    def backward(self: nn.Affine, dy: Any, need_dx: bool = True) -> Any:
        dx = original(self, dy, need_dx)
        if not isinstance(dy, np.ndarray):
            self.b.grad[...] = self.b.grad * 1.001
        return dx

    monkeypatch.setattr(nn.Affine, "backward", backward)
    report = nn.check_gradients(make(), X, T, against="array_api_strict:device1")
    assert [row.name for row in report.rows if not row.passed] == ["b1", "b2", "b3"]
    assert report.worst.against == pytest.approx(0.001, rel=0.01)


def test_a_bias_before_normalisation_is_rounding_on_both() -> None:
    net = nn.Network([nn.Affine(4, 6), nn.BatchNormalization(6), nn.ReLU(), nn.Affine(6, 3)])
    report = nn.check_gradients(net, X, T, against="array_api_strict")
    assert report.ok, str(report)


def test_the_report_is_a_table() -> None:
    net = nn.Network([nn.Affine(4, 5), Crooked(), nn.Affine(5, 3)], dtype="float64")
    lines = str(nn.check_gradients(net, X, T, against="numpy")).splitlines()
    assert lines[0].split() == ["gradient", "layer", "shape", "projected", "sampled", "against", "numpy"]
    assert [line.split()[0] for line in lines[1:-1]] == ["W1", "b1", "x", "x", "W2", "b2", "x"]
    starts = {line.index(row) for line, row in zip(lines[1:3], ("Affine1", "Affine1"), strict=True)}
    assert starts == {lines[0].index("layer")}
    assert lines[1].endswith("FAILED")
    assert lines[5].endswith("ok")
    assert lines[-1] == "look first at the backward of Crooked1 (relative tolerance: 1e-05, 1e-08 against numpy)"


def test_one_seed_gives_one_report() -> None:
    first, again, other = (nn.check_gradients(make(), X, T, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_bad_arguments_of_check_gradients() -> None:
    net = make()
    for settings, message in (
        ({"directions": -1}, "directions: expected an integer of at least 0, got -1"),
        ({"samples": 1.5}, "samples: expected an integer of at least 0, got 1.5"),
        ({"tolerance": 0.0}, "tolerance: expected a number above 0"),
        ({"tolerance": "small"}, "tolerance must be a number, got 'small'"),
        ({"directions": 0, "samples": 0}, "there is nothing to compare with"),
        ({"seed": -1}, "seed must be an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.check_gradients(net, X, T, **settings)
    with pytest.raises(nn.BackendError, match="Did you mean 'cupy'"):
        nn.check_gradients(net, X, T, against="cuppy")
    with pytest.raises(ValueError, match="x has 5 rows, but t has 4"):
        nn.check_gradients(net, X, T[:4])
