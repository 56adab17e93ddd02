"""Write pages about training runs: each is one HTML file that needs no network connection."""

from __future__ import annotations

from nnbackend.report.comparison import write_comparison
from nnbackend.report.layers import LayerRecord
from nnbackend.report.page import check_libraries
from nnbackend.report.runs import RUN_FORMAT, Run, read_run, run_record
from nnbackend.report.single import write_report
from nnbackend.report.training import TrainingReport

__all__ = [
    "RUN_FORMAT",
    "LayerRecord",
    "Run",
    "TrainingReport",
    "check_libraries",
    "read_run",
    "run_record",
    "write_comparison",
    "write_report",
]
