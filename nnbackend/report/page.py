"""Write pages: a report of one run, and a comparison of several."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from nnbackend.backends import to_numpy
from nnbackend.diagnosis import diagnose
from nnbackend.files import write_atomically
from nnbackend.network import Network
from nnbackend.report import answers as measure
from nnbackend.report import charts
from nnbackend.report.charts import Spec, Text, word
from nnbackend.report.japanese import in_japanese
from nnbackend.report.layers import LayerRecord
from nnbackend.report.runs import Run, curves_of
from nnbackend.report.words import LANGUAGES, told, words
from nnbackend.summary import summarize

if TYPE_CHECKING:
    from markupsafe import Markup

HostArray = np.ndarray[Any, Any]
Context = dict[str, Any]

SHOWN = 24  # mistakes
FEATURES = 12  # of a row in a table
BARS = 30
CELLS = 25  # classes up to which a confusion matrix is a table
_MISSING = 'a report needs Jinja2 and vl-convert: pip install "nnbackend[report]"'


def check_libraries() -> None:
    """Raise ImportError, with the pip command, if the libraries that pages need are not installed."""
    if not all(importlib.util.find_spec(name) for name in ("jinja2", "vl_convert")):
        raise ImportError(_MISSING)


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
    images. data, settings: what the page says about them, by name. seconds: the time of the training, by default that
    of the history. command: the command that repeats the run. failure: the message of the error that ended the
    training. language: "en" or "ja", for readers whose browser prefers neither.

    Raises ValueError for data, names or a shape that do not fit, and for another language; ImportError, with the pip
    command, without Jinja2 or vl-convert; OSError, which names `path`, if it cannot be written.
    """
    check_libraries()
    _check_language(language)
    if not isinstance(network, Network):
        raise TypeError(f"network: expected a Network, got {type(network).__name__}")
    x, t = network.data(x, t)
    with np.errstate(all="ignore"):  # the page says which values are not finite
        found = measure.answers(network, x, t)
        diagnosed = _findings(network, x, t)
    row = tuple(int(length) for length in x.shape[1:])
    shape = measure.image_shape(network, x, image_shape)
    names = _names("classes", classes, found.probabilities)
    columns = _columns(features, row)
    curves = {} if history is None else curves_of(history)
    lines = max(map(len, curves.values()), default=0)
    spent = seconds if seconds is not None else sum(getattr(history, "seconds", None) or []) or None
    summary = summarize(network, None, input_shape=row)
    page = _Page()
    context: Context = {
        "failure": failure,
        "interrupted": bool(getattr(history, "interrupted", False)),
        "tiles": _tiles(found, lines, spent, summary.parameters),
        "curves": _curves(page, curves),
        "names": names,
        "confusion": _confusion(page, found, names),
        "mistakes": _mistakes(network, found, x, t, names, columns, shape),
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
        "settings": [[name, _said(value)] for name, value in (settings or {}).items()],
        "versions": _versions(network),
        "command": command,
        **diagnosed,
    }
    heading: Text | tuple[str, str] = word("report") if title is None else title
    sections = ["curves", "findings", "confusion", "mistakes", "calibration", "answers", "filters", "over time"]
    there = {"answers": context["regression"], "over time": context["over_time"]}
    contents = [key for key in sections if there.get(key, context.get(key, True)) is not None]
    contents += ["the network", "the data", "repeat"]
    write_atomically(path, page.html("run.html", heading, contents, language, context))


def write_comparison(
    path: str | os.PathLike[str], runs: Sequence[Run], *, title: str | None = None, language: str = "en"
) -> None:
    """Write a page that compares runs: one HTML file that needs no network connection.

    runs: at least one, from `read_run`. title, language: as in `write_report`.
    Raises ValueError for no runs and for another language, and the ImportError and OSError of `write_report`.
    """
    check_libraries()
    _check_language(language)
    if not runs:
        raise ValueError("runs: at least one is needed")
    names = _distinct([run.name for run in runs])
    page = _Page()
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.curves))
    kinds.sort(key=lambda kind: not kind.startswith("val_"))  # they matter most
    figures = []
    for kind in kinds:
        series = {name: (name, run.curves[kind]) for name, run in zip(names, runs, strict=True) if kind in run.curves}
        figures.append(_curve_figure(page, _curve_title(kind), series))
    results = list(dict.fromkeys(name for run in runs for name in run.results))
    head = [word("run"), word("epochs")]
    head += [word("best" if _directed(kind) else "last", name=_curve_title(kind)) for kind in kinds]
    head += [word(name) if name in words() else name for name in results]
    rows = []
    for name, run in zip(names, runs, strict=True):
        cells: list[Any] = [name, str(max(map(len, run.curves.values()), default=0))]
        cells += [_best(kind, run.curves.get(kind, [])) for kind in kinds]
        rows.append([*cells, *(_number(run.results.get(result)) for result in results)])
    settings = list(dict.fromkeys(name for run in runs for name in run.settings))
    values = {name: [_said(run.settings.get(name, "")) for run in runs] for name in settings}
    context: Context = {
        "head": head,
        "rows": rows,
        "curves": figures,
        "differences_head": [word("setting"), *names],
        "differences": [[name, *said] for name, said in values.items() if len(set(said)) > 1],
        "same": [[name, said[0]] for name, said in values.items() if len(set(said)) == 1],
    }
    heading: Text = word("comparison") if title is None else title
    write_atomically(path, page.html("comparison.html", heading, ["runs", "curves", "differences"], language, context))


# --- the parts of a report ----------------------------------------------------------------------------------------


def _tiles(found: measure.Answers, epochs: int, seconds: float | None, parameters: int) -> list[list[Any]]:
    evaluation, tiles = found.evaluation, []
    if evaluation.accuracy is not None:
        tiles.append([word("right"), f"{evaluation.accuracy:.2%}"])
    tiles.append([word("mean loss"), _number(evaluation.loss)])
    if found.outputs is not None and found.targets is not None and evaluation.accuracy is None:
        error, explained = measure.scores(found.outputs, found.targets)
        tiles.append([word("rms error"), _number(error)])
        tiles += [] if explained is None else [[word("r2"), _number(explained)]]
    tiles.append([word("epochs"), str(epochs)])
    tiles += [] if seconds is None else [[word("seconds"), f"{seconds:,.1f}" if seconds >= 10 else f"{seconds:.2g}"]]
    return [*tiles, [word("parameters"), f"{parameters:,}"]]


def _curves(page: _Page, curves: Mapping[str, list[float]]) -> list[Context]:
    """Return a figure for each measure, with the curve of the training and that of the validation."""
    figures = []
    for kind in dict.fromkeys(name.removeprefix("val_") for name in curves):
        pair = {"training": kind, "validation": f"val_{kind}"}
        series = {name: (word(name), curves[key]) for name, key in pair.items() if key in curves}
        figures.append(_curve_figure(page, word(kind) if kind in words() else kind, series))
    return figures


def _curve_figure(
    page: _Page, title: Any, series: Mapping[str, tuple[Any, Sequence[float]]], epochs: Sequence[int] = ()
) -> Context:
    numbers = list(epochs) or list(range(1, 1 + max(len(values) for _, values in series.values())))
    rows = [
        [str(epoch), *(_number(values[i]) if i < len(values) else "" for _, values in series.values())]
        for i, epoch in enumerate(numbers)
    ]
    return page.figure(
        title,
        charts.by_epoch(title, series, numbers),
        [_curve_in_words(name, values, numbers) for name, values in series.values()],
        [word("epoch"), *(name for name, _ in series.values())],
        rows,
    )


def _curve_in_words(name: Any, values: Sequence[float], epochs: Sequence[int]) -> Text:
    finite = [value for value in values if math.isfinite(value)] or [math.nan]
    ends = {"first": values[0], "last": values[-1], "least": min(finite), "most": max(finite)}
    said = {key: _number(value) for key, value in ends.items()}
    return word("curve in words", name=name, begin=epochs[0], end=epochs[len(values) - 1], **said)


def _findings(network: Network, x: Any, t: Any) -> Context:
    some = slice(0, 1000)
    found = diagnose(network, x[some, ...], t[some, ...])
    rows = min(1000, int(x.shape[0]))
    said = {"rows": f"{rows:,}", "loss": _number(found.loss), "constant": _number(found.constant_loss)}
    findings = [
        {
            "layer": word("output") if finding.layer == "output" else finding.layer,
            "what": (finding.what, in_japanese(finding.what) or finding.what),
            "advice": (finding.advice, in_japanese(finding.advice) or finding.advice),
        }
        for finding in found.findings
    ]
    return {"findings": findings, "loss_in_words": said}


def _confusion(page: _Page, found: measure.Answers, names: Sequence[str]) -> Context | None:
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
    x: Any,
    t: Any,
    names: Sequence[str],
    columns: Sequence[str],
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
    with on.active():
        rows = to_numpy(on.xp.take(x, on.asarray(worst, "int64"), axis=0)).astype(np.float64)
    entries: list[dict[str, Any]] = []
    for place in worst.tolist():
        entry: dict[str, Any] = {"row": place, "loss": _number(evaluation.losses[place])}
        if found.probabilities is not None and evaluation.predicted is not None and evaluation.truth is not None:
            truth, answer = int(evaluation.truth[place]), int(evaluation.predicted[place])
            sure = f"{found.probabilities[place, answer]:.0%}"
            entry |= {"truth": names[truth], "answer": names[answer], "sure": sure}
        entries.append(entry)
    if shape is not None and (sources := measure.pictures(rows, shape)):
        pictures = []
        for source, entry in zip(sources, entries, strict=True):
            alt, caption = word("image in words", **entry), f"{entry['row']}: {entry['loss']}"
            if "truth" in entry:
                alt = word("mistake in words", **entry)
                caption = f"{entry['truth']} → {entry['answer']} ({entry['sure']})"
            pictures.append({"source": source, "alt": alt, "caption": caption})
        return empty | {"pictures": pictures}
    head = [word("row"), word("loss")]
    if evaluation.predicted is not None:
        head += [word("truth"), word("answer"), word("sure")]
    several = found.targets is not None and found.targets.shape[1] <= 4
    if several:
        head += [word("target"), word("answer")]
    flat = rows.reshape(len(rows), -1)[:, :FEATURES]
    table = []
    for entry, place, values in zip(entries, worst.tolist(), flat, strict=True):
        cells = [str(entry["row"]), entry["loss"], *(entry[key] for key in ("truth", "answer", "sure") if key in entry)]
        if several:
            cells += [_numbers(part[place]) for part in (found.targets, found.outputs) if part is not None]
        table.append([*cells, *map(_number, values.tolist())])
    cut = None
    if len(columns) > FEATURES:
        cut = word("features shown", shown=FEATURES, all=f"{len(columns):,}")
    return empty | {"head": [*head, *columns[:FEATURES]], "rows": table, "cut": cut}


def _calibration(page: _Page, found: measure.Answers) -> Context | None:
    evaluation, p = found.evaluation, found.probabilities
    if p is None or evaluation.predicted is None or evaluation.truth is None or not np.isfinite(p).all():
        return None
    confidence = np.take_along_axis(p, evaluation.predicted[:, None], axis=1)[:, 0]
    bins, error = measure.calibration(confidence, evaluation.predicted == evaluation.truth)
    rows = [[f"{b['confidence']:.1%}", f"{b['accuracy']:.1%}", f"{b['rows']:,}"] for b in bins]
    note = word("calibration note", error=f"{error:.1%}")
    head = [word("confidence"), word("accuracy"), word("rows")]
    return {"note": note, "figure": page.figure(word("calibration"), charts.reliability(bins), [note], head, rows)}


def _regression(page: _Page, found: measure.Answers) -> Context | None:
    y, t = found.outputs, found.targets
    if y is None or t is None or found.evaluation.accuracy is not None or not np.isfinite(y).all():
        return None
    if y.shape[1] > 5:  # too many to tell apart
        y, t = y.reshape(-1, 1), t.reshape(-1, 1)
    shown = measure.some(len(y))
    note = word("answers note", shown=f"{len(shown):,}", all=f"{len(y):,}")
    names = [f"y{j}" for j in range(y.shape[1])]
    head = [word("row"), word("target"), word("answer")]
    rows = [[str(i), _numbers(t[i]), _numbers(y[i])] for i in shown[:100]]
    histogram = charts.errors(y, t)
    bins = [[_number(b["from"]), _number(b["to"]), f"{b['rows']:,}"] for b in histogram["data"]["values"]]
    return {
        "note": note,
        "against": page.figure(word("answers"), charts.against(t, y, shown, names), [note], head, rows),
        "errors": page.figure(
            word("errors"), histogram, [word("errors note")], [word("from"), word("to"), word("how many")], bins
        ),
    }


def _filters(page: _Page, network: Network, shape: tuple[int, ...] | None, columns: Sequence[str]) -> Context | None:
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
    names = _distinct([columns[i] for i in order])
    note = word("feature weights note", layer=layer)
    rows = [[name, _number(sizes[i])] for name, i in zip(names, order, strict=True)]
    figure = page.figure(
        word("filters"),
        charts.bars(word("weight"), names, [float(sizes[i]) for i in order]),
        [note],
        [word("feature"), word("weight")],
        rows,
    )
    return {"note": note, "pictures": [], "figure": figure}


def _over_time(page: _Page, record: LayerRecord) -> Context:
    figures = []
    for key, measured in (
        ("outputs by layer", "output"),
        ("gradients by layer", "gradient"),
        ("zeros by layer", "zeros"),
    ):
        values = record.values(measured)
        chosen = [i for i in range(len(record.layers)) if measured != "zeros" or values[:, i].any()]
        series = {record.layers[i]: (record.layers[i], values[:, i].tolist()) for i in chosen}
        if series:
            figures.append(_curve_figure(page, word(key), series, record.epochs))
    return {"rows": record.rows, "figures": figures}


def _data(given: Mapping[str, Any] | None, x: Any, found: measure.Answers) -> list[list[Any]]:
    rows: list[list[Any]] = [[word(name) if name in words() else name, _said(v)] for name, v in (given or {}).items()]
    rows.append([word("evaluated rows"), f"{int(x.shape[0]):,}"])
    rows.append([word("shape of a row"), str(tuple(int(length) for length in x.shape[1:]))])
    if found.evaluation.confusion is not None:
        rows.append([word("classes"), f"{len(found.evaluation.confusion):,}"])
    return rows


def _versions(network: Network) -> list[list[Any]]:
    from nnbackend import __version__

    backend = network.backend
    versions: dict[str, Any] = {
        "nnbackend": __version__,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": np.__version__,
        "array-api-compat": metadata.version("array-api-compat"),
        "backend": f"{backend.name} ({backend.device_name()})",
        **backend.arithmetic(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "seed": network.seed,
        "dtype": network.dtype,
    }
    return [[name, _said(value)] for name, value in versions.items()]


# --- text ---------------------------------------------------------------------------------------------------------


def _check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise ValueError(f"language: expected one of {', '.join(LANGUAGES)}, got {language!r}")


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


def _distinct(names: Iterable[str]) -> list[str]:
    """Return the names, numbered where one occurs again, because a chart tells curves apart by them."""
    found: list[str] = []
    for name in names:
        other, count = name, 2
        while other in found:
            other, count = f"{name} ({count})", count + 1
        found.append(other)
    return found


def _number(value: float | None) -> Any:
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else word("not finite")


def _numbers(values: HostArray) -> Any:
    found = [_number(value) for value in values.tolist()]
    return found[0] if len(found) == 1 else ", ".join(told(value)[0] for value in found)


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_said(part)}" for name, part in value.items())
    return ", ".join(map(_said, value)) if isinstance(value, list | tuple) else str(value)


def _curve_title(kind: str) -> Any:
    known = {
        "loss": "training loss",
        "val_loss": "validation loss",
        "accuracy": "training accuracy",
        "val_accuracy": "validation accuracy",
    }
    return word(known[kind]) if kind in known else kind


def _directed(kind: str) -> bool:
    """Say whether it is known which values of a measure are good."""
    return kind.removeprefix("val_") in ("loss", "accuracy")


def _best(kind: str, values: Sequence[float]) -> Any:
    finite = [(value, i + 1) for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return ""
    if not _directed(kind):
        return _number(finite[-1][0])
    value, epoch = min(finite, key=lambda pair: -pair[0] if kind.endswith("accuracy") else pair[0])
    return word("in epoch", value=_number(value), epoch=epoch)


# --- the page -----------------------------------------------------------------------------------------------------


class _Page:
    """Gathers the charts of a page, and writes it."""

    def __init__(self) -> None:
        self.charts: dict[str, Spec] = {}

    def figure(self, title: Any, spec: Spec, alt: Sequence[Any], head: Sequence[Any], rows: Sequence[Any]) -> Context:
        """Add a chart. Return what the template needs: its place, title, text alternative, and values as a table."""
        id = f"chart{len(self.charts) + 1}"
        self.charts[id] = spec
        sentences = [told(part) for part in (title, *alt)]
        both = tuple(". ".join(dict.fromkeys(part[i].rstrip(".") for part in sentences)) + "." for i in (0, 1))
        return {"id": id, "title": title, "alt": both, "head": head, "rows": rows}

    def html(self, template: str, title: Any, contents: Sequence[str], language: str, context: Context) -> bytes:
        from nnbackend import __version__

        scripts = {"library": _library(), "script": _read("page.js")}
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts.values())
        text: str = (
            _environment()
            .get_template(template)
            .render(
                language=language,
                languages=LANGUAGES,
                title=title,
                contents=contents,
                charts=self.charts,
                words=words(),
                version=__version__,
                hashes=_safe(" ".join(f"'sha256-{digest}'" for digest in digests)),
                style=_safe(_read("page.css")),
                **{name: _safe(text) for name, text in scripts.items()},
                **context,
            )
        )
        return text.encode("utf-8", "backslashreplace")  # names of files may hold what UTF-8 does not


@cache
def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"say": _say, "show": _show, "attribute": _attribute, "told": told}
    return environment


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    library: Any = vl_convert  # its types want an argument that it does not need
    return str(library.javascript_bundle()).replace("</script", "<\\/script")


def _read(name: str) -> str:
    return files("nnbackend.report").joinpath("templates", name).read_text("utf-8")


def _safe(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


def _say(key: str, **values: Any) -> Markup:
    """Return the words of a key, in both languages, as HTML."""
    return _show(word(key, **values))


def _show(text: Any) -> Markup:
    """Return a text as HTML: in both languages if it is one of words, else as it is."""
    from markupsafe import escape

    english, japanese = told(text)
    if english == japanese:
        return escape(english)
    return _safe('<span lang="en">{}</span><span lang="ja">{}</span>').format(english, japanese)


def _attribute(name: str, text: Any) -> Markup:
    """Return an attribute of an element whose value the page changes with its language."""
    english, japanese = told(text)
    return _safe('{0}="{1}" data-{0}-en="{1}" data-{0}-ja="{2}"').format(name, english, japanese)
