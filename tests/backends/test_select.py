"""Selecting a backend, and moving arrays to and from it. What a broken CuPy says is tested with the doctor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import Backend, describe, resolve, why_not


@pytest.fixture(autouse=True)
def unselected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["nnbackend.backends.select"], "_selected", None)


def test_numpy_is_the_default() -> None:
    assert nn.backend().name == "numpy"
    assert nn.backend() is nn.backend()


def test_the_variable_is_read_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("array_api_strict")
    monkeypatch.setenv("NNBACKEND", "array_api_strict:device1")
    assert nn.backend().name == "array_api_strict:device1"
    monkeypatch.setenv("NNBACKEND", "numpy")
    assert nn.backend().name == "array_api_strict:device1"


def test_importing_reads_no_variable() -> None:
    code = "import os; os.environ['NNBACKEND'] = 'nonsense'; import nnbackend"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == ""


def test_using_is_undone_and_nests() -> None:
    pytest.importorskip("array_api_strict")
    with nn.using("array_api_strict") as outer:
        assert nn.backend() is outer
        with nn.using("numpy"):
            assert nn.backend().name == "numpy"
        assert nn.backend() is outer
        with pytest.raises(RuntimeError), nn.using("numpy"):
            raise RuntimeError
        assert nn.backend() is outer
    assert nn.backend().name == "numpy"


def test_using_is_seen_by_its_own_thread_alone() -> None:
    pytest.importorskip("array_api_strict")
    seen = []
    with nn.using("array_api_strict"):
        thread = threading.Thread(target=lambda: seen.append(nn.backend().name))
        thread.start()
        thread.join()
    assert seen == ["numpy"]


def test_use_selects_until_told_otherwise() -> None:
    pytest.importorskip("array_api_strict")
    assert nn.use("array_api_strict").name == "array_api_strict"
    assert nn.backend().name == "array_api_strict"
    with pytest.raises(nn.BackendError):
        nn.use("nonsense")
    assert nn.backend().name == "array_api_strict"
    assert nn.use(resolve("numpy")).name == "numpy"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cuppy",
            r"unknown backend 'cuppy'\. Did you mean 'cupy'\? Known: array_api_strict, auto, cupy, dpnp, numpy, ",
        ),
        ("gpu", r"unknown backend 'gpu'\. Did you mean 'cupy'\?"),
        ("CUDA:1", "Did you mean 'cupy'"),
        ("nvidia", "Did you mean 'cupy'"),
        ("CPU", "Did you mean 'numpy'"),
        ("PyTorch", "Did you mean 'torch'"),
        ("CuPy", "Did you mean 'cupy'"),
        ("jax", "jax arrays are immutable"),
        ("numpy:1", "numpy has one device, 'cpu'; got '1'"),
        ("array_api_strict:nowhere", "no device 'nowhere'"),
        ("torch:nowhere", "torch has no working device 'nowhere'"),
        ("dpnp:nowhere", "dpnp has no working device 'nowhere'|dpnp is not installed"),
        ("torch:meta", "torch:meta: writing to an array and reading it back failed"),
    ],
)
def test_names_that_do_not_work(name: str, message: str) -> None:
    if name.startswith(("torch", "array_api_strict")):
        pytest.importorskip(name.partition(":")[0])
    with pytest.raises(nn.BackendError, match=message):
        nn.use(name)


def test_a_name_from_the_variable_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNBACKEND", "nupy")
    with pytest.raises(nn.BackendError, match=r"^NNBACKEND: unknown backend 'nupy'\. Did you mean 'numpy'\?"):
        nn.backend()


def test_auto_says_what_it_chose(caplog: pytest.LogCaptureFixture) -> None:
    chosen = nn.use("auto")
    (record,) = caplog.records
    assert record.name == "nnbackend"
    assert record.getMessage().startswith(f"NNBACKEND=auto chose {chosen.name}")
    assert chosen.family == ("numpy" if why_not("cupy") else "cupy")


def test_auto_is_heard_if_nobody_has_set_logging_up() -> None:
    code = "import nnbackend as nn; nn.backend()"
    environment = os.environ | {"NNBACKEND": "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("NNBACKEND=auto chose ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_available_lists_what_works() -> None:
    names = nn.available()
    assert "numpy" in names
    assert all(why_not(name) is None for name in names)


def test_a_namespace_whose_slices_are_copies_is_refused() -> None:
    from nnbackend.backends.select import check_views

    class Copying:
        float32 = "float32"

        def zeros(self, shape: tuple[int, ...], dtype: str, device: str) -> np.ndarray:
            return np.zeros(shape, dtype)

        def reshape(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            return np.array(x).reshape(shape)

    with pytest.raises(nn.BackendError, match="a reshaped slice is a copy there"):
        check_views(Backend("copying", Copying(), "cpu"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", None])
def test_there_and_back(on: Namespace, dtype: str | None) -> None:
    host = np.arange(6).reshape(2, 3)
    there = on.backend.asarray(host, dtype)
    assert on.backend.owns(there)
    assert there.dtype == on.backend.dtype(dtype or "int64")
    back = nn.to_numpy(there)
    assert type(back) is np.ndarray
    assert back.tolist() == host.tolist()
    assert on.backend.asarray(there, "float64").dtype == on.backend.dtype("float64")


def test_host_data_of_every_form(on: Namespace, tmp_path: object) -> None:
    expected = [[1.0, 2.0], [3.0, 4.0]]
    base = np.array(expected)
    readonly = base.copy()
    readonly.flags.writeable = False
    for host in (expected, tuple(expected), base, base.astype(">f4"), np.asfortranarray(base), readonly, base[::-1]):
        there = nn.to_numpy(on.backend.asarray(host, "float32")).tolist()
        assert there == (expected[::-1] if host is not expected and there[0][0] == 3.0 else expected)
    memmap = np.memmap(f"{tmp_path}/m", "float32", "w+", shape=(2, 2))
    memmap[...] = expected
    assert nn.to_numpy(on.backend.asarray(memmap)).tolist() == expected
    assert nn.to_numpy(on.backend.asarray(base.astype("uint8"), "float32")).tolist() == expected
    memmap._mmap.close()


def test_masked_values_are_refused(on: Namespace) -> None:
    x = np.ma.masked_array(np.ones((2, 3), "float32"), mask=[[0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"x: .* a masked array without 2 of its 6 values: fill them first"):
        nn.Network([nn.Affine(3, 2)]).predict(x)
    assert nn.Network([nn.Affine(3, 2)]).predict(np.ma.masked_array(x.filled(0.0))).shape == (2, 2)


@pytest.mark.parametrize("x", [["a"], [None], [[1, 2], [3]], [1j]])
def test_what_is_no_array_of_numbers(on: Namespace, x: object) -> None:
    with pytest.raises(ValueError, match="expected an array of numbers|inhomogeneous"):
        on.backend.asarray(x, "float32")


@pytest.mark.parametrize("kind", ["b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "g"])
@pytest.mark.parametrize("order", ["=", ">", "<"])
def test_every_dtype_and_layout_of_host_arrays(on: Namespace, kind: str, order: str) -> None:
    whole = np.arange(24).reshape(4, 3, 2).astype(np.dtype(kind).newbyteorder(order))
    forms = [whole, whole[::-1], whole[:, ::-1, ::-1], whole[::-1][:1], whole[:1, :1][::-1], whole[:0], whole[0, 0, 0]]
    forms += [whole[1, 1, :1][::-1], whole.transpose(), np.broadcast_to(whole[:1], (4, 3, 2)), whole[::2, ::-2]]
    for host in forms:
        for dtype in (None, "float32", "int64"):
            there = on.backend.asarray(host, dtype)
            back = nn.to_numpy(there)
            assert back.dtype.isnative
            assert back.tolist() == host.astype(dtype or host.dtype).tolist()
            if kind != "b1":  # what no library computes with has become something it does
                if host.size:
                    assert float(on.xp.max(there)) == float(host.max())
                there = there + there
                assert there.dtype == on.backend.asarray(host, dtype).dtype


def test_labels_of_every_integer_dtype(on: Namespace) -> None:
    x = np.arange(12.0).reshape(4, 3)
    net = nn.Network([nn.Affine(3, 3)])
    expected = net.loss(x, [0, 1, 2, 1])
    for dtype in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", ">i2", ">u4", ">i8"):
        assert net.loss(x, np.array([0, 1, 2, 1], dtype)) == expected
        assert net.loss(x[:1], np.array([0], dtype)[::-1]) == net.loss(x[:1], [0])


def test_integers_beyond_what_the_library_holds() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    on = nn.backends.resolve("torch")
    assert on.asarray(np.array([2**63 - 1], "uint64")).tolist() == [2**63 - 1]
    assert on.asarray(np.array([2**63], "uint64"), "float64").tolist() == [2.0**63]
    with pytest.raises(ValueError, match=r"t: expected integers below 2\*\*63 on 'torch', got 9223372036854775808"):
        on.asarray(np.array([2**63], "uint64"), argument="t")


def test_data_frames_of_numbers_and_booleans(on: Namespace) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pd.DataFrame({"age": [1.5, 2.0], "x": [True, False], "n": pd.array([3, 4], dtype="Int64")})
    expected = [[1.5, 1.0, 3.0], [2.0, 0.0, 4.0]]
    assert nn.to_numpy(on.backend.asarray(frame)).tolist() == expected
    twice = pd.concat([frame, frame[["x"]]], axis=1)  # two columns of one name
    assert nn.to_numpy(on.backend.asarray(twice, "float32")).tolist() == [[*expected[0], 1.0], [*expected[1], 0.0]]
    for column, kind in (
        (["a", "b"], "str|object"),
        ([True, None], "object"),
        (pd.to_datetime(["2020", "2021"]), "date"),
    ):
        for spoiled in (frame.assign(city=column), frame.assign(city=column)[["city"]]):
            with pytest.raises(ValueError, match=f"^x: expected columns of numbers, but column 'city' holds ({kind})"):
                on.backend.asarray(spoiled, "float32", "x")


def test_data_frames_of_polars(on: Namespace) -> None:
    pl = pytest.importorskip("polars", reason="polars is not installed")
    frame = pl.DataFrame({"age": [1.5, 2.0], "x": [True, False]})
    assert nn.to_numpy(on.backend.asarray(frame)).tolist() == [[1.5, 1.0], [2.0, 0.0]]
    with pytest.raises(ValueError, match="column 'city' holds String"):
        on.backend.asarray(frame.with_columns(pl.Series("city", ["a", "b"])))


def loader() -> Any:
    utils = pytest.importorskip("torch.utils.data", reason="PyTorch is not installed")
    torch = sys.modules["torch"]
    return utils.DataLoader(utils.TensorDataset(torch.zeros(4, 3), torch.zeros(4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (loader, "expected an array, got a DataLoader: put what it gives into one array first"),
        (lambda: iter([[1.0] * 3] * 4), "expected an array, got a list_iterator: put"),
        (lambda: ([1.0] * 3 for _ in range(4)), "expected an array, got a generator: put"),
        (lambda: map(float, "1234"), "expected an array, got a map: put"),
        (lambda: {1.0, 2.0}, "expected an array of numbers, got a set"),
        (lambda: {"a": [1.0]}, "expected an array of numbers, got a dict"),
        (lambda: None, "expected an array of numbers, got a NoneType"),
        (object, "expected an array of numbers, got a object"),
    ],
)
def test_what_is_no_array_is_named(on: Namespace, make: Callable[[], Any], message: str) -> None:
    net, x, t = nn.Network([nn.Affine(3, 2)]), np.zeros((4, 3)), np.zeros(4, int)
    with pytest.raises(TypeError, match=f"^x: {message}"):
        net.predict(make())
    with pytest.raises(TypeError, match=f"^x: {message}"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=2).fit(make(), t)
    missing = "the targets of x are missing"
    with pytest.raises(TypeError, match=f"^t: {missing if make() is None else message}"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=2).fit(x, make())
    with pytest.raises(TypeError, match=f"^validation x: {message}|^x: {message}"):
        nn.Trainer(net, nn.SGD(0.1), batch_size=2).fit(x, t, validation=(make(), t))
    if make() is not None:
        with pytest.raises(TypeError, match=f"^sample_weight: {message}"):
            net.loss(x, t, make())
    with pytest.raises(TypeError, match=f"^t: {message}"):
        nn.Network([nn.Affine(3, 1)], nn.MeanSquaredError()).loss(x, make())


def test_a_data_set_of_pytorch_is_no_array() -> None:
    data = loader().dataset
    with pytest.raises(ValueError, match="^x: expected a regular array of numbers, got a TensorDataset that is none"):
        nn.Network([nn.Affine(3, 2)]).predict(data)


def test_arrays_of_another_library_name_the_argument() -> None:
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    x = strict.zeros((4, 3), device=strict.Device("device1"))
    with pytest.raises(
        nn.BackendError, match="^x: got a array_api_strict array on .*device1.*, but this backend is 'n"
    ):
        nn.Network([nn.Affine(3, 2)]).predict(x)


def test_kinds_in_words() -> None:
    assert describe(np.zeros(2)) == "a numpy array"
    assert describe([1]) == "a list"
    assert describe(None) == "a NoneType"


def test_synchronize_returns(on: Namespace) -> None:
    assert on.backend.synchronize() is None


def test_a_number_has_no_axis_on_any_backend(on: Namespace) -> None:
    assert tuple(on.backend.asarray(1.5).shape) == tuple(on.backend.asarray(np.array(2)).shape) == ()


def test_a_data_frame_of_floats_and_bools_is_an_array_of_numbers(on: Namespace) -> None:
    frames = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = frames.DataFrame({"age": [0.5, 1.5], "city_a": [True, False], "city_b": [False, True]})
    assert nn.to_numpy(on.backend.asarray(frame, "float32")).tolist() == [[0.5, 1.0, 0.0], [1.5, 0.0, 1.0]]
    frame["day"] = frames.to_datetime(["2020-01-01", "2020-01-02"])
    frame["city"] = ["a", "b"]
    with pytest.raises(ValueError, match="expected columns of numbers, but column 'day' holds datetime64"):
        on.backend.asarray(frame)
