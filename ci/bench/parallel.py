"""What does it cost to train in several processes, and what does it bring?

    mpiexec -n 2 python ci/bench/parallel.py

For each network: the time of a step in one process and in all, with the same rows for each process (weak scaling), and
the time of the collective call alone, with the bytes that it moves. Medians over rounds in which the two programs take
turns. Each process has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402  (it reads the environment)

import nnbackend as nn  # noqa: E402
from nnbackend.training.pairwise import PairwiseSum  # noqa: E402

NETWORKS = (((784, 50, 10), 100), ((784, 256, 128, 10), 128), ((784, 1024, 1024, 10), 256))
STEPS = 30  # of an epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    comm = nn.communicator()
    records = [measure(comm, sizes, batch, arguments.rounds) for sizes, batch in NETWORKS]
    if comm.is_root:
        print(f"{comm.size} processes\nnetwork             rows  one us   all us  collective us      MB  rows a second")
        for r in records:
            gain = comm.size * r["one"] / r["all"]
            print(
                f"{r['network']:18}{r['rows']:6}{r['one']:8.0f}{r['all']:9.0f}{r['collective']:15.0f}"
                f"{r['megabytes']:8.2f}   x {gain:.2f} of one process"
            )
        if arguments.json:
            arguments.json.write_text(json.dumps({"processes": comm.size, "networks": records}, indent=2) + "\n")


def measure(comm: nn.Communicator, sizes: tuple[int, ...], batch: int, rounds: int) -> dict[str, Any]:
    """Return the medians of a network, in microseconds, of the slowest process. rows: those of one process a step."""
    generator = np.random.default_rng(0)
    n = batch * comm.size * STEPS
    x = generator.random((n, sizes[0]), dtype="float32")
    t = generator.integers(0, sizes[-1], n)

    def trainer(communicator: nn.Communicator | None) -> nn.Trainer:
        layers: list[nn.Layer] = []
        for before, width in pairwise(sizes):
            layers += [nn.Affine(before, width), nn.ReLU()]
        accumulate = 1 if communicator is None else comm.size
        network = nn.Network(layers[:-1], seed=0, backend="numpy")
        return nn.Trainer(network, nn.Adam(), batch_size=batch, accumulate=accumulate, communicator=communicator)

    alone, shared = trainer(None), trainer(comm)
    size = shared.network.buffer.data.shape[0]
    sums, out = PairwiseSum(shared.backend, "float32", size, comm.size, whole=False), np.zeros(size, "float32")
    times: dict[str, list[float]] = {"one": [], "all": [], "collective": []}

    def collective() -> None:
        for _ in range(STEPS):
            sums.begin(comm.rank, 1)
            sums.add(out, [np.float32(0), np.float32(0)])
            comm.add(sums, out, (False, False))

    few = n // comm.size
    programs = {
        "one": lambda: alone.fit(x[:few], t[:few], 1),
        "all": lambda: shared.fit(x, t, 1),
        "collective": collective,
    }
    for number in range(rounds + 1):
        for name, program in programs.items():
            comm.any(False)  # all begin together
            began = time.perf_counter()
            program()
            seconds = alone.history.seconds[-1] if name == "one" else time.perf_counter() - began
            seconds = shared.history.seconds[-1] if name == "all" else seconds
            slowest = float(comm.gather(np.array([seconds])).max())
            if number:  # the first round warms up
                times[name].append(slowest / STEPS * 1e6)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"network": "-".join(map(str, sizes)), "rows": batch, "megabytes": size * 4 / 1e6, **medians}


if __name__ == "__main__":
    main()
