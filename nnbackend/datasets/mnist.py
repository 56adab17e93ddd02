"""MNIST, and any data set of its form: IDX files of images and labels, for training and for testing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnbackend.backend import Backend
from nnbackend.datasets.arrays import check_float, place
from nnbackend.datasets.download import FILES, cached_mnist, fetch_mnist, is_there
from nnbackend.datasets.idx import HostArray, read_idx
from nnbackend.errors import DataError, unknown_name
from nnbackend.functions.array import Array

__all__ = ["SAMPLE_NOTE", "Dataset", "HostData", "load_idx_folder", "mnist", "mnist_host"]

SAMPLE_NOTE = (
    "This is the sample of MNIST that ships with nnbackend: 10,000 training and 2,000 test images. "
    '`--data full`, or nn.datasets.mnist("full"), gets the whole set.'
)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels on a backend. n: number of images, h and w: sides of an image."""

    x_train: Array  # (n, h * w), or (n, h, w, 1) if not flattened: floating, from 0 to 1
    t_train: Array  # (n,): int64
    x_test: Array
    t_test: Array
    name: str
    source: str  # "sample", "full" or the path of a folder

    def __repr__(self) -> str:  # never the arrays: they may be large, and far away
        shapes = f"x_train {tuple(self.x_train.shape)}, x_test {tuple(self.x_test.shape)}"
        return f"<Dataset {self.name} from {self.source}: {shapes}, {self.x_train.dtype}>"


@dataclass(frozen=True, eq=False)
class HostData:
    """Images and labels as the files hold them: NumPy arrays of uint8, perhaps read-only."""

    x_train: npt.NDArray[np.uint8]  # (n, h, w)
    t_train: npt.NDArray[np.uint8]  # (n,)
    x_test: npt.NDArray[np.uint8]
    t_test: npt.NDArray[np.uint8]
    name: str
    source: str


def mnist(
    data: str | os.PathLike[str] = "auto",
    *,
    dtype: str = "float32",
    flatten: bool = True,
    backend: Backend | None = None,
) -> Dataset:
    """MNIST, or a data set of its form, as arrays of `backend` (None: the current one).

    data:
      "sample"  10,000 training and 2,000 test images that ship with this library
      "full"    all 60,000 and 10,000: from the cache, or downloaded into it (11 MB, checked)
      a path    a folder with four IDX files of the standard names, raw or .gz (Fashion-MNIST); any image size
      "auto"    the folder NNBACKEND_DATA if that is set (it, or `mnist` in it), else the full set if it is in
                the cache, else the sample; never the network. `source` of the result says which.

    Pixels are byte / 255, of `dtype` ("float32" or "float64") and shape (n, h * w), or (n, h, w, 1) with
    flatten=False. Labels are int64, (n,).

    Raises ValueError for another `data` or `dtype`, DataError (naming the file) for data that is missing,
    damaged or inconsistent, or cannot be downloaded.
    """
    check_float(dtype)
    host = mnist_host(data)

    def on_backend(x: HostArray, t: HostArray) -> tuple[Array, Array]:
        # Divided on the host: a backend may divide by multiplying with 1 / 255, which gives other bits.
        pixels: HostArray = np.divide(x, 255, dtype=dtype)
        return place(pixels.reshape(len(x), -1) if flatten else pixels[..., None], t, dtype, backend)

    return Dataset(
        *on_backend(host.x_train, host.t_train), *on_backend(host.x_test, host.t_test), host.name, host.source
    )


def mnist_host(data: str | os.PathLike[str] = "auto") -> HostData:
    """The same data as `mnist`, with the same choices and errors, as uint8 arrays on the host."""
    if not isinstance(data, (str, os.PathLike)):
        raise TypeError(f"data: got {data!r}, expected a string or a path")
    match data:
        case "sample":
            return _sample()
        case "full":
            return _host_data(fetch_mnist(), "mnist", "full")
        case "auto":
            if chosen := os.environ.get("NNBACKEND_DATA"):
                return _load_chosen(Path(chosen))
            cached = cached_mnist()
            return _sample() if cached is None else _host_data(cached, "mnist", "full")
    if not os.path.isdir(data):  # noqa: PTH112 - a path with a null character is no folder, Path would raise
        known = unknown_name("data set", os.fspath(data), ["auto", "full", "sample"])
        raise ValueError(f"data: {known} Or the path of a folder with {', '.join(FILES)} (raw or .gz).")
    return load_idx_folder(data)


def load_idx_folder(folder: str | os.PathLike[str]) -> HostData:
    """The data set in a folder of four IDX files: train and t10k, images (n, h, w) and labels (n,), uint8.

    The file names are the standard ones (`train-images-idx3-ubyte`, or `train-images.idx3-ubyte`), raw or
    with .gz. The name of the data set is that of the folder.

    Raises DataError, naming the file, if one is missing or damaged, holds something else, is empty, or does
    not fit the others.
    """
    folder = Path(folder)
    paths = [_find(folder, name) for name in FILES]
    return _host_data(_read_set(paths), folder.resolve().name, str(folder))


def upright(path: Path, images: HostArray) -> HostArray:
    """The images of a file; those of EMNIST are transposed, which its names tell."""
    return images.transpose(0, 2, 1) if path.name.lower().startswith("emnist") else images


def _host_data(arrays: Sequence[HostArray], name: str, source: str) -> HostData:
    x_train, t_train, x_test, t_test = arrays
    return HostData(x_train, t_train, x_test, t_test, name, source)


def _sample() -> HostData:
    packed = files("nnbackend.datasets") / "sample"
    with ExitStack() as stack:
        paths = [stack.enter_context(as_file(packed / f"{name}.gz")) for name in FILES]
        return _host_data(_read_set(paths), "mnist", "sample")


def _load_chosen(folder: Path) -> HostData:
    for candidate in (folder, folder / "mnist"):
        if any(is_there(path) for name in FILES for path in _spellings(candidate, name)):
            return load_idx_folder(candidate)
    raise DataError(f"NNBACKEND_DATA={folder}: neither it nor `mnist` in it holds {', '.join(FILES)} (raw or .gz)")


def _spellings(folder: Path, name: str) -> list[Path]:
    stems = (name, name.replace("-idx", ".idx"))
    return [folder / (stem + ending) for stem in stems for ending in ("", ".gz")]


def _find(folder: Path, name: str) -> Path:
    spellings = _spellings(folder, name)
    for path in spellings:
        if is_there(path):
            return path
    names = ", ".join(path.name for path in spellings)
    raise DataError(f"{folder / name}: no such file; expected one of {names}")


def _read_set(paths: Sequence[Path]) -> list[HostArray]:
    """The arrays in the files (in the order of FILES), each of the right kind and fitting the others."""
    arrays = [read_idx(path) for path in paths]
    for path, array, axes in zip(paths, arrays, (3, 1, 3, 1), strict=True):
        kind, form = ("images", "(n, h, w)") if axes == 3 else ("labels", "(n,)")
        if array.ndim != axes or array.dtype != np.uint8:
            raise DataError(f"{path}: got {array.dtype} of shape {array.shape}, expected {kind}: uint8 of shape {form}")
        if array.size == 0:
            raise DataError(f"{path}: there are no {kind} in it, its shape is {array.shape}")
    x_train, _, x_test, _ = arrays
    for i in (0, 2):
        if len(arrays[i]) != len(arrays[i + 1]):
            raise DataError(f"{paths[i + 1]}: {len(arrays[i + 1])} labels, but {paths[i]} has {len(arrays[i])} images")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{paths[2]}: images of {x_test.shape[1:]} pixels, but {paths[0]} has {x_train.shape[1:]}")
    return arrays
