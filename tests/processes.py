"""Training runs of several processes under mpiexec, and the same run in one process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import MPIEXEC

import nnbackend as nn

PROGRAM = Path(__file__).parent / "training" / "mpi_program.py"
needs_mpi = pytest.mark.skipif(MPIEXEC is None, reason='MPI is not installed: pip install "nnbackend[mpi]" mpich')
spec = importlib.util.spec_from_file_location("mpi_program", PROGRAM)
assert spec is not None
assert spec.loader is not None
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


def launch(
    processes: int, folder: Path | str = "", timeout: float = 120, **options: Any
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONWARNINGS"] = options.pop("warnings", "error")
    command = [str(MPIEXEC), "-n", str(processes), sys.executable, str(PROGRAM), str(folder), json.dumps(options)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        cwd=nn.__path__[0] + "/..",
        check=False,
    )


def results(done: subprocess.CompletedProcess[str]) -> set[tuple[str, ...]]:
    """Return epoch, step and digest of the ranks, which are all the same where the set has one element."""
    assert done.returncode == 0, done.stderr
    lines = sorted(line.split() for line in done.stdout.splitlines())
    assert [int(line[0]) for line in lines] == list(range(len(lines)))
    return {tuple(line[1:]) for line in lines}


def alone(**options: Any) -> set[tuple[str, ...]]:
    trainer = program.run(None, None, **options)
    return {(str(trainer.epoch), str(trainer.state.step), program.digest(trainer))}
