"""Write a page about one run."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import array_api_compat
import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.diagnosis import Finding, diagnose
from nnbackend.files import write_atomically
from nnbackend.functions.array import Array
from nnbackend.network import Network, check_network
from nnbackend.report import answers as measure
from nnbackend.report import charts
from nnbackend.report.japanese import in_japanese
from nnbackend.report.layers import MEASURES, LayerRecord
from nnbackend.report.page import Context, Page, check_libraries, curve_figure
from nnbackend.report.runs import curves_of
from nnbackend.report.words import Text, check_language, distinct, number, numbers, said, word, words
from nnbackend.summary import summarize

HostArray = np.ndarray[Any, Any]

SHOWN = 24  # mistakes
FEATURES = 12  # of a row in a table
BARS = 30
DIAGNOSED = 1000  # rows
CELLS = 25  # classes up to which a confusion matrix is a table


def write_report(
    path: str | os.PathLike[str],
    network: Network,
    x: Any,
    t: Any,
    *,
    history: Any = None,
    layers: LayerRecord | None = None,
    classes: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    feature_scaling: Sequence[tuple[float, float]] | None = None,
    target_scaling: tuple[float, float] | None = None,
    findings: Sequence[Finding] = (),
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    command: str | None = None,
    failure: str | None = None,
    title: str | None = None,
    language: str = "en",
) -> None:
    """Write a page about a trained network: one HTML file, in English and Japanese, that needs no network connection.

    x, t: rows that were held out, and their targets; all results are of these. history: a History, or lists by name
    with a number for each epoch. layers: the LayerRecord that was a callback of the training. classes: their names, by
    default their numbers. features: the names of the columns of x. image_shape: (h, w) or (h, w, 3) if flat rows are
    images. feature_scaling, target_scaling: mean and deviation of each column of x, and of the targets, if they were
    scaled by them; the page shows them in their own unit. findings: what to say beside that which `diagnose` finds.
    data, settings: what the page says about them, by name. seconds: the time of the training, by default that
    of the history. command: the command that repeats the run. failure: the message of the error that ended the
    training. language: "en" or "ja", for readers whose browser prefers neither.

    Raises ValueError for data, names or a shape that do not fit, and for another language; ImportError, with the pip
    command, without Jinja2 or vl-convert; OSError, which names `path`, if it cannot be written.
    """
    check_libraries()
    check_language(language)
    check_network("network", network)
    x, t = network.data(x, t)
    with np.errstate(all="ignore"):  # the page says which values are not finite
        found = measure.answers(network, x, t).in_unit(target_scaling)
        diagnosed = _findings(network, x, t, findings)
    row = tuple(int(length) for length in x.shape[1:])
    shape = measure.image_shape(network, x, image_shape)
    names = _names("classes", classes, found.probabilities)
    columns = _columns(features, row)
    scaling = _scaling(feature_scaling, columns)
    curves = {} if history is None else curves_of(history)
    lines = max(map(len, curves.values()), default=0)
    spent = seconds if seconds is not None else sum(getattr(history, "seconds", None) or []) or None
    summary = summarize(network, None, input_shape=row)
    page = Page()
    context: Context = {
        "failure": failure,
        "trained": history is not None or layers is not None or failure is not None,
        "interrupted": bool(getattr(history, "interrupted", False)),
        "tiles": _tiles(found, None if history is None else lines, spent, summary.parameters),
        "curves": None if history is None else _curves(page, curves),
        "names": names,
        "confusion": _confusion(page, found, names),
        "mistakes": _mistakes(network, found, x, names, columns, scaling, shape),
        "calibration": _calibration(page, found),
        "regression": _regression(page, found),
        "filters": _filters(page, network, shape, columns),
        "over_time": None if layers is None or not layers.epochs else _over_time(page, layers),
        "network": [
            [word("input"), "", str(row), ""],
            *([a.name, a.settings, str(a.shape), f"{a.parameters:,}"] for a in summary.layers),
            [word("loss"), summary.loss, "", ""],
        ],
        "data": _data(data, x, found),
        "settings": [[name, said(value)] for name, value in (settings or {}).items() if value not in (None, ())],
        "versions": _versions(network),
        "command": command,
        **diagnosed,
    }
    heading: Text = word("report") if title is None else title
    sections = ["curves", "findings", "confusion", "mistakes", "calibration", "answers", "filters", "over time"]
    there = {"answers": context["regression"], "over time": context["over_time"]}
    contents = [key for key in sections if there.get(key, context.get(key, True)) is not None]
    contents += ["the network", "the data", "repeat"]
    write_atomically(path, page.html("run.html", heading, contents, language, context))


# --- the parts of a report ----------------------------------------------------------------------------------------


def _tiles(found: measure.Answers, epochs: int | None, seconds: float | None, parameters: int) -> list[list[Text]]:
    evaluation, tiles = found.evaluation, []
    if evaluation.accuracy is not None:
        tiles.append([word("right"), f"{evaluation.accuracy:.2%}"])
    tiles.append([word("mean loss"), number(evaluation.loss)])
    if found.outputs is not None and found.targets is not None and evaluation.accuracy is None:
        error, explained = measure.scores(found.outputs, found.targets)
        tiles.append([word("rms error"), number(error)])
        tiles += [] if explained is None else [[word("r2"), number(explained)]]
    tiles += [] if epochs is None else [[word("epochs"), str(epochs)]]
    tiles += [] if seconds is None else [[word("seconds"), f"{seconds:,.1f}" if seconds >= 10 else f"{seconds:.2g}"]]
    return [*tiles, [word("parameters"), f"{parameters:,}"]]


def _curves(page: Page, curves: Mapping[str, list[float]]) -> list[Context]:
    """Return a figure for each measure, with the curve of the training and that of the validation."""
    figures = []
    for kind in dict.fromkeys(name.removeprefix("val_") for name in curves):
        pair = {"training": kind, "validation": f"val_{kind}"}
        series = {name: (word(name), curves[key]) for name, key in pair.items() if key in curves}
        figures.append(curve_figure(page, word(kind) if kind in words() else kind, series))
    return figures


def _findings(network: Network, x: Array, t: Array, others: Sequence[Finding]) -> Context:
    rows = min(DIAGNOSED, int(x.shape[0]))
    found = diagnose(network, x[:rows, ...], t[:rows, ...])
    texts = {"rows": f"{rows:,}", "loss": number(found.loss), "constant": number(found.constant_loss)}
    findings = [
        {
            "layer": word(finding.layer) if finding.layer in ("output", "data") else finding.layer,
            "what": (finding.what, in_japanese(finding.what) or finding.what),
            "advice": (finding.advice, in_japanese(finding.advice) or finding.advice),
        }
        for finding in (*others, *found.findings)
    ]
    return {"findings": findings, "loss_in_words": texts}


def _confusion(page: Page, found: measure.Answers, names: Sequence[str]) -> Context | None:
    counts, evaluation = found.evaluation.confusion, found.evaluation
    if counts is None or evaluation.precision is None or evaluation.recall is None or evaluation.f1 is None:
        return None
    rows = counts.sum(axis=1)
    columns = (evaluation.precision, evaluation.recall, evaluation.f1)
    scores = [[names[i], *(f"{column[i]:.3f}" for column in columns), f"{int(rows[i]):,}"] for i in range(len(counts))]
    shares = counts / np.maximum(rows[:, None], 1)
    if len(counts) <= CELLS:
        cells = [
            [(int(n), round(float(s), 4)) for n, s in zip(a, b, strict=True)]
            for a, b in zip(counts, shares, strict=True)
        ]
        return {"cells": cells, "scores": scores, "map": None}
    worst = measure.confusions(counts)
    table = [[names[i], names[j], f"{n:,}", f"{shares[i, j]:.1%}"] for i, j, n in worst]
    title = word("confusion of many", classes=len(counts))
    head = [word("truth"), word("answer"), word("rows"), word("share of the class")]
    figure = page.figure(title, charts.confusion_map(counts, names), [title], head, table)
    return {"cells": [], "scores": scores, "map": figure}


def _mistakes(
    network: Network,
    found: measure.Answers,
    x: Array,
    names: Sequence[str],
    columns: Sequence[str],
    scaling: HostArray,
    shape: tuple[int, ...] | None,
) -> Context:
    """Return the worst mistakes, or the rows with the largest loss: as pictures if the rows are images."""
    evaluation = found.evaluation
    order = evaluation.most_wrong
    worst = order[:SHOWN]
    empty: Context = {"note": None, "pictures": [], "rows": [], "head": [], "cut": None}
    if evaluation.predicted is not None and len(order):
        empty["note"] = word("mistakes note", shown=len(worst), all=f"{len(order):,}")
    if not len(worst):
        return empty
    on = network.backend
    where = worst if evaluation.places is None else evaluation.places[worst, 0]
    with on.active():
        rows = to_numpy(on.xp.take(x, on.asarray(where, "int64"), axis=0)).astype(np.float64)
    entries: list[dict[str, Any]] = []
    for place, row in zip(worst.tolist(), where.tolist(), strict=True):
        entry: dict[str, Any] = {"row": str(row), "loss": number(evaluation.losses[place])}
        if evaluation.places is not None and evaluation.places[:, 1].any():
            entry["row"] = f"{row}: {evaluation.places[place, 1]}"  # the position in a sequence
        if found.probabilities is not None and evaluation.predicted is not None and evaluation.truth is not None:
            truth, answer = int(evaluation.truth[place]), int(evaluation.predicted[place])
            sure = f"{found.probabilities[place, answer]:.0%}"
            entry |= {"truth": names[truth], "answer": names[answer], "sure": sure}
        entries.append(entry)
    if shape is not None and (sources := measure.pictures(rows, shape)):
        pictures = []
        for source, entry in zip(sources, entries, strict=True):
            alt, caption = word("image in words", **entry), word("row and loss", **entry)
            if "truth" in entry:
                alt = word("mistake in words", **entry)
                caption = word("truth and answer", **entry)
            pictures.append({"source": source, "alt": alt, "caption": caption})
        return empty | {"pictures": pictures}
    head = [word("row"), word("loss")]
    if evaluation.predicted is not None:
        head += [word("truth"), word("answer"), word("sure")]
    several = found.targets is not None and found.targets.shape[1] <= 4
    if several:
        head += [word("target"), word("answer")]
    flat = (rows.reshape(len(rows), -1) * scaling[1] + scaling[0])[:, :FEATURES]
    table = []
    for entry, place, values in zip(entries, worst.tolist(), flat, strict=True):
        cells = [entry["row"], entry["loss"], *(entry[key] for key in ("truth", "answer", "sure") if key in entry)]
        if several:
            cells += [numbers(part[place]) for part in (found.targets, found.outputs) if part is not None]
        table.append([*cells, *map(number, values.tolist())])
    cut = None
    if len(columns) > FEATURES:
        cut = word("features shown", shown=FEATURES, all=f"{len(columns):,}")
    return empty | {"head": [*head, *columns[:FEATURES]], "rows": table, "cut": cut}


def _calibration(page: Page, found: measure.Answers) -> Context | None:
    evaluation, p = found.evaluation, found.probabilities
    if p is None or evaluation.predicted is None or evaluation.truth is None or not np.isfinite(p).all():
        return None
    confidence = np.take_along_axis(p, evaluation.predicted[:, None], axis=1)[:, 0]
    bins, error = measure.calibration(confidence, evaluation.predicted == evaluation.truth)
    rows = [[f"{b['confidence']:.1%}", f"{b['accuracy']:.1%}", f"{b['rows']:,}"] for b in bins]
    note = word("calibration note", error=f"{error:.1%}")
    head = [word("confidence"), word("accuracy"), word("rows")]
    return {"note": note, "figure": page.figure(word("calibration"), charts.reliability(bins), [note], head, rows)}


def _regression(page: Page, found: measure.Answers) -> Context | None:
    y, t = found.outputs, found.targets
    if y is None or t is None or found.evaluation.accuracy is not None or not np.isfinite(y).all():
        return None
    if y.shape[1] > 5:  # too many to tell apart
        y, t = y.reshape(-1, 1), t.reshape(-1, 1)
    shown = measure.some(len(y))
    note = word("answers note", shown=f"{len(shown):,}", all=f"{len(y):,}")
    names = [f"y{j}" for j in range(y.shape[1])]
    head = [word("row"), word("target"), word("answer")]
    rows = [[str(i), numbers(t[i]), numbers(y[i])] for i in shown[:100]]
    histogram = charts.errors(y, t)
    bins = [[number(b["from"]), number(b["to"]), f"{b['rows']:,}"] for b in histogram["data"]["values"]]
    return {
        "note": note,
        "against": page.figure(word("answers"), charts.against(t, y, shown, names), [note], head, rows),
        "errors": page.figure(
            word("errors"), histogram, [word("errors note")], [word("from"), word("to"), word("how many")], bins
        ),
    }


def _filters(page: Page, network: Network, shape: tuple[int, ...] | None, columns: Sequence[str]) -> Context | None:
    if found := measure.filters(network, shape):
        layer, units, pictures = found
        in_colour = len(shape or ()) == 3
        key = "filters in colour" if in_colour else "filters note"
        return {"note": word(key, layer=layer, shown=len(pictures), all=units), "pictures": pictures}
    weights = measure.feature_weights(network)
    if weights is None or len(weights[1]) != len(columns) or not np.isfinite(weights[1]).all():
        return None
    layer, sizes = weights
    order = np.argsort(-sizes, kind="stable")[:BARS].tolist()
    names = distinct([columns[i] for i in order])
    note = word("feature weights note", layer=layer)
    rows = [[name, number(sizes[i])] for name, i in zip(names, order, strict=True)]
    figure = page.figure(
        word("filters"),
        charts.bars(word("weight"), names, [float(sizes[i]) for i in order]),
        [note],
        [word("feature"), word("weight")],
        rows,
    )
    return {"note": note, "pictures": [], "figure": figure}


def _over_time(page: Page, record: LayerRecord) -> Context:
    # a layer that only passes on what it gets, as dropout outside training, is not shown
    every = np.stack([record.values(measured) for measured in MEASURES])
    same = partial(np.allclose, rtol=1e-5, atol=0.0, equal_nan=True)  # but for rounding
    own = [i for i in range(len(record.layers)) if i == 0 or not same(every[:, :, i], every[:, :, i - 1])]
    figures = []
    for key, measured in (
        ("outputs by layer", "output"),
        ("gradients by layer", "gradient"),
        ("zeros by layer", "zeros"),
    ):
        values = record.values(measured)
        shown = np.isfinite(values) & ((values > 0) | (measured != "zeros"))
        chosen = [i for i in own if shown[:, i].any()]
        series = {record.layers[i]: (record.layers[i], values[:, i].tolist()) for i in chosen}
        if series:
            figures.append(curve_figure(page, word(key), series, record.epochs))
    return {"rows": record.rows, "figures": figures}


def _data(given: Mapping[str, Any] | None, x: Array, found: measure.Answers) -> list[list[Text]]:
    rows: list[list[Text]] = [[word(name) if name in words() else name, said(v)] for name, v in (given or {}).items()]
    rows.append([word("evaluated rows"), f"{int(x.shape[0]):,}"])
    rows.append([word("shape of a row"), str(tuple(int(length) for length in x.shape[1:]))])
    if found.evaluation.confusion is not None:
        rows.append([word("classes"), f"{len(found.evaluation.confusion):,}"])
    return rows


def _versions(network: Network) -> list[list[Text]]:
    from nnbackend import __version__

    backend = network.backend
    versions: dict[str, Any] = {
        "nnbackend": __version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": np.__version__,
        "array-api-compat": array_api_compat.__version__,
        "backend": f"{backend.name} ({backend.device_name()})",
        **backend.arithmetic(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "seed": network.seed,
        "dtype": network.dtype,
    }
    return [[name, said(value)] for name, value in versions.items()]


def _names(argument: str, names: Sequence[str] | None, probabilities: HostArray | None) -> list[str]:
    """Return the names of the classes. Raise ValueError if there are too many or too few."""
    if probabilities is None:
        return []
    classes = probabilities.shape[1]
    chosen = [str(name) for name in (range(classes) if names is None else names)]
    if len(chosen) != classes:
        raise ValueError(f"{argument}: expected {classes} names, one for each class, got {len(chosen)}")
    return chosen


def _columns(features: Sequence[str] | None, row: tuple[int, ...]) -> list[str]:
    count = math.prod(row)
    chosen = [f"x{i}" for i in range(count)] if features is None else [str(name) for name in features]
    if len(chosen) != count:
        raise ValueError(f"features: expected {count} names, one for each column, got {len(chosen)}")
    return chosen


def _scaling(given: Sequence[tuple[float, float]] | None, columns: Sequence[str]) -> HostArray:
    """Return means and deviations of the columns: (2, columns)."""
    if given is None:
        return np.array([[0.0], [1.0]])
    found = np.asarray(given, np.float64)
    if found.shape != (len(columns), 2):
        raise ValueError(
            f"feature_scaling: expected a mean and a deviation for {len(columns)} columns, got {found.shape}"
        )
    return found.T
