"""Describe the charts of a page in Vega-Lite (Satyanarayan et al. 2017), which the page draws as SVG.

A text of a page in two languages is {"word": key}; the page puts in the words of its language.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from nnbackend.report.words import Text, word

HostArray = np.ndarray[Any, Any]
Spec: TypeAlias = dict[str, Any]  # JSON

# light enough for a dark page and dark enough for a white one: their contrast with either is 3 or more
COLORS = ("#1a7fc4", "#c9541b", "#16896a", "#b8629a", "#96791a")
FEW_EPOCHS = 60  # up to so many, each epoch has a mark
LOGARITHMIC = 50.0  # an axis is logarithmic if its largest value is so many times its smallest


def by_epoch(title: Text, series: Mapping[str, tuple[Text, Sequence[float]]], epochs: Sequence[int] = ()) -> Spec:
    """Describe curves over epochs. A cursor follows the mouse, and tells the values of all curves at its epoch.

    title: of the vertical axis. series: by a key, the name of a curve and its values, NaN where there is none.
    epochs: the number of each epoch; 1, 2, ... by default.
    """
    numbers = list(epochs) or list(range(1, 1 + max((len(values) for _, values in series.values()), default=0)))
    names = [name for name, _ in series.values()]
    long: list[Spec] = []
    told: list[dict[str, str]] = [{f"s{i}": "–" for i in range(len(names))} for _ in numbers]
    for i, (name, values) in enumerate(series.values()):
        for j, value in enumerate(values):
            there = math.isfinite(value)
            long.append({"epoch": numbers[j], "name": name, "value": float(value) if there else None})
            told[j][f"s{i}"] = f"{value:.4g}" if there else "–"  # as text, because Vega shows null as 0
    ends = _around(numbers)
    middles = [(a + b) / 2 for a, b in pairwise(numbers)]
    strips = zip(numbers, [ends[0], *middles], [*middles, ends[1]], told, strict=True)
    wide = [{"epoch": epoch, "from": low, "to": high, **texts} for epoch, low, high, texts in strips]
    shown = [entry["value"] for entry in long if entry["value"] is not None]
    scale: Spec = {"zero": False, "nice": True}
    if shown and min(shown) > 0 and max(shown) / min(shown) > LOGARITHMIC:
        scale = {"type": "log", "nice": False}
    x: Spec = {
        "field": "epoch",
        "type": "quantitative",
        "title": word("epoch"),
        "axis": {"tickMinStep": 1, "format": "d", "grid": False, **({"values": numbers} if len(numbers) < 13 else {})},
        "scale": {"domain": ends, "nice": False, "zero": False},
    }
    y = {"field": "value", "type": "quantitative", "title": title, "scale": scale}
    legend: Spec | None = None
    if len(names) > 1:
        columns = {"expr": "width < 420 ? 2 : 4"}
        legend = {"orient": "bottom", "columns": columns, "title": None, "symbolType": "stroke", "symbolStrokeWidth": 3}
    color = {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": names, "range": colors(len(names))},
        "legend": legend,
    }
    dash = {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": names, "range": [[1, 0], [6, 3], [2, 2]]},
        "legend": legend,
    }
    tooltip = [{"field": "epoch", "type": "quantitative", "title": word("epoch"), "format": "d"}]
    tooltip += [{"field": f"s{i}", "type": "nominal", "title": name} for i, name in enumerate(names)]
    lines: Spec = {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"strokeDash": dash}}
    if len(numbers) <= FEW_EPOCHS:
        lines["mark"]["point"] = {"filled": True, "size": 30}
    chosen = {"condition": {"param": "cursor", "empty": False, "value": 0.6}, "value": 0}
    cursor: Spec = {
        "data": {"values": wide},
        "mark": {"type": "rule", "color": "currentColor", "aria": False},
        "encoding": {"x": x, "opacity": chosen},
    }
    select = {"type": "point", "fields": ["epoch"], "on": "pointerover", "clear": "pointerout"}
    around: Spec = {  # a strip for each epoch, because `nearest` shows text as "undefined" in Vega-Lite 6
        "data": {"values": wide},
        "params": [{"name": "cursor", "select": select}],
        "mark": {"type": "rect", "opacity": 0, "aria": False},
        "encoding": {"x": {**x, "field": "from"}, "x2": {"field": "to"}, "tooltip": tooltip},
    }
    lines["encoding"] |= {"x": x, "y": y, "color": color}
    height = 240 + 16 * (math.ceil(len(names) / 4) - 1)  # the legend has four names a line, and is within the chart
    return _chart(height, data={"values": long}, layer=[lines, cursor, around])


def reliability(bins: Sequence[Mapping[str, float]]) -> Spec:
    """Describe how often a classifier is right against how sure it is, with the line of a well-calibrated one."""

    def axis(channel: str, title: str) -> Spec:
        percent = {"format": "%", "tickCount": 6, "grid": channel == "y"}
        return {
            "field": title,
            "type": "quantitative",
            "title": word(title),
            "scale": {"domain": [0, 1]},
            "axis": percent,
        }

    tooltip = [
        {"field": "confidence", "type": "quantitative", "title": word("confidence"), "format": ".1%"},
        {"field": "accuracy", "type": "quantitative", "title": word("accuracy"), "format": ".1%"},
        {"field": "rows", "type": "quantitative", "title": word("rows"), "format": ","},
    ]
    position = {"x": axis("x", "confidence"), "y": axis("y", "accuracy")}
    diagonal = [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]
    ideal: Spec = {
        "data": {"values": diagonal},
        "mark": {"type": "line", "color": "currentColor", "opacity": 0.5, "strokeDash": [4, 4]},
        "encoding": position,
    }
    measured: Spec = {
        "data": {"values": [dict(entry) for entry in bins]},
        "mark": {"type": "line", "color": COLORS[0], "point": False},
        "encoding": position,
    }
    points: Spec = {
        "data": {"values": [dict(entry) for entry in bins]},
        "mark": {"type": "point", "filled": True, "color": COLORS[0], "opacity": 1},
        "encoding": {
            **position,
            "size": {"field": "rows", "type": "quantitative", "scale": {"range": [30, 300]}, "legend": None},
            "tooltip": tooltip,
        },
    }
    return _chart(280, layer=[ideal, measured, points])


def confusion_map(confusion: HostArray, names: Sequence[str]) -> Spec:
    """Describe a confusion matrix of many classes as a map: the mistakes, shaded by their part of the class."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cells = [
        {"truth": int(i), "answer": int(j), "t": names[i], "a": names[j], "rows": int(n), "share": float(shares[i, j])}
        for (i, j), n in np.ndenumerate(confusion)
        if n and i != j
    ]
    classes = len(confusion)

    def axis(name: str) -> Spec:
        scale: Spec = {"domain": [-0.5, classes - 0.5], "nice": False, "zero": False, "reverse": name == "truth"}
        return {
            "field": name,
            "type": "quantitative",
            "title": word(f"{name} number"),
            "scale": scale,
            "axis": {"format": "d", "tickMinStep": 1, "grid": False},
        }

    tooltip = [
        {"field": "t", "type": "nominal", "title": word("truth")},
        {"field": "a", "type": "nominal", "title": word("answer")},
        {"field": "rows", "type": "quantitative", "title": word("rows"), "format": ","},
        {"field": "share", "type": "quantitative", "title": word("share of the class"), "format": ".1%"},
    ]
    return _chart(
        420,
        data={"values": cells},
        mark={
            "type": "square",
            "opacity": 1,
            "size": {"expr": f"max(4, pow(0.9 * min(width, height) / {classes}, 2))"},
        },
        encoding={
            "x": axis("answer"),
            "y": axis("truth"),
            "color": {
                "field": "share",
                "type": "quantitative",
                "title": word("share of the class"),
                "scale": {"scheme": "oranges", "domainMin": 0},
                "legend": {"format": "%", "orient": "bottom"},
            },
            "tooltip": tooltip,
        },
    )


def against(targets: HostArray, outputs: HostArray, rows: Sequence[int], names: Sequence[str]) -> Spec:
    """Describe the answers of a regression against the targets. targets, outputs: (n, columns); rows: those shown."""
    values = [
        {"target": float(targets[i, j]), "answer": float(outputs[i, j]), "row": i, "name": names[j]}
        for j in range(targets.shape[1])
        for i in rows
        if math.isfinite(outputs[i, j])
    ]
    both = [entry[key] for entry in values for key in ("target", "answer")]
    ends = [min(both, default=0.0), max(both, default=1.0)]  # type: ignore[type-var]
    number = {"type": "quantitative", "scale": {"domain": ends, "zero": False}}
    position = {
        "x": {"field": "target", "title": word("target"), **number},
        "y": {"field": "answer", "title": word("answer"), **number},
    }
    ideal: Spec = {
        "data": {"values": [{"target": end, "answer": end} for end in ends]},
        "mark": {"type": "line", "color": "currentColor", "opacity": 0.5, "strokeDash": [4, 4]},
        "encoding": position,
    }
    several = len(names) > 1
    points: Spec = {
        "data": {"values": values},
        "mark": {"type": "circle", "opacity": 0.6, "size": 24, "color": COLORS[0]},
        "encoding": {
            **position,
            **({"color": _names(names)} if several else {}),
            "tooltip": [
                {"field": "row", "type": "quantitative", "title": word("row"), "format": "d"},
                {"field": "target", "type": "quantitative", "title": word("target"), "format": ".4~g"},
                {"field": "answer", "type": "quantitative", "title": word("answer"), "format": ".4~g"},
            ],
        },
    }
    return _chart(300, layer=[points, ideal])


def errors(outputs: HostArray, targets: HostArray) -> Spec:
    """Describe how large the errors of a regression are, answer - target, as a histogram."""
    differences = (outputs - targets).reshape(-1)
    counts, edges = np.histogram(differences[np.isfinite(differences)], bins=20)
    values = [
        {"from": float(a), "to": float(b), "rows": int(n)} for a, b, n in zip(edges, edges[1:], counts, strict=False)
    ]
    return _chart(
        200,
        data={"values": values},
        mark={"type": "bar", "color": COLORS[0], "stroke": None, "binSpacing": 1},
        encoding={
            "x": {
                "field": "from",
                "bin": {"binned": True},
                "type": "quantitative",
                "title": word("error"),
                "axis": {"grid": False},
            },
            "x2": {"field": "to"},
            "y": {"field": "rows", "type": "quantitative", "title": word("how many")},
            "tooltip": [
                {"field": "from", "type": "quantitative", "title": word("from"), "format": ".4~g"},
                {"field": "to", "type": "quantitative", "title": word("to"), "format": ".4~g"},
                {"field": "rows", "type": "quantitative", "title": word("how many"), "format": ","},
            ],
        },
    )


def bars(title: Text, names: Sequence[str], sizes: Sequence[float]) -> Spec:
    """Describe a bar for each name, in their order."""
    values = [
        {"place": i, "name": name, "size": float(n)} for i, (name, n) in enumerate(zip(names, sizes, strict=True))
    ]
    return _chart(
        24 + 20 * len(values),
        data={"values": values},
        mark={"type": "bar", "color": COLORS[0]},
        encoding={
            "y": {"field": "name", "type": "nominal", "sort": {"field": "place"}, "title": None},
            "x": {"field": "size", "type": "quantitative", "title": title},
            "tooltip": [
                {"field": "name", "type": "nominal", "title": word("feature")},
                {"field": "size", "type": "quantitative", "title": title, "format": ".4~g"},
            ],
        },
    )


def colors(count: int) -> list[str]:
    """Return a colour for each of `count` curves, all of about the same lightness."""
    if count <= len(COLORS):
        return list(COLORS[:count])
    return [f"oklch(60% 0.13 {(250 + 300 * i / (count - 1)) % 360:.0f})" for i in range(count)]


def _names(names: Sequence[str]) -> Spec:
    scale = {"domain": list(names), "range": colors(len(names))}
    return {"field": "name", "type": "nominal", "scale": scale, "legend": {"orient": "bottom", "title": None}}


def _around(numbers: Sequence[int]) -> list[float]:
    """Return the ends of an axis for the epochs `numbers`."""
    first, last = min(numbers, default=1), max(numbers, default=1)
    return [first - 0.5, last + 0.5] if first == last else [first - 0.02 * (last - first), last + 0.02 * (last - first)]


def _chart(height: int, **parts: Any) -> Spec:
    return {"width": "container", "height": height, "autosize": {"type": "fit", "contains": "padding"}, **parts}
