"""Rows of different lengths in flat arrays."""

from itertools import pairwise

import numpy as np

from ntt.types import IntArray


def ranges(first: IntArray, counts: IntArray) -> IntArray:
    """Return `first`, `first + 1`, ... `counts` times, one range after the other."""
    ends = np.cumsum(counts)
    numbers = np.repeat(first - ends + counts, counts)
    numbers += np.arange(len(numbers))
    return numbers


def chunks(counts: IntArray, limit: int) -> list[slice]:
    """Divide rows into slices of about `limit` items in total."""
    cuts = np.searchsorted(np.cumsum(counts), np.arange(limit, counts.sum(), limit))
    return [slice(*edges) for edges in pairwise([0, *cuts.tolist(), len(counts)])]
