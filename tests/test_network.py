"""The network as a whole: passes, names, gradients, refusals, saving."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import NAMESPACES, Namespace, assert_close, check_projection

import nnbackend as nn
from nnbackend import files, serialization
from nnbackend.backends import to_numpy
from nnbackend.backends.base import room

RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((11, 6)), RNG.integers(0, 3, 11)


def make(dtype: str = "float32", loss: nn.Loss | None = None, **settings: Any) -> nn.Network:
    layers = [nn.Affine(6, 5), nn.Sigmoid(), nn.Affine(5, 4), nn.LeakyReLU(0.1), nn.Affine(4, 4), nn.Tanh()]
    return nn.Network([*layers, nn.ReLU(), nn.Affine(4, 3)], loss, dtype=dtype, **settings)


def test_names(on: Namespace) -> None:
    net = make()
    assert list(net.layers) == ["Affine1", "Sigmoid1", "Affine2", "LeakyReLU1", "Affine3", "Tanh1", "ReLU1", "Affine4"]
    assert list(net.params) == ["W1", "b1", "W2", "b2", "W3", "b3", "W4", "b4"]
    assert net.layers["Affine2"].name == "Affine2"
    assert net.input_shape == (6,)
    assert list(net.activations(X)) == list(net.layers)
    assert_close(net.activations(X)["Affine4"], to_numpy(net.predict(X)), "float32")


@pytest.mark.parametrize("loss", ["SoftmaxWithLoss", "MeanSquaredError"])
def test_gradient_of_the_whole_network(on: Namespace, loss: str) -> None:
    net = make("float64", getattr(nn, loss)())
    x, t = net.data(X, T if loss == "SoftmaxWithLoss" else RNG.standard_normal((11, 3)))
    start = to_numpy(net.buffer.data).copy()

    def forward(values: Any) -> Any:
        net.buffer.data[...] = values
        return net.loss_and_output(x, t)[0]

    def gradients(u: Any) -> list[Any]:
        net.backward()
        return [u * net.buffer.grad]

    check_projection(on, forward, gradients, [start])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(on: Namespace, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = make(dtype)
    y = torch.tensor(X.astype(dtype))
    weights = {name: torch.tensor(to_numpy(net.params[name]), requires_grad=True) for name in net.params}
    activations = [torch.sigmoid, lambda z: torch.nn.functional.leaky_relu(z, 0.1), lambda z: torch.relu(torch.tanh(z))]
    for i in range(1, 5):
        y = y @ weights[f"W{i}"] + weights[f"b{i}"]
        y = activations[i - 1](y) if i < 4 else y
    loss = torch.nn.functional.cross_entropy(y, torch.tensor(T))
    loss.backward()
    assert net.loss(X, T) == pytest.approx(loss.item(), rel=1e-6 if dtype == "float32" else 1e-14)
    assert_close(net.predict(X), y.detach().numpy(), dtype, terms=30)
    for name, gradient in net.gradient(X, T).items():
        assert_close(gradient, weights[name].grad.numpy(), dtype, terms=60, scale=1.0)


def test_one_seed_gives_one_network_everywhere() -> None:
    reference = to_numpy(make(seed=7).buffer.data)
    for name in NAMESPACES:
        if name in nn.available() or name.startswith("array_api_strict:"):
            other = make(seed=7, backend=name)
            assert to_numpy(other.buffer.data).tobytes() == reference.tobytes()
    assert to_numpy(make(seed=8).buffer.data).tobytes() != reference.tobytes()
    assert to_numpy(make(seed=np.random.default_rng(7)).buffer.data).tobytes() == reference.tobytes()


def test_weights_suit_the_activation_that_follows() -> None:
    layers = [nn.Affine(400, 300), nn.ReLU(), nn.Affine(300, 400), nn.Tanh(), nn.Affine(400, 400), nn.Affine(400, 300)]
    net = nn.Network([*layers, nn.LeakyReLU(0.5), nn.Affine(300, 400)])
    expected = [2 / 400, 1 / 300, 1 / 400, 2 / 1.25 / 400, 1 / 300]
    for i, variance in enumerate(expected, start=1):
        assert float(np.var(net.params[f"W{i}"])) == pytest.approx(variance, rel=0.02)
        assert not np.any(net.params[f"b{i}"])


def test_gradient_returns_copies_and_grads_are_live(on: Namespace) -> None:
    net = make()
    first = net.gradient(X, T)
    kept = to_numpy(first["W1"]).copy()
    net.gradient(-X, T)
    assert_close(first["W1"], kept, "float32")
    assert not np.array_equal(to_numpy(net.grads["W1"]), kept)


def test_predict_takes_rows_a_row_lists_and_host_arrays(on: Namespace) -> None:
    net = make()
    rows = to_numpy(net.predict(X))
    assert rows.shape == (11, 3)
    assert_close(net.predict(X[4]), rows[4], "float32", terms=20)
    assert_close(net.predict(X.tolist()), rows, "float32")
    assert_close(net.predict(on.array(X, "float32")), rows, "float32")
    assert_close(net.predict(np.asfortranarray(X)), rows, "float32")
    assert_close(net.predict(X.astype(">f8")), rows, "float32")
    assert on.backend.owns(net.predict(X))
    assert to_numpy(net.predict_proba(X)).sum(axis=1) == pytest.approx(np.ones(11), rel=1e-6)


def test_many_rows_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch, on: Namespace) -> None:
    net = make()
    whole, loss, accuracy = to_numpy(net.predict(X)), net.loss(X, T), net.accuracy(X, T)
    monkeypatch.setattr("nnbackend.network.ROWS_AT_ONCE", 4)
    assert_close(net.predict(X), whole, "float32", terms=20)
    assert net.loss(X, T) == pytest.approx(loss, rel=1e-6)
    assert net.accuracy(X, T) == pytest.approx(accuracy, rel=1e-6)


def test_accuracy_is_the_fraction_of_rows_that_are_right(on: Namespace) -> None:
    net = make()
    right = to_numpy(net.predict(X)).argmax(axis=1)
    assert net.accuracy(X, right) == 1.0
    half = right.copy()
    half[:5] = (half[:5] + 1) % 3
    assert net.accuracy(X, half) == pytest.approx(6 / 11)
    assert net.accuracy(X, np.eye(3)[half]) == pytest.approx(6 / 11)
    with pytest.raises(ValueError, match="accuracy has no meaning for MeanSquaredError"):
        make(loss=nn.MeanSquaredError()).accuracy(X, np.zeros((11, 3)))


def test_two_layer_net_is_the_book_s(on: Namespace) -> None:
    net = nn.TwoLayerNet(784, 50, 10, weight_init_std=0.01)
    assert {name: tuple(p.shape) for name, p in net.params.items()} == {
        "W1": (784, 50),
        "b1": (50,),
        "W2": (50, 10),
        "b2": (10,),
    }
    assert float(np.std(to_numpy(net.params["W1"]))) == pytest.approx(0.01, rel=0.02)
    x = np.random.default_rng(1).random((100, 784))
    t = np.eye(10)[np.random.default_rng(2).integers(0, 10, 100)]
    y = to_numpy(net.predict(x))
    assert y.shape == (100, 10)
    assert y.sum(axis=1) == pytest.approx(np.ones(100), rel=1e-5)
    assert net.loss(x, t) == pytest.approx(np.log(10), abs=0.05)
    assert set(net.gradient(x, t)) == {"W1", "b1", "W2", "b2"}


def test_the_first_layers_get_no_useless_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = nn.Affine.backward

    def backward(self: nn.Affine, dy: Any, need_dx: bool = True) -> Any:
        seen[self.name] = need_dx
        return original(self, dy, need_dx)

    monkeypatch.setattr(nn.Affine, "backward", backward)
    nn.Network([nn.Tanh(), nn.Affine(6, 3), nn.ReLU(), nn.Affine(3, 3)]).gradient(X, T)
    assert seen == {"Affine2": True, "Affine1": False}


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: nn.Network([]), ValueError, "at least one layer"),
        (lambda: nn.Network([nn.Affine(2, 2), "relu"]), TypeError, r"layers\[1\]: expected a layer, got 'relu'"),
        (lambda: nn.Network(nn.Affine(2, 2)), TypeError, "layers: expected a list of layers, got Affine"),
        (lambda: nn.Network(3), TypeError, "layers: expected a list of layers, got 3"),
        (
            lambda: nn.Network([nn.Affine(6, 5), nn.ReLU(), nn.Affine(4, 3)]),
            ValueError,
            r"Affine2 takes rows of shape \(4,\), but what comes before gives \(5,\)",
        ),
        (lambda: nn.Network([nn.Affine(6, 5)], dtype="float16"), ValueError, "unknown dtype 'float16'"),
        (lambda: nn.Network([nn.Affine(6, 5)], dtype=np.dtype("float64")), ValueError, "Did you mean 'float64'"),
        (lambda: nn.Network(nn.Affine(2, 2)), TypeError, r"layers: expected a list of layers, got Affine\("),
        (lambda: nn.Network([nn.Affine(6, 5)], loss="mse"), TypeError, "loss: expected a loss"),
        (lambda: nn.Network([nn.Affine(6, 5)], backend="cuppy"), nn.BackendError, r"Did you mean 'cupy'\?"),
        (lambda: nn.Network([nn.Affine(6, 5)], seed=-1), ValueError, "seed"),
        (lambda: nn.Network([nn.Affine(6, 5)], seed=1.5), ValueError, "seed"),
    ],
)
def test_what_does_not_make_a_network(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_a_layer_belongs_to_one_network() -> None:
    layer = nn.Affine(3, 3)
    nn.Network([layer])
    with pytest.raises(ValueError, match=r"layers\[0\]: Affine1 is in a network already"):
        nn.Network([layer])
    with pytest.raises(ValueError, match="Affine1 is in a network already"):
        nn.Network([nn.Residual([layer])])


def test_layers_of_a_refused_network_are_free_again() -> None:
    layers = [nn.Affine(3, 4), nn.Affine(5, 3)]
    with pytest.raises(ValueError, match="what comes before"):
        nn.Network(layers)
    nn.Network([layers[0], nn.Affine(4, 5), layers[1]])


def test_bad_data(on: Namespace) -> None:
    net = make()
    cases = {
        r"x: expected shape \(n, 6\), got \(11, 5\)": (X[:, :5], T),
        "x is empty": (X[:0], T[:0]),
        "x has 11 rows, but t has 10": (X, T[:10]),
        "labels must lie in 0 to 2, got .* to 7": (X, np.full(11, 7)),
        "labels must be integers": (X, T.astype(float)),
        "expected a batch of rows": (X[0], T[0]),
        "expected an array of numbers": (np.full((11, 6), "a"), T),
    }
    for message, (x, t) in cases.items():
        with pytest.raises(ValueError, match=message):
            net.loss(x, t)


def test_an_array_of_another_backend_is_refused_by_name() -> None:
    pytest.importorskip("array_api_strict")
    net = make()
    with nn.using("array_api_strict:device1") as strict:
        x = strict.asarray(X, "float32")
    with pytest.raises(nn.BackendError, match="array_api_strict array on .*device1.*this backend is 'numpy'"):
        net.predict(x)


# --- files ---------------------------------------------------------------------------------------------------------


def test_saving_and_loading(on: Namespace, tmp_path: Path) -> None:
    net = make(seed=3)
    before = to_numpy(net.buffer.data).tobytes()
    net.save(tmp_path / "net.safetensors")
    assert to_numpy(net.buffer.data).tobytes() == before
    again = nn.load(tmp_path / "net.safetensors")
    assert again.backend == on.backend
    assert again.config() == net.config()
    assert to_numpy(again.buffer.data).tobytes() == before
    on_host = nn.load(tmp_path / "net.safetensors", backend="numpy")
    assert on_host.buffer.data.tobytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "net.safetensors"]


def test_pytorch_reads_the_file(tmp_path: Path) -> None:
    torch_files = pytest.importorskip("safetensors.torch", reason="PyTorch is not installed")
    net = make()
    net.save(tmp_path / "net.safetensors")
    tensors = torch_files.load_file(tmp_path / "net.safetensors")
    assert {name: t.numpy().tobytes() for name, t in tensors.items()} == {
        name: value.tobytes() for name, value in net.params.items()
    }


def test_two_layer_net_stays_one(tmp_path: Path) -> None:
    net = nn.TwoLayerNet(6, 4, 3)
    net.save(tmp_path / "net.safetensors")
    again = nn.load(tmp_path / "net.safetensors")
    assert isinstance(again, nn.TwoLayerNet)
    assert again.predict(X).tobytes() == net.predict(X).tobytes()
    assert isinstance(net.to("numpy", "float64"), nn.TwoLayerNet)


def test_layers_of_one_s_own_are_named_when_loading(tmp_path: Path) -> None:
    class Twice(nn.Layer):
        def forward(self, x: Any, training: bool = False) -> Any:
            return 2.0 * x

        def backward(self, dy: Any, need_dx: bool = True) -> Any:
            return 2.0 * dy

    net = nn.Network([nn.Affine(6, 3), Twice()])
    net.save(tmp_path / "net.safetensors")
    with pytest.raises(nn.ModelFileError, match="unknown kind 'Twice'"):
        nn.load(tmp_path / "net.safetensors")
    assert nn.load(tmp_path / "net.safetensors", layers=[Twice]).loss(X, T) == net.loss(X, T)


def test_moving_to_another_backend_and_dtype(on: Namespace) -> None:
    net = make()
    other = net.to("numpy", "float64")
    assert other.dtype == "float64"
    assert other.loss(X, T) == pytest.approx(net.loss(X, T), rel=1e-6)
    other.params["b1"] = np.ones(5)
    assert not to_numpy(net.params["b1"]).any()


@dataclass(eq=False)
class Shift(nn.Layer):
    """A layer of one's own, which a pickle finds by its name."""

    by: float = 1.0

    def forward(self, x: Any, training: bool = False) -> Any:
        return x + self.by

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy


def test_pickles_and_copies_go_on_exactly(on: Namespace) -> None:
    layers = [nn.Affine(6, 5), nn.BatchNormalization(5), nn.ELU(0.5), nn.Dropout(0.3), Shift(2.0), nn.Affine(5, 3)]
    net = nn.Network(layers, nn.SoftmaxWithLoss(class_weight=[1, 2, 1], label_smoothing=0.1), dtype="float64", seed=3)
    nn.Trainer(net, nn.SGD(lr=0.1), batch_size=4).fit(X, T)
    copies = [pickle.loads(pickle.dumps(net)), copy.deepcopy(net)]
    for other in copies:
        assert repr(other) == repr(net)
        assert other.backend == on.backend
        assert other.buffer.data is not net.buffer.data
    nn.Trainer(net, nn.SGD(lr=0.1), batch_size=4).fit(X, T, epochs=2)
    for other in copies:
        nn.Trainer(other, nn.SGD(lr=0.1), batch_size=4).fit(X, T, epochs=2)
        for name in ("data", "state", "clock"):  # values, running statistics, the number of the masks
            assert to_numpy(getattr(other.buffer, name)).tolist() == to_numpy(getattr(net.buffer, name)).tolist()
        other.params["W1"][...] = 0.0  # live
        assert float(on.xp.max(on.xp.abs(other.buffer.data[:30]))) == 0.0
    book = pickle.loads(pickle.dumps(nn.TwoLayerNet(6, 5, 3)))
    assert type(book) is nn.TwoLayerNet
    assert_close(on.xp.sum(book.predict(X), axis=1), np.ones(11), "float32")


def test_all_copies_go_on_with_the_masks_that_would_come_next(on: Namespace, tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(6, 8), nn.Dropout(0.5), nn.Affine(8, 3)], dtype="float64", seed=1)
    nn.Trainer(net, nn.SGD(lr=0.1), batch_size=4).fit(X, T, epochs=2)
    net.save(tmp_path / "net.safetensors")
    checkpoint = tmp_path / "run.safetensors"
    copies = [copy.deepcopy(net), net.to(net.backend), net.to("numpy"), nn.load(tmp_path / "net.safetensors")]
    nn.Trainer(net, nn.SGD(lr=0.1), batch_size=4, checkpoint=checkpoint).fit(X, T, epochs=2)
    for other in copies:
        assert to_numpy(other.buffer.clock).tolist() == [6]  # 2 epochs of 3 steps
        nn.Trainer(other, nn.SGD(lr=0.1), batch_size=4).fit(X, T, epochs=2)
        assert_close(other.buffer.data, net.buffer.data, "float64", terms=100)
    assert to_numpy(nn.load(checkpoint).buffer.clock).tolist() == [12]


def test_a_pickle_of_a_backend_that_fails_here_is_read_on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("array_api_strict")
    net = make(backend="array_api_strict:device1")
    pickled = pickle.dumps(net)

    def fails(device: str) -> None:
        raise nn.BackendError("no such device")

    monkeypatch.setattr(room("array_api_strict"), "open", fails)
    with pytest.warns(UserWarning, match="pickled on 'array_api_strict:device1', which fails here.* no such device"):
        other = pickle.loads(pickled)
    assert other.backend.name == "numpy"
    assert_close(other.predict(X), to_numpy(net.predict(net.backend.asarray(X))), "float32", 6)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    nn.Network([nn.Affine(3, 2)], seed=0).save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_a_file_cut_anywhere_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        with pytest.raises(nn.ModelFileError, match="net.safetensors: "):
            nn.load(saved)


def rewrite(path: Path, **changes: Any) -> None:
    tensors, description = serialization.read(path)
    description["network"] |= changes.pop("network", {})
    tensors |= changes.pop("tensors", {})
    from safetensors.numpy import save_file

    save_file(tensors, path, {"nnbackend": json.dumps({**description, **changes})})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "written in format 2, but this nnbackend reads up to 1"),
        ({"format": "x"}, "description is damaged"),
        ({"network": {"layers": [{"kind": "Afine", "input_size": 3, "output_size": 2}]}}, "Did you mean 'Affine'"),
        ({"network": {"layers": [{"kind": "Affine", "input_size": 3}]}}, "output_size"),
        ({"network": {"layers": [{"kind": "Affine", "input_size": 10**9, "output_size": 10**9}]}}, "it holds 8"),
        ({"network": {"layers": [{"kind": "Affine", "input_size": 2, "output_size": 3}]}}, "it holds 8|shape"),
        ({"network": {"layers": 7}}, "does not make a network"),
        ({"network": {"layers": []}}, "does not make a network"),
        ({"network": {"dtype": "int8"}}, "unknown dtype"),
        ({"network": {"loss": {"kind": "Hinge"}}}, "unknown kind 'Hinge'"),
        ({"tensors": {"W2": np.zeros(0, "float32")}}, "but its layers have"),
        ({"tensors": {"training.clock": np.zeros(2, "int64")}}, "training.clock is int64 of shape"),
        ({"tensors": {"training.clock": np.zeros(1, "float32")}}, "training.clock is float32"),
        ({"tensors": {"training.clock": np.full(1, -1)}}, "training.clock is int64"),
        ({"tensors": {"W1": np.zeros((2, 3), "float32")}}, r"expected shape \(3, 2\), got \(2, 3\)"),
    ],
)
def test_a_file_that_lies_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(saved, **changes)
    with pytest.raises(nn.ModelFileError, match=message):
        nn.load(saved)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "other.safetensors"
    with pytest.raises(nn.ModelFileError, match="there is no such file"):
        nn.load(path)
    save_file({"a": np.zeros(2, "float32")}, path)
    with pytest.raises(nn.ModelFileError, match="not written by nnbackend"):
        nn.load(path)
    path.write_bytes(b"PK\x03\x04 this is something else")
    with pytest.raises(nn.ModelFileError, match="damaged, or not a safetensors file"):
        nn.load(path)
    with pytest.raises(nn.ModelFileError, match="there is no such file"):
        nn.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def refuse(self: Path, target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        nn.Network([nn.Affine(3, 2)], seed=1).save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs/net.safetensors", "there is no folder .*runs: '.*net.safetensors'$"),
        ("folder", "it is a folder, a file name is needed: '.*folder'$"),
        ("file/net.safetensors", "there is no folder .*file: '.*net.safetensors'$"),
        ("n" * 256, "File name too long: '.*n{256}'$"),
    ],
)
def test_where_no_file_can_be_written_the_error_names_what_was_asked_for(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match=message) as caught:
        nn.Network([nn.Affine(3, 2)]).save(tmp_path / name)
    assert ".tmp" not in str(caught.value)
    assert caught.value.filename == str(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["n" * 250, "n" * 255, "\N{HIRAGANA LETTER A}" * 85], ids=["250", "255", "kana"])
def test_names_as_long_as_a_file_can_have(tmp_path: Path, name: str) -> None:
    net = nn.Network([nn.Affine(3, 2)])
    net.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / name]
    assert nn.load(tmp_path / name).config() == net.config()


def test_on_windows_a_file_that_a_scanner_holds_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [True, True, False]
    replace = Path.replace

    def hold(self: Path, target: Path) -> Path:
        if held.pop(0):
            raise PermissionError(13, "The process cannot access the file", str(self), 32, str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", hold)
    monkeypatch.setattr(files, "WINDOWS", True)
    net, file = nn.Network([nn.Affine(3, 2)]), tmp_path / "net.safetensors"
    net.save(file)
    assert nn.load(file).config() == net.config()
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    held[:] = [True] * 20
    with pytest.raises(PermissionError) as caught:  # and not for ever
        net.save(file)
    assert caught.value.filename == str(file)
    monkeypatch.setattr(files, "WINDOWS", False)
    held[:] = [True]
    with pytest.raises(PermissionError):  # elsewhere it is no matter of time
        net.save(file)
