"""Train in one, two and four processes, and end with the same bits.

A 784-50-10 network with dropout learns digits. Each step has four batches, which the processes share; MPI starts them
and carries the sums of their gradients. The loss by epoch and all weights are, bit for bit, those of one process. Here
the processes share one machine's processors, so they gain little time; on several machines each brings its own.

    pip install ".[mpi,plot]" mpich    MPI for Python, and the program mpiexec
    python examples/parallel.py        about 15 seconds on a CPU; draws parallel.png
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import nnbackend as nn
from nnbackend.cli.parser import output_folder, positive
from nnbackend.plotting import COLORS, tidy

PROCESSES = (1, 2, 4)
MARKERS = ("o", "x", "s")


def run(epochs: int, rows: int) -> dict[str, Any]:
    """Train as one of the processes that the launcher has started. Return what there is to tell of it."""
    communicator = nn.communicator()
    layers = [nn.Affine(784, 50), nn.ReLU(), nn.Dropout(0.1), nn.Affine(50, 10)]
    network = nn.Network(layers, seed=0)
    trainer = nn.Trainer(network, nn.Adam(), batch_size=25, accumulate=4, communicator=communicator)
    data = nn.datasets.mnist("sample")
    x, t = data.x_train[:rows, ...], data.t_train[:rows]
    history = trainer.fit(x, t, epochs, validation=(data.x_test, data.t_test))
    digest = hashlib.sha256(nn.to_numpy(network.buffer.data).tobytes()).hexdigest()
    return {
        "loss": history.loss,
        "accuracy": history.val_accuracy[-1],
        "digest": digest,
        "seconds": sum(history.seconds),
    }


def launch(processes: int, epochs: int, rows: int) -> dict[str, Any]:
    """Start this program in so many processes, and return what rank 0 prints."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    mpiexec = shutil.which("mpiexec", path=beside)
    if processes > 1 and mpiexec is None:
        raise SystemExit("mpiexec is not installed: pip install mpich")
    program = [sys.executable, __file__, "--program", f"--epochs={epochs}", f"--rows={rows}"]
    command = program if processes == 1 else [str(mpiexec), "-n", str(processes), *program]
    environment = os.environ | {"NNBACKEND": nn.backend().name, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def draw(found: Sequence[dict[str, Any]], processes: Sequence[int], path: Path) -> None:
    """Draw the loss by epoch of all runs: the curves lie on each other."""
    figure = Figure(figsize=(8, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for i, (result, number) in enumerate(zip(found, processes, strict=True)):
        label = f"{number} process{'es' if number > 1 else ''}: weights {result['digest'][:8]}..."
        size = 12 - 4 * i
        epochs = np.arange(1, len(result["loss"]) + 1)
        axes.plot(epochs, result["loss"], color=COLORS[i], marker=MARKERS[i], markersize=size, linewidth=2, label=label)
    axes.legend(frameon=False)
    tidy(axes, "The same run, shared by several processes", "epoch", "mean cross entropy")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, default=10, help="passes over the images (10)")
    parser.add_argument("--rows", type=positive, default=8_000, help="images to train on (8000)")
    parser.add_argument("--processes", type=positive, nargs="+", default=PROCESSES, help="numbers to try (1 2 4)")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    parser.add_argument("--program", action="store_true", help=argparse.SUPPRESS)  # this is one of the processes
    options = parser.parse_args(argv)
    if options.program:
        result = run(options.epochs, options.rows)
        if nn.communicator().is_root:
            print(json.dumps(result))
        return
    found = []
    for processes in options.processes:
        result = launch(processes, options.epochs, options.rows)
        found.append(result)
        print(
            f"{processes} processes: loss {result['loss'][-1]:.6f}, test accuracy {result['accuracy']:.2%}, "
            f"{result['seconds']:.1f} s, weights {result['digest'][:16]}"
        )
    same = len({(tuple(result["loss"]), result["digest"]) for result in found}) == 1
    print(f"losses and weights are {'the same, bit for bit' if same else 'NOT the same'}")
    draw(found, options.processes, options.out / "parallel.png")
    print(f"drawn: {options.out / 'parallel.png'}")


if __name__ == "__main__":
    main()
