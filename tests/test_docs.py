"""The documentation: its programs run, and so do the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import nnbackend as nn

PACKAGE = Path(nn.__file__).parent
PAGES = Path(__file__).parents[1] / "ci" / "docs" / "pages"
WITH_PROGRAMS = sorted(
    page.relative_to(PAGES).as_posix() for page in PAGES.glob("*.md") if "```python" in page.read_text("utf-8")
)
WITH_EXAMPLES = sorted(
    ".".join(("nnbackend", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


def test_there_are_pages_with_programs() -> None:
    assert {"tutorial.md", "book.md", "parallel.md"} <= set(WITH_PROGRAMS)


@pytest.mark.parametrize("page", WITH_PROGRAMS)
def test_the_program_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, in one process: without a warning, and on the sample."""
    if "sklearn" in (PAGES / page).read_text("utf-8"):
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    if "nn.report" in (PAGES / page).read_text("utf-8"):
        pytest.importorskip("vl_convert", reason='pages need vl-convert: pip install "nnbackend[report]"')
    program = "\n".join(re.findall(r"^```python\n(.*?)^```$", (PAGES / page).read_text("utf-8"), re.M | re.S))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_estimate_for_several_processes_is_what_its_program_prints() -> None:
    page = (PAGES / "parallel.md").read_text("utf-8")
    (program,) = [block for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "def step" in block]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    printed = re.findall(r"rows: (\d+) us \+ (\d+) us, efficiency (\d+)%", done.stdout)
    table = re.findall(r"\| ([\d,]+) us \| ([\d,]+) us \| (\d+) % \|", page)
    assert len(table) == 9
    assert [tuple(cell.replace(",", "") for cell in row) for row in table] == printed
    told = re.search(
        r"each process: (.+) for the 8 GPUs, (.+) for 64 machines with a GPU each, (.+) for 64", " ".join(page.split())
    )
    assert told is not None
    assert [rows.replace(",", "") for rows in told.groups()] == re.findall(r"from (\d+) rows on", done.stdout)


def test_the_two_languages_show_the_same_programs() -> None:
    pages = sorted(page.name for page in (PAGES / "ja").glob("*.md"))
    assert {"tutorial.md", "book.md", "install.md", "data.md", "report.md"} <= set(pages)
    for page in pages:
        english, japanese = ((folder / page).read_text("utf-8") for folder in (PAGES, PAGES / "ja"))
        assert f"[日本語](ja/{page})" in english
        assert f"[English](../{page})" in japanese
        blocks = (re.findall(r"^```\w*\n.*?^```$", text, re.M | re.S) for text in (english, japanese))
        programs, translated = ([re.sub(r"\s*#.*", "", block) for block in found] for found in blocks)
        assert programs == translated, page
        headings, rows = (
            [len(re.findall(pattern, text, re.M)) for text in (english, japanese)] for pattern in (r"^#+ ", r"^\|")
        )
        assert (headings[0], rows[0]) == (headings[1], rows[1]), page


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings(module: str) -> None:
    if module.startswith("nnbackend.estimator"):
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    done = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0
    assert done.failed == 0


# --- what builds the pages


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", PAGES.parent / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.setattr(build, "PAGES", tmp_path)
    described = set(build.reference())
    text = "".join(page.read_text("utf-8") for page in (tmp_path / "reference").glob("*.md"))
    for name in nn.__all__:
        assert f"nnbackend.{name}" in described or f"`{name}`" in text, name
    assert {"nnbackend.functions.relu", "nnbackend.estimator.NNClassifier", "nnbackend.book.layers.Relu"} <= described


def test_links_of_borrowed_pages_lead_to_pages(build: ModuleType) -> None:
    readme = build.borrowed("index.md", "README.md")
    assert "[日本語](ja/index.md)" in readme
    assert "(promises.md)" in readme
    assert "(extending.md)" in readme
    assert "(data.md)" in readme
    assert "(pictures/spiral.png)" in readme
    assert "[English](../index.md)" in build.borrowed("ja/index.md", "README.ja.md")


def test_japanese_lines_are_joined_where_no_space_belongs(build: ModuleType) -> None:
    text = "重みの\n配列は、\n`W` と\nNumPy。\n次\n\n- 項目\n- 項目\n```python\nx = 1  # 数\n値 = 2\n```\n"
    joined = "重みの配列は、`W` と\nNumPy。次\n\n- 項目\n- 項目\n```python\nx = 1  # 数\n値 = 2\n```\n"
    assert build.joined(text) == joined
    text = "- 項目の\n  続き、\n  次。\n  - 内側。\n- 項目\n\n1. 一（い）\n2. 二（に）\n   `W` と。\n\n    T = 1\n"
    joined = "- 項目の続き、次。\n  - 内側。\n- 項目\n\n1. 一（い）\n2. 二（に）`W` と。\n\n    T = 1\n"
    assert build.joined(text) == joined


def test_a_link_that_leads_nowhere_is_found(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SITE", tmp_path)
    (tmp_path / "a.html").write_text('<h1 id="here">A</h1><a href="b.html#there">B</a><a href="#here">A</a>')
    assert list(build.broken_links()) == ["a.html links to b.html#there, which is not there"]
    (tmp_path / "b.html").write_text("<h1>B</h1>")
    assert list(build.broken_links()) == ["a.html links to b.html#there, which is not there"]
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1>')
    assert list(build.broken_links()) == []
