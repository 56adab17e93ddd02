"""How things show themselves: as text, and as HTML and pictures in a notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_markup import Cells

import nnbackend as nn
from nnbackend.evaluation import CLASSES_SHOWN

HISTORY = nn.History(loss=[1.25, 0.5], accuracy=[0.5, 0.75], val_loss=[1.5, 0.625], val_accuracy=[0.25, 0.5])


def test_a_history_is_a_table_with_a_row_for_each_epoch() -> None:
    lines = [line.split() for line in str(HISTORY).splitlines()]
    assert lines[0] == ["epoch", "loss", "accuracy", "val", "loss", "val", "accuracy"]
    assert lines[1:] == [["1", "1.25", "0.5", "1.5", "0.25"], ["2", "0.5", "0.75", "0.625", "0.5"]]
    assert str(nn.History()) == "no epochs yet"


def test_a_history_in_html() -> None:
    pytest.importorskip("matplotlib")
    html = HISTORY._repr_html_()
    assert html.startswith('<img alt="loss and accuracy by epoch')
    assert Cells(html).cells[-5:] == ["2", "0.5", "0.75", "0.625", "0.5"]
    assert nn.History()._repr_html_() == "<p>no epochs yet</p>"


def test_a_history_in_html_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert HISTORY._repr_html_().startswith("<table>")


def test_an_evaluation_in_html() -> None:
    confusion = np.array([[3, 1], [0, 2]])
    found = nn.Evaluation(0.25, 5 / 6, np.zeros(6), np.zeros(6, int), np.zeros(6, int), confusion)
    cells = Cells(found._repr_html_()).cells
    assert cells[0] == "loss 0.2500, accuracy 83.33 % (5 of 6 rows)"
    assert cells[6:11] == ["0", "1.000", "0.750", "0.857", "4"]
    assert cells[-6:] == ["0", "3", "1", "1", "0", "2"]
    many = np.eye(CLASSES_SHOWN + 1, dtype=int)
    rows = np.arange(len(many))
    assert nn.Evaluation(0.0, 1.0, np.zeros(len(many)), rows, rows, many)._repr_html_().count("<table>") == 1
    assert nn.Evaluation(0.5, None, np.zeros(3))._repr_html_() == "<p>loss 0.5000</p>"


def test_a_data_set_in_html_shows_its_first_images() -> None:
    pytest.importorskip("PIL")
    for flatten in (True, False):
        data = nn.datasets.mnist("sample", flatten=flatten)
        html = data._repr_html_()
        titles = re.findall(r'<img alt="an image of class (\d)"', html)
        assert titles == [str(label) for label in data.t_train[:10].tolist()]
    monkey = nn.datasets.Dataset(data.x_train[:5, :, :5, 0].reshape(5, -1), *([data.t_train[:5]] * 3), "<x>", "y")
    assert "&lt;x&gt;" in monkey._repr_html_()
    assert "<img" not in monkey._repr_html_()  # 28 x 5 numbers are no square image


def test_a_data_set_in_html_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnbackend.markup.can_draw", lambda: False)
    assert "<img" not in nn.datasets.mnist("sample")._repr_html_()


def test_a_fresh_notebook_shows_pictures_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells run in a kernel of their own, as in Jupyter."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="ipykernel runs notebooks: pip install nbclient ipykernel")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("PYTHONPATH", str(Path(nn.__file__).parents[1]))
    from nbformat.v4 import new_code_cell, new_notebook

    lines = ["history.plot()", "history", "net", "net.summary(10)", "nn.evaluate(net, x, t)", "data"]
    first = """
import nnbackend as nn
data = nn.datasets.mnist("sample")
x, t = data.x_train[:200], data.t_train[:200]
net = nn.TwoLayerNet(784, 5, 10)
history = nn.Trainer(net, nn.SGD(0.1)).fit(x, t, 2, validation=(x, t))
"""
    notebook = new_notebook(cells=[new_code_cell(source) for source in (first, *lines)])
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    shown: dict[str, Any] = {cell.source: cell.outputs for cell in notebook.cells}
    assert shown.pop(first) == []
    for source, outputs in shown.items():
        (output,) = outputs
        assert ("image/png" if source == "history.plot()" else "text/html") in output.data, source
        assert "text/plain" in output.data
