"""Kill a training run with SIGKILL, again and again, and check that it ends like an undisturbed run.

    python ci/faults.py --kills 100

The run uses everything that a checkpoint must hold: momentum, dropout, batch normalisation, a schedule, and early
stopping with the best weights. It writes a checkpoint at each step, so that many kills interrupt the writing. Each kill
comes at a random moment, and the next process resumes. The exit status is 1 if weights or history differ in one bit
from those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import nnbackend as nn


def train(folder: Path, epochs: int) -> None:
    """Begin the run, or resume it from the folder, and write its outcome to `result` there."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((200, 8)).astype("float32")
    t = (x @ generator.standard_normal((8, 3))).argmax(axis=1)
    layers = [nn.Affine(8, 16), nn.BatchNormalization(16), nn.ReLU(), nn.Dropout(0.3), nn.Affine(16, 3)]
    network = nn.Network(layers, seed=1, backend="numpy")
    checkpoint = nn.Checkpoint(folder, every="1steps", keep=2)
    rule = nn.Momentum(nn.Cosine(0.1, steps=12 * epochs))
    trainer = nn.Trainer(network, rule, batch_size=10, seed=2, checkpoint=checkpoint)
    trainer.resume()
    stopping = nn.EarlyStopping("val_loss", patience=100)
    history = trainer.fit(x[:120], t[:120], epochs, validation=(x[120:], t[120:]), callbacks=[stopping])
    arrays = [network.buffer.data, network.buffer.state, trainer.state.optimizer["v"]]
    curves = [history.loss, history.accuracy, history.val_loss, history.val_accuracy]
    (folder / "part").write_bytes(b"".join(np.asarray(a).tobytes() for a in (*arrays, *curves)))
    (folder / "part").replace(folder / "result")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=240, help="of 12 steps each, in a run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    processes, chance = multiprocessing.get_context(method), random.Random(arguments.seed)

    with tempfile.TemporaryDirectory() as undisturbed:
        began = time.monotonic()
        process = processes.Process(target=train, args=(Path(undisturbed), arguments.epochs))
        process.start()
        process.join()
        seconds = time.monotonic() - began
        expected = (Path(undisturbed) / "result").read_bytes()
    kills, torn, runs, different = 0, 0, 0, 0
    while kills < arguments.kills:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            runs += 1
            while not (folder / "result").exists():
                process = processes.Process(target=train, args=(folder, arguments.epochs))
                process.start()
                if kills < arguments.kills:
                    time.sleep(chance.uniform(0, seconds / 10))
                    if process.is_alive():
                        os.kill(process.pid or 0, signal.SIGKILL)
                process.join()
                if process.exitcode == -signal.SIGKILL:
                    kills += 1
                    torn += any(folder.glob("*.tmp"))
                elif process.exitcode:
                    print(f"a process failed with status {process.exitcode}", file=sys.stderr)
                    return 1
            different += (folder / "result").read_bytes() != expected
    print(f"{kills} kills, {torn} of them while a checkpoint was written; {runs} runs, {different} ended differently")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
