"""A model of characters that learns the docstrings of Python's standard library, and then writes some of its own.

Each character is guessed from those before it, by an LSTM of 160 units (90 seconds on a CPU) or, with `--model
transformer`, by a small causal transformer (3 minutes). A loss of 1 bit for each character means that a character is as
hard to guess as the toss of a coin. The text is sampled with a seed, so it is the same on every backend.

    python examples/language_model.py    prints the losses and a text; draws language_model.png
    python examples/language_model.py --model transformer --prompt "Return the "
"""

from __future__ import annotations

import argparse
import inspect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import nnbackend as nn
from nnbackend.cli.parser import natural, output_file, output_folder, positive
from nnbackend.plotting import COLORS, INK, tidy

MODULES = (
    "argparse", "ast", "asyncio", "base64", "collections", "configparser", "csv", "datetime", "decimal", "difflib",
    "email.message", "fractions", "functools", "heapq", "html.parser", "http.client", "inspect", "io", "ipaddress",
    "itertools", "json", "logging", "math", "os", "pathlib", "random", "re", "shutil", "statistics", "string",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "tokenize", "types", "unittest",
    "urllib.parse", "uuid", "zipfile",
)  # fmt: skip
CHARACTERS = "\n !\"'()*+,-./0123456789:;<=>[]_`abcdefghijklmnopqrstuvwxyz"
STEPS = 64  # characters that a row holds


def docstrings() -> str:
    """Return the docstrings of the classes and functions of MODULES, in small letters, and none twice."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = import_module(name)
        things = [value for _, value in sorted(vars(module).items()) if inspect.isclass(value) or callable(value)]
        for thing in [*things, *(part for value in things if inspect.isclass(value) for part in vars(value).values())]:
            text = inspect.getdoc(thing) if str(getattr(thing, "__module__", "")).startswith(name) else None
            if text:
                found["".join(c for c in text.lower() if c in CHARACTERS)] = None
    return "\n\n".join(found)


@dataclass
class Text:
    """Holds rows of ids, and for each id the next one: (n, STEPS) each, for training and held out."""

    x_train: np.ndarray
    t_train: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray

    @classmethod
    def of(cls, text: str, rows: int | None = None) -> Text:
        """Cut a text into rows; every tenth is held out. rows: only so many of them."""
        numbers = {c: i for i, c in enumerate(CHARACTERS)}
        ids = np.array([numbers[c] for c in text])
        n = (len(ids) - 1) // STEPS
        x, t = (ids[first : first + n * STEPS].reshape(n, STEPS)[:rows] for first in (0, 1))
        held_out = np.arange(len(x)) % 10 == 9
        return cls(x[~held_out], t[~held_out], x[held_out], t[held_out])

    def bits_by_frequency(self) -> float:
        """Return the bits for each held-out character, if it is guessed by how often it occurs in the training text."""
        counts = Counter(self.t_train.reshape(-1).tolist())
        total = self.t_train.size + len(CHARACTERS)
        return float(np.mean([-math.log2((counts[c] + 1) / total) for c in self.t_test.reshape(-1).tolist()]))


def lstm() -> nn.Network:
    classes = len(CHARACTERS)
    return nn.Network([nn.Embedding(classes, 32, weight=0.3), nn.LSTM(32, 160), nn.Affine(160, classes)], seed=0)


def transformer() -> nn.Network:
    classes, width = len(CHARACTERS), 96
    layers: list[nn.Layer] = [nn.Embedding(classes, width, weight=0.3), nn.PositionalEncoding(width, STEPS)]
    for _ in range(2):
        inner = [nn.Affine(width, 4 * width), nn.GELU(), nn.Affine(4 * width, width)]
        layers += [
            nn.Residual([nn.LayerNormalization(width), nn.MultiHeadAttention(width, 4, causal=True)]),
            nn.Residual([nn.LayerNormalization(width), *inner]),
        ]
    return nn.Network([*layers, nn.LayerNormalization(width), nn.Affine(width, classes)], seed=0)


MODELS = {"lstm": lstm, "transformer": transformer}


def train(net: nn.Network, text: Text, epochs: int) -> nn.History:
    """Train for `epochs` passes over the text, printing the losses in bits for each character."""
    steps = epochs * math.ceil(len(text.x_train) / 32)
    optimizer = nn.Adam(lr=nn.OneCycle(0.005, steps))
    trainer = nn.Trainer(net, optimizer, batch_size=min(32, len(text.x_train)), clip_norm=1.0, seed=0)
    for epoch in range(1, epochs + 1):
        history = trainer.fit(text.x_train, text.t_train, validation=(text.x_test, text.t_test))
        trained, tested = (bits(values[-1]) for values in (history.loss, history.val_loss))
        print(f"pass {epoch:2}: {trained:.2f} bits for each character, {tested:.2f} in the text held out")
    return trainer.history


def bits(loss: float) -> float:
    return loss / math.log(2)


def write(net: nn.Network, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Return the prompt, and `length` characters that the network adds."""
    ids = [CHARACTERS.index(c) for c in prompt]
    settings = {"temperature": temperature, "top_k": 12, "context": STEPS, "seed": seed}
    return prompt + "".join(CHARACTERS[i] for i in nn.generate(net, ids, length, **settings))


def draw(history: nn.History, by_frequency: float, model: str, path: Path) -> None:
    passes = range(1, len(history) + 1)
    figure = Figure(figsize=(6.8, 4.3), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axhline(by_frequency, color="#B0B0B0", linewidth=1, linestyle="--")
    place = {"textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 9, "color": INK}
    axes.annotate(f"by frequency alone: {by_frequency:.2f}", (len(history), by_frequency), (0, -5), **place)
    for name, values, color, style in (
        ("training text", history.loss, COLORS[0], "o-"),
        ("text held out", history.val_loss, COLORS[1], "s--"),
    ):
        label = f"{name}, {bits(values[-1]):.2f} at the end"
        axes.plot(passes, [bits(v) for v in values], style, color=color, linewidth=1.8, markersize=4.5, label=label)
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes, f"Characters of docstrings, guessed by {model}", "pass over the text", "bits for each character")
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, loc="lower left")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="lstm", help="(lstm)")
    parser.add_argument("--epochs", type=positive, default=8, help="passes over the text (8)")
    parser.add_argument("--rows", type=positive, help=f"take only so many rows of {STEPS} characters")
    parser.add_argument("--prompt", default="return the ", help="the beginning of the text that is written")
    parser.add_argument("--length", type=natural, default=400, help="characters that are written (400)")
    parser.add_argument("--temperature", type=float, default=0.6, help="0 takes the likeliest character (0.6)")
    parser.add_argument("--seed", type=int, default=1, help="decides the text that is written (1)")
    parser.add_argument("--save", type=output_file, help="write the trained network to this file")
    parser.add_argument("--out", type=output_folder, default=Path(), help="folder for the picture (the current one)")
    options = parser.parse_args(argv)
    prompt = options.prompt.lower()
    if not prompt or set(prompt) - set(CHARACTERS):
        parser.error(f"--prompt: expected one or more of the characters {CHARACTERS!r}, got {options.prompt!r}")
    if not options.temperature >= 0:
        parser.error(f"--temperature: expected a number of at least 0, got {options.temperature}")

    text = Text.of(docstrings(), options.rows)
    print(f"{text.x_train.size:,} characters to learn, {text.x_test.size:,} held out, {len(CHARACTERS)} different ones")
    net = MODELS[options.model]()
    history = train(net, text, options.epochs)
    print(f"\n{write(net, prompt, options.length, options.temperature, options.seed)}\n")
    if options.save is not None:
        net.save(options.save)
    path = options.out / "language_model.png"
    draw(history, text.bits_by_frequency(), {"lstm": "an LSTM"}.get(options.model, "a transformer"), path)
    print(f"drawn: {path}")


if __name__ == "__main__":
    main()
