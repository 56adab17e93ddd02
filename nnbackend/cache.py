"""The folder in which nnbackend keeps downloaded data sets and measurements."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder NNBACKEND_CACHE if that is set, else the user's cache folder for nnbackend."""
    if chosen := os.environ.get("NNBACKEND_CACHE"):
        return Path(chosen)
    import pooch

    return Path(pooch.os_cache("nnbackend"))
