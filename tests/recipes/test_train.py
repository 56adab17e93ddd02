"""Training as the command does it, from a script."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import write_bars

from nnbackend.recipes import MnistSettings, train_mnist


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "bars"
    write_bars(folder)
    return folder


def test_settings_reach_the_run(data: Path) -> None:
    settings = MnistSettings(
        data=str(data),
        hidden=(5, 4),
        activation="tanh",
        optimizer="momentum",
        epochs=1,
        batch_size=7,
        seed=3,
        dtype="float64",
        backend="numpy",
    )
    run = train_mnist(settings)
    kinds = [type(layer).__name__ for layer in run.network.layers.values()]
    assert kinds == ["Affine", "Tanh", "Affine", "Tanh", "Affine"]
    assert (run.network.dtype, run.network.seed) == ("float64", 3)
    assert run.settings["lr"] == 0.1  # what suits momentum
    assert train_mnist(settings).test_loss == run.test_loss


def test_the_convolutional_network_trains(data: Path) -> None:
    run = train_mnist(MnistSettings(data=str(data), model="cnn", epochs=3, lr=0.01))
    assert list(run.network.layers)[:3] == ["Convolution1", "ReLU1", "MaxPooling1"]
    assert run.test_accuracy > 0.9


def test_every_optimizer_and_activation_trains(data: Path) -> None:
    from nnbackend.layers import ACTIVATIONS
    from nnbackend.optimizers import OPTIMIZERS

    for optimizer in OPTIMIZERS:
        assert len(train_mnist(MnistSettings(data=str(data), hidden=(4,), optimizer=optimizer, epochs=1)).history) == 1
    for activation in ACTIVATIONS:
        assert (
            len(train_mnist(MnistSettings(data=str(data), hidden=(4,), activation=activation, epochs=1)).history) == 1
        )


def test_images_changed_at_random_are_not_learned_by_heart() -> None:
    """Six epochs of the sample; `ci/bench/accuracy.py` measures what the defaults reach."""
    plain = train_mnist(MnistSettings(data="sample", augment=0.0, epochs=6, backend="numpy"))
    assert plain.advice is not None
    assert "more --augment" in plain.advice
    run = train_mnist(MnistSettings(data="sample", epochs=6, backend="numpy"))
    assert run.advice is None
    assert run.test_accuracy is not None
    assert run.test_accuracy > 0.95
    assert run.history.accuracy[-1] < plain.history.accuracy[-1]
