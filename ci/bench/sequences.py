"""Measure networks for sequences on a CPU, in this library and in PyTorch.

    pip install ".[bench]"
    python ci/bench/sequences.py --json record.json

Three cases, in float32, of 32 sequences of 35 steps: an LSTM layer of 256 units alone, forward and backward; a training
step of a language model of it (an embedding of 1000 words, the LSTM, an affine layer to the words, Adam); and a step of
a small causal transformer (128 features, two blocks of 4 heads with an inner layer of 512, Adam). Both libraries start
from the same values and see the same batches; the last losses show that they do the same. They take turns, a block of
steps each, so that both share the drift of the machine's speed. The first block and the first two steps of each block
are not timed. Before each block is a pause, in which the threads of the other library stop to spin. CPU time counts
what other programs do not take away: read it where the machine is not idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_UP = 2  # steps of each block that are not timed
PAUSE = 0.2  # seconds
N, T, WIDTH, WORDS, FEATURES, HEADS = 32, 35, 256, 1000, 128, 4
Step = Callable[[Any, Any], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="for both libraries")
    parser.add_argument("--blocks", type=int, default=8, help="blocks of steps on the clock, for each library")
    parser.add_argument("--steps", type=int, default=8, help="steps in a block")
    parser.add_argument("--case", choices=CASES, action="append", help="by default all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)

    import numpy as np

    record: dict[str, Any] = {"threads": arguments.threads, "python": sys.version.split()[0], "cases": {}}
    print(f"{arguments.threads} threads, {N} sequences of {T} steps; ms per step, median (CPU time, median)")
    print(f"{'':26s}{'nnbackend':>20s}{'PyTorch':>20s}{'ratio':>8s}{'(CPU)':>8s}   last losses")
    for name in arguments.case or CASES:
        ours, theirs = CASES[name](arguments.threads)
        programs = {"nnbackend": ours, "PyTorch": theirs}
        wall: dict[str, list[float]] = {program: [] for program in programs}
        busy: dict[str, list[float]] = {program: [] for program in programs}
        losses, order = {}, np.random.default_rng(0)
        for block in range(arguments.blocks + 1):
            batches = [order.integers(0, WORDS, (N, T + 1)) for _ in range(arguments.steps)]
            for program, step in programs.items():
                time.sleep(PAUSE)
                for number, ids in enumerate(batches):
                    x, t = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
                    start, since = time.perf_counter(), time.process_time()
                    losses[program] = step(x, t)
                    if block and number >= WARM_UP:
                        wall[program].append(time.perf_counter() - start)
                        busy[program].append(time.process_time() - since)
        medians = {program: statistics.median(times) * 1e3 for program, times in wall.items()}
        cpu = {program: statistics.median(times) * 1e3 for program, times in busy.items()}
        ratios = [figures["PyTorch"] / figures["nnbackend"] for figures in (medians, cpu)]
        cells = "".join(f"{medians[program]:11.2f} ({cpu[program]:6.2f})" for program in programs)
        print(f"{name:26s}{cells}{ratios[0]:8.2f}{ratios[1]:8.2f}   {losses['nnbackend']:.5f} {losses['PyTorch']:.5f}")
        record["cases"][name] = {"median_ms": medians, "cpu_ms": cpu, "ratio": ratios[0], "ratio_cpu": ratios[1]}
        record["cases"][name]["last_loss"] = losses
    print("ratio: PyTorch's time by nnbackend's.")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


def limit_threads(threads: int) -> None:
    """Limit the threads, before NumPy or PyTorch is imported."""
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they would limit NumPy to kernels of an older processor
        os.environ.pop(name, None)
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def step_of(network: Any) -> Step:
    """Return a training step of a network by Adam. It reads the loss, as PyTorch's does."""
    import nnbackend as nn

    adam = nn.Adam(1e-3)
    state, buffer = adam.init(network.buffer.data), network.buffer

    def step(x: Any, t: Any) -> float:
        loss, _ = network.loss_and_output(x, t)
        network.backward()
        adam.step(buffer.data, buffer.grad, state)
        return float(loss)

    return step


def torch_step_of(module: Any, threads: int) -> Step:
    import torch

    torch.set_num_threads(threads)
    module.train()
    adam = torch.optim.Adam(module.parameters(), 1e-3)

    def step(x: Any, t: Any) -> float:
        adam.zero_grad(set_to_none=True)
        y = module(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(y.reshape(-1, WORDS), torch.from_numpy(t).reshape(-1))
        loss.backward()
        adam.step()
        return float(loss.detach())

    return step


def layer_alone(threads: int) -> tuple[Step, Step]:
    import numpy as np
    import torch

    import nnbackend as nn

    torch.set_num_threads(threads)
    network = nn.Network([nn.LSTM(WIDTH, WIDTH)], nn.MeanSquaredError())
    module, layer = network.to_torch()[0].train(), network.layers["LSTM1"]
    table = np.random.default_rng(1).standard_normal((WORDS, WIDTH)).astype("float32")

    def ours(x: Any, t: Any) -> float:
        y = layer.forward(table[x], training=True)
        return float(layer.backward(y)[0, 0, 0])

    def theirs(x: Any, t: Any) -> float:
        given = torch.from_numpy(table[x]).requires_grad_()
        module.zero_grad(set_to_none=True)
        y = module(given)
        y.backward(y.detach())
        return float(given.grad[0, 0, 0])

    return ours, theirs


def language_model(threads: int) -> tuple[Step, Step]:
    import nnbackend as nn

    layers = [nn.Embedding(WORDS, WIDTH, weight=0.1), nn.LSTM(WIDTH, WIDTH), nn.Affine(WIDTH, WORDS)]
    network = nn.Network(layers, seed=0)
    return step_of(network), torch_step_of(network.to_torch(), threads)


def transformer(threads: int) -> tuple[Step, Step]:
    import nnbackend as nn

    layers: list[Any] = [nn.Embedding(WORDS, FEATURES, weight=0.1), nn.PositionalEncoding(FEATURES, T)]
    for _ in range(2):
        attention = nn.MultiHeadAttention(FEATURES, HEADS, causal=True)
        inner = [nn.Affine(FEATURES, 4 * FEATURES), nn.ReLU(), nn.Affine(4 * FEATURES, FEATURES)]
        layers += [nn.Residual([nn.LayerNormalization(FEATURES), attention])]
        layers += [nn.Residual([nn.LayerNormalization(FEATURES), *inner])]
    network = nn.Network([*layers, nn.LayerNormalization(FEATURES), nn.Affine(FEATURES, WORDS)], seed=0)
    return step_of(network), torch_step_of(network.to_torch(), threads)


CASES: dict[str, Callable[[int], tuple[Step, Step]]] = {
    "LSTM layer": layer_alone,
    "LSTM language model": language_model,
    "transformer": transformer,
}

if __name__ == "__main__":
    main()
