"""Runs of several kinds, small and quick, with a page of each; names in them try to be markup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nnbackend as nn
from nnbackend.report import LayerRecord, Run, write_comparison, write_report

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>&amp;{{ 7 * 7 }}{x}"


def trained(net: nn.Network, x: Any, t: Any, epochs: int, lr: float = 0.01) -> tuple[nn.Trainer, LayerRecord, Any]:
    """Train on all rows, and validate on the last third."""
    trainer, record = nn.Trainer(net, nn.Adam(lr), batch_size=20, seed=0), LayerRecord(x, t)
    held_out = x[-len(x) // 3 :], t[-len(x) // 3 :]
    trainer.fit(x, t, epochs, validation=held_out, callbacks=[record])
    return trainer, record, held_out


def images(path: Path) -> None:
    """Three classes of 8 x 8 images; 4 epochs."""
    rng = np.random.default_rng(0)
    t = np.arange(120) % 3
    x = rng.uniform(0, 0.4, (120, 8, 8, 1))
    for row, label in zip(x, t, strict=True):
        row[:, 1 + 2 * label : 3 + 2 * label] += 0.15
    layers = [nn.Convolution(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Affine(216, 3)]
    trainer, record, held_out = trained(nn.Network(layers, seed=0), x, t, 4, 0.0005)
    write_report(
        path,
        trainer.network,
        *held_out,
        history=trainer.history,
        layers=record,
        classes=["left", HOSTILE, "右"],
        data={"data": "bars", "source": HOSTILE, "training rows": "120"},
        settings={**trainer.settings(), HOSTILE: HOSTILE},
        command=f"nnbackend train bars --report {HOSTILE}",
    )


def flat_images(path: Path) -> None:
    """Flat rows that are images, in colour; two classes from one output; no history."""
    rng = np.random.default_rng(0)
    x, t = rng.uniform(size=(40, 12)), np.arange(40) % 2
    net = nn.Network([nn.Affine(12, 1)], loss=nn.SigmoidWithLoss(), seed=0)
    write_report(path, net, x, t, image_shape=(2, 2, 3), title=HOSTILE)


def regression(path: Path) -> None:
    """A table with one epoch; features with hostile names."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 20))
    t = x[:, :2] @ np.array([1.0, -2.0]) + 3.0
    net = nn.Network([nn.Affine(20, 8), nn.Tanh(), nn.Affine(8, 1)], loss=nn.MeanSquaredError(), seed=0)
    trainer, record, held_out = trained(net, x, t, 1)
    features = [f"feature {i}" for i in range(19)] + [HOSTILE]
    write_report(path, net, *held_out, history=trainer.history, layers=record, features=features, seconds=12.5)


def several_outputs(path: Path) -> None:
    """A regression of two columns, for a reader of Japanese."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    net = nn.Network([nn.Affine(4, 2)], loss=nn.Huber(), seed=0)
    trainer, _, held_out = trained(net, x, x[:, :2], 2)
    write_report(path, net, *held_out, history=trainer.history, language="ja", title="回帰")


def several_labels(path: Path) -> None:
    """A row may have several labels, so there are no classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    net = nn.Network([nn.Affine(4, 3)], loss=nn.SigmoidWithLoss(), seed=0)
    trainer, record, held_out = trained(net, x, (x[:, :3] > 0).astype(float), 2)
    write_report(path, net, *held_out, history=trainer.history, layers=record)


def sequences(path: Path) -> None:
    """Sequences of ids, with a class at each position but for those that are left out, and layers within layers."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 7, (60, 5))
    t = np.where(x > 0, np.roll(x, 1, axis=1), -1)
    layers = [nn.Embedding(7, 6), nn.Residual([nn.RNN(6, 6)]), nn.Affine(6, 7)]
    net = nn.Network(layers, nn.SoftmaxWithLoss(ignore_label=-1), seed=0)
    trainer, record, held_out = trained(net, x, t, 2)
    write_report(path, net, *held_out, history=trainer.history, layers=record)


def many_classes(path: Path) -> None:
    """A hundred classes of a table."""
    rng = np.random.default_rng(0)
    centres = 2.0 * rng.standard_normal((100, 8))
    t = np.concatenate([np.arange(100), rng.integers(0, 100, 500)])
    x = centres[t] + rng.standard_normal((600, 8))
    net = nn.Network([nn.Affine(8, 32), nn.Tanh(), nn.Affine(32, 100)], seed=0)
    trainer, _, held_out = trained(net, x, t, 3)
    write_report(path, net, *held_out, history=trainer.history, classes=[f"class {HOSTILE} {i}" for i in range(100)])


def not_finite(path: Path) -> None:
    """A training that ends in its first epoch with values that are not finite."""
    rng = np.random.default_rng(0)
    x, t = 1e15 * rng.standard_normal((60, 4)), np.arange(60) % 2
    net = nn.Network([nn.Affine(4, 6), nn.ReLU(), nn.Affine(6, 2)], seed=0)
    trainer, record, failure = nn.Trainer(net, nn.SGD(1e12), batch_size=20), LayerRecord(x, t), ""
    with np.errstate(all="ignore"):
        try:
            trainer.fit(x, t, 3, callbacks=[record])
        except nn.NumericalError as error:
            failure = f"{error} {HOSTILE}"
    assert failure
    net.params["W1"][0, 0] = np.nan
    write_report(path, net, x, t, history=trainer.history, layers=record, failure=failure)


def nothing_wrong(path: Path) -> None:
    """A classifier without a mistake, of a long run; losses of a large range."""
    x = np.concatenate([np.full((30, 3), -3.0), np.full((30, 3), 3.0)])
    t = np.repeat([0, 1], 30)
    net = nn.Network([nn.Affine(3, 2)], seed=0)
    trainer, record, _ = trained(net, x, t, 80, 0.1)
    write_report(path, net, x, t, history=trainer.history, layers=record)


def comparison(path: Path) -> None:
    """Three runs of different lengths, two of the same name, with values that are not finite."""
    runs = [
        Run("a", {"loss": [3.0, 2.0, 1.0], "val_loss": [3.0, 2.0, 2.5], "f1": [0.1, 0.2, 0.3]}, {"lr": 0.1, "seed": 1}),
        Run("a", {"loss": [2.0, float("nan")], "val_loss": [1.5, 1.0]}, {"lr": 0.2, "seed": 1}, {"test_loss": 0.5}),
        Run(HOSTILE, {"loss": [1.0]}, {"lr": HOSTILE, "seed": 1}, {HOSTILE: 1.0}),
    ]
    write_comparison(path, runs)


PAGES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        images,
        flat_images,
        regression,
        several_outputs,
        several_labels,
        sequences,
        many_classes,
        not_finite,
        nothing_wrong,
        comparison,
    )
}
