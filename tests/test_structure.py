"""The rules of the house, read off the source: who may import whom, and what importing may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnbackend
from nnbackend.backends.base import ROOMS as LIBRARIES

ROOT = Path(nnbackend.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
FAMILIES = set(LIBRARIES) - {"numpy"}
HEAVY = FAMILIES | {"jax", "matplotlib", "sklearn", "PIL", "tqdm", "pooch", "safetensors"}
HEAVY |= {"pandas", "polars", "pyarrow", "jinja2", "markupsafe", "vl_convert"}
HEAVY |= {"tensorboardX", "ndonnx", "onnx", "onnxruntime", "skl2onnx"}

# the floors, top to bottom: a file may import from its own floor (no circles: Python sees to that) and from below
FLOORS = [
    ["__main__", "cli"],
    ["interchange"],
    ["book2"],
    ["doctor", "recipes", "estimator", "images", "book"],
    ["report"],
    ["training", "diagnosis", "gradient_check"],
    ["plotting"],
    ["sampling", "evaluation", "summary"],
    ["network"],
    ["gradients"],
    ["layers"],
    ["datasets", "parameters"],
    ["random", "serialization", "initializers", "optimizers"],
    ["backend"],
    ["backends"],
    ["nodes", "schedules", "fonts", "pyinstaller"],
    ["functions", "errors", "cache", "checks", "files", "markup"],
]
ROOMS = {room for rooms in FLOORS for room in rooms}
# methods that only lead to a room above, which is imported when they are called
DOORS = {("network.py", "interchange"), ("network.py", "summary")}
# within backends/: what a library's room may know of it, and the kernels know only functions
KERNELS = {"backends/numpy/kernels.py", "backends/numpy/native.py", "backends/cupy/kernels.py"}
NUMPY_ALLOWED = {"backends/base.py", "initializers.py", "random.py", "serialization.py", "plotting.py"}
NUMPY_ALLOWED_IN = (
    "backends/numpy/",
    "book/",
    "book2/",
    "datasets/",
    "images.py",
    "estimator",
    "doctor.py",
    "interchange/",
    "report/",
)
# network.py and parameters.py name numpy's Generator, trainer.py and evaluation.py read figures on the host,
# sampling.py draws there and streams.py reads rows there, torch.py makes tensors of host arrays
NUMPY_FOR_HOST_VALUES = {
    "network.py",
    "parameters.py",
    "training/trainer.py",
    "training/communication.py",
    "training/streams.py",
    "evaluation.py",
    "sampling.py",
    "backends/dpnp.py",
    "backends/torch.py",
}


def imports(file: str, top_level_only: bool) -> set[str]:
    """Modules that a file imports, without those under TYPE_CHECKING."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_arrows_point_down(file: str) -> None:
    room = file.removesuffix(".py").partition("/")[0]
    for module in imports(file, top_level_only=False):
        parts = module.split(".")
        if parts[0] == "nnbackend" and len(parts) > 1 and parts[1] in ROOMS:
            if (file, parts[1]) in DOORS:
                assert module not in imports(file, top_level_only=True)
                continue
            assert floor(parts[1]) >= floor(room), f"{file} imports {module}, which stands above it"


@pytest.mark.parametrize("file", FILES)
def test_heavy_libraries_wait_until_they_are_needed(file: str) -> None:
    top = {module.partition(".")[0] for module in imports(file, top_level_only=True)}
    allowed = {"backends/cupy/kernels.py": {"cupy"}}.get(file, {"sklearn"} if file.startswith("estimator") else set())
    assert not top & HEAVY - allowed


@pytest.mark.parametrize("file", FILES)
def test_cupy_is_imported_in_one_room(file: str) -> None:
    if any(module.partition(".")[0] == "cupy" for module in imports(file, top_level_only=False)):
        assert file.startswith("backends/cupy/")


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("backends/")])
def test_no_code_outside_the_rooms_knows_an_array_library(file: str) -> None:
    """Nothing is compared with the name of a library, or with the family of a backend."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare | ast.Match):
            assert not any(isinstance(n, ast.Attribute) and n.attr == "family" for n in ast.walk(node)), node.lineno
            names = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not names & FAMILIES, f"{file}:{node.lineno}"


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("functions/")])
def test_functions_leave_products_of_matrices_to_the_backend(file: str) -> None:
    """They call `product`, which the loops in C know. A library of products beside them keeps a processor busy."""
    if file != "functions/affine.py":
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        found = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.MatMult)]
        inner_products = {"functions/optimizers.py": 1}  # the squared norm of a gradient
        assert len(found) == inner_products.get(file, 0), f"{file}: lines {found}"


@pytest.mark.parametrize("file", sorted(KERNELS))
def test_kernels_know_functions_alone(file: str) -> None:
    room = "nnbackend." + file.rpartition("/")[0].replace("/", ".")
    ours = {module for module in imports(file, top_level_only=False) if module.startswith("nnbackend.")}
    assert all(module.startswith(("nnbackend.functions", room)) for module in ours), ours


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("backends/")])
def test_the_rooms_of_two_libraries_do_not_know_each_other(file: str) -> None:
    rooms = {str(getattr(room, "__module__", room)).split(".")[2] for room in LIBRARIES.values()}
    own = file.split("/")[1].removesuffix(".py")
    for module in imports(file, top_level_only=True):
        parts = module.split(".")
        if own in rooms and parts[:2] == ["nnbackend", "backends"] and len(parts) > 2:
            assert parts[2] not in rooms - {own}, f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES)
def test_numpy_is_imported_where_host_arrays_are_the_point(file: str) -> None:
    if "numpy" in imports(file, top_level_only=False) and file != "backends/numpy/build.py":
        assert file in NUMPY_ALLOWED | NUMPY_FOR_HOST_VALUES or file.startswith(NUMPY_ALLOWED_IN)


def test_the_mathematics_imports_nothing_of_ours() -> None:
    for file in FILES:
        if file.startswith("functions/"):
            ours = {m for m in imports(file, top_level_only=False) if m.startswith("nnbackend.")}
            assert all(m.startswith("nnbackend.functions") for m in ours)


def test_importing_is_silent_and_light() -> None:
    code = f"import sys, nnbackend\nloaded = {sorted(HEAVY)!r}\nprint([name for name in loaded if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_face_offers_what_it_lists() -> None:
    assert all(hasattr(nnbackend, name) for name in nnbackend.__all__)
    assert nnbackend.backend is not sys.modules["nnbackend.backend"]


def test_the_package_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()


def test_what_is_promised_is_tested() -> None:
    tests = Path(__file__).parent
    table = (tests / "PROMISES.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)::(test_[a-z_]+)`", table)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (tests / file).read_text(encoding="utf-8"), f"{file}::{test}"
    for row in table.splitlines()[4:]:
        assert "::test_" in row, row
