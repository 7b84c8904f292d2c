"""Plain loops over arrays, compiled to machine code."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers with Numba when it is first called; it releases the interpreter lock.

    The machine code is kept beside the module, else in the user's cache or $NUMBA_CACHE_DIR; where none of them can be
    written, every process compiles anew. Arithmetic is IEEE's, operation by operation: results are NumPy's.
    """

    @cache
    def compile_once() -> Callable[..., Any]:
        import numba

        try:
            return cast("Callable[..., Any]", numba.njit(function, cache=True, nogil=True))
        except RuntimeError:  # no folder for the machine code
            return cast("Callable[..., Any]", numba.njit(function, nogil=True))

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return compile_once()(*arguments)

    return cast("Function", call)
