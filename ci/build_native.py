"""What pip runs when it builds the package: the loops in nnbackend/kernels/native.c are compiled into it.

Where that fails, for want of a compiler above all, the package is built without them and runs on NumPy alone;
`nnbackend doctor` says which it is.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "nnbackend/kernels"
# the first three make vectors of loops (for which neither errno nor a floating-point exception may be asked for
# afterwards), the last keeps products and sums apart: the bits are then those of every other processor, and NumPy's
UNIX = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
OPTIONS = [] if sys.platform == "win32" else UNIX


class NativeHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        self.folder = tempfile.mkdtemp()
        try:
            built = compiled(Path(self.root), self.folder)
        except Exception as error:  # compilers fail in many ways, and none of them is a reason to install nothing
            self.app.display_warning(f"nnbackend is built without its loops in C: {error}")
            return
        if version == "editable":
            shutil.copy(built, Path(self.root) / FOLDER)
        else:
            build_data["force_include"][str(built)] = f"{FOLDER}/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)


def compiled(root: Path, folder: str) -> Path:
    """The extension module, made in `folder`. Raises what setuptools does."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    source, header = (str(root / FOLDER / name) for name in ("native.c", "loops.h"))
    extension = Extension("_native", [source], depends=[header], extra_compile_args=OPTIONS)
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.build_lib = command.build_temp = folder
    command.ensure_finalized()
    command.run()
    return Path(command.get_outputs()[0])
