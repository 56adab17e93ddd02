"""A run that is killed, again and again, and ends as if nobody had touched it.

A 784-50-10 network learns digits in a process of its own and writes a checkpoint every 20 steps. That process is killed
(as `kill -9` does: it cannot even notice) and the same program started anew, which goes on with the checkpoint. The
loss by epoch and all weights become, bit for bit, those of a run that was left alone.

    python examples/resume.py    about 10 seconds on a CPU; draws resume.png
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy
from nnbackend.training.checkpoint_file import file_version

BATCH = 100
EVERY = 20  # steps from one checkpoint to the next
KILLED_AFTER = (7, 12, 3, 17)  # checkpoints that each process may write before it is killed


def build(folder: Path, epochs: int, rows: int) -> nn.Trainer:
    """A trainer that keeps its run in `folder`, and takes up the one that is there."""
    layers = [nn.Affine(784, 50), nn.ReLU(), nn.Dropout(0.1), nn.Affine(50, 10)]
    rule = nn.Adam(nn.Cosine(3e-3, steps=epochs * -(-rows // BATCH)))
    checkpoint = nn.Checkpoint(folder, every=f"{EVERY}steps")
    trainer = nn.Trainer(nn.Network(layers, seed=0), rule, batch_size=BATCH, checkpoint=checkpoint)
    trainer.resume()  # where there is no checkpoint yet, the run simply begins
    return trainer


def run(folder: Path, epochs: int, rows: int) -> nn.Trainer:
    """The program, the same for the first time and for every time after it."""
    trainer = build(folder, epochs, rows)
    data = nn.datasets.mnist("sample")
    x, t = data.x_train[:rows, ...], data.t_train[:rows]
    trainer.fit(x, t, epochs, validation=(data.x_test, data.t_test))
    return trainer


def start_and_kill(folder: Path, epochs: int, rows: int, checkpoints: int) -> None:
    """Start the program and kill it once it has written so many checkpoints."""
    arguments = [f"--program={folder}", f"--epochs={epochs}", f"--rows={rows}", f"--backend={nn.backend().name}"]
    process = subprocess.Popen([sys.executable, __file__, *arguments])
    file = folder / "checkpoint.safetensors"
    written, last = 0, file_version(file)
    while written < checkpoints and process.poll() is None:
        time.sleep(0.001)
        now = file_version(file)
        written, last = written + (now != last), now
    process.kill()
    process.wait()


def draw(history: nn.History, places: Sequence[float], path: Path) -> None:
    """The loss by epoch, and where the processes were killed."""
    figure = Figure(figsize=(8, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, len(history) + 1)
    axes.plot(epochs, history.loss, color=COLORS[0], linewidth=2, marker="o", label="training")
    axes.plot(epochs, history.val_loss, color=COLORS[1], linewidth=2, marker="o", label="test")
    for i, place in enumerate(places):
        axes.axvline(place, color=INK, linewidth=1, linestyle="--", label="killed, resumed" if i == 0 else None)
    axes.legend(frameon=False)
    tidy(axes, "One run, of five processes", "epoch", "mean cross entropy")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=10, help="passes over the images (10)")
    parser.add_argument("--rows", type=positive, default=10_000, help="images to train on (10000)")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    parser.add_argument("--program", type=Path, help=argparse.SUPPRESS)  # this process is one of those to be killed
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.program is not None:
        with nn.using(options.backend):
            run(options.program, options.epochs, options.rows)
        return

    with tempfile.TemporaryDirectory() as name:
        alone = run(Path(name), options.epochs, options.rows)
    places = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for checkpoints in KILLED_AFTER:
            start_and_kill(folder, options.epochs, options.rows, checkpoints)
            left = build(folder, options.epochs, options.rows)
            places.append(left.epoch + left.state.step / -(-options.rows // BATCH))
            print(f"killed; the checkpoint is from epoch {left.epoch + 1}, after {left.state.step} of its steps")
        resumed = run(folder, options.epochs, options.rows)
    weights = [nn.to_numpy(trainer.network.buffer.data) for trainer in (alone, resumed)]
    same = np.array_equal(*weights) and alone.history.loss == resumed.history.loss
    print(f"loss {alone.history.loss[-1]:.6f} left alone, {resumed.history.loss[-1]:.6f} killed {len(places)} times")
    print(f"weights and history are {'the same, bit for bit' if same else 'NOT the same'}")
    draw(resumed.history, places, options.out / "resume.png")
    print(f"drawn: {options.out / 'resume.png'}")


if __name__ == "__main__":
    main()
