"""The content of a checkpoint: everything that decides how a training run goes on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from nnbackend import serialization
from nnbackend.backends import to_numpy
from nnbackend.errors import CheckpointError, ModelFileError
from nnbackend.functions.array import Array, pieces
from nnbackend.network import Network
from nnbackend.training.checkpoint_file import CheckpointFile
from nnbackend.training.communication import Communicator
from nnbackend.training.faults import all_finite
from nnbackend.training.state import RunState, numbers_and_arrays

Callbacks: TypeAlias = Sequence[Callable[..., object]]

ROWS_AT_ONCE = 4096  # rows of data that are read at a time for their fingerprint


class Run(Protocol):
    """What a checkpoint holds of a Trainer."""

    network: Network
    state: RunState
    communicator: Communicator

    def settings(self) -> dict[str, Any]: ...


@dataclass
class Resumed:
    """Holds what a checkpoint says of the fit in which it was written, until that fit is called again.

    fits: the number of that fit, from 1. first_epoch: the completed epochs at its beginning. stopped: whether a
    callback has ended it. data: the fingerprints of its data by name. callbacks: the kind and the state of each.
    frozen: the names of the layers that were frozen; None in files of earlier versions.
    """

    fits: int
    first_epoch: int
    stopped: bool
    data: dict[str, str]
    callbacks: list[tuple[str, dict[str, Any]]]
    frozen: list[str] | None = None


def content(run: Run, callbacks: Callbacks, data: Mapping[str, str], stopped: bool) -> serialization.Content:
    """Return the arrays and the description of a checkpoint.

    data: the fingerprints of the data. stopped: whether a callback has ended the fit.
    Raises CheckpointError if the callbacks keep more than a file may hold, or what is no number and no array of them.
    """
    network = run.network
    of_run, described = run.state.content()
    arrays = {**_arrays(network), **of_run}
    states = []
    for i, callback in enumerate(callbacks):
        snapshot = callback.snapshot(run) if hasattr(callback, "snapshot") else {}
        numbers, of_callback = numbers_and_arrays(snapshot)
        states.append({"kind": _kind(callback), "state": numbers})
        for name, value in of_callback.items():
            arrays[f"callback{i}.{name}"] = _kept_by(callback, name, value)
    description = describe_run(run, callbacks, data)
    description["training"] |= {**described, "stopped": stopped, "callbacks": states, "frozen": list(network.frozen)}
    written = {name: to_numpy(value) for name, value in arrays.items()}
    if sum(value.nbytes for value in written.values()) > _largest(network) - 2**25:  # half of the rest is the header's
        raise CheckpointError("the callbacks keep more than a checkpoint of this network may hold")
    return written, description


def describe_run(run: Run, callbacks: Callbacks, data: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides a run, as JSON-able values. data: the fingerprints of the data."""
    from nnbackend import __version__

    network = run.network
    return {
        "version": __version__,
        **({} if network.preparation is None else {"preparation": network.preparation}),
        "network": network.config(),
        "settings": run.settings(),
        "training": {
            "data": dict(data),
            "callbacks": [_kind(callback) for callback in callbacks],
            "computed by": network.backend.arithmetic(),
        },
    }


def restore(run: Run, file: CheckpointFile) -> Resumed:
    """Give a run the state that the file holds: all of it, or nothing if that is impossible.

    Raises ModelFileError for a damaged file, and CheckpointError for one of another network or with other settings.
    """
    network, path = run.network, file.path
    on = network.backend
    arrays, description = run.communicator.on_root(lambda: file.read(_largest(network)))
    try:
        if "training" not in description:
            raise CheckpointError(f"{path} is a saved network without a state of training, so no run can go on with it")
        changes = [
            *differences("network", description["network"], serialization.through_json(network.config())),
            *differences("", description["settings"], serialization.through_json(run.settings())),
        ]
        if changes:
            raise CheckpointError(f"{path} is of another run: {'; '.join(changes)}")
        training = description["training"]
        own = _arrays(network)
        expected = own | {f"optimizer.{name}": a for name, a in numbers_and_arrays(run.state.optimizer)[1].items()}
        for name, value in expected.items():
            if arrays[name].shape != tuple(value.shape) or arrays[name].dtype.name != _dtype(value):
                raise ValueError(f"{name} is {arrays[name].dtype.name} of shape {arrays[name].shape}")
        callbacks = [
            (entry["kind"], entry["state"] | {name: on.asarray(a) for name, a in _below(f"callback{i}.", arrays)})
            for i, entry in enumerate(training["callbacks"])
        ]
        of_callbacks = tuple(f"callback{i}." for i in range(len(callbacks)))
        others = {name for name in arrays if not name.startswith(of_callbacks)} - {*expected, "training.figures"}
        if others:
            raise ValueError(f"it also holds {sorted(others)}")
        if not isinstance(training["data"], dict):
            raise ValueError("its fingerprints of the data are missing")
        state = run.state.from_content(arrays, training, network)
        values = {name: on.asarray(arrays[name]) for name in own}
        buffers = numbers_and_arrays(state.optimizer)[1]
        if not all_finite(*buffers.values(), *(value for name, value in values.items() if name != _CLOCK)):
            raise ValueError("it holds values that are not finite")
        computed_by = dict(training.get("computed by", {}))
        frozen = training.get("frozen")
        if frozen is not None and not {*frozen} <= {*network.every_layer()}:
            raise ValueError(f"its frozen layers are {frozen!r:.100}")
        data, stopped = training["data"], training["stopped"] is True
        resumed = Resumed(state.fits, state.first_epoch, stopped, data, callbacks, frozen)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path}: its content makes no checkpoint: {type(error).__name__}: {error}") from error
    _warn_of_other_arithmetic(path, computed_by, on.arithmetic())
    for name, value in own.items():
        value[...] = values[name]
    run.state = replace(state, fits=run.state.fits, first_epoch=run.state.first_epoch)
    return resumed


def resume_fit(resumed: Resumed, run: Run, callbacks: Callbacks, data: Mapping[str, str]) -> None:
    """Check that a fit is the one that was interrupted, and give its callbacks their state back.

    Raises CheckpointError if data or callbacks are others, and ModelFileError if a callback refuses its state.
    """
    changed = differences("data", resumed.data, dict(data))
    if changed:
        names = sorted({change.split(":")[0] for change in changed})
        raise CheckpointError(f"the checkpoint is of a run with other data: {', '.join(names)} changed")
    if resumed.frozen is not None:
        run.network.unfreeze()
        run.network.freeze(*resumed.frozen)
    kinds, now = [kind for kind, _ in resumed.callbacks], [_kind(callback) for callback in callbacks]
    if kinds != now:
        raise CheckpointError(f"the checkpoint is of a run with the callbacks {kinds}, not {now}")
    for callback, (_, state) in zip(callbacks, resumed.callbacks, strict=True):
        if hasattr(callback, "restore"):
            try:
                callback.restore(run, state)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ModelFileError(f"the checkpoint's state of {_kind(callback)} makes no sense: {error}") from error


def fingerprints(arrays: Mapping[str, Array | None]) -> dict[str, str]:
    """Return the SHA-256 of dtype, shape and elements of each array; leave out those that are None.

    An array has the same fingerprint on every backend.
    """
    import hashlib

    found = {}
    for name, array in arrays.items():
        if array is not None:
            digest = hashlib.sha256(f"{_dtype(array)} {tuple(array.shape)}".encode())
            for piece in pieces(array.shape[0], ROWS_AT_ONCE):
                digest.update(to_numpy(array[piece, ...]).tobytes())
            found[name] = digest.hexdigest()
    return found


def differences(name: str, then: Any, now: Any, words: tuple[str, str] = (" then", " now")) -> list[str]:
    """Return in words where two JSON-able values differ. words: what follows the one and the other value."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = sorted({*then, *now}, key=str)
        return [d for key in keys for d in differences(f"{name} {key}".strip(), then.get(key), now.get(key), words)]
    if isinstance(then, list | tuple) and isinstance(now, list | tuple) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [d for i, (a, b) in pairs for d in differences(f"{name}[{i}]", a, b, words)]
    same = then == now or (then != then and now != now)  # NaN
    return [] if same else [f"{name}: {then!r}{words[0]}, {now!r}{words[1]}"]


_CLOCK = "training.clock"


def _arrays(network: Network) -> dict[str, Array]:
    """Return the arrays of a network that training changes, by their names in a file."""
    return {**network.params, **network.statistics, _CLOCK: network.buffer.clock}


def _largest(network: Network) -> int:
    """Return the largest size in bytes of a checkpoint of this network."""
    buffer = network.buffer
    return serialization.size_limit(math.prod(buffer.data.shape) + math.prod(buffer.state.shape))


def _below(prefix: str, arrays: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name.removeprefix(prefix), value) for name, value in arrays.items() if name.startswith(prefix)]


def _warn_of_other_arithmetic(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Warn if this run rounds otherwise than the one before. Of another array library nobody expects equal bits."""
    changes = differences("", {name: then[name] for name in now}, now) if now.keys() <= then.keys() else []
    if changes:
        warnings.warn(
            f"{path}: the run goes on, but its last bits will not be those of a run that was never interrupted: "
            f"{'; '.join(changes)}",
            stacklevel=5,
        )


def _kept_by(callback: object, name: str, value: Any) -> Any:
    """Return a value of a callback's snapshot on the host."""
    kept = None
    with suppress(ValueError):  # a list of lists of unequal lengths
        kept = to_numpy(value)
    if kept is None or kept.dtype.kind not in "biuf":
        raise CheckpointError(
            f"{_kind(callback)}.snapshot must give numbers and arrays of numbers, but {name!r} is {value!r:.100}"
        )
    return kept


def _kind(callback: object) -> str:
    return getattr(callback, "__name__", type(callback).__name__)


def _dtype(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]  # "torch.float32", "array_api_strict.float32"
