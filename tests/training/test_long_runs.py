"""Long runs: after a thousand epochs there are no more memory, threads and files in use than after the first few."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nnbackend as nn

EPOCHS = 1000
RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4)).astype("float32")
T = RNG.integers(0, 3, 20)
PER_EPOCH = 6 * 40  # bytes: the history's numbers, which are what a run is asked to remember


def make(**settings: object) -> nn.Trainer:
    layers = [nn.Affine(4, 5), nn.BatchNormalization(5), nn.ReLU(), nn.Dropout(0.2), nn.Affine(5, 3)]
    return nn.Trainer(nn.Network(layers, seed=0, backend="numpy"), nn.Adam(), batch_size=20, **settings)  # type: ignore[arg-type]


def one_fit(trainer: nn.Trainer, epochs: int) -> None:
    stopping = nn.EarlyStopping("val_loss", patience=10**6)
    trainer.fit(X, T, epochs, validation=(X, T), callbacks=[stopping])


def many_fits(trainer: nn.Trainer, epochs: int) -> None:
    for _ in range(epochs):
        trainer.fit(X, T, validation=(X, T))


def many_networks(trainer: nn.Trainer, epochs: int) -> None:
    for _ in range(epochs // 4):
        make().fit(X, T)


@pytest.mark.parametrize("run", [one_fit, many_fits, many_networks])
def test_nothing_grows(run: Callable[[nn.Trainer, int], None], tmp_path: Path) -> None:
    trainer = make(checkpoint=nn.Checkpoint(tmp_path / "run", every="100epochs")) if run is one_fit else make()
    run(trainer, 20)
    gc.collect()
    threads = threading.active_count()
    tracemalloc.start()
    try:
        run(trainer, 20)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        run(trainer, EPOCHS if run is not many_fits else EPOCHS // 2)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < EPOCHS * PER_EPOCH
    assert threading.active_count() == threads


def test_no_file_stays_open(tmp_path: Path) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("open files: this system has no /proc/self/fd to count them in")
    trainer = make(checkpoint=nn.Checkpoint(tmp_path / "run", every="20epochs", keep=2))
    one_fit(trainer, 40)
    gc.collect()
    before = len(list(folder.iterdir()))
    one_fit(trainer, EPOCHS)
    assert len(list(folder.iterdir())) == before


def test_a_leak_would_be_seen() -> None:
    leaked: list[np.ndarray] = []
    trainer = make()
    trainer.fit(X, T, 5)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    trainer.fit(X, T, EPOCHS // 5, callbacks=[lambda t: leaked.append(t.network.buffer.data.copy())])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown > EPOCHS // 5 * PER_EPOCH
