"""The exceptions of this library: bad arguments stay ValueError and TypeError, everything else is one of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class NNBackendError(Exception):
    """Base of every error that is not a plain ValueError or TypeError."""


class BackendError(NNBackendError):
    """A backend is unknown, not installed, has no device, or two backends met in one computation."""


class DataError(NNBackendError):
    """A data file is missing, truncated, corrupt, or not what it claims to be."""


class ModelFileError(NNBackendError):
    """A saved network cannot be read: damaged, of a newer format, or not one of ours."""


class CheckpointError(NNBackendError):
    """A checkpoint cannot be written, is being written by another process, or is not of the run that asks for it."""


class NumericalError(NNBackendError):
    """Training met a value that is not finite."""


def unknown_name(kind: str, name: object, known: Iterable[str], other_words: Mapping[str, str] | None = None) -> str:
    """The message for a name that is not known: what came, the nearest known name, and all of them.

    other_words: what people say instead, in lower case, and the known names that they mean.
    """
    from difflib import get_close_matches

    names, text = sorted(known), str(name)[:100].casefold()  # with megabytes it takes seconds
    words = {known_name.casefold(): known_name for known_name in names} | dict(other_words or {})
    nearest = get_close_matches(text, words, n=1, cutoff=0.5)
    hint = f" Did you mean {words[nearest[0]]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
