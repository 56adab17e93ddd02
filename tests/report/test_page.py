"""What stands in a page, read without a browser: names stay names, nothing is fetched, every chart is valid."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_pages as pages
from support import Namespace

import nnbackend as nn
from nnbackend.report import LayerRecord, Run, TrainingReport, write_comparison, write_report
from nnbackend.report.words import told, words

vl_convert = pytest.importorskip("vl_convert", reason='pages need vl-convert: pip install "nnbackend[report]"')
pytest.importorskip("jinja2", reason='pages need Jinja2: pip install "nnbackend[report]"')


X, T = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 3


class Page(HTMLParser):
    """Gathers the elements of a page, their text, and the contents of its scripts."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.source = path.read_text("utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self._open)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif self._open and self._open[-1] != "style":
            self.text += data

    def counted(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.elements)

    @property
    def charts(self) -> dict[str, Any]:
        charts: dict[str, Any] = json.loads(self.scripts[0])
        return charts


@pytest.fixture(scope="module", params=pages.PAGES)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    pages.PAGES[request.param](path)
    return Page(path)


def test_names_stay_names(page: Page) -> None:
    """No text from outside makes an element, a script or an attribute."""
    assert page.counted()["script"] == 4
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert "49" not in re.findall(r"&amp;(.*?)\{x\}", page.text)
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "a",
        "header",
        "div",
        "button",
        "h1",
        "h2",
        "h3",
        "p",
        "dl",
    }
    known |= {
        "dt",
        "dd",
        "nav",
        "ul",
        "li",
        "noscript",
        "main",
        "section",
        "figure",
        "figcaption",
        "details",
        "summary",
    }
    known |= {"table", "caption", "thead", "tbody", "tr", "th", "td", "span", "strong", "br", "img", "pre", "code"}
    assert set(page.counted()) <= known | {"footer", "script"}


def test_nothing_is_fetched(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-eval' 'sha"
    )
    for script in page.scripts[2:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "@import" not in page.source.partition("</style>")[0]


def test_links_labels_and_languages(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    english, japanese = (
        sum(
            tag == "span" and a.get("lang") == language and "as-is" not in a.get("class", "")
            for tag, a in page.elements
        )
        for language in ("en", "ja")
    )
    assert english == japanese > 20
    for name in ("alt", "aria-label"):
        labelled = [a for _, a in page.elements if f"data-{name}-en" in a]
        assert all(a[name] == a[f"data-{name}-en"] and a[f"data-{name}-ja"] for a in labelled)


def resolved(value: Any, language: int) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("word"), str):
            return told(value)[language]
        return {key: resolved(part, language) for key, part in value.items()}
    return [resolved(part, language) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("language", [0, 1])
def test_every_chart_is_one_that_vega_lite_draws(page: Page, language: int) -> None:
    places = [a["id"] for _, a in page.elements if a.get("id", "").startswith("chart") and a["id"] != "charts"]
    assert sorted(page.charts) == sorted(places)
    for spec in page.charts.values():
        drawn = vl_convert.vegalite_to_svg({**resolved(spec, language), "width": 300})
        assert "<svg" in drawn
        assert "NaN" not in drawn
    assert json.loads(page.scripts[1]) == {key: list(texts) for key, texts in words().items()}


def of(name: str, path: Path) -> Page:
    pages.PAGES[name](path / "page.html")
    return Page(path / "page.html")


def test_the_numbers_of_a_classifier(tmp_path: Path) -> None:
    x, t = np.eye(4)[[0, 0, 1, 1, 2, 3]], np.array([0, 0, 1, 0, 2, 1])
    net = nn.Network([nn.Affine(4, 3)], seed=0)
    net.params["W1"] = 5.0 * np.eye(4)[:, :3]
    net.params["W1"][3, 2] = 5.0
    history = {"loss": [3.0, 2.0], "val_loss": [2.5, float("nan")], "seconds": [1.0, 1.0]}
    write_report(tmp_path / "a.html", net, x, t, history=history, classes=["a", "b", "c"], features=list("wxyz"))
    page = Page(tmp_path / "a.html")
    text = " ".join(page.text.split())
    assert "66.67%" in text
    (table,) = re.findall(r'<table class="confusion">.*?</table>', page.source, re.S)
    cells = re.findall(r"<td[^>]*>(\d*)</td>", table)
    assert cells == ["2", "1", "", "", "1", "1", "", "", "1"]
    assert "2 of 2 mistakes" in text
    assert "Training report" in text
    assert "3 in epoch 1, 2 in epoch 2, lowest 2, highest 3" in page.source
    assert "2.5 in epoch 1, not a finite number in epoch 2" in page.source
    assert [row.split() for row in re.findall(r"<tr><th scope=\"row\">\d</th>(.*?)</tr>", page.source)]


@pytest.mark.parametrize(
    ("name", "sections", "absent"),
    [
        ("images", {"confusion", "calibration", "filters", "over-time"}, {"answers"}),
        ("regression", {"answers", "filters", "over-time"}, {"confusion", "calibration"}),
        ("several_labels", {"mistakes", "over-time"}, {"confusion", "calibration", "answers"}),
        ("not_finite", {"findings", "confusion"}, {"calibration", "over-time"}),
        ("comparison", {"runs", "curves", "differences"}, {"findings"}),
    ],
)
def test_which_parts_a_page_has(tmp_path: Path, name: str, sections: set[str], absent: set[str]) -> None:
    page = of(name, tmp_path)
    there = {a["id"] for tag, a in page.elements if tag == "h2"}
    linked = {a["href"][1:] for tag, a in page.elements if tag == "a"} - {"main"}
    assert sections <= there
    assert not absent & there
    assert linked == there


def test_pictures_of_mistakes_and_of_weights(tmp_path: Path) -> None:
    page = of("images", tmp_path)
    alts = [a["data-alt-en"] for tag, a in page.elements if tag == "img"]
    assert sum(alt.startswith("weights of unit") for alt in alts) == 6
    mistakes = [alt for alt in alts if alt.startswith("row ")]
    found = re.search(r"(\d+) of (\d+) mistakes", page.text)
    assert found is not None
    assert len(mistakes) == int(found[1]) > 0
    assert all(" was taken for " in alt for alt in mistakes)


def test_a_comparison(tmp_path: Path) -> None:
    page = of("comparison", tmp_path)
    assert len(page.charts) == 3  # loss, val_loss, f1
    text = " ".join(page.text.split())
    assert "a (2)" in text
    assert "2 (epoch 2)" in text
    assert "best validation loss" in text
    series = {row["name"] for row in page.charts["chart2"]["data"]["values"]}
    assert series == {"a", "a (2)", pages.HOSTILE}


def test_a_page_on_every_namespace(on: Namespace, tmp_path: Path) -> None:
    """The page is that of NumPy, but for rounding and the versions."""
    found = []
    for backend in (on.backend, "numpy"):
        net = nn.Network([nn.Affine(4, 5), nn.ReLU(), nn.Affine(5, 3)], seed=0, dtype="float64", backend=backend)
        trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=10)
        report = TrainingReport(tmp_path / "a.html")
        place = net.backend.asarray
        rows = place(X, "float64"), place(T)
        trainer.fit(*rows, 2, validation=rows, callbacks=[report.watch(trainer, rows, rows)])
        report.write()
        found.append(Page(tmp_path / "a.html").charts)
    texts = [re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", json.dumps(charts)) for charts in found]
    values = [[row["value"] for row in charts["chart1"]["data"]["values"]] for charts in found]
    assert texts[0] == texts[1]
    np.testing.assert_allclose(*values, rtol=1e-9)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the summary of the network's answers
def test_values_that_are_not_finite_are_said_in_words(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    net = nn.Network([nn.Flatten(), nn.Affine(4, 3)], seed=0)
    net.params["W1"][0, :] = np.inf
    with np.errstate(all="ignore"):
        write_report(tmp_path / "a.html", net, X.reshape(-1, 2, 2), T)
    page = Page(tmp_path / "a.html")
    assert "not a finite number" in page.text
    assert "有限の数ではない" in page.text
    assert "{'word'" not in page.source
    regression = nn.Network([nn.Flatten(), nn.Affine(4, 2)], loss=nn.MeanSquaredError(), seed=0)
    regression.params["W1"][0, :] = np.nan
    write_report(tmp_path / "b.html", regression, X.reshape(-1, 2, 2), X[:, :2])
    text = Page(tmp_path / "b.html").text
    assert "0: not a finite number" in text
    assert "0: 有限の数ではない" in text


def test_a_training_is_followed(tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(4, 3)], seed=0)
    trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=10)
    report = TrainingReport(tmp_path / "a.html", command="repeat this")
    report.write()
    assert not (tmp_path / "a.html").exists()  # the training has not begun
    record = report.watch(trainer, (X, T), (X[:9], T[:9]), data={"source": "here"})
    assert isinstance(record, LayerRecord)
    trainer.fit(X, T, 2, validation=(X[:9], T[:9]), callbacks=[record])
    report.write()
    page = Page(tmp_path / "a.html")
    text = " ".join(page.text.split())
    for part in ("repeat this", "here", "rows to train on行", "The layers over time"):
        assert part.removesuffix("行") in text
    assert len(page.charts) == 6  # loss, accuracy, calibration, weights, outputs, gradients
    report.write(failure="it broke")
    assert "it broke" in Page(tmp_path / "a.html").text


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"classes": ["a", "b"]}, ValueError, "classes: expected 3 names, one for each class, got 2"),
        ({"features": ["a"]}, ValueError, "features: expected 4 names, one for each column, got 1"),
        ({"image_shape": (3, 3)}, ValueError, "image_shape: expected"),
        (
            {"feature_scaling": [(0.0, 1.0)]},
            ValueError,
            "feature_scaling: expected a mean and a deviation for 4 columns",
        ),
        (
            {"network": nn.Network([nn.Affine(4, 1)], nn.Huber()), "t": 1.0 * T, "target_scaling": (1.0,)},
            ValueError,
            r"target_scaling: expected \(mean, deviation\), got \(1.0,\)",
        ),
        ({"language": "de"}, ValueError, "language: expected one of en, ja, got 'de'"),
        ({"history": {"loss": ["x"]}}, ValueError, "history: loss of epoch 1 is 'x', expected a number"),
        ({"network": "net"}, TypeError, "network: expected a Network, got str"),
        ({"t": T[:5]}, ValueError, "x has 30 rows, but t has 5"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, settings: Any, error: type[Exception], message: str) -> None:
    given = {"network": nn.Network([nn.Affine(4, 3)]), "x": X, "t": T, **settings}
    with pytest.raises(error, match=message):
        write_report(tmp_path / "a.html", **given)
    assert not list(tmp_path.iterdir())


def test_a_network_whose_training_is_unknown(tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(4, 3)], seed=0)
    write_report(tmp_path / "a.html", net, X, T)
    found = Page(tmp_path / "a.html")
    for key in ("complete", "no epoch", "epochs", "curves"):
        assert words()[key][0] not in found.text.partition("{")[0]
    write_report(tmp_path / "a.html", net, X, T, history=nn.History())  # interrupted in its first epoch
    assert words()["no epoch"][0] in Page(tmp_path / "a.html").text


def test_the_legend_of_many_curves_leaves_room_for_them(tmp_path: Path) -> None:
    write_comparison(tmp_path / "a.html", [Run(f"run {i}", {"loss": [1.0, 0.5]}) for i in range(40)])
    (chart,) = Page(tmp_path / "a.html").charts.values()
    assert chart["height"] > 240 + 9 * 14


def test_bad_comparisons(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs: at least one is needed"):
        write_comparison(tmp_path / "a.html", [])
    with pytest.raises(ValueError, match="language: expected"):
        write_comparison(tmp_path / "a.html", [Run("a", {})], language="fr")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_comparison(tmp_path / "none" / "a.html", [Run("a", {})])


def test_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "nnbackend\[report\]"'):
        TrainingReport(tmp_path / "a.html")


def test_pages_are_the_same_each_time(tmp_path: Path) -> None:
    net = nn.Network([nn.Affine(4, 3)], seed=0)
    for name in "ab":
        write_report(tmp_path / f"{name}.html", net, X, T, history={"loss": [1.0]})
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sys.getsizeof((tmp_path / "a.html").read_bytes()) < 1_500_000
