"""The processors go to the loops in C or to NumPy's matrix products, never to both. Here products are NumPy's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn

native = pytest.importorskip("nnbackend.backends.numpy._native", reason="built without the loops in C")
threadpoolctl = pytest.importorskip("threadpoolctl")

from nnbackend.backends.numpy import processors  # noqa: E402  (what is above may skip)

registrations = pytest.importorskip("nnbackend.backends.numpy.native", reason="NNBACKEND_NATIVE=0 leaves the loops out")

if sys.platform == "win32" or not threadpoolctl.ThreadpoolController().select(user_api="blas").info():
    pytest.skip("nothing here can say how many threads NumPy's products have", allow_module_level=True)


@pytest.fixture(autouse=True)
def _three(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three processors, and as many threads for products, whatever this machine has."""
    monkeypatch.setattr(processors, "threads", lambda: 3)
    monkeypatch.setattr(registrations, "PRODUCTS", False)
    native.use_threads(1)
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        yield
        assert of_products() == 3
    monkeypatch.undo()
    native.use_threads(processors.threads() if registrations.PRODUCTS else 1)


def of_products() -> int:
    counts = {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}
    assert len(counts) == 1
    return int(counts.pop())


def of_process() -> int:
    """Count the threads of this process, or return -1 where the system does not list them."""
    return len([*Path("/proc/self/task").iterdir()]) if sys.platform == "linux" else -1


def test_within_a_block_the_loops_have_the_processors() -> None:
    used: list[int] = []
    with processors.for_loops(used.append):
        assert (of_products(), used) == (1, [3])
        with processors.for_loops(used.append):
            assert (of_products(), used) == (1, [3])
        assert (of_products(), used) == (1, [3])
    assert (of_products(), used) == (3, [3, 1])


def test_an_error_gives_the_products_their_threads_back() -> None:
    used: list[int] = []
    with pytest.raises(KeyError), processors.for_loops(used.append):
        raise KeyError
    assert (of_products(), used) == (3, [3, 1])


def test_an_interrupt_at_the_beginning_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    used: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(processors, "_libraries", interrupt)
        with pytest.raises(KeyboardInterrupt), processors.for_loops(used.append):
            pass
    with pytest.raises(KeyboardInterrupt), processors.for_loops(interrupt):
        pass
    assert of_products() == 3
    with processors.for_loops(used.append):
        assert (of_products(), used) == (1, [3])
    assert (of_products(), used) == (3, [3, 1])


def test_the_loops_have_no_more_threads_than_the_products_had() -> None:
    used: list[int] = []
    with threadpoolctl.threadpool_limits(2, user_api="blas"), processors.for_loops(used.append):
        assert (of_products(), used) == (1, [2])
    used.clear()
    with threadpoolctl.threadpool_limits(1, user_api="blas"), processors.for_loops(used.append):
        assert (of_products(), used) == (1, [1])


def test_a_single_processor_stays_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "threads", lambda: 1)
    used: list[int] = []
    with processors.for_loops(used.append):
        assert (of_products(), used) == (3, [1])
    assert used == [1]


@pytest.mark.parametrize(
    ("texts", "granted"),
    [
        (["200000 100000\n"], 2),
        (["150000 100000\n"], 2),
        (["5000 100000\n"], 1),
        (["1100000 100000\n"], 11),
        (["6400000 100000\n"], 16),
        (["max 100000\n"], 16),
        (["300000\n", "100000\n"], 3),
        (["-1\n", "100000\n"], 16),
        (["nonsense"], 16),
        ([], 16),
    ],
)
def test_a_container_may_have_less(
    texts: list[str], granted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / str(number) for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    monkeypatch.undo()  # the three processors of all other tests
    monkeypatch.setattr(processors, "QUOTAS", [(tmp_path / "absent",), files])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    processors._granted.cache_clear()
    try:
        assert processors.available() == granted
        assert processors.threads() == min(granted, 8)
    finally:
        processors._granted.cache_clear()


def test_a_loop_starts_the_threads_and_they_end() -> None:
    before, x, W = of_process(), np.ones((8, 20, 21, 40), "float32"), np.ones((3, 3, 8, 16), "float32")
    for count in (4, 2, 1, 100, 1):
        native.use_threads(count)
        convolved(x, W)
        assert of_process() == (before + min(count, 8) - 1 if before > 0 else before)


@pytest.mark.parametrize(
    ("network", "rows", "products"),
    [
        (lambda: nn.convolutional_network(channels=(8, 8)), 64, 1),
        (lambda: nn.convolutional_network(channels=(2, 2)), 64, 3),  # too little to gain by it
        (lambda: nn.convolutional_network(channels=(8, 8)), 8, 3),  # the loops take no fewer than 16 images
        (lambda: nn.convolutional_network(channels=(2, 2), hidden_size=2048), 400, 3),  # most of it is in products
        (lambda: nn.Network([nn.Convolution(1, 8, 3, stride=2), nn.Flatten(), nn.Affine(13 * 13 * 8, 10)]), 32, 3),
    ],
)
def test_a_network_of_convolutions_works_in_loops(network, rows: int, products: int) -> None:
    net = network()
    with net.processors((rows, 28, 28, 1)):
        assert of_products() == products
    seen: list[int] = []
    x, t = np.zeros((2 * rows, 28, 28, 1), "float32"), np.zeros(2 * rows, "int64")
    count = lambda trainer: seen.append(of_products())  # noqa: E731
    nn.Trainer(net, nn.SGD(), batch_size=rows).fit(x, t, epochs=2, callbacks=[count])
    assert seen == [products] * 2


def test_a_network_of_affine_layers_leaves_the_threads_alone() -> None:
    with nn.TwoLayerNet(784, 50, 10).processors((100, 784)):
        assert of_products() == 3


def test_products_elsewhere_get_one_thread_in_a_fit_whose_products_are_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer or a callback of one's own may multiply with NumPy, whose threads then take the processors from ours."""
    if not native.PRODUCTS:
        pytest.skip("products are loops on Linux alone, with fused multiply-add")
    monkeypatch.setattr(registrations, "PRODUCTS", True)
    used: list[int] = []
    monkeypatch.setattr(native, "use_threads", used.append)
    net, x, t = nn.TwoLayerNet(6, 5, 3), np.ones((8, 6), "float32"), np.zeros(8, "int64")
    seen: list[int] = []
    nn.Trainer(net, nn.SGD(), batch_size=4).fit(x, t, epochs=2, callbacks=[lambda _: seen.append(of_products())])
    with net.processors((4, 6)):
        seen.append(of_products())
    assert (seen, of_products(), used) == ([1, 1, 1], 3, [])


def test_one_pass_takes_threads_only_if_that_is_shorter_than_to_start_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.convolutional_network(backend="numpy", seed=0)
    begun: list[int] = []
    for_loops = net.backend.for_loops
    monkeypatch.setattr(net.backend, "for_loops", lambda: begun.append(1) or for_loops())
    for rows, blocks in ((16, 0), (100, 2)):
        x, t = np.zeros((rows, 28, 28, 1), "float32"), np.zeros(rows, "int64")
        net.predict(x)
        net.accuracy(x, t)
        assert len(begun) == blocks


def test_loops_that_are_not_used_get_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nnbackend.backends.numpy.native")  # as where `_native` is older than its sources
    with nn.convolutional_network(backend="numpy").processors((32, 28, 28, 1)):
        assert of_products() == 3


def test_predictions_of_many_rows_have_the_bits_of_one_thread() -> None:
    x = np.random.default_rng(0).standard_normal((160, 28, 28, 1)).astype("float32")
    net = nn.Network(
        [nn.Convolution(1, 16, 3), nn.ReLU(), nn.MaxPooling(2), nn.Convolution(16, 9, 3)], nn.MeanSquaredError()
    )
    found = net.predict(x)
    np.testing.assert_array_equal(found, net.forward(x), strict=True)


def convolved(x: np.ndarray, W: np.ndarray) -> np.ndarray:
    y = np.empty((W.shape[3], *x.shape[1:]), x.dtype)
    assert native.convolution(x, W, np.zeros(W.shape[3], x.dtype), y, 1, 1, 1, 1) is None
    return y


def test_loops_at_the_same_time_do_not_share_the_threads() -> None:
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((8, 20, 21, 40)).astype("float32"), rng.standard_normal((3, 3, 8, 16)).astype("float32")
    expected = convolved(x, W)
    native.use_threads(3)
    wrong: list[int] = []

    def repeat(number: int) -> None:
        wrong.extend(number for _ in range(50) if not np.array_equal(convolved(x, W), expected))

    workers = [threading.Thread(target=repeat, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for count in (2, 3, 1, 3):  # they may change in the middle of it
        native.use_threads(count)
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_has_threads_of_its_own() -> None:
    code = """
import os, sys
import numpy as np
from nnbackend.backends.numpy import _native
rng = np.random.default_rng(0)
x, W = rng.standard_normal((8, 20, 21, 40)).astype("float32"), rng.standard_normal((3, 3, 8, 16)).astype("float32")
def convolved():
    y = np.empty((16, 20, 21, 40), "float32")
    _native.convolution(x, W, np.zeros(16, "float32"), y, 1, 1, 1, 1)
    return y.tobytes()
expected = convolved()
_native.use_threads(3)
assert convolved() == expected
child = os.fork()
if child == 0:
    threads = lambda: len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
    ok = threads() in (0, 1) and convolved() == expected and threads() in (0, 3)
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert convolved() == expected
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_process_begins_outside_of_all_blocks() -> None:
    """Neither the lock that another thread holds nor a block that the parent is in binds a child."""
    code = """
import os, signal, threading
from nnbackend.backends.numpy import processors, _native
import threadpoolctl
processors.threads = lambda: 3
def of_products():
    return max(library["num_threads"] for library in threadpoolctl.threadpool_info())
def child(work):
    number = os.fork()
    if number == 0:
        signal.alarm(20)
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    assert os.waitpid(number, 0)[1] == 0
def block():
    used = []
    with processors.for_loops(used.append):
        within = of_products()
    return within == 1 and of_products() == 3 and used == [3, 1]
threadpoolctl.threadpool_limits(3)
held, done = threading.Event(), threading.Event()
def hold():
    with processors._lock:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child(block)
done.set()
thread.join()
with processors.for_loops(_native.use_threads):
    child(block)
assert of_products() == 3
def leaves():
    return of_products() == 3 and block()
numbers = []
with processors.for_loops(_native.use_threads):
    numbers.append(os.fork())
    if numbers[0] == 0:
        signal.alarm(20)
if numbers[0] == 0:
    os._exit(0 if leaves() else 1)
assert os.waitpid(numbers[0], 0)[1] == 0
assert leaves()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=90, env=os.environ | {"OPENBLAS_NUM_THREADS": "3"})
