"""The state of a training run: everything that changes while it trains, except the network's own values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from nnbackend.backends import to_numpy
from nnbackend.functions.array import Array, MaybeArray
from nnbackend.network import Network
from nnbackend.optimizers import State
from nnbackend.training.history import History

_COUNTERS = {  # the name of each counter in a file
    "fits": "fits",
    "first_epoch": "began",
    "last_epoch": "last_epoch",
    "epoch": "epoch",
    "step": "position",
}


@dataclass
class RunState:
    """Holds where a training run is and what it has recorded.

    optimizer: the state of the optimizer. history: one entry for every completed epoch. fits: the number of calls of
    `fit`. first_epoch, last_epoch: the numbers of completed epochs at which the present fit begins and ends. epoch:
    the completed epochs. step: the steps done in the epoch that is under way. seconds: the time spent on that epoch.
    metrics: (k, steps) on the device, for each step of that epoch the loss and the number of correct rows, and with
    sample weights their sum; None before the first step.
    """

    optimizer: State
    history: History = field(default_factory=History)
    fits: int = 0
    first_epoch: int = 0
    last_epoch: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    metrics: MaybeArray = None

    def content(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what a file holds of this state: arrays by name, and all else as JSON-able values."""
        numbers, buffers = numbers_and_arrays(self.optimizer)
        if "lr_scale" in buffers:  # an array of one element
            numbers["lr_scale"] = float(to_numpy(buffers.pop("lr_scale")).item())
        arrays = {f"optimizer.{name}": value for name, value in buffers.items()}
        if self.step:
            arrays["training.figures"] = self.metrics
        counters = {key: getattr(self, name) for name, key in _COUNTERS.items()}
        history = self.history.as_dict()
        return arrays, {**counters, "seconds": self.seconds, "optimizer": numbers, "history": history}

    def from_content(self, arrays: Mapping[str, Any], described: Mapping[str, Any], network: Network) -> RunState:
        """Return the state that a file holds, for a run of the same settings as this one.

        arrays, described: what `content` has returned, with host arrays. network: decides the backend and dtype.
        Raises ValueError, KeyError or TypeError for content that is not a possible state of such a run.
        """
        counters = {name: _count(described[key], key) for name, key in _COUNTERS.items()}
        numbers, buffers = numbers_and_arrays(self.optimizer)
        on = network.backend
        numbers.pop("lr_scale", None)
        optimizer = {name: _number(described["optimizer"][name], name, number) for name, number in numbers.items()}
        if "lr_scale" in described["optimizer"]:  # a callback, perhaps of an earlier fit, has set it
            optimizer["lr_scale"] = _scale(described["optimizer"]["lr_scale"])
        optimizer |= {name: on.asarray(arrays[f"optimizer.{name}"]) for name in buffers}
        history = History.from_dict(described["history"], counters["epoch"])
        metrics = on.asarray(arrays["training.figures"], network.dtype) if counters["step"] else None
        seconds = float(described["seconds"])
        if (
            counters["fits"] < 1
            or not counters["first_epoch"] <= counters["epoch"] <= counters["last_epoch"]
            or (metrics is not None and not (metrics.ndim == 2 and counters["step"] < metrics.shape[1]))
            or not 0 <= seconds < math.inf
        ):
            raise ValueError("its counters contradict each other")
        return RunState(optimizer, history, **counters, seconds=seconds, metrics=metrics)


def numbers_and_arrays(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a state into the numbers, as Python's, which JSON knows, and the arrays."""
    plain = {
        name: value.item() if isinstance(value, Real) and hasattr(value, "item") else value  # a scalar of NumPy
        for name, value in state.items()
    }
    numbers = {name: value for name, value in plain.items() if value is None or isinstance(value, int | float)}
    return numbers, {name: value for name, value in plain.items() if name not in numbers}


def _number(value: Any, name: str, like: float | None) -> Any:
    if isinstance(like, int):
        return _count(value, name)
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}")
    return value


def _scale(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"lr_scale is {value!r:.40}")
    return value


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"{name} is {value!r:.40}")
    return value
