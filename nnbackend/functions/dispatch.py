"""How a faster version of a function stands in front of its definition.

A function that may have one is a `functools.singledispatch` function of its first argument, and its body is the
definition, for every array-API namespace. `f.dispatch(object)` is always the definition. A function of real numbers is
`floating`: its first argument is an array of floating numbers, and all else is refused before any library sees it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from nnbackend.functions.array import array_namespace

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_floating: dict[int, Any] = {}  # floating dtypes by their identity: to hash one takes longer than some functions


class Floating(Protocol[P, R_co]):
    """A singledispatch function with the signature of its definition."""

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R_co: ...

    def dispatch(self, kind: type) -> Callable[P, R_co]: ...


def floating(definition: Callable[P, R_co]) -> Floating[P, R_co]:
    """Make a singledispatch function of a definition whose first argument is an array of floating numbers.

    Integers, booleans, numbers of Python and lists raise TypeError, as no library agrees with another on what they
    become: cast them first. The kernels of such a function see float16, float32 and float64 in the
    machine's byte order; the definition serves the rest.
    """
    argument = next(iter(inspect.signature(definition).parameters))

    @functools.wraps(definition)
    def checked(first: Any, *rest: Any, **named: Any) -> Any:
        if id(getattr(first, "dtype", None)) not in _floating and not is_floating(first):
            got = f"dtype {first.dtype}" if hasattr(first, "dtype") else f"a {type(first).__name__}"
            raise TypeError(
                f"{definition.__name__}: {argument} must be an array of floating numbers, such as float32, got {got}"
            )
        return definition(first, *rest, **named)

    dispatched: Any = functools.singledispatch(checked)
    dispatched.floating = True
    function: Floating[P, R_co] = dispatched
    return function


def is_floating(x: Any) -> bool:
    """Say whether x is an array of floating numbers."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or not array_namespace(x).isdtype(dtype, "real floating"):
        return False
    if len(_floating) < 32:  # those of a library are few, but one of another byte order may be a new object every time
        _floating[id(dtype)] = dtype
    return True


def kernel(function: Any, kind: type, *, exact: bool = False) -> Callable[[F], F]:
    """Register a faster version of a function for arrays of a kind, in front of the version registered before it.

    A kernel has the signature, the dtype rule and the meaning of the function. If it is not made for its arguments, it
    returns NotImplemented before it has written anything; then the version registered before it answers, at the end the
    definition. exact: leave subclasses of `kind`, which may mean more than their memory says, to that version.
    """
    any_dtype = not getattr(function, "floating", False)

    def register(fast: F) -> F:
        slower = function.dispatch(kind)

        @functools.wraps(fast)
        def tried(first: Any, *rest: Any, **named: Any) -> Any:
            suits = not exact or type(first) is kind
            if suits and (any_dtype or ((dtype := first.dtype).char in "efd" and dtype.isnative)):
                answer = fast(first, *rest, **named)
                if answer is not NotImplemented:
                    return answer
            return slower(first, *rest, **named)

        function.register(kind, tried)
        return fast

    return register
