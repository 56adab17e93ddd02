"""Everything that a diagnosis can say is said in Japanese, with the same numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnbackend as nn
from nnbackend import diagnosis
from nnbackend.datasets import write_idx
from nnbackend.recipes import TrainSettings, train_data
from nnbackend.report.japanese import _patterns, in_japanese
from nnbackend.report.words import told, words

RNG = np.random.default_rng(0)
ROWS, LABELS = RNG.standard_normal((60, 5)), np.arange(60) % 3


def network(kind: Any, depth: int, weight: Any = None, bias: Any = "zeros", tail: Any = ()) -> nn.Network:
    layers: list[nn.Layer] = []
    for i in range(depth):
        layers += [nn.Affine(16 if i else 5, 16, weight, bias), kind()]
    return nn.Network([*layers, nn.Affine(16, 3), *tail], dtype="float64")


def broken() -> nn.Network:
    net = network(nn.Tanh, 2)
    net.params["W2"][0, 0] = np.inf
    return net


def endless() -> nn.Network:
    """All outputs are finite, and their loss is not."""
    net = nn.Network([nn.Affine(5, 1)], loss=nn.MeanSquaredError(), dtype="float64")
    net.params["W1"][...] = 1e200
    return net


CASES = {
    "the network answers nearly the same": (lambda: network(nn.Sigmoid, 3, 0.01), LABELS),
    "nearly the same for every input": (
        lambda: nn.Network([nn.Affine(5, 1, nn.Constant(0.0))], nn.MeanSquaredError()),
        ROWS[:, 0],
    ),
    "its outputs are probabilities already": (lambda: network(nn.ReLU, 1, tail=[nn.Softmax()]), LABELS),
    "its outputs lie in": (lambda: network(nn.ReLU, 1, tail=[nn.Tanh()]), LABELS),
    "units are dead": (lambda: network(nn.ReLU, 2, bias=nn.Constant(-100.0)), LABELS),
    "are saturated": (lambda: network(nn.Tanh, 1, 30.0), LABELS),
    "the gradient explodes": (lambda: network(nn.ReLU, 4, 5.0), LABELS),
    "values explode": (lambda: network(nn.ReLU, 4, 5.0), LABELS),
    "the gradient vanishes": (lambda: network(nn.Sigmoid, 8), LABELS),
    "its output is not finite": (broken, LABELS),
    "the loss is not finite": (endless, ROWS[:, 0]),
}


@pytest.mark.parametrize("part", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about values that are not finite
def test_each_finding(part: str) -> None:
    make, t = CASES[part]
    findings = nn.diagnose(make(), ROWS, t).findings
    found = [finding for finding in findings if part in finding.what]
    assert found, [finding.what for finding in findings]
    for text in (*(finding.what for finding in found), *(finding.advice for finding in found)):
        japanese = in_japanese(text)
        assert japanese is not None, text
        assert re.search(r"[\u3040-\u30ff]", japanese)
        numbers = re.findall(r"(?<![\w.])-?\d[\d.e+-]*%?", text)
        assert all(number in japanese for number in numbers), (numbers, japanese)


def learned_by_heart(folder: Path) -> list[str]:
    """What a training says about answers that are drawn at random: of numbers, of classes, and of pictures."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((240, 7))
    letters, numbers = folder / "letters.csv", folder / "numbers.csv"
    for path, last in ((letters, "abc"), (numbers, "")):
        answers = [last[int(10 * abs(row[-1])) % 3] if last else str(row[-1]) for row in rows]
        lines = [",".join([*map(str, row[:-1]), answer]) for row, answer in zip(rows, answers, strict=True)]
        path.write_text("\n".join(["a,b,c,d,e,f,t", *lines]), encoding="utf-8")
    images, labels = rng.integers(0, 256, (80, 6, 6)).astype(np.uint8), (np.arange(80) % 3).astype(np.uint8)
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", rng.permutation(labels))
    found = []
    for settings in (
        {"data": str(letters), "target": "t", "validation": 0.5},
        {"data": str(numbers), "target": "t", "validation": 0.5},
        {"data": str(folder)},
    ):
        result = train_data(TrainSettings(hidden=(64,), epochs=120, dropout=0.0, augment=0.0, lr=0.01, **settings))
        assert result.advice is not None
        what, between, tries = result.advice.partition("; try ")
        assert between
        found += [what, tries]
    return found


def test_the_cases_reach_every_pattern(tmp_path: Path) -> None:
    said = [finding for make, t in CASES.values() for finding in quiet(make(), t)]
    texts = [text for finding in said for text in (finding.what, finding.advice)]
    by_heart = learned_by_heart(tmp_path)
    assert all(in_japanese(text) for text in by_heart), by_heart
    texts += by_heart
    for pattern, _ in _patterns():
        assert any(pattern.fullmatch(text) for text in texts), pattern.pattern


def quiet(net: nn.Network, t: Any) -> tuple[nn.Finding, ...]:
    with np.errstate(all="ignore"):
        return nn.diagnose(net, ROWS, t).findings


def test_every_advice() -> None:
    advice = [value for name, value in vars(diagnosis).items() if name.endswith("_ADVICE")]
    assert len(advice) == 5
    assert all(in_japanese(text) for text in advice)


def test_other_texts_are_not_translated() -> None:
    assert in_japanese("something new") is None
    assert in_japanese("its output is not finite. <b>") is None


def test_the_words_of_both_languages_have_the_same_places() -> None:
    for key, (english, japanese) in words().items():
        assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", japanese)), key
        assert english.strip() == english != ""
        assert japanese.strip() == japanese != ""


def test_texts_within_texts() -> None:
    text = {"word": "last", "values": {"name": {"word": "accuracy"}}}
    assert told(text) == ("last accuracy", "最後の 正解率")
    assert told("{epoch}") == ("{epoch}", "{epoch}")
    assert told(("a", "b")) == ("a", "b")
    assert told({"word": "last", "values": {"name": "{x}"}})[0] == "last {x}"
