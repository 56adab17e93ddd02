"""The command on data as people have it: tables, folders of pictures, arrays."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support import write_bars

import nnbackend as nn
from nnbackend.cli import main

LINES = [(f"{'ab'[i % 2]}", i % 7, round(i % 7 + 3.5 * (i % 2) + 0.01 * (i % 5), 2)) for i in range(120)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "flats.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("kind", "rooms", "price"), *LINES])
    return path


def error_of(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("nnbackend: error: ")


def test_a_table_from_training_to_answers(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, record = tmp_path / "net", tmp_path / "run.json"
    assert main(["train", str(table), "--target", "price", "--save", str(net), "--json", str(record)]) == 0
    out, err = capsys.readouterr()
    assert f"data      flats ({table}): 108 rows to train on, 12 held out\n" in out
    assert "features  3: kind=a, kind=b, rooms\n" in out
    assert "target    'price': numbers\n" in out
    assert "epoch  training loss  validation loss  seconds\n" in out
    found = re.search(
        r"validation error of 'price' (\S+) \(root of the mean square\), R squared (\S+), trained in", out
    )
    assert found is not None
    assert float(found[2]) > 0.9
    assert "warning" not in err
    written = json.loads(record.read_text())
    assert written["tested_on"] == "validation"
    assert written.get("test_accuracy") is None
    assert written["r_squared"] == pytest.approx(float(found[2]), abs=1e-4)

    assert main(["predict", str(net), str(table)]) == 0
    printed = list(csv.reader(capsys.readouterr().out.splitlines()))
    assert printed[0] == ["kind", "rooms", "price", "prediction"]
    assert [tuple(row[:3]) for row in printed[1:]] == [tuple(map(str, line)) for line in LINES]
    assert np.abs(np.array([float(row[3]) - float(row[2]) for row in printed[1:]])).mean() < 0.7
    output = tmp_path / "out.tsv"
    assert main(["predict", str(net), str(table), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote 120 answers to {output}\n"
    assert list(csv.reader(output.read_text().splitlines(), delimiter="\t")) == printed


def test_classes_are_recognised_and_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(table), "--target", "rooms", "--epochs", "1", "--quiet"]) == 0
    assert re.match(r"validation accuracy \d", capsys.readouterr().out)
    assert main(["train", str(table), "--target", "rooms", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "target    'rooms': 7 classes (0, 1, 2, 3, 4, 5, 6); --task numbers takes them for numbers\n" in out
    assert "epoch  training loss  accuracy  validation loss  accuracy  seconds\n" in out
    assert main(["train", str(table), "--target", "rooms", "--epochs", "1", "--task", "numbers"]) == 0
    assert "target    'rooms': numbers\n" in capsys.readouterr().out
    assert main(["train", str(table), "--target", "kind", "--validation", "0", "--epochs", "2"]) == 0
    out = capsys.readouterr().out
    assert "target    'kind': 2 classes (a, b)\n" in out
    assert "epoch  training loss  accuracy  seconds\n" in out
    assert "\ntraining accuracy " in out


def test_doubts_about_data_are_printed(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table.read_text().splitlines()
    table.write_text("\n".join(["Id," + rows[0], *(f"{i},{row}" for i, row in enumerate(rows[1:]))]))
    assert main(["train", str(table), "--target", "price", "--epochs", "1", "--quiet"]) == 0
    err = capsys.readouterr().err
    assert err.startswith(f"nnbackend: warning: {table}: column 'Id' counts the rows")
    assert main(["train", str(table), "--target", "price", "--drop", "Id", "--epochs", "1", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_learning_by_heart_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.csv"
    with path.open("w", newline="") as file:
        rows = [
            [*x, c] for x, c in zip(rng.normal(size=(200, 6)).tolist(), rng.integers(0, 2, 200).tolist(), strict=True)
        ]
        csv.writer(file).writerows([list("abdefgc"), *rows])
    command = ["train", str(path), "--target", "c", "--dropout", "0", "--epochs", "200", "--hidden", "200"]
    assert main([*command, "--validation", "0.4"]) == 0
    assert "\nit knows its training rows by heart (accuracy " in capsys.readouterr().out


def test_a_folder_whose_name_holds_marks_of_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    for name in ("dark", "light"):
        Path("shades [2]", name).mkdir(parents=True)
        image.new("L", (8, 8), 200 * (name == "light")).save(Path("shades [2]", name, "1.png"))
    assert main(["train", "shades [2]", "--epochs", "1", "--quiet", "--save", "net"]) == 0
    capsys.readouterr()
    assert "unknown data set '**x'" in error_of(["train", "**x"], 2, capsys)


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for name, grey in (("dark", 20), ("light", 220)):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for i in range(20):
            image.fromarray(np.full((8, 8), grey + i, np.uint8)).save(tmp_path / "shades" / name / f"{i}.png")
    (tmp_path / "shades" / "dark" / "notes.txt").touch()
    net = tmp_path / "net"
    assert main(["train", str(tmp_path / "shades"), "--epochs", "20", "--save", str(net)]) == 0
    out, err = capsys.readouterr()
    assert "shades): 36 pictures to train on, 4 held out\n" in out
    assert "pictures  8 x 8 pixels, grey\n" in out
    assert "target    'class': 2 classes (dark, light)\n" in out
    assert "network   Convolution1 ReLU1 MaxPooling1" in out
    assert "nnbackend: warning: " in err
    assert "notes.txt" in err
    picture = tmp_path / "shades" / "light" / "3.png"
    shown = tmp_path / "shown.png"
    assert main(["predict", str(net), str(picture), "--top", "2", "--show", str(shown)]) == 0
    assert re.match(rf"{re.escape(str(picture))}  light \d+\.\d\d%  dark \d+\.\d\d%\n", capsys.readouterr().out)
    assert shown.read_bytes().startswith(b"\x89PNG")
    assert main(["predict", str(net), str(tmp_path / "shades")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 40
    assert all(Path(row["file"]).parts[0] == row["prediction"] for row in rows)
    assert main(["predict", str(net), str(picture), "-o", str(tmp_path / "one.csv")]) == 0
    assert (
        (tmp_path / "one.csv").read_text().startswith(f"file,prediction,probability_dark,probability_light\n{picture},")
    )


def test_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "a.npz", x=x, y=x[:, 0] > 0)
    net = tmp_path / "net"
    assert main(["train", str(tmp_path / "a.npz"), "--epochs", "30", "--quiet", "--save", str(net)]) == 0
    capsys.readouterr()
    assert main(["predict", str(net), str(tmp_path / "a.npz")]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert (
        np.mean([(row["prediction"] == "True") == (value > 0) for row, value in zip(rows, x[:, 0], strict=True)]) > 0.9
    )
    assert main(["predict", str(net), str(tmp_path / "a.npz"), "-o", str(tmp_path / "out.npz")]) == 0
    with np.load(tmp_path / "out.npz") as out:
        assert out["prediction"].tolist() == [row["prediction"] for row in rows]


def test_idx_files_without_the_word_mnist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bars(tmp_path / "bars")
    assert main(["train", str(tmp_path / "bars"), "--validation", "0.25", "--epochs", "9"]) == 0
    out = capsys.readouterr().out
    assert ": 90 images to train on, 30 held out, 30 to test\n" in out
    assert "validation loss" in out
    assert "\ntest accuracy " in out
    assert "images shifted, turned, scaled and bent at random" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["train", "flats"], 2, "unknown data set 'flats'. Known: mnist. Or the path of data."),
        (["train", "{t}"], 1, "target: name the column of {t} to predict, one of kind, rooms, price"),
        (["train", "{t}", "--target", "prices"], 1, "{t}: unknown column 'prices'. Did you mean 'price'?"),
        (["train", "{t}", "--target", "price", "--task", "class"], 2, "unknown task 'class'. Did you mean 'classes'"),
        (["train", "{t}", "--target", "price", "--validation", "1"], 1, "validation must be at least 0 and below 1"),
        (["train", "{t}", "--target", "price", "--model", "cnn"], 1, "model: 'cnn' is for pictures"),
        (
            ["train", "{t}", "--target", "price", "--data", "full"],
            2,
            "argument --data: it belongs to mnist",
        ),
        (["train", "{t}", "--target", "price", "--augment", "1"], 1, "augment: only pictures"),
        (["train", "mnist", "--target", "price"], 1, "target: only a table has columns"),
        (["train", "nowhere.csv", "--target", "a"], 1, "nowhere.csv: there is no such file"),
    ],
)
def test_errors(
    arguments: list[str], status: int, message: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word.format(t=table) for word in arguments]
    assert error_of([*arguments, "--quiet"], status, capsys).startswith(message.format(t=table))


def test_where_answers_may_not_be_written(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net"
    assert main(["train", str(table), "--target", "price", "--epochs", "1", "--quiet", "--save", str(net)]) == 0
    capsys.readouterr()
    before = table.read_bytes()
    command = ["predict", str(net), str(table)]
    assert "is read by this command" in error_of([*command, "-o", str(table)], 2, capsys)
    assert "a name that ends in .csv, .tsv, .parquet, .npz is needed" in error_of([*command, "-o", "a.xls"], 2, capsys)
    assert "there is no folder" in error_of([*command, "-o", str(tmp_path / "none" / "a.csv")], 2, capsys)
    assert "one file holds the answers to one FILE" in error_of([*command, str(net), "-o", "a.csv"], 2, capsys)
    assert "takes the rows of a table" in error_of(["predict", str(net), str(tmp_path / "a.npz")], 1, capsys)
    show = ["--show", str(tmp_path / "a.png")]
    assert "nothing is drawn" in error_of([*command, *show, "-o", str(tmp_path / "a.csv")], 2, capsys)
    assert main([*command, *show]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("a.png is not drawn")
    assert table.read_bytes() == before


def test_a_row_that_cannot_be_answered_is_named(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, new = tmp_path / "net", tmp_path / "new.csv"
    assert main(["train", str(table), "--target", "price", "--epochs", "1", "--quiet", "--save", str(net)]) == 0
    capsys.readouterr()
    for text, message in (
        ("kind,rooms\na,3\nc,4\n", f"{new}: line 3, column 'kind': 'c' did not occur in training, which had 'a', 'b'"),
        ("kind\na\n", f"{new}: unknown column 'rooms'"),
        ("kind,rooms\na,\n", f"{new}: missing values: column 'rooms' in 1 of 1 rows (first: line 2)"),
    ):
        new.write_text(text)
        assert error_of(["predict", str(net), str(new)], 1, capsys).startswith(message)


def test_a_file_that_lies_about_its_preparation(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net"
    assert main(["train", str(table), "--target", "kind", "--epochs", "1", "--quiet", "--save", str(net)]) == 0
    capsys.readouterr()
    network = nn.load(net)
    good = network.preparation
    assert good is not None
    for change, message in (
        ({"kind": "tabel"}, "unknown kind of preparation 'tabel'"),
        ({"columns": []}, "the preparation of a table needs columns"),
        ({"columns": good["columns"][:1]}, "x: expected shape (n, 2)"),
        (
            {"target": {"name": "kind", "classes": ["a", "b", "c"]}},
            "the network has 2 classes, but its preparation names 3",
        ),
    ):
        network.preparation = {**good, **change}  # type: ignore[dict-item]
        network.save(net)
        assert error_of(["predict", str(net), str(table)], 1, capsys).startswith(message)
