"""Tell PyInstaller what a packaged program needs. PyInstaller finds this by an entry point in pyproject.toml."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folder of PyInstaller's hook."""
    return [str(Path(__file__).parent)]
