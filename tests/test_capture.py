"""Captured training steps: they train as uncaptured ones do, and what cannot be captured says so.

On a stand-in for the device everywhere, and on a GPU where there is one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cuda_standin as standin
import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backend import to_numpy, why_not
from nnbackend.capture import Captured, Uncaptured, enter, feed, note
from nnbackend.functions.array import array_namespace
from nnbackend.optimizers import OPTIMIZERS, optimizer
from nnbackend.schedules import Cosine

RNG = np.random.default_rng(7)
N, BATCH = 70, 16  # four whole batches and a rest
X, T = RNG.standard_normal((N, 6)), RNG.integers(0, 3, N)
WEIGHT = RNG.random(N)
CAPTURE = "NNBACKEND_CAPTURE"


@pytest.fixture(params=["stand-in", "cupy"])
def gpu(request: pytest.FixtureRequest) -> Iterator[nn.Backend]:
    if request.param == "stand-in":
        with standin.installed(), nn.using("cupy") as backend:
            yield backend
        return
    cause = why_not("cupy")
    if cause is not None and os.environ.get("NNBACKEND_TEST_GPU"):
        pytest.fail(f"NNBACKEND_TEST_GPU is set, but {cause}")
    if cause is not None:
        pytest.skip(f"GPU: cupy: {cause}")
    with nn.using("cupy") as backend:
        yield backend


@pytest.fixture
def machine() -> Iterator[standin.Machine]:
    with standin.installed() as machine, nn.using("cupy"):
        yield machine


def layers() -> list[nn.Layer]:
    return [nn.Affine(6, 8), nn.BatchNormalization(8), nn.ReLU(), nn.Dropout(0.3), nn.Affine(8, 3)]


def train(
    *,
    stack: Callable[[], list[nn.Layer]] = layers,
    optimizer: nn.Optimizer | None = None,
    x: np.ndarray = X,
    t: np.ndarray = T,
    loss: nn.Loss | None = None,
    epochs: int = 3,
    dtype: str = "float64",
    fit: dict[str, Any] | None = None,
    **settings: Any,
) -> nn.Trainer:
    network = nn.Network(stack(), loss, seed=1, dtype=dtype)
    trainer = nn.Trainer(network, optimizer or nn.Adam(0.01), batch_size=BATCH, **settings)
    trainer.fit(x, t, epochs, **(fit or {}))
    return trainer


def assert_same(one: nn.Trainer, other: nn.Trainer, tolerance: float = 1e-9) -> None:
    """The products are other library calls on either side: sums in another order."""
    for name in ("data", "state", "clock"):
        a, b = (to_numpy(getattr(trainer.network.buffer, name)) for trainer in (one, other))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(getattr(one.history, name), getattr(other.history, name), rtol=tolerance)
    assert one.state.keys() == other.state.keys()
    assert one.state["t"] == other.state["t"]
    assert isinstance(one.state["t"], int)
    for name in one.state.keys() - {"t"}:
        np.testing.assert_allclose(to_numpy(one.state[name]), to_numpy(other.state[name]), rtol=0, atol=tolerance)


CASES: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": optimizer(name, lr=0.01)} for name in OPTIMIZERS if name != "adagrad"},
    # an eps above the rounding of gradients that are 0 but for it, such as those of a bias before a normalisation
    "adagrad": {"optimizer": nn.AdaGrad(0.01, eps=1e-6)},
    "schedule": {"optimizer": nn.Adam(Cosine(0.05, 10))},
    "decay": {"optimizer": nn.Momentum(0.05, weight_decay=0.1)},
    "accumulate": {"accumulate": 2},
    "clipping": {"clip_norm": 0.1},
    "images": {
        "stack": lambda: [
            *[nn.Convolution(1, 3, 2, padding=1), nn.ReLU(), nn.MaxPooling(2)],
            *[nn.Convolution(3, 2, (2, 1)), nn.Tanh(), nn.AveragePooling(1), nn.Flatten(), nn.Affine(2, 3)],
        ],
        "x": RNG.standard_normal((N, 3, 2, 1)),
    },
    "weights": {"fit": {"sample_weight": WEIGHT}},
    "settings of the loss": {"loss": nn.SoftmaxWithLoss(class_weight=[1.0, 2.0, 0.5], label_smoothing=0.1)},
    "one-hot": {"t": np.eye(3)[T]},
    "numbers": {"t": RNG.standard_normal((N, 3)), "loss": nn.MeanSquaredError()},
    "several labels": {"t": (RNG.random((N, 3)) < 0.5).astype(float), "loss": nn.SigmoidWithLoss()},
    "layer normalisation": {"stack": lambda: [nn.Affine(6, 8), nn.LayerNormalization(8), nn.GELU(), nn.Affine(8, 3)]},
    "activations": {"stack": lambda: [nn.Affine(6, 8), nn.ELU(), nn.Affine(8, 8), nn.SiLU(), nn.Affine(8, 3)]},
}


@pytest.mark.parametrize("case", CASES)
def test_a_captured_run_is_the_uncaptured_one(gpu: nn.Backend, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = train(**CASES[case])
    monkeypatch.setenv(CAPTURE, "0")
    uncaptured = train(**CASES[case])
    assert_same(captured, uncaptured)
    monkeypatch.undo()
    with nn.using("numpy"):
        assert_same(captured, train(**CASES[case]), 1e-7)


def test_float32_and_the_choice_of_precision(gpu: nn.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {}
    for precision in ("float32", "tf32", "bfloat16"):
        monkeypatch.setenv("NNBACKEND_PRECISION", precision)
        monkeypatch.setenv("CUPY_TF32", "0")  # put back afterwards
        with nn.using("cupy"):
            losses[precision] = train(dtype="float32").history.loss
    monkeypatch.setenv("NNBACKEND_PRECISION", "float32")
    with nn.using("cupy"):
        np.testing.assert_allclose(losses["tf32"], losses["float32"], rtol=1e-2)
        np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=5e-2)
    monkeypatch.setenv("NNBACKEND_PRECISION", "float16")
    with pytest.raises(nn.BackendError, match="NNBACKEND_PRECISION: .*bfloat16"):
        nn.use("cupy")


def test_whole_batches_are_launched_as_graphs_and_the_rest_is_not(machine: standin.Machine) -> None:
    train(epochs=3)
    assert machine.counts["graph launches"] == 1 + 3 * (N // BATCH)  # one to see that the graph is right


def test_the_host_waits_once_an_epoch_however_many_steps_there_are(machine: standin.Machine) -> None:
    waits = []
    for epochs in (1, 2, 3):
        machine.counts.clear()
        train(epochs=epochs)
        waits.append(machine.counts["waits"])
    per_epoch = waits[1] - waits[0]
    assert waits[2] - waits[1] == per_epoch == 2  # the figures, and whether the values are finite: one after the other
    machine.counts.clear()
    network = nn.Network(layers(), seed=1)
    nn.Trainer(network, nn.Adam(), batch_size=BATCH).fit(np.tile(X, (5, 1)), np.tile(T, 5), 1)
    assert machine.counts["waits"] == waits[0]


def test_numpy_runs_the_step_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with nn.using("numpy") as backend:
        assert type(backend.compile(print, None)) is Uncaptured
    with standin.installed(), nn.using("cupy") as backend:
        assert type(backend.compile(print, None)) is Captured
        monkeypatch.setenv(CAPTURE, "0")
        assert type(backend.compile(print, None)) is Uncaptured


class Reads(nn.Layer):
    """Reads the device in every pass."""

    def forward(self, x: Any, training: bool = False) -> Any:
        return x * (1.0 + 0.0 * float(array_namespace(x).sum(x)))

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy


class Multiplies(Reads):
    """Multiplies with an operator, and not by way of a kernel of ours."""

    def forward(self, x: Any, training: bool = False) -> Any:
        xp = array_namespace(x)
        return x @ xp.eye(x.shape[1], dtype=x.dtype, device=x.device)


class Draws(Reads):
    """Draws on the host in every pass: a graph would repeat the first draw for ever."""

    def forward(self, x: Any, training: bool = False) -> Any:
        self._generator = getattr(self, "_generator", None) or np.random.default_rng(0)
        return x * float(self._generator.random())

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return dy


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        (Reads, "could not be captured .*capturing"),
        (Multiplies, "could not be captured .*NotImplementedError"),
        (Draws, "did not compute what the step computes"),
    ],
)
def test_what_cannot_be_captured_runs_uncaptured_and_says_why(
    machine: standin.Machine, layer: type[nn.Layer], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stack() -> list[nn.Layer]:
        return [nn.Affine(6, 8), nn.Tanh(), layer(), nn.Affine(8, 3)]

    with pytest.warns(UserWarning, match=f"without a CUDA graph, more slowly: .*{cause}") as warned:
        captured = train(stack=stack)
    assert len(warned) == 1
    if layer is not Draws:
        monkeypatch.setenv(CAPTURE, "0")
        assert_same(captured, train(stack=stack))


def test_a_learning_rate_changed_between_epochs_needs_no_new_graph(
    gpu: nn.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve(trainer: nn.Trainer) -> None:
        trainer.optimizer = replace(trainer.optimizer, lr=trainer.optimizer.lr / 2)

    standin.MACHINE.counts.clear()
    captured = train(fit={"callbacks": [halve]})
    if isinstance(captured.network.buffer.data, standin.ndarray):
        assert standin.MACHINE.counts["graph launches"] == 1 + 3 * (N // BATCH)
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(fit={"callbacks": [halve]}))


def test_another_setting_makes_a_new_graph(machine: standin.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def sharpen(trainer: nn.Trainer) -> None:
        trainer.optimizer = replace(trainer.optimizer, beta1=0.8)

    captured = train(fit={"callbacks": [sharpen]})
    assert machine.counts["graph launches"] == 2 + 3 * (N // BATCH)
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(fit={"callbacks": [sharpen]}))


def test_fit_goes_on_where_it_was_cut_short(gpu: nn.Backend) -> None:
    whole, cut = train(), train(epochs=1)
    cut.fit(X, T, 2)
    assert_same(whole, cut)
    resumed = train(epochs=1)
    resumed.fit(X, T, 1)
    resumed.fit(X, T, 1)
    assert_same(whole, resumed)


def test_a_loss_that_is_not_finite_is_found(gpu: nn.Backend) -> None:
    with pytest.raises(nn.NumericalError, match="epoch 1, step"):
        train(optimizer=nn.SGD(1e200), stack=lambda: [nn.Affine(6, 8), nn.ReLU(), nn.Affine(8, 3)])


def test_memory_comes_back_when_the_fit_is_over(machine: standin.Machine) -> None:
    trainer = train()
    standin.POOL.free_all_blocks()
    held = machine.held
    trainer.fit(X, T, 2)
    standin.POOL.free_all_blocks()
    assert machine.held < held + 2**20  # the workspace alone is 32 MiB


# --- the two ends of a graph ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("correct", ["int64", None])
def test_enter(on: Namespace, dtype: str, correct: str | None) -> None:
    figures = on.backend.zeros((4, 3), dtype)
    enter(figures[:, 1], on.array(0.5, dtype), on.array(7, correct or dtype))
    enter(figures[:2, 2], on.array(1.5, dtype), on.array(9, correct or dtype))
    assert to_numpy(figures).tolist() == [[0, 0.5, 1.5], [0, 7, 9], [0, 0, 0], [0, 0, 0]]


def test_feed_and_note(on: Namespace) -> None:
    order, at = on.array(np.arange(20)[::-1], "int64"), on.backend.asarray([2], "int64")
    rows, figures = on.backend.zeros((6,), "int64"), on.backend.zeros((2, 3), "float32")
    feed(rows, order, at)
    note(figures, on.array([5.0, 7.0], "float32"), at)
    assert to_numpy(rows).tolist() == [7, 6, 5, 4, 3, 2]
    assert to_numpy(figures).tolist() == [[0, 0, 5], [0, 0, 7]]
    assert to_numpy(at).tolist() == [3]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_is_reported_where_there_is_a_pool(gpu: nn.Backend) -> None:
    report = gpu.memory()
    assert report is not None
    keep = gpu.zeros((2**20,), "float32")
    after = gpu.memory()
    assert after is not None
    assert after["used"] >= report["used"] + keep.nbytes
    assert after["held"] >= after["used"]
    assert 0 < after["available"] <= after["total"]
    with nn.using("numpy") as numpy:
        assert numpy.memory() is None


def test_a_batch_that_is_too_large_is_told_one_that_fits(machine: standin.Machine) -> None:
    def trainer(batch_size: int, accumulate: int = 1) -> nn.Trainer:
        network = nn.Network([nn.Affine(6, 3000), nn.ReLU(), nn.Affine(3000, 3)], seed=1)
        return nn.Trainer(network, nn.SGD(), batch_size=batch_size, accumulate=accumulate)

    x, t = np.tile(X, (8, 1)), np.tile(T, 8)
    standin.POOL.free_all_blocks()
    before, machine.capacity = machine.capacity, machine.held + 6 * 2**20
    try:
        message = r"a batch of 512 rows does not fit the memory.* batch_size=(\d+) does.* accumulate=(\d+)"
        text = ""
        try:  # pytest.raises would keep the traceback, and the traceback the memory
            trainer(512).fit(x, t)
        except MemoryError as error:
            text = str(error)
        found = re.search(message, text)
        assert found is not None, text
        size, accumulate = int(found[1]), int(found[2])
        assert size * accumulate == 512
        with pytest.warns(UserWarning, match="Out of memory allocating"):  # cuBLAS's workspace alone is more
            trainer(size, accumulate).fit(x, t)
    finally:
        machine.capacity = before
