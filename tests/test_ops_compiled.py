"""Loops compiled on their first call."""

from typing import Any

import numba
import numpy as np

from ntt.ops.compiled import compiled


def sum_of_squares(values: np.ndarray) -> float:
    total = 0.0
    for value in values:
        total += value * value
    return total


def test_where_nothing_can_be_kept_each_process_compiles(monkeypatch):
    calls: list[dict[str, Any]] = []
    njit = numba.njit

    def without_folder(function: Any = None, **options: Any) -> Any:
        if function is sum_of_squares:  # Numba calls itself, too
            calls.append(options)
            if options.get("cache"):
                raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(numba, "njit", without_folder)
    square = compiled(sum_of_squares)
    assert not calls, "nothing is compiled before the first call"
    assert [square(np.arange(4.0)), square(np.arange(3.0))] == [14.0, 5.0]
    assert calls == [{"cache": True, "nogil": True}, {"nogil": True}]
