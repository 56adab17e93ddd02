"""`nnbackend train --report` and `nnbackend report`: the files that they write, and what they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import write_bars

from nnbackend.cli import main
from nnbackend.report import RUN_FORMAT, check_libraries

try:
    check_libraries()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    write_bars(tmp_path / "bars")
    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> int:
        return main(["train", "mnist", "--data", "bars", "--hidden", "6", "--epochs", "2", "--batch-size", "20", *more])

    return run


def text_of(path: str) -> str:
    return Path(path).read_text("utf-8")


def test_a_page_about_a_training(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--report", "it's a run.html", "--json", "run.json") == 0
    assert "wrote the report to it's a run.html" in capsys.readouterr().out
    page = text_of("it's a run.html")
    assert "nnbackend train mnist --data bars --hidden 6" in page
    assert "bars" in page
    charts = json.loads(re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)[0])
    history = json.loads(text_of("run.json"))["history"]
    values = [row["value"] for row in charts["chart1"]["data"]["values"]]
    assert values == [*history["loss"], *history["val_loss"]]
    assert page.count('class="chart"') == len(charts) >= 5


def test_the_command_names_the_backend_of_the_environment(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNBACKEND", "array_api_strict")
    assert train("--report", "a.html", "--quiet") == 0
    assert "--quiet --backend array_api_strict" in text_of("a.html")


def test_a_training_that_fails_has_a_page(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with np.errstate(all="ignore"):
        assert train("--optimizer", "sgd", "--lr", "1e30", "--report", "a.html", "--quiet") == 1
    message = capsys.readouterr().err
    assert "training met a value that is not finite" in message
    page = text_of("a.html")
    assert "The training stopped with an error" in page
    assert "training met a value that is not finite" in page


def test_a_resumed_training_has_the_whole_page(train: Callable[..., int]) -> None:
    assert train("--checkpoint", "c.safetensors", "--report", "a.html", "--quiet") == 0
    first = text_of("a.html")
    assert train("--checkpoint", "c.safetensors", "--resume", "--report", "a.html", "--quiet") == 0
    assert charts_of(text_of("a.html")) == charts_of(first)


def charts_of(page: str) -> str:
    return re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)[0]


def test_runs_are_compared(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for seed in "12":
        assert train("--seed", seed, "--json", f"run{seed}.json", "--quiet") == 0
    assert json.loads(text_of("run1.json"))["format"] == RUN_FORMAT
    capsys.readouterr()
    assert main(["report", "run1.json", "run2.json", "--title", "Two <seeds>"]) == 0
    assert capsys.readouterr().out == "compared 2 runs in comparison.html\n"
    page = text_of("comparison.html")
    assert "Two &lt;seeds&gt;" in page
    assert "<seeds>" not in page
    differences = re.findall(r'<th scope="row">seed</th><td>1</td><td>2</td>', page)
    assert len(differences) == 1
    assert main(["report", "run1.json", "--output", "one.html"]) == 0
    assert "run1" in text_of("one.html")


def test_a_table_is_told_in_its_own_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features and targets of a table are scaled for the network; the page undoes that, and names the columns."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    height, side = rng.uniform(1500, 2000, 80).round(), rng.choice(["left", "right"], 80)
    answers = (3 * height + 500 * (side == "left") + rng.normal(0, 20, 80)).round()
    lines = [f"{h:.0f},{s},{a:.0f}" for h, s, a in zip(height, side, answers, strict=True)]
    Path("t.csv").write_text("\n".join(["height <mm>,side,price", *lines]), encoding="utf-8")
    arguments = ["train", "t.csv", "--target", "price", "--epochs", "30", "--report", "a.html", "--json", "a.json"]
    assert main([*arguments, "--validation", "0.2"]) == 0
    record, page = json.loads(text_of("a.json")), text_of("a.html")
    (worst,) = re.findall(r"<caption>[^/]*The rows with the largest loss.*?</table>", page, re.S)
    assert '<th scope="col">height &lt;mm&gt;</th>' in worst
    assert '<th scope="col">side=left</th>' in worst
    rows = re.findall(r"<tr><th scope=\"row\">\d+</th>(.*?)</tr>", worst)
    cells = [[float(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]
    known = {(h, s == "left", a) for h, s, a in zip(height, side, answers, strict=True)}
    assert len(cells) == 16
    assert {(h, bool(left), target) for _, target, _, h, left, _ in cells} <= known
    error = np.sqrt(np.mean([(answer - target) ** 2 for _, target, answer, *_ in cells]))
    assert error == pytest.approx(record["test_error"], rel=0.01)  # the page rounds to four digits
    assert f"<dd>{record['test_error']:.4g}</dd>" in page
    assert f"<dd>{record['r_squared']:.4g}</dd>" in page


def test_a_page_says_that_a_run_only_learned_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(1).standard_normal((160, 5))
    lines = [",".join([*map(str, row[:4]), "abc"[int(10 * abs(row[4])) % 3]]) for row in rows]
    Path("t.csv").write_text("\n".join(["a,b,c,d,t", *lines]), encoding="utf-8")
    arguments = ["train", "t.csv", "--target", "t", "--epochs", "100", "--lr", "0.01", "--validation", "0.5"]
    assert main([*arguments, "--dropout", "0", "--report", "a.html", "--quiet"]) == 0
    page = text_of("a.html")
    assert re.search(r'<span lang="en">it knows its training rows by heart \(accuracy [\d.]+% in', page)
    assert re.search(r'<span lang="ja">学習データを暗記しています\(正解率は学習データで [\d.]+%、', page)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["report"], 2, "the following arguments are required: RUN"),
        (["report", "none.json"], 1, "none.json: No such file or directory"),
        (["report", "bad.json"], 1, "bad.json: line 1, column 1: it is not JSON: Expecting value"),
        (["report", "bad.json", "--output", "no/a.html"], 2, "argument --output: there is no folder no"),
        (["train", "mnist", "--report", "no/a.html"], 2, "argument --report: there is no folder no"),
    ],
)
def test_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("no", encoding="utf-8")
    assert main(arguments) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.html"))


def test_without_its_libraries_nothing_is_trained(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert train("--report", "a.html") == 2
    assert 'pip install "nnbackend[report]"' in capsys.readouterr().err
