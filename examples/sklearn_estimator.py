"""A network among scikit-learn's tools: a pipeline, a grid search, and the handwritten digits that it gets wrong.

The 1,797 digits of 8 x 8 pixels that come with scikit-learn. Principal components, then NNClassifier with its
defaults: the search chooses how many components and how many hidden units by cross-validation, and the digits that it
has not seen say how good the choice is. Some 98 or 99 % of them are right.

    python examples/sklearn_estimator.py    some ten seconds on a CPU; draws sklearn_estimator.png

The fits of the search are independent. `--on dask` or `--on ray` lets the workers of a cluster do them; `--address`
names its scheduler, and without it the workers are started on this machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from nnbackend.cli.parser import output_folder, positive
from nnbackend.estimator import NNClassifier
from nnbackend.plotting import INK, tidy

COMPONENTS, UNITS = (8, 16, 32, 64), (10, 30, 100, 300)


def search(x: np.ndarray, y: np.ndarray, epochs: int | None, folds: int, jobs: int) -> GridSearchCV:
    """The fitted search; prints what it found."""
    pipeline = make_pipeline(PCA(random_state=0), NNClassifier(epochs=epochs, random_state=0))
    grid = {"pca__n_components": COMPONENTS, "nnclassifier__hidden_layer_sizes": UNITS}
    found = GridSearchCV(pipeline, grid, cv=folds, n_jobs=jobs).fit(x, y)
    for chosen, accuracy in zip(found.cv_results_["params"], found.cv_results_["mean_test_score"], strict=True):
        print("{:3} units, {:2} components: {:.1%}".format(*chosen.values(), accuracy))
    return found


@contextmanager
def workers(kind: str, address: str | None) -> Iterator[None]:
    """Let the fits within the block run in processes of this machine, or on the workers of Dask or Ray."""
    if kind == "dask":
        from dask.distributed import Client

        with Client(address, dashboard_address=None), joblib.parallel_config("dask"):
            yield
    elif kind == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        ray.init(address)
        with joblib.parallel_config("ray"):
            yield
    else:
        yield


def draw(found: GridSearchCV, x: np.ndarray, y: np.ndarray, path: Path) -> None:
    """The accuracies of the search, and the digits of x that are not what y says."""
    accuracies = 100 * found.cv_results_["mean_test_score"].reshape(len(UNITS), len(COMPONENTS))
    guesses = found.predict(x)
    wrong = np.flatnonzero(guesses != y)

    figure = Figure(figsize=(10, 4.6), dpi=130, layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    axes.imshow(accuracies, cmap="Blues", origin="lower", aspect="auto")
    for (row, column), accuracy in np.ndenumerate(accuracies):
        dark = accuracy > (accuracies.min() + accuracies.max()) / 2
        axes.text(column, row, f"{accuracy:.1f}", ha="center", va="center", color="white" if dark else INK)
    axes.set_xticks(range(len(COMPONENTS)), COMPONENTS)
    axes.set_yticks(range(len(UNITS)), UNITS)
    tidy(axes, "Right answers in cross-validation (%)", "principal components", "hidden units")
    axes.grid(visible=False)

    right.suptitle(f"{len(wrong)} of {len(y)} unseen digits are taken for another", color=INK, fontweight="bold")
    for axes, i in zip(right.subplots(2, 3).flat, wrong[:6], strict=False):
        axes.imshow(x[i].reshape(8, 8), cmap="gray_r")
        axes.set_title(f"{y[i]}, taken for {guesses[i]}", fontsize=10, color=INK)
    for axes in right.axes:
        axes.set_axis_off()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=positive, help="passes over the data (what NNClassifier chooses)")
    parser.add_argument("--folds", type=positive, default=5, help="of the cross-validation (5)")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time (1)")
    parser.add_argument("--on", choices=["processes", "dask", "ray"], default="processes", help="who does the fits")
    parser.add_argument("--address", help="scheduler of the cluster, such as tcp://10.0.0.1:8786")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)

    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)
    with workers(options.on, options.address):
        found = search(x_train, y_train, options.epochs, options.folds, options.jobs)
    print("best: {} units, {} components".format(*found.best_params_.values()))
    print(f"{found.score(x_test, y_test):.1%} of {len(y_test)} digits that it has not seen are right")
    path = options.out / "sklearn_estimator.png"
    draw(found, x_test, y_test, path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
