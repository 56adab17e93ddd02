"""What pip runs when it builds the package: the loops in nnbackend/backends/numpy/native.c are compiled into it.

Where that fails, for want of a compiler above all, the package is built without them and runs on NumPy alone;
`nnbackend doctor` says which it is.
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
# -O3 makes vectors of loops for which neither errno nor a floating-point exception can be asked for afterwards; NaN
# keeps its meaning whatever CFLAGS say, and products stay apart from sums, for the bits of NumPy on every processor
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
                place.with_suffix(".new").replace(place)  # a process that has loaded the old one keeps it
            else:
                build_data["force_include"][str(built)] = f"{FOLDER}/{built.name}"
        except Exception as error:  # compilers fail in many ways, and none of them is a reason to install nothing
            self.app.display_warning(f"nnbackend is built without its loops in C: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)


def compiled(root: Path, folder: str) -> Path:
    """The extension module, made in `folder`. Raises what setuptools does."""
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
