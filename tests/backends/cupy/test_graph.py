"""Captured training steps: they train as uncaptured ones do, and what cannot be captured says so.

On a stand-in for the device everywhere, and on a GPU where there is one.
"""

from __future__ import annotations

import gc
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cuda_standin as standin
import numpy as np
import pytest

import nnbackend as nn
from nnbackend.backends import to_numpy, why_not
from nnbackend.backends.cupy.graph import WORKSPACE, Captured, Uncaptured, _Workshop
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


def plain() -> list[nn.Layer]:
    return [nn.Affine(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Affine(8, 3)]


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
    state, expected = one.state.optimizer, other.state.optimizer
    assert state.keys() == expected.keys()
    assert state["t"] == expected["t"]
    assert isinstance(state["t"], int)
    for name in state.keys() - {"t"}:
        np.testing.assert_allclose(to_numpy(state[name]), to_numpy(expected[name]), rtol=0, atol=tolerance)


SEQUENCES, LABELS = np.random.default_rng(5).standard_normal((N, 4, 6)), np.arange(4 * N).reshape(N, 4) % 4


def sequential() -> list[nn.Layer]:
    return [nn.Affine(6, 5), nn.LayerNormalization(5), nn.ReLU(), nn.Dropout(0.2), nn.Affine(5, 3)]


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
    "augmentation": {
        "stack": lambda: [
            *[nn.RandomAffine(), nn.RandomElastic(0.5, 2.0), nn.RandomFlip(), nn.GaussianNoise()],
            *[nn.Convolution(1, 3, 2), nn.Flatten(), nn.Affine(18, 3)],
        ],
        "x": RNG.standard_normal((N, 3, 4, 1)),
    },
    "weights": {"fit": {"sample_weight": WEIGHT}},
    "settings of the loss": {"loss": nn.SoftmaxWithLoss(class_weight=[1.0, 2.0, 0.5], label_smoothing=0.1)},
    "one-hot": {"t": np.eye(3)[T]},
    "numbers": {"t": RNG.standard_normal((N, 3)), "loss": nn.MeanSquaredError()},
    "several labels": {"t": (RNG.random((N, 3)) < 0.5).astype(float), "loss": nn.SigmoidWithLoss()},
    "layer normalisation": {"stack": lambda: [nn.Affine(6, 8), nn.LayerNormalization(8), nn.GELU(), nn.Affine(8, 3)]},
    "sequences": {"stack": lambda: sequential(), "x": SEQUENCES, "t": LABELS % 3},
    "sequences with labels that are left out": {
        "stack": lambda: sequential(),
        "x": SEQUENCES,
        "t": LABELS - 1,
        "loss": nn.SoftmaxWithLoss([1.0, 2.0, 0.5], ignore_label=-1),
    },
    "nested layers": {
        "stack": lambda: [
            shared := nn.Affine(6, 6),
            nn.Residual(
                [nn.Dropout(0.2), shared, nn.BatchNormalization(6), nn.Tanh(), nn.Affine(6, 8)], nn.Affine(6, 8)
            ),
            nn.Parallel([[], [nn.Affine(8, 2), nn.ReLU()]], "concatenate"),
            nn.Affine(10, 3),
        ]
    },
    # more steps and branches than CuPy joins without a copy from the host
    **{
        layer.__name__: {
            "stack": lambda layer=layer: [layer(2, 4), layer(4, 3, stateful=BATCH), nn.LastStep(), nn.Affine(3, 3)],
            "x": RNG.standard_normal((N // BATCH * BATCH, 11, 2)),
            "t": T[: N // BATCH * BATCH],
        }
        for layer in (nn.RNN, nn.LSTM, nn.GRU)
    },
    "branches": {
        "stack": lambda: [nn.Parallel([[nn.Affine(6, 1 + k % 2)] for k in range(9)], "concatenate"), nn.Affine(13, 3)]
    },
    "ids": {
        "stack": lambda: [nn.Embedding(7, 4), nn.GRU(4, 3), nn.LastStep(), nn.Affine(3, 3)],
        "x": RNG.integers(0, 7, (N, 10)),
    },
    "average": {"average": 0.9},
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


class Twins(nn.Communicator):
    """Two processes of which the other always holds what this one holds."""

    size = 2

    def gather(self, value: Any) -> Any:
        return np.stack([to_numpy(value)] * 2)

    def add(self, sums: Any, out: Any, flags: Any) -> Any:
        metrics = sums.total(out)
        out *= 2.0
        return [2.0 * value for value in metrics], tuple(flags)


@pytest.mark.parametrize("accumulate", [4, 18])  # a batch has an update of the statistics, which are joined
def test_a_shared_step_is_captured_but_for_its_exchange(
    gpu: nn.Backend, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, t, weighted = np.tile(X, (5, 1)), np.tile(T, 5), {"sample_weight": np.tile(WEIGHT, 5)}
    stack = lambda: [nn.Affine(6, 8), nn.BatchNormalization(8), nn.ReLU(), nn.Dropout(0.2), nn.Affine(8, 3)]  # noqa: E731
    shared = {"stack": stack, "accumulate": accumulate, "clip_norm": 1.0, "x": x, "t": t, "fit": weighted}
    captured = train(communicator=Twins(), epochs=12, **shared)
    parts = captured._runner._graph._parts
    assert [outside is None for _, outside in parts] == [False, True]
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(communicator=Twins(), epochs=12, **shared))
    with nn.using("numpy"):
        assert_same(captured, train(communicator=Twins(), epochs=12, **shared), 1e-7)


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
    for epochs in (3, 4, 5):
        machine.counts.clear()
        train(epochs=epochs)
        waits.append(machine.counts["waits"])
    per_epoch = waits[1] - waits[0]
    assert waits[2] - waits[1] == per_epoch == 2  # the figures, and whether the values are finite: one after the other
    machine.counts.clear()
    network = nn.Network(layers(), seed=1)
    nn.Trainer(network, nn.Adam(), batch_size=BATCH).fit(np.tile(X, (5, 1)), np.tile(T, 5), 1)
    assert machine.counts["waits"] == waits[0] - 2 * per_epoch


def test_the_variable_decides_whether_a_step_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    with nn.using("array_api_strict") as backend:
        assert type(backend.compile(None)) is Uncaptured
    with standin.installed(), nn.using("cupy") as backend:
        assert type(backend.compile(None)) is Captured
        monkeypatch.setenv(CAPTURE, "0")
        assert type(backend.compile(None)) is Uncaptured


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

    captured = train(epochs=6, fit={"callbacks": [sharpen]})
    assert machine.counts["graph launches"] == 2 + 6 * (N // BATCH)
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(epochs=6, fit={"callbacks": [sharpen]}))


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
            trainer(size, accumulate).fit(x, t, 12)
    finally:
        machine.capacity = before


# --- what a graph holds, and what it leaves ---------------------------------------------------------------------------


def test_a_graph_writes_to_no_memory_of_others(machine: standin.Machine) -> None:
    mine: list[Any] = []

    def allocate(trainer: nn.Trainer) -> None:
        mine.extend(trainer.network.backend.asarray(np.full(4, 7.0)) for _ in range(6))

    train(epochs=4, fit={"callbacks": [allocate]})
    assert machine.counts["graph launches"] > 4
    assert all(to_numpy(array).tolist() == [7.0] * 4 for array in mine)


@pytest.mark.parametrize("case", CASES)
def test_every_address_of_a_graph_is_its_own_or_kept(machine: standin.Machine, case: str) -> None:
    """Whatever a graph touches is in the pool that it alone uses, reachable from it, or an argument of the fit."""
    settings = dict(CASES[case])
    x, t, fit = settings.pop("x", X), settings.pop("t", T), settings.pop("fit", {})
    network = nn.Network(settings.pop("stack", layers)(), settings.pop("loss", None), seed=1, dtype="float64")
    rule = settings.pop("optimizer", nn.Adam(0.01))
    trainer = nn.Trainer(network, rule, batch_size=BATCH, **settings)
    data = [a for a in trainer._checked(x, t, "x", fit.get("sample_weight")) if a is not None]
    trainer.fit(data[0], data[1], 8, **({"sample_weight": data[2]} if len(data) > 2 else {}))
    graph = trainer._runner._graph
    assert graph is not None
    pools = {id(a._block) for a in (trainer.state.metrics, *data)}
    kept = {id(a._block) for a in reachable(graph)}
    touched = [ref() for ref in graph._parts[0][0].touched.values()]
    assert len(touched) > 5
    assert all(block is not None and id(block) in kept | pools for block in touched)


def reachable(thing: Any) -> list[standin.ndarray]:
    """Every array that `thing` holds, however deep."""
    found, seen, todo = [], set(), [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | standin.Graph):
            continue
        seen.add(id(one))
        if isinstance(one, standin.ndarray):
            found.append(one)
        elif isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
        elif hasattr(one, "__dict__"):
            todo += vars(one).values()
    return found


def test_the_stand_in_sees_what_is_freed_under_a_graph(machine: standin.Machine) -> None:
    array, stream = nn.backend().zeros((3,), "float32"), standin.Stream()
    with stream, standin.using_allocator(standin.MemoryPool().malloc):
        stream.begin_capture()
        array += 1.0
        graph = stream.end_capture()
    graph.launch()
    assert to_numpy(array).tolist() == [1.0] * 3
    del array
    with pytest.raises(AssertionError, match="memory that was freed"):
        graph.launch()


def test_the_stand_in_leaks_what_a_dropped_pool_holds(machine: standin.Machine) -> None:
    before = machine.held
    pool = standin.MemoryPool()
    with standin.using_allocator(pool.malloc):
        arrays = [nn.backend().zeros((2**10,), "float32") for _ in range(3)]
    del arrays[1:]
    assert machine.held == before + 3 * 2**12
    pool.free_all_blocks()
    assert machine.held == before + 2**12
    del arrays, pool
    assert machine.held == before + 2**12  # one that was free in it when it was dropped
    machine.held = before


def held_after(machine: standin.Machine) -> int:
    standin.POOL.free_all_blocks()
    return machine.held


def test_memory_is_flat_over_many_fits(machine: standin.Machine) -> None:
    trainer = train()
    held = held_after(machine)
    for _ in range(50):
        trainer.fit(X, T, 3)
        assert held_after(machine) <= held
    assert machine.counts["graph launches"] > 50 * 12


def test_memory_is_flat_over_many_networks(machine: standin.Machine) -> None:
    train()
    held = held_after(machine)
    for _ in range(50):
        train()
        assert held_after(machine) <= held


def test_memory_is_flat_when_nothing_can_be_captured(machine: standin.Machine) -> None:
    held = 0
    for i in range(4):
        with pytest.warns(UserWarning, match="without a CUDA graph"):
            train(stack=lambda: [nn.Affine(6, 8), Reads(), nn.Affine(8, 3)])
        held = held or held_after(machine)
        assert held_after(machine) <= held, i


def test_two_trainers_have_a_workshop_each(machine: standin.Machine) -> None:
    one, other = train(), train(optimizer=nn.SGD(0.1))
    assert one._runner._graph._workshop is not other._runner._graph._workshop
    one.fit(X, T, 3)
    other.fit(X, T, 3)
    with nn.using("numpy"):
        for trainer, rule in ((one, nn.Adam(0.01)), (other, nn.SGD(0.1))):
            reference = train(optimizer=rule)
            reference.fit(X, T, 3)
            assert_same(trainer, reference, 1e-7)


# --- from fit to fit --------------------------------------------------------------------------------------------------


def test_a_graph_serves_the_next_fit_with_the_same_data(machine: standin.Machine) -> None:
    on = nn.backend()
    x, t = on.asarray(X), on.asarray(T)
    trainer = train(x=x, t=t)
    graph = trainer._runner._graph
    trainer.fit(x, t, 1)
    assert trainer._runner._graph is graph
    assert machine.counts["graph launches"] == 1 + 4 * (N // BATCH)
    trainer.fit(on.asarray(X + 1.0), t, 3)
    assert trainer._runner._graph is not graph


def test_a_few_batches_are_not_worth_a_graph(machine: standin.Machine) -> None:
    train(epochs=2)
    assert machine.counts["graph launches"] == 0
    train(epochs=3)
    assert machine.counts["graph launches"] > 0


def test_a_trainer_can_be_copied_without_its_graph(machine: standin.Machine) -> None:
    trainer = train()
    state = trainer.__getstate__()
    assert state["_runner"] is None
    assert trainer._runner is not None


CHANGES: dict[str, Callable[[nn.Trainer], None]] = {
    "clip_norm": lambda trainer: setattr(trainer, "clip_norm", 0.01),
    "a layer's setting": lambda trainer: setattr(trainer.network.layers["Dropout1"], "dropout_ratio", 0.9),
    "a loss's setting": lambda trainer: setattr(trainer.network.loss_layer, "label_smoothing", 0.3),
    "another loss": lambda trainer: setattr(trainer.network, "loss_layer", nn.SoftmaxWithLoss([1.0, 5.0, 0.1])),
    "momentum": lambda trainer: setattr(trainer.network.layers["BatchNormalization1"], "momentum", 0.1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_setting_that_a_callback_changes_is_heeded(
    gpu: nn.Backend, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(trainer: nn.Trainer) -> None:
        if trainer.epoch == 2:
            CHANGES[what](trainer)

    captured = train(epochs=6, fit={"callbacks": [change]})
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(epochs=6, fit={"callbacks": [change]}))


def test_a_loss_may_be_shared_by_networks_of_two_dtypes(gpu: nn.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> list[nn.Trainer]:
        loss = nn.SoftmaxWithLoss([1.0, 2.0, 0.5])
        networks = [nn.Network(plain(), loss, seed=1, dtype=dtype) for dtype in ("float64", "float32")]
        trainers = [nn.Trainer(network, nn.Adam(0.01), batch_size=BATCH) for network in networks]
        for _ in range(3):
            for trainer in trainers:
                trainer.fit(X, T, 4)
        return trainers

    captured = both()
    monkeypatch.setenv(CAPTURE, "0")
    for one, other, tolerance in zip(captured, both(), (1e-9, 1e-3), strict=True):
        assert_same(one, other, tolerance)


class Poisoned(nn.Layer):
    """Passes on what it gets, and a gradient that is not finite where an element of x is large."""

    def forward(self, x: Any, training: bool = False) -> Any:
        self._x = x
        return x

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        xp = array_namespace(dy)
        return xp.where(xp.max(self._x) > 50.0, dy / 0.0 * xp.ones_like(dy), dy)


def test_steps_that_are_undone_need_no_new_graph(gpu: nn.Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    x = X.copy()
    x[5] = 100.0  # one step of every epoch is poisoned
    settings: dict[str, Any] = {
        "stack": lambda: [nn.Affine(6, 8), Poisoned(), nn.Tanh(), nn.Affine(8, 3)],
        "x": x,
        "on_fault": "skip",
        "epochs": 5,
    }
    standin.MACHINE.counts.clear()
    captured = train(**settings)
    assert sum(captured.history.skipped) >= 5
    if isinstance(captured.network.buffer.data, standin.ndarray):
        assert standin.MACHINE.counts["graph launches"] == 1 + 5 * (N // BATCH)
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(**settings))


class Halved(nn.SGD):
    def step(self, p: Any, g: Any, state: dict[str, Any]) -> None:
        g *= 0.5
        super().step(p, g, state)


def test_an_optimizer_with_a_step_of_its_own_is_not_captured(
    machine: standin.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="Halved.step is one of its own"):
        captured = train(optimizer=Halved(0.1))
    monkeypatch.setenv(CAPTURE, "0")
    assert_same(captured, train(optimizer=Halved(0.1)))


# --- launches ---------------------------------------------------------------------------------------------------------


def nodes(sizes: tuple[int, ...], batch: int, *, dropout: float = 0.0, **settings: Any) -> int:
    """The number of nodes in the graph of a step."""
    stack: list[nn.Layer] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        stack += [nn.Affine(a, b)]
        if i < len(sizes) - 2:
            stack += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    trainer = nn.Trainer(nn.Network(stack), nn.Adam(), batch_size=batch, **settings)
    rng = np.random.default_rng(0)
    x, t = rng.random((10 * batch, sizes[0]), "float32"), rng.integers(0, sizes[-1], 10 * batch)
    trainer.fit(x, t, 1)
    return len(trainer._runner._graph._parts[0][0].work)


def test_a_step_has_few_nodes(machine: standin.Machine) -> None:
    assert nodes((784, 50, 10), 100) <= 14
    assert nodes((84, 32, 16, 10), 32, dropout=0.2, clip_norm=1.0) <= 30


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_devices(machine: standin.Machine, monkeypatch: pytest.MonkeyPatch) -> standin.Machine:
    monkeypatch.setattr(machine, "devices", 2)
    return machine


def test_all_is_born_and_computed_on_the_device_that_was_asked_for(two_devices: standin.Machine) -> None:
    """While the current device is another, as in a thread that nobody told."""
    second = standin.Device(1)
    network = nn.Network(layers(), seed=1, backend="cupy:1", dtype="float64")
    trainer = nn.Trainer(network, nn.Adam(0.01), batch_size=BATCH, clip_norm=1.0)
    trainer.fit(X, T, 4, validation=(X, T))
    assert two_devices.counts["graph launches"] > 4
    buffers = [network.buffer.data, network.buffer.grad, network.buffer.state, network.buffer.clock]
    arrays = [
        *buffers,
        *trainer.state.optimizer.values(),
        trainer.state.metrics,
        network.predict(X),
        network.predict_proba(X[0]),
    ]
    arrays += [*network.gradient(X, T).values(), *network.activations(X).values()]
    arrays += [*network.numerical_gradient(X[:4], T[:4]).values(), network.backend.zeros((2,), "float32")]
    assert all(a.device == second for a in arrays if not isinstance(a, int))
    network.params["b1"] = np.ones(8)
    assert isinstance(network.accuracy(X, T), float)
    assert nn.evaluate(network, X, T).loss == pytest.approx(network.loss(X, T))
    assert nn.check_gradients(network, X[:5], T[:5]).ok
    assert nn.diagnose(network, X, T) is not None
    assert to_numpy(network.to("cupy:1", "float32").buffer.data).dtype == "float32"
    assert standin.HERE.devices == [0]
    with nn.using("numpy"):
        reference = nn.Network(layers(), seed=1, dtype="float64")
        nn.Trainer(reference, nn.Adam(0.01), batch_size=BATCH, clip_norm=1.0).fit(X, T, 4, validation=(X, T))
        reference.params["b1"] = np.ones(8)
        np.testing.assert_allclose(to_numpy(network.buffer.data), reference.buffer.data, rtol=1e-7, atol=1e-9)


def test_memory_of_a_graph_comes_back_while_another_device_is_current(two_devices: standin.Machine) -> None:
    def fit() -> None:
        network = nn.Network(layers(), seed=1, backend="cupy:1")
        nn.Trainer(network, nn.Adam(0.01), batch_size=BATCH).fit(X, T, 4)

    fit()
    gc.collect()
    workshops = [w for w in _Workshop._free[1] if w.device.id == 1]
    assert workshops
    assert [w.pool.total_bytes() < WORKSPACE + 2**12 for w in workshops] == [True] * len(workshops)


def test_a_backend_can_be_hashed(gpu: nn.Backend) -> None:
    assert {gpu: 1}[nn.backend()] == 1
