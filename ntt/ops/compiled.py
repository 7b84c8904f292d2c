"""Plain loops over arrays, compiled to machine code."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function of arrays and numbers with Numba when it is first called; it releases the interpreter lock.

    The machine code is kept beside the module, else in the user's cache or $NUMBA_CACHE_DIR; where it cannot be kept or
    is damaged, every process compiles anew. Arithmetic is IEEE's, operation by operation: results are NumPy's, also
    where a divisor is 0. Indices are not checked against the arrays' bounds.
    """
    is_kept = True

    @cache
    def machine_code(*, is_kept: bool) -> Callable[..., Any]:
        import numba

        return cast("Callable[..., Any]", numba.njit(function, cache=is_kept, nogil=True, error_model="numpy"))

    @wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal is_kept
        if is_kept:
            try:
                return machine_code(is_kept=True)(*arguments)
            except Exception:  # whatever a cache may raise; what is wrong with the call is raised again below
                is_kept = False
        return machine_code(is_kept=False)(*arguments)

    return cast("Function", call)
