"""Draw training runs and networks, in one common style.

The functions make matplotlib figures without pyplot. They need no display and change no global state.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnbackend import fonts
from nnbackend.backends import to_numpy
from nnbackend.checks import lengths, positive_integer
from nnbackend.errors import unknown_name
from nnbackend.evaluation import Evaluation, evaluate
from nnbackend.network import Network, check_network

__all__ = [
    "COLORS",
    "INK",
    "check_picture",
    "history_picture",
    "plot_confusion",
    "plot_filters",
    "plot_history",
    "plot_learning_rates",
    "plot_mistakes",
    "tidy",
]

SUFFIXES = (".png", ".svg", ".pdf")
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
)  # by Okabe and Ito; colour-blind readers can tell them apart
INK = "#404040"
_MISSING = 'pictures need matplotlib: pip install "nnbackend[plot]"'


class Curves(Protocol):
    """Holds the curves of a run, as nnbackend.History does: lists with one entry per epoch, or empty lists."""

    loss: list[float]
    accuracy: list[float]
    val_loss: list[float]
    val_accuracy: list[float]


def check_picture(path: str | os.PathLike[str]) -> None:
    """Check before a long training whether `plot_history` could write the file `path`.

    Raises ValueError for a suffix other than .png, .svg and .pdf, and ImportError if matplotlib is not installed.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(f"{os.fspath(path)}: {unknown_name('kind of picture', suffix, SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(_MISSING)


def plot_history(history: Curves, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw loss and, for a classifier, accuracy by epoch, for training and validation.

    path: the file to write (.png, .svg or .pdf), or None. Returns the matplotlib Figure, 900 x 400 pixels, or
    470 x 400 without accuracies. Raises ValueError for a history without epochs and for another suffix, ImportError
    (with the pip command) if matplotlib is not installed, and OSError if the file cannot be written.
    """
    if not history.loss:
        raise ValueError("history: it has no epochs, so there is nothing to draw")
    if path is not None:
        check_picture(path)
    panels = 2 if history.accuracy else 1
    figure = _figure(9 if panels == 2 else 4.7, 4)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.04)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _panel(axes[0], "Loss", "mean loss per sample", history.loss, history.val_loss, "{:.2g}")
    axes[0].set_ylim(bottom=0 if min([*history.loss, *history.val_loss]) >= 0 else None)
    if panels == 2:
        training, validation = ([100 * part for part in parts] for parts in (history.accuracy, history.val_accuracy))
        _panel(axes[1], "Accuracy", "correct samples (%)", training, validation, "{:.1f} %")
        axes[1].set_ylim(top=min(100.5, axes[1].get_ylim()[1]))
    if path is not None:
        figure.savefig(path)
    return figure


def history_picture(history: Curves) -> str:
    """Return the curves as an element of HTML, or nothing if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return ""
    png = base64.b64encode(plot_history(history)._repr_png_()).decode()
    return f'<img alt="loss and accuracy by epoch; the table has their values" src="data:image/png;base64,{png}">'


def plot_learning_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw the loss of each step by its learning rate, the smoothed loss, and the rate that is suggested.

    path: the file to write, or None. Returns the matplotlib Figure. Errors: as `plot_history`.
    """
    if path is not None:
        check_picture(path)
    figure = _figure(6, 4)
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color=COLORS[0], markersize=3, alpha=0.5, label="of each step")
    axes.plot(rates, smoothed, "-", color=COLORS[0], linewidth=1.8, label="smoothed")
    axes.axvline(suggestion, color=COLORS[1], linestyle="--", linewidth=1.5, label=f"steepest at {suggestion:.2g}")
    axes.set_xscale("log")
    tidy(axes, "Loss by learning rate", "learning rate", "mean loss per sample")
    axes.legend(fontsize=10, labelcolor=INK, edgecolor="none", framealpha=0.9)
    return _written(figure, path)


def _panel(axes: Any, title: str, label: str, training: list[float], validation: list[float], form: str) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = len(training)
    mark = {"markersize": 4.5, "markevery": max(1, epochs // 12), "linewidth": 1.8}
    for name, values, color, style, marker in (
        ("training", training, COLORS[0], "-", "o"),
        ("validation", validation, COLORS[1], "--", "s"),
    ):
        if values:  # the legend tells the last value, which another curve may hide
            text = f"{name}, last {form.format(values[-1])}"
            axes.plot(range(1, len(values) + 1), values, style, color=color, marker=marker, label=text, **mark)
    tidy(axes, title, "epoch", label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlim(1 - 0.04 * epochs, epochs + 0.04 * epochs)
    axes.legend(fontsize=10, labelcolor=INK, edgecolor="none", framealpha=0.9)


def tidy(axes: Any, title: str, x_label: str = "", y_label: str = "") -> None:
    """Give matplotlib axes the common style: a title, labels, a faint grid and no box."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.set_xlabel(x_label, fontsize=10, color=INK)
    axes.set_ylabel(y_label, fontsize=10, color=INK)
    axes.tick_params(which="both", labelsize=9, color="#B0B0B0", labelcolor=INK)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#B0B0B0")


# --- filters, confusion and mistakes -------------------------------------------------------------------------------


def plot_filters(
    network: Network,
    layer: str | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    count: int = 64,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw the weights of the units of a layer as images, red for positive and blue for negative weights.

    layer: the name of a layer ("Affine1"); by default the first layer that has weights W. shape: the shape of an
    image, (h, w) or (h, w, channels), for the columns of an Affine layer; by default a square. A Convolution's
    filters are images of (kh, kw). Three channels are drawn as colours. Of any other number, the first 16 are drawn
    side by side. count: the largest number of images; the first units are drawn. path: the file to write, or None.

    Returns the matplotlib Figure. Raises ValueError for an unknown layer and for weights that are not images, and the
    errors of `plot_history`.
    """
    positive_integer("count", count)
    check_network("network", network)
    layers = network.every_layer()
    weighted = [name for name, part in layers.items() if "W" in part.own_parameters()]
    if not weighted:
        raise ValueError("network: none of its layers has weights")
    name = weighted[0] if layer is None else layer
    if name not in weighted:
        raise ValueError(unknown_name("layer with weights", name, weighted))
    W = to_numpy(layers[name].own_parameters()["W"].data).astype(float)
    if W.ndim == 2:
        W = W.reshape(*_image_shape(W.shape[0], shape, f"{name}: shape"), W.shape[1])
    if W.ndim == 4 and W.shape[2] == 1:
        W = W[:, :, 0]
    channels = min(W.shape[2], 16) if W.ndim == 4 and W.shape[2] != 3 else 1
    filters = np.moveaxis(W, -1, 0)[: max(1, count // channels)]  # (units, h, w) or (units, h, w, channels)
    units, limit = len(filters), float(np.max(np.abs(filters))) or 1.0
    title = f"{name}: weights of {units} units" if units == W.shape[-1] else f"{name}: {units} of {W.shape[-1]} units"
    if channels > 1:
        title += f", by channel (the first {channels} of {W.shape[2]})" if channels < W.shape[2] else ", by channel"
        filters = np.moveaxis(filters[..., :channels], 3, 1).reshape(-1, *W.shape[:2])
    figure, cells = _tiles(len(filters), W.shape[0] / W.shape[1], title, channels if channels > 1 else None)
    shown = None
    for axes, image in zip(cells, filters, strict=False):
        if image.ndim == 3:
            axes.imshow(0.5 + 0.5 * image / limit, interpolation="nearest")
        else:
            shown = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    if shown is not None:
        bar = figure.colorbar(shown, ax=cells, fraction=0.03, pad=0.015, aspect=30)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=9, color="#B0B0B0", labelcolor=INK)
    return _written(figure, path)


def plot_confusion(
    evaluation: Evaluation,
    *,
    names: Sequence[str] | None = None,
    font: str | os.PathLike[str] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw a confusion matrix: counts, mistakes shaded by their fraction of the class, and the recall of each class.

    names: the names of the classes, by default their numbers. font: the name or the file of a font for the names; by
    default an installed font that has their characters. path: the file to write, or None.

    Returns the matplotlib Figure. Raises ValueError for an evaluation without classes, for a wrong number of names and
    for an unknown font, and the errors of `plot_history`.
    """
    _check_evaluation(evaluation, "an Evaluation")
    counts = evaluation.confusion
    if counts is None or evaluation.recall is None:
        raise ValueError("evaluation: it has no classes, so a confusion matrix cannot be drawn")
    classes = len(counts)
    labels = _class_names(names, classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mistakes = np.where(np.eye(classes, dtype=bool) | (counts == 0), np.nan, shares)
    side = max(3.2, 0.52 * classes)
    figure = _figure(side + 1.9, side + 1.2)
    axes = figure.subplots()
    axes.imshow(np.eye(classes), cmap="Greys", vmin=0, vmax=8)
    axes.imshow(mistakes, cmap="Oranges", vmin=0, vmax=1.3 * float(np.nanmax(mistakes, initial=1e-9)))
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            if count:
                weight = "bold" if i == j else "normal"
                axes.text(j, i, str(count), ha="center", va="center", fontsize=9, color="#202020", fontweight=weight)
    accuracy = "" if evaluation.accuracy is None else f", accuracy {100 * evaluation.accuracy:.2f} %"
    tidy(axes, f"Confusion{accuracy}", "taken for", "truth")
    axes.set_xticks(range(classes), labels)
    axes.set_yticks(range(classes), labels)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(classes), [f"{100 * share:.1f} %" for share in evaluation.recall])
    right.set_ylabel("recall", fontsize=10, color=INK)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a name may hold dollar signs
    for side_axes in (axes, right):
        side_axes.tick_params(length=0, labelsize=9, labelcolor=INK)
        side_axes.spines[:].set_visible(False)
    axes.grid(False)
    fonts.complete(figure, font)
    return _written(figure, path)


def plot_mistakes(
    evaluation: Evaluation | Network,
    x: Any,
    t: Any = None,
    *,
    shape: tuple[int, ...] | None = None,
    names: Sequence[str] | None = None,
    font: str | os.PathLike[str] | None = None,
    count: int = 24,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw the `count` worst mistakes as images, each with its true and its predicted class.

    evaluation: the evaluation of the rows x, or a network, which is then evaluated on x and t. shape: the shape of an
    image, (h, w) or (h, w, channels); by default the shape of a row of x, or a square if the rows are flat. names,
    font: as in `plot_confusion`. path: the file to write, or None.

    Returns the matplotlib Figure. Raises ValueError for an evaluation without classes or mistakes and for rows that are
    not images, and the errors of `plot_history`.
    """
    positive_integer("count", count)
    found = evaluate(evaluation, x, t) if isinstance(evaluation, Network) else evaluation
    _check_evaluation(found, "an Evaluation or a Network")
    if found.predicted is None or found.truth is None or found.confusion is None:
        raise ValueError("evaluation: it has no classes, so mistakes cannot be drawn")
    worst, labels = found.most_wrong[:count], _class_names(names, len(found.confusion))
    if not len(worst):
        raise ValueError("evaluation: it has no mistakes, so there is nothing to draw")
    rows, where, least = to_numpy(x), worst, len(found.losses)
    if found.places is not None:  # positions of sequences, or rows that the loss counts
        where, least = found.places[worst, 0], int(found.places[:, 0].max()) + 1
    if len(rows) < least or (found.places is None and len(rows) > least):
        raise ValueError(f"x has {len(rows)} rows, but the evaluation is of {least}")
    chosen = rows[where].astype(float)
    row_shape = tuple(rows.shape[1:])
    if shape is None and len(row_shape) in (2, 3):
        shape = row_shape
    images = chosen.reshape(len(worst), *_image_shape(math.prod(row_shape), shape, "shape"))
    low, high = float(chosen.min()), float(chosen.max())
    mistakes = int((found.predicted != found.truth).sum())
    title = f"The worst {len(worst)} of {mistakes} mistakes: truth \u2192 answer"
    figure, cells = _tiles(len(worst), images.shape[1] / images.shape[2], title, captions=True)
    for axes, image, row in zip(cells, images, worst, strict=False):
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        picture = image if image.ndim == 2 else (image - low) / ((high - low) or 1.0)
        axes.imshow(picture, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        truth, answer = labels[found.truth[row]], labels[found.predicted[row]]
        axes.set_title(f"{truth} \u2192 {answer}", fontsize=10, color=INK, pad=3, parse_math=False)
    fonts.complete(figure, font)
    return _written(figure, path)


def _check_evaluation(value: object, expected: str) -> None:
    if not isinstance(value, Evaluation):
        raise TypeError(f"evaluation: expected {expected}, got {type(value).__name__}")


def _class_names(names: Sequence[str] | None, classes: int) -> list[str]:
    labels = [str(name) for name in (range(classes) if names is None else names)]
    if len(labels) != classes:
        raise ValueError(f"names: expected {classes}, one for each class, got {len(labels)}")
    return labels


def _image_shape(size: int, shape: tuple[int, ...] | None, argument: str) -> tuple[int, ...]:
    """Return `shape` if it fits an image of `size` numbers, or a square for None. Raise ValueError if neither fits."""
    side = math.isqrt(size)
    if shape is None and side * side != size:
        raise ValueError(f"{argument}: {size} numbers are not a square image; pass (h, w) or (h, w, channels)")
    chosen = (side, side) if shape is None else lengths(argument, shape)
    if len(chosen) not in (2, 3) or math.prod(chosen) != size or (len(chosen) == 3 and chosen[2] not in (1, 3)):
        raise ValueError(f"{argument}: expected (h, w) or (h, w, 1 or 3) of {size} numbers, got {chosen}")
    return chosen


@cache
def _figure_class() -> Any:
    from matplotlib.figure import Figure

    class Picture(Figure):
        """Draws itself in a notebook, although pyplot does not know it."""

        def _repr_png_(self) -> bytes:
            written = io.BytesIO()
            self.savefig(written, format="png")
            return written.getvalue()

    return Picture


def _figure(width: float, height: float) -> Any:
    try:
        figure: Any = _figure_class()(figsize=(width, height), dpi=100, layout="constrained")
    except ImportError as error:
        raise ImportError(_MISSING) from error
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    return figure


def _written(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        check_picture(path)
        figure.savefig(path)
    return figure


def _tiles(
    count: int, aspect: float, title: str, columns: int | None = None, captions: bool = False
) -> tuple[Any, list[Any]]:
    """Return a figure and its axes: a grid without frames for `count` images of height / width `aspect`."""
    if columns is None:  # about 8 to 5, with few empty places
        ideal = max(1, round(math.sqrt(1.6 * count)))
        columns = min(range(min(ideal, count), min(ideal + 3, count + 1)), key=lambda k: (-count % k, k))
    lines = math.ceil(count / columns)
    tile = min(1.0, 12.0 / columns)
    width = columns * (tile + 0.06) + (0 if captions else 0.8)
    height = lines * (tile * aspect + (0.25 if captions else 0.05)) + 0.55
    figure = _figure(max(width, 0.3 + 0.095 * len(title)), max(1.6, height))
    cells = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure, cells
