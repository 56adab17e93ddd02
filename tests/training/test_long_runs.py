"""Long runs: after a thousand epochs there are no more memory, threads and files in use than after the first few."""

from __future__ import annotations

import gc
import os
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
    return nn.Trainer(nn.Network(layers, seed=0, backend="numpy"), nn.Adam(), batch_size=10, **settings)  # type: ignore[arg-type]


def one_fit(trainer: nn.Trainer, epochs: int) -> None:
    stopping = nn.EarlyStopping("val_loss", patience=10**6)
    trainer.fit(X, T, epochs, validation=(X, T), callbacks=[stopping])


def many_fits(trainer: nn.Trainer, epochs: int) -> None:
    for _ in range(epochs):
        trainer.fit(X, T, validation=(X, T))


def many_networks(trainer: nn.Trainer, epochs: int) -> None:
    for _ in range(epochs // 4):
        make().fit(X, T)


def handles() -> int:
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0  # noqa: PTH112, PTH208


@pytest.mark.parametrize(
    ("run", "kept"), [(one_fit, False), (one_fit, True), (many_fits, False), (many_networks, False)]
)
def test_nothing_grows(run: Callable[[nn.Trainer, int], None], kept: bool, tmp_path: Path) -> None:
    trainer = make(checkpoint=nn.Checkpoint(tmp_path / "run", every="100epochs", keep=2)) if kept else make()
    run(trainer, 100)
    gc.collect()
    threads, files = threading.active_count(), handles()
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
    assert handles() == files


def test_a_leak_would_be_seen() -> None:
    leaked: list[np.ndarray] = []
    trainer = make()
    trainer.fit(X, T, 5)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    trainer.fit(X, T, EPOCHS, callbacks=[lambda t: leaked.append(t.network.buffer.data.copy())])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown > EPOCHS * PER_EPOCH
