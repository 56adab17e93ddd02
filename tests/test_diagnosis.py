"""What `nn.diagnose` finds, and that it leaves a healthy network alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.layers import ACTIVATIONS

ROWS = np.random.default_rng(0).standard_normal((60, 5))
LABELS = np.arange(60) % 3


def network(activation: Callable[[], nn.Layer], depth: int, weight: Any = None, bias: Any = "zeros") -> nn.Network:
    """5-16-...-16-3 with `depth` hidden layers."""
    layers: list[nn.Layer] = []
    for i in range(depth):
        layers += [nn.Affine(16 if i else 5, 16, weight, bias), activation()]
    return nn.Network([*layers, nn.Affine(16, 3)], dtype="float64")


def words(net: nn.Network, x: Any = ROWS, t: Any = LABELS) -> dict[str, str]:
    """Layer and what is wrong there."""
    return {finding.layer: finding.what for finding in nn.diagnose(net, x, t).findings}


def test_stalled_xor(on: Namespace) -> None:
    x, t = nn.datasets.xor()
    widths = [2, 4, 4, 2]
    layers: list[nn.Layer] = []
    for i in range(3):
        layers += [nn.Affine(widths[i], widths[i + 1], nn.Uniform(0.0, 1.0), 1.0), nn.Sigmoid()]
    net = nn.Network(layers[:-1], seed=0)
    nn.Trainer(net, nn.SGD(lr=0.01), batch_size=4).fit(x, t, epochs=500)
    found = nn.diagnose(net, x, t)
    assert not found.ok
    assert [finding.layer for finding in found.findings] == ["output"]
    assert "answers nearly the same for every input" in str(found)
    assert "Try a larger learning rate or Adam" in str(found)
    assert found.loss == pytest.approx(net.loss(x, t))
    assert found.loss == pytest.approx(found.constant_loss, rel=0.01)


def test_trained_xor(on: Namespace) -> None:
    x, t = nn.datasets.xor()
    net = nn.Network([nn.Affine(2, 8), nn.Tanh(), nn.Affine(8, 2)], seed=0)
    nn.Trainer(net, nn.Adam(lr=0.1), batch_size=4).fit(x, t, epochs=60)
    found = nn.diagnose(net, x, t)
    assert net.accuracy(x, t) == 1.0
    assert found.ok
    assert found.findings == ()
    assert str(found).endswith("Nothing hinders learning.")


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
def test_saturated_units(on: Namespace, activation: Callable[[], nn.Layer]) -> None:
    found = words(network(activation, 1, weight=30.0))
    (name,) = (layer for layer in found if layer != "output")
    assert name == f"{activation.__name__}1"  # type: ignore[attr-defined]
    assert "of its outputs are saturated" in found[name]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_slopes_of_every_activation_are_looked_at(on: Namespace, activation: str) -> None:
    """At -100 every activation is flat, if LeakyReLU's slope is below what counts as flat."""
    make = {"leaky_relu": lambda: nn.LeakyReLU(1e-3)}.get(activation, ACTIVATIONS[activation])
    found = words(network(make, 1, bias=nn.Constant(-100.0)))
    assert found[f"{make().kind}1"].startswith(("16 of 16 units are dead", "100% of its outputs are saturated"))


@dataclass(eq=False)
class Step(nn.Layer):
    """Nearly flat everywhere, and known to the library under no name."""

    elementwise = True

    def forward(self, x: Any, training: bool = False) -> Any:
        return 1e-3 * x + 1.0

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return 1e-3 * dy


def test_layers_are_judged_by_what_they_do() -> None:
    assert words(network(Step, 1))["Step1"].startswith("100% of its outputs are saturated")


def test_dead_units(on: Namespace) -> None:
    found = nn.diagnose(network(nn.ReLU, 2, bias=nn.Constant(-100.0)), ROWS, LABELS)
    assert "ReLU1: 16 of 16 units are dead" in str(found)
    assert "LeakyReLU" in str(found)
    assert "dead" not in str(nn.diagnose(network(nn.LeakyReLU, 2, bias=nn.Constant(-100.0)), ROWS, LABELS))


def test_a_few_dead_units_are_no_news() -> None:
    net = network(nn.ReLU, 1)
    net.params["b1"][:3] = -100.0
    assert nn.diagnose(net, ROWS, LABELS).ok
    net.params["b1"][:4] = -100.0
    assert words(net)["ReLU1"].startswith("4 of 16 units are dead")


def test_vanishing_gradients(on: Namespace) -> None:
    found = words(network(nn.Sigmoid, 8))
    (name,) = (layer for layer in found if layer != "output")
    assert name.startswith("Affine")
    assert "the gradient vanishes" in found[name]
    assert words(network(nn.Sigmoid, 1)).keys() <= {"output"}


def test_exploding_values_and_gradients(on: Namespace) -> None:
    text = str(nn.diagnose(network(nn.ReLU, 4, weight=5.0), ROWS, LABELS))
    assert "the gradient explodes" in text
    assert "values explode" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, on the way to the answer
def test_values_that_are_not_finite(on: Namespace, value: float) -> None:
    net = network(nn.Tanh, 2)
    net.params["W2"][0, 0] = value
    found = nn.diagnose(net, ROWS, LABELS)
    assert [(finding.layer, finding.what) for finding in found.findings] == [("Affine2", "its output is not finite")]


@pytest.mark.parametrize("activation", [kind for name, kind in ACTIVATIONS.items() if name != "sigmoid"])
def test_a_fresh_network_with_its_own_initializer_is_healthy(activation: Callable[[], nn.Layer]) -> None:
    assert nn.diagnose(network(activation, 3), ROWS, LABELS).ok


def test_one_hot_rows_are_labels_in_another_form(on: Namespace) -> None:
    net = network(nn.Sigmoid, 3, weight=0.01)
    labels, rows = nn.diagnose(net, ROWS, LABELS), nn.diagnose(net, ROWS, np.eye(3)[LABELS])
    assert str(labels) == str(rows)
    assert not labels.ok


def test_regression(on: Namespace) -> None:
    net = nn.Network([nn.Affine(5, 1, nn.Constant(0.0))], nn.MeanSquaredError(), dtype="float64")
    t = 1000.0 * (ROWS[:, :1] - 1.0)
    assert "answers nearly the same" in words(net, ROWS, t)["output"]
    net.params["W1"][0, 0] = 700.0
    net.params["b1"][0] = -1000.0
    assert nn.diagnose(net, ROWS, t).ok  # large values, but so are the targets'


def test_targets_that_are_all_the_same_may_be_answered_alike() -> None:
    assert nn.diagnose(network(nn.Tanh, 1, weight=0.0), ROWS, np.zeros(60, int)).ok


def test_diagnosing_changes_nothing(on: Namespace) -> None:
    net = nn.Network([nn.Affine(5, 8), nn.BatchNormalization(8), nn.ReLU(), nn.Dropout(), nn.Affine(8, 3)])
    net.gradient(ROWS, LABELS)
    before = {name: to_numpy(getattr(net.buffer, name)).copy() for name in ("data", "grad", "state", "clock")}
    nn.diagnose(net, ROWS, LABELS)
    for name, values in before.items():
        np.testing.assert_array_equal(to_numpy(getattr(net.buffer, name)), values)


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected shape \(n, 5\)"):
        nn.diagnose(network(nn.ReLU, 1), ROWS[:, :4], LABELS)


def bounded(*tail: nn.Layer, loss: nn.Loss | None = None, classes: int = 10) -> tuple[nn.Network, Any, Any]:
    """A network whose outputs end in `tail`, trained a little, with its data."""
    x = np.random.default_rng(1).standard_normal((200, 6))
    t: Any = x @ np.random.default_rng(2).standard_normal((6, classes))
    t = t.argmax(axis=1) if loss is None or isinstance(loss, nn.SoftmaxWithLoss) else (t > 0).astype(float)
    net = nn.Network([nn.Affine(6, 16), nn.ReLU(), nn.Affine(16, classes), *tail], loss, dtype="float64")
    nn.Trainer(net, nn.Adam(0.01), batch_size=50).fit(x, t, 30)
    return net, x, t


@pytest.mark.parametrize("classes", [2, 10])
def test_softmax_before_a_loss_that_has_one(on: Namespace, classes: int) -> None:
    net, x, t = bounded(nn.Softmax(), classes=classes)
    (what,) = [finding for finding in nn.diagnose(net, x, t).findings if finding.layer == "Softmax1"]
    assert "are probabilities already" in what.what
    least = math.log(math.e + classes - 1) - 1  # -log(e / (e + classes - 1)), the loss of a row (1, 0, ..., 0)
    assert f"cannot fall below {least:.3g}" in what.what
    assert "leaving it out: SoftmaxWithLoss" in what.advice


@dataclass(eq=False)
class Shares(nn.Layer):
    """Softmax once more, known to the library under no name."""

    def forward(self, x: Any, training: bool = False) -> Any:
        self._y = nn.functions.softmax(x)
        return self._y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return nn.functions.softmax_backward(dy, self._y)


@pytest.mark.parametrize(
    ("tail", "loss", "place", "least"),
    [
        ([Shares], nn.SoftmaxWithLoss, "Shares1", math.log(math.e + 9) - 1),
        ([nn.Softmax, nn.Dropout], nn.SoftmaxWithLoss, "Softmax1", math.log(math.e + 9) - 1),
        ([nn.Sigmoid], nn.SoftmaxWithLoss, "Sigmoid1", math.log(math.e + 9) - 1),
        ([nn.Tanh], nn.SoftmaxWithLoss, "Tanh1", math.log(1 + 9 * math.exp(-2))),
    ],
)
def test_outputs_between_bounds(tail: Any, loss: Any, place: str, least: float) -> None:
    found = words(*bounded(*(kind() for kind in tail), loss=loss()))
    assert f"cannot fall below {least:.3g}" in found[place]


def test_sigmoid_before_a_loss_that_has_one() -> None:
    net, x, t = bounded(nn.Sigmoid(), loss=nn.SigmoidWithLoss(), classes=1)
    yes = float(t.mean())  # at best 1 for a yes, 0 for a no
    least = yes * math.log(1 + math.exp(-1)) + (1 - yes) * math.log(2)
    assert f"Sigmoid1: its outputs lie in 0 to 1 whatever arrives, so the loss cannot fall below {least:.3g}" in str(
        nn.diagnose(net, x, t)
    )


def test_targets_beyond_what_the_outputs_reach() -> None:
    net = nn.Network([nn.Affine(5, 8), nn.ReLU(), nn.Affine(8, 1), nn.Sigmoid()], nn.MeanSquaredError())
    t = np.where(ROWS[:, :1] > 0, 3.0, -1.0)
    least = float(np.mean(np.where(t > 0, 4.0, 1.0)))  # (3 - 1)^2, (-1 - 0)^2
    assert f"cannot fall below {least:.3g}" in words(net, ROWS, t)["Sigmoid1"]


@pytest.mark.parametrize(
    ("tail", "loss"),
    [
        ([], nn.SoftmaxWithLoss()),
        ([], nn.SoftmaxWithLoss(label_smoothing=0.2)),
        ([nn.Dropout], nn.SoftmaxWithLoss(label_smoothing=0.2)),
        ([nn.ReLU], nn.SoftmaxWithLoss()),
        ([nn.Dropout], nn.SoftmaxWithLoss(class_weight=[1.0, 5.0, 1.0])),
        ([nn.Sigmoid], nn.MeanSquaredError()),
        ([nn.Softmax], nn.MeanSquaredError()),
        ([nn.Dropout], nn.SigmoidWithLoss(pos_weight=3.0)),
    ],
)
def test_outputs_that_reach_their_targets(tail: Any, loss: nn.Loss) -> None:
    net, x, t = bounded(*(kind() for kind in tail), loss=loss, classes=3)
    if isinstance(loss, nn.MeanSquaredError):
        t = np.eye(3)[t.argmax(axis=1)]
    assert "cannot fall" not in str(nn.diagnose(net, x, t))


def test_what_is_no_network() -> None:
    with pytest.raises(TypeError, match="net: expected a Network, got str"):
        nn.diagnose("digits.safetensors", ROWS, LABELS)  # type: ignore[arg-type]
