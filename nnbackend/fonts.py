"""Find fonts for what a picture says in scripts that matplotlib's own font does not have, such as Japanese."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any


def complete(figure: Any, font: str | os.PathLike[str] | None = None) -> None:
    """Give every text of a matplotlib figure a font that has its characters.

    font: the name of an installed font, or the path of a font file; by default the usual font, and for characters that
    it does not have the first installed one that has them. Warns if no font has them. Raises ValueError for a font that
    is not there.
    """
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if text.get_text()]
    if font is not None:
        name = _named(font)
        for text in texts:
            text.set_fontfamily([name, *text.get_fontfamily()])
        return
    known = _characters(_usual())
    needed = {character for text in texts for character in text.get_text() if not character.isspace()} - known
    if not needed:
        return
    found = _with_characters(needed)
    if found is None:
        warnings.warn(
            f"no installed font has the characters {''.join(sorted(needed))[:20]!r}: install one (for Japanese, for "
            f"example, Debian's fonts-noto-cjk), or name it with font=",
            stacklevel=4,
        )
        return
    for text in texts:
        if needed & set(text.get_text()):
            text.set_fontfamily([*text.get_fontfamily(), found])


def _named(font: str | os.PathLike[str]) -> str:
    from matplotlib import font_manager

    if Path(font).is_file():
        font_manager.fontManager.addfont(font)
        return str(font_manager.get_font(os.fspath(font)).family_name)
    if os.fspath(font) not in font_manager.get_font_names():
        raise ValueError(f"font: there is no font called {os.fspath(font)!r}, and no such file")
    return os.fspath(font)


def _usual() -> str:
    from matplotlib import font_manager

    return str(font_manager.findfont(font_manager.FontProperties()))


def _characters(path: str) -> set[str]:
    """Return the characters that a font file has."""
    from matplotlib import font_manager

    try:
        return {chr(code) for code in font_manager.get_font(path).get_charmap()}
    except (OSError, RuntimeError):  # a file that is gone, or damaged
        return set()


def _with_characters(needed: set[str]) -> str | None:
    """Return the name of an installed font with all the characters, plain before slanted or bold; None without one."""
    from matplotlib import font_manager

    fonts = [f for f in font_manager.fontManager.ttflist if not f.name.startswith("Last Resort")]  # it has only boxes
    plain = sorted(fonts, key=lambda f: (f.style != "normal", f.weight not in (400, "normal")))
    return next((entry.name for entry in plain if needed <= _characters(entry.fname)), None)
