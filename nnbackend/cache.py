"""Find the folder in which nnbackend keeps downloaded data sets and measurements."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder NNBACKEND_CACHE if that is set, else the user's cache folder for nnbackend.

    Raises FileNotFoundError for a user who has no home, as in many containers.
    """
    if chosen := os.environ.get("NNBACKEND_CACHE"):
        return Path(chosen)
    import pooch

    try:
        return Path(pooch.os_cache("nnbackend"))
    except (RuntimeError, KeyError) as error:
        raise FileNotFoundError(
            None, "this user has no home folder for a cache; set HOME, or NNBACKEND_CACHE to a folder"
        ) from error
