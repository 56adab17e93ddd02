"""Read .npz files of NumPy that hold inputs and answers of any shape."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.datasets.idx import HostArray
from nnbackend.datasets.tables import read_arrays
from nnbackend.datasets.targets import Target, is_scaling, moments
from nnbackend.errors import DataError
from nnbackend.files import write_atomically

__all__ = ["INPUTS", "TARGETS", "ArrayPreparation", "array_inputs", "array_pair", "array_scaling", "write_arrays"]

INPUTS = ("x_train", "x", "X", "data", "images")  # what others call the inputs, and below the answers
TARGETS = ("y_train", "t_train", "y", "t", "Y", "target", "targets", "labels")


@dataclass(frozen=True)
class ArrayPreparation:
    """Describes how arrays become rows for a network: a mean is subtracted, and the rest divided by a scale.

    mean, scale: one number for each column of tables, (n, columns), and one number alone for pictures and the like.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    shape: tuple[int, ...]  # of a row
    target: Target
    kind: str = field(default="arrays", init=False)

    def rows(self, path: Path, x: HostArray, dtype: str) -> HostArray:
        """Return x, (n, *shape), as the network takes it; pictures without channels get an axis for one.

        Raises DataError, which names the file, for another shape, and for values that are not finite.
        """
        if x.shape[1:] != self.shape or x.dtype.kind not in "biuf":
            expected = ", ".join(["n", *map(str, self.shape)])
            raise DataError(f"{path}: got {x.dtype} of shape {x.shape}, expected numbers of shape ({expected})")
        _check_finite(path, x, x, "; fill in what is missing, or remove the row")
        with np.errstate(over="ignore"):
            scaled: HostArray = ((x - np.array(self.mean)) / np.array(self.scale)).astype(dtype)
        _check_finite(path, x, scaled, ", far larger than those to train on")
        return scaled[..., None] if len(self.shape) == 2 else scaled

    def stored(self) -> dict[str, Any]:
        """Return the description as values that JSON can express."""
        scaling = {"mean": list(self.mean), "scale": list(self.scale), "shape": list(self.shape)}
        return {"kind": self.kind, **scaling, "target": self.target.stored()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> ArrayPreparation:
        """Return what `stored` has described. Raise ValueError for any other description."""
        mean, scale, shape = (stored.get(name) for name in ("mean", "scale", "shape"))
        target = stored.get("target")
        if (
            not all(isinstance(one, list) and one for one in (mean, scale, shape))
            or not isinstance(target, dict)
            or len(mean) != len(scale)  # type: ignore[arg-type]
            or len(mean) not in (1, shape[-1])  # type: ignore[arg-type, index]
            or not all(isinstance(side, int) and side > 0 for side in shape)  # type: ignore[union-attr]
            or not all(is_scaling(*pair) for pair in zip(mean, scale, strict=True))  # type: ignore[arg-type]
        ):
            raise ValueError(f"the preparation of arrays needs a mean, a scale and a shape, got {stored!r:.200}")
        return cls(tuple(mean), tuple(scale), tuple(shape), Target.of(target))  # type: ignore[arg-type]


def array_pair(path: Path) -> tuple[dict[str, HostArray], list[str]]:
    """Read a file. Return its arrays, and the names of inputs and answers, first those to train on, then for a test.

    Raises DataError, which names the file, if it is damaged, a decompression bomb, or has no such arrays, or if they
    do not fit each other.
    """
    arrays = read_arrays(path)
    names = []
    for known in (INPUTS, TARGETS):
        name = next((one for one in known if one in arrays), None)
        if name is None:
            what = "inputs" if known is INPUTS else "answers"
            raise DataError(
                f"{path}: it has no {what}, one of {', '.join(known)}, but {', '.join(arrays) or 'nothing'}"
            )
        names.append(name)
    if "x_test" in arrays and (answers := next((one for one in ("y_test", "t_test") if one in arrays), None)):
        names += ["x_test", answers]
    for x, t in zip(names[::2], names[1::2], strict=True):
        _check_pair(path, x, arrays[x], t, arrays[t])
    if len(names) == 4 and arrays[names[0]].shape[1:] != arrays["x_test"].shape[1:]:
        raise DataError(
            f"{path}: x_test has rows of shape {arrays['x_test'].shape[1:]}, but {names[0]} has "
            f"{arrays[names[0]].shape[1:]}"
        )
    return arrays, names


def array_inputs(path: Path) -> HostArray:
    """Read the inputs alone: those for a test if the file has them, or else those to train on, or its only array."""
    arrays = read_arrays(path)
    name = next((one for one in ("x_test", *INPUTS) if one in arrays), None)
    if name is None and len(arrays) == 1:
        name = next(iter(arrays))
    if name is None:
        raise DataError(f"{path}: it has no inputs, one of {', '.join(INPUTS)}, but {', '.join(arrays) or 'nothing'}")
    return arrays[name]


def write_arrays(path: Path, arrays: Mapping[str, HostArray]) -> None:
    """Write arrays by name as an .npz file, atomically; objects as strings, and None as an empty one.

    Raises OSError if it cannot be written.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # `np.savez` does not take every name, as `file`
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _plain(array), allow_pickle=False)
    write_atomically(path, packed.getvalue())


def _check_finite(path: Path, x: HostArray, values: HostArray, why: str) -> None:
    """Raise DataError, which names the first of x whose `values` are not finite, and says why."""
    finite = np.isfinite(values)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(f"{path}: the value at {list(at)} is {x[at]}{why}")


def _plain(array: HostArray) -> HostArray:
    if array.dtype != object:
        return array
    return np.array(["" if value is None else str(value) for value in array], str)


def array_scaling(path: Path, x: HostArray, target: Target) -> ArrayPreparation:
    """Measure how to scale inputs like x. Bytes are divided by 255."""
    shape = tuple(x.shape[1:])
    if x.dtype == np.uint8:
        return ArrayPreparation((0.0,), (255.0,), shape, target)
    try:
        found = [moments(column) for column in (x.T if x.ndim == 2 else [x])]
    except OverflowError as error:
        raise DataError(f"{path}: the inputs have values that are not finite, or {error}") from error
    mean, scale = zip(*found, strict=True)
    return ArrayPreparation(mean, scale, shape, target)


def _check_pair(path: Path, x_name: str, x: HostArray, t_name: str, t: HostArray) -> None:
    if x.dtype.kind not in "biuf" or x.ndim not in (2, 3, 4) or not x.size:
        raise DataError(
            f"{path}: {x_name} is {x.dtype} of shape {x.shape}, expected numbers of shape (n, columns), (n, height, "
            f"width) or (n, height, width, channels)"
        )
    if t.ndim == 2 and t.shape[1] == 1:
        t = t[:, 0]
    if t.ndim != 1 or t.dtype.kind not in "biufU":
        raise DataError(f"{path}: {t_name} is {t.dtype} of shape {t.shape}, expected a number or a word for each row")
    if len(x) != len(t):
        raise DataError(f"{path}: {x_name} has {len(x)} rows, but {t_name} has {len(t)}")
