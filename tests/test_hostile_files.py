"""Files that are broken, or made to hurt: an error of the library's own or a correct read, and nothing else."""

from __future__ import annotations

import copy
import gzip
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import nnbackend as nn
from nnbackend import serialization
from nnbackend.images import read_images

pytest.importorskip("resource", reason="resource: this system cannot measure memory")
NAMES = ["network", "checkpoint", "IDX", "IDX, gzip", "PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "TIFF, float"]
NAMES += ["csv", "npz", *(["parquet"] if find_spec("pyarrow") else [])]


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = spec_from_file_location("fuzz", Path(__file__).parents[1] / "ci" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["fuzz"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def readers(fuzz: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {reader.name: reader for reader in fuzz.readers(tmp_path_factory.mktemp("sound"))}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_cut_anywhere_flipped_anywhere_damaged_at_random(
    name: str, readers: dict[str, Any], fuzz: ModuleType, tmp_path: Path
) -> None:
    assert set(readers) == set(NAMES)
    reader, path, chance = readers[name], tmp_path / "file", random.Random(0)
    path.write_bytes(reader.content)
    expected = reader.read(path)
    assert reader.outcome(path, expected) == "read"
    bit = chance.randrange(8)
    files = [*fuzz.cut(reader.content), *fuzz.flipped(reader.content, range(bit, bit + 1))]
    files += [fuzz.damaged(reader.content, chance) for _ in range(100)]
    for content in files:
        path.write_bytes(content)
        assert reader.outcome(path, expected) in ("read", "refused"), content


def test_arrays_of_every_layout_come_back(tmp_path: Path) -> None:
    a = np.arange(6.0, dtype="float32").reshape(2, 3)
    tensors = {"big": a.astype(">f4"), "turned": a.T, "number": np.array(2.0), "none": a[:0], "every other": a[:, ::2]}
    serialization.write(tmp_path / "file", tensors, {})
    found, _ = serialization.read(tmp_path / "file")
    assert {name: (x.shape, x.tolist()) for name, x in found.items()} == {
        name: (x.shape, x.tolist()) for name, x in tensors.items()
    }


# --- files that are sound, and lie ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(readers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Tensors and description of a network and of a checkpoint."""
    content = {}
    for name in ("network", "checkpoint"):
        path = tmp_path_factory.mktemp("sound") / name
        path.write_bytes(readers[name].content)
        content[name] = serialization.read(path)
    return content


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything in a JSON value."""
    yield way
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*way, key))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.sampled_from(["", "W1", "Affine", "Residual", "float64", "1e9", "../../etc/passwd", "__class__", "\0", "ゼロ"])
    | st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, 2**63, 10**12]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "a", "input_size", "layers", "use_of"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("name", ["network", "checkpoint"])
@given(data=st.data())
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_description_that_lies_with_a_valid_checksum(
    name: str, readers: dict[str, Any], sound: dict[str, tuple[Any, Any]], tmp_path: Path, data: st.DataObject
) -> None:
    tensors, description = sound[name]
    description = copy.deepcopy(description)
    for _ in range(data.draw(st.integers(1, 2))):
        ways = [way for way in places(description) if way and way[0] != "format"]
        if not ways:
            break
        way = data.draw(st.sampled_from(ways))
        parent = description
        for key in way[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()) or isinstance(parent, list):
            parent[way[-1]] = data.draw(JSON)
        else:
            del parent[way[-1]]
    serialization.write(tmp_path / "file", tensors, description)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = readers[name].outcome(tmp_path / "file", None)
    assert outcome in ("refused", "read", "read, but it is not what was written"), outcome


TENSORS: dict[str, Callable[[dict[str, Any]], object]] = {
    "missing": lambda tensors: tensors.pop("W1"),
    "another": lambda tensors: tensors.update(W9=np.zeros(1, "float32")),
    "transposed": lambda tensors: tensors.update(W1=tensors["W1"].T.copy()),
    "another dtype": lambda tensors: tensors.update(W1=tensors["W1"].astype("int64")),
    "boolean": lambda tensors: tensors.update(W1=tensors["W1"] > 0),
    "no axes": lambda tensors: tensors.update(b1=np.float32(1).reshape(())),
    "empty": lambda tensors: tensors.update(b1=np.zeros(0, "float32")),
    "none": lambda tensors: tensors.clear(),
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("name", ["network", "checkpoint"])
def test_tensors_that_do_not_fit(
    name: str, change: Any, readers: dict[str, Any], sound: dict[str, tuple[Any, Any]], tmp_path: Path
) -> None:
    tensors, description = dict(sound[name][0]), sound[name][1]
    change(tensors)
    serialization.write(tmp_path / "file", tensors, description)
    with pytest.raises(readers[name].errors):
        readers[name].read(tmp_path / "file")


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file: the length of the header, the header, the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(text: str) -> dict[str, Any]:
    return {"__metadata__": {"nnbackend": text}}


HEADERS: dict[str, bytes] = {
    "a header of 2^63 bytes": raw({}, length=2**63 - 1),
    "a header of a terabyte": raw({}, length=10**12),
    "a tensor of a terabyte": raw({"W1": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}),
    "a shape that overflows": raw({"W1": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 4]}}, b"\0" * 4),
    "offsets that go back": raw({"W1": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"\0" * 4),
    "offsets that overlap": raw(
        {
            name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | described('{"format": 1}')
            for name in ("W1", "b1")
        },
        b"\0" * 4,
    ),
    "a dtype that NumPy has not": raw(
        described('{"format": 1}') | {"W1": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"\0" * 2
    ),
    "a dtype that nobody has": raw({"W1": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    **{
        f"a dtype that NumPy has not, {dtype}": raw(
            described('{"format": 1}') | {"W1": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}, b"\0" * size
        )
        for dtype, size in (("F8_E4M3", 2), ("F8_E5M2", 2), ("F8_E8M0", 2), ("F4", 1))
    },
    "names that come twice": raw(
        b'{"W1":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 1 + b'"W1":7}', b"\0" * 4
    ),
    "no JSON": raw(b"{" * 100),
    "JSON that is very deep": raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a description that is very deep": raw(described('{"format": 1, "network": ' + "[" * 50_000 + "]" * 50_000 + "}")),
    "one that is just deep enough": raw(
        described('{"format": 1, "sha256": "x", "network": ' + "[" * 900 + "]" * 900 + "}")
    ),
    **{
        f"{depth} lists in each other": raw(
            described('{"format": 1, "sha256": "x", "network": ' + "[" * depth + "]" * depth + "}")
        )
        for depth in (960, 980, 990, 995)
    },
    "a description that is no JSON": raw(described("pickle.loads")),
    "a description that is a list": raw(described("[1]")),
    "a description that is a number": raw(described("1")),
    "a format that is a list": raw(described('{"format": [1]}')),
    "a format that is infinite": raw(described('{"format": Infinity}')),
    "a newer format": raw(described('{"format": 99}')),
    "no network": raw(described('{"format": 1}')),
    "a checksum that is a list": raw(described('{"format": 1, "sha256": []}')),
    "a pickle": pickle.dumps(os.system),
    "nothing": b"",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("name", ["network", "checkpoint"])
def test_headers_that_lie_allocate_nothing(name: str, content: bytes, readers: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(readers[name].errors):
        readers[name].read(tmp_path / "file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("name", ["network", "checkpoint"])
def test_a_file_that_is_all_hole_is_not_read(name: str, readers: dict[str, Any], tmp_path: Path) -> None:
    size = 2**32
    path = tmp_path / "file"
    path.write_bytes(
        raw(described('{"format": 1}') | {"W1": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    )
    os.truncate(path, path.stat().st_size + size)  # takes no room on the disk
    tracemalloc.start()
    with pytest.raises(nn.ModelFileError, match="larger than what it describes can be"):
        readers[name].read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


LAYERS: dict[str, list[dict[str, Any]]] = {
    "a layer of 10^24 weights": [{"kind": "Affine", "input_size": 10**12, "output_size": 10**12}],
    "filters of 10^36 weights": [
        {"kind": "Convolution", "in_channels": 10**12, "out_channels": 10**12, "kernel_size": [10**6, 10**6]}
    ],
    "a norm of 10^18 features": [{"kind": "BatchNormalization", "size": 10**18}],
    "a size that is a float": [{"kind": "Affine", "input_size": 3.5, "output_size": 2}],
    "a size that is infinite": [{"kind": "Affine", "input_size": float("inf"), "output_size": 2}],
    "an initializer from a file": [{"kind": "Affine", "input_size": 3, "output_size": 2, "weight": "/etc/passwd"}],
    "a kind that is a list": [{"kind": ["Affine"], "input_size": 3, "output_size": 2}],
    "a kind of Python's": [{"kind": "__import__", "name": "os"}],
    "a layer that is a number": [3],  # type: ignore[list-item]
    "no layers": [],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_layers_that_lie_allocate_nothing(layers: Any, sound: dict[str, tuple[Any, Any]], tmp_path: Path) -> None:
    tensors, description = sound["network"]
    description = {**description, "network": {**description["network"], "layers": layers}}
    serialization.write(tmp_path / "file", tensors, description)
    tracemalloc.start()
    with pytest.raises(nn.ModelFileError):
        nn.load(tmp_path / "file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("version", ["0", "-3", "0.5", "true", '"1"', "null"])
def test_a_format_that_is_no_positive_integer(version: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(raw(described(f'{{"format": {version}}}')))
    with pytest.raises(nn.ModelFileError, match="its description is damaged"):
        serialization.read(tmp_path / "file")


def described_as(path: Path, layers: list[dict[str, Any]]) -> Path:
    """A file of a network without values."""
    network = {"kind": "Network", "layers": layers, "loss": {"kind": "Huber"}, "dtype": "float32", "seed": 0}
    serialization.write(path, {}, {"network": network})
    return path


def test_many_layers_are_read_in_time_that_grows_with_their_number(tmp_path: Path) -> None:
    path = described_as(tmp_path / "file", [{"kind": "Flatten"}] * 60_000)
    began = time.process_time()
    nn.load(path, backend="numpy")
    assert time.process_time() - began < 5  # takes half a second; comparing each with each, a quarter of a minute


@pytest.mark.parametrize("layer", [{"kind": "ReLU" * 10**6}, {"kind": "BatchNormalization", "features": "9" * 10**6}])
def test_a_message_does_not_quote_megabytes(layer: dict[str, Any], tmp_path: Path) -> None:
    path = described_as(tmp_path / "file", [layer])
    tracemalloc.start()
    with pytest.raises(nn.ModelFileError) as caught:
        nn.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 2000
    assert peak < 2**26


# --- what is no file, and pictures that are not what they seem --------------------------------------------------


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "none", tmp_path / "folder", Path("/dev/zero"), tmp_path / "a\0b", tmp_path / ("x" * 5000)]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        paths.append(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    paths.append(tmp_path / "loop")
    for path in paths:
        with pytest.raises(nn.ModelFileError):
            nn.load(path)
        with pytest.raises(nn.DataError):
            read_images(path)
        with pytest.raises(nn.DataError):
            nn.datasets.read_idx(path)


def png(width: int, height: int) -> bytes:
    """A grey PNG of the stated size that holds a megabyte of zeros, packed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "size",
    [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (2**31 - 1, 1), (10_000, 5_001), (2**16 + 1, 1), (1, 2**16 + 1)],
)
def test_a_picture_that_unpacks_to_gigabytes_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(png(*size))
    with pytest.raises(nn.DataError, match="too large for a picture of a digit"):
        read_images(tmp_path / "file")


def test_the_memory_that_a_picture_takes(tmp_path: Path) -> None:
    """It and one copy of it, with four bytes a pixel at most: not one for every step of its preparation."""
    side = 4000
    for name, length in (("small", 20), ("large", side)):
        Image.new("RGBA", (length, length)).save(tmp_path / name, "PNG")
    program = """if True:
        import resource, sys
        import nnbackend as nn
        from nnbackend.images import read_images
        peaks = []
        for path in sys.argv[1:]:
            try:
                read_images(path)
            except nn.DataError as error:
                assert "blank" in str(error)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        print((peaks[1] - peaks[0]) * (1 if sys.platform == "darwin" else 1024))
    """
    command = [sys.executable, "-c", program, str(tmp_path / "small"), str(tmp_path / "large")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 10 * side**2


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]], ids=str)
def test_pixels_that_are_not_finite(values: list[float], tmp_path: Path) -> None:
    pixels = np.zeros((30, 40), "float32")
    pixels[10:20, 10:20] = 1
    pixels[12, 12 : 12 + len(values)] = values
    Image.fromarray(pixels).save(tmp_path / "file", "TIFF")
    with pytest.raises(nn.DataError, match="not finite"):
        read_images(tmp_path / "file")


def test_pixels_that_are_far_apart(tmp_path: Path) -> None:
    pixels = np.full((30, 40), -3e38, "float32")
    pixels[10:20, 10:20] = 3e38
    Image.fromarray(pixels).save(tmp_path / "file", "TIFF")
    image = read_images(tmp_path / "file")
    assert image.min() == 0
    assert image.max() == 1


def test_a_gzip_bomb_whose_header_is_right(tmp_path: Path) -> None:
    packed, many = gzip.compress(bytes(2**24)), 17

    def bomb(times: int) -> Path:
        (tmp_path / "file").write_bytes(
            gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, times * 2**24)) + times * packed
        )
        return tmp_path / "file"

    assert nn.datasets.read_idx(bomb(1)).shape == (2**24,)  # that is zeros, and no harm
    path = bomb(many)
    tracemalloc.start()
    for read in (nn.datasets.read_idx, read_images):
        with pytest.raises(nn.DataError, match="as in a bomb"):
            read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS: other systems do not keep to it")
def test_an_idx_file_larger_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(struct.pack(">BBBB2I", 0, 0, 8, 2, 2**16, 2**16))
    os.truncate(path, 12 + 2**32)  # takes no room on the disk
    program = """if True:
        import resource, sys
        import nnbackend as nn
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26,) * 2)
        try:
            nn.datasets.read_idx(sys.argv[1])
        except nn.DataError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    assert "not enough memory" in done.stdout


def test_a_picture_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({tmp_path}/made) (w) file closefile\nshowpage\n"
    (tmp_path / "file").write_text(program)
    with pytest.raises(nn.DataError, match="neither IDX nor a picture"):
        read_images(tmp_path / "file")
    assert not (tmp_path / "made").exists()
