"""PyInstaller's hook: the files that are read at run time, and the modules that are imported by name."""

from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

datas = collect_data_files("nnbackend", excludes=["**/*.c", "**/*.h", "**/*.pyi"])
# without the module that builds the package, which would bring hatchling and setuptools along
hiddenimports = collect_submodules("nnbackend.backends", filter=lambda name: not name.endswith(".build"))
for library in ("numpy", "cupy", "torch"):
    if find_spec(library):
        hiddenimports += collect_submodules(f"array_api_compat.{library}")
