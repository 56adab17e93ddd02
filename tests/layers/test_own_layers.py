"""Layers of one's own: they keep their arguments, and what they assign reaches the network."""

from __future__ import annotations

import copy
import pickle
from dataclasses import InitVar, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.functions.array import array_namespace


class Swish(nn.Layer):
    """A plain class with an argument, as the book writes layers."""

    def __init__(self, beta: float = 1.0):
        self.beta = beta

    def forward(self, x: Any, training: bool = False) -> Any:
        self.x, self.s = x, 1 / (1 + array_namespace(x).exp(-self.beta * x))
        return x * self.s

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy * (self.s + self.beta * self.x * self.s * (1 - self.s))


class Derived(nn.LeakyReLU):
    """A subclass of a dataclass that has another argument."""

    def __init__(self, slope: float):
        super().__init__(alpha=slope)
        self.slope = slope


class Forgetful(nn.Layer):
    def __init__(self, beta: float = 1.0):
        self._b = beta

    def forward(self, x: Any, training: bool = False) -> Any:
        return x

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy


class Anything(Forgetful):
    def __init__(self, *betas: float):
        super().__init__(1.0)


class Rule(IntEnum):
    DOUBLE = 2
    TRIPLE = 3


@dataclass
class Ruled(nn.Layer):
    """Its setting is a member of an enumeration, and its `__post_init__` takes a further argument."""

    rule: Rule = Rule.DOUBLE
    more: InitVar[float] = 0.0

    def __post_init__(self, more: float) -> None:
        self.factor = self.rule.value + more

    def forward(self, x: Any, training: bool = False) -> Any:
        return x * self.factor

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy * self.factor


@dataclass
class RuledTwice(Ruled):
    def __post_init__(self, more: float) -> None:
        super().__post_init__(more=2 * more)


class Factor(nn.Layer):
    """Its one parameter is a number, of shape ()."""

    def __init__(self) -> None:
        self.factor = nn.Parameter((), nn.Constant(2.0))

    def forward(self, x: Any, training: bool = False) -> Any:
        self._x = x
        return x * self.factor.data

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.factor.grad[...] = array_namespace(dy).sum(dy * self._x)
        return dy * self.factor.data


def test_a_parameter_that_is_a_number_comes_back_from_its_file(on: Namespace, tmp_path: Path) -> None:
    net = own(Factor())
    net.params["factor1"] = 3.0
    net.save(tmp_path / "net.safetensors")
    again = nn.load(tmp_path / "net.safetensors", layers=[Factor])
    assert tuple(again.params["factor1"].shape) == ()
    assert float(again.params["factor1"]) == 3.0


def own(layer: nn.Layer) -> nn.Network:
    return nn.Network([nn.Affine(6, 5), layer, nn.Affine(5, 3)], seed=1, dtype="float64")


@pytest.mark.parametrize(("make", "name", "value"), [
    (lambda: Swish(beta=5.0), "beta", 5.0),
    (lambda: Derived(0.3), "slope", 0.3),
])  # fmt: skip
def test_a_layer_of_one_s_own_keeps_its_arguments(
    on: Namespace, make: Any, name: str, value: float, tmp_path: Path
) -> None:
    net = own(make())
    net.save(tmp_path / "own.safetensors")
    copies = [
        nn.load(tmp_path / "own.safetensors", layers=[Swish, Derived]),
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        net.to(on.backend),
    ]
    assert [getattr(other.layers[f"{make().kind}1"], name) for other in copies] == [value] * 4
    x, t = np.random.default_rng(0).standard_normal((8, 6)), np.arange(8) % 3
    for key, gradient in net.numerical_gradient(x, t).items():
        np.testing.assert_allclose(to_numpy(net.gradient(x, t)[key]), to_numpy(gradient), atol=1e-6)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Forgetful(2.0), "argument 'beta' is not kept as self.beta"),
    (lambda: Anything(2.0), r"its constructor takes \*betas"),
])  # fmt: skip
def test_a_layer_whose_arguments_are_lost_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    net = own(make())
    for use in (lambda: net.save(tmp_path / "own"), lambda: net.to("numpy"), lambda: pickle.dumps(net)):
        with pytest.raises(TypeError, match=message):
            use()
    assert not list(tmp_path.iterdir())


@dataclass(eq=False)
class Scale(nn.Layer):
    start: float = 1.0
    rebinds: bool = False

    def __post_init__(self) -> None:
        self.scale = nn.Parameter((1,), nn.Constant(self.start))

    def forward(self, x: Any, training: bool = False) -> Any:
        self._x = x
        return x * self.scale.data

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        xp = array_namespace(dy)
        gradient = xp.reshape(xp.sum(dy * self._x), (1,))
        if self.rebinds:
            self.scale.grad = gradient
        else:
            self.scale.grad[...] = gradient
        return dy * self.scale.data


def test_a_gradient_that_is_assigned_reaches_the_optimizer(on: Namespace) -> None:
    x, t = np.random.default_rng(0).standard_normal((40, 6)), np.arange(40) % 3
    trained = []
    for rebinds in (False, True):
        net = own(Scale(2.0, rebinds))
        view = net.layers["Scale1"].scale.grad
        nn.Trainer(net, nn.SGD(0.1), batch_size=10).fit(x, t, 3)
        assert net.layers["Scale1"].scale.grad is view
        trained.append(to_numpy(net.buffer.data))
    assert trained[0].tobytes() == trained[1].tobytes()
    assert float(net.params["scale1"][0]) != 2.0


def test_an_assigned_value_is_written_through_and_a_wrong_shape_refused(on: Namespace) -> None:
    net = own(Scale())
    parameter = net.layers["Scale1"].scale
    parameter.data = on.array([3.0], "float64")
    assert float(net.params["scale1"][0]) == 3.0
    parameter.grad += 1.0
    assert float(net.grads["scale1"][0]) == 1.0
    with pytest.raises(ValueError, match=r"Parameter.grad: expected shape \(1,\), got \(2,\)"):
        parameter.grad = on.array([1.0, 2.0], "float64")


def test_settings_that_are_members_of_an_enumeration_stay_so() -> None:
    layer = RuledTwice(Rule.TRIPLE, np.float64(0.5))  # type: ignore[arg-type]
    assert layer.rule is Rule.TRIPLE
    assert layer.factor == 4
