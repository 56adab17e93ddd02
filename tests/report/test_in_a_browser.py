"""Pages in a real browser: drawn without an error; on a phone, on paper, in the dark, in both languages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import report_pages as pages

for library in ("vl_convert", "jinja2"):
    pytest.importorskip(library, reason='pages need its libraries: pip install "nnbackend[report]"')
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium", allow_module_level=True)
DESKTOP, PHONE = {"width": 1100, "height": 800}, {"width": 360, "height": 740}
MARKS = {  # the points of curves: epochs x curves, of each chart by its title
    "images": {"loss": 8, "accuracy": 8, "Size of the outputs": 12, "Size of the gradients": 12},
    "regression": {"loss": 2, "Answers against targets": 30, "Size of the outputs": 3, "Size of the gradients": 3},
    "flat_images": {},
    "several_labels": {"loss": 4, "accuracy": 4},
    "sequences": {"loss": 4, "Size of the outputs": 8},
    "several_outputs": {"loss": 4, "Answers against targets": 40},
    "many_classes": {"loss": 6, "accuracy": 6},
    "not_finite": {},
    "nothing_wrong": {"loss": 0, "accuracy": 0},  # 80 epochs: lines without points
    "comparison": {"validation loss": 5, "training loss": 5, "f1": 3},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("pages")

    def path_of(name: str) -> Path:
        path = folder / f"{name}.html"
        if not path.exists():
            pages.PAGES[name](path)
        return path

    return path_of


class Shown:
    """A page in a window of its own. `problems` gathers script errors, and all that it asks from outside."""

    def __init__(self, browser: Any, path: Path, **settings: Any):
        self.context = browser.new_context(**{"locale": "en-GB", "viewport": DESKTOP, "offline": True, **settings})
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.on("request", self._asked)
        self.path = path
        self.open()

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.path.as_uri(), "data:")):
            self.problems.append(request.url)

    def open(self) -> None:
        self.page.goto(self.path.as_uri())
        self.drawn()

    def drawn(self, language: str = "") -> None:
        self.page.wait_for_function(
            "l => l ? document.documentElement.dataset.drawn === l : document.documentElement.dataset.drawn",
            arg=language,
        )

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def show(browser: Any, written: Callable[[str], Path]) -> Iterator[Callable[..., Shown]]:
    opened: list[Shown] = []

    def open_page(name: str, **settings: Any) -> Shown:
        opened.append(Shown(browser, written(name), **settings))
        return opened[-1]

    yield open_page
    for shown in opened:
        shown.close()
        assert shown.problems == []


POINTS = """() => Object.fromEntries([...document.querySelectorAll("figure:has(.chart)")].map((figure) => [
  figure.querySelector("figcaption [lang=en]")?.textContent ?? figure.querySelector("figcaption").textContent,
  [...figure.querySelectorAll(".mark-symbol.role-mark path")].length]))"""


def test_a_map_of_many_classes_has_a_mark_for_each_pair(show: Callable[..., Shown]) -> None:
    shown = show("many_classes")
    cells = shown.page.evaluate("JSON.parse(document.getElementById('charts').textContent).chart3.data.values.length")
    assert cells > 5
    assert shown.page.locator("#chart3 .mark-symbol.role-mark path").count() == cells
    assert shown.page.locator("details:has-text('Scores by class') tbody tr").count() == 100


@pytest.mark.parametrize("name", pages.PAGES)
def test_on_a_phone(show: Callable[..., Shown], name: str) -> None:
    """Every chart is drawn with all its marks. Nothing is wider than the screen, and axe finds no fault: names, roles,
    headings, languages, contrast.
    """
    page = show(name, viewport=PHONE, has_touch=True, bypass_csp=True).page
    assert page.locator(".chart svg.marks").count() == page.locator(".chart").count()
    found = page.evaluate(POINTS)
    assert {title: found.get(title) for title in MARKS[name]} == MARKS[name]
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for svg in page.locator(".chart svg.marks").all():
        assert 250 < svg.bounding_box()["width"] <= 328
    check_accessibility(page)


@pytest.mark.parametrize("name", ["images", "many_classes", "comparison"])
def test_in_the_dark(show: Callable[..., Shown], name: str) -> None:
    check_accessibility(show(name, color_scheme="dark", bypass_csp=True).page)


def check_accessibility(page: Any) -> None:
    if not find_spec("axe_core_python"):
        pytest.skip("axe checks accessibility: pip install axe-core-python")
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    page.evaluate(files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    violations = page.evaluate("axe.run()")["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in violations] == []
    names = page.evaluate("[...document.querySelectorAll('.chart')].map((chart) => chart.getAttribute('aria-label'))")
    assert all(" " in name and "Vega" not in name for name in names)


def contrast(one: list[float], other: list[float]) -> float:
    """The contrast ratio of two colours (WCAG 2.2)."""

    def luminance(color: list[float]) -> float:
        parts = [c / 255 for c in color[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


RGB = """(colors) => colors.map((color) => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = color;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data];
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_can_be_told_from_the_paper(show: Callable[..., Shown], scheme: str) -> None:
    from nnbackend.report.charts import colors

    page = show("images", color_scheme=scheme).page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    text = page.evaluate("getComputedStyle(document.querySelector('.chart svg text')).fill")
    (on, ink, *curves) = page.evaluate(RGB, [paper, text, *colors(5), *colors(12)])
    assert (sum(on[:3]) > 600) == (scheme == "light")
    assert contrast(ink, on) > 7
    assert min(contrast(curve, on) for curve in curves) >= 3


def test_the_reader_chooses_the_language_and_the_page_remembers(show: Callable[..., Shown]) -> None:
    shown = show("images")
    page = shown.page
    assert (page.title(), page.get_attribute("html", "lang")) == ("Training report", "en")
    assert page.get_by_role("heading", name="Confusion matrix").is_visible()
    page.get_by_role("button", name="日本語").click()
    shown.drawn("ja")
    assert (page.title(), page.get_attribute("html", "lang")) == ("学習の報告", "ja")
    assert page.get_by_role("heading", name="混同行列").is_visible()
    assert page.get_by_role("heading", name="Confusion matrix").count() == 0  # neither seen nor read aloud
    assert page.get_by_role("button", name="日本語").get_attribute("aria-pressed") == "true"
    assert "エポック" in page.locator("#chart1 svg").text_content()
    assert "学習: エポック 1 で" in page.get_attribute(".chart:has(#chart1)", "aria-label")
    assert (
        page.locator("img")
        .first.get_attribute("alt")
        .endswith("と答えた(確信度 " + page.locator("img").first.get_attribute("alt").split("確信度 ")[1])
    )
    page.reload()
    shown.drawn("ja")
    page.get_by_role("button", name="English").press("Enter")
    shown.drawn("en")
    assert page.locator("#chart1 svg").text_content().count("epoch") >= 1


@pytest.mark.parametrize(("locale", "language"), [("ja-JP", "ja"), ("en-US", "en"), ("fr-FR", "ja")])
def test_at_first_it_is_that_of_the_browser(show: Callable[..., Shown], locale: str, language: str) -> None:
    assert show("several_outputs", locale=locale).page.get_attribute("html", "lang") == language


def test_a_cursor_tells_the_values_of_all_curves(show: Callable[..., Shown]) -> None:
    page = show("comparison").page
    page.locator("#chart2 svg").scroll_into_view_if_needed()
    box = page.locator("#chart2 svg").bounding_box()
    page.mouse.move(box["x"] + 0.52 * box["width"], box["y"] + 0.3 * box["height"])
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    cells = [row.locator("td").all_text_contents() for row in tip.locator("tr").all()]
    assert cells == [["epoch", "2"], ["a", "2"], ["a (2)", "–"], [pages.HOSTILE, "–"]]
    assert tip.locator("img, script").count() == 0
    rules = page.locator("#chart2 .mark-rule.role-mark line")
    assert [float(line.get_attribute("opacity") or 1) for line in rules.all()] == [0, 0.6, 0]


def test_the_values_are_there_as_a_table(show: Callable[..., Shown]) -> None:
    page = show("images").page
    details = page.locator("figure:has(#chart1) details")
    details.locator("summary").press("Enter")
    assert details.locator("tbody tr").count() == 4
    label = page.get_attribute(".chart:has(#chart1)", "aria-label")
    first = details.locator("tbody tr").first.locator("td").first.text_content()
    assert f"training: {first} in epoch 1" in label


def test_on_paper(show: Callable[..., Shown]) -> None:
    """The page is light, also where the screen is dark. Buttons and links are left out, and nothing is cut off."""
    page = show("images", color_scheme="dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("button", name="English").is_visible()
    assert not page.locator("nav").is_visible()
    page.set_viewport_size({"width": 680, "height": 900})  # A4 between its margins
    assert page.evaluate("document.documentElement.scrollWidth") == 680
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_the_tables_are_there(show: Callable[..., Shown], browser: Any, written: Any) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=PHONE)
    page = context.new_page()
    page.goto(written("images").as_uri())
    assert page.get_by_text("The charts need JavaScript").is_visible()
    assert page.locator("table.confusion").is_visible()
    assert page.get_by_text("学習の報告").count() == 0 or not page.get_by_text("学習の報告").first.is_visible()
    context.close()
