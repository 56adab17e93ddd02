"""Pictures of a training run."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

import nnbackend as nn
from nnbackend.plotting import COLORS, check_picture, plot_history

matplotlib = pytest.importorskip("matplotlib")


def history(epochs: int = 5, accuracy: bool = True, validation: bool = True) -> nn.History:
    falling = [math.exp(-e / 3) for e in range(epochs)]
    rising = [1 - value / 2 for value in falling]
    worse = [value + 0.1 for value in falling]
    return nn.History(
        loss=falling,
        accuracy=rising if accuracy else [],
        val_loss=worse if validation else [],
        val_accuracy=[value - 0.05 for value in rising] if accuracy and validation else [],
    )


def test_both_panels_show_what_was_recorded() -> None:
    recorded = history()
    figure = plot_history(recorded)
    loss, accuracy = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [recorded.loss, recorded.val_loss]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [
        [100 * value for value in values] for values in (recorded.accuracy, recorded.val_accuracy)
    ]
    assert all(list(line.get_xdata()) == [1, 2, 3, 4, 5] for axes in figure.axes for line in axes.lines)
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["mean loss per sample", "correct samples (%)"]
    for axes in figure.axes:  # told apart without colour, too
        first, second = axes.lines
        assert (first.get_color(), second.get_color()) == COLORS[:2]
        assert first.get_linestyle() != second.get_linestyle()
        assert first.get_marker() != second.get_marker()
        assert [text.get_text().partition(",")[0] for text in axes.get_legend().get_texts()] == [
            "training",
            "validation",
        ]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 150])
def test_ticks_are_epochs(epochs: int) -> None:
    figure = plot_history(history(epochs))
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == int(tick) for tick in shown)


def test_what_does_not_apply_is_left_out() -> None:
    (axes,) = plot_history(history(accuracy=False)).axes
    assert len(axes.lines) == 2
    assert [len(axes.lines) for axes in plot_history(history(validation=False)).axes] == [1, 1]


@pytest.mark.parametrize(
    ("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("A.PNG", b"\x89PNG")]
)
def test_kinds_of_files(name: str, magic: bytes, tmp_path: Path) -> None:
    plot_history(history(), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_the_picture_has_its_size_and_both_colours(tmp_path: Path) -> None:
    import matplotlib.image

    history().plot(tmp_path / "a.png")  # History.plot is the way to it
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    assert pixels.shape[:2] == (400, 900)
    for color in COLORS[:2]:
        wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels[..., :3] - wanted).max(axis=-1) < 0.01).sum() > 200


def test_drawing_needs_no_display_and_leaves_no_state(tmp_path: Path) -> None:
    code = (
        "import sys, nnbackend as nn\n"
        f"nn.History(loss=[1.0, 0.5]).plot({str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="it has no epochs"):
        plot_history(nn.History())


def test_unknown_kinds_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.pgn: unknown kind of picture '\.pgn'\. Did you mean '\.png'\?"):
        plot_history(history(), tmp_path / "a.pgn")
    with pytest.raises(ValueError, match="unknown kind of picture ''"):
        check_picture("picture")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plot_history(history(), tmp_path / "nowhere" / "a.png")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "nnbackend\[plot\]"'):
        plot_history(history())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "nnbackend\[plot\]"'):
        check_picture("a.png")
