from __future__ import annotations

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn


def test_parameters_are_views_of_one_buffer(on: Namespace) -> None:
    net = nn.Network([nn.Affine(3, 2), nn.ReLU(), nn.Affine(2, 4)])
    assert tuple(net.buffer.data.shape) == (3 * 2 + 2 + 2 * 4 + 4,)
    net.buffer.data[...] = on.array(np.arange(20), "float32")
    assert_close(net.params["W1"], np.arange(6, dtype="float32").reshape(3, 2), "float32")
    assert_close(net.params["b2"], np.arange(16, 20, dtype="float32"), "float32")
    net.params["b1"][...] = on.array([-1.0, -2.0], "float32")
    assert_close(net.buffer.data[6:8], np.array([-1, -2], "float32"), "float32")


def test_assigning_to_a_parameter_writes_through(on: Namespace) -> None:
    net = nn.Network([nn.Affine(2, 2)])
    net.layers["Affine1"].W.data = on.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    assert_close(net.buffer.data[:4], np.array([1, 2, 3, 4], "float32"), "float32")
    net.layers["Affine1"].W.data = 5.0
    assert_close(net.buffer.data[:4], np.array([5, 5, 5, 5], "float32"), "float32")
    for value in ([1.0, 2.0], on.array([1.0, 2.0], "float32")):  # it must not become two equal rows
        with pytest.raises(ValueError, match=r"Parameter.data: expected shape \(2, 2\), got \(2,\)"):
            net.layers["Affine1"].W.data = value


def test_setting_an_item_writes_through(on: Namespace) -> None:
    net = nn.Network([nn.Affine(2, 2)])
    net.params["W1"] = [[1.0, 2.0], [3.0, 4.0]]
    assert_close(net.buffer.data[:4], np.array([1, 2, 3, 4], "float32"), "float32")
    with pytest.raises(ValueError, match=r"W1: expected shape \(2, 2\), got \(3,\)"):
        net.params["W1"] = [1.0, 2.0, 3.0]
    with pytest.raises(KeyError):
        net.params["W7"] = [1.0]
    assert list(net.params) == ["W1", "b1"]
    assert len(net.params) == 2
    assert repr(net.params) == "{W1: (2, 2), b1: (2,)}"
