"""Networks from PyTorch and for it, compared with PyTorch itself."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy
from nnbackend.layers import LAYERS

torch = pytest.importorskip("torch")

# layers that PyTorch does not have for images
OF_ROWS = {"Embedding", "GRU", "LSTM", "LastStep", "LayerNormalization", "RNN"}
OF_ROWS |= {"MultiHeadAttention", "PositionalEncoding"}


def perceptron() -> Any:
    t = torch.nn
    return t.Sequential(
        t.Linear(6, 9), t.BatchNorm1d(9), t.ReLU(), t.Dropout(0.2), t.Linear(9, 5, bias=False), t.LayerNorm(5, 1e-3),
        t.SiLU(), t.Linear(5, 3),
    )  # fmt: skip


def perceptron_layers() -> list[nn.Layer]:
    return [
        nn.Affine(6, 9), nn.BatchNormalization(9), nn.ReLU(), nn.Dropout(0.2), nn.Affine(9, 5),
        nn.LayerNormalization(5, eps=1e-3), nn.SiLU(), nn.Affine(5, 3),
    ]  # fmt: skip


def convolutional() -> Any:
    t = torch.nn
    return t.Sequential(
        t.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(1, 0)), t.BatchNorm2d(4), t.LeakyReLU(0.2), t.MaxPool2d(2),
        t.Conv2d(4, 3, 1), t.AvgPool2d(2, 1, 1), t.Tanh(), t.Flatten(), t.BatchNorm1d(36), t.Linear(36, 5), t.ELU(),
        t.Linear(5, 3),
    )  # fmt: skip


def convolutional_layers() -> list[nn.Layer]:
    return [
        nn.Convolution(2, 4, (3, 2), stride=(1, 2), padding=(1, 0)), nn.BatchNormalization(4), nn.LeakyReLU(0.2),
        nn.MaxPooling(2), nn.Convolution(4, 3, 1), nn.AveragePooling(2, 1, 1), nn.Tanh(), nn.Flatten(),
        nn.BatchNormalization(36), nn.Affine(36, 5), nn.ELU(), nn.Affine(5, 3),
    ]  # fmt: skip


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], list[nn.Layer]], tuple[int, ...]]] = {
    "mlp": (perceptron, perceptron_layers, (6,)),
    "cnn": (convolutional, convolutional_layers, (2, 7, 8)),
}


def drawn(module: Any, dtype: str = "float32") -> Any:
    """A module with random values everywhere, also in its statistics."""
    generator = torch.Generator().manual_seed(3)
    module = module.to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point():
                value.normal_(0.0, 0.5, generator=generator)
    return module


def answers(module: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(x)).numpy()


def ours(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x


def rows(shape: tuple[int, ...], dtype: str, n: int = 5) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((n, *shape)).astype(dtype)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["module", "state dict", "arrays", "file"])
def test_from_torch(name: str, dtype: str, kind: str, tmp_path: Path) -> None:
    make, layers, shape = MODELS[name]
    module = drawn(make(), dtype)
    source = module if kind == "module" else module.state_dict()
    if kind == "arrays":
        source = {key: value.numpy() for key, value in source.items()}
    if kind == "file":
        torch.save(source, tmp_path / "net.pt")
        source = tmp_path / "net.pt"
    net = nn.load_torch(source, layers(), nn.MeanSquaredError())
    assert net.dtype == dtype
    assert isinstance(net.loss_layer, nn.MeanSquaredError)
    x = rows(shape, dtype)
    assert_close(net.predict(ours(x)), answers(module, x), dtype, terms=60)


@pytest.mark.parametrize("name", MODELS)
def test_on_every_backend(on: Namespace, name: str) -> None:
    make, layers, shape = MODELS[name]
    module, x = drawn(make(), "float64"), rows(shape, "float64")
    net = nn.load_torch(module.state_dict(), layers())
    assert net.backend is nn.backend()
    assert_close(net.predict(ours(x)), answers(module, x), "float64", terms=60)
    assert_close(answers(net.to_torch(), x), answers(module, x), "float64", terms=60)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back_is_the_same_bit_for_bit(name: str, dtype: str) -> None:
    make, layers, _ = MODELS[name]
    module = drawn(make(), dtype)
    there = nn.load_torch(module, layers()).to_torch()
    assert not there.training
    state = there.state_dict()
    for key, value in module.state_dict().items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value), key
    for left_out in set(state) - set(module.state_dict()):  # bias=False
        assert not state[left_out].any()


@pytest.mark.parametrize("kind", [name for name in LAYERS if name not in OF_ROWS])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_layer_among_images(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, h, w = (int(side) for side in rng.integers(3, 7, 3))
    make = {
        "Affine": lambda: [nn.Flatten(), nn.Affine(c * h * w, 3), nn.Affine(3, 2)],
        "BatchNormalization": lambda: [nn.BatchNormalization(c), nn.Convolution(c, 2, 2)],
        "Convolution": lambda: [nn.Convolution(c, 4, (2, 3), (1, 2), (2, 1))],
        "MaxPooling": lambda: [nn.MaxPooling((2, 3), (2, 1), 1)],
        "AveragePooling": lambda: [nn.AveragePooling((2, 3), (2, 1), 1)],
        "Flatten": lambda: [nn.Convolution(c, 4, 1), nn.Flatten(), nn.Tanh(), nn.Affine(4 * h * w, 3)],
        "LeakyReLU": lambda: [nn.LeakyReLU(0.3)],
        "ELU": lambda: [nn.ELU(0.3)],
        "Sequential": lambda: [nn.Sequential([nn.Convolution(c, 4, 1), nn.Flatten()]), nn.Affine(4 * h * w, 3)],
        "Residual": lambda: [
            nn.Residual([nn.Convolution(c, 4, 3, padding=1), nn.ELU()], nn.Convolution(c, 4, 1)),
            nn.Residual([nn.Flatten(), nn.Affine(4 * h * w, 3)], [nn.Flatten(), nn.Affine(4 * h * w, 3)]),
        ],
        "Parallel": lambda: [
            nn.Parallel([[], nn.Convolution(c, 2, 1)], "concatenate"),
            nn.Flatten(),
            nn.Affine((c + 2) * h * w, 3),
        ],
    }.get(kind, lambda: [LAYERS[kind]()])
    net = nn.Network(make(), nn.MeanSquaredError(), dtype="float64", seed=seed)
    for name, view in net.statistics.items():
        net.statistics[name] = rng.uniform(0.5, 2.0, view.shape)
    x = rng.standard_normal((3, c, h, w))
    y = to_numpy(net.predict(ours(x)))
    expected = answers(net.to_torch(input_shape=(h, w, c)), x)
    assert_close(y, np.moveaxis(expected, 1, -1) if expected.ndim == 4 else expected, "float64", terms=300)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_ids(dtype: str) -> None:
    t, ids = torch.nn, np.random.default_rng(4).integers(0, 9, (5, 4))
    module = drawn(t.Sequential(t.Embedding(9, 3), t.Tanh(), t.Flatten(), t.Linear(12, 2)), dtype)
    layers = [nn.Embedding(9, 3), nn.Tanh(), nn.Flatten(), nn.Affine(12, 2)]
    net = nn.load_torch(module, layers, input_shape=(4,))
    assert_close(net.predict(ids), answers(module, ids), dtype, terms=60)
    assert_close(answers(net.to_torch(input_shape=(4,)), ids), answers(module, ids), dtype, terms=60)


class Output(torch.nn.Module):
    """A recurrent module without the states that it returns beside its output."""

    def __init__(self, module: Any):
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module(x)[0]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers(kind: str, dtype: str, bias: bool) -> None:
    t, x = torch.nn, rows((6, 3), dtype)
    first = getattr(t, kind)(3, 4, batch_first=True, bias=bias)
    module = drawn(t.Sequential(Output(first), t.Tanh(), Output(getattr(t, kind)(4, 2, batch_first=True))), dtype)
    make = getattr(nn, kind)
    net = nn.load_torch(module, [make(3, 4), nn.Tanh(), make(4, 2)])
    assert_close(net.predict(x), answers(module, x), dtype, terms=100)
    there = net.to_torch()
    assert_close(answers(there, x), answers(module, x), dtype, terms=100)
    assert set(there.state_dict()) >= {"0.weight_ih_l0", "0.bias_hh_l0", "2.weight_hh_l0"}
    state = module.state_dict()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert torch.equal(there.state_dict()[f"0.{name}"], state[f"0.module.{name}"])
    last = nn.Network([make(3, 4), nn.LastStep(), nn.Affine(4, 2)], dtype=dtype)
    assert_close(answers(last.to_torch(), x), to_numpy(last.predict(x)), dtype, terms=100)


class SelfAttention(torch.nn.MultiheadAttention):
    """PyTorch's module with one input and one output."""

    def forward(self, x: Any) -> Any:
        return super().forward(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_attention(dtype: str, bias: bool) -> None:
    t, ids = torch.nn, np.random.default_rng(4).integers(0, 9, (5, 7))
    own = SelfAttention(6, 3, bias=bias, batch_first=True)
    module = drawn(t.Sequential(t.Embedding(9, 6), own, t.Flatten(), t.Linear(42, 2)), dtype)
    layers = [nn.Embedding(9, 6), nn.MultiHeadAttention(6, 3), nn.Flatten(), nn.Affine(42, 2)]
    net = nn.load_torch(module, layers)
    assert_close(net.predict(ids), answers(module, ids), dtype, terms=300)
    there = net.to_torch()
    assert_close(answers(there, ids), answers(module, ids), dtype, terms=300)
    for name in ("in_proj_weight", "out_proj.weight"):
        assert torch.equal(there.state_dict()[f"1.{name}"], module.state_dict()[f"1.{name}"])


@pytest.mark.parametrize("learned", [True, False])
def test_positions_and_a_causal_mask(learned: bool) -> None:
    ids = np.random.default_rng(4).integers(0, 9, (5, 7))
    layers = [nn.Embedding(9, 6), nn.PositionalEncoding(6, 8, learned), nn.MultiHeadAttention(6, 2, causal=True)]
    net = nn.Network(layers, nn.MeanSquaredError(), seed=2)
    module = net.to_torch()
    assert_close(answers(module, ids), to_numpy(net.predict(ids)), "float32", terms=100)
    again = [nn.Embedding(9, 6), nn.PositionalEncoding(6, 8, learned), nn.MultiHeadAttention(6, 2, causal=True)]
    assert to_numpy(nn.load_torch(module, again).buffer.data).tolist() == to_numpy(net.buffer.data).tolist()


def test_recurrent_modules_of_several_layers_are_named() -> None:
    for module, key in (
        (torch.nn.LSTM(3, 4, num_layers=2), "bias_hh_l1"),
        (torch.nn.GRU(3, 4, bidirectional=True), "bia"),
    ):
        kind = getattr(nn, type(module).__name__)
        with pytest.raises(ValueError, match=f"takes weight_ih_l0, weight_hh_l0, .*, but source has '{key}"):
            nn.load_torch(module, [kind(3, 4)])
    with pytest.raises(ValueError, match=r"'weight_ih_l0' has shape \(16, 3\), expected \(20, 3\)"):
        nn.load_torch(torch.nn.LSTM(3, 4).state_dict(), [nn.LSTM(3, 5)])


class Block(torch.nn.Module):
    """A block of a residual network, as torchvision orders its parts."""

    def __init__(self) -> None:
        super().__init__()
        t = torch.nn
        self.conv1, self.bn1 = t.Conv2d(2, 4, 3, 2, 1, bias=False), t.BatchNorm2d(4)
        self.conv2, self.bn2 = t.Conv2d(4, 4, 3, 1, 1, bias=False), t.BatchNorm2d(4)
        self.downsample = t.Sequential(t.Conv2d(2, 4, 1, 2, bias=False), t.BatchNorm2d(4))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


def block() -> list[nn.Layer]:
    f = [nn.Convolution(2, 4, 3, 2, 1), nn.BatchNormalization(4), nn.ReLU()]
    f += [nn.Convolution(4, 4, 3, 1, 1), nn.BatchNormalization(4)]
    return [nn.Residual(f, [nn.Convolution(2, 4, 1, 2), nn.BatchNormalization(4)]), nn.ReLU()]


def test_a_residual_network_from_there_and_back() -> None:
    module = drawn(torch.nn.Sequential(Block(), torch.nn.Flatten(), torch.nn.Linear(48, 3)), "float64")
    net = nn.load_torch(module, [*block(), nn.Flatten(), nn.Affine(48, 3)])
    x = rows((2, 5, 8), "float64")
    assert_close(net.predict(ours(x)), answers(module, x), "float64", terms=100)
    there = net.to_torch()
    assert_close(answers(there, x), answers(module, x), "float64", terms=100)
    content = io.BytesIO()
    torch.save(there, content)
    content.seek(0)
    assert_close(answers(torch.load(content, weights_only=False), x), answers(module, x), "float64", terms=100)


def test_a_layer_that_is_used_twice_is_one_module() -> None:
    shared = nn.Affine(3, 3)
    net = nn.Network([shared, nn.Tanh(), nn.Residual([shared])], dtype="float64")
    module, x = net.to_torch(), rows((3,), "float64")
    assert len(list(module.parameters())) == 2
    assert_close(answers(module, x), net.predict(x), "float64", terms=9)


def test_a_layer_that_is_used_twice_comes_back_from_its_file(tmp_path: Path) -> None:
    def layers() -> list[nn.Layer]:
        shared = nn.Affine(3, 3)
        return [shared, nn.Tanh(), nn.Affine(3, 3), nn.Residual([shared])]

    net, file = nn.Network(layers(), dtype="float64"), tmp_path / "net.pt"
    torch.save(net.to_torch().state_dict(), file)
    again = nn.load_torch(file, layers())
    assert to_numpy(again.buffer.data).tolist() == to_numpy(net.buffer.data).tolist()
    state = torch.load(file)
    state["3.stack1.0.weight"] = state["3.stack1.0.weight"] + 1.0
    with pytest.raises(ValueError, match=r"use of Affine1, but source has other values for '3.stack1.0' than for '0'"):
        nn.load_torch(state, layers())


def test_features_of_images_that_leave_the_network_are_refused() -> None:
    net = nn.Network([nn.Convolution(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Tanh()])
    for shape in (None, (3, 4, 1)):
        with pytest.raises(TypeError, match="ends with the features of a flattened image, which PyTorch orders in ano"):
            net.to_torch(input_shape=shape)
    with pytest.raises(TypeError, match="ends with the features of a flattened image"):
        nn.Network([nn.MaxPooling(2), nn.Flatten()]).to_torch()
    one_pixel, one_channel = rows((1, 2, 2), "float32"), rows((1, 4, 3), "float32")
    assert_close(answers(net.to_torch(input_shape=(2, 2, 1)), one_pixel), net.predict(ours(one_pixel)), "float32", 4)
    net = nn.Network([nn.Convolution(1, 1, 2), nn.Flatten()])
    assert_close(answers(net.to_torch(), one_channel), net.predict(ours(one_channel)), "float32", 4)


@pytest.mark.parametrize(("shape", "message"), [
    (5, r"input_shape must hold positive integers, such as \(28, 28, 1\), got 5"),
    ((3, 3), r"input_shape: the network takes rows of shape \(None, None, 1\), got \(3, 3\)"),
    ((9, 9, 1), r"Affine1 takes rows of shape \(8,\), but what comes before gives \(128,\)"),
])  # fmt: skip
def test_an_input_shape_that_does_not_fit(shape: Any, message: str) -> None:
    def layers() -> list[nn.Layer]:
        return [nn.Convolution(1, 2, 2), nn.Flatten(), nn.Affine(8, 2)]

    with pytest.raises(ValueError, match=message):
        nn.Network(layers()).to_torch(input_shape=shape)
    with pytest.raises(ValueError, match=message):
        nn.load_torch(nn.Network(layers()).to_torch(), layers(), input_shape=shape)


def test_features_of_images_that_a_residual_passes_on_are_refused() -> None:
    net = nn.Network([nn.Convolution(1, 2, 2), nn.Flatten(), nn.Residual([nn.Affine(18, 18)]), nn.Affine(18, 2)])
    with pytest.raises(TypeError, match="Residual1: PyTorch orders the features of a flattened image in another way"):
        net.to_torch()


def test_training_goes_on_in_torch_as_here() -> None:
    """The momentum of running statistics has another meaning there."""
    net = nn.Network([nn.Affine(3, 4), nn.BatchNormalization(4, momentum=0.7)], dtype="float64")
    module, x = net.to_torch().train(), rows((3,), "float64", 8)
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    assert_close(net.forward(x, training=True), expected, "float64", terms=9)
    for name in ("running_mean", "running_var"):
        assert_close(net.statistics[f"{name}1"], getattr(module[1], name).numpy(), "float64", terms=9)


def test_half_precision_becomes_float32() -> None:
    state = {key: value.bfloat16() for key, value in perceptron().state_dict().items()}
    net = nn.load_torch(state, perceptron_layers())
    assert net.dtype == "float32"
    assert to_numpy(net.params["W1"]).T.tolist() == state["0.weight"].float().tolist()


# --- what differs, and what does not fit ------------------------------------------------------------------------


def test_an_exact_gelu_is_named_as_a_difference() -> None:
    module = drawn(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU()))
    with pytest.warns(UserWarning, match="its GELU is exact; here it is in the tanh form, .* less than 5e-4"):
        net = nn.load_torch(module, [nn.Affine(3, 4), nn.GELU()])
    x = rows((3,), "float32")
    assert np.max(np.abs(net.predict(x) - answers(module, x))) < 5e-4
    nn.load_torch(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU("tanh")), [nn.Affine(3, 4), nn.GELU()])


def test_an_eps_that_differs_is_named() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, eps=1e-3))
    with pytest.raises(ValueError, match=r"BatchNormalization1: eps is 1e-05, but 0\.001 in PyTorch"):
        nn.load_torch(module, [nn.Affine(3, 4), nn.BatchNormalization(4)])
    nn.load_torch(module, [nn.Affine(3, 4), nn.BatchNormalization(4, eps=1e-3)])


def test_a_flatten_of_unknown_channels_asks_for_the_shape() -> None:
    module = drawn(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 2)))
    with pytest.raises(ValueError, match=r"Affine1: Flatten1 comes before any layer .*pass input_shape=\(h, w, c\)"):
        nn.load_torch(module, [nn.Flatten(), nn.Affine(24, 2)])
    x = rows((2, 3, 4), "float32")
    net = nn.load_torch(module, [nn.Flatten(), nn.Affine(24, 2)], input_shape=(3, 4, 2))
    assert_close(net.predict(ours(x)), answers(module, x), "float32", terms=24)


def states(**changes: Any) -> dict[str, Any]:
    state = {"fc.weight": torch.zeros(4, 3), "fc.bias": torch.zeros(4), "norm.weight": torch.zeros(4),
             "norm.bias": torch.zeros(4), "norm.running_mean": torch.zeros(4), "norm.running_var": torch.zeros(4),
             "norm.num_batches_tracked": torch.tensor(3)}  # fmt: skip
    state |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


class Scale(nn.Layer):
    def __init__(self) -> None:
        self.scale = nn.Parameter((1,), nn.Constant(1.0))


@pytest.mark.parametrize(("source", "error", "message"), [
    (states(fc__weight=torch.zeros(3, 4)), ValueError, "Affine1: 'fc.weight' has shape (3, 4), expected (4, 3)"),
    (states(norm__bias=torch.zeros(5)), ValueError, "BatchNormalization1: 'norm.bias' has shape (5,), expected (4,)"),
    (states(fc__weight=None), ValueError, "Affine1: source has no 'fc.weight'"),
    (states(norm__running_var=None), ValueError, "BatchNormalization1: source has no 'norm.running_var'"),
    (states(fc__in_proj_weight=torch.zeros(3)), ValueError, "Affine1 takes weight, bias, but source has 'fc.in_proj_w"),
    (states(last__weight=torch.zeros(3)), ValueError, "3 modules (fc, norm, last), but 2 layers have parameters (Aff"),
    ({"model": states(), "epoch": 3}, TypeError, "'model' is a OrderedDict: pass what is under 'model'"),
    (3, TypeError, "source: expected a state dict, a module or a file of a state dict, got a int"),
])  # fmt: skip
def test_what_does_not_fit_names_layer_and_key(source: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message).replace("OrderedDict", "(OrderedD|d)ict")):
        nn.load_torch(source, [nn.Affine(3, 4), nn.BatchNormalization(4)])


@pytest.mark.parametrize("use", [
    lambda: nn.load_torch({"0.scale": np.zeros(1)}, [Scale()]),
    lambda: nn.Network([Scale()]).to_torch(),
])  # fmt: skip
def test_a_layer_that_torch_does_not_have(use: Any) -> None:
    with pytest.raises(TypeError, match=r"Scale1: PyTorch has no module for the parameters of a Scale"):
        use()


def test_layers_without_parameters_that_torch_does_not_have() -> None:
    class Twice(nn.ReLU):
        def forward(self, x: Any, training: bool = False) -> Any:
            return 2.0 * x

    with pytest.raises(TypeError, match="Twice1 cannot be written to PyTorch: it has no module for that"):
        nn.Network([nn.Affine(2, 2), Twice()]).to_torch()
    with pytest.raises(TypeError, match="LayerNormalization1 cannot be written to PyTorch"):
        nn.Network([nn.Convolution(2, 2, 1), nn.LayerNormalization(2)]).to_torch()


class Evil:
    def __reduce__(self) -> Any:
        return (sys.exit, (7,))


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    with pytest.raises(nn.ModelFileError, match=re.escape(f"{file}: there is no such file")):
        nn.load_torch(file, [nn.Affine(3, 4)])
    file.write_bytes(b"no zip")
    with pytest.raises(nn.ModelFileError, match=re.escape(f"{file}: PyTorch reads no weights from it")):
        nn.load_torch(file, [nn.Affine(3, 4)])
    torch.save({"weight": Evil()}, file)
    with pytest.raises(nn.ModelFileError, match=re.escape(f"{file}: PyTorch reads no weights from it")):
        nn.load_torch(file, [nn.Affine(3, 4)])
    torch.save([1, 2], file)
    with pytest.raises(nn.ModelFileError, match=re.escape(f"{file}: expected a state dict")):
        nn.load_torch(str(file), [nn.Affine(3, 4)])


def test_without_torch_the_extra_is_named(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for use in (lambda: nn.load_torch(tmp_path / "net.pt", [nn.Affine(3, 4)]), nn.Network([nn.Affine(3, 4)]).to_torch):
        with pytest.raises(ImportError, match=re.escape('pip install "nnbackend[torch]"')):
            use()
    state = {"weight": np.ones((4, 3)), "bias": np.zeros(4)}  # arrays need no PyTorch
    assert to_numpy(nn.load_torch(state, [nn.Affine(3, 4)]).params["W1"]).sum() == 12.0
