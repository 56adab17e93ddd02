"""Write a page that compares runs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from nnbackend.files import write_atomically
from nnbackend.report.page import Context, Page, check_libraries, curve_figure
from nnbackend.report.runs import Run
from nnbackend.report.words import Text, check_language, distinct, number, said, word, words


def write_comparison(
    path: str | os.PathLike[str], runs: Sequence[Run], *, title: str | None = None, language: str = "en"
) -> None:
    """Write a page that compares runs: one HTML file that needs no network connection.

    runs: at least one, from `read_run`. title, language: as in `write_report`.
    Raises ValueError for no runs and for another language, and the ImportError and OSError of `write_report`.
    """
    check_libraries()
    check_language(language)
    if not runs:
        raise ValueError("runs: at least one is needed")
    names = distinct([run.name for run in runs])
    page = Page()
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.curves))
    kinds.sort(key=lambda kind: not kind.startswith("val_"))  # they matter most
    figures = []
    for kind in kinds:
        series = {name: (name, run.curves[kind]) for name, run in zip(names, runs, strict=True) if kind in run.curves}
        figures.append(curve_figure(page, _curve_title(kind), series))
    results = list(dict.fromkeys(name for run in runs for name in run.results))
    head = [word("run"), word("epochs")]
    head += [word("best" if _directed(kind) else "last", name=_curve_title(kind)) for kind in kinds]
    head += [word(name) if name in words() else name for name in results]
    rows = []
    for name, run in zip(names, runs, strict=True):
        cells: list[Text] = [name, str(max(map(len, run.curves.values()), default=0))]
        cells += [_best(kind, run.curves.get(kind, [])) for kind in kinds]
        rows.append([*cells, *(number(run.results.get(result)) for result in results)])
    settings = list(dict.fromkeys(name for run in runs for name in run.settings))
    values = {name: [said(run.settings.get(name, "")) for run in runs] for name in settings}
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


def _curve_title(kind: str) -> Text:
    known = {
        "loss": "training loss",
        "val_loss": "validation loss",
        "accuracy": "training accuracy",
        "val_accuracy": "validation accuracy",
    }
    if kind in known:
        return word(known[kind])
    return word("validation of", name=kind.removeprefix("val_")) if kind.startswith("val_") else kind


def _directed(kind: str) -> bool:
    """Say whether it is known which values of a measure are good."""
    return kind.removeprefix("val_") in ("loss", "accuracy")


def _best(kind: str, values: Sequence[float]) -> Text:
    finite = [(value, i + 1) for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return ""
    if not _directed(kind):
        return number(finite[-1][0])
    value, epoch = min(finite, key=lambda pair: -pair[0] if kind.endswith("accuracy") else pair[0])
    return word("in epoch", value=number(value), epoch=epoch)
