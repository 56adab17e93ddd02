"""The namespaces on which every test of the mathematics runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from support import NAMESPACES, Namespace

import nnbackend as nn
from nnbackend.backends import why_not


@pytest.fixture(params=NAMESPACES)
def on(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """One namespace after the other, selected as the current backend; skipped, with the cause, where it is missing."""
    family = request.param.removesuffix("-readonly")
    cause = why_not(family)
    if cause is not None and family == "cupy" and os.environ.get("NNBACKEND_TEST_GPU"):
        pytest.fail(f"NNBACKEND_TEST_GPU is set, but {cause}")
    if cause is not None:
        pytest.skip(f"{'GPU: ' if family == 'cupy' else ''}{family}: {cause}")
    with nn.using(family) as backend:
        yield Namespace(backend, readonly=request.param.endswith("-readonly"))


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NNBACKEND", raising=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests were skipped, once per reason."""
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")
