"""Pictures of filters, confusion and mistakes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace

import nnbackend as nn
from nnbackend.backends import to_numpy

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from nnbackend.plotting import plot_confusion, plot_filters, plot_mistakes

N = 60
RNG = np.random.default_rng(0)
X = RNG.random((N, 16))
T = X[:, :4].argmax(axis=1)


def make(first: nn.Layer | None = None) -> nn.Network:
    return nn.Network([first or nn.Affine(16, 10), nn.ReLU(), nn.Affine(10, 4)], seed=1)


def images(figure: Any) -> list[np.ndarray]:
    """What is drawn, panel by panel, without the colour bar."""
    return [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes if axes.get_images()]


def title(figure: Any) -> str:
    return str(figure.get_suptitle())


def test_the_weights_of_an_affine_layer(on: Namespace, tmp_path: Path) -> None:
    net = make()
    figure = plot_filters(net, path=tmp_path / "filters.png")
    assert (tmp_path / "filters.png").read_bytes().startswith(b"\x89PNG")
    drawn, W = images(figure), to_numpy(net.params["W1"])
    assert title(figure) == "Affine1: weights of 10 units"
    assert len(drawn) == 10
    for i in range(10):
        np.testing.assert_allclose(drawn[i], W[:, i].reshape(4, 4), rtol=1e-6)
    limits = {image.get_clim() for axes in figure.axes for image in axes.get_images()}
    assert limits == {(-float(np.abs(W).max()), float(np.abs(W).max()))}  # one scale, 0 in its middle


def test_shapes_counts_and_layers() -> None:
    assert {image.shape for image in images(plot_filters(make(), shape=(2, 8)))} == {(2, 8)}
    few = plot_filters(make(), count=3)
    assert (len(images(few)), title(few)) == (3, "Affine1: 3 of 10 units")
    coloured = nn.Network([nn.Affine(27, 5), nn.Affine(5, 2)])
    assert {image.shape for image in images(plot_filters(coloured, shape=(3, 3, 3)))} == {(3, 3, 3)}
    square = nn.Network([nn.Affine(16, 9), nn.Affine(9, 5)])
    assert {image.shape for image in images(plot_filters(square, "Affine2"))} == {(3, 3)}


def test_the_filters_of_convolutions() -> None:
    layers = [nn.Convolution(1, 6, (3, 2)), nn.ReLU(), nn.Convolution(6, 5, 3), nn.Convolution(5, 3, 3)]
    net = nn.Network([*layers, nn.Convolution(3, 7, 2), nn.Flatten()])
    first = images(plot_filters(net))
    assert len(first) == 6
    np.testing.assert_allclose(first[4], net.params["W1"][:, :, 0, 4], rtol=1e-6)
    figure = plot_filters(net, "Convolution2")
    by_channel = images(figure)
    assert title(figure) == "Convolution2: weights of 5 units, by channel"
    assert len(by_channel) == 5 * 6
    np.testing.assert_allclose(by_channel[2 * 6 + 1], net.params["W2"][:, :, 1, 2], rtol=1e-6)
    coloured = images(plot_filters(net, "Convolution4"))
    assert [image.shape for image in coloured] == [(2, 2, 3)] * 7
    assert all(image.min() >= 0 and image.max() <= 1 for image in coloured)
    wide = plot_filters(nn.Network([nn.Convolution(40, 8, 3), nn.Flatten()]))
    assert title(wide) == "Convolution1: 4 of 8 units, by channel (the first 16 of 40)"


def test_confusion(tmp_path: Path) -> None:
    found = nn.evaluate(make(), X, T)
    figure = plot_confusion(found, names=["ant", "bee", "cat", "dog"], path=tmp_path / "confusion.svg")
    assert "<svg" in (tmp_path / "confusion.svg").read_text(encoding="utf-8")
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == f"Confusion, accuracy {100 * found.accuracy:.2f} %"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cat", "dog"]
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(i, j): str(found.confusion[i, j]) for i in range(4) for j in range(4) if found.confusion[i, j]}
    right = axes.child_axes[0]
    assert [label.get_text() for label in right.get_yticklabels()] == [f"{100 * share:.1f} %" for share in found.recall]


def test_confusion_without_a_mistake() -> None:
    found = nn.Evaluation(0.0, 1.0, np.zeros(3), np.arange(3), np.arange(3), np.diag([1, 1, 0]))
    assert len(plot_confusion(found).axes[0].texts) == 2


def test_mistakes(on: Namespace, tmp_path: Path) -> None:
    net = make()
    found = nn.evaluate(net, X, T)
    wrong = len(found.most_wrong)
    figure = plot_mistakes(found, on.array(X), count=7, path=tmp_path / "mistakes.png")
    assert (tmp_path / "mistakes.png").stat().st_size > 1000
    assert title(figure) == f"The worst 7 of {wrong} mistakes: truth \u2192 answer"
    for image, row, axes in zip(images(figure), found.most_wrong, figure.axes, strict=False):
        np.testing.assert_allclose(image, X[row].reshape(4, 4))
        assert axes.get_title() == f"{found.truth[row]} \u2192 {found.predicted[row]}"
    assert len(images(plot_mistakes(net, X, T, count=1000))) == wrong
    names = plot_mistakes(net, X, T, names=["ant", "bee", "cat", "dog"], count=1).axes[0].get_title()
    assert set(names.split(" \u2192 ")) < {"ant", "bee", "cat", "dog"}


@pytest.mark.parametrize(("shape", "drawn"), [((4, 4), (4, 4)), ((2, 8, 1), (2, 8)), ((2, 2, 3), (2, 2, 3))])
def test_mistakes_of_images(shape: tuple[int, ...], drawn: tuple[int, ...]) -> None:
    x = RNG.random((N, *shape))
    found = nn.Evaluation(0.0, 0.0, np.arange(N), np.zeros(N, int), np.ones(N, int), np.array([[0, 0], [N, 0]]))
    assert {image.shape for image in images(plot_mistakes(found, x))} == {drawn}


def test_mistakes_of_rows_that_the_loss_counts() -> None:
    """Rows and positions that are left out have no losses, so the numbers of the losses are not those of the rows."""
    t = np.where(np.arange(N) % 3 == 0, -1, T)
    net = nn.Network([nn.Affine(16, 10), nn.ReLU(), nn.Affine(10, 4)], nn.SoftmaxWithLoss(ignore_label=-1), seed=1)
    found = nn.evaluate(net, X, t)
    assert found.places is not None
    rows = found.places[found.most_wrong, 0]
    for image, row in zip(images(plot_mistakes(net, X, t)), rows, strict=False):
        np.testing.assert_allclose(image, X[row].reshape(4, 4))
    with pytest.raises(ValueError, match="x has 10 rows, but the evaluation is of 60"):
        plot_mistakes(found, X[:10])

    sequences, t = X.reshape(N, 4, 4), np.full((N, 4), -1)
    t[: N // 2, :2] = 1  # two positions of every other row: as many as there are rows
    net = nn.Network([nn.Affine(4, 3)], nn.SoftmaxWithLoss(ignore_label=-1), seed=1)
    found = nn.evaluate(net, sequences, t)
    assert found.places is not None
    assert len(found.losses) == N
    for image, row in zip(images(plot_mistakes(found, sequences)), found.places[found.most_wrong, 0], strict=False):
        np.testing.assert_allclose(image, sequences[row])


def test_names_are_drawn_as_written(tmp_path: Path) -> None:
    names = ["$\\no such command$", "5 $ & 6 $", "a_{b", "$x$"]
    net = make()
    found = nn.evaluate(net, X, T)
    figure = plot_confusion(found, names=names, path=tmp_path / "confusion.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    assert not any(label.get_parse_math() for label in figure.axes[0].get_yticklabels())
    figure = plot_mistakes(net, X, T, names=names, path=tmp_path / "mistakes.png")
    assert not any(axes.title.get_parse_math() for axes in figure.axes[:3])


REGRESSION = nn.Evaluation(0.0, None, np.zeros(3))
RIGHT = nn.Evaluation(0.0, 1.0, np.zeros(2), np.arange(2), np.arange(2), np.eye(2, dtype=int))
WRONG = nn.Evaluation(1.0, 0.0, np.zeros(2), np.arange(2), 1 - np.arange(2), 1 - np.eye(2, dtype=int))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_filters(make(), "Affine3"), "unknown layer with weights 'Affine3'. Did you mean 'Affine"),
        (lambda: plot_filters(make(), "ReLU1"), "unknown layer with weights 'ReLU1'"),
        (lambda: plot_filters(make(), "Affine2"), "Affine2: shape: 10 numbers are not a square image; pass (h, w)"),
        (lambda: plot_filters(make(), shape=(3, 5)), "of 16 numbers, got (3, 5)"),
        (lambda: plot_filters(make(), shape=(2, 4, 2)), "expected (h, w) or (h, w, 1 or 3) of 16 numbers"),
        (lambda: plot_filters(make(), shape=(-4, -4)), "Affine1: shape must hold positive integers, got (-4, -4)"),
        (lambda: plot_mistakes(WRONG, X[:2], shape=16), "shape must hold positive integers, got 16"),  # type: ignore[arg-type]
        (lambda: plot_filters(make(), count=0), "count must be a positive integer, got 0"),
        (lambda: plot_filters(nn.Network([nn.ReLU()])), "none of its layers has weights"),
        (lambda: plot_filters(make(), path="filters.gif"), "unknown kind of picture '.gif'"),
        (lambda: plot_confusion(REGRESSION), "it has no classes"),
        (lambda: plot_confusion(RIGHT, names=["ant"]), "names: expected 2, one for each class, got 1"),
        (lambda: plot_mistakes(REGRESSION, X), "it has no classes"),
        (lambda: plot_mistakes(RIGHT, X[:2]), "it has no mistakes"),
        (lambda: plot_mistakes(WRONG, X), "x has 60 rows, but the evaluation is of 2"),
        (lambda: plot_mistakes(WRONG, X[:2, :15]), "shape: 15 numbers are not a square image"),
        (lambda: plot_mistakes(WRONG, X[:2], count=-1), "count must be a positive integer, got -1"),
    ],
)
def test_what_cannot_be_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, draw: Callable[[], Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        draw()
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_and_no_evaluation() -> None:
    for draw, message in (
        (lambda: plot_filters(REGRESSION), "network: expected a Network, got Evaluation"),  # type: ignore[arg-type]
        (lambda: plot_confusion(make()), "evaluation: expected an Evaluation, got Network"),  # type: ignore[arg-type]
        (lambda: plot_mistakes(X, X), "evaluation: expected an Evaluation or a Network, got ndarray"),
    ):
        with pytest.raises(TypeError, match=message):
            draw()


# --- names in other scripts -------------------------------------------------------------------------------------------


def characters(family: str) -> set[str]:
    from matplotlib import font_manager

    path = font_manager.findfont(family, fallback_to_default=False)
    return {chr(code) for code in font_manager.get_font(path).get_charmap()}


def test_names_get_a_font_that_has_their_characters() -> None:
    """STIX comes with matplotlib and has characters that its usual font has not."""
    rare = min(c for c in characters("STIXGeneral") - characters("DejaVu Sans") if c.isprintable() and ord(c) > 0x2000)
    figure = plot_confusion(RIGHT, names=[rare, "b"])
    label = figure.axes[0].get_xticklabels()[0]
    assert label.get_text() == rare
    assert any(rare in characters(family) for family in label.get_fontfamily() if family != "sans-serif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure._repr_png_()  # matplotlib warns of a glyph that is missing


def test_a_font_may_be_named_or_be_a_file() -> None:
    from matplotlib import font_manager

    for font in ("STIXGeneral", font_manager.findfont("STIXGeneral")):
        label = plot_confusion(RIGHT, names=["a", "b"], font=font).axes[0].get_yticklabels()[1]
        assert label.get_fontfamily()[0] == "STIXGeneral"
    with pytest.raises(ValueError, match="font: there is no font called 'Nowhere Sans', and no such file"):
        plot_confusion(RIGHT, font="Nowhere Sans")


def test_characters_that_no_font_has_are_said() -> None:
    with pytest.warns(UserWarning, match="no installed font has the characters .* install one"):
        plot_confusion(RIGHT, names=["\U0010fffd", "b"])


def test_a_notebook_shows_a_picture() -> None:
    assert plot_confusion(RIGHT)._repr_png_().startswith(b"\x89PNG")
