"""Every example runs, on NumPy and on a device that refuses host conversion, and reaches what its docstring says."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import matplotlib.image
import numpy as np
import pytest
from support import MPIEXEC

import nnbackend as nn
from nnbackend.book2.dataset import sequence

EXAMPLES = Path(__file__).parent.parent / "examples"
TESTED_ELSEWHERE = {"export_digits", "train_mnist", "sklearn_estimator"}

# the arguments that make each short, and the pictures that it draws
SHORT = {
    "two_layer_net": (["--input-size=12", "--hidden-size=5", "--batch=20"], "two_layer_net.png"),
    "spiral": (["--shorten=100"], "spiral.png"),
    "numerical_training": (["--side=6", "--hidden=4", "--steps=4", "--plain"], "numerical_training.png"),
    "leaky_relu_adam_mnist": (["--data=sample", "--epochs=1"], "leaky_relu_adam_mnist.png"),
    "parallel": (["--epochs=1", "--rows=1000", "--processes", "1", "2"], "parallel.png"),
    "residual_cnn": (["--epochs=3", "--blocks=1", "--channels", "2", "3", "--rows=200"], "residual_cnn.png"),
    "resume": (["--epochs=2", "--rows=4000"], "resume.png"),
    "language_model": (["--epochs=1", "--rows=30", "--length=4"], "language_model.png"),
    "language_model --model": (["--epochs=1", "--rows=30", "--length=4", "--model=transformer"], "language_model.png"),
    "dates": (["--epochs=1", "--rows=40"], "dates.png"),
    "dates --ask": (["--epochs=1", "--rows=40", "--ask", "7/7/07"], "dates.png"),
    "xor": (["--steps=20"], "xor.png"),
    "xor --stall": (["--steps=20", "--stall"], "xor_stalled.png"),
}


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_no_example_is_forgotten() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")} - TESTED_ELSEWHERE
    assert there == {name.partition(" ")[0] for name in SHORT}


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict:device1"])
@pytest.mark.parametrize("name", SHORT)
def test_runs_and_draws(name: str, backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, picture = SHORT[name]
    if name == "parallel" and MPIEXEC is None:
        pytest.skip('MPI is not installed: pip install "nnbackend[mpi]" mpich')
    with nn.using(backend):
        example(name.partition(" ")[0]).main([*arguments, "--out", str(tmp_path)])
    assert f"drawn: {tmp_path / picture}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [picture]
    pixels = matplotlib.image.imread(tmp_path / picture)[..., :3]
    assert min(pixels.shape[:2]) > 400
    assert 0.03 < np.mean(pixels.min(axis=-1) < 0.95) < 0.9  # ink, and paper
    assert len(np.unique((255 * pixels[::2, ::2]).astype(int).reshape(-1, 3), axis=0)) > 100


WRONG = [
    (["--out", "absent"], "argument --out: there is no folder absent"),
    (["--out", "file"], "argument --out: there is no folder file"),
    (["--epochs", "0"], "argument --epochs: expected an integer of at least 1, got '0'"),
    (["--rows", "-5"], "argument --rows: expected an integer of at least 1, got '-5'"),
    (["--save", "absent/net"], "argument --save: there is no folder absent"),
    (["--onnx", "."], "argument --onnx: . is a folder, a file name is needed"),
    (["--temperature", "nan"], "--temperature: expected a number of at least 0, got nan"),
    (["--length", "-1"], "argument --length: expected an integer of at least 0, got '-1'"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), [
    (path.stem, arguments, message) for path in sorted(EXAMPLES.glob("*.py")) for arguments, message in WRONG
    if f'"{arguments[0]}"' in path.read_text(encoding="utf-8")
])  # fmt: skip
def test_wrong_arguments_end_it_before_it_begins(
    name: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit, match="2"):
        example(name).main(arguments)
    assert message in capsys.readouterr().err


def test_the_environment_variable_is_all_it_takes(tmp_path: Path) -> None:
    environment = {**os.environ, "NNBACKEND": "array_api_strict:device1"}
    command = [sys.executable, "-W", "error", str(EXAMPLES / "xor.py"), "--steps", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "after 3 steps" in done.stdout
    assert (tmp_path / "xor.png").is_file()


def test_xor_ends_at_the_published_parameters() -> None:
    published = {
        "W1": [[0.69638447, 5.57807722, 3.73301229, 1.27710358], [-0.02576369, 5.5070093, 3.82151436, 1.32686045]],
        "b1": [1.46459913, -2.22010371, -5.78779532, 0.7035585],
        "W2": [
            [1.43463791, -1.06940843],
            [-5.00845106, 5.83744973],
            [5.90110456, -5.1779304],
            [0.41666394, 0.33468281],
        ],
        "b2": [0.30761498, -2.62794276],
    }
    net, history = example("xor").train(60_000)
    for name, value in published.items():  # printed to eight decimals: half a unit of the last, and a little rounding
        np.testing.assert_allclose(net.params[name], value, rtol=0, atol=0.51e-8)
    assert history.loss[-1] == pytest.approx(0.0186, abs=1e-4)
    assert nn.diagnose(net, *nn.datasets.xor()).ok


def test_xor_stalls() -> None:
    net, _ = example("xor").train(3_000, stall=True)
    x, t = nn.datasets.xor()
    np.testing.assert_allclose(net.predict_proba(x), 0.5, atol=0.05)
    assert "answers nearly the same for every input" in str(nn.diagnose(net, x, t))


@pytest.mark.parametrize(("classes", "points", "epochs", "loss"), [(3, 100, 300, 0.1), (5, 50, 600, 0.3)])
def test_spirals_are_learnt(classes: int, points: int, epochs: int, loss: float) -> None:
    history, _ = example("spiral").learn(classes, points, [epochs])
    assert np.mean(history.loss[-10:]) == pytest.approx(loss, rel=0.15)  # the last epochs differ by some per cent


def test_training_by_differences_alone() -> None:
    record, _, _ = example("numerical_training").train(15)
    numerical, exact = record.accuracy["numerical"], record.accuracy["backpropagation"]
    assert len(numerical) == 16
    assert numerical[0] == pytest.approx(0.5, abs=0.02)
    assert numerical[-1] == pytest.approx(0.96, abs=0.01)
    assert numerical == exact
    assert record.difference < 1e-8  # eps |loss| / h, and as much again for the h^2 term


def test_a_fresh_two_layer_net_knows_nothing() -> None:
    loss, probabilities, exact, differences = example("two_layer_net").compare(784, 50, 100)
    assert loss == pytest.approx(np.log(10), rel=0.01)
    np.testing.assert_allclose(probabilities, 0.1, atol=0.02)
    for name, value in exact.items():
        np.testing.assert_allclose(differences[name], value, rtol=0, atol=1e-8)


def test_leaky_relu_and_adam_pass_the_published_accuracy() -> None:
    module = example("leaky_relu_adam_mnist")
    history = module.train(nn.datasets.mnist("sample"), 10)
    assert history.val_accuracy[-1] > module.PUBLISHED


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_characters_are_guessed_better_than_by_their_frequency(model: str) -> None:
    module = example("language_model")
    text = module.Text.of(module.docstrings(), 500)
    net = module.MODELS[model]()
    history = module.train(net, text, 6)
    assert module.bits(history.val_loss[-1]) < text.bits_by_frequency() - 0.5
    written = module.write(net, "return the ", 40, 0.5, 3)
    assert written == module.write(net.to("array_api_strict:device1"), "return the ", 40, 0.5, 3)
    assert written.startswith("return the ")
    assert len(written) == 51
    assert net.accuracy(text.x_test, text.t_test) > 0.25


def test_a_prompt_of_unknown_characters_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example("language_model").main(["--prompt", "\u00fc"])
    assert "--prompt: expected one or more of the characters" in capsys.readouterr().err


def test_dates_are_read_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("char_to_id", "id_to_char"):
        monkeypatch.setattr(sequence, table, {})  # another test may have loaded other characters
    module = example("dates")
    task = module.Task.of(4000, module.THE_SAME_DATE)
    questions = [{module.written(row[: task.question]).rstrip() for row in rows} for rows in (task.train, task.test)]
    assert not questions[0] & (questions[1] | set(module.THE_SAME_DATE))
    assert len(questions[1]) == len(task.test) == 800
    x, t = task.targets(task.test)
    for row, ids, labels in zip(task.test, x, t, strict=True):
        assert module.written(row[:-1]) == module.written(ids)
        assert module.written(labels[labels != module.IGNORED]) == module.written(row).split("_")[1]

    net = module.network(x.shape[1])
    module.train(net, task, 7)
    rows = module.answered(net, task, task.test[:, : task.question])
    assert np.mean((rows == task.test).all(axis=1)) > 0.9
    on_device = module.answered(net.to("array_api_strict:device1"), task, task.test[:20, : task.question])
    np.testing.assert_array_equal(on_device, rows[:20])

    looked = np.zeros(10)
    for row in rows[:100]:
        end = len(module.written(row[: task.question]).rstrip())
        weights = module.looks(net, task, row)
        assert weights.shape == (10, task.question)
        looked += (weights.argmax(axis=1) >= end - 2) & (weights.argmax(axis=1) < end)
    assert looked[2] > 50  # the tens of the year come from the last two characters of a question
    assert looked[9] < 10  # the day does not


@pytest.mark.parametrize("question", ["", "7/7/07?", "Wednesday, September 27, 1994!", "7" * 30])
def test_questions_that_are_no_dates_are_refused(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example("dates").main(["--rows=40", "--ask", "7/7/07", question])
    assert "--ask: expected 1 to 29 of the characters" in capsys.readouterr().err


def test_shortcuts_make_a_deep_network_learn(tmp_path: Path) -> None:
    module, data = example("residual_cnn"), nn.datasets.mnist("sample", flatten=False)
    data = nn.datasets.Dataset(data.x_train[:2000], data.t_train[:2000], data.x_test, data.t_test, "", "")
    nets = [module.network(shortcut, (8, 16, 32), 5) for shortcut in (True, False)]
    assert [sum(layer.kind == "Convolution" for layer in net.every_layer().values()) for net in nets] == [33, 31]
    residual, plain = (module.train(net, data, 2).val_accuracy[-1] for net in nets)
    assert residual > 0.6
    assert plain < 0.4
    pytest.importorskip("onnxruntime")
    exported = nets[0].to_onnx(tmp_path / "net.onnx", input_shape=(28, 28, 1))
    assert exported.difference < 1e-5
