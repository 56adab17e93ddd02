"""What is seen of a run: a bar that stays one line in a terminal, lines where the output is redirected."""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import nnbackend as nn

PROGRAM = """
import numpy as np, nnbackend as nn
rng = np.random.default_rng(0)
x, t = rng.standard_normal((230, 8)), rng.integers(0, 3, 230)
net = nn.Network([nn.Affine(8, 3)], seed=1)
trainer = nn.Trainer(net, nn.SGD(0.1), batch_size=10)
trainer.fit(x, t, 2, validation=(x, t), metrics={"spread": lambda y, t: y.std()}, progress=PROGRESS)
"""


def in_a_terminal(columns: int) -> str:
    """What the program writes to a terminal of so many columns."""
    pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(Path(nn.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM.replace("PROGRESS", "True")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux says so when the other side is closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait() == 0
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize("columns", [30, 60, 120])
def test_the_bar_is_one_line_an_epoch(columns: int) -> None:
    shown = in_a_terminal(columns)
    lines = shown.replace("\r\n", "\n").rstrip("\n").split("\n")
    assert len(lines) == 2
    for i, line in enumerate(lines, 1):
        states = [re.sub(r"\x1b\[[0-9]*[A-Z]", "", state) for state in line.split("\r") if state.strip()]
        assert all(len(state) <= columns for state in states), states
        assert states[-1].startswith(f"epoch {i}/2, loss=")
        if columns == 120:
            for text in ("230/230 samples", "loss=", "accuracy=", "val_loss=", "val_accuracy=", "spread="):
                assert text in states[-1]


def test_redirected_output_has_a_line_an_epoch() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(nn.__file__).parents[1])}
    names = ("loss", "accuracy", "val_loss", "val_accuracy", "spread")
    metrics = ", ".join(f"{name}=[0-9.]+" for name in names)
    for progress, lines in ((True, 2), (False, 0)):
        command = [sys.executable, "-c", PROGRAM.replace("PROGRESS", str(progress))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == ""
        assert "\r" not in done.stderr
        shown = done.stderr.splitlines()
        assert len(shown) == lines
        assert all(re.fullmatch(f"epoch {i}/2: {metrics}, [0-9.]+ s", line) for i, line in enumerate(shown, 1)), shown


def test_a_notebook_has_a_bar(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cell = nbformat.v4.new_code_cell(PROGRAM.replace("PROGRESS", "True"))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    os.environ["PYTHONPATH"], kept = str(Path(nn.__file__).parents[1]), os.environ.get("PYTHONPATH")
    try:
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    finally:
        if kept is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = kept
    shown = "".join(str(output) for output in cell.outputs)
    assert "Warning" not in shown
    assert "230/230 samples" in shown
    assert "val_accuracy=" in shown
