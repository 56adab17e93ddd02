"""Measure a training step of a small convolutional network on a CPU, in this library and in its peers.

    pip install ".[bench]"
    python ci/bench/convolution.py --json record.json

The network: convolution 16 (3 x 3, padded), ReLU, max pooling 2, convolution 32 (the same), ReLU, max pooling 2,
affine 128, ReLU, affine 10; MNIST, float32, SGD. All programs start from the same values and see the same shuffled
batches. They take turns, a block of steps each, so that all share the drift of the machine's speed. The first block
(compiling, warming up) is not timed, nor are the first two steps of each block. Before each block is a pause, in which
the threads of the last program stop to spin. A library that is not installed is left out, by name.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

WARM_UP = 2  # steps of each block that are not timed
PAUSE = 0.2  # seconds
LR = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="for every program")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=8, help="blocks of steps on the clock, for every program")
    parser.add_argument("--steps", type=int, default=12, help="steps in a block")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)

    import numpy as np

    import nnbackend as nn

    data = nn.datasets.mnist(flatten=False)
    x, t = np.ascontiguousarray(data.x_train), np.ascontiguousarray(data.t_train)
    network = nn.convolutional_network(x.shape[1:])
    programs: dict[str, Callable[[Any], float]] = {}
    missing = {}
    values = {name: view.copy() for name, view in network.params.items()}  # the same for all
    for name, make in PROGRAMS.items():
        try:
            programs[name] = make(x, t, values, network, arguments)
        except ImportError as error:
            missing[name] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    losses: dict[str, float] = {}
    order = np.random.default_rng(0)
    for block in range(arguments.blocks + 1):
        batches = [order.choice(len(x), arguments.batch, replace=False) for _ in range(arguments.steps)]
        for name, step in programs.items():
            time.sleep(PAUSE)
            with network.processors((arguments.batch, *x.shape[1:])) if name == "nnbackend" else nullcontext():
                for number, rows in enumerate(batches):
                    start = time.perf_counter()
                    losses[name] = step(rows)
                    if block and number >= WARM_UP:
                        seconds[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    ours = medians["nnbackend"]
    print(f"{arguments.threads} threads, batch {arguments.batch}, {len(x)} images from {data.source}")
    print(f"{'':24s}{'ms per step':>12s}{'fastest':>10s}{'ratio':>8s}{'last loss':>11s}")
    for name, median in medians.items():
        fastest, loss = min(seconds[name]) * 1e3, losses[name]
        print(f"{name:24s}{median:12.2f}{fastest:10.2f}{median / ours:8.2f}{loss:11.4f}")
    share = medians["matrix products alone"] / ours
    print(f"ratio: that program's time by nnbackend's. Matrix products are {share:.0%} of nnbackend's step.")
    for name, cause in missing.items():
        print(f"left out: {name} ({cause})")
    if arguments.json:
        record = {
            "threads": arguments.threads,
            "batch": arguments.batch,
            "data": data.source,
            "median_ms": medians,
            "fastest_ms": {name: min(times) * 1e3 for name, times in seconds.items()},
            "times_nnbackend": {name: median / ours for name, median in medians.items()},
            "share_of_matrix_products": share,
            "last_loss": losses,
            "missing": missing,
            "python": sys.version.split()[0],
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


def limit_threads(threads: int) -> None:
    """Limit the threads, before NumPy, PyTorch or JAX is imported. JAX uses a thread for each allowed processor."""
    for name in (
        "OPENBLAS_CORETYPE",
        "OPENBLAS_L2_SIZE",
    ):  # they would limit NumPy, but no peer, to the kernels of an older processor
        os.environ.pop(name, None)
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = str(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def ours(x: Any, t: Any, values: Any, network: Any, arguments: Any) -> Callable[[Any], float]:
    import nnbackend as nn

    optimizer, p, g = nn.SGD(lr=LR), network.buffer.data, network.buffer.grad
    state = optimizer.init(p)

    def step(rows: Any) -> float:
        loss, _ = network.loss_and_output(x[rows], t[rows])
        network.backward()
        optimizer.step(p, g, state)
        return float(loss)

    return step


def pytorch(x: Any, t: Any, values: Any, network: Any, arguments: Any, channels_last: bool) -> Callable[[Any], float]:
    import torch

    torch.set_num_threads(arguments.threads)
    layers = torch.nn
    side = x.shape[1] // 4
    module = layers.Sequential(
        *(layers.Conv2d(1, 16, 3, padding=1), layers.ReLU(), layers.MaxPool2d(2)),
        *(layers.Conv2d(16, 32, 3, padding=1), layers.ReLU(), layers.MaxPool2d(2)),
        *(layers.Flatten(), layers.Linear(32 * side * side, 128), layers.ReLU(), layers.Linear(128, 10)),
    )
    host = {name: torch.from_numpy(value) for name, value in values.items()}
    theirs = [
        *(host["W1"].permute(3, 2, 0, 1), host["b1"], host["W2"].permute(3, 2, 0, 1), host["b2"]),
        host["W3"].reshape(side, side, 32, 128).permute(3, 2, 0, 1).reshape(128, -1),  # they flatten channels first
        *(host["b3"], host["W4"].T, host["b4"]),
    ]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), theirs, strict=True):
            parameter.copy_(value)
    images, labels = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(t)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, fused=True)

    def step(rows: Any) -> float:
        chosen = torch.from_numpy(rows)
        optimizer.zero_grad()
        loss = layers.functional.cross_entropy(module(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def jax(x: Any, t: Any, values: Any, network: Any, arguments: Any) -> Callable[[Any], float]:
    import jax
    import jax.numpy as jnp

    images, labels = jnp.asarray(x), jnp.asarray(t)
    parameters = {name: jnp.asarray(value) for name, value in values.items()}

    def logits(p: Any, y: Any) -> Any:
        for k in "12":
            form = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(y, p[f"W{k}"], (1, 1), "SAME", dimension_numbers=form) + p[f"b{k}"]
            y = jax.lax.reduce_window(jax.nn.relu(y), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        y = jax.nn.relu(y.reshape(len(y), -1) @ p["W3"] + p["b3"])
        return y @ p["W4"] + p["b4"]

    def mean_loss(p: Any, rows: Any) -> Any:
        log_probability = jax.nn.log_softmax(logits(p, images[rows]))
        return -jnp.mean(jnp.take_along_axis(log_probability, labels[rows][:, None], axis=1))

    def update(p: Any, rows: Any) -> Any:
        loss, gradient = jax.value_and_grad(mean_loss)(p, rows)
        return jax.tree.map(lambda value, g: value - LR * g, p, gradient), loss

    jitted = jax.jit(update, donate_argnums=0)

    def step(rows: Any) -> float:
        nonlocal parameters
        parameters, loss = jax.block_until_ready(jitted(parameters, rows))
        return float(loss)

    return step


def products(x: Any, t: Any, values: Any, network: Any, arguments: Any) -> Callable[[Any], float]:
    """Compute the matrix products of a step and nothing else, a convolution's in pieces that fit in a cache."""
    import numpy as np

    generator = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return generator.standard_normal(shape, dtype="float32")

    def convolution(side: int, c: int, o: int, need_dx: bool) -> Callable[[], None]:
        columns = arguments.batch * side * side
        pieces = -(-columns * 9 * c // 2**18)
        patches, y = draw(9 * c, columns // pieces), draw(o, columns // pieces)
        W, dW = draw(9 * c, o), draw(9 * c, o)

        def work() -> None:
            for _ in range(pieces):
                np.matmul(W.T, patches, out=y)
                np.matmul(patches, y.T, out=dW)
                if need_dx:
                    np.matmul(W, y, out=patches)

        return work

    def affine(i: int, o: int) -> Callable[[], None]:
        x, y, W, dW = draw(arguments.batch, i), draw(arguments.batch, o), draw(i, o), draw(i, o)

        def work() -> None:
            np.matmul(x, W, out=y)
            np.matmul(x.T, y, out=dW)
            np.matmul(y, W.T, out=x)

        return work

    side = x.shape[1]
    works = [
        *(convolution(side, 1, 16, False), convolution(side // 2, 16, 32, True)),
        *(affine(32 * (side // 4) ** 2, 128), affine(128, 10)),
    ]

    def step(rows: Any) -> float:
        with np.errstate(all="ignore"):
            for work in works:
                work()
        return 0.0

    return step


PROGRAMS: dict[str, Callable[..., Callable[[Any], float]]] = {
    "nnbackend": ours,
    "PyTorch": lambda *given: pytorch(*given, channels_last=False),
    "PyTorch, channels last": lambda *given: pytorch(*given, channels_last=True),
    "JAX": jax,
    "matrix products alone": products,
}

if __name__ == "__main__":
    main()
