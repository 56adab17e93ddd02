"""The folder in which nnbackend keeps what is costly to have again: data sets, measurements."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """NNBACKEND_CACHE, or the user's own cache folder for `nnbackend`."""
    if chosen := os.environ.get("NNBACKEND_CACHE"):
        return Path(chosen)
    import pooch

    return Path(pooch.os_cache("nnbackend"))
