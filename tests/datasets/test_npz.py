"""Files of NumPy with inputs and answers of any shape."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.datasets.npz import ArrayPreparation, array_inputs, write_arrays
from nnbackend.datasets.prepared import load_prepared, preparation
from nnbackend.datasets.targets import Target

RNG = np.random.default_rng(0)
X, T = RNG.normal(3, 2, (40, 3)), np.arange(40) % 4


@pytest.mark.parametrize("names", [("x", "y"), ("X", "t"), ("data", "target"), ("x_train", "y_train")])
def test_columns_are_scaled_by_the_rows_to_train_on(names: tuple[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **dict(zip(names, (X, T), strict=True)), other=np.arange(3))
    data = load_prepared(tmp_path / "a.npz", validation=0.2, dtype="float64")
    assert data.validation is not None
    assert (len(data.train[0]), len(data.validation[0])) == (32, 8)
    np.testing.assert_allclose(data.train[0].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(data.train[0].std(axis=0), 1)
    known = data.preparation
    assert isinstance(known, ArrayPreparation)
    restored = np.concatenate([data.train[0], data.validation[0]]) * known.scale + known.mean
    np.testing.assert_allclose(np.sort(restored, axis=0), np.sort(X, axis=0))
    assert data.target.classes == ("0", "1", "2", "3")
    assert preparation(known.stored()) == known


def test_answers_that_are_words_or_numbers_and_a_test(tmp_path: Path) -> None:
    words = np.array(["no", "yes"])[T % 2]
    np.savez(tmp_path / "a.npz", x_train=X, y_train=words, x_test=X[:4], y_test=words[:4])
    data = load_prepared(tmp_path / "a.npz")
    assert data.validation is None
    assert data.test is not None
    assert (data.target.classes, data.test[1].tolist()) == (("no", "yes"), [0, 1, 0, 1])
    np.testing.assert_array_equal(data.test[0], data.train[0][:4])
    np.savez(tmp_path / "a.npz", x_train=X, t_train=X[:, 0] * 7, x_test=X[:4], t_test=X[:4, 0] * 7)
    data = load_prepared(tmp_path / "a.npz", dtype="float64")
    assert data.test is not None
    np.testing.assert_allclose(data.target.restored(data.test[1]), X[:4, 0] * 7)
    np.testing.assert_allclose(data.train[1].std(), 1)


def test_pictures_as_bytes_and_as_numbers(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (20, 4, 5, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=colours, y=T[:20])
    x, _ = load_prepared(tmp_path / "a.npz", validation=0, dtype="float64").train
    np.testing.assert_array_equal(x, colours / 255)
    np.savez(tmp_path / "a.npz", x=colours[..., 0] / 7.0, y=T[:20])
    data = load_prepared(tmp_path / "a.npz", validation=0, dtype="float64")
    assert data.pictures
    assert data.train[0].shape == (20, 4, 5, 1)
    assert (data.train[0].mean(), data.train[0].std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_the_file_of_keras_is_taken_for_mnist_s_form(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (20, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=T[:20], x_test=images[:5], y_test=T[:5])
    data = load_prepared(tmp_path / "a.npz")
    assert (data.preparation, data.train[0].shape) == (None, (20, 6, 6, 1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "it has no inputs, one of x_train, x, X, data, images, but nothing"),
        ({"a": X}, "it has no inputs, .*but a"),
        ({"x": X}, "it has no answers, one of .*, but x"),
        ({"x": X, "y": T[:3]}, "x has 40 rows, but y has 3"),
        ({"x": X[:, 0], "y": T}, r"x is float64 of shape \(40,\), expected numbers of shape"),
        ({"x": X.astype(str), "y": T}, r"x is <U\d+ of shape \(40, 3\), expected numbers"),
        ({"x": X, "y": X}, r"y is float64 of shape \(40, 3\), expected a number or a word for each row"),
        ({"x": np.where(X < 3, X, np.nan), "y": T}, "the inputs have values that are not finite"),
        ({"x": X, "y": T * 0}, "every row has the same 'y'"),
        ({"x": X, "y": np.where(T, T, np.inf)}, r"y\[0\]: 'y' is infinite there"),
        ({"x": X, "y": np.where(T, T, np.nan)}, r"y\[0\]: 'nan' is not a number, and 'y' holds numbers"),
        ({"x_train": X, "y_train": T, "x_test": X[:, :2], "y_test": T}, "x_test has rows of shape"),
        ({"x_train": X, "y_train": T, "x_test": X[:2], "y_test": np.array([0, 9])}, "y_test holds '9', a class that"),
        ({"x_train": X, "y_train": X[:, 0], "x_test": X[:1], "y_test": np.array([np.nan])}, "expected finite numbers"),
    ],
)
def test_files_that_do_not_fit(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(nn.DataError, match=message) as caught:
        load_prepared(tmp_path / "a.npz")
    assert str(caught.value).startswith(str(tmp_path / "a.npz"))


def test_a_constant_has_no_deviation_in_any_precision(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for dtype in ("float16", "float32", "float64"):
        x = np.concatenate([X, np.full((len(X), 1), 0.1)], axis=1).astype(dtype)
        np.savez(path, x=x, y=T)
        known = load_prepared(path, validation=0).preparation
        assert isinstance(known, ArrayPreparation)
        assert known.scale[3] == 1.0
        np.testing.assert_allclose(known.mean, x.astype(float).mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(known.scale[:3], x.astype(float).std(axis=0)[:3], rtol=1e-12)
        np.savez(path, x=x * np.array(3e3 if dtype == "float16" else 1e30, dtype), y=T)
        assert np.isfinite(load_prepared(path).train[0]).all()


@pytest.mark.parametrize("labels", ["int8", "uint16", "int64", "uint64", "bool", "float64", "U", "column"])
def test_images_with_labels_of_any_type(labels: str, tmp_path: Path) -> None:
    x, t = np.arange(40 * 4, dtype=np.uint8).reshape(40, 2, 2), np.arange(40) % 2
    t = t[:, None] if labels == "column" else t.astype(labels)
    path = tmp_path / "a.NPZ"
    with path.open("wb") as file:
        np.savez(file, x_train=x, y_train=t, x_test=x, y_test=t)
    data = load_prepared(path, validation=0)
    assert data.test is not None
    assert data.target.classes == (("False", "True") if labels == "bool" else ("0", "1"))
    for rows, targets in (data.train, data.test):
        np.testing.assert_allclose(rows, x[..., None] / 255, rtol=1e-6)
        assert targets.tolist() == [0, 1] * 20


def test_classes_of_a_test_in_float32(tmp_path: Path) -> None:
    t = np.array([0.1, 0.2] * 20)
    np.savez(tmp_path / "a.npz", x_train=X, y_train=t, x_test=X, y_test=t.astype("f"))
    data = load_prepared(tmp_path / "a.npz", task="classes")
    assert (data.target.classes, data.test and data.test[1].tolist()) == (("0.1", "0.2"), [0, 1] * 20)


def test_files_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=X, y=np.array([None] * 40))
    with pytest.raises(nn.DataError, match=r"damaged, or not an .npz file"):  # objects are pickles: not read
        load_prepared(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", bytes(2**28 + 1))
    with pytest.raises(nn.DataError, match="as in a bomb"):
        load_prepared(path)
    np.savez(path, x=X, y=T)
    locked = bytearray(path.read_bytes())
    for sign in (b"PK\x03\x04", b"PK\x01\x02"):  # the flag of encryption, in both headers of the first file
        locked[locked.index(sign) + (6 if sign.endswith(b"\x04") else 8)] |= 1
    path.write_bytes(locked)
    with pytest.raises(nn.DataError, match="encrypted"):
        load_prepared(path)
    path.write_bytes(b"PK none")
    with pytest.raises(nn.DataError, match=r"damaged, or not an .npz file"):
        load_prepared(path)


def test_inputs_to_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    known = ArrayPreparation((1.0, 2.0, 3.0), (2.0, 2.0, 4.0), (3,), Target("y", ("a", "b")))
    for arrays in ({"x": X}, {"anything": X}, {"x_test": X, "x_train": T}):
        np.savez(path, **arrays)
        np.testing.assert_allclose(
            known.rows(path, array_inputs(path), "float64"), (X - [1, 2, 3]) / [2, 2, 4], rtol=1e-15
        )
    np.savez(path, a=X, b=X)
    with pytest.raises(nn.DataError, match="it has no inputs"):
        array_inputs(path)
    with pytest.raises(nn.DataError, match=r"got float64 of shape \(40, 2\), expected numbers of shape \(n, 3\)"):
        known.rows(path, X[:, :2], "float64")
    with pytest.raises(nn.DataError, match=r"the value at \[5, 1\] is 1e\+300, far larger than those to train on"):
        known.rows(path, np.where(np.arange(120).reshape(40, 3) == 16, 1e300, X), "float32")
    with pytest.raises(nn.DataError, match=r"the value at \[5, 1\] is inf; fill in"):
        known.rows(path, np.where(np.arange(120).reshape(40, 3) == 16, np.inf, X), "float64")


def test_answers_of_any_name_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    words = np.array(["a", None, 1], object)
    write_arrays(path, {"file": words, "allow_pickle": np.arange(3), "größe": np.ones((3, 2), "f")})
    with np.load(path) as read:
        assert set(read) == {"file", "allow_pickle", "größe"}
        assert read["file"].tolist() == ["a", "", "1"]
        assert read["allow_pickle"].tolist() == [0, 1, 2]
        assert (read["größe"].shape, read["größe"].dtype) == ((3, 2), np.float32)


def test_a_preparation_is_checked() -> None:
    stored = ArrayPreparation((0.0,), (1.0,), (3,), Target("y", ("a", "b"))).stored()
    for key, value in (
        ("mean", []),
        ("mean", [1.0, 2.0]),
        ("scale", [0.0]),
        ("scale", 1.0),
        ("shape", [-1]),
        ("shape", ["a"]),
        ("target", None),
    ):
        with pytest.raises(ValueError, match="the preparation of arrays needs"):
            ArrayPreparation.of({**stored, key: value})
