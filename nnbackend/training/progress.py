"""Show a progress bar for one epoch."""

from __future__ import annotations

from types import TracebackType
from typing import Any

REPORTS_PER_EPOCH = 10


class Progress:
    """Counts samples in a bar.

    It says when it is time for metrics, so that the host reads the device ten times an epoch and not in every step. A
    bar that is not shown never asks for metrics.
    """

    def __init__(self, shown: bool, epoch: int, last_epoch: int, samples: int, steps: int, start: int):
        self._bar: Any = None
        self._every = max(1, steps // REPORTS_PER_EPOCH)
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(
                total=samples,
                initial=start,
                desc=f"epoch {epoch}/{last_epoch}",
                unit=" samples",
                mininterval=0.2,
            )

    def advance(self, samples: int) -> None:
        if self._bar is not None:
            self._bar.update(samples)

    def wants_metrics(self, step: int) -> bool:
        return self._bar is not None and step % self._every == 0

    def show(self, **metrics: float | None) -> None:
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4f}" for name, value in metrics.items() if value is not None})

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
