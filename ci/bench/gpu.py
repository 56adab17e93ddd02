"""Measure how fast this library and its peers train on a GPU, at the same precision.

    python3 ci/bench/gpu.py FOLDER

writes FOLDER/gpu.json and FOLDER/gpu.md, or adds to them if they are of the same machine and commit. All programs train
the same networks on the same random rows, whole epochs at a time. The clock stops when the device has finished. The
first two epochs (compiling, capturing) are not timed. Each program runs in a process of its own. If one fails, or its
library is missing, it is left out by name, and the exit status is 1. The programs take turns for `--rounds`. Figures
are medians over all epochs of all rounds.

A program computes nothing but training steps: rows gathered on the device by a shuffled order, ReLU, softmax with
cross entropy, Adam, and the mean loss read once an epoch.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))


@dataclass(frozen=True)
class Task:
    sizes: tuple[int, ...]
    batch: int
    steps: int  # in an epoch
    precision: str
    lr: float = 1e-3

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, batch {self.batch}, Adam, {self.precision}"

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return random rows and labels that are linearly separable, so that losses fall and can be compared."""
        generator = np.random.default_rng(0)
        x = generator.random((self.batch * self.steps, self.sizes[0]), dtype="float32")
        W = generator.standard_normal((self.sizes[0], self.sizes[-1])).astype("float32")
        return x, np.argmax((x - 0.5) @ W, axis=1)

    def weights(self) -> list[np.ndarray]:
        generator = np.random.default_rng(1)
        pairs = zip(self.sizes[:-1], self.sizes[1:], strict=True)
        return [generator.standard_normal((a, b)).astype("float32") * (2 / a) ** 0.5 for a, b in pairs]


NETWORKS = (((784, 50, 10), 100, 600), ((784, 1024, 1024, 10), 8192, 40))
PRECISIONS = ("float32", "tf32", "bfloat16")
NO_TIME = {"error": "no time was left"}
Timed = tuple[list[float], float]  # seconds of every epoch but the first, mean loss of the last
Program = Callable[[int], Timed]  # trains so many epochs


def timed(epoch: Callable[[], float]) -> Program:
    """Time epochs. epoch: a function that trains an epoch, waits for the device, and returns the mean loss."""

    def run(epochs: int) -> Timed:
        ends = []
        for _ in range(epochs):
            loss = epoch()
            ends.append(time.perf_counter())
        return [b - a for a, b in itertools.pairwise(ends)], loss

    return run


# --- the programs ----------------------------------------------------------------------------------------------------


def ours(task: Task) -> Program:
    os.environ["NNBACKEND_PRECISION"] = task.precision
    import nnbackend as nn

    backend = nn.use("cupy")
    layers: list[nn.Layer] = []
    for i, (a, b) in enumerate(zip(task.sizes[:-1], task.sizes[1:], strict=True)):
        layers += [nn.Affine(a, b)] + [nn.ReLU()] * (i < len(task.sizes) - 2)
    network = nn.Network(layers)
    for i, W in enumerate(task.weights(), start=1):
        network.params[f"W{i}"] = W
    trainer = nn.Trainer(network, nn.Adam(task.lr), batch_size=task.batch)
    host_x, host_t = task.data()
    x, t = backend.asarray(host_x), backend.asarray(host_t, "int64")

    def run(epochs: int) -> Timed:
        ends: list[float] = []  # the ends of the epochs of a single fit, in which the step is captured once
        trainer.fit(x, t, epochs, callbacks=[lambda _: ends.append(time.perf_counter())])
        return [b - a for a, b in itertools.pairwise(ends)], trainer.history.loss[-1]

    return run


def ours_uncaptured(task: Task) -> Program:
    os.environ["NNBACKEND_CAPTURE"] = "0"
    return ours(task)


class Torch:
    """Holds the parts of a PyTorch program: eager, captured as a whole, or compiled."""

    def __init__(self, task: Task, capturable: bool):
        import torch

        torch.set_float32_matmul_precision(
            {"float32": "highest", "tf32": "high", "bfloat16": "highest"}[task.precision]
        )
        self.torch, self.task = torch, task
        modules: list[Any] = []
        for i, W in enumerate(task.weights()):
            linear = torch.nn.Linear(*W.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(W.T))
                linear.bias.zero_()
            modules += [linear] + [torch.nn.ReLU()] * (i < len(task.sizes) - 2)
        self.net = torch.nn.Sequential(*modules).cuda()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=task.lr, fused=True, capturable=capturable)
        x, t = task.data()
        self.x, self.t = torch.from_numpy(x).cuda(), torch.from_numpy(t).cuda()
        self.total = torch.zeros((), device="cuda")

    def loss(self, x: Any, t: Any) -> Any:
        low = self.torch.bfloat16 if self.task.precision == "bfloat16" else None
        with self.torch.autocast("cuda", dtype=low or self.torch.bfloat16, enabled=low is not None):
            y = self.net(x)
        return self.torch.nn.functional.cross_entropy(y.float(), t)

    def step(self, rows: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.x[rows], self.t[rows])
        loss.backward()
        self.optimizer.step()
        self.total += loss.detach()

    def epoch(self, step: Callable[[Any], None]) -> float:
        self.total.zero_()
        for rows in self.torch.randperm(len(self.x), device="cuda").split(self.task.batch):
            step(rows)
        return float(self.total) / self.task.steps


def torch_eager(task: Task) -> Program:
    program = Torch(task, capturable=False)
    return timed(lambda: program.epoch(program.step))


def torch_graph(task: Task) -> Program:
    program = Torch(task, capturable=True)
    torch = program.torch
    rows = torch.arange(task.batch, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            program.step(rows)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        program.step(rows)

    def step(batch: Any) -> None:
        rows.copy_(batch)
        graph.replay()

    return timed(lambda: program.epoch(step))


def torch_compiled(task: Task) -> Program:
    program = Torch(task, capturable=True)
    program.loss = program.torch.compile(program.loss, mode="reduce-overhead")  # type: ignore[method-assign]
    return timed(lambda: program.epoch(program.step))


class Jax:
    def __init__(self, task: Task):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax
        import jax.numpy as jnp

        if jax.default_backend() != "gpu":
            raise RuntimeError(f"JAX runs on {jax.default_backend()} here")
        setting = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}[task.precision]
        jax.config.update("jax_default_matmul_precision", setting)
        self.jax, self.jnp, self.task = jax, jnp, task
        parameters = [(jnp.asarray(W), jnp.zeros(W.shape[1], "float32")) for W in task.weights()]
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        self.state = (parameters, zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.zeros((), "float32"))
        x, t = task.data()
        self.x, self.t = jnp.asarray(x), jnp.asarray(t.astype("int32"))
        self.key = jax.random.key(0)

    def update(self, state: Any, x: Any, t: Any) -> Any:
        jax, jnp = self.jax, self.jnp
        parameters, m, v, count = state

        def loss_of(parameters: Any) -> Any:
            y = x
            for i, (W, b) in enumerate(parameters):
                y = y @ W + b
                y = jax.nn.relu(y) if i < len(parameters) - 1 else y
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), t[:, None], axis=1))

        loss, g = jax.value_and_grad(loss_of)(parameters)
        count = count + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        c1, c2 = 1 - 0.9**count, 1 - 0.999**count
        parameters = jax.tree.map(
            lambda p, m, v: p - self.task.lr * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), parameters, m, v
        )
        return (parameters, m, v, count), loss

    def order(self) -> Any:
        self.key, use = self.jax.random.split(self.key)
        rows = self.jax.random.permutation(use, self.task.batch * self.task.steps)
        return rows.reshape(self.task.steps, self.task.batch)


def jax_step(task: Task) -> Program:
    program = Jax(task)

    def one(state: Any, total: Any, x: Any, t: Any, order: Any, i: Any) -> Any:
        state, loss = program.update(state, x[order[i]], t[order[i]])
        return state, total + loss, i + 1

    step = program.jax.jit(one, donate_argnums=(0, 1, 5))

    def epoch() -> float:
        order, total, i = program.order(), program.jnp.zeros(()), program.jnp.zeros((), "int32")
        for _ in range(task.steps):
            program.state, total, i = step(program.state, total, program.x, program.t, order, i)
        return float(total) / task.steps

    return timed(epoch)


def jax_scan(task: Task) -> Program:
    program = Jax(task)

    def all_steps(state: Any, x: Any, t: Any, order: Any) -> Any:
        state, losses = program.jax.lax.scan(lambda s, rows: program.update(s, x[rows], t[rows]), state, order)
        return state, losses.mean()

    run = program.jax.jit(all_steps, donate_argnums=0)

    def epoch() -> float:
        program.state, loss = run(program.state, program.x, program.t, program.order())
        return float(loss)

    return timed(epoch)


PROGRAMS: dict[str, Callable[[Task], Program]] = {
    "nnbackend": ours,
    "nnbackend, uncaptured": ours_uncaptured,
    "PyTorch eager": torch_eager,
    "PyTorch CUDA graph": torch_graph,
    "torch.compile reduce-overhead": torch_compiled,
    "JAX step": jax_step,
    "JAX scan": jax_scan,
}


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(program: str, task: Task, epochs: int) -> dict[str, Any]:
    """Run a program in this process. Return the seconds of each timed epoch, and the loss of the last."""
    seconds, loss = PROGRAMS[program](task)(epochs + 2)
    return {"us_per_step": [s / task.steps * 1e6 for s in seconds[1:]], "loss": loss}


def in_a_process(program: str, task: Task, epochs: int, limit: float) -> dict[str, Any]:
    request = json.dumps({"program": program, "task": asdict(task), "epochs": epochs})
    command = [sys.executable, __file__, "--one", request]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:.0f} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1][:300]}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    warned = [line.strip() for line in done.stderr.splitlines() if "CUDA graph" in line]
    return result | ({"warning": warned[0]} if warned else {})


def machine() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for name in ("numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "jax", "jaxlib", "triton"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    try:
        device = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        device = f"unknown ({error})"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device, driver, memory, clock": device,
        "versions": versions,
        "commit": os.environ.get("COMMIT") or commit(),
    }


def commit() -> str:
    try:
        where = Path(__file__).parent
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=where, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def begun(folder: Path, epochs: int, rounds: int) -> dict[str, Any]:
    """Return the record in `folder` if it is of this machine and commit, else a new one."""
    record: dict[str, Any] = {"machine": machine(), "epochs": epochs, "rounds": rounds, "runs": []}
    try:
        old = json.loads((folder / "gpu.json").read_text())
        alike = all(old[name] == record[name] for name in ("epochs", "rounds"))
        if alike and {**old["machine"], "date": ""} == {**record["machine"], "date": ""}:
            record["runs"] = old["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        lines = (folder / "tests.txt").read_text().strip().splitlines()
        record["tests"] = next(line for line in reversed(lines) if " in " in line).strip("= ")
    except (OSError, StopIteration):
        pass
    return record


def written(folder: Path, record: dict[str, Any]) -> None:
    (folder / "gpu.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / "gpu.md").write_text(table(record))


def table(record: dict[str, Any]) -> str:
    lines = ["# Training on a GPU", ""]
    about = record["machine"]
    lines += [f"- {key}: {value}" for key, value in about.items() if key != "versions"]
    lines += ["- versions: " + ", ".join(f"{name} {value}" for name, value in about["versions"].items())]
    lines += [f"- tests: {record['tests']}"] if "tests" in record else []
    lines += [
        f"- medians over {record['epochs']} epochs in each of {record['rounds']} processes; least and most beside"
    ]
    for run in record["runs"]:
        lines += [
            "",
            f"## {run['task']}",
            "",
            "| program | µs per step | samples per second | loss |",
            "|---|---|---|---|",
        ]
        for name, result in run["results"].items():
            if "error" in result:
                lines.append(f"| {name} | left out: {result['error'].replace('|', '/')} | | |")
                continue
            us = result["us_per_step"]
            middle, rate = statistics.median(us), run["batch"] / statistics.median(us) * 1e6
            note = f" ({result['warning'].replace('|', '/')})" if "warning" in result else ""
            lines.append(
                f"| {name}{note} | {middle:.1f} ({min(us):.1f} to {max(us):.1f}) | {rate:,.0f} | {result['loss']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu-record"))
    parser.add_argument("--epochs", type=int, default=9, help="on the clock, for each program (default: 9)")
    parser.add_argument("--rounds", type=int, default=2, help="times that every program has its turn (default: 2)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one program's turn (default: 120)")
    parser.add_argument("--minutes", type=float, default=7, help="for all of it; what is left is left out (default: 7)")
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--programs", nargs="*", default=list(PROGRAMS), choices=list(PROGRAMS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        request = json.loads(arguments.one)
        task = Task(**request["task"] | {"sizes": tuple(request["task"]["sizes"])})
        print(json.dumps(measure(request["program"], task, request["epochs"])))
        return

    arguments.folder.mkdir(parents=True, exist_ok=True)
    record = begun(arguments.folder, arguments.epochs, arguments.rounds)
    written(arguments.folder, record)
    tasks = [Task(*network, precision) for network in NETWORKS for precision in arguments.precisions]
    names = [task.name for task in tasks]
    record["runs"] = [run for run in record["runs"] if run["task"] not in names]
    record["runs"] += [{"task": task.name, "batch": task.batch, "results": {}} for task in tasks]
    results = {run["task"]: run["results"] for run in record["runs"]}
    deadline = time.monotonic() + 60 * arguments.minutes
    for _, task, name in itertools.product(range(arguments.rounds), tasks, arguments.programs):
        before = results[task.name].get(name)
        left = deadline - time.monotonic()
        if before is not None and ("error" in before or left < 0):
            continue
        new = in_a_process(name, task, arguments.epochs, min(arguments.limit, left)) if left > 0 else NO_TIME
        if before is not None and "us_per_step" in new:
            new["us_per_step"] = before["us_per_step"] + new["us_per_step"]
        results[task.name][name] = new if before is None or "error" not in new else before | {"warning": new["error"]}
        shown = new.get("error") or f"{statistics.median(new['us_per_step']):.1f} µs per step"
        print(f"{task.name}: {name}: {shown}", flush=True)
        written(arguments.folder, record)  # written now, so that a later failure loses nothing
    failed = any("error" in result for name in names for result in results[name].values())
    sys.exit(failed)


if __name__ == "__main__":
    main()
