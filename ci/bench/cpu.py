"""Measure how fast this library and its peers train and predict on a CPU, in one run.

    pip install ".[bench]"
    python ci/bench/cpu.py --json record.json --plot picture.png

All programs train the same networks on the same MNIST images. They take turns, an epoch each, so that all share the
drift of the machine's speed. Figures are medians over the epochs. The first epoch of each program (compiling, warming
up) is not timed. Before each turn is a pause, in which the threads of the last program stop to spin. A library that is
not installed is left out, by name.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

# These variables limit OpenBLAS to the kernels of an older processor, for the same bits on all machines. Programs that
# use NumPy would then run at half their speed, and the peers at their full speed.
HELD = {name: value for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if (value := os.environ.pop(name, None))}

import numpy as np  # noqa: E402  (it reads the environment)
from programs import PAUSE, PROGRAMS, THREADS, JaxScan, Keras, Ours, Products, Sklearn, Task, Torch  # noqa: E402

import nnbackend as nn  # noqa: E402

NETWORKS = (((784, 50, 10), 100), ((784, 256, 128, 10), 128), ((784, 1024, 1024, 10), 256))
LIBRARIES = {"nnbackend": "nnbackend", "PyTorch": "torch", "JAX": "jax", "scikit-learn": "sklearn", "thinc": "thinc"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5, help="epochs on the clock (default: 5)")
    parser.add_argument("--rows", type=int, default=60_000, help="training rows; the large network takes a quarter")
    parser.add_argument("--networks", type=int, nargs="*", default=[0, 1, 2], help="which of the three networks")
    parser.add_argument("--skip", nargs="*", default=[], help="names of programs to leave out")
    parser.add_argument("--until", type=float, default=0.98, help="train to this test accuracy (default: 0.98; 0: not)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    data = nn.datasets.mnist()
    x, t = np.ascontiguousarray(data.x_train), np.ascontiguousarray(data.t_train)
    record: dict[str, Any] = {"machine": machine(), "data": data.source, "training": [], "missing": {}}
    print(f"{record['machine']}\ndata: {data.source}, {len(x)} rows")
    if HELD:
        print(f"not heeded: {' '.join(f'{name}={value}' for name, value in HELD.items())}")
    for number in arguments.networks:
        sizes, batch = NETWORKS[number]
        rows = arguments.rows // 4 if number == 2 else arguments.rows
        for optimizer in ("sgd", "adam"):
            task = Task(sizes, batch, optimizer, x[:rows], t[:rows])
            record["training"].append(train(task, arguments.epochs, arguments.skip, record["missing"]))
    record["prediction"] = predict(x, t, arguments.skip)
    record["numerical"] = numerical(x, t)
    if arguments.until:
        record["until"] = until(data, arguments.until, arguments.skip, record["missing"])
    record["import"] = imports()
    record["size"] = sizes_installed()
    record["memory"] = peak_memory(arguments.skip)
    for name, cause in record["missing"].items():
        print(f"left out: {name} ({cause})")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.plot:
        draw(record, arguments.plot)


def train(task: Task, epochs: int, skip: list[str], missing: dict[str, str]) -> dict[str, Any]:
    """Train with each program in turn, `epochs` times. Return medians in microseconds per step."""
    programs = []
    for kind in (*PROGRAMS, Products):
        if kind.name in skip:
            continue
        try:
            program = kind(task)
            program.epoch()
        except Exception as error:
            missing[kind.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            continue
        programs.append(program)
    seconds: dict[str, list[float]] = {program.name: [] for program in programs}
    losses: dict[str, float] = {}
    for _ in range(epochs):
        for program in programs:
            time.sleep(PAUSE)
            began = time.perf_counter()
            losses[program.name] = program.epoch()
            seconds[program.name].append((time.perf_counter() - began) / task.steps)
    us = {name: statistics.median(values) * 1e6 for name, values in seconds.items()}
    print(f"\n{'-'.join(map(str, task.sizes))}, batch {task.batch}, {task.optimizer}")
    print(f"  {'':24}{'us/step':>9}{'samples/s':>12}{'ours is':>10}{'over products':>15}{'loss':>9}")
    for name, value in us.items():
        faster = f"{value / us[Ours.name]:.2f}x"
        print(
            f"  {name:24}{value:9.0f}{task.batch / value * 1e6:12,.0f}{faster:>10}"
            f"{value / us[Products.name]:15.2f}{losses[name]:9.4f}"
        )
    spread = {name: [min(values) * 1e6, max(values) * 1e6] for name, values in seconds.items()}
    return {
        "network": task.sizes,
        "batch": task.batch,
        "optimizer": task.optimizer,
        "us_per_step": us,
        "min_max": spread,
        "loss": losses,
    }


def predict(x: np.ndarray, t: np.ndarray, skip: list[str]) -> dict[str, dict[str, float]]:
    """Predict 1 and 10,000 rows with 784-50-10, in turn. Return medians in microseconds per call."""
    task = Task((784, 50, 10), 100, "sgd", x[:2000], t[:2000])
    programs = []
    for kind in PROGRAMS:
        if kind.name in skip or kind.name in ("PyTorch eager, foreach", "torch.compile", "JAX scan"):
            continue  # they predict like other programs of their library
        try:
            program = kind(task)
            program.epoch()
            programs.append(program)
        except Exception:
            continue
    result: dict[str, dict[str, float]] = {program.name: {} for program in programs}
    for rows, rounds, calls in ((1, 15, 200), (10_000, 15, 3)):
        batch = np.ascontiguousarray(x[:rows])
        times: dict[str, list[float]] = {program.name: [] for program in programs}
        for round_ in range(rounds + 1):
            for program in programs:
                time.sleep(PAUSE)
                began = time.perf_counter()
                for _ in range(calls):
                    program.predict(batch)
                if round_:
                    times[program.name].append((time.perf_counter() - began) / calls * 1e6)
        for name, values in times.items():
            result[name][str(rows)] = statistics.median(values)
    print("\nprediction, 784-50-10: us for one row, us for 10,000 rows")
    for name, values in result.items():
        print(f"  {name:24}" + "".join(f"{values[rows]:12.1f}" for rows in ("1", "10000")))
    return result


def until(data: nn.datasets.Dataset, goal: float, skip: list[str], missing: dict[str, str]) -> dict[str, Any]:
    """Seconds until `goal` of the test images are right: 784-256-128-10 with Adam, evaluated after every epoch.

    The clock runs from the making of the network (compiling is in it, importing is not). Every library gets the best of
    six settings: each is tried once, and the fastest three times more, of which the median counts.
    """
    x, t = np.ascontiguousarray(data.x_train), np.ascontiguousarray(data.t_train)
    x_test = np.ascontiguousarray(data.x_test)

    def seconds(kind: Any, batch: int, rate: float) -> tuple[float, int]:
        began = time.perf_counter()
        program = kind(Task((784, 256, 128, 10), batch, "adam", x, t, rate))
        for epoch in range(1, 21):
            program.epoch()
            if np.mean(np.argmax(np.asarray(program.predict(x_test)), axis=1) == data.t_test) >= goal:
                return time.perf_counter() - began, epoch
        return float("inf"), 20

    print(f"\nseconds until {goal:.0%} of {len(x_test)} test images, {len(x)} training images (784-256-128-10, Adam)")
    print(f"  {'':24}{'seconds':>9}{'ours is':>10}{'epochs':>8}{'batch':>7}{'rate':>8}")
    result: dict[str, Any] = {}
    for kind in (Ours, Torch, JaxScan, Sklearn, Keras):
        if kind.name in skip:
            continue
        try:
            kind(Task((784, 256, 128, 10), 128, "adam", x[:1280], t[:1280])).epoch()  # imports, and what is made once
        except Exception as error:
            missing[kind.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
            continue
        tried = {setting: seconds(kind, *setting) for setting in product((64, 128, 256), (1e-3, 2e-3))}
        setting = min(tried, key=lambda setting: tried[setting][0])
        again = sorted(seconds(kind, *setting) for _ in range(3))
        taken, epochs = again[1]
        result[kind.name] = {"seconds": taken, "all": again, "epochs": epochs, "batch": setting[0], "lr": setting[1]}
        faster = f"{taken / result[Ours.name]['seconds']:.2f}x" if Ours.name in result else ""
        print(f"  {kind.name:24}{taken:9.2f}{faster:>10}{epochs:8}{setting[0]:7}{setting[1]:8.0e}")
    return result


def numerical(x: np.ndarray, t: np.ndarray, rounds: int = 3, elements: int = 1000) -> dict[str, float]:
    """Seconds of the numerical gradient of 784-50-10 for 100 rows, beside plain NumPy, in turn; medians.

    Plain NumPy runs the whole network twice for an element of a parameter, in float64. It does so for `elements` of the
    39,760, in one buffer, and its time is multiplied. The last column is the largest error of ours, relative to
    backpropagation in float64.
    """
    net = nn.TwoLayerNet(784, 50, 10, weight_init_std=0.1, backend="numpy")
    batch, labels, size = x[:100], t[:100], net.buffer.data.size
    exact = net.to("numpy", "float64").gradient(batch, labels)
    W1, b1, W2, b2 = (net.params[name].astype("float64") for name in ("W1", "b1", "W2", "b2"))
    wide = batch.astype("float64")

    def loss() -> float:
        y = 1 / (1 + np.exp(-(wide @ W1 + b1))) @ W2 + b2
        y -= y.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(y).sum(axis=1)) - y[np.arange(len(labels)), labels]))

    def plain() -> None:
        flat, h = W1.reshape(-1), 1e-4
        for i in range(0, flat.size, flat.size // elements):
            before = flat[i]
            flat[i] = before + h
            above = loss()
            flat[i] = before - h
            found = (above - loss()) / (2 * h)
            flat[i] = before
            assert abs(found - exact["W1"].reshape(-1)[i]) < 1e-6

    times: dict[str, list[float]] = {"nnbackend": [], "plain NumPy": []}
    for _ in range(rounds):
        time.sleep(PAUSE)
        began = time.perf_counter()
        found = net.numerical_gradient(batch, labels)
        times["nnbackend"].append(time.perf_counter() - began)
        time.sleep(PAUSE)
        began = time.perf_counter()
        plain()
        tried = len(range(0, W1.size, W1.size // elements))
        times["plain NumPy"].append((time.perf_counter() - began) * size / tried)
    result = {name: statistics.median(values) for name, values in times.items()}
    most = max(float(np.abs(g).max()) for g in exact.values())
    result["error"] = max(float(np.abs(found[name] - exact[name]).max()) for name in exact) / most
    faster = result["plain NumPy"] / result["nnbackend"]
    print("\nnumerical gradient, 784-50-10, 100 rows: seconds")
    print(f"  nnbackend {result['nnbackend']:.3f}, plain NumPy {result['plain NumPy']:.2f} ({faster:.1f}x)", end="")
    print(f", largest error {result['error']:.1e} of the largest element")
    return result


def imports(rounds: int = 7) -> dict[str, float]:
    """Return the median seconds that the import of each library adds to a fresh interpreter, measured in turn."""
    code = {"nothing": "pass", "NumPy": "import numpy", **{k: f"import {v}" for k, v in LIBRARIES.items()}}
    code["scikit-learn"] = "from sklearn.neural_network import MLPClassifier"
    code["JAX"] = "import jax, jax.numpy"
    code["thinc"] = "import thinc.api"
    times: dict[str, list[float]] = {name: [] for name in code}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as for users
    for round_ in range(rounds + 1):
        for name, statement in list(code.items()):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", statement], capture_output=True, check=False, env=kept)
            if done.returncode:
                del code[name], times[name]
            elif round_:
                times[name].append(time.perf_counter() - began)
    base = statistics.median(times.pop("nothing"))
    result = {name: statistics.median(values) - base for name, values in times.items()}
    print("\nimport, seconds beyond an empty interpreter")
    for name, value in result.items():
        print(f"  {name:24}{value:9.3f}{value / result['NumPy']:9.2f} of NumPy's")
    return result


def sizes_installed() -> dict[str, float]:
    """Return the megabytes of each library's own files, without its dependencies."""
    result = {}
    for name, distribution in {**LIBRARIES, "JAX": "jaxlib", "scikit-learn": "scikit-learn"}.items():
        try:
            if name == "nnbackend":  # an editable install lists no files of its own
                files = [path for path in Path(nn.__file__).parent.rglob("*") if "__pycache__" not in path.parts]
            else:
                listed = importlib.metadata.files(distribution) or []
                files = [Path(str(file.locate())) for file in listed if "__pycache__" not in str(file)]
        except importlib.metadata.PackageNotFoundError:
            continue
        result[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    print("\ninstalled size, MB")
    for name, value in result.items():
        print(f"  {name:24}{value:9.1f}")
    return result


def peak_memory(skip: list[str]) -> dict[str, float]:
    """Return the peak resident megabytes of a process that trains 784-256-128-10 for an epoch of Adam (Linux only)."""
    program = (
        "import sys; sys.path.insert(0, {folder!r}); import numpy as np, nnbackend as nn, programs\n"
        "d = nn.datasets.mnist(); task = programs.Task((784, 256, 128, 10), 128, 'adam', d.x_train, d.t_train)\n"
        "programs.{kind}(task).epoch()\n"  # getrusage would include the parent's peak
        "print([int(line.split()[1]) / 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    result = {}
    for kind in PROGRAMS:
        if kind.name not in skip:
            code = program.format(folder=str(Path(__file__).parent), kind=kind.__name__)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                result[kind.name] = float(done.stdout.split()[-1])
    print("\npeak memory, MB (784-256-128-10, Adam, one epoch)")
    for name, value in result.items():
        print(f"  {name:24}{value:9.0f}")
    return result


def machine() -> str:
    versions = []
    for name in ("nnbackend", "numpy", "torch", "jax", "scikit-learn", "thinc"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    loops = "with" if "nnbackend.backends.numpy.native" in sys.modules else "without"
    versions[0] += f" ({loops} its loops in C)"
    return f"{model}, {THREADS} threads, Python {platform.python_version()}, {', '.join(versions)}"


def draw(record: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    runs = record["training"]
    figure = Figure(figsize=(4 * max(1, len(runs) // 2), 6.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(2, max(1, len(runs) // 2), squeeze=False).T.reshape(-1))
    for ax, run in zip(axes, runs, strict=False):
        us = run["us_per_step"]
        names = sorted(us, key=us.__getitem__, reverse=True)
        colours = [
            "#0072B2" if name == Ours.name else "#999999" if name == Products.name else "#E69F00" for name in names
        ]
        ax.barh(names, [us[name] for name in names], color=colours)
        ax.set_title(f"{'-'.join(map(str, run['network']))}, batch {run['batch']}, {run['optimizer']}", fontsize=10)
        ax.set_xlabel("µs per step (less is better)")
        ax.locator_params(axis="x", nbins=4)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
