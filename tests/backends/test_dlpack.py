"""Arrays of other libraries, shared through DLPack where they live on the network's device, and refused where not."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from support import Namespace, assert_close

import nnbackend as nn

# for each library its name, and how its arrays are made of NumPy's
LIBRARIES: dict[str, Callable[[Any, np.ndarray], Any]] = {
    "torch": lambda library, x: library.tensor(x),
    "array_api_strict": lambda library, x: library.asarray(x),
    **({"jax.numpy": lambda library, x: library.asarray(x)} if find_spec("jax") else {}),
}
# JAX has float32 alone, unless told otherwise
PAIRS = [
    (name, dtype) for name in LIBRARIES for dtype in ("float32", "float64") if (name, dtype[5:]) != ("jax.numpy", "64")
]
HOSTS = ("numpy", "torch", "array_api_strict")


def made(name: str, host: np.ndarray) -> Any:
    return LIBRARIES[name](pytest.importorskip(name, reason=f"{name} is not installed"), host)


def data(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((12, 3)).astype(dtype), rng.integers(0, 2, 12), rng.uniform(0.5, 2, 12).astype(dtype)


@pytest.mark.parametrize(("library", "dtype"), PAIRS)
@pytest.mark.parametrize("backend", HOSTS)
def test_a_network_takes_arrays_of_another_library(library: str, backend: str, dtype: str) -> None:
    if nn.backends.why_not(backend):
        pytest.skip(f"{backend} is not installed")
    with nn.using(backend):
        here, there = (nn.Network([nn.Affine(3, 4), nn.Tanh(), nn.Affine(4, 2)], seed=1, dtype=dtype) for _ in "ab")
    host = data(dtype)
    foreign = [made(library, a) for a in host]
    assert_close(there.predict(foreign[0]), here.predict(host[0]), dtype)
    assert there.loss(*foreign) == here.loss(*host)
    assert there.accuracy(*foreign) == here.accuracy(*host)
    for net, (x, t, weight) in ((here, host), (there, foreign)):
        nn.Trainer(net, nn.SGD(0.1), batch_size=4).fit(x, t, 2, sample_weight=weight, validation=(x, t))
    assert nn.to_numpy(here.buffer.data).tobytes() == nn.to_numpy(there.buffer.data).tobytes()
    for array, before in zip(foreign, host, strict=True):  # whose memory it is has not changed
        assert np.array_equal(np.asarray(array), before)


def test_no_copy_is_made() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, numpy = torch.zeros(4, 3), nn.backends.resolve("numpy")
    assert numpy.asarray(x, "float32").__array_interface__["data"][0] == x.data_ptr()
    back = nn.backends.resolve("torch").asarray(nn.backends.resolve("array_api_strict").asarray([[1.0]], "float32"))
    assert isinstance(back, torch.Tensor)


def test_strides_and_empty_arrays() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, numpy = torch.arange(24.0).reshape(4, 6), nn.backends.resolve("numpy")
    assert numpy.asarray(x.T[::2]).tolist() == x.T[::2].tolist()
    assert numpy.asarray(x[:0]).shape == (0, 6)


@pytest.mark.parametrize(("make", "message"), [
    (lambda torch: torch.zeros(4, 3, requires_grad=True), "x: got a torch array on cpu, which DLPack does not share "
                                                          "with 'numpy': Can't export tensors that require gradient"),
    (lambda torch: torch.zeros(4, 3, dtype=torch.bfloat16), "x: got a torch array on cpu, which DLPack does not share"),
    (lambda torch: torch.zeros(4, 3, device="meta"), "x: got a torch array on meta, "),
])  # fmt: skip
def test_what_cannot_be_shared_says_why(make: Any, message: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(nn.BackendError, match=re.escape(message)):
        nn.Network([nn.Affine(3, 2)]).predict(make(torch))


def test_tensors_with_what_a_network_does_not_compute_with() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = nn.Network([nn.Affine(3, 2)], backend="torch")
    x, t = torch.zeros(6, 3, requires_grad=True) * 2.0, np.arange(6) % 2
    assert not net.predict(x).requires_grad
    assert not net.predict(torch.nn.Parameter(torch.zeros(6, 3))).requires_grad
    nn.Trainer(net, nn.SGD(0.1), batch_size=3).fit(x, t, 1)  # its graph must not reach the parameters
    assert not net.buffer.data.requires_grad
    with pytest.raises(ValueError, match=r"x: expected a dense tensor, got one of layout torch.sparse_coo: pass"):
        net.predict(torch.ones(6, 3).to_sparse())
    for on in ("torch", "numpy"):
        with pytest.raises(ValueError, match="x: expected an array of real numbers, got dtype .*complex64"):
            net.to(on).predict(torch.ones(6, 3, dtype=torch.complex64))


def test_values_that_numpy_has_no_dtype_for() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.tensor([1.5, -2.0])
    assert nn.to_numpy(x.bfloat16()).tolist() == [1.5, -2.0]
    assert nn.to_numpy(x.half()).dtype == np.float16
    assert nn.to_numpy(torch.complex(x, x).conj()).tolist() == [1.5 - 1.5j, -2.0 + 2.0j]


def test_an_array_on_another_device_is_refused(on: Namespace) -> None:
    if on.backend.host:
        pytest.skip("a device is needed")
    x = on.array(np.zeros((4, 3)), "float32")
    if on.backend.name == "torch":
        pytest.skip("it lives on the host")
    with pytest.raises(nn.BackendError, match="x: got a .* but this backend is 'numpy'. Move it first"):
        nn.Network([nn.Affine(3, 2)], backend="numpy").predict(x)
    net = nn.Network([nn.Affine(3, 2)])
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(nn.BackendError, match=r"x: got a torch array on cpu, but this backend is '.*'. Move it first"):
        net.predict(torch.zeros(4, 3))
