"""A library of one's own becomes a backend in twenty lines, and a network trains on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import array_api_compat.numpy as np_xp
import numpy as np
import pytest

import nnbackend as nn
from nnbackend.backends.base import ROOMS


class Array(np.ndarray):
    """An array of a library called "fifth", which is NumPy under another name."""


Array.__module__ = "fifth"


class FifthBackend(nn.Backend):
    family = "fifth"

    @classmethod
    def open(cls, device: str) -> nn.Backend:
        if device:
            raise nn.BackendError(f"fifth has one device; got {device!r}")
        return cls("fifth", np_xp, "cpu")

    @classmethod
    def to_host(cls, x: Any) -> Any:
        return np.asarray(x)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self.put(np.zeros(shape, dtype))

    def put(self, host: np.ndarray) -> Any:
        return host.copy().view(Array)


@pytest.fixture
def fifth(monkeypatch: pytest.MonkeyPatch) -> Iterator[nn.Backend]:
    module = ModuleType("fifth")
    module.__version__ = "5.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fifth", module)
    monkeypatch.setitem(ROOMS, "fifth", FifthBackend)
    with nn.using("fifth") as backend:
        yield backend


def test_a_network_trains_on_another_library(fifth: nn.Backend) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    t = (x[:, 0] > 0).astype("int64")
    net = nn.Network([nn.Affine(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Affine(8, 2)], seed=1)
    assert type(net.buffer.data) is Array
    history = nn.Trainer(net, nn.Adam(0.05), batch_size=20).fit(x, t, 20)
    assert type(net.predict(x)) is Array
    assert history.loss[-1] < 0.2 < history.loss[0]
    with nn.using("numpy"):
        same = nn.Network([nn.Affine(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Affine(8, 2)], seed=1)
        assert nn.Trainer(same, nn.Adam(0.05), batch_size=20).fit(x, t, 20).loss == pytest.approx(
            history.loss, rel=1e-4
        )


def test_it_is_listed_and_named_as_the_others_are(fifth: nn.Backend) -> None:
    from nnbackend.doctor import examine

    assert "fifth" in nn.available()
    assert any((check.name, check.detail) == ("fifth", "5.0") for check in examine())
    with pytest.raises(nn.BackendError, match="one device; got '1'"):
        nn.use("fifth:1")
    x = fifth.zeros((2,), "float32")
    shared = nn.backends.resolve("numpy").asarray(x)
    assert type(shared) is np.ndarray
    assert np.shares_memory(shared, x)


def test_an_unknown_name_still_gets_a_suggestion(fifth: nn.Backend) -> None:
    with pytest.raises(nn.BackendError, match="Did you mean 'fifth'"):
        nn.use("fith")
