"""Show how an epoch goes: a bar in a terminal or a notebook, a line for each epoch where the output is redirected."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from types import TracebackType
from typing import Any

REPORTS_PER_EPOCH = 10
# what matters most comes first, because a narrow terminal cuts the end off
BAR = "{desc}{postfix} |{bar}| {n_fmt}/{total_fmt} samples, {elapsed}<{remaining}"


class Progress:
    """Counts samples in a bar.

    It says when it is time for metrics, so that the host reads the device ten times an epoch and not in every step. A
    bar that is not shown never asks for metrics.
    """

    def __init__(self, shown: bool, epoch: int, last_epoch: int, samples: int, steps: int, start: int):
        self._bar: Any = None
        self._every = max(1, steps // REPORTS_PER_EPOCH)
        self._name, self._since = f"epoch {epoch}/{last_epoch}", time.perf_counter()
        notebook = shown and _in_notebook()
        self._plain = shown and not notebook and not _is_terminal()
        if shown and not self._plain:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of text
                from tqdm.auto import tqdm

            self._bar = tqdm(
                total=samples,
                initial=start,
                desc=self._name,
                mininterval=0.2,
                dynamic_ncols=not notebook,
                bar_format=BAR,
            )

    def advance(self, samples: int) -> None:
        if self._bar is not None:
            self._bar.update(samples)

    def wants_metrics(self, step: int) -> bool:
        return self._bar is not None and step % self._every == 0

    def show(self, **metrics: float | None) -> None:
        """Show metrics in the bar. Without a bar, write the line of the epoch."""
        shown = {name: f"{value:.4f}" for name, value in metrics.items() if value is not None}
        if self._bar is not None:
            self._bar.set_postfix(shown)
        elif self._plain and sys.stderr is not None:
            parts = [f"{name}={value}" for name, value in shown.items()]
            with contextlib.suppress(OSError):  # nobody reads it any more, as in `... 2>&1 | head`
                sys.stderr.write(f"{self._name}: {', '.join(parts)}, {time.perf_counter() - self._since:.1f} s\n")
                sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def _in_notebook() -> bool:
    """Say whether the program runs in a kernel of Jupyter."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
