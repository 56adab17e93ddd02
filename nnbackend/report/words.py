"""Say what a page says, in English and in Japanese."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

LANGUAGES = ("en", "ja")
# what is the same in both languages, the text in each, or a key of the words and the values of its places
Text: TypeAlias = str | tuple[str, str] | dict[str, Any]


@cache
def words() -> dict[str, tuple[str, str]]:
    """Return the texts by key, each in English and in Japanese."""
    read = json.loads(files("nnbackend.report").joinpath("words.json").read_text("utf-8"))
    return {key: (english, japanese) for key, (english, japanese) in read.items()}


def word(key: str, **values: object) -> Text:
    """Return a text in the language of the page. values: what its placeholders stand for."""
    return {"word": key, **({"values": values} if values else {})}


def told(text: Text) -> tuple[str, str]:
    """Return a text in English and in Japanese."""
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


def check_language(language: str) -> None:
    """Raise ValueError for a language that pages do not have."""
    if language not in LANGUAGES:
        raise ValueError(f"language: expected one of {', '.join(LANGUAGES)}, got {language!r}")


def number(value: float | None) -> Text:
    """Return a number with four digits, in words if it is not finite, and nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if math.isfinite(value) else word("not finite")


def numbers(values: Iterable[float]) -> Text:
    """Return numbers as `number` does, separated by commas."""
    found = [number(value) for value in values]
    if len(found) == 1:
        return found[0]
    english, japanese = (", ".join(texts) for texts in zip(*map(told, found), strict=True))
    return english, japanese


def said(value: Any) -> str:
    """Return the value of a setting as text."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {said(part)}" for name, part in value.items())
    return ", ".join(map(said, value)) if isinstance(value, list | tuple) else str(value)


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, numbered where one occurs again, because a chart tells curves apart by them."""
    found: list[str] = []
    for name in names:
        other, count = name, 2
        while other in found:
            other, count = f"{name} ({count})", count + 1
        found.append(other)
    return found
