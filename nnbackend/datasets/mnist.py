"""Load MNIST, or a data set of its form: images and labels, for training and for testing, in common file formats."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnbackend import markup
from nnbackend.backends import Backend, to_numpy
from nnbackend.datasets.arrays import check_float, place
from nnbackend.datasets.download import FILES, cached_mnist, fetch_mnist, is_file, is_folder, is_mnist
from nnbackend.datasets.idx import HostArray, read_idx
from nnbackend.datasets.tables import NPZ_KEYS, read_csv, read_npz
from nnbackend.errors import DataError, unknown_name
from nnbackend.functions.array import Array

__all__ = ["SAMPLE_NOTE", "Dataset", "HostData", "load_idx_folder", "mnist", "mnist_host", "upright"]

_CLASSES = 2**16  # labels are below this
_NAME = re.compile(r"(?P<beginning>(?:.+-)?)(?:train|t10k|test)-(?:images|labels)[-.]idx[123]-(?:ubyte|int)(?:\.gz)?")

SAMPLE_NOTE = (
    "This is the sample of MNIST that ships with nnbackend: 10,000 training and 2,000 test images. "
    '`--data full`, or nn.datasets.mnist("full"), gets the whole set.'
)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Holds images and labels on a backend. n: the number of images. h, w: the height and width of an image."""

    x_train: Array  # (n, h * w), or (n, h, w, 1) if not flattened: floating, from 0 to 1
    t_train: Array  # (n,): int64
    x_test: Array
    t_test: Array
    name: str
    source: str  # "sample", "full" or the path of a folder

    def __repr__(self) -> str:  # without the arrays, which may be large and on a device
        shapes = f"x_train {tuple(self.x_train.shape)}, x_test {tuple(self.x_test.shape)}"
        return f"<Dataset {self.name} from {self.source}: {shapes}, {self.x_train.dtype}>"

    def _repr_html_(self) -> str:
        arrays = {name: getattr(self, name) for name in ("x_train", "t_train", "x_test", "t_test")}
        rows = ([name, tuple(a.shape), str(a.dtype).rpartition(".")[2]] for name, a in arrays.items())
        text = markup.table(["array", "shape", "dtype"], rows, f"{self.name} from {self.source}")
        return text + (self._pictures() if markup.can_draw() else "")

    def _pictures(self) -> str:
        """Return the first images with their labels as HTML, or nothing if the images are not square."""
        n = min(10, self.x_train.shape[0])
        pixels, labels = to_numpy(self.x_train[:n, ...]), to_numpy(self.t_train[:n])
        side = math.isqrt(pixels[0].size)
        if pixels.ndim == 2 and side * side != pixels.shape[1]:
            return ""
        height, width = (side, side) if pixels.ndim == 2 else pixels.shape[1:3]
        parts = []
        for image, label in zip((255 * pixels).round().astype("uint8"), labels.tolist(), strict=True):
            source = markup.picture(image.tobytes(), height, width)
            style = "width: 56px; image-rendering: pixelated"
            parts.append(f'<img alt="an image of class {label}" title="{label}" style="{style}" src="{source}">')
        return f"<p>{' '.join(parts)}</p>"


@dataclass(frozen=True, eq=False)
class HostData:
    """Holds images and labels as they are in the files: NumPy arrays of uint8, which may be read-only."""

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
    """Load MNIST, or a data set of its form, as arrays of `backend` (None: the current backend).

    data:
      "sample"  10,000 training and 2,000 test images that ship with this library
      "full"    all 60,000 and 10,000 images: from NNBACKEND_DATA if it holds them, else from the cache, else downloaded
                into the cache (11 MB, checked)
      a path    a folder of IDX or CSV files, or a file mnist.npz, as `load_idx_folder` reads it; images of any size
      "auto"    the data at NNBACKEND_DATA if it is set, else the full set if it is in the cache, else the sample;
                nothing is downloaded. `source` of the result says which.

    Pixels are byte / 255, of `dtype` ("float32" or "float64") and shape (n, h * w), or (n, h, w, 1) with
    flatten=False. Labels are int64, (n,).

    Raises ValueError for another `data` or `dtype`. Raises DataError, which names the file, if data is missing, damaged
    or inconsistent, or cannot be downloaded.
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
    """Load the same data as `mnist`, with the same choices and errors, as uint8 arrays on the host."""
    if not isinstance(data, (str, os.PathLike)):
        raise TypeError(f"data: got {data!r}, expected a string or a path")
    match data:
        case "sample":
            return _sample()
        case "full":
            chosen = os.environ.get("NNBACKEND_DATA")
            arrays = None if not chosen else _chosen_full(Path(chosen))
            return _host_data(fetch_mnist() if arrays is None else arrays, "mnist", "full")
        case "auto":
            if chosen := os.environ.get("NNBACKEND_DATA"):
                return _load_chosen(Path(chosen))
            cached = cached_mnist()
            return _sample() if cached is None else _host_data(cached, "mnist", "full")
    if (found := _found(Path(data))) is not None:
        return found
    if not os.path.isdir(data):  # noqa: PTH112 - Path would raise for a path with a null character
        known = unknown_name("data set", os.fspath(data), ["auto", "full", "sample"])
        raise ValueError(
            f"data: {known} Or the path of a folder with {', '.join(FILES)} (raw or .gz), or of CSV files."
        )
    return load_idx_folder(data)


def load_idx_folder(folder: str | os.PathLike[str]) -> HostData:
    """Load the data set in a folder: images (n, h, w) and labels (n,), for training and for testing.

    The files may lie in the folder, in `raw`, `mnist` or `MNIST/raw` within it, or in another `*/raw` if there is only
    one. They are of one of these kinds:

    - four IDX files, raw or .gz: `train-images-idx3-ubyte` (or `train-images.idx3-ubyte`), `train-labels-idx1-ubyte`,
      and the same with `t10k` or `test`. The names may have a prefix, as in `emnist-letters-train-images-idx3-ubyte`.
      If the folder holds sets with several prefixes, pass the folder with the prefix: `FOLDER/emnist-letters`.
      The images of EMNIST are transposed in its files, and are turned upright; its letters are numbered from 1.
      Labels may be of any integer type. QMNIST has labels of shape (n, 8); their first column is the class.
    - `mnist.npz` of Keras: x_train, y_train, x_test, y_test.
    - two CSV files, with `train` and with `test` in their names: a label and the pixels in each line.

    The data set is named after the folder. Raises DataError, which names the file, if a file is missing, damaged or
    empty, holds something else, or does not fit the others.
    """
    folder = Path(folder)
    found = _found(folder)
    if found is None:
        _find(folder, "", FILES[0])
        raise DataError(f"{folder}: no data set in it")
    return found


def _found(path: Path) -> HostData | None:
    """Load the data set at a path, or return None. A path is a folder, a file, or a folder and a prefix of names."""
    if is_file(path):
        if path.suffix.lower() == ".npz":
            return _host_data(_checked([f"{path}: {key}" for key in NPZ_KEYS], read_npz(path)), path.stem, str(path))
        if path.suffix.lower() == ".csv":
            return _csv_set([path, *sorted(path.parent.glob("*.csv"))], path.stem, str(path))
        return None
    if not is_folder(path):
        prefix = path.name + "-"
        if is_folder(path.parent) and prefix in _beginnings(path.parent):
            return _idx_set(path.parent, prefix, path.name, str(path))
        return None
    others = [other for other in _listed(path, "*/raw") if _beginnings(other)]
    for folder in (path, path / "raw", path / "MNIST" / "raw", path / "mnist", *(others if len(others) == 1 else ())):
        if beginnings := _beginnings(folder):
            if "" not in beginnings and len(beginnings) > 1:
                choice = ", ".join(str(folder / beginning.removesuffix("-")) for beginning in sorted(beginnings))
                raise DataError(f"{folder}: several data sets are in it, pass one of {choice}")
            name = next(part for part in (folder.resolve(), *folder.resolve().parents) if part.name != "raw").name
            return _idx_set(folder, "" if "" in beginnings else min(beginnings), name, str(folder))
        if is_file(folder / "mnist.npz"):
            return _found(folder / "mnist.npz")
        if tables := _listed(folder, "*.csv"):
            return _csv_set(tables, folder.resolve().name, str(folder))
    if len(others) > 1:
        raise DataError(f"{path}: several data sets are in it, pass one of {', '.join(map(str, sorted(others)))}")
    return None


def _idx_set(folder: Path, beginning: str, name: str, source: str) -> HostData:
    return _host_data(_read_set([_find(folder, beginning, file) for file in FILES]), name, source)


def _csv_set(paths: Sequence[Path], name: str, source: str) -> HostData:
    """Load the set in the first path with `train` in its name and in the path with `test` in that place."""
    train = next((path for path in paths if "train" in path.name), None)
    if train is None:
        raise DataError(f"{paths[0].parent}: expected CSV files with train and with test in their names")
    test = train.with_name(train.name.replace("train", "test"))
    if not is_file(test):
        raise DataError(f"{test}: no such file; expected the test images that belong to {train.name}")
    arrays = [array for path in (train, test) for array in read_csv(path)]
    arrays[::2] = [upright(train, images) for images in arrays[::2]]
    return _host_data(_checked([str(train), str(train), str(test), str(test)], arrays), name, source)


def upright(path: Path, images: HostArray) -> HostArray:
    """Return the images of a file, upright. EMNIST stores them transposed; its names begin with "emnist"."""
    return images.transpose(0, 2, 1) if path.name.lower().startswith("emnist") else images


def _host_data(arrays: Sequence[HostArray], name: str, source: str) -> HostData:
    x_train, t_train, x_test, t_test = arrays
    return HostData(x_train, t_train, x_test, t_test, name, source)


def _sample() -> HostData:
    packed = files("nnbackend.datasets") / "sample"
    with ExitStack() as stack:
        paths = [stack.enter_context(as_file(packed / f"{name}.gz")) for name in FILES]
        return _host_data(_read_set(paths), "mnist", "sample")


def _load_chosen(path: Path) -> HostData:
    if (found := _found(path)) is not None:
        return found
    raise DataError(
        f"NNBACKEND_DATA={path}: neither this folder nor `mnist` in it holds {', '.join(FILES)} (raw or .gz), "
        "mnist.npz or CSV files"
    )


def _chosen_full(path: Path) -> list[HostArray] | None:
    """Return the four arrays of all of MNIST if `path` holds them. If it holds other data, return None."""
    try:
        found = _found(path)
    except DataError:
        return None
    if found is None:
        return None
    arrays = [found.x_train, found.t_train, found.x_test, found.t_test]
    known = all(is_mnist(name, array) for name, array in zip(FILES, arrays, strict=True))
    return arrays if known else None


def _beginnings(folder: Path) -> set[str]:
    """Return the prefixes, before `train-images` and the like, of the names of the IDX files in a folder."""
    names = (path.name for path in _listed(folder, "*"))
    return {match["beginning"] for name in names if (match := _NAME.fullmatch(name))}


def _listed(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except (OSError, ValueError):
        return []


def _spellings(beginning: str, name: str) -> list[str]:
    part, kind, _ = name.split("-", 2)
    parts = (part, "test") if part == "t10k" else (part,)
    types: tuple[str, ...] = ("-idx3-ubyte", ".idx3-ubyte")
    if kind == "labels":
        types = ("-idx1-ubyte", ".idx1-ubyte", "-idx1-int", "-idx2-int", ".idx2-int")
    return [f"{beginning}{p}-{kind}{t}{ending}" for p in parts for t in types for ending in ("", ".gz")]


def _find(folder: Path, beginning: str, name: str) -> Path:
    spellings = _spellings(beginning, name)
    for spelling in spellings:
        for path in (
            folder / spelling,
            folder / spelling / spelling,
        ):  # some programs unpack a file into a folder of its name
            if is_file(path):
                return path
    raise DataError(f"{folder / (beginning + name)}: no such file; expected one of {', '.join(spellings)}")


def _read_set(paths: Sequence[Path]) -> list[HostArray]:
    """Read the arrays in the files, which are in the order of FILES. Raise DataError if they do not fit each other."""
    arrays = _checked([str(path) for path in paths], [read_idx(path) for path in paths])
    return [upright(path, array) if array.ndim == 3 else array for path, array in zip(paths, arrays, strict=True)]


def _checked(sources: Sequence[str], arrays: Sequence[HostArray]) -> list[HostArray]:
    """Return images and labels, for training and testing. Raise DataError if they do not fit each other."""
    checked = []
    for source, array, axes in zip(sources, arrays, (3, 1, 3, 1), strict=True):
        kind, form, known = ("images", "(n, h, w)", "uint8") if axes == 3 else ("labels", "(n,)", "integers")
        if axes == 1 and array.ndim == 2 and array.dtype == np.int32 and array.shape[1]:
            array = array[:, 0]  # QMNIST: the other columns tell the writer and the origin of the digit
        if array.ndim != axes or not (array.dtype == np.uint8 if axes == 3 else array.dtype.kind in "iu"):
            raise DataError(
                f"{source}: got {array.dtype} of shape {array.shape}, expected {kind}: {known} of shape {form}"
            )
        if array.size == 0:
            raise DataError(f"{source}: there are no {kind} in it, its shape is {array.shape}")
        if axes == 1 and not (array.min() >= 0 and array.max() < _CLASSES):
            raise DataError(f"{source}: labels from {array.min()} to {array.max()}, expected 0 to {_CLASSES - 1}")
        checked.append(array.astype(np.uint8) if axes == 1 and array.max() < 256 else array)
    x_train, _, x_test, _ = checked
    for i in (0, 2):
        if len(checked[i]) != len(checked[i + 1]):
            n, m = len(checked[i + 1]), len(checked[i])
            raise DataError(f"{sources[i + 1]}: {n} labels, but {sources[i]} has {m} images")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{sources[2]}: images of {x_test.shape[1:]} pixels, but {sources[0]} has {x_train.shape[1:]}")
    return checked
