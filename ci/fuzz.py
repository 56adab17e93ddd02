"""Damage files in many ways and read them. Each must be read, or be refused with an error of the library's own.

    python ci/fuzz.py                  about 83,000 files, about a minute
    python ci/fuzz.py --random 20000   more files that are damaged at random

Each reader gets a small file cut off at each length, with each of its bits flipped, and with random damage (bytes
overwritten, inserted or removed, and absurd lengths). If a file has a checksum (networks, checkpoints), it may only be
read as it was written. The exit status is 1 for any other outcome, for a read that takes seconds, and if memory grows
by more than the files can justify.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import nnbackend as nn
from nnbackend.datasets.idx import read_idx, write_idx
from nnbackend.datasets.npz import array_pair
from nnbackend.datasets.table import read_table, table_target, write_table
from nnbackend.images import read_images

PARQUET = importlib.util.find_spec("pyarrow") is not None
SECONDS, MEGABYTES = 5.0, 256.0  # the limits for one read, and for all reads of a kind


@dataclass(frozen=True)
class Reader:
    """Reads files of one kind. read: returns a value to compare. exact: whether a checksum protects the content."""

    name: str
    content: bytes = field(repr=False)
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    exact: bool

    def outcome(self, path: Path, expected: Any) -> str:
        """Return "read", "refused", or a description of the failure."""
        try:
            result = self.read(path)
        except self.errors:
            return "refused"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "read" if not self.exact or result == expected else "read, but it is not what was written"


def readers(folder: Path) -> list[Reader]:
    """Return a reader for each kind of file, with a small undamaged file."""
    x, t = np.arange(12, dtype="float32").reshape(4, 3) / 10, np.array([0, 1, 1, 0])

    def trainer(file: Path | None = None) -> nn.Trainer:
        shared = nn.Affine(4, 4)
        layers = [nn.Affine(3, 4), shared, nn.Residual([nn.BatchNormalization(4), nn.ReLU(), shared]), nn.Affine(4, 2)]
        network = nn.Network(layers, seed=0, backend="numpy")
        return nn.Trainer(network, nn.Momentum(0.1), batch_size=2, checkpoint=file)

    def values(network: nn.Network) -> dict[str, bytes]:
        return {name: a.tobytes() for name, a in [*network.params.items(), *network.statistics.items()]}

    def resumed(path: Path) -> Any:
        going_on = trainer()
        going_on.resume(path)
        return values(going_on.network), going_on.state.optimizer["t"], going_on.epoch, going_on.history.loss

    trained = trainer(folder / "checkpoint")
    trained.fit(x, t, 2)
    trained.network.save(folder / "network")
    write_idx(folder / "idx", np.arange(2 * 28 * 28, dtype="u1").reshape(2, 28, 28)[:, :6, :6])
    digit = Image.fromarray((np.hypot(*np.mgrid[-6:6, -6:6]) < 4).astype("u1") * 255)
    pictures = {}
    for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "TIFF, float"):
        stream = io.BytesIO()
        (digit.convert("F") if "float" in kind else digit).save(stream, kind.removesuffix(", float"))
        pictures[kind] = stream.getvalue()

    def finite(path: Path) -> Any:
        image = read_images(path, 12)
        if not (image.shape == (1, 144) and image.min() >= 0 and image.max() <= 1):  # also if it holds NaN
            raise ArithmeticError("what was read is no picture")
        return image

    def columns(path: Path) -> Any:
        table, target = read_table(path), "kind"
        return table_target(table, target, "auto")[1].tolist()

    def parquet(path: Path) -> Any:
        named = path.with_suffix(".parquet")
        named.write_bytes(path.read_bytes())
        return columns(named)

    table = {"kind": np.array(["a", "b"] * 3, object), "x": np.arange(6) / 4, "word": np.array(["u"] * 6, object)}
    kinds: dict[str, Callable[[Path], Any]] = {"csv": columns} | ({"parquet": parquet} if PARQUET else {})
    for ending in kinds:
        write_table(folder / f"table.{ending}", table)
    np.savez(folder / "arrays.npz", x=np.arange(8.0).reshape(4, 2), y=np.arange(4))

    def file(name: str) -> bytes:
        return (folder / name).read_bytes()

    data = (nn.DataError,)
    return [
        Reader("network", file("network"), lambda p: values(nn.load(p, backend="numpy")), (nn.ModelFileError,), True),
        Reader("checkpoint", file("checkpoint"), resumed, (nn.ModelFileError, nn.CheckpointError), True),
        *(Reader(ending, file(f"table.{ending}"), read, data, False) for ending, read in kinds.items()),
        Reader("npz", file("arrays.npz"), lambda p: array_pair(p)[1], data, False),
        Reader("IDX", file("idx"), read_idx, data, False),
        Reader("IDX, gzip", gzip.compress(file("idx"), mtime=0), lambda p: read_images(p, 6), data, False),
        *(Reader(kind, content, finite, data, False) for kind, content in pictures.items()),
    ]


def cut(content: bytes) -> Iterator[bytes]:
    """Yield the content cut off at each length."""
    return (content[:length] for length in range(len(content)))


def flipped(content: bytes, bits: range = range(8)) -> Iterator[bytes]:
    """Yield the content with one bit flipped, for each bit of each byte."""
    for at in range(len(content)):
        for bit in bits:
            yield content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return the content with random damage in one to six places."""
    broken = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at, size = chance.randrange(len(broken) + 1), chance.choice([1, 2, 4, 8, 64])
        match chance.randrange(5):
            case 0:
                broken[at : at + size] = chance.randbytes(size)
            case 1:
                broken[at:at] = chance.randbytes(size)
            case 2:
                del broken[at : at + size]
            case 3:  # a wrong length
                broken[at : at + size] = chance.choice([b"\xff", b"\x00", b"\x7f", b"9"]) * size
            case 4:
                other = chance.randrange(len(broken) + 1)
                broken[at : at + size] = broken[other : other + size]
    return bytes(broken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=500, help="randomly damaged files for every reader")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    bad, total, chance = 0, 0, random.Random(arguments.seed)
    print(f"{'reader':14}{'bytes':>7}{'files':>8}{'read':>7}{'refused':>9}{'else':>6}{'slowest, ms':>13}")
    with tempfile.TemporaryDirectory() as name:
        everything, path = readers(Path(name)), Path(name) / "damaged"
        for reader in everything:
            path.write_bytes(reader.content)
            expected = reader.read(path)
            outcomes: Counter[str] = Counter()
            slowest, before = 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            random_ones = (damaged(reader.content, chance) for _ in range(arguments.random))
            for files in (cut(reader.content), flipped(reader.content), random_ones):
                for content in files:
                    path.write_bytes(content)
                    began = time.perf_counter()
                    outcomes[reader.outcome(path, expected)] += 1
                    slowest = max(slowest, time.perf_counter() - began)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            read, refused, files_tried = outcomes.pop("read", 0), outcomes.pop("refused", 0), sum(outcomes.values())
            count = read + refused + files_tried
            print(
                f"{reader.name:14}{len(reader.content):7}{count:8}{read:7}{refused:9}{files_tried:6}"
                f"{slowest * 1e3:13.1f}"
            )
            for outcome, times in outcomes.most_common(5):
                print(f"    {times} times: {outcome}")
            if grown > MEGABYTES:
                print(f"    memory grew by {grown:.0f} MB")
            bad += files_tried + (slowest > SECONDS) + (grown > MEGABYTES)
            total += count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{total} files; peak memory of the process {peak:.0f} MB")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
