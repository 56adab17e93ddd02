"""Measure the speed and the accuracy of NNClassifier and of scikit-learn's MLPClassifier, both with their defaults.

    pip install ".[bench]"
    python ci/bench/estimator.py --json record.json          about ten minutes on two cores
    python ci/bench/estimator.py --rows 5000 --repeats 1     a minute or two

The three tasks are digits, MNIST (784-100-10), and a table of 50 columns. The programs take turns, so that both share
the drift of the machine's speed. Seconds are medians over the repeats, each with a seed of its own. Scores are means of
the accuracy on held-out rows. All data is float32, with which MLPClassifier is fastest.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from programs import PAUSE
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nnbackend as nn
from nnbackend.estimator import NNClassifier

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, x_test, y_train, y_test

OURS = "NNClassifier"
PROGRAMS: dict[str, Callable[[int], ClassifierMixin]] = {
    OURS: lambda seed: NNClassifier(random_state=seed),
    "MLPClassifier": lambda seed: MLPClassifier(random_state=seed),
    "StandardScaler, MLPClassifier": lambda seed: make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)),
}


def digits(rows: int) -> Split:
    x, y = load_digits(return_X_y=True)
    return tuple(train_test_split((x / 16).astype("float32"), y, test_size=0.25, random_state=0, stratify=y))


def mnist(rows: int) -> Split:
    with nn.using("numpy"):
        data = nn.datasets.mnist()
    return data.x_train[:rows], data.x_test, data.t_train[:rows], data.t_test


def table(rows: int) -> Split:
    x, y = make_classification(
        min(rows, 100_000) + 20_000, 50, n_informative=20, n_classes=5, class_sep=1.0, random_state=0
    )
    return tuple(train_test_split(x.astype("float32"), y, test_size=20_000, random_state=0, stratify=y))


TASKS = {"digits": digits, "mnist": mnist, "table": table}


def measure(task: str, rows: int, repeats: int, skip: list[str]) -> dict[str, Any]:
    """Fit with each program in turn, `repeats` times. Print a table and return it."""
    x_train, x_test, y_train, y_test = TASKS[task](rows)
    names = [name for name in PROGRAMS if name not in skip]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, list[float]] = {name: [] for name in names}
    epochs: dict[str, int] = {}
    for seed in range(repeats):
        for name in names:
            program = PROGRAMS[name](seed)
            time.sleep(PAUSE)
            began = time.perf_counter()
            program.fit(x_train, y_train)
            seconds[name].append(time.perf_counter() - began)
            scores[name].append(float(program.score(x_test, y_test)))
            epochs[name] = (program[-1] if hasattr(program, "steps") else program).n_iter_
    result = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "min_max": [min(seconds[name]), max(seconds[name])],
            "score": statistics.mean(scores[name]),
            "scores": scores[name],
            "epochs": epochs[name],
        }
        for name in names
    }
    print(f"\n{task}: {len(x_train)} x {x_train.shape[1]}, {repeats} fits of each")
    print(f"  {'':32}{'seconds':>9}{'epochs':>8}{'accuracy':>10}{'ours is':>9}")
    for name, row in result.items():
        faster = f"{row['seconds'] / result[OURS]['seconds']:.1f}x" if OURS in result else ""
        print(f"  {name:32}{row['seconds']:9.2f}{row['epochs']:8}{row['score']:10.4f}{faster:>9}", flush=True)
    return {"task": task, "rows": len(x_train), "columns": x_train.shape[1], "programs": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rows", type=int, default=100_000, help="at most so many training rows (100000)")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each program (3)")
    parser.add_argument("--skip", nargs="*", choices=list(PROGRAMS), default=[], help="programs to leave out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    warnings.simplefilter("ignore", ConvergenceWarning)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("nnbackend", "numpy", "scikit-learn")
    )
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {versions}"
    print(machine)
    results = [measure(task, options.rows, options.repeats, options.skip) for task in options.tasks]
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
