"""Garbage collection around work that makes millions of small values, and at the end of a program."""

import atexit
import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Put off the search for reference cycles, which is repeated as values add up; a block, or a decorator."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def older_values_spared() -> Iterator[None]:
    """Leave what exists, such as imported packages, out of the search for reference cycles; a block, or a decorator."""
    is_outermost = gc.get_freeze_count() == 0
    if is_outermost:
        gc.freeze()
    try:
        yield
    finally:
        if is_outermost:
            gc.unfreeze()


def leave_quickly() -> None:
    """Let the interpreter's end, of a second once models are loaded, be short and undisturbed by another Ctrl-C."""
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    # Triton reports, as a leak, what is not freed.
    atexit.register(lambda: None if "triton" in sys.modules else gc.freeze())
