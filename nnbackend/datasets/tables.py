"""Read images and labels from the mnist.npz of Keras and from CSV files."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from nnbackend.datasets.idx import HARMLESS, PLAUSIBLE, HostArray
from nnbackend.errors import DataError

__all__ = ["NPZ_KEYS", "read_arrays", "read_csv", "read_npz"]

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> list[HostArray]:
    """Read the arrays x_train, y_train, x_test and y_test of an .npz file. Nothing in the file is executed.

    Raises DataError, which names the file, if it is damaged, lacks one of the arrays, or is a decompression bomb.
    """
    arrays = read_arrays(path)
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise DataError(f"{path}: it has no {', '.join(missing)}, but {', '.join(arrays)}")
    return [arrays[key] for key in NPZ_KEYS]


def read_arrays(path: Path) -> dict[str, HostArray]:
    """Read all arrays of an .npz file, by name. Nothing in the file is executed.

    Raises DataError, which names the file, if it is missing, damaged or a decompression bomb.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > max(HARMLESS, PLAUSIBLE * path.stat().st_size):
            raise DataError(f"{path}: {size} bytes, packed into {path.stat().st_size}, as in a bomb")
        with np.load(path, allow_pickle=False) as arrays:
            return {key: np.ascontiguousarray(arrays[key]) for key in arrays}
    except (MemoryError, RecursionError) as error:
        raise DataError(f"{path}: damaged, or there is not enough memory for it") from error
    except (
        *(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error),
        *(NotImplementedError, RuntimeError),  # packed in a way that Python does not know, or encrypted
    ) as error:
        raise DataError(f"{path}: damaged, or not an .npz file ({error})") from error


def read_csv(path: Path) -> tuple[HostArray, HostArray]:
    """Read a CSV file with a label and the pixels of a square image in each line. The first line may be a header.

    Returns images, (n, side, side) uint8, and labels, (n,) int64. Raises DataError, which names the file, if it has
    other content.
    """
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline(2**20).strip()
            rows = file if not _is_number(first.partition(",")[0]) else [first, *file]
            values = np.loadtxt(rows, np.float32, delimiter=",", comments=None, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as numbers with commas between them ({error!s:.200})") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory for it") from error
    side = math.isqrt(max(values.shape[1] - 1, 0))
    if not values.size or side * side != values.shape[1] - 1 or not side:
        raise DataError(f"{path}: {values.shape[1]} columns, expected a label and the pixels of a square (1 + 28 x 28)")
    if not (values >= 0).all() or (values[:, 1:] > 255).any() or (values % 1 != 0).any():
        raise DataError(f"{path}: expected integers, pixels from 0 to 255, labels from 0 on")
    labels = np.minimum(values[:, 0], 2**24).astype(np.int64)
    return values[:, 1:].astype(np.uint8).reshape(-1, side, side), labels


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
