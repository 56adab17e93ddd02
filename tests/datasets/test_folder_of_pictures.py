"""Folders with one folder of pictures for each class."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.datasets import write_idx
from nnbackend.datasets.folder import PicturePreparation, find_pictures, measured, pictures_in
from nnbackend.datasets.picture import read_picture
from nnbackend.datasets.prepared import load_prepared, preparation
from nnbackend.datasets.targets import Target

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def save(path: Path, pixels: np.ndarray, **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def write(folder: Path, classes: dict[str, int], n: int = 4, side: int = 6) -> None:
    """Pictures whose grey is that of the class."""
    for name, grey in classes.items():
        for i in range(n):
            save(folder / name / f"{i}.png", np.full((side, side), grey + i, np.uint8))


def test_pictures_become_rows_from_0_to_1(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 200})
    data = load_prepared(tmp_path, validation=0.25, dtype="float64")
    assert data.target.classes == ("cat", "dog")
    assert (data.train[0].shape, data.train[0].dtype) == ((6, 6, 6, 1), np.float64)
    assert data.validation is not None
    assert sorted(data.validation[1].tolist()) == [0, 1]
    for x, label in zip(*data.train, strict=True):
        assert (np.abs(x * 255 - (200 if label else 10)) < 3.5).all()
    greys = np.sort(np.concatenate([data.train[0], data.validation[0]])[:, 0, 0, 0] * 255)
    np.testing.assert_allclose(greys, [10, 11, 12, 13, 200, 201, 202, 203])
    assert preparation(data.preparation.stored()) == data.preparation  # type: ignore[union-attr]


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_parts_in_folders_of_their_own(validation: str, tmp_path: Path) -> None:
    for part, n in (("train", 5), (validation, 2), ("test", 3)):
        write(tmp_path / part, {"cat": 10, "dog": 200}, n)
    data = load_prepared(tmp_path)
    assert data.validation is not None
    assert data.test is not None
    assert [len(part[0]) for part in (data.train, data.validation, data.test)] == [10, 4, 6]
    assert data.test[1].tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"validation: .* has a folder for it, so that no part is held out; got 0.2"):
        load_prepared(tmp_path, validation=0.2)
    write(tmp_path / "test", {"bird": 0}, 1)
    with pytest.raises(nn.DataError, match=r"0.png: the class 'bird' is not in .*train"):
        load_prepared(tmp_path)


def test_a_class_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    write(tmp_path, {"car": 10, "train": 200, "test": 100}, 2)
    data = load_prepared(tmp_path, validation=0)
    assert data.target.classes == ("car", "test", "train")
    assert data.test is None


def test_what_is_found_and_what_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 200}, 2)
    save(tmp_path / "cat" / "deep" / "x.JPG", np.zeros((6, 6), np.uint8), format="JPEG")
    for name in (".DS_Store", "Thumbs.db", ".hidden.png"):
        (tmp_path / "cat" / name).write_bytes(b"none")
    write(tmp_path / ".cache", {"cat": 10}, 1)
    (tmp_path / "labels.csv").write_text("a,b\n")
    (tmp_path / "empty").mkdir()
    found = find_pictures(tmp_path)
    assert found.classes == ("cat", "dog")
    assert [path.name for path, _ in found.files["train"]] == ["0.png", "1.png", "x.JPG", "0.png", "1.png"]
    assert found.left_out == ()
    (tmp_path / "dog" / "notes.txt").write_text("none")
    with pytest.warns(UserWarning, match=r"1 files are no pictures by their names and are left out: notes.txt"):
        assert len(load_prepared(tmp_path, validation=0).train[0]) == 5
    assert len(pictures_in(tmp_path)) == 5
    (tmp_path / "dog" / "notes.txt").unlink()
    write(tmp_path, {"": 50}, 1)
    with pytest.warns(UserWarning, match=r"1 pictures lie in no folder of a class and are left out: 0.png"):
        assert len(load_prepared(tmp_path, validation=0).train[0]) == 5


@pytest.mark.parametrize(
    ("sizes", "side", "expected"),
    [([(6, 6)] * 3, None, (6, 6)), ([(100, 50), (80, 40), (10, 10)], None, (16, 32)), ([(9, 7)] * 2, 5, (5, 5))],
)
def test_one_size_for_all(
    sizes: list[tuple[int, int]], side: int | None, expected: tuple[int, int], tmp_path: Path
) -> None:
    for i, (width, height) in enumerate(sizes):
        for name in ("a", "b"):
            save(tmp_path / name / f"{i}.png", np.full((height, width), 7, np.uint8))
    chosen = measured(find_pictures(tmp_path), side)
    assert (chosen.height, chosen.width, chosen.channels) == (*expected, 1)
    assert load_prepared(tmp_path, side=side, validation=0).train[0].shape[1:] == (*expected, 1)


def test_colours_are_kept_if_there_are_any(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    save(tmp_path / "a" / "red.png", red)
    save(tmp_path / "b" / "grey.png", np.full((4, 4), 51, np.uint8))
    x, t = load_prepared(tmp_path, validation=0).train
    np.testing.assert_array_equal(x[:, 0, 0], np.array([[1, 0, 0], [0.2, 0.2, 0.2]], "f"))
    assert t.tolist() == [0, 1]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_colours_are_seen_in_every_format(format: str, tmp_path: Path) -> None:
    colours = {"blue": (20, 20, 230), "red": (230, 20, 20)}
    for name, colour in colours.items():
        save(tmp_path / name / f"1.{format.lower()}", np.full((16, 16, 3), colour, np.uint8), format=format)
    x, t = load_prepared(tmp_path, validation=0).train
    assert (x.shape, t.tolist()) == ((2, 16, 16, 3), [0, 1])
    np.testing.assert_allclose(x.mean(axis=(1, 2)) * 255, list(colours.values()), atol=4)


@pytest.mark.parametrize("side", [10**7, 10**10])
def test_pictures_that_do_not_fit_in_memory(side: int, tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 200}, 2)
    with pytest.raises(nn.DataError, match=r"not enough memory for 4 pictures of \d+ x \d+ x 1; take a smaller side"):
        load_prepared(tmp_path, side=side)


def test_grey_photos_stay_grey(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "1.jpg", np.full((16, 16), 100, np.uint8))
    assert load_prepared(tmp_path, validation=0).train[0].shape == (2, 16, 16, 1)


def test_pictures_of_every_mode_as_pillow_shows_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 5)).astype(np.uint8)
    clear = np.dstack([grey] * 3 + [np.full((5, 5), 0, np.uint8)])
    save(tmp_path / "clear.png", clear)
    assert (read_picture(tmp_path / "clear.png", 5, 5, 3) == 255).all()  # on white
    save(tmp_path / "deep.png", grey.astype(np.uint16) * 257)
    low, high = int(grey.min()), int(grey.max())
    expected = (grey.astype(float) - low) / (high - low) * 255
    assert np.abs(read_picture(tmp_path / "deep.png", 5, 5, 1)[..., 0] - expected).max() <= 1
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.gif", 5, 5, 1)[..., 0], grey)
    turned = Image.fromarray(np.array([[0, 0], [255, 255], [0, 0]], np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png", 2, 3, 1)[0, :, 0].tolist() == [0, 255, 0]


def test_a_large_picture_shrinks_like_its_mean(tmp_path: Path) -> None:
    ramp = np.arange(256).astype(np.uint8)[None, :].repeat(256, axis=0)
    save(tmp_path / "a.png", ramp)
    small = read_picture(tmp_path / "a.png", 16, 16, 1)[..., 0]
    mean = ramp.reshape(16, 16, 16, 16).mean(axis=(1, 3))
    assert np.abs(small - mean)[:, 2:-2].max() <= 1  # any symmetric filter keeps a ramp, except near its ends


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither IDX nor a picture that Pillow can read"),
        (b"\x89PNG\r\n\x1a\n broken", "broken picture|neither IDX nor a picture"),
        (b"%PDF-1.4", "PDF; Pillow cannot read it here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "neither IDX nor a picture"),
    ],
)
def test_a_broken_picture_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 200}, 2)
    path = tmp_path / "dog" / "1.png"
    path.write_bytes(content)
    with pytest.raises(nn.DataError, match=message) as caught:
        load_prepared(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_folders_that_hold_no_classes(tmp_path: Path) -> None:
    with pytest.raises(nn.DataError, match="a folder of pictures for each of two classes or more, found 0 "):
        load_prepared(tmp_path)
    save(tmp_path / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(nn.DataError, match="found 0; pictures lie in it, but not in folders"):
        load_prepared(tmp_path)
    write(tmp_path, {"cat": 0})
    with pytest.raises(nn.DataError, match="found 1"):
        load_prepared(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(nn.DataError, match="there are no pictures in it"):
        pictures_in(tmp_path / "none")
    with pytest.raises(nn.DataError, match="nowhere: there is no such file or folder"):
        load_prepared(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"cat": 10, "dog": 200, "cow": 100}, 2)
    list_folder = os.scandir

    def refuse(path: str | os.PathLike[str]) -> Any:
        if Path(path).name == "cow":
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for find in (find_pictures, pictures_in):
        with pytest.raises(nn.DataError, match=r"cow: cannot be read \(Permission denied\)"):
            find(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "a"}, "target: only a table has columns"),
        ({"drop": ["a"]}, "drop: only a table has columns"),
        ({"task": "numbers"}, "task: the answers of pictures are classes"),
        ({"task": "number"}, "task: unknown task 'number'. Did you mean 'numbers'"),
        ({"side": 0}, "side must be a positive integer"),
    ],
)
def test_arguments(options: dict[str, object], message: str, tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 200}, 2)
    with pytest.raises(ValueError, match=message):
        load_prepared(tmp_path, **options)  # type: ignore[arg-type]


def test_files_of_mnist_s_form_are_still_taken_for_it(tmp_path: Path) -> None:
    for name, n in (("train", 6), ("t10k", 3)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", np.full((n, 4, 4), 51, np.uint8))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 3)
    data = load_prepared(tmp_path)
    assert (len(data.train[0]), data.validation, data.preparation) == (6, None, None)
    np.testing.assert_array_equal(data.train[0], np.full((6, 4, 4, 1), np.float32(51) / 255))
    assert data.target.classes == ("0", "1", "2")
    held = load_prepared(tmp_path, validation=0.5).validation
    assert held is not None
    assert sorted(held[1].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="side: only the pictures in a folder"):
        load_prepared(tmp_path, side=3)


def test_a_preparation_is_checked() -> None:
    known = PicturePreparation(4, 5, 3, Target("class", ("a", "b")))
    stored = known.stored()
    assert PicturePreparation.of(stored) == known
    for key, value in (("height", 0), ("width", 1.5), ("width", 10**9), ("channels", 2), ("target", 1), ("target", {})):
        with pytest.raises(ValueError, match="needs"):
            PicturePreparation.of({**stored, key: value})
    with pytest.raises(ValueError, match="unknown kind of preparation 'pitcures'. Did you mean 'pictures'"):
        preparation({**stored, "kind": "pitcures"})
    assert preparation(None) is preparation({"cut": True}) is None


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"cat": 10, "dog": 200}, 2)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'reading pictures needs Pillow: pip install "nnbackend\[plot\]"'):
        load_prepared(tmp_path)
