"""Provide the book's dataset.ptb: the Penn Treebank as word numbers.

The texts are not part of this library. Put ptb.train.txt, ptb.valid.txt and ptb.test.txt, which the book's own code
downloads, into the folder that NNBACKEND_DATA names, or into `ptb` in it; without that variable, into the current
folder. Any text will do in their place: words that spaces part, a sentence on each line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from nnbackend.errors import DataError

__all__ = ["load_data", "load_vocab", "np", "os"]

FILES = {"train": "ptb.train.txt", "test": "ptb.test.txt", "valid": "ptb.valid.txt", "val": "ptb.valid.txt"}


def load_vocab() -> tuple[dict[str, int], dict[int, str]]:
    """Return the tables from word to number and back, in the order in which the words occur in the training text.

    Raises DataError if the text is not there.
    """
    numbers: dict[str, int] = {}
    for word in _words("train"):
        numbers.setdefault(word, len(numbers))
    return numbers, {number: word for word, number in numbers.items()}


def load_data(data_type: str = "train") -> tuple[Any, dict[str, int], dict[int, str]]:
    """Return the word numbers of a text, (words,), and the two tables of `load_vocab`.

    data_type: "train", "test", or "valid" ("val"). The end of a line is the word "<eos>".

    Raises ValueError for another data_type; DataError for a text that is not there, or has a word that the training
    text has not.
    """
    if data_type not in FILES:
        raise ValueError(f"data_type: expected one of {', '.join(map(repr, FILES))}, got {data_type!r}")
    word_to_id, id_to_word = load_vocab()
    words = _words(data_type)
    if unknown := next((word for word in words if word not in word_to_id), None):
        raise DataError(f"{FILES[data_type]}: the word {unknown!r} does not occur in {FILES['train']}")
    return np.array([word_to_id[word] for word in words]), word_to_id, id_to_word


def _words(data_type: str) -> list[str]:
    folder = Path(os.environ.get("NNBACKEND_DATA", "."))
    for path in (folder / FILES[data_type], folder / "ptb" / FILES[data_type]):
        if path.is_file():
            return path.read_text(encoding="utf-8").replace("\n", "<eos>").strip().split()
    raise DataError(
        f"{FILES[data_type]}: it is neither in {folder.resolve()} nor in `ptb` in it. Put the text there that the "
        f"book's dataset/ptb.py downloads, or set NNBACKEND_DATA to its folder"
    )
