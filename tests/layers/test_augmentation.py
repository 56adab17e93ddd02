"""Layers that change their input at random while training: what they draw, where they stand, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Namespace, Stops, assert_close

import nnbackend as nn
from nnbackend.backends import to_numpy

IMAGES = np.random.default_rng(0).random((12, 8, 9, 1)).astype("float32")
LABELS = np.arange(12) % 3
KINDS = [nn.RandomAffine, nn.RandomElastic, nn.RandomFlip, nn.GaussianNoise]


def make(seed: int = 1, dtype: str = "float32") -> nn.Network:
    layers = [nn.RandomAffine(0.2, 20.0, 0.2), nn.RandomElastic(0.5, 3.0), nn.RandomFlip(), nn.GaussianNoise(0.05)]
    return nn.Network([*layers, nn.Convolution(1, 2, 3), nn.Flatten(), nn.Affine(84, 3)], seed=seed, dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_and_each_pass_is_changed_in_another_way(on: Namespace, kind: Any) -> None:
    net = nn.Network([kind(), nn.Flatten(), nn.Affine(72, 3)], seed=3)
    layer, x = next(iter(net.layers.values())), on.array(np.repeat(IMAGES[:1], 12, axis=0))
    first = to_numpy(layer.forward(x, training=True)).copy()
    again = to_numpy(layer.forward(x, training=True)).copy()
    net.tick()
    second = to_numpy(layer.forward(x, training=True))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != second.tobytes()
    assert len({row.tobytes() for row in first}) == (2 if kind is nn.RandomFlip else 12)
    assert layer.forward(x) is x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_images_on_every_backend(on: Namespace, kind: Any, dtype: str) -> None:
    with nn.using("numpy"):
        expected = kind().initialize(seed=5, dtype=dtype).forward(IMAGES.astype(dtype), training=True)
    y = kind().initialize(seed=5, dtype=dtype).forward(on.array(IMAGES, dtype), training=True)
    assert str(y.dtype).endswith(dtype)
    assert_close(y, expected, dtype, terms=100)


def test_two_layers_of_a_network_draw_other_numbers() -> None:
    net = nn.Network([nn.GaussianNoise(), nn.GaussianNoise(), nn.Affine(4, 2)])
    zeros = np.zeros((5, 4), "float32")
    first, second, _ = (layer.forward(zeros, training=True) for layer in net.layers.values())
    assert (first != second).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_so_many_images_are_flipped(probability: float) -> None:
    x = np.zeros((2000, 1, 2, 1), "float32")
    x[:, :, 0] = 1
    y = nn.RandomFlip(probability).initialize(seed=2).forward(x, training=True)
    assert y[:, 0, 1, 0].mean() == pytest.approx(probability, abs=0.03)  # three standard errors


def test_an_affine_layer_keeps_within_its_settings() -> None:
    """Of an image whose pixels hold their own positions, the middle one tells where it came from."""
    x = np.zeros((500, 101, 101, 2), "float64")
    x[..., 0], x[..., 1] = np.mgrid[:101, :101]
    layer = nn.RandomAffine(shift=0.1, degrees=0.0, scale=0.0).initialize(seed=1, dtype="float64")
    moves = layer.forward(x, training=True)[:, 50, 50] - 50
    assert np.abs(moves).max() <= 10.1
    assert np.abs(moves).max(axis=0) == pytest.approx(10.1, rel=0.02)
    layer = nn.RandomAffine(shift=0.0, degrees=30.0, scale=0.2).initialize(seed=1, dtype="float64")
    down, right = (layer.forward(x, training=True)[:, 70, 50] - 50).T
    factor, angle = 20 / np.hypot(down, right), np.degrees(np.arctan2(right, down))
    assert [factor.min(), factor.max()] == pytest.approx([0.8, 1.2], abs=0.01)
    assert [angle.min(), angle.max()] == pytest.approx([-30, 30], abs=0.5)


def test_what_comes_in_is_filled() -> None:
    x = np.ones((4, 6, 6, 1), "float32")
    for layer in (nn.RandomAffine(0.5, fill=-2.0), nn.RandomElastic(4.0, fill=-2.0)):
        y = layer.initialize().forward(x, training=True)
        assert y.min() == -2
        assert y.max() == pytest.approx(1)


def test_training_is_the_same_run_on_every_backend(on: Namespace) -> None:
    with nn.using("numpy"):
        expected = nn.Trainer(make(), nn.SGD(0.1), batch_size=5, seed=2).fit(IMAGES, LABELS, 3).loss
    assert nn.Trainer(make(), nn.SGD(0.1), batch_size=5, seed=2).fit(on.array(IMAGES), LABELS, 3).loss == pytest.approx(
        expected, rel=1e-4
    )


def test_a_saved_network_goes_on_with_other_draws(tmp_path: Path) -> None:
    net = make()
    trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=4)
    trainer.fit(IMAGES, LABELS)
    net.save(tmp_path / "net.safetensors")
    again = nn.load(tmp_path / "net.safetensors")
    assert again.buffer.clock.tolist() == [3]
    for one in (net, again):
        one.tick()
    assert again.forward(IMAGES, training=True).tobytes() == net.forward(IMAGES, training=True).tobytes()
    assert repr(again) == repr(net)


def test_a_run_that_is_interrupted_sees_the_same_images(tmp_path: Path) -> None:
    whole = nn.Trainer(make(), nn.Adam(), batch_size=5)
    whole.fit(IMAGES, LABELS, 3)
    for at in ((0, 1), (1, 2), (9, 9)):
        trainer = nn.Trainer(make(), nn.Adam(), batch_size=5, checkpoint=tmp_path / "run.safetensors")
        trainer.resume()
        trainer.fit(IMAGES, LABELS, 3, callbacks=[Stops(at)])
        assert trainer.history.interrupted == (at != (9, 9))
    assert trainer.network.buffer.data.tobytes() == whole.network.buffer.data.tobytes()


def test_gradients_of_a_whole_network_while_training() -> None:
    report = nn.check_gradients(make(dtype="float64"), IMAGES.astype("float64"), LABELS)
    assert report.ok, report


def test_in_other_formats_they_are_left_out(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = make()
    module = net.to_torch()
    y = module(torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy())).detach().numpy()
    assert_close(y, net.predict(IMAGES), "float32", terms=100)
    flat = nn.Network([nn.GaussianNoise(), nn.Affine(3, 2)])
    flat.to_c(tmp_path / "net.h")
    with_noise = (tmp_path / "net.h").read_text()
    plain = nn.Network([nn.Affine(3, 2)])
    plain.params["W1"] = flat.params["W1"]
    plain.to_c(tmp_path / "net.h")
    assert with_noise == (tmp_path / "net.h").read_text()


@pytest.mark.parametrize(
    ("make_layer", "message"),
    [
        (lambda: nn.RandomAffine(-0.1), "RandomAffine: shift must be at least 0 and finite, got -0.1"),
        (lambda: nn.RandomAffine(degrees="10"), "RandomAffine: degrees must be a number, got '10'"),
        (lambda: nn.RandomAffine(scale=1.0), "RandomAffine: scale must be below 1, got 1.0"),
        (lambda: nn.RandomAffine(fill=float("nan")), "RandomAffine: fill must be finite, got nan"),
        (lambda: nn.RandomElastic(distance=-1), "RandomElastic: distance must be at least 0 and finite, got -1"),
        (lambda: nn.RandomElastic(spacing=0.5), "RandomElastic: spacing must be at least 1, got 0.5"),
        (lambda: nn.RandomElastic(spacing=0), "RandomElastic: spacing must be positive and finite, got 0"),
        (lambda: nn.RandomFlip(1.5), "RandomFlip: probability must lie in 0 to 1, got 1.5"),
        (lambda: nn.GaussianNoise(-1), "GaussianNoise: std must be at least 0 and finite, got -1"),
        (lambda: nn.Network([nn.Affine(4, 3), nn.RandomFlip()]), "takes images of (h, w, c), but what comes before"),
        (
            lambda: nn.RandomAffine().initialize().forward(np.zeros((2, 9), "float32"), training=True),
            "RandomAffine: argument x must have shape (n, h, w, c), got (2, 9)",
        ),
    ],
)
def test_bad_input(make_layer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_layer()
