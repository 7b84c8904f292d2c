"""Rows of different lengths in flat arrays, and groups of their entries."""

from itertools import pairwise

import numpy as np

from ntt.types import IntArray


def ranges(first: IntArray, counts: IntArray) -> IntArray:
    """Return `first`, `first + 1`, ... `counts` times, one range after the other."""
    ends = np.cumsum(counts)
    numbers = np.repeat(first - ends + counts, counts)
    numbers += np.arange(len(numbers))
    return numbers


def by_group(groups: IntArray, count: int) -> list[IntArray]:
    """Return the indices of the members of each group 0, 1, ... `count` - 1, in ascending order."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.searchsorted(groups[order], np.arange(1, count)))


def chunks(counts: IntArray, limit: int) -> list[slice]:
    """Divide rows into slices of about `limit` items in total."""
    cuts = np.searchsorted(np.cumsum(counts), np.arange(limit, counts.sum(), limit))
    return [slice(*edges) for edges in pairwise([0, *cuts.tolist(), len(counts)])]
