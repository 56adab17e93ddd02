"""Put a page together: its template, its charts, its words and its scripts."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

from nnbackend.report import charts
from nnbackend.report.charts import Spec
from nnbackend.report.words import LANGUAGES, Text, number, told, word, words

if TYPE_CHECKING:
    from markupsafe import Markup

Context: TypeAlias = dict[str, Any]
_MISSING = 'a report needs Jinja2 and vl-convert: pip install "nnbackend[report]"'


def check_libraries() -> None:
    """Raise ImportError, with the pip command, if the libraries that pages need are not installed."""
    if not all(importlib.util.find_spec(name) for name in ("jinja2", "vl_convert")):
        raise ImportError(_MISSING)


class Page:
    """Gathers the charts of a page, and writes it."""

    def __init__(self) -> None:
        self.charts: dict[str, Spec] = {}

    def figure(
        self, title: Text, spec: Spec, alt: Sequence[Text], head: Sequence[Text], rows: Sequence[Sequence[Text]]
    ) -> Context:
        """Add a chart. Return what the template needs.

        alt: sentences that stand for the chart. head, rows: a table of its values.
        """
        id = f"chart{len(self.charts) + 1}"
        self.charts[id] = spec
        english, japanese = zip(*(told(part) for part in (title, *alt)), strict=True)
        both = _sentences(english, ". "), _sentences(japanese, "。")
        return {"id": id, "title": title, "alt": both, "head": head, "rows": rows}

    def html(self, template: str, title: Text, contents: Sequence[str], language: str, context: Context) -> bytes:
        """Return the page. contents: the keys of its headings. context: what its template needs beside."""
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


def curve_figure(
    page: Page, title: Text, series: Mapping[str, tuple[Text, Sequence[float]]], epochs: Sequence[int] = ()
) -> Context:
    """Add a chart of curves over epochs; the arguments are those of `charts.by_epoch`."""
    numbers = list(epochs) or list(range(1, 1 + max(len(values) for _, values in series.values())))
    rows = [
        [str(epoch), *(number(values[i]) if i < len(values) else "" for _, values in series.values())]
        for i, epoch in enumerate(numbers)
    ]
    return page.figure(
        title,
        charts.by_epoch(title, series, numbers),
        [_curve_in_words(name, values, numbers) for name, values in series.values()],
        [word("epoch"), *(name for name, _ in series.values())],
        rows,
    )


def _curve_in_words(name: Text, values: Sequence[float], epochs: Sequence[int]) -> Text:
    finite = [value for value in values if math.isfinite(value)] or [math.nan]
    ends = {"first": values[0], "last": values[-1], "least": min(finite), "most": max(finite)}
    texts = {key: number(value) for key, value in ends.items()}
    return word("curve in words", name=name, begin=epochs[0], end=epochs[len(values) - 1], **texts)


def _sentences(texts: Sequence[str], end: str) -> str:
    """Join sentences, each once, with the full stop of their language."""
    return end.join(dict.fromkeys(text.rstrip(end) for text in texts)) + end.strip()


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


def _show(text: Text) -> Markup:
    """Return a text as HTML: in both languages if it is one of words, else as it is."""
    from markupsafe import escape

    english, japanese = told(text)
    if english == japanese:
        return escape(english)
    return _safe('<span lang="en">{}</span><span lang="ja">{}</span>').format(english, japanese)


def _attribute(name: str, text: Text) -> Markup:
    """Return an attribute of an element whose value the page changes with its language."""
    english, japanese = told(text)
    return _safe('{0}="{1}" data-{0}-en="{1}" data-{0}-ja="{2}"').format(name, english, japanese)
