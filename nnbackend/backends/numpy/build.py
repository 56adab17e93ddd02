"""Compile nnbackend/backends/numpy/native.c when pip builds the package.

If compiling fails, for example because there is no compiler, the package is built without the loops in C and runs on
NumPy alone. `nnbackend doctor` says whether they are there.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "nnbackend/backends/numpy"
# -O3 vectorises the loops only if they set neither errno nor floating-point exceptions. -fno-fast-math keeps NaN
# working whatever CFLAGS say. -ffp-contract=off forbids fused multiply-add, so that results equal NumPy's bit for bit.
UNIX = ["-O3", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
OPTIONS = [] if sys.platform == "win32" else UNIX


class NativeHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        self.folder = tempfile.mkdtemp()
        try:
            built = compiled(Path(self.root), self.folder)
            if version == "editable":
                place = Path(self.root) / FOLDER / built.name
                shutil.copy(built, place.with_suffix(".new"))
                place.with_suffix(".new").replace(place)  # a process that has loaded the old file keeps it
            else:
                build_data["force_include"][str(built)] = f"{FOLDER}/{built.name}"
        except Exception as error:  # compilers fail in many ways, and the package works without the loops
            self.app.display_warning(f"nnbackend is built without its loops in C: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)


def compiled(root: Path, folder: str) -> Path:
    """Compile the extension module into `folder` and return its path. Errors of setuptools pass through."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    sources = [root / FOLDER / name for name in ("native.c", "loops.h")]
    digest = hashlib.sha256("".join(path.read_text("utf-8") for path in sources).encode()).hexdigest()[:16]
    macros: list[tuple[str, str | None]] = [("SOURCES", f'"{digest}"')]
    extension = Extension("_native", [str(sources[0])], define_macros=macros, extra_compile_args=OPTIONS)
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.build_lib = command.build_temp = folder
    command.ensure_finalized()
    command.run()
    return Path(command.get_outputs()[0])
