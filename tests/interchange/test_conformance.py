"""What an array library can do here: libraries on which all works, and made-up ones on which some of it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import array_api_compat.numpy as np_xp
import numpy as np
import pytest

import nnbackend as nn
from nnbackend.backends.base import ROOMS
from nnbackend.interchange import conformance as tool
from nnbackend.layers import LAYERS

conformance_module = sys.modules["nnbackend.interchange.conformance"]


@pytest.mark.parametrize("name", ["numpy", "array_api_strict:device1", "torch"])
def test_everything_works_on_the_libraries_that_are_backends(name: str) -> None:
    if cause := nn.backends.why_not(name):
        pytest.skip(str(cause))
    found = nn.conformance(name)
    assert found.works, str(found)
    assert not found.immutable
    assert found.library == name
    assert f"{found.library} {found.version} on" in str(found)


def test_everything_is_tried() -> None:
    rows = nn.conformance("numpy").rows
    tried = {kind: {row.name for row in rows if row.kind == kind} for kind in {row.kind for row in rows}}
    assert tried["layer, inference"] == tried["layer, training"] == set(LAYERS)
    assert tried["function"] >= set(nn.functions.__all__)
    assert {name.partition(",")[0] for name in tried["network"]} == {"classifier", "autoencoder", "CNN"}
    differences = [float(row.note) for row in rows]
    assert 0 < max(differences) < 1e-5  # float32 against float64: equal would be suspicious


# --- made-up libraries ------------------------------------------------------------------------------------------


def plain(x: Any) -> Any:
    if isinstance(x, tuple | list):
        return type(x)(plain(part) for part in x)
    return x.a if isinstance(x, Array) else x


def operator(name: str) -> Any:
    def call(self: Array, *others: Any) -> Any:
        return type(self)(getattr(self.a, name)(*plain(others)))

    return call


def in_place(name: str) -> Any:
    def call(self: Array, other: Any) -> Any:
        self[...] = getattr(self.a, name.replace("__i", "__", 1))(plain(other))
        return self

    return call


class Array:
    """An array of a library called "sixth": one of NumPy's, behind a class that shares nothing with it."""

    device = "cpu"

    def __init__(self, a: Any):
        self.a = np.asarray(a)

    dtype, shape, ndim = (
        property(lambda self, name=name: getattr(self.a, name)) for name in ("dtype", "shape", "ndim")
    )
    T = property(lambda self: type(self)(self.a.T))
    __array__ = lambda self, *arguments, **settings: self.a  # noqa: E731
    __float__, __int__, __bool__, __index__ = (
        lambda self, name=name: getattr(self.a, name)() for name in ("__float__", "__int__", "__bool__", "__index__")
    )

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return sys.modules["sixth"]

    def __getitem__(self, index: Any) -> Any:
        return type(self)(self.a[plain(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.a[plain(index)] = plain(value)


for _name in ("add", "sub", "mul", "truediv", "mod", "pow", "matmul", "and", "or", "xor", "rshift", "lshift"):
    for _form in (f"__{_name}__", f"__r{_name}__"):
        setattr(Array, _form, operator(_form))
for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(Array, f"__{_name}__", in_place(f"__{_name}__"))
for _name in ("neg", "invert", "eq", "ne", "lt", "le", "gt", "ge", "abs"):
    setattr(Array, f"__{_name}__", operator(f"__{_name}__"))
Array.__module__ = "sixth"


class Frozen(Array):
    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError("sixth arrays are immutable")


Frozen.__module__ = "sixth"


@pytest.fixture
def sixth(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Make the module "sixth", with arrays of a class, and with other functions if they are given."""

    def make(kind: type[Array] = Array, **changes: Any) -> ModuleType:
        module = ModuleType("sixth")

        def wrapped(function: Any) -> Any:
            def call(*arguments: Any, **settings: Any) -> Any:
                y = function(*plain(arguments), **{name: plain(value) for name, value in settings.items()})
                return kind(y) if isinstance(y, np.ndarray | np.generic) else y

            return call

        for name, value in {**vars(np_xp), **changes}.items():
            if not name.startswith("_"):
                setattr(module, name, wrapped(value) if callable(value) and not isinstance(value, type) else value)
        module.__version__ = "6.0"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sixth", module)
        return module

    return make


def test_a_library_without_a_room_is_a_backend_for_as_long_as_it_is_tried(sixth: Any) -> None:
    before = dict(ROOMS)
    found = nn.conformance(sixth())
    assert found.works, str(found)
    assert (found.library, found.version) == ("sixth", "6.0")
    assert str(nn.conformance("sixth")) == str(found)
    assert before == ROOMS


def test_the_first_call_that_fails_is_named_with_its_message(sixth: Any) -> None:
    def expm1(x: Any) -> Any:
        raise NotImplementedError("no expm1\nhere")

    found = nn.conformance(sixth(expm1=expm1))
    failed = {(row.kind, row.name): row.note for row in found.rows if not row.works}
    assert set(failed) == {("function", "elu"), ("layer, inference", "ELU"), ("layer, training", "ELU")}
    assert failed["layer, training", "ELU"].startswith("functions/activations.py:")
    assert "xp.expm1(xp.minimum(x, 0.0))" in failed["function", "elu"]
    assert failed["function", "elu"].endswith("`: NotImplementedError: no expm1 here")
    functions = sum(row.kind == "function" for row in found.rows)
    assert f"function: {functions - 1} of {functions} work" in str(found)
    assert not found.works


def test_a_wrong_result_is_a_difference(sixth: Any) -> None:
    found = nn.conformance(sixth(tanh=lambda x: np.tanh(x) * 1.01))
    notes = {row.name: row.note for row in found.rows if not row.works}
    assert notes["tanh"].startswith("differs by 0.01 of the largest value")
    assert {"tanh", "Tanh", "gelu", "GELU", "autoencoder, training"} <= set(notes)


def test_not_a_number_is_a_difference_wherever_it_stands(sixth: Any) -> None:
    found = nn.conformance(sixth(sum=lambda x, **settings: np.sum(x, **settings) * np.nan))
    notes = {(row.kind, row.name): row.note for row in found.rows if not row.works}
    assert notes["function", "affine_backward"] == "differs by nan of the largest value"  # of db, which comes last
    assert notes["layer, training", "Affine"] == "differs by nan of the largest value"


def test_immutable_arrays_are_named_as_such(sixth: Any) -> None:
    found = nn.conformance(sixth(Frozen))
    assert "sixth arrays are immutable" in found.immutable
    assert "its arrays are immutable: sixth: writing to an array and reading it back failed" in str(found)
    works = {(row.kind, row.name): row.works for row in found.rows}
    assert works["layer, inference", "Affine"]  # nothing is written there
    assert works["network", "classifier, inference"]
    assert not works["layer, training", "Affine"]
    assert not works["network", "classifier, training"]


@pytest.mark.parametrize(("name", "message"), [
    ("no_such_library", "'no_such_library' cannot be imported"),
    ("math", "'math' is no array-API namespace: AttributeError"),
    ("torch:nowhere", "torch has no working device 'nowhere'|PyTorch is not installed"),
])  # fmt: skip
def test_what_is_no_library(name: str, message: str) -> None:
    with pytest.raises(nn.BackendError, match=message):
        tool(name)


def test_one_table_of_several_libraries(sixth: Any) -> None:
    results = [nn.conformance("numpy"), nn.conformance(sixth(Frozen))]
    text = conformance_module.markdown(results)
    *_, head, line, first, second = text.splitlines()[:8]
    assert head == f"| | numpy {np.__version__} | sixth 6.0 |"
    assert line == "|---|---|---|"
    functions = sum(row.kind == "function" for row in results[0].rows)
    assert first.startswith(f"| **function** | **{functions} of {functions}** | **")
    assert second.startswith("| absolute_error_rows | ")
    assert "What fails on sixth 6.0:" in text
    assert "- network CNN, training: parameters.py:" in text
    assert "What fails on numpy" not in text


def test_the_table_in_the_documentation_is_of_today_s_functions_and_layers() -> None:
    page = (Path(__file__).parents[2] / "ci" / "docs" / "conformance.md").read_text(encoding="utf-8")
    for row in nn.conformance("numpy").rows:
        assert f"\n| {row.name} | " in page
