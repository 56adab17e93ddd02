"""Read and write IDX, the file format of MNIST: two zero bytes, type, rank, big-endian sizes, then the elements."""

from __future__ import annotations

import gzip
import math
import os
import stat
import struct
import zlib
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnbackend.errors import DataError

__all__ = ["idx_header", "read_idx", "write_idx"]

HostArray: TypeAlias = npt.NDArray[Any]

_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_CODES = {dtype.newbyteorder("="): code for code, dtype in _TYPES.items()}
_GZIP = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032  # deflate never expands a byte to more than this many
PLAUSIBLE = 100  # the largest ratio by which useful data shrinks when it is packed
HARMLESS = 1 << 28  # bytes; a file that unpacks to no more is read whatever its ratio
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> HostArray:
    """Read the array in an IDX file, raw or gzip (told apart by content, not by name).

    Returns a C-contiguous array of native uint8, int8, int16, int32, float32 or float64, in the shape that the file
    states. Memory is allocated as data arrives, because the header may lie.

    Raises DataError, which names the file, what came and what was expected, if the file is missing, unreadable, not a
    regular file, truncated, too long, corrupt, not IDX, a gzip bomb, or larger than memory.
    """
    path = Path(path)
    try:
        return _read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: corrupt or truncated gzip data ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise DataError(f"{path}: there is not enough memory for it") from error
    except ValueError as error:  # the path cannot exist, for example because it has a null character
        raise DataError(f"{str(path)!r}: cannot be read ({error})") from error


def write_idx(path: str | os.PathLike[str], array: npt.ArrayLike) -> None:
    """Write `array` as an IDX file, as gzip if the name ends in ".gz". The same array gives the same bytes.

    array: uint8, int8, int16, int32, float32 or float64, of any byte order and shape.
    Raises TypeError for another dtype (nothing is converted), ValueError for a side of 2**32 or more,
    DataError if the file cannot be written.
    """
    array = np.asarray(array)
    header = idx_header(array)
    path = Path(path)
    try:
        with ExitStack() as stack:
            stream: BufferedIOBase = stack.enter_context(path.open("wb"))
            if path.name.endswith(".gz"):  # without name and time, so that the bytes depend on the data alone
                packed = gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=stream, mtime=0)
                stream = stack.enter_context(packed)
            stream.write(header)
            stream.write(array.astype(_TYPES[header[2]], order="C").tobytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error


def idx_header(array: HostArray) -> bytes:
    """Return the header of the IDX file of `array`. Raises TypeError and ValueError as `write_idx` does."""
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        accepted = ", ".join(dtype.name for dtype in _TYPES.values())
        raise TypeError(f"array: IDX has no element type for {array.dtype}; expected one of {accepted}")
    if any(side >= 2**32 for side in array.shape):
        raise ValueError(f"array: shape {array.shape}, but an IDX side is below 2**32")
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)


def _read(path: Path) -> HostArray:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # checked before opening, because opening a pipe would wait forever
        raise DataError("expected a regular file, got a " + ("folder" if path.is_dir() else "special file"))
    with ExitStack() as stack:
        stream: BufferedIOBase = stack.enter_context(path.open("rb"))
        packed = stream.read(2) == _GZIP
        stream.seek(0)
        if packed:
            stream = stack.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))
        dtype, shape, header_size = _read_header(stream)
        size = math.prod(shape) * dtype.itemsize
        stated = f"the header states {dtype.name} of shape {shape}, {size} bytes"
        available = status.st_size * _DEFLATE_LIMIT if packed else status.st_size - header_size
        if size > available:
            at_most = "at most " if packed else ""
            raise DataError(f"truncated: {stated}, but the file holds {at_most}{max(available, 0)}")
        if packed and size > max(HARMLESS, PLAUSIBLE * status.st_size):
            raise DataError(f"{stated}, packed into {status.st_size}, as in a bomb; if that is right, unpack it first")
        data = _read_up_to(stream, size + 1)  # one byte more, to find excess bytes and to reach the gzip checksum
    if len(data) < size:
        raise DataError(f"truncated: {stated}, but {len(data)} follow it")
    if len(data) > size:
        raise DataError(f"trailing bytes: {stated}, but more follow them")
    try:
        array = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:  # more axes, or (around an empty one) larger axes, than NumPy can hold
        raise DataError(f"{stated}, which NumPy cannot hold ({error})") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: BufferedIOBase) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    magic = _read_up_to(stream, 4)
    if len(magic) < 4:
        raise DataError(f"truncated: {len(magic)} bytes, but an IDX header has at least 4")
    zeros, code, rank = magic[:2], magic[2], magic[3]
    if any(zeros) or code not in _TYPES:
        types = ", ".join(f"{known:02x}" for known in _TYPES)
        raise DataError(f"not IDX: it begins with {magic.hex(' ')}, expected 00 00, then one of {types}")
    sides = _read_up_to(stream, 4 * rank)
    if len(sides) < 4 * rank:
        raise DataError(f"truncated: {len(sides)} bytes of sizes, but {rank} axes take {4 * rank}")
    return _TYPES[code], struct.unpack(f">{rank}I", sides), 4 + 4 * rank


def _read_up_to(stream: BufferedIOBase, count: int) -> bytearray:
    data = bytearray()
    while len(data) < count and (chunk := stream.read(min(_CHUNK, count - len(data)))):
        data += chunk
    return data
