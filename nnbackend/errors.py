"""The exceptions of this library. Bad arguments raise plain ValueError or TypeError instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class NNBackendError(Exception):
    """Base class of the exceptions of this library."""


class BackendError(NNBackendError):
    """A backend is unknown, not installed or without a device, or one computation mixes arrays of two backends."""


class DataError(NNBackendError):
    """A data file is missing, truncated, corrupt, or of another kind than its name says."""


class ModelFileError(NNBackendError):
    """The file of a saved network is missing, damaged, of a newer format, or not written by nnbackend."""


class CheckpointError(NNBackendError):
    """A checkpoint cannot be written, is in use by another process, or belongs to another run."""


class CommunicationError(NNBackendError):
    """Processes that train together cannot communicate, or do not train the same."""


class NumericalError(NNBackendError):
    """Training produced a value that is not finite."""


def unknown_name(kind: str, name: object, known: Iterable[str], other_words: Mapping[str, str] | None = None) -> str:
    """Return the message for an unknown name: the name, the nearest known name, and all known names.

    other_words: what people say instead, in lower case, and the known names that they mean.
    """
    from difflib import get_close_matches

    names, text = sorted(known), str(name)[:100].casefold()  # with megabytes it takes seconds
    words = {known_name.casefold(): known_name for known_name in names} | dict(other_words or {})
    nearest = get_close_matches(text, words, n=1, cutoff=0.5)
    hint = f" Did you mean {words[nearest[0]]!r}?" if nearest else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}."
