"""How a faster version of a function stands in front of its definition.

A function that may have one is a `functools.singledispatch` function of its first argument, and its body is the
definition, for every array-API namespace. `f.dispatch(object)` is always the definition.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: Any, kind: type, *, exact: bool = False) -> Callable[[F], F]:
    """Register a faster version of a function for arrays of a kind, in front of the version registered before it.

    A kernel has the signature, the dtype rule and the meaning of the function. If it is not made for its arguments, it
    returns NotImplemented before it has written anything; then the version registered before it answers, at the end the
    definition. exact: leave subclasses of `kind`, which may mean more than their memory says, to that version.
    """

    def register(fast: F) -> F:
        slower = function.dispatch(kind)

        @functools.wraps(fast)
        def tried(first: Any, *rest: Any, **named: Any) -> Any:
            if not exact or type(first) is kind:
                answer = fast(first, *rest, **named)
                if answer is not NotImplemented:
                    return answer
            return slower(first, *rest, **named)

        function.register(kind, tried)
        return fast

    return register
