"""Download the full MNIST set once, check it, and keep it in a cache folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnbackend.cache import cache_root
from nnbackend.datasets.idx import HostArray, idx_header, read_idx
from nnbackend.errors import DataError

__all__ = [
    "FILES",
    "MIRRORS",
    "cache_folder",
    "cached_mnist",
    "fetch_mnist",
    "is_file",
    "is_folder",
    "is_mnist",
    "is_there",
]

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://systemds.apache.org/assets/datasets/mnist/",
)

_LARGEST = 2**26  # bytes of a download; the largest file has 47 million even when decompressed

# Checksums of the decompressed files, because the mirrors serve different gzip bytes.
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def cache_folder() -> Path:
    """Return the folder of the full set: `mnist` in NNBACKEND_CACHE, or in the user's cache folder for nnbackend."""
    return cache_root() / "mnist"


def is_there(path: Path) -> bool:
    """Say whether `path` exists; False if Path.exists would raise (a folder that may not be searched)."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """Say whether `path` is a regular file; False if Path.is_file would raise."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Say whether `path` is a folder; False if Path.is_dir would raise."""
    return os.path.isdir(path)  # noqa: PTH112


def is_mnist(name: str, array: HostArray) -> bool:
    """Say whether `array` is what the file of MNIST with this name holds."""
    return array.dtype == np.uint8 and _digest(np.ascontiguousarray(array)) == _SHA256[name]


def cached_mnist(folder: Path | None = None) -> list[HostArray] | None:
    """Return the four arrays of the cached full set, in the order of FILES, or None if a file is missing.

    Nothing is downloaded. Raises DataError for a damaged file, so that no other data silently takes its place.
    """
    try:
        folder = cache_folder() if folder is None else folder
    except FileNotFoundError:  # no cache, and nothing in it
        return None
    paths = [folder / f"{name}.gz" for name in FILES]
    if not all(is_there(path) for path in paths):
        return None
    try:
        return [_verified(path) for path in paths]
    except DataError as error:
        raise DataError(f'{error}. nn.datasets.mnist("full") fetches it again.') from error


def fetch_mnist(
    folder: Path | None = None, *, mirrors: Sequence[str] = MIRRORS, timeout: float = 30.0
) -> list[HostArray]:
    """Return the four arrays of the full set, in the order of FILES. Download missing files (11 MB in all).

    folder: by default `cache_folder()`. mirrors: URLs of folders, tried in order for each file. timeout: seconds to
    wait for a connection and for each part of an answer. A file enters the folder only if it is complete and has the
    correct checksum, so that the next call resumes an interrupted one. A damaged file is removed and downloaded again.

    Raises DataError if no mirror gives a file (the message lists each failure) or the folder cannot be written.
    """
    try:
        folder = cache_folder() if folder is None else folder
    except FileNotFoundError as error:
        raise DataError(f"there is no place for MNIST: {error.strerror}") from error
    return [_fetch(folder / f"{name}.gz", mirrors, timeout) for name in FILES]


def _fetch(path: Path, mirrors: Sequence[str], timeout: float) -> HostArray:
    try:
        if is_there(path):
            try:
                return _verified(path)
            except DataError:
                path.unlink(missing_ok=True)  # another process may have removed it
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as temporary:
            part = Path(temporary) / path.name
            array = _download(part, mirrors, timeout)
            part.replace(path)
        return array
    except OSError as error:
        raise DataError(
            f"cannot write {path.name} to the cache folder {path.parent} ({error.strerror or error}). "
            "Set NNBACKEND_CACHE to a folder that can be written."
        ) from error


def _download(part: Path, mirrors: Sequence[str], timeout: float) -> HostArray:
    import pooch

    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{part.name}"
        try:
            pooch.HTTPDownloader(timeout=timeout, chunk_size=1 << 16, progressbar=_Limit())(url, str(part), None)
            return _verified(part)
        except DataError as error:
            head = part.read_bytes()[:1024].lstrip().lower()
            page = head.startswith(b"<") and b"html" in head
            reason = "answered with an HTML page" if page else str(error).removeprefix(f"{part}: ")
        except (OSError, ValueError) as error:  # ValueError: an invalid address or header
            reason = f"{type(error).__name__}: {error}"
        failures.append(f"\n  {url}: {reason}")
    raise DataError(
        f"no mirror gave {part.name}:{''.join(failures) or ' there is none to try'}\n"
        f"To place the files by hand, put {', '.join(f'{name}.gz' for name in FILES)} into "
        f"{part.parent.parent}, or into any folder and set NNBACKEND_DATA to it."
    )


class _Limit:
    """Acts as a progress bar for pooch, and ends a download that is too large or does not end."""

    total, _count = 0, 0

    def update(self, count: int) -> None:
        self._count += count
        if self._count > _LARGEST:
            raise ValueError(f"it sends more than {_LARGEST} bytes")

    def reset(self) -> None:
        self._count = 0

    def close(self) -> None:
        pass


def _verified(path: Path) -> HostArray:
    """Return the array in `path`. Raise DataError if the decompressed bytes do not have the known checksum."""
    array = read_idx(path)
    digest, expected = _digest(array), _SHA256[path.name.removesuffix(".gz")]
    if digest != expected:
        raise DataError(f"{path}: SHA-256 when decompressed is {digest}, expected {expected}")
    return array


def _digest(array: HostArray) -> str:
    digest = hashlib.sha256(idx_header(array))  # header and elements are the whole file, as read_idx has checked
    digest.update(array.data)
    return digest.hexdigest()
