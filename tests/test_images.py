"""Pictures of digits, made to look like MNIST."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.datasets import mnist_host, write_idx
from nnbackend.images import read_digit, read_images

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """100 of the real test images, (100, 28, 28) uint8, bright ink on 0."""
    return mnist_host("sample").x_test[:100]


def scan(digit: np.ndarray, zoom: int = 10) -> Any:
    """A digit as people draw it: large, dark on light, off the middle of a sheet that is no square."""
    large = Image.fromarray(255 - digit).resize((28 * zoom, 28 * zoom), Image.Resampling.NEAREST)
    sheet = Image.new("L", (47 * zoom, 38 * zoom), 255)
    sheet.paste(large, (16 * zoom, 3 * zoom))
    return sheet


def stroke(size: tuple[int, int] = (120, 90)) -> np.ndarray:
    """A grey picture (height, width) of a thick L: 0 is paper, 255 ink."""
    picture = np.zeros(size[::-1], np.uint8)
    picture[20:70, 30:40] = 255
    picture[60:70, 30:60] = 255
    return picture


def test_scans_are_read_like_the_originals(digits: np.ndarray, tmp_path: Path) -> None:
    data = nn.datasets.mnist("sample", backend=nn.backend())
    net = nn.Network([nn.Affine(784, 64), nn.ReLU(), nn.Affine(64, 10)], seed=0, backend="numpy")
    nn.Trainer(net, nn.Adam(lr=0.003), batch_size=50).fit(data.x_train, data.t_train, 2)
    original = net.predict(digits.reshape(-1, 784) / 255).argmax(axis=1)
    rows = []
    for i, digit in enumerate(digits):
        path = tmp_path / (f"{i}.png" if i % 2 else f"{i}.jpg")
        scan(digit).save(path)
        rows.append(read_digit(path))
    assert np.mean(net.predict(np.stack(rows)).argmax(axis=1) == original) >= 0.96
    # seen, not only recognised: the mean pixel differs by little more than what resampling does
    assert np.abs(np.stack(rows) - digits.reshape(-1, 784) / 255).mean() < 0.02


def test_an_image_of_mnist_is_taken_as_it_is(digits: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(digits[0]).save(tmp_path / "a.png")
    row = read_digit(str(tmp_path / "a.png"))
    assert (row.shape, row.dtype) == ((784,), np.float32)
    np.testing.assert_array_equal(row, np.divide(digits[0], 255, dtype=np.float32).reshape(-1))


def test_the_digit_is_scaled_and_centred(tmp_path: Path) -> None:
    Image.fromarray(255 - stroke()).save(tmp_path / "a.png")
    image = read_digit(tmp_path / "a.png").reshape(28, 28)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert rows[-1] - rows[0] + 1 == 20  # the longer side
    assert columns[-1] - columns[0] + 1 == 12  # 30 : 50 of it
    at = np.arange(28)
    centre = np.array([image.sum(axis=1) @ at, image.sum(axis=0) @ at]) / image.sum()
    assert np.all(np.abs(centre - 14) <= 0.5)
    assert image.max() == 1
    assert image.min() == 0


@pytest.mark.parametrize("side", [8, 14, 56])
def test_other_sides(side: int, tmp_path: Path) -> None:
    Image.fromarray(255 - stroke()).save(tmp_path / "a.png")
    image = read_digit(tmp_path / "a.png", side).reshape(side, side)
    assert np.ptp(np.flatnonzero(image.any(axis=1))) + 1 == round(side * 20 / 28)


def grey_paper(ink: np.ndarray) -> Any:
    return Image.fromarray((170 - 0.4 * ink).astype(np.uint8))


def transparent_paper(ink: np.ndarray) -> Any:
    return Image.fromarray(np.dstack([np.zeros((*ink.shape, 3), np.uint8), ink]))


def palette_with_transparency(ink: np.ndarray) -> Any:
    picture = Image.fromarray((ink > 127).astype(np.uint8)).convert("P")
    picture.putpalette([200, 10, 30, 0, 0, 120])
    picture.info["transparency"] = 0
    return picture


def turned_by_exif(ink: np.ndarray) -> Any:
    picture = Image.fromarray(np.rot90(255 - ink).copy())
    picture.getexif()[0x0112] = 6  # "turn by 90 degrees clockwise to see it upright"
    return picture


KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "light.png": lambda ink: Image.fromarray(255 - ink),
    "dark.png": lambda ink: Image.fromarray(ink),
    "colour.png": lambda ink: Image.fromarray(255 - ink).convert("RGB"),
    "ink.tiff": lambda ink: Image.fromarray(255 - ink).convert("CMYK"),
    "bits.png": lambda ink: Image.fromarray(255 - ink).convert("1"),
    "deep.png": lambda ink: Image.fromarray(65535 - 257 * ink.astype(np.uint16)),
    "real.tiff": lambda ink: Image.fromarray(1 - ink.astype(np.float32) / 255),
    "alpha.png": transparent_paper,
    "palette.png": palette_with_transparency,
    "grey.png": grey_paper,
    "turned.png": turned_by_exif,
    "frames.gif": lambda ink: Image.fromarray(255 - ink),
    "photo.jpg": lambda ink: Image.fromarray(255 - ink),
    "photo.webp": lambda ink: Image.fromarray(255 - ink),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_pictures_come_to_the_same(name: str, tmp_path: Path) -> None:
    picture = KINDS[name](stroke())
    exif = {"exif": picture.getexif()} if name.startswith("turned") else {}
    picture.save(tmp_path / name, **exif)
    Image.fromarray(255 - stroke()).save(tmp_path / "reference.png")
    lossy = name.startswith("photo")
    difference = np.abs(read_digit(tmp_path / name) - read_digit(tmp_path / "reference.png"))
    assert difference.mean() < (0.02 if lossy else 1e-6)


def test_shaded_and_noisy_paper_is_paper(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shade = np.linspace(-25, 25, 120)[None, :] + rng.normal(0, 3, (90, 120))
    Image.fromarray((200 + shade - 0.7 * stroke()).astype(np.uint8)).save(tmp_path / "photo.jpg")
    Image.fromarray(255 - stroke()).save(tmp_path / "a.png")
    assert np.abs(read_digit(tmp_path / "photo.jpg") - read_digit(tmp_path / "a.png")).mean() < 0.03


def test_large_pictures_are_read_like_small_ones(tmp_path: Path) -> None:
    picture = Image.fromarray(255 - stroke())
    picture.save(tmp_path / "small.png")
    picture.resize((120 * 40, 90 * 40), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    small, large = (read_digit(tmp_path / name) for name in ("small.png", "large.png"))
    assert np.abs(small - large).mean() < 0.01


def test_ink_at_the_edge_is_kept_inside(tmp_path: Path) -> None:
    """Nearly all of the mass at one end: centred by mass alone, the other end would leave the image."""
    picture = np.full((300, 60), 255, np.uint8)
    picture[20:60, 5:55] = 0
    picture[60:290, 29:31] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    image = read_digit(tmp_path / "a.png").reshape(28, 28)
    assert np.ptp(np.flatnonzero(image.any(axis=1))) + 1 == 20


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def encoded(picture: Any, path: Path) -> bytes:
    picture.save(path)
    return path.read_bytes()


BAD: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "blank": (lambda path: encoded(Image.new("L", (50, 50), 255), path), "the picture is blank"),
    "nearly_blank": (lambda path: encoded(Image.fromarray(250 - stroke() // 128), path), "the picture is blank"),
    "black": (lambda path: encoded(Image.new("L", (28, 28), 0), path), "the picture is blank"),
    "bomb": (lambda path: png(60000, 60000), "too large for a picture of a digit"),
    "half_a_bomb": (lambda path: png(12000, 10000), "too large for a picture of a digit"),
    "truncated": (lambda path: encoded(Image.fromarray(stroke()), path)[:80], "broken picture"),
    "hollow": (lambda path: png(50, 50), "broken picture"),
    "empty": (lambda path: b"", "neither IDX nor a picture that Pillow can read"),
    "text": (lambda path: b"seven", "neither IDX nor a picture that Pillow can read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_of_a_digit(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    path = tmp_path / f"{name}.png"
    path.write_bytes(make(path))
    with pytest.raises(nn.DataError, match=f"{name}.png: {message}"):
        read_digit(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    for read in (read_digit, read_images):
        with pytest.raises(nn.DataError, match=r"nix\.png: there is no such file"):
            read(tmp_path / "nix.png")
        with pytest.raises(nn.DataError, match="not a file"):
            read(tmp_path)
        with pytest.raises(nn.DataError, match="there is no such file"):
            read("a\0b")


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(stroke()).save(tmp_path / "a.png")
    write_idx(tmp_path / "a.idx", stroke()[None, :28, :28])
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "nnbackend\[plot\]"'):
        read_images(tmp_path / "a.png")
    assert read_images(tmp_path / "a.idx").shape == (1, 784)  # needs none


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files(ending: str, digits: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"images{ending}"
    write_idx(path, digits)
    rows = read_images(path)
    assert (rows.shape, rows.dtype) == ((100, 784), np.float32)
    np.testing.assert_array_equal(rows, np.divide(digits, 255, dtype=np.float32).reshape(100, 784))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 14, 14), np.uint8), r"got uint8 of shape \(3, 14, 14\), expected images: uint8 of shape \(n, 28"),
        (np.zeros(3, np.uint8), r"got uint8 of shape \(3,\)"),
        (np.zeros((0, 28, 28), np.uint8), "there are no images in it"),
    ],
)
def test_idx_files_of_something_else(array: np.ndarray, message: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "a", array)
    with pytest.raises(nn.DataError, match=message):
        read_images(tmp_path / "a")


def test_broken_idx_files(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(nn.DataError, match=r"a\.gz: corrupt or truncated gzip data"):
        read_images(tmp_path / "a.gz")


def test_one_picture_is_one_row(tmp_path: Path) -> None:
    Image.fromarray(stroke()).save(tmp_path / "a.png")
    assert read_images(tmp_path / "a.png").shape == (1, 784)
