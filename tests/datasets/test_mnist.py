"""MNIST from the sample, a folder, the environment and the cache; what does not fit together is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnbackend.backends import to_numpy, using
from nnbackend.datasets import (
    SAMPLE_NOTE,
    HostData,
    download,
    load_idx_folder,
    mnist,
    mnist_host,
    read_idx,
    write_idx,
)
from nnbackend.errors import DataError

FULL = os.environ.get("NNBACKEND_DATA", "")  # read before the fixture below hides it
needs_full = pytest.mark.skipif(not FULL, reason="NNBACKEND_DATA does not name a folder with the full MNIST set")

FIRST_TRAIN_LABELS = [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
FIRST_TEST_LABELS = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNBACKEND_DATA", raising=False)
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "cache"))


def tiny_set(folder: Path, ending: str = "", dot: bool = False, **replaced: np.ndarray) -> Path:
    """A folder with 4 training and 2 test images of 3 x 2 pixels; `replaced` by the start of the file name."""
    arrays = {
        "train-images-idx3-ubyte": np.arange(24, dtype="u1").reshape(4, 3, 2),
        "train-labels-idx1-ubyte": np.array([0, 1, 2, 12], "u1"),
        "t10k-images-idx3-ubyte": np.arange(100, 112, dtype="u1").reshape(2, 3, 2),
        "t10k-labels-idx1-ubyte": np.array([2, 1], "u1"),
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        start = name.partition("-idx")[0].replace("-", "_")
        write_idx(folder / ((name.replace("-idx", ".idx") if dot else name) + ending), replaced.get(start, array))
    return folder


def test_sample_holds_the_first_digits_of_mnist() -> None:
    host = mnist_host("sample")
    assert (host.name, host.source) == ("mnist", "sample")
    assert host.x_train.shape == (10_000, 28, 28)
    assert host.x_test.shape == (2_000, 28, 28)
    assert host.t_train[:10].tolist() == FIRST_TRAIN_LABELS
    assert host.t_test[:10].tolist() == FIRST_TEST_LABELS
    # the digits among the first 10,000 training labels, and the ink of the first image (a five), as published
    assert np.bincount(host.t_train).tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert host.x_train[0].sum(dtype=int) == 27525
    assert all(array.dtype == np.uint8 for array in (host.x_train, host.t_train, host.x_test, host.t_test))


def test_the_note_on_the_sample_says_what_it_is_and_how_to_get_the_rest() -> None:
    assert "10,000 training and 2,000 test images" in SAMPLE_NOTE
    assert "--data full" in SAMPLE_NOTE
    assert 'nn.datasets.mnist("full")' in SAMPLE_NOTE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "array_api_strict:device1"])
def test_arrays_are_born_on_the_backend(tmp_path: Path, backend: str, dtype: str) -> None:
    folder = tiny_set(tmp_path / "tiny")
    with using(backend) as current:
        flat = mnist(folder, dtype=dtype)
    images = mnist(folder, dtype=dtype, flatten=False, backend=current)
    for data in (flat, images):
        assert all(current.owns(array) for array in (data.x_train, data.t_train, data.x_test, data.t_test))
    assert flat.x_train.shape == (4, 6)
    assert images.x_train.shape == (4, 3, 2, 1)
    assert to_numpy(flat.t_train).dtype == np.int64
    assert to_numpy(flat.t_train).tolist() == [0, 1, 2, 12]
    pixels = to_numpy(images.x_test)
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels.ravel(), np.arange(100, 112).astype(dtype) / np.dtype(dtype).type(255))
    np.testing.assert_array_equal(to_numpy(flat.x_test).ravel(), pixels.ravel())


def test_pixels_run_from_0_to_1_and_the_picture_of_a_dataset_is_short() -> None:
    data = mnist("sample", flatten=False)
    assert data.x_train.shape == (10_000, 28, 28, 1)
    assert data.x_train.min() == 0.0
    assert data.x_train.max() == 1.0
    assert repr(mnist("sample")) == ("<Dataset mnist from sample: x_train (10000, 784), x_test (2000, 784), float32>")


@pytest.mark.parametrize("dot", [False, True], ids=["hyphen", "dot"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_folder_with_either_spelling(tmp_path: Path, ending: str, dot: bool) -> None:
    folder = tiny_set(tmp_path / "fashion", ending, dot)
    for host in (load_idx_folder(str(folder)), mnist_host(folder)):
        assert (host.name, host.source) == ("fashion", str(folder))
        assert host.x_train.shape == (4, 3, 2)
        assert host.t_test.tolist() == [2, 1]


def test_auto_prefers_the_folder_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tiny_set(tmp_path / "data" / "mnist")
    monkeypatch.setenv("NNBACKEND_DATA", str(tmp_path / "data"))
    assert mnist_host().source == str(inner)
    monkeypatch.setenv("NNBACKEND_DATA", str(inner))
    assert mnist().source == str(inner)
    assert mnist("sample").source == "sample"


def test_auto_does_not_pass_over_a_folder_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNBACKEND_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(
        DataError, match=r"^NNBACKEND_DATA=.*nowhere: neither this folder nor `mnist` in it holds train-"
    ):
        mnist()
    (tiny_set(tmp_path / "part") / "t10k-labels-idx1-ubyte").unlink()
    monkeypatch.setenv("NNBACKEND_DATA", str(tmp_path / "part"))
    with pytest.raises(DataError, match=r"part.t10k-labels-idx1-ubyte: no such file; expected one of t10k-"):
        mnist()


def test_auto_is_the_sample_until_the_whole_set_is_cached() -> None:
    assert mnist_host().source == "sample"
    tiny_set(download.cache_folder(), ".gz")
    (download.cache_folder() / "t10k-labels-idx1-ubyte.gz").unlink()  # an interrupted download
    assert mnist_host().source == "sample"


def test_auto_does_not_pass_over_a_damaged_cache() -> None:
    tiny_set(download.cache_folder(), ".gz")
    with pytest.raises(DataError, match=r"SHA-256 when decompressed is .*mnist\(.full.\) fetches it again"):
        mnist()


IMAGES = np.zeros((4, 3, 2), "u1")
MISFITS = {
    "fewer labels": ({"train_labels": np.zeros(3, "u1")}, "train-labels.*: 3 labels, but .*train-images.* has 4"),
    "test labels": ({"t10k_labels": np.zeros(4, "u1")}, "t10k-labels.*: 4 labels, but .*t10k-images.* has 2"),
    "flat images": ({"train_images": IMAGES[0]}, r"train-images.*: got uint8 of shape \(3, 2\), expected images"),
    "signed images": ({"t10k_images": IMAGES.astype("i1")}, "t10k-images.*: got int8 .*expected images: uint8"),
    "broken labels": ({"train_labels": np.zeros(4, "f4")}, "train-labels.*: got float32 .*expected labels: integers"),
    "2-D labels": ({"train_labels": np.zeros((4, 1), "u1")}, r"train-labels.*: got uint8 of shape \(4, 1\)"),
    "no images": ({"train_images": IMAGES[:0]}, "train-images.*: there are no images in it"),
    "no pixels": ({"train_images": IMAGES[:, :0]}, r"train-images.*: there are no images.* \(4, 0, 2\)"),
    "no labels": ({"t10k_labels": np.zeros(0, "u1")}, "t10k-labels.*: there are no labels in it"),
    "other size": ({"t10k_images": IMAGES[:2, :2]}, r"t10k-images.*: images of \(2, 2\) pixels, but .* \(3, 2\)"),
}


@pytest.mark.parametrize(("replaced", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_files_that_do_not_fit_together(tmp_path: Path, replaced: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mnist(tiny_set(tmp_path / "misfit", **replaced))


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = tiny_set(tmp_path / "damaged")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01")
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: truncated"):
        load_idx_folder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty.train-images-idx3-ubyte: no such file"):
        mnist(tmp_path / "empty")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("ful", "^data: unknown data set 'ful'. Did you mean 'full'.* Known: auto, full, sample. Or the path of a"),
        ("/no/such/folder", "^data: unknown data set '/no/such/folder'.*train-images-idx3-ubyte"),
        ("", "^data: unknown data set ''"),
        ("a\0b", "^data: unknown data set"),
        (Path("no/such"), "^data: unknown data set"),
    ],
)
def test_unknown_data(data: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mnist(data)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^data: got 3, expected a string or a path"):
        mnist(3)
    with pytest.raises(ValueError, match=r"^dtype: got 'uint8', expected one of float32, float64"):
        mnist("full", dtype="uint8")  # said before anything is downloaded
    with pytest.raises(TypeError, match=r"^backend: got 'numpy'"):
        mnist("sample", backend="numpy")


def test_import_and_sample_need_no_download_library() -> None:
    code = "import sys, nnbackend.datasets as d; d.mnist('sample'); sys.exit('pooch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def full() -> HostData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNBACKEND_DATA", FULL)
        return mnist_host()


@needs_full
def test_full_set_has_the_published_counts(full: HostData) -> None:
    assert full.x_train.shape == (60_000, 28, 28)
    assert full.x_test.shape == (10_000, 28, 28)
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(full.t_train).tolist() == train
    assert np.bincount(full.t_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert full.x_train.mean() / 255 == pytest.approx(0.1307, abs=5e-5)  # both as published, to four digits
    assert full.x_train.std() / 255 == pytest.approx(0.3081, abs=5e-5)


@needs_full
def test_sample_is_the_start_of_the_full_set(full: HostData) -> None:
    sample = mnist_host("sample")
    np.testing.assert_array_equal(sample.x_train, full.x_train[:10_000])
    np.testing.assert_array_equal(sample.t_train, full.t_train[:10_000])
    np.testing.assert_array_equal(sample.x_test, full.x_test[:2_000])
    np.testing.assert_array_equal(sample.t_test, full.t_test[:2_000])


@needs_full
def test_full_set_in_the_cache_has_the_known_checksums_and_is_found_by_auto(full: HostData) -> None:
    folder = download.cache_folder()
    folder.mkdir(parents=True)
    for name, array in zip(download.FILES, (full.x_train, full.t_train, full.x_test, full.t_test), strict=True):
        write_idx(folder / name, array)  # raw: gzip at its highest level takes many seconds
        (folder / name).rename(folder / f"{name}.gz")
    assert mnist_host("auto").source == "full"
    assert mnist_host("full").source == "full"  # no network: nothing is missing
    assert read_idx(folder / "t10k-labels-idx1-ubyte.gz")[:10].tolist() == FIRST_TEST_LABELS
