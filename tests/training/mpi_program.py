"""A training run of the tests of several processes: python mpi_program.py FOLDER [NAME=VALUE ...]."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import nnbackend as nn
from nnbackend.backends import to_numpy


def digest(trainer: nn.Trainer) -> str:
    """Return the SHA-256 of all that a run ends with."""
    buffer, state, history = trainer.network.buffer, trainer.state, trainer.history
    slots = [value for name, value in sorted(state.optimizer.items()) if name not in ("t", "lr_scale")]
    arrays = [buffer.data, buffer.state, buffer.clock, *slots]
    curves = [history.loss, history.accuracy, history.val_loss, history.val_accuracy, history.skipped]
    found = hashlib.sha256(str(state.optimizer["t"]).encode())
    for array in (*map(to_numpy, arrays), *(np.asarray(curve) for curve in curves)):
        found.update(array.tobytes())
    return found.hexdigest()


def run(folder: Path | None, communicator: nn.Communicator | None, **options: Any) -> nn.Trainer:
    """Train. options: what the tests vary; `rank_...` is for the process of that rank alone."""
    rank = 0 if communicator is None else communicator.rank
    options |= options.pop(f"rank{rank}", {})
    accumulate, epochs, act, at = (options.get(n, d) for n, d in zip(
        ("accumulate", "epochs", "act", "at"), (4, 3, "", (1, 1)), strict=True))  # fmt: skip
    generator = np.random.default_rng(options.get("data", 0))
    x = generator.standard_normal((123, 8)).astype("float32")
    t = (x @ generator.standard_normal((8, 3))).argmax(axis=1)
    weight = generator.random(123) if options.get("weights") else None
    block = nn.Residual([nn.Affine(16, 16), nn.BatchNormalization(16), nn.ReLU(), nn.Dropout(0.1)])
    layers = [nn.Affine(8, 16), nn.BatchNormalization(16), nn.ReLU(), nn.Dropout(0.3), block, nn.Affine(16, 3)]
    loss = nn.SoftmaxWithLoss(class_weight=[1.0, 2.0, 0.5]) if options.get("class_weight") else None
    network = nn.Network(layers, loss, seed=options.get("network", 1), backend=options.get("backend", "numpy"))
    trainer = nn.Trainer(
        network,
        nn.SGD(options["lr"]) if "lr" in options else nn.Adam(nn.Cosine(0.01, steps=40)),
        batch_size=options.get("batch_size", 5),
        accumulate=accumulate,
        seed=2,
        clip_norm=1.0,
        on_fault=options.get("on_fault", "stop"),
        checkpoint=nn.Checkpoint(folder / "run", every=options.get("every", "1steps"), keep=2) if folder else None,
        communicator=communicator,
        average=options.get("average"),
    )
    if options.get("freeze"):
        network.freeze(*options["freeze"])
    if folder:
        trainer.resume()

    step = trainer._shared_step

    def stepped(*arguments: Any) -> Any:
        yield from step(*arguments)
        if act and (trainer.epoch, trainer.state.step) == tuple(at):
            if act == "raise":
                raise RuntimeError("the disk of this rank is on fire")
            os.kill(os.getpid(), getattr(signal, act))
            time.sleep(0 if act == "SIGTERM" else 5)

    trainer._shared_step = stepped  # type: ignore[method-assign]
    train: tuple[Any, ...] = x[:93], t[:93]
    if options.get("stream"):
        train = (nn.datasets.Items(list(zip(x[:93], t[:93], strict=True))),)
    callbacks: list[Any] = [nn.EarlyStopping("val_loss", patience=100)]
    metrics = None
    if options.get("plateau"):
        callbacks.append(nn.ReduceLROnPlateau("least", patience=1, greater_is_better=True, factor=0.5))
        metrics = {"least": lambda y, t: -(y * y).mean()}
    held_out = (x[93:], t[93:])
    trainer.fit(
        *train,
        epochs=epochs,
        sample_weight=None if weight is None else weight[:93],
        validation=held_out,
        metrics=metrics,
        callbacks=callbacks,
        progress=options.get("progress", False),
    )
    return trainer


if __name__ == "__main__":
    chosen = json.loads(sys.argv[2])
    communicator = nn.communicator()
    try:
        trainer = run(Path(sys.argv[1]) if sys.argv[1] else None, communicator, **chosen)
    except nn.NumericalError as error:
        if not chosen.get("catch"):
            raise
        sys.stdout.write(f"{communicator.rank} NumericalError: {error}\n")
        sys.exit()
    sys.stdout.write(f"{communicator.rank} {trainer.epoch} {trainer.state.step} {digest(trainer)}\n")
