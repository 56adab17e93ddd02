"""Checkpoints: a training run in one file, from which it goes on as if nothing had happened."""

from __future__ import annotations

import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from nnbackend import serialization
from nnbackend.backends import to_numpy
from nnbackend.errors import CheckpointError, ModelFileError
from nnbackend.functions.array import Array, MaybeArray, pieces
from nnbackend.network import Network
from nnbackend.training.faults import all_finite
from nnbackend.training.history import History

Callbacks: TypeAlias = Sequence[Callable[..., object]]
Content: TypeAlias = tuple[dict[str, Any], dict[str, Any]]  # arrays by name; all else, as JSON knows it
Stamp: TypeAlias = tuple[int, ...] | None  # tells one content of a file from another; None where there is no file

FILE_NAME = "checkpoint.safetensors"  # in a folder
UNITS = {"s": "seconds", "step": "steps", "steps": "steps", "epoch": "epochs", "epochs": "epochs"}
ATTEMPTS = (
    100  # to open the lock that lies there; on a file system without lasting numbers no attempt would be the last
)
ROWS_AT_ONCE = 4096  # of data that is read for its fingerprint


class Run(Protocol):
    """What a checkpoint holds of a Trainer, which says what each is."""

    network: Network
    state: dict[str, Any]
    history: History
    figures: MaybeArray
    seconds: float
    fits: int
    began: int
    last_epoch: int
    epoch: int
    position: int
    seen: Stamp

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Checkpoint:
    """Where a Trainer writes checkpoints, and when: every so often, at an interrupt, and at the end of a fit.

    path: a file, or a folder that is there, for `checkpoint.safetensors` in it.
    every: "30s", "500steps" or "2epochs".
    keep: how many are kept: the newest at `path`, those before it at `path`.1, `path`.2, ...
    on_error: where one of every so often cannot be written (a full disk), "warn" and go on, or "stop" with a
    CheckpointError. The one before stays in either case. At an interrupt and at the end it is always an error.

    Raises ValueError for an `every` that is not of this form, a keep that is no positive integer, another on_error.
    """

    path: str | os.PathLike[str]
    every: str = "1epochs"
    keep: int = 1
    on_error: str = "warn"

    def __post_init__(self) -> None:
        path = Path(self.path)
        with suppress(OSError, ValueError):  # for names that no file can have: said when it is to be written
            path = Path(os.path.realpath(path))  # one file has one name, and one lock
            path = path / FILE_NAME if path.is_dir() else path
        object.__setattr__(self, "path", path)
        period(self.every)
        if not isinstance(self.keep, int) or isinstance(self.keep, bool) or self.keep < 1:
            raise ValueError(f"keep must be a positive integer, got {self.keep!r}")
        if self.on_error not in ("warn", "stop"):
            raise ValueError(f'on_error must be "warn" or "stop", got {self.on_error!r}')

    @property
    def file(self) -> Path:
        """The newest checkpoint."""
        return Path(self.path)


def period(text: str) -> tuple[int, str]:
    """ "30s" -> 30, "seconds"; likewise "500steps" and "2epochs". ValueError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([a-z]*)", text) if isinstance(text, str) else None
    if match is None or int(match[1]) == 0 or match[2] not in UNITS:
        raise ValueError(
            f'every: expected a positive integer with its unit, as in "30s", "500steps" or "2epochs", got {text!r}'
        )
    return int(match[1]), UNITS[match[2]]


class Keeper:
    """Writes the checkpoints of one fit. While it does, no other process can (`keeping`)."""

    def __init__(self, trainer: Run, checkpoint: Checkpoint, callbacks: Callbacks, prints: Mapping[str, str]):
        self._trainer, self._checkpoint, self._callbacks, self._prints = trainer, checkpoint, callbacks, prints
        self._every, self._unit = period(checkpoint.every)
        self._count, self._time = 0, time.monotonic()

    def after(self, unit: str) -> bool:
        """Told that one of "steps" or "epochs" is done; is it time for a checkpoint?"""
        if self._unit == "seconds":
            return time.monotonic() - self._time >= self._every
        self._count += unit == self._unit
        return self._count >= self._every

    def write(self, *, last: bool = False, stopped: bool = False) -> None:
        """Write one. last: this fit ends here. stopped: a callback has ended it."""
        checkpoint = self._checkpoint
        try:
            tensors, description = content(self._trainer, self._callbacks, self._prints, stopped)
            serialization.write(checkpoint.file, tensors, description, before=self._age)
        except (OSError, MemoryError) as error:
            there = "; the one before is still there" if checkpoint.file.exists() else ""
            problem = f"cannot write the checkpoint {checkpoint.file}: {error}{there}"
            if last or checkpoint.on_error == "stop":
                raise CheckpointError(problem) from error
            warnings.warn(f"{problem}, training goes on", stacklevel=2)
        finally:
            self._trainer.seen = stamp(checkpoint.file)  # nobody else writes it while this one has the lock
        self._count, self._time = 0, time.monotonic()

    def _age(self) -> None:
        """The newest becomes path.1, and so on. At no moment is there none at `path`."""
        newest, keep = self._checkpoint.file, self._checkpoint.keep
        previous = aged(newest, 1)
        if keep == 1 or not newest.exists() or _alike(newest, previous):  # as an attempt that failed has left them
            return
        link = newest.with_name(f"{serialization.stem(newest)}.previous{serialization.TEMPORARY}")
        link.unlink(missing_ok=True)
        try:
            os.link(newest, link)
        except OSError:  # a file system without links
            import shutil

            try:
                shutil.copy2(newest, link)
            except OSError:
                link.unlink(missing_ok=True)
                raise
        for age in range(keep - 1, 1, -1):  # nothing can fail for want of room any more
            if aged(newest, age - 1).exists():
                serialization.replace(aged(newest, age - 1), aged(newest, age))
        serialization.replace(link, previous)


def _alike(one: Path, other: Path) -> bool:
    """Is the other a link to the one, or a copy?"""
    a, b = stamp(one), stamp(other)
    return a is not None and b is not None and a[1:] == b[1:]


def aged(path: Path, age: int) -> Path:
    """Where the checkpoint lies that is `age` older than the newest."""
    return path.with_name(f"{path.name}.{age}")


@contextmanager
def keeping(
    trainer: Run, checkpoint: Checkpoint | None, callbacks: Callbacks, prints: Mapping[str, str]
) -> Iterator[Keeper | None]:
    """A Keeper that has the file to itself for the length of the block; None without a checkpoint.

    CheckpointError where another process writes it, or it holds what this trainer neither wrote nor resumed.
    """
    if checkpoint is None:
        yield None
        return
    _, description = content(trainer, callbacks, prints, False)
    serialization.through_json(description)  # what cannot be written is to be known before the first step
    with _locked(checkpoint.file):
        if stamp(checkpoint.file) not in (None, trainer.seen):
            raise CheckpointError(
                f"{checkpoint.file} holds the checkpoint of another run, which is not overwritten: go on with it "
                f"(Trainer.resume, --resume), or remove it"
            )
        ours = re.compile(
            re.escape(serialization.stem(checkpoint.file)) + r"\.\w{8}" + re.escape(serialization.TEMPORARY)
        )
        with suppress(OSError):  # what cannot be cleared away does no harm
            for rest in checkpoint.file.parent.iterdir():
                if ours.fullmatch(rest.name):
                    rest.unlink(missing_ok=True)  # of a process that was killed while it wrote
        yield Keeper(trainer, checkpoint, callbacks, prints)


def stamp(path: Path) -> Stamp:
    """What changes whenever the file is written. CheckpointError for a path that no file can have."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read: {error}") from error
    return status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path`.lock, which the system lets go of however the process ends."""
    lock = path.with_name(f"{serialization.stem(path)}.lock")
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write checkpoints to {path.parent}: there is no such folder")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle)
            for _ in range(ATTEMPTS):
                if serialization.WINDOWS or os.fstat(handle).st_ino == _inode(lock):
                    break
                os.close(handle)  # its holder has removed it in between, which is impossible on Windows
                handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
                _lock(handle)
        except BlockingIOError:
            owner = "unknown"
            with suppress(OSError):  # on Windows what is locked cannot be read either
                owner = os.read(handle, 32).decode(errors="replace") or owner
            os.close(handle)
            raise CheckpointError(
                f"{path} is being written by another process (number {owner}, or a child of it)"
            ) from None
        with suppress(OSError):  # the number is for people
            os.truncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot write checkpoints to {path.parent}: {error}") from error
    try:
        yield
    finally:
        if not serialization.WINDOWS:  # there an open file cannot be removed
            with suppress(OSError):
                lock.unlink()
        os.close(handle)


def _inode(path: Path) -> int | None:
    found = stamp(path)
    return None if found is None else found[0]


def _lock(handle: int) -> None:
    """BlockingIOError where another process holds it. A file system that knows no locks is warned of."""
    if serialization.WINDOWS:
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            raise BlockingIOError from error
        return
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        warnings.warn(f"another process that writes the same checkpoint would not be noticed: {error}", stacklevel=2)


# --- what is in a checkpoint ------------------------------------------------------------------------------------


def content(trainer: Run, callbacks: Callbacks, prints: Mapping[str, str], stopped: bool) -> Content:
    """Everything that decides how the run goes on."""
    from nnbackend import __version__

    network = trainer.network
    tensors = {**network.params, **network.statistics, "training.clock": network.buffer.clock}
    if trainer.position:
        tensors["training.figures"] = trainer.figures
    numbers, arrays = parted(trainer.state)
    tensors |= {f"optimizer.{name}": value for name, value in arrays.items()}
    kept = []
    for i, callback in enumerate(callbacks):
        of_callback, arrays = parted(callback.snapshot(trainer)) if hasattr(callback, "snapshot") else ({}, {})
        kept.append({"kind": _kind(callback), "state": of_callback})
        tensors |= {f"callback{i}.{name}": value for name, value in arrays.items()}
    description = {
        "version": __version__,
        **({} if network.preparation is None else {"preparation": network.preparation}),
        "network": network.config(),
        "settings": trainer.settings(),
        "training": {
            **{name: getattr(trainer, name) for name in _COUNTERS},
            "seconds": trainer.seconds,
            "stopped": stopped,
            "optimizer": numbers,
            "history": trainer.history.as_dict(),
            "data": dict(prints),
            "callbacks": kept,
            "computed by": network.backend.arithmetic(),
        },
    }
    written = {name: to_numpy(value) for name, value in tensors.items()}
    if sum(value.nbytes for value in written.values()) > _room(trainer) - 2**25:  # half of the rest is for the header
        raise CheckpointError("the callbacks keep more than a checkpoint of this network may hold")
    return written, description


def _room(trainer: Run) -> int:
    buffer = trainer.network.buffer
    return serialization.size_limit(math.prod(buffer.data.shape) + math.prod(buffer.state.shape))


_COUNTERS = ("fits", "began", "last_epoch", "epoch", "position")


@dataclass
class Resumed:
    """What a checkpoint says of the fit in which it was written, until that fit is called again."""

    fits: int
    began: int
    stopped: bool
    data: dict[str, str]
    callbacks: list[tuple[str, dict[str, Any]]]  # kind and state


def restore(trainer: Run, path: Path) -> Resumed:
    """Give a trainer the state that the file holds; all of it, or none where that is impossible.

    Raises ModelFileError for a damaged file, CheckpointError for one of another network or with other settings.
    """
    network, on = trainer.network, trainer.network.backend
    tensors, description = _read(path, _room(trainer))
    try:
        if "training" not in description:
            raise CheckpointError(f"{path}: a saved network, but no checkpoint: nothing in it says how to go on")
        changes = [
            *differences("network", description["network"], serialization.through_json(network.config())),
            *differences("", description["settings"], serialization.through_json(trainer.settings())),
        ]
        if changes:
            raise CheckpointError(f"{path} is of another run: {'; '.join(changes)}")
        training = description["training"]
        counters = {name: _count(training[name], name) for name in _COUNTERS}
        arrays = {**network.params, **network.statistics, "training.clock": network.buffer.clock}
        numbers, slots = parted(trainer.state)
        state = {name: _number(training["optimizer"][name], name, number) for name, number in numbers.items()}
        expected = arrays | {f"optimizer.{name}": value for name, value in slots.items()}
        for name, value in expected.items():
            if tensors[name].shape != tuple(value.shape) or tensors[name].dtype.name != _dtype(value):
                raise ValueError(f"{name} is {tensors[name].dtype.name} of shape {tensors[name].shape}")
        of_callbacks = tuple(f"callback{i}." for i in range(len(training["callbacks"])))
        others = {name for name in tensors if not name.startswith(of_callbacks)} - {*expected, "training.figures"}
        if others:
            raise ValueError(f"it also holds {sorted(others)}")
        history = _history(training["history"], counters["epoch"])
        if not isinstance(training["data"], dict):
            raise ValueError("its fingerprints of the data are missing")
        callbacks = [
            (
                entry["kind"],
                entry["state"]
                | {
                    name.removeprefix(f"callback{i}."): on.asarray(value)
                    for name, value in tensors.items()
                    if name.startswith(f"callback{i}.")
                },
            )
            for i, entry in enumerate(training["callbacks"])
        ]
        figures = on.asarray(tensors["training.figures"], network.dtype) if counters["position"] else None
        seconds = float(training["seconds"])
        if (
            counters["fits"] < 1
            or not counters["began"] <= counters["epoch"] <= counters["last_epoch"]
            or (figures is not None and not (figures.ndim == 2 and counters["position"] < figures.shape[1]))
            or not 0 <= seconds < math.inf
        ):
            raise ValueError("its counters contradict each other")
        values = {name: on.asarray(tensors[name]) for name in expected}
        if not all_finite(*(value for name, value in values.items() if name != "training.clock")):
            raise ValueError("it holds values that are not finite")
        computed_by = dict(training.get("computed by", {}))
        resumed = Resumed(counters["fits"], counters["began"], training["stopped"] is True, training["data"], callbacks)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path}: its content makes no checkpoint: {type(error).__name__}: {error}") from error
    _warn_of_other_arithmetic(path, computed_by, on.arithmetic())
    for name, value in arrays.items():
        value[...] = values[name]
    trainer.state = state | {name: values[f"optimizer.{name}"] for name in slots}
    trainer.history, trainer.figures, trainer.seconds = history, figures, seconds
    for name in ("last_epoch", "epoch", "position"):
        setattr(trainer, name, counters[name])
    return resumed


def _warn_of_other_arithmetic(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Say so if what goes on with a run rounds otherwise than what began it. Of another library nothing is expected."""
    changes = differences("", {name: then[name] for name in now}, now) if now.keys() <= then.keys() else []
    if changes:
        warnings.warn(
            f"{path}: the run goes on, but its last bits will not be those of a run that was never interrupted: "
            f"{'; '.join(changes)}",
            stacklevel=5,
        )


def _read(path: Path, largest: int) -> Content:
    try:
        return serialization.read(path, lambda description: largest)
    except ModelFileError as error:
        if aged(path, 1).exists():
            raise ModelFileError(
                f"{error}; the one before it is {aged(path, 1)}: rename it to go on with it"
            ) from error
        raise


def resume_fit(resumed: Resumed, trainer: Run, callbacks: Callbacks, prints: Mapping[str, str]) -> None:
    """The fit goes on that `resumed` speaks of: the same data, the same callbacks, which get their state back."""
    changed = differences("data", resumed.data, dict(prints))
    if changed:
        names = sorted({change.split(":")[0] for change in changed})
        raise CheckpointError(f"the checkpoint is of a run with other data: {', '.join(names)} changed")
    kinds, now = [kind for kind, _ in resumed.callbacks], [_kind(callback) for callback in callbacks]
    if kinds != now:
        raise CheckpointError(f"the checkpoint is of a run with the callbacks {kinds}, not {now}")
    for callback, (_, state) in zip(callbacks, resumed.callbacks, strict=True):
        if hasattr(callback, "restore"):
            try:
                callback.restore(trainer, state)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ModelFileError(f"the checkpoint's state of {_kind(callback)} makes no sense: {error}") from error


def fingerprints(arrays: Mapping[str, Array | None]) -> dict[str, str]:
    """The SHA-256 of dtype, shape and elements of each array, the same on every backend; None is left out."""
    import hashlib

    prints = {}
    for name, array in arrays.items():
        if array is not None:
            digest = hashlib.sha256(f"{_dtype(array)} {tuple(array.shape)}".encode())
            for piece in pieces(array.shape[0], ROWS_AT_ONCE):
                digest.update(to_numpy(array[piece, ...]).tobytes())
            prints[name] = digest.hexdigest()
    return prints


def differences(name: str, then: Any, now: Any) -> list[str]:
    """In words, where two JSON-able values differ."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = sorted({*then, *now}, key=str)
        return [d for key in keys for d in differences(f"{name} {key}".strip(), then.get(key), now.get(key))]
    if isinstance(then, list | tuple) and isinstance(now, list | tuple) and len(then) == len(now):
        return [d for i, (a, b) in enumerate(zip(then, now, strict=True)) for d in differences(f"{name}[{i}]", a, b)]
    same = then == now or (then != then and now != now)  # NaN
    return [] if same else [f"{name}: {then!r} then, {now!r} now"]


def parted(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What JSON knows, and the arrays."""
    plain = {name: value for name, value in state.items() if value is None or isinstance(value, int | float)}
    return plain, {name: value for name, value in state.items() if name not in plain}


def _kind(callback: object) -> str:
    return getattr(callback, "__name__", type(callback).__name__)


def _history(record: dict[str, Any], epochs: int) -> History:
    history = History(**record)
    if len(history) != epochs:
        raise ValueError(f"its history is of {len(history)} epochs, and it of {epochs}")
    for name, values in vars(history).items():
        if name != "interrupted" and not (
            isinstance(values, list) and len(values) <= epochs and all(isinstance(v, int | float) for v in values)
        ):
            raise ValueError(f"its history of {name} is {values!r:.50}")
    return history


def _number(value: Any, name: str, like: float | None) -> Any:
    if isinstance(like, int):
        return _count(value, name)
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}")
    return value


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def _dtype(array: Array) -> str:
    return str(array.dtype).rpartition(".")[2]  # "torch.float32", "array_api_strict.float32"
