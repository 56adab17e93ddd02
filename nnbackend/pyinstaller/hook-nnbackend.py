"""PyInstaller's hook: the files that are read at run time, and the modules that are imported by name."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

datas = collect_data_files("nnbackend", excludes=["**/*.c", "**/*.h", "**/*.pyi"])
# without the module that builds the package, which would bring hatchling and setuptools along
hiddenimports = collect_submodules("nnbackend.backends", filter=lambda name: not name.endswith(".build"))
