"""Say what a page says, in English and in Japanese."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "ja")


@cache
def words() -> dict[str, tuple[str, str]]:
    """Return the texts by key, each in English and in Japanese."""
    read = json.loads(files("nnbackend.report").joinpath("words.json").read_text("utf-8"))
    return {key: (english, japanese) for key, (english, japanese) in read.items()}


def told(text: Any) -> tuple[str, str]:
    """Return a text in English and in Japanese.

    text: {"word": key, "values": {...}} as `charts.word` makes it, a pair of texts, or what is the same in both.
    """
    if isinstance(text, tuple):
        return text
    if not isinstance(text, Mapping):
        return str(text), str(text)
    values = {name: told(value) for name, value in text.get("values", {}).items()}
    english, japanese = (
        pattern.format(**{name: value[i] for name, value in values.items()})
        for i, pattern in enumerate(words()[text["word"]])
    )
    return english, japanese
