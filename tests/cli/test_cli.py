"""The command line: what it writes, what it says, and how it fails."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import json
import os
import pickle
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from support import SIDE, write_bars

import nnbackend as nn
from nnbackend.backends import crossover
from nnbackend.cli import main
from nnbackend.cli.output import INTERRUPTED, TERMINATED
from nnbackend.cli.parser import check_apart
from nnbackend.datasets import mnist_host, write_idx
from nnbackend.recipes import predict_file


@pytest.fixture(autouse=True)
def _no_outside_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NNBACKEND_DATA", raising=False)
    monkeypatch.setenv("NNBACKEND_CACHE", str(tmp_path / "no cache"))
    monkeypatch.setattr(sys.modules["nnbackend.backends.select"], "_selected", None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "bars"
    write_bars(folder)
    return folder


@pytest.fixture
def short(data: Path) -> list[str]:
    """A run of a fraction of a second that learns its data by heart."""
    plain = ["--augment", "0", "--dropout", "0"]
    width = ["--hidden", "12", "--epochs", "3", "--batch-size", "10", "--lr=0.02"]
    return ["train", "mnist", "--data", str(data), *width, *plain]


@pytest.fixture
def model(short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "bars.safetensors"
    assert main([*short, "--quiet", "--save", str(path)]) == 0
    capsys.readouterr()
    return path


def error_of(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command leaves on stderr when it fails."""
    assert main(arguments) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("nnbackend: error: ")
    return lines[0].removeprefix("nnbackend: error: ")


# --- train ------------------------------------------------------------------------------------------------------


def test_train_says_writes_and_records(
    short: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in ("net.safetensors", "curve.png", "run.json")}
    options = zip(("--save", "--plot", "--json"), map(str, files.values()), strict=True)
    assert main([*short, *(word for option in options for word in option)]) == 0
    out, err = capsys.readouterr()

    assert "backend   numpy\n" in out
    assert f"data      bars ({data}): 120 images to train on, 30 to test\n" in out
    assert "network   64-12-3, relu, 819 parameters, float32\n" in out
    assert "training  adam, learning rate 0.02 falling to 0, batches of 10, 3 epochs, seed 0\n" in out
    assert len(re.findall(r"^ +[123] +\d\.\d{4} ", out, re.MULTILINE)) == 3
    assert "test accuracy 100.00%" in out
    assert all(str(path) in out for path in files.values())
    assert "sample" not in out
    assert "epoch 3/3: loss=" in err

    record = json.loads(files["run.json"].read_text(encoding="utf-8"))
    assert record["settings"] == {
        "data": str(data),
        "source": str(data),
        "target": None,
        "task": "auto",
        "drop": [],
        "validation": None,
        "side": None,
        "model": "mlp",
        "hidden": [12],
        "dropout": 0.0,
        "augment": 0.0,
        "activation": "relu",
        "optimizer": "adam",
        "lr": 0.02,
        "epochs": 3,
        "batch_size": 10,
        "accumulate": 1,
        "seed": 0,
        "dtype": "float32",
        "backend": "numpy",
        "parameters": 819,
        "version": nn.__version__,
    }
    recorded = {
        name: len(values)
        for name, values in record["history"].items()
        if name not in ("interrupted", "metrics", "skipped")
    }
    assert recorded == dict.fromkeys(
        ("loss", "accuracy", "val_loss", "val_accuracy", "seconds", "samples_per_second"), 3
    )
    assert record["test_accuracy"] == 1.0
    assert record["test_loss"] == pytest.approx(record["history"]["val_loss"][-1])
    assert record["seconds"] > 0
    assert files["curve.png"].read_bytes().startswith(b"\x89PNG")
    test = nn.datasets.mnist(data)
    assert nn.load(files["net.safetensors"]).accuracy(test.x_test, test.t_test) == 1.0


def test_nothing_is_written_unless_asked(
    short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main([*short, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(r"test accuracy 100.00%, test loss .* s\n", out)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["array_api_strict:device1", "torch"])
def test_other_backends(
    name: str, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(name.partition(":")[0])
    assert main([*short, "--backend", name, "--json", str(tmp_path / "a.json")]) == 0
    assert f"backend   {name}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["settings"]["backend"] == name
    assert nn.backend().name == "numpy"  # the option is for the command alone

    monkeypatch.setattr(sys.modules["nnbackend.backends.select"], "_selected", None)
    monkeypatch.setenv("NNBACKEND", name)
    assert main(short) == 0
    assert f"backend   {name}\n" in capsys.readouterr().out


def test_the_sample_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "mnist", "--hidden", "32", "--epochs", "1", "--batch-size", "100", "--augment", "0"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "data mnist (sample): 10,000 images to train on, 2,000 to test" in out
    assert "`--data full`" in out
    accuracy = re.search(r"test accuracy (\d+\.\d+)%", out)
    assert accuracy is not None
    assert float(accuracy[1]) > 85


@pytest.mark.parametrize("steps", [5, 20])  # within the first epoch of 12 steps, within the second
def test_interrupted(
    steps: int, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = nn.Adam.step

    def interrupted_step(self: nn.Adam, p: np.ndarray, g: np.ndarray, state: dict[str, int]) -> None:
        step(self, p, g, state)
        if state["t"] == steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(nn.Adam, "step", interrupted_step)
    files = {name: tmp_path / name for name in ("net.safetensors", "curve.png", "run.json")}
    options = zip(("--save", "--plot", "--json"), map(str, files.values()), strict=True)
    assert main([*short, "--quiet", *(word for option in options for word in option)]) == 130
    completed = steps // 12
    assert f"interrupted after {completed} of 3 epochs" in capsys.readouterr().out
    assert len(nn.load(files["net.safetensors"]).params) == 4
    assert len(json.loads(files["run.json"].read_text())["history"]["loss"]) == completed
    assert files["curve.png"].exists() == (completed > 0)  # there is no curve of nothing


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_how_to_go_on_and_does(
    number: str, short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = nn.Adam.step

    def interrupted_step(self: nn.Adam, p: np.ndarray, g: np.ndarray, state: dict[str, int]) -> None:
        step(self, p, g, state)
        if state["t"] == 17:
            signal.raise_signal(signal.Signals[number])

    assert main([*short, "--quiet", "--save", str(tmp_path / "whole")]) == 0
    kept = ["--checkpoint", str(tmp_path / "a run"), "--every", "5steps", "--keep", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(nn.Adam, "step", interrupted_step)
        capsys.readouterr()
        status = main([*short, "--quiet", *kept, "--save", str(tmp_path / "net")])
    out, err = capsys.readouterr()
    assert status == {"SIGINT": 130, "SIGTERM": 143}[number]
    (said,) = re.findall("go on with: nnbackend (.*)", out + err)
    assert said.endswith(" --resume")
    assert sorted(path.name for path in tmp_path.glob("a run*")) == ["a run", "a run.1"]
    assert main([word for word in shlex.split(said) if word != "--quiet"]) == 0
    assert "resumed   after 1 epochs and 5 steps\n" in capsys.readouterr().out
    assert (tmp_path / "net").read_bytes() == (tmp_path / "whole").read_bytes()
    assert main(shlex.split(said)) == 0  # complete already
    assert (tmp_path / "net").read_bytes() == (tmp_path / "whole").read_bytes()


def test_resume_begins_where_there_is_nothing_yet(
    short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*short, "--quiet", "--checkpoint", str(tmp_path), "--every", "2", "--resume"]) == 0
    assert "resumed" not in capsys.readouterr().out
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_resume_names_what_has_changed(short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ["--checkpoint", str(tmp_path / "run")]
    assert main([*short, "--quiet", *kept]) == 0
    assert "is there already: --resume goes on with it" in error_of([*short, *kept], 2, capsys)
    for option, value, named in (
        ("--optimizer", "sgd", "optimizer kind: 'Adam' then, 'SGD' now"),
        ("--epochs", "9", "optimizer lr steps: 36 then, 108 now"),
        ("--hidden", "5", "output_size: 12 then, 5 now"),
        ("--dtype", "float64", "network dtype: 'float32' then, 'float64' now"),
        ("--seed", "3", "seed: 0 then, 3 now"),
    ):
        assert named in error_of([*short, *kept, "--resume", option, value], 1, capsys)
    (tmp_path / "run").write_bytes(b"damaged")
    assert "damaged" in error_of([*short, *kept, "--resume"], 1, capsys)


def test_options_of_checkpoints_are_checked(
    short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--resume"], ["--every", "3"], ["--keep", "2"]):
        assert error_of([*short, *option], 2, capsys) == f"argument {option[0]}: it needs --checkpoint PATH"
    for every in ("0", "3x", "-1s", "s"):
        message = error_of([*short, "--checkpoint", str(tmp_path), f"--every={every}"], 2, capsys)
        assert message.startswith("argument --every: every: expected a positive integer")
    message = error_of([*short, "--checkpoint", str(tmp_path / "none" / "run")], 2, capsys)
    assert message == f"argument --checkpoint: there is no folder {tmp_path / 'none'}"


def test_interrupted_outside_of_training(
    short: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnbackend.recipes.train.load_prepared", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        assert error_of(short, 130, capsys) == "interrupted"
    finally:
        signal.signal(signal.SIGINT, inherited)


# --- train: errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: COMMAND"),
        (
            ["trian"],
            2,
            "unknown command 'trian'. Did you mean 'train'? Known: completion, conformance, doctor, export, predict, "
            "report, train.",
        ),
        (["train"], 2, "the following arguments are required: DATA"),
        (["train", "mnits"], 2, "unknown data set 'mnits'. Did you mean 'mnist'? Known: mnist."),
        (["train", "mnist", "--activation", "rleu"], 2, "unknown activation 'rleu'. Did you mean 'relu'? Known: "),
        (["train", "mnist", "--optimizer", "adma"], 2, "unknown optimizer 'adma'. Did you mean 'adam"),
        (["train", "mnist", "--dtype", "float23"], 2, "unknown dtype 'float23'. Did you mean 'float32'?"),
        (["train", "mnist", "--epochs", "0"], 2, "argument --epochs: expected an integer of at least 1, got '0'"),
        (["train", "mnist", "--hidden", "9", "x"], 2, "argument --hidden: expected an integer of at least 1, got 'x'"),
        (["train", "mnist", "--seed", "-1"], 2, "argument --seed: expected an integer of at least 0, got '-1'"),
        (["train", "mnist", "--lr", "fast"], 2, "argument --lr: invalid float value: 'fast'"),
        (["train", "mnist", "--epoch-count", "3"], 2, "unrecognized arguments: --epoch-count 3"),
        (["train", "mnist", "--lr", "-1"], 1, "lr must be positive and finite, got -1.0"),
        (["train", "mnist", "--data", "smaple"], 1, "data: unknown data set 'smaple'. Did you mean 'sample'?"),
        (["train", "mnist", "--backend", "nupy"], 1, "backend: unknown backend 'nupy'. Did you mean 'numpy'?"),
        (["predict", "nix.safetensors", "a.png"], 1, "nix.safetensors: there is no such file"),
    ],
)
def test_errors(arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(arguments, status, capsys).startswith(message)


def test_a_backend_from_the_variable_that_does_not_work(
    short: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NNBACKEND", "cuppy")
    assert error_of(short, 1, capsys).startswith("NNBACKEND: unknown backend 'cuppy'. Did you mean 'cupy'?")


def test_more_rows_in_a_batch_than_there_are(short: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "but the data has only 120 rows" in error_of([*short, "--batch-size", "1000"], 1, capsys)


def test_damaged_data(short: list[str], data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert error_of(short, 1, capsys).startswith(f"{path}: truncated")


@pytest.mark.parametrize("option", ["--save", "--plot", "--json"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/a.png", "there is no folder {folder}/nowhere"),
        ("", "{folder} is a folder, a file name is needed"),
        ("bars/t10k-labels-idx1-ubyte/a.png", "there is no folder {folder}/bars/t10k-labels-idx1-ubyte"),
    ],
)
def test_outputs_are_checked_before_training(
    option: str,
    name: str,
    message: str,
    short: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("nnbackend.cli.train.train_data", lambda *a, **k: pytest.fail("it trained"))
    expected = f"argument {option}: " + message.format(folder=tmp_path)
    assert error_of([*short, option, str(tmp_path / name)], 2, capsys) == expected


def test_other_outputs_that_cannot_be_written(
    short: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnbackend.cli.train.train_data", lambda *a, **k: pytest.fail("it trained"))
    path = tmp_path / "curve.pgn"
    message = error_of([*short, "--plot", str(path)], 2, capsys)
    assert message.startswith(f"argument --plot: cannot write {path}: ")
    assert "Did you mean '.png'?" in message

    monkeypatch.setattr("importlib.util.find_spec", lambda *a: None)
    assert error_of([*short, "--plot", "a.png"], 2, capsys).endswith('pip install "nnbackend[plot]"')

    there = tmp_path / "there.json"
    there.write_text("mine")
    monkeypatch.setattr(os, "access", lambda *a: False)
    assert "it may not be overwritten" in error_of([*short, "--json", str(there)], 2, capsys)
    assert there.read_text() == "mine"

    def refused(**how: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    message = error_of([*short, "--save", str(tmp_path / "a")], 2, capsys)
    assert message == f"argument --save: cannot write {tmp_path / 'a'}: Permission denied"


# --- predict ----------------------------------------------------------------------------------------------------


def test_a_file_is_written_once_and_not_over_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nnbackend.cli.train.train_data", lambda *a, **k: pytest.fail("it trained"))
    table, other = tmp_path / "a.csv", tmp_path / "b"
    table.write_text("x,y\n1,a\n2,b\n")
    (tmp_path / "folder").mkdir()
    winding = tmp_path / "folder" / ".." / "a.csv"
    linked = tmp_path / "c.csv"
    linked.symlink_to(table)
    train = ["train", str(table), "--target", "y"]
    for path in (table, winding, linked):
        for option in ("--save", "--json"):
            message = error_of([*train, option, str(path)], 2, capsys)
            assert message == f"argument {option}: {path} is read by this command"
        assert error_of([*train, "--resume", "--checkpoint", str(path)], 2, capsys).endswith("is read by this command")
    for one, two in (("--save", "--json"), ("--checkpoint", "--save")):
        message = error_of([*train, one, str(other), two, str(tmp_path / "folder" / ".." / "b")], 2, capsys)
        assert message.endswith("b is written twice by this command")
    assert error_of(["predict", "m", str(table), "-o", str(winding)], 2, capsys).endswith("is read by this command")
    assert error_of(["report", str(table), "--output", str(linked)], 2, capsys).endswith("is read by this command")
    network = tmp_path / "m.pt"
    network.touch()
    assert error_of(["export", str(network), str(network)], 2, capsys).endswith("is read by this command")
    assert table.read_text() == "x,y\n1,a\n2,b\n"
    for read in ([os.devnull], [table, os.devnull]):
        check_apart("--json", Path(os.devnull), read)  # a device holds nothing to spare


def test_predict_idx(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = data / "t10k-images-idx3-ubyte.gz"
    labels = nn.to_numpy(nn.datasets.mnist(data).t_test)
    assert main(["predict", str(model), str(images), "--limit", "7", "--top", "2"]) == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert last == f"... 30 images in {images}; --limit 30 shows all"
    assert len(rows) == 7
    for i, (row, label) in enumerate(zip(rows, labels, strict=False)):
        name, first, second = row.split("  ")
        assert name == f"{images}[{i}]"
        (best, p), (_, q) = first.split(), second.split()
        assert int(best) == label
        assert float(p.rstrip("%")) >= float(q.rstrip("%"))

    assert main(["predict", str(model), str(images), "--limit", "30"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 30


def test_predict_pictures(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    paths = []
    for label in range(3):
        pixels = np.zeros((SIDE, SIDE), np.uint8)
        pixels[:, 1 + 2 * label : 3 + 2 * label] = 250
        paths.append(tmp_path / f"{label}.png")
        image.fromarray(pixels).save(paths[-1])  # 8 x 8 on dark: taken as it is
    assert main(["predict", str(model), *map(str, paths)]) == 0
    rows = capsys.readouterr().out.splitlines()
    for label, (path, row) in enumerate(zip(paths, rows, strict=True)):
        assert re.fullmatch(rf"{re.escape(str(path))}  {label} \d+\.\d\d%", row)


def test_a_file_that_cannot_be_read_does_not_keep_the_others(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(data / "t10k-images-idx3-ubyte.gz")
    assert main(["predict", str(model), str(tmp_path / "nix.png"), images, "--limit", "1"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{images}[0]  ")
    assert err == f"nnbackend: error: {tmp_path / 'nix.png'}: there is no such file\n"


def test_pictures_that_do_not_fit_the_network(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_idx(tmp_path / "a", mnist_host("sample").x_test[:1])
    message = error_of(["predict", str(model), str(tmp_path / "a")], 1, capsys)
    assert message.endswith("got uint8 of shape (1, 28, 28), expected images: uint8 of shape (n, 8, 8)")


def test_a_network_keeps_how_its_pictures_lie(model: Path, tmp_path: Path) -> None:
    """The bars are anywhere in the image, and tell the class by that: pictures are taken whole."""
    assert nn.load(model).preparation == {"cut": False, "size": 20 / 28, "centre": "mass", "pen": 0.07, "dark": False}
    network = nn.load(model).to("numpy", "float64")
    network.preparation = {"cut": True, "size": 0.5, "centre": "box", "pen": 0.1, "dark": False}
    network.save(tmp_path / "a")
    for copied in (nn.load(tmp_path / "a"), pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert copied.preparation == network.preparation
    network.preparation = {"cut": "yes"}
    with pytest.raises(ValueError, match="cut and dark of a preparation must be True or False"):
        predict_file(network, tmp_path / "a.png")


def test_a_checkpoint_is_a_network_with_its_preparation(short: list[str], tmp_path: Path) -> None:
    assert main([*short, "--quiet", "--checkpoint", str(tmp_path / "run")]) == 0
    assert nn.load(tmp_path / "run").preparation == {
        "cut": False,
        "size": 20 / 28,
        "centre": "mass",
        "pen": 0.07,
        "dark": False,
    }


def test_show_draws_what_the_network_was_shown(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    images, shown = data / "t10k-images-idx3-ubyte.gz", tmp_path / "shown.png"
    assert main(["predict", str(model), str(images), "--limit", "3", "--show", str(shown)]) == 0
    assert capsys.readouterr().out.endswith(f"drew the images that the network saw in {shown}\n")
    drawn, zoom = np.asarray(image.open(shown)), 112 // SIDE
    assert drawn.shape == (SIDE * zoom + 28, 3 * (SIDE * zoom + 16))
    first = nn.datasets.read_idx(images)[0]
    np.testing.assert_array_equal(drawn[8 : 8 + SIDE * zoom : zoom, 8 : 8 + SIDE * zoom : zoom], first)


def test_where_show_may_not_draw(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    command = ["predict", str(model), str(tmp_path / "a.png"), "--show"]
    assert "a name that ends in .png is needed" in error_of([*command, str(tmp_path / "a.jpg")], 2, capsys)
    assert "is read by this command" in error_of([*command, str(tmp_path / "a.png")], 2, capsys)
    assert "there is no folder" in error_of([*command, str(tmp_path / "none" / "b.png")], 2, capsys)
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_an_implausible_cut_out_is_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.full((100, 100), 255, np.uint8)
    pixels[30:70, 30:70] = 0
    image.fromarray(pixels).save(tmp_path / "square.png")
    network = nn.load(model)
    network.preparation = None
    network.save(model)
    assert main(["predict", str(model), str(tmp_path / "square.png")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'square.png'}  ")
    assert err.startswith(f"nnbackend: warning: {tmp_path / 'square.png'}: the cut-out may be wrong: it is an area")


# --- the command itself -----------------------------------------------------------------------------------------


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "NNBACKEND"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment | settings)


def test_as_a_module() -> None:
    done = run("-m", "nnbackend", "--version")
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (0, f"nnbackend {nn.__version__}", "")
    done = run("-m", "nnbackend", "train", "mnits")
    assert done.returncode == 2
    assert done.stderr.startswith("nnbackend: error: unknown data set 'mnits'. Did you mean 'mnist'?")
    done = run("-m", "nnbackend", "train", "mnist", "--epochs=1", NNBACKEND="nupmy")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_the_version_lists_the_array_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"python {platform.python_version()}" in lines
    assert f"numpy {np.__version__}" in lines
    for name in ("array_api_strict", "torch"):
        if importlib.util.find_spec(name):
            assert f"{name} {importlib.metadata.version(name)}" in lines
    assert "torch" not in "".join(lines) or importlib.util.find_spec("torch")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["completion", "--help"]]
)
def test_help_tells_the_exit_status(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    for status in (0, 1, 2, INTERRUPTED, TERMINATED):
        assert f" {status}: " in text


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["tr"], {"train"}),
        (["train", "mn"], {"mnist"}),
        (["train", "mnist", "--optimizer", "adam"], {"adam", "adamw"}),
        (["train", "mnist", "--che"], {"--checkpoint"}),
        (["predict", "net.s"], {"net.safetensors"}),
    ],
)
def test_bash_completes(words: list[str], completed: set[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab", reason='shtab is not installed: pip install "nnbackend[completion]"')
    (tmp_path / "net.safetensors").touch()
    written = run("-m", "nnbackend", "completion", "bash")
    assert (written.returncode, written.stderr) == (0, "")
    ask = f"""
COMP_WORDS=(nnbackend {" ".join(words)}); COMP_CWORD={len(words)}
_shtab_nnbackend nnbackend {words[-1]} {words[-2] if len(words) > 1 else "nnbackend"} 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", written.stdout + ask], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == completed


def test_completion_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "nnbackend[completion]" in capsys.readouterr().err
    assert main(["completion", "csh"]) == 2
    assert "unknown shell 'csh'" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
def test_names_that_the_terminal_cannot_print_end_no_run(encoding: str, short: list[str], tmp_path: Path) -> None:
    name = os.fsdecode("数字é".encode() + (b"\xff" if sys.platform == "linux" else b""))
    files = [str(tmp_path / f"{name}.{ending}") for ending in ("safetensors", "json")]
    settings = {"PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "nnbackend", *short, "--save", files[0], "--json", files[1]],
        capture_output=True,
        env={key: value for key, value in os.environ.items() if key != "NNBACKEND"} | settings,
    )
    assert (done.returncode, b"error" in done.stderr) == (0, False), done.stderr
    assert b"wrote the record to" in done.stdout
    assert all(Path(file).exists() for file in files)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="user ids: this system has none")
def test_a_user_without_a_home_trains_on_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("NNBACKEND_CACHE")
    monkeypatch.setattr("pooch.os_cache", unknown)
    assert nn.datasets.mnist_host().source == "sample"
    with pytest.raises(nn.DataError, match="no home folder for a cache; set HOME, or NNBACKEND_CACHE"):
        nn.datasets.mnist_host("full")
    assert crossover.read("cupy") is None


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["predict", "--help"], ["doctor", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom nnbackend.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "heavy = {'matplotlib', 'PIL', 'tqdm', 'cupy', 'torch', 'sklearn', 'scipy', 'pooch', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: nnbackend")


def test_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "widths of the hidden layers (default: 512 256; for tables 64 64)" in text
    assert "update rule (default: adam)" in text
    assert "None" not in text


def test_a_reader_that_goes_away(model: Path, data: Path) -> None:
    images = str(data / "t10k-images-idx3-ubyte.gz")
    command = [sys.executable, "-m", "nnbackend", "predict", str(model), *[images] * 200]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "[0]" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_training_goes_on_when_its_reader_goes_away(short: list[str], tmp_path: Path) -> None:
    network = tmp_path / "network"
    command = [sys.executable, "-m", "nnbackend", *short, "--save", str(network)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert "backend" in process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    nn.load(network)


@pytest.mark.skipif(os.name == "nt", reason="closes the streams of a process with a shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_no_run(closed: str, short: list[str], model: Path, data: Path, tmp_path: Path) -> None:
    network = tmp_path / "network"
    images = str(data / "t10k-images-idx3-ubyte.gz")
    for arguments in ([*short, "--save", str(network)], ["predict", str(model), images]):
        command = shlex.join([sys.executable, "-m", "nnbackend", *arguments])
        done = subprocess.run(["sh", "-c", f"{command} {closed}"], capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    nn.load(network)


# --- the example that does the same in a script -----------------------------------------------------------------


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = Path(__file__).parents[2] / "examples" / "train_mnist.py"
    spec = spec_from_file_location("example_train_mnist", path)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    with nn.using("numpy"):
        example.main(["--data", "sample", "--epochs", "1", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "epoch  1: training loss" in out
    assert out.count("is taken for a") == 5
    assert (tmp_path / "train_mnist.png").read_bytes().startswith(b"\x89PNG")
    assert len(nn.load(tmp_path / "train_mnist.safetensors").params) == 6


def test_the_line_that_goes_on_is_quoted_for_the_shell_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from nnbackend.cli import train

    arguments = Namespace(argv=["train", "mnist", "--save", "my nets\\a.st", "--checkpoint", "it's"], resume=False)
    monkeypatch.setattr(train, "WINDOWS", False)
    posix = "nnbackend train mnist --save 'my nets\\a.st' --checkpoint 'it'\"'\"'s' --resume"
    assert train._command(arguments) == posix
    monkeypatch.setattr(train, "WINDOWS", True)
    windows = 'nnbackend train mnist --save "my nets\\a.st" --checkpoint it\'s --resume'
    assert train._command(arguments) == windows


def test_a_handler_of_sigterm_that_python_did_not_install_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnbackend.cli import train

    monkeypatch.setattr(train.signal, "getsignal", lambda number: None)
    monkeypatch.setattr(train.signal, "signal", lambda number, handler: pytest.fail("it could not be put back"))
    with train._termination():
        pass


def test_scripts_may_import_from_here_what_lies_in_the_recipes() -> None:
    from nnbackend import cli, recipes

    renamed = {"Run": "TrainingResult", "Settings": "MnistSettings"}
    assert set(cli.__all__) == {"main", "predict_file", "train_mnist", "Prediction", *renamed}
    for name in set(cli.__all__) - {"main"}:
        assert getattr(cli, name) is getattr(recipes, renamed.get(name, name))


def test_the_installed_command_is_main() -> None:
    import tomllib

    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    scripts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["scripts"]
    assert EntryPoint("nnbackend", scripts["nnbackend"], "console_scripts").load() is main
