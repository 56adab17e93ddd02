"""The exceptions of this library. Bad arguments raise plain ValueError or TypeError instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class NNBackendError(Exception):
    """Base class of the exceptions of this library."""


class BackendError(NNBackendError):
    """Raised if a backend is unknown, not installed or without a device, or if a computation mixes two backends."""


class DataError(NNBackendError):
    """Raised if a data file is missing, truncated, corrupt, or of another kind than its name says."""


class ModelFileError(NNBackendError):
    """Raised if the file of a saved network is missing, damaged, of a newer format, or not written by nnbackend."""


class CheckpointError(NNBackendError):
    """Raised if a checkpoint cannot be written, is in use by another process, or belongs to another run."""


class CommunicationError(NNBackendError):
    """Processes that train together cannot communicate, or do not train the same."""


class NumericalError(NNBackendError):
    """Raised if training produced a value that is not finite."""


def unknown_name(kind: str, name: object, known: Iterable[str], other_words: Mapping[str, str] | None = None) -> str:
    """Return the message for an unknown name: the name, the nearest known name, and all known names.

    other_words: other words for known names, in lower case, each with the known name that it means.
    """
    from difflib import get_close_matches

    names, text = sorted(known), str(name)[:100].casefold()  # cut, because a match for megabytes takes seconds
    words = {known_name.casefold(): known_name for known_name in names} | dict(other_words or {})
    nearest = get_close_matches(text, words, n=1, cutoff=0.5)
    hint = f" Did you mean {words[nearest[0]]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
