"""IDX files: known bytes, every element type, and every way in which a file can lie."""

import gzip
import math
import os
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnbackend.datasets import read_idx, write_idx
from nnbackend.errors import DataError

KNOWN = [  # written by hand from the format: 00 00, type, rank, sizes, elements; all big-endian
    ("00000802 00000002 00000003 000102 0304ff", np.array([[0, 1, 2], [3, 4, 255]], "u1")),
    ("00000901 00000002 80 7f", np.array([-128, 127], "i1")),
    ("00000b01 00000002 8000 0102", np.array([-32768, 258], "i2")),
    ("00000c01 00000002 80000000 01020304", np.array([-(2**31), 0x01020304], "i4")),
    ("00000d01 00000002 3f800000 c0200000", np.array([1.0, -2.5], "f4")),
    ("00000e01 00000002 3ff0000000000000 c004000000000000", np.array([1.0, -2.5], "f8")),
]


@pytest.mark.parametrize(("text", "expected"), KNOWN, ids=lambda value: getattr(value, "dtype", ""))
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gzip"])
def test_known_bytes_both_ways(tmp_path: Path, text: str, expected: np.ndarray, packed: bool) -> None:
    path = tmp_path / ("a.gz" if packed else "a")
    content = bytes.fromhex(text)
    path.write_bytes(gzip.compress(content) if packed else content)
    array = read_idx(path)
    assert array.dtype == expected.dtype
    assert array.dtype.isnative
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, expected)
    write_idx(path, expected.astype(expected.dtype.newbyteorder(">")))
    assert (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()) == content


def test_gzip_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    content = bytes.fromhex(KNOWN[0][0])
    (tmp_path / "raw.gz").write_bytes(content)
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    np.testing.assert_array_equal(read_idx(tmp_path / "raw.gz"), KNOWN[0][1])
    np.testing.assert_array_equal(read_idx(str(tmp_path / "packed")), KNOWN[0][1])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 1, 1, 3)], ids=str)
def test_round_trip_of_unusual_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape), dtype="i4").reshape(shape)
    write_idx(tmp_path / "a", array)
    assert read_idx(tmp_path / "a").shape == shape
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def test_written_bytes_depend_on_the_values_alone(tmp_path: Path) -> None:
    array = np.arange(24, dtype="f4").reshape(4, 6)
    write_idx(tmp_path / "one.gz", array)
    write_idx(tmp_path / "two.gz", np.asfortranarray(array.astype(">f4")))
    one = (tmp_path / "one.gz").read_bytes()
    assert one == (tmp_path / "two.gz").read_bytes()
    assert one[3:8] == bytes(5)  # no file name in the header, and no time


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "str", "object"])
def test_write_refuses_other_types(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(TypeError, match=r"^array: IDX has no element type for .*expected one of uint8, int8"):
        write_idx(tmp_path / "a", np.zeros(2, dtype))
    assert not (tmp_path / "a").exists()


def test_write_refuses_a_side_that_does_not_fit(tmp_path: Path) -> None:
    wide = np.lib.stride_tricks.as_strided(np.zeros(1, "u1"), (2**32,), (0,))  # one byte in truth
    with pytest.raises(ValueError, match=r"^array: shape \(4294967296,\)"):
        write_idx(tmp_path / "a", wide)


def test_write_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.a: cannot be written \(No such file"):
        write_idx(tmp_path / "missing" / "a", np.zeros(1, "u1"))


def header(code: int, *shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)


GOOD = header(8, 2, 3) + bytes(6)
HOSTILE = {
    "empty": (b"", "truncated: 0 bytes"),
    "short magic": (b"\0\0\x08", "truncated: 3 bytes"),
    "text": (b"label,pixel", r"not IDX: it begins with 6c 61 62 65, expected 00 00, then one of 08, 09"),
    "unknown type": (header(0x0A, 1) + b"\0", "not IDX: it begins with 00 00 0a 01"),
    "little-endian": (b"\x02\x08\0\0" + bytes(14), "not IDX"),
    "no sizes": (header(8, 2, 3)[:9], "truncated: 5 bytes of sizes, but 2 axes take 8"),
    "no elements": (GOOD[:12], r"truncated: the header states uint8 of shape \(2, 3\), 6 bytes, but"),
    "one missing": (GOOD[:-1], "6 bytes, but the file holds 5"),
    "half an element": (header(0x0C, 1) + bytes(3), "int32 of shape .1,., 4 bytes, but the file holds 3"),
    "trailing": (GOOD + b"\0", "trailing bytes: the header states .* 6 bytes, but more follow"),
    "terabytes": (header(8, 2**31, 2**10), "2199023255552 bytes, but the file holds 0"),
    "beyond 64 bits": (header(14, *[2**32 - 1] * 9), "but the file holds 0"),
    "too many axes": (header(8, *[1] * 255) + b"\0", "which NumPy cannot hold"),
    "huge around empty": (header(8, 0, *[2**32 - 1] * 3), "which NumPy cannot hold"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_raw_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", [content for content, _ in HOSTILE.values()], ids=HOSTILE.keys())
def test_hostile_file_in_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")


PACKED = gzip.compress(GOOD, mtime=0)
HOSTILE_GZIP = {
    "header only": PACKED[:10],
    "wrong method": PACKED[:2] + b"\x07" + PACKED[3:],
    "wrong checksum": PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:],
    "wrong length": PACKED[:-1] + b"\x01",
    "garbage behind": PACKED + b"garbage",
    "bad deflate block": PACKED[:10] + b"\xff" * 20,
}


@pytest.mark.parametrize("content", HOSTILE_GZIP.values(), ids=HOSTILE_GZIP.keys())
def test_corrupt_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corrupt.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"corrupt.gz: corrupt or truncated gzip data \(.+\)"):
        read_idx(path)


@pytest.mark.parametrize("content", [GOOD, PACKED], ids=["raw", "gzip"])
def test_truncated_at_every_byte(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"truncated|not IDX"):  # one byte of gzip is not yet gzip
            read_idx(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


@pytest.mark.parametrize("content", [GOOD, PACKED], ids=["raw", "gzip"])
def test_every_single_bit_flip_gives_an_array_or_a_data_error(scratch: Path, content: bytes) -> None:
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        check_array_or_data_error(scratch, bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_damage_gives_an_array_or_a_data_error(scratch: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([GOOD, PACKED, gzip.compress(GOOD * 50)])))
    damage = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for position, value in data.draw(st.lists(damage, min_size=1, max_size=6)):
        content[position] = value
    check_array_or_data_error(scratch, bytes(content) + data.draw(st.binary(max_size=3)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"", b"\0\0\x08", b"\0\0\x0e", b"\x1f\x8b\x08"]))
def test_random_bytes_give_an_array_or_a_data_error(scratch: Path, content: bytes, start: bytes) -> None:
    check_array_or_data_error(scratch, start + content)


def check_array_or_data_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with suppress(DataError):
        assert read_idx(path).dtype.isnative


MEMORY = {  # claims of terabytes, of no more than gzip could hold, and 64 MiB behind a claim of six bytes
    "raw claim": header(8, 2**31, 2**10) + bytes(100),
    "gzip claim": gzip.compress(header(8, 2**31, 2**10) + bytes(100)),
    "modest gzip claim": gzip.compress(header(8, 1 << 26) + np.random.default_rng(0).bytes(1 << 17)),
    "bomb": gzip.compress(GOOD + bytes(1 << 26), compresslevel=1),
}


@pytest.mark.parametrize("content", MEMORY.values(), ids=MEMORY.keys())
def test_memory_follows_the_data_not_the_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "claim"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read_idx(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 22  # some buffers; not the 64 MiB, not the terabytes


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a regular file, got a folder"):
        read_idx(tmp_path)
    with pytest.raises(DataError, match=r"missing: cannot be read \(No such file"):
        read_idx(tmp_path / "missing")
    with pytest.raises(DataError, match=r"cannot be read \(embedded null"):
        read_idx("a\0b")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path / ("long" * 200))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="expected a regular file, got a special file"):
        read_idx(tmp_path / "pipe")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.write_bytes(GOOD)

    def refuse(*_: object) -> None:  # chmod would not stop a superuser
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"secret: cannot be read \(Permission denied\)"):
        read_idx(path)
