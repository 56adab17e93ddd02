"""Data sets as others name and pack them."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnbackend.datasets import HostData, download, mnist, mnist_host, write_idx
from nnbackend.errors import DataError

RNG = np.random.default_rng(0)
X, T = RNG.integers(0, 256, (6, 4, 4)).astype("u1"), np.array([0, 1, 2, 3, 2, 1], "u1")
U, V = X[:3, ::-1].copy(), np.array([3, 0, 1], "u1")
STANDARD = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNBACKEND_DATA", raising=False)
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "cache"))


def write(folder: Path, names: tuple[str, ...] = STANDARD, arrays: tuple[np.ndarray, ...] = (X, T, U, V)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, arrays, strict=True):
        write_idx(folder / name, array)
    return folder


def check(found: HostData) -> None:
    for array, expected in ((found.x_train, X), (found.t_train, T), (found.x_test, U), (found.t_test, V)):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == np.uint8


@pytest.mark.parametrize("inner", ["raw", "MNIST/raw", "mnist", "FashionMNIST/raw"])
def test_the_folders_of_torchvision(inner: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / inner)
    found = mnist_host(tmp_path / "data")
    check(found)
    assert found.source == str(tmp_path / "data" / inner)
    assert "raw" not in found.name


def test_several_sets_are_named(tmp_path: Path) -> None:
    for name in ("KMNIST", "FashionMNIST"):
        write(tmp_path / "data" / name / "raw")
    with pytest.raises(DataError, match="several data sets are in it, pass one of .*FashionMNIST.raw, .*KMNIST.raw"):
        mnist_host(tmp_path / "data")
    check(mnist_host(tmp_path / "data" / "KMNIST"))


def emnist(kind: str) -> tuple[str, ...]:
    return tuple(f"emnist-{kind}-{name.replace('t10k', 'test')}" for name in STANDARD)


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    """Its images are stored column by column: NIST's own reader turns them, too. Labels stay those of the files."""
    turned = tuple(a.transpose(0, 2, 1) if a.ndim == 3 else a for a in (X, T, U, V))
    folder = write(tmp_path / "gzip", tuple(f"{name}.gz" for name in emnist("letters")), turned)
    check(mnist_host(folder))
    write(folder, emnist("digits"), turned)
    with pytest.raises(DataError, match="several data sets are in it, pass one of .*emnist-digits, .*emnist-letters"):
        mnist_host(folder)
    found = mnist_host(folder / "emnist-letters")
    check(found)
    assert found.name == "emnist-letters"


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_labels_of_other_integers(dtype: str, tmp_path: Path) -> None:
    check(mnist_host(write(tmp_path / "a", arrays=(X, T.astype(dtype), U, V.astype(dtype)))))


def test_labels_of_qmnist(tmp_path: Path) -> None:
    names = tuple(f"qmnist-{name.replace('t10k', 'test')}" for name in STANDARD)
    names = tuple(name.replace("idx1-ubyte", "idx2-int") for name in names)
    labels = [np.column_stack([t, *[t * 0 + 9] * 7]).astype(np.int32) for t in (T, V)]
    check(mnist_host(write(tmp_path / "q", names, (X, labels[0], U, labels[1]))))


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    labels = T.astype(np.int32) * 100
    assert mnist_host(write(tmp_path / "a", arrays=(X, labels, U, V))).t_train.tolist() == labels.tolist()


@pytest.mark.parametrize("value", [-1, 2**20])
def test_labels_that_are_none(value: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"train-labels.*: labels from .*{value}.*, expected 0 to 65535"):
        mnist_host(write(tmp_path / "a", arrays=(X, np.array([0, 1, 2, 3, 1, value], "i4"), U, V)))


def test_folders_beside_and_around_files_of_the_same_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "beside", tuple(name.replace("-idx", ".idx") for name in STANDARD))
    for name in STANDARD:
        (folder / name).mkdir()
    check(mnist_host(folder))
    for name, array in zip(STANDARD, (X, T, U, V), strict=True):
        (tmp_path / "around" / name).mkdir(parents=True)
        write_idx(tmp_path / "around" / name / name, array)
    check(mnist_host(tmp_path / "around"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_file_of_keras(save: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mnist.npz"
    save(path, x_train=X, y_train=T.astype("i8"), x_test=U, y_test=V)  # type: ignore[operator]
    for data in (path, tmp_path):
        check(mnist_host(data))
    monkeypatch.setenv("NNBACKEND_DATA", str(path))
    assert tuple(mnist().x_train.shape) == (6, 16)


def test_files_of_numpy_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x_train=X)
    with pytest.raises(DataError, match=r"a.npz: it has no y_train, x_test, y_test, but x_train"):
        mnist_host(path)
    np.savez(path, x_train=X, y_train=np.array([None] * 6), x_test=U, y_test=V)
    with pytest.raises(DataError, match=r"a.npz: damaged, or not an .npz file"):  # objects are pickles: not read
        mnist_host(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x_train.npy", bytes(2**28 + 1))
    with pytest.raises(DataError, match="as in a bomb"):
        mnist_host(path)
    for content in (b"", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.npz: damaged, or not an .npz file"):
            mnist_host(path)


def csv(path: Path, images: np.ndarray, labels: np.ndarray, header: str) -> None:
    rows = [",".join(map(str, [label, *image.reshape(-1)])) for image, label in zip(images, labels, strict=True)]
    path.write_text("\n".join([header, *rows] if header else rows) + "\n")


@pytest.mark.parametrize("header", ["", "label," + ",".join(f"pixel{i}" for i in range(16)), "label,1x1,1x2"])
@pytest.mark.parametrize("name", ["mnist_{}.csv", "fashion-mnist_{}.csv"])
def test_csv(name: str, header: str, tmp_path: Path) -> None:
    csv(tmp_path / name.format("train"), X, T, header)
    csv(tmp_path / name.format("test"), U, V, header)
    check(mnist_host(tmp_path))
    check(mnist_host(tmp_path / name.format("train")))


def test_csv_of_something_else(tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    csv(train, X, T, "")
    with pytest.raises(DataError, match=r"test.csv: no such file; expected the test images that belong to train.csv"):
        mnist_host(train)
    for content, message in (
        ("pixel0,pixel1\n1,2,3\n", "3 columns, expected a label and the pixels of a square"),
        ("1,2,3,4,5\n1,2,3,4\n", "cannot be read as numbers with commas between them"),
        ("1,2,3,4,256\n", "expected integers, pixels from 0 to 255"),
        ("1,2,3,4,0.5\n", "expected integers, pixels from 0 to 255"),
        ("1,nan,3,4,5\n", "expected integers, pixels from 0 to 255"),
    ):
        test.write_text(content)
        with pytest.raises(DataError, match=f"test.csv: {message}"):
            mnist_host(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_text("1,2\n")
    with pytest.raises(DataError, match="expected CSV files with train and with test in their names"):
        mnist_host(tmp_path / "other")


def test_full_is_what_the_environment_names_if_that_is_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other checksums: those of the small set here stand for the known ones."""
    fetched = []
    monkeypatch.setattr(
        sys.modules["nnbackend.datasets.mnist"], "fetch_mnist", lambda: fetched.append(1) or [X, T, U, V]
    )
    monkeypatch.setenv("NNBACKEND_DATA", str(write(tmp_path / "a")))
    check(mnist_host("full"))
    assert fetched == [1]  # other data: not all of MNIST
    digests = {name: download._digest(array) for name, array in zip(STANDARD, (X, T, U, V), strict=True)}
    monkeypatch.setattr(download, "_SHA256", digests)
    found = mnist_host("full")
    check(found)
    assert (fetched, found.source) == ([1], "full")
