"""Compile nnbackend/backends/numpy/native.c when pip builds the package.

A wheel holds the loops in C for all versions of CPython from 3.11 on, by its stable ABI; the free-threaded build has no
stable ABI yet, and gets a wheel for its version. An editable installation holds them for the Python that installs it.

NNBACKEND_NATIVE=0 leaves the loops out, and makes a wheel for any Python on any system. With NNBACKEND_NATIVE=1 a
failure to compile ends the build. Otherwise the package is then built without the loops, for example because there is
no compiler, and runs on NumPy alone. `nnbackend doctor` says whether they are there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "nnbackend/backends/numpy"
# -O3 vectorises the loops only if they set neither errno nor floating-point exceptions. -fno-fast-math keeps NaN
# working whatever CFLAGS say. -ffp-contract=off forbids fused multiply-add, so that results equal NumPy's bit for bit.
UNIX = ["-O3", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
# A function outside the stable ABI would be taken for one that returns an int, which cuts a pointer in half.
UNIX += ["-Werror=implicit-function-declaration"]
OPTIONS = [] if sys.platform == "win32" else UNIX
OLDEST = (3, 11)  # the oldest CPython that loads a wheel with the stable ABI: `requires-python` of pyproject.toml


class NativeHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("NNBACKEND_NATIVE", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        stable = version != "editable" and has_stable_abi()
        self.folder = tempfile.mkdtemp()
        try:
            built = compiled(Path(self.root), self.folder, stable)
            if version == "editable":
                place = Path(self.root) / FOLDER / built.name
                shutil.copy(built, place.with_suffix(".new"))
                place.with_suffix(".new").replace(place)  # a process that has loaded the old file keeps it
            else:
                build_data["force_include"][str(built)] = f"{FOLDER}/{built.name}"
        except Exception as error:  # compilers fail in many ways, and the package works without the loops
            if wanted == "1":
                raise
            self.app.display_warning(f"nnbackend is built without its loops in C: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if stable:
            platform = self.build_config.builder.get_best_matching_tag().rpartition("-")[2]
            build_data["tag"] = f"cp{OLDEST[0]}{OLDEST[1]}-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)


def has_stable_abi() -> bool:
    """Say whether this Python compiles for its stable ABI. PyPy and the free-threaded CPython do not."""
    return sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")


def compiled(root: Path, folder: str, stable: bool) -> Path:
    """Compile the extension module into `folder` and return its path. Errors of setuptools pass through.

    stable: whether to compile for the stable ABI of CPython.
    """
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    sources = [root / FOLDER / name for name in ("native.c", "loops.h", "product.h", "threads.h")]
    digest = hashlib.sha256("".join(path.read_text("utf-8") for path in sources).encode()).hexdigest()[:16]
    macros: list[tuple[str, str | None]] = [("SOURCES", f'"{digest}"')]
    if stable:
        macros.append(("Py_LIMITED_API", f"0x{OLDEST[0]:02X}{OLDEST[1]:02X}0000"))
    extension = Extension(
        "_native", [str(sources[0])], define_macros=macros, extra_compile_args=OPTIONS, py_limited_api=stable
    )
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.build_lib = command.build_temp = folder
    command.ensure_finalized()
    command.run()
    return Path(command.get_outputs()[0])
