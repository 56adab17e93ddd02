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
from nnbackend.images import Preparation, draw_images, preparation_of, read_digit, read_images

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


@pytest.mark.parametrize(("side", "longer"), [(8, 8), (16, 16), (14, 10), (56, 40)])  # 8, 16: scikit-learn's, USPS's
def test_other_sides(side: int, longer: int, tmp_path: Path) -> None:
    Image.fromarray(255 - stroke()).save(tmp_path / "a.png")
    image = read_digit(tmp_path / "a.png", side).reshape(side, side)
    assert np.ptp(np.flatnonzero(image.any(axis=1))) + 1 == longer


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


# --- pictures of real life --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> nn.Network:
    data = nn.datasets.mnist("sample", backend=nn.backend())
    net = nn.Network([nn.Affine(784, 64), nn.ReLU(), nn.Affine(64, 10)], seed=0, backend="numpy")
    nn.Trainer(net, nn.Adam(lr=0.003), batch_size=50).fit(data.x_train, data.t_train, 3)
    return net


def drawn(digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth ink from 0 to 1, somewhere on a sheet of 240 x 200."""
    big = Image.fromarray(digit).resize((168, 168), Image.Resampling.BICUBIC)
    big = big.filter(pytest.importorskip("PIL.ImageFilter").GaussianBlur(1.5))
    ink = np.clip((np.asarray(big, float) / 255 - 0.35) * 6, 0, 1)
    rows, columns = np.flatnonzero(ink.max(axis=1) > 0.05), np.flatnonzero(ink.max(axis=0) > 0.05)
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    sheet = np.zeros((240, 200))
    top, left = rng.integers(12, 60), rng.integers(12, 40)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return sheet


def light(low: float) -> np.ndarray:
    return np.linspace(1, low, 200)


def shadowed(width: float) -> np.ndarray:
    y, x = np.mgrid[:240, :200]
    return 1 - 0.5 / (1 + np.exp(-(x + y - 215) / width))


def lines(tilt: float, across: bool = False) -> np.ndarray:
    y, x = np.mgrid[:240, :200].astype(float)
    ruled = (y + x * tilt) % 30 < 2
    return np.asarray(ruled | ((x - y * tilt) % 30 < 2) if across else ruled, float)


def framed(inset: int, width: int) -> np.ndarray:
    frame = np.zeros((240, 200))
    frame[inset : 240 - inset, inset : 200 - inset] = 1
    frame[inset + width : 240 - inset - width, inset + width : 200 - inset - width] = 0
    return frame


def specked(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ink = ink.copy()
    for y, x in zip(rng.integers(0, 237, 20), rng.integers(0, 197, 20), strict=True):
        ink[y : y + 3, x : x + 3] = 1
    return ink


def on_a_table(picture: np.ndarray) -> np.ndarray:
    return np.pad(picture, 25, constant_values=50)


SHEETS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "light falls to 0.7": lambda a, rng: 235 * light(0.7) * (1 - 0.75 * a) + rng.normal(0, 4, a.shape),
    "light falls to 0.4": lambda a, rng: 235 * light(0.4) * (1 - 0.75 * a) + rng.normal(0, 4, a.shape),
    "soft shadow": lambda a, rng: 225 * shadowed(8) * (1 - 0.75 * a) + rng.normal(0, 3, a.shape),
    "sharp shadow": lambda a, rng: 225 * shadowed(2) * (1 - 0.75 * a) + rng.normal(0, 3, a.shape),
    "grain": lambda a, rng: 235 * (1 - 0.8 * a) + rng.normal(0, 20, a.shape),
    "pencil": lambda a, rng: 235 * light(0.7) * (1 - 0.3 * a) + rng.normal(0, 3, a.shape),
    "specks": lambda a, rng: 245 * (1 - 0.85 * specked(a, rng)),
    "specks, pencil": lambda a, rng: 245 * (1 - 0.85 * specked(0.4 * a, rng)),
    "ruled": lambda a, rng: 245 * (1 - 0.8 * np.maximum(a, 0.6 * lines(0))),
    "ruled in the same ink, askew": lambda a, rng: 245 * (1 - 0.8 * np.maximum(a, lines(0.05))),
    "squared": lambda a, rng: 245 * (1 - 0.8 * np.maximum(a, lines(0.02, True))),
    "frame": lambda a, rng: 245 * (1 - 0.8 * np.maximum(a, framed(4, 2))),
    "frame at the edge": lambda a, rng: 245 * (1 - 0.8 * np.maximum(a, framed(0, 6))),
    "table": lambda a, rng: on_a_table(235 * (1 - 0.8 * a)) + rng.normal(0, 3, (290, 250)),
    "chalk": lambda a, rng: (40 + 160 * a) * light(0.6) + rng.normal(0, 5, a.shape),
}


@pytest.mark.parametrize("name", SHEETS)
def test_sheets_as_people_have_them(name: str, reader: nn.Network, digits: np.ndarray, tmp_path: Path) -> None:
    """Nearly as many are read right as of the images themselves: 40 of 40 there, 1 less at most in five kinds."""
    rng, rows = np.random.default_rng(1), []
    for digit in digits[:40]:
        picture = SHEETS[name](drawn(digit, rng), rng)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(tmp_path / "a.png")
        rows.append(read_digit(tmp_path / "a.png"))
    original = reader.predict(digits[:40].reshape(-1, 784) / 255).argmax(axis=1)
    assert np.mean(reader.predict(np.stack(rows)).argmax(axis=1) == original) >= 0.9


def pen(width: int) -> np.ndarray:
    """A 4 drawn with a pen of so many pixels: ink from 0 to 1 on 240 x 200."""
    picture = Image.new("L", (200, 240), 0)
    draw = pytest.importorskip("PIL.ImageDraw").Draw(picture)
    for start, end in (((60, 40), (50, 120)), ((50, 120), (140, 120)), ((120, 50), (120, 200))):
        draw.line([start, end], fill=255, width=width)
    return np.asarray(picture, float) / 255


def test_a_thin_pen_is_widened(tmp_path: Path) -> None:
    rows = []
    for width in (2, 12):
        Image.fromarray((255 * (1 - pen(width))).astype(np.uint8)).save(tmp_path / "a.png")
        rows.append(read_digit(tmp_path / "a.png"))
    assert rows[0].max() > 0.7  # 2 of 160 pixels would be a grey of 0.25 in 20
    assert rows[0].sum() > 0.6 * rows[1].sum()


@pytest.mark.parametrize("width", [3, 10])
def test_a_bar_of_a_digit_that_fills_its_sheet_is_no_line(width: int, tmp_path: Path) -> None:
    ink = pen(width)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    tight = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    for name, picture in (("tight.png", tight), ("loose.png", ink)):
        Image.fromarray((255 * (1 - picture)).astype(np.uint8)).save(tmp_path / name)
    tight_row, loose_row = read_digit(tmp_path / "tight.png"), read_digit(tmp_path / "loose.png")
    assert np.abs(tight_row - loose_row).mean() < 0.01


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (250, 250, 250), (240, 230, 40), (200, 20, 20)])
def test_ink_of_any_colour_on_transparency(ink: tuple[int, int, int], tmp_path: Path) -> None:
    picture = np.zeros((90, 120, 4), np.uint8)
    picture[..., :3], picture[..., 3] = ink, stroke()
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(255 - stroke()).save(tmp_path / "b.png")
    assert np.abs(read_digit(tmp_path / "a.png") - read_digit(tmp_path / "b.png")).mean() < 0.01


def test_a_photo_with_round_corners_that_are_transparent(tmp_path: Path) -> None:
    picture = np.full((90, 120, 4), 230, np.uint8)
    picture[..., :3] = np.minimum(picture[..., :3], (255 - stroke())[..., None])
    picture[..., 3] = 255
    picture[:8, :8] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(255 - stroke()).save(tmp_path / "b.png")
    assert np.abs(read_digit(tmp_path / "a.png") - read_digit(tmp_path / "b.png")).mean() < 0.01


def test_small_pictures_off_centre_are_alike_dark_or_light(digits: np.ndarray, tmp_path: Path) -> None:
    small = np.asarray(Image.fromarray(digits[0][4:24, 4:24]).resize((13, 13), Image.Resampling.BICUBIC))
    picture = np.zeros((28, 28), np.uint8)
    picture[2:15, 1:14] = small
    for name, values in (("light.png", picture), ("dark.png", 255 - picture)):
        Image.fromarray(values).save(tmp_path / name)
    light_row, dark_row = read_digit(tmp_path / "light.png"), read_digit(tmp_path / "dark.png")
    np.testing.assert_allclose(light_row, dark_row, atol=1e-5)
    image = light_row.reshape(28, 28)
    assert np.ptp(np.flatnonzero(image.any(axis=1))) + 1 == 20


def test_an_image_of_mnist_that_is_inverted_is_taken_as_it_is(digits: np.ndarray, tmp_path: Path) -> None:
    for digit in digits[:20]:
        Image.fromarray(255 - digit).save(tmp_path / "a.png")
        np.testing.assert_allclose(read_digit(tmp_path / "a.png") * 255, digit.reshape(-1), atol=1e-4)


# --- how the images of a data set lie ---------------------------------------------------------------------------


def test_the_preparation_of_mnist_is_measured(digits: np.ndarray) -> None:
    """20 of 28 pixels, the centre of mass in the middle: as its authors say."""
    for images, dark in ((digits / 255, False), (1 - digits / 255, True)):
        found = preparation_of(images)
        assert (found.cut, found.size, found.centre, found.dark) == (True, 20 / 28, "mass", dark)
        assert 0.05 < found.pen < 0.12


def test_the_preparation_of_digits_that_fill_their_image() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    found = preparation_of(digits.images / 16)
    assert (found.cut, found.size, found.centre, found.dark) == (True, 1.0, "box", False)


def test_what_lies_anywhere_is_taken_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = preparation_of(rng.random((50, 8, 8)))
    assert not found.cut
    picture = np.zeros((80, 80), np.uint8)
    picture[:, 10:30] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = np.zeros((8, 8))
    expected[:, 1:3] = 1
    assert np.abs(read_digit(tmp_path / "a.png", 8, found).reshape(8, 8) - expected).max() < 0.15


def test_data_that_is_dark_on_light_is_shown_dark_on_light(tmp_path: Path) -> None:
    Image.fromarray(stroke()).save(tmp_path / "a.png")
    usual, dark = read_digit(tmp_path / "a.png"), read_digit(tmp_path / "a.png", 28, Preparation(dark=True))
    np.testing.assert_allclose(dark, 1 - usual)


def test_solid_things_keep_their_greys(tmp_path: Path) -> None:
    """A shirt, as in Fashion-MNIST: 28 pixels long, in the middle of its box, grey inside."""
    picture = np.full((200, 200), 255, np.uint8)
    picture[20:180, 60:140] = 120
    picture[60:100, 80:120] = 20
    Image.fromarray(picture).save(tmp_path / "a.png")
    image = read_digit(tmp_path / "a.png", 28, Preparation(size=1.0, centre="box", pen=0.0)).reshape(28, 28)
    assert image[0].max() > 0.4
    assert not image[:, :6].any()
    assert image[2, 14] == pytest.approx(135 / 235, abs=0.05)
    assert image[10, 14] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "stored", [{"cut": "yes"}, {"size": 0}, {"size": "1"}, {"centre": "top"}, {"pen": -1}, {"colour": 1}, {"dark": 1}]
)
def test_what_is_no_preparation(stored: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a preparation"):
        Preparation.of(stored, 28)


@pytest.mark.parametrize("side", [0, -1, 2.5])
def test_a_side_is_a_positive_integer(side: Any, tmp_path: Path) -> None:
    Image.fromarray(stroke()).save(tmp_path / "a.png")
    for read in (read_digit, read_images):
        with pytest.raises(ValueError, match="side must be a positive integer, got "):
            read(tmp_path / "a.png", side)


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    for shape in ((0, 8, 8), (8, 8)):
        with pytest.raises(ValueError, match=r"images: expected shape \(n, side, side\) of at least one image, got "):
            draw_images(tmp_path / "a.png", np.zeros(shape), [])
    with pytest.raises(ValueError, match="captions: expected one for each of 2 images, got 1"):
        draw_images(tmp_path / "a.png", np.zeros((2, 8, 8)), ["a"])


def test_images_that_are_no_squares() -> None:
    with pytest.raises(ValueError, match=r"images: expected shape \(n, side, side\), got \(3, 4, 5\)"):
        preparation_of(np.zeros((3, 4, 5)))


# --- large photos, other formats, doubts ------------------------------------------------------------------------


def test_a_jpeg_of_108_megapixels_is_decoded_at_an_eighth(tmp_path: Path) -> None:
    Image.fromarray(255 - stroke()).resize((12000, 9000), Image.Resampling.NEAREST).save(tmp_path / "a.jpg", quality=50)
    Image.fromarray(255 - stroke()).save(tmp_path / "a.png")
    assert np.abs(read_digit(tmp_path / "a.jpg") - read_digit(tmp_path / "a.png")).mean() < 0.01


def jpeg(width: int, height: int, path: Path, progressive: bool = False) -> bytes:
    """A small JPEG whose header claims another size."""
    Image.new("L", (16, 16), 255).save(path, "JPEG", progressive=progressive)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(("size", "progressive"), [((60000, 60000), False), ((12000, 9000), True)])
def test_jpeg_bombs(size: tuple[int, int], progressive: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(*size, path, progressive))
    with pytest.raises(nn.DataError, match="too large for a picture of a digit"):
        read_digit(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_that_the_phone_turned(orientation: int, tmp_path: Path) -> None:
    """The orientations of EXIF 2.3, table 6: how the stored picture is to be turned."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    picture = Image.fromarray(np.ascontiguousarray(turns[orientation](255 - stroke())))
    picture.getexif()[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=picture.getexif())
    Image.fromarray(255 - stroke()).save(tmp_path / "a.png")
    assert np.abs(read_digit(tmp_path / "a.jpg") - read_digit(tmp_path / "a.png")).mean() < 0.02


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, as iPhones write it"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIF"),
        (b"%PDF-1.7", "PDF"),
        (b"<?xml version='1.0'?><svg>", "SVG"),
    ],
)
def test_formats_that_pillow_does_not_read_are_named(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content + bytes(200))
    with pytest.raises(nn.DataError, match=f"a: {kind}.* save it as JPEG or PNG"):
        read_digit(tmp_path / "a")


def doubtful(name: str) -> np.ndarray:
    sheet = np.zeros((200, 240))
    if name == "things of its size":
        sheet[40:160, 40:55] = sheet[40:160, 150:165] = 1
    elif name == "reaches the edge":
        sheet[100:, 60:75] = 1
    elif name == "an area":
        sheet[50:150, 50:150] = 1
    else:
        sheet[50:55, 50:52] = 1
    return sheet


@pytest.mark.parametrize("doubt", ["things of its size", "reaches the edge", "an area", "has only 5 x 2 pixels"])
def test_a_cut_out_that_is_not_plausible_is_said(doubt: str, tmp_path: Path) -> None:
    Image.fromarray((255 * (1 - doubtful(doubt))).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match=f"a.png: the cut-out may be wrong: .*{doubt}"):
        read_digit(tmp_path / "a.png")


def test_idx_files_of_emnist_are_turned_upright(digits: np.ndarray, tmp_path: Path) -> None:
    write_idx(tmp_path / "emnist-letters-test-images-idx3-ubyte", digits.transpose(0, 2, 1))
    rows = read_images(tmp_path / "emnist-letters-test-images-idx3-ubyte")
    np.testing.assert_array_equal(rows, np.divide(digits, 255, dtype=np.float32).reshape(100, 784))
