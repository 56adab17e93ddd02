"""Follow a training, and write the page about it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nnbackend.diagnosis import Finding
from nnbackend.report.layers import LayerRecord
from nnbackend.report.page import check_libraries
from nnbackend.report.single import write_report
from nnbackend.training import Trainer


class TrainingReport:
    """Follows a training and writes the page about it, whether it succeeds or not.

    path: the HTML file to write. command: the command that repeats the run. title, language: see `write_report`.

        report = TrainingReport("run.html")
        trainer.fit(x, t, 10, validation=held_out, callbacks=[report.watch(trainer, (x, t), held_out)])
        report.write()

    Raises ImportError, with the pip command, without the libraries that a page needs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        command: str | None = None,
        title: str | None = None,
        language: str = "en",
    ):
        check_libraries()
        self.path = path
        self._page: dict[str, Any] = {"command": command, "title": title, "language": language}
        self._watched: tuple[Trainer, LayerRecord, tuple[Any, Any], dict[str, Any]] | None = None

    def watch(
        self,
        trainer: Trainer,
        rows: tuple[Any, Any],
        held_out: tuple[Any, Any] | None = None,
        *,
        classes: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        image_shape: Sequence[int] | None = None,
        feature_scaling: Sequence[tuple[float, float]] | None = None,
        target_scaling: tuple[float, float] | None = None,
        data: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> LayerRecord:
        """Return the callback for `Trainer.fit` that records the layers.

        rows: inputs and targets to train on. held_out: those of which the page tells the results; those to train on if
        it is None. The rest is as in `write_report`; settings are by default those of the trainer.
        """
        n = (getattr(rows[0], "shape", None) or (len(rows[0]),))[0]
        record = LayerRecord(*rows, rows=min(256, max(32, n // 20)))  # so that it costs little beside an epoch
        told = {
            "classes": classes,
            "features": features,
            "image_shape": image_shape,
            "feature_scaling": feature_scaling,
            "target_scaling": target_scaling,
            "data": {**(data or {}), "training rows": f"{n:,}"},
            "settings": trainer.settings() if settings is None else settings,
        }
        self._watched = trainer, record, held_out or rows, told
        return record

    def write(self, *, failure: str | None = None, findings: Sequence[Finding] = ()) -> None:
        """Write the page. Do nothing if the training has not begun.

        failure: the message of the error that ended the training. findings: as in `write_report`. Raises ValueError and
        OSError as it does.
        """
        if self._watched is None:
            return
        trainer, record, (x, t), told = self._watched
        ended: dict[str, Any] = {"failure": failure, "findings": findings, "history": trainer.history, "layers": record}
        write_report(self.path, trainer.network, x, t, **ended, **told, **self._page)
