"""Rows from files of numpy.save and from sequences of pairs, such as PyTorch's datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend.datasets import Items, Shards

RNG = np.random.default_rng(0)
X, T = RNG.integers(0, 256, (20, 3, 2)).astype("uint8"), RNG.integers(0, 5, 20)


def saved(folder: Path, name: str, *arrays: Any) -> list[Path]:
    paths = [folder / f"{name}{i}.npy" for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    return paths


@pytest.mark.parametrize("cuts", [(), (7,), (1, 2, 19), (5, 5)])
def test_shards_are_one_array(cuts: tuple[int, ...], tmp_path: Path) -> None:
    source = Shards(saved(tmp_path, "x", *np.split(X, cuts)), saved(tmp_path, "t", *np.split(T, cuts)))
    assert len(source) == 20
    for rows in (np.arange(20), RNG.permutation(20), np.array([19, 0, 19]), np.array([], "int64")):
        x, t = source[rows]
        assert x.dtype == X.dtype
        assert (x == X[rows]).all()
        assert (t == T[rows]).all()


def test_shards_take_row_numbers_alone(tmp_path: Path) -> None:
    source = Shards(saved(tmp_path, "x", *np.split(X, (7,))), saved(tmp_path, "t", *np.split(T, (7,))))
    for rows in ([-1], [0, 20]):
        with pytest.raises(IndexError, match="rows: expected numbers from 0 to 19, got "):
            source[np.array(rows)]
    for wrong in (np.arange(20) < 3, np.array(3), np.ones((2, 2), int), np.array([1.0])):
        with pytest.raises(TypeError, match=r"rows: expected row numbers, integers of shape \(n,\), got "):
            source[wrong]


def test_items_of_a_dataset_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(T))
    for source in (Items(dataset), Items(torch.utils.data.DataLoader(dataset, batch_size=3).dataset)):
        x, t = source[np.array([3, 0, 3])]
        assert (x == X[[3, 0, 3]]).all()
        assert (t == T[[3, 0, 3]]).all()
        assert len(source) == 20
        assert repr(source) == "<Items: 20 rows of a TensorDataset>"


def test_bad_input(tmp_path: Path) -> None:
    x, t = saved(tmp_path, "x", X[:8], X[8:]), saved(tmp_path, "t", T[:8], T[8:])
    with pytest.raises(TypeError, match="x: expected a list of paths, got 'x.npy'"):
        Shards("x.npy", ["t.npy"])
    with pytest.raises(ValueError, match="as many files of x as of t, and at least one, got 2 and 1"):
        Shards(x, t[:1])
    with pytest.raises(ValueError, match="got 0 and 0"):
        Shards([], [])
    with pytest.raises(ValueError, match=r"x0.npy has 8 rows, but .*t1.npy has 12"):
        Shards(x, t[::-1])
    with pytest.raises(nn.DataError, match=r"absent.npy is no file of numpy.save"):
        Shards([tmp_path / "absent.npy"], t[:1])
    (tmp_path / "broken.npy").write_bytes(b"no array")
    with pytest.raises(nn.DataError, match=r"broken.npy is no file of numpy.save"):
        Shards([tmp_path / "broken.npy"], t[:1])
    with pytest.raises(nn.DataError, match=r"number0.npy holds no array of rows"):
        Shards(saved(tmp_path, "number", np.float64(3)), t[:1])
    with pytest.raises(nn.DataError, match=r"object0.npy is no file"):
        Shards(saved(tmp_path, "object", np.array([{}], object)), t[:1])
    with pytest.raises(ValueError, match=r"other1.npy has rows of float64 of shape \(2,\), but .*uint8 of shape"):
        Shards(saved(tmp_path, "other", X[:8], np.ones((12, 2))), t)
    with pytest.raises(TypeError, match="items: expected a sequence of pairs .*, got a int"):
        Items(3)
