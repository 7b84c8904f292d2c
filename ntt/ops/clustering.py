"""Clustering of a few feature vectors by direction. Suffixes: N vectors, D channels, K clusters."""

import numpy as np

from ntt.types import DoubleArray, FloatArray, IntArray

RESTARTS = 8
MAX_STEPS = 100
# Squared distance below which two unit vectors count as the same.
_SAME = 1e-12


def spherical_kmeans(features_ND: FloatArray, count: int, *, generator: np.random.Generator) -> IntArray:
    """Group N >= 1 vectors of any length by cosine (spherical k-means: Dhillon and Modha, Machine Learning 42, 2001).

    Starts are drawn as in k-means++ (Arthur and Vassilvitskii, SODA 2007); the best of `RESTARTS` runs is returned:
    int64 [N], the cluster of each vector, numbered from 0 in the order of their first members. There are at most
    `count`, and never more than distinct directions. Sums are in float64.
    """
    if count == 1 or len(features_ND) == 1:
        return np.zeros(len(features_ND), dtype=np.int64)
    units_ND = _normalised(features_ND.astype(np.float64))
    best, best_total = np.zeros(len(units_ND), dtype=np.int64), -np.inf
    for _ in range(RESTARTS):
        assigned, total = _run(units_ND, _starts(units_ND, count, generator))
        # Among runs that differ by rounding only, the first is used.
        if total > best_total + _SAME * len(units_ND):
            best, best_total = assigned, total
    return _numbered_by_first_member(best)


def _starts(units_ND: DoubleArray, count: int, generator: np.random.Generator) -> DoubleArray:
    """Draw up to `count` different vectors, each with a probability that grows with its squared distance."""
    centres = [int(generator.integers(len(units_ND)))]
    while len(centres) < count:
        squared_N = (2.0 - 2.0 * (units_ND @ units_ND[centres].T)).min(axis=1).clip(min=0.0)
        squared_N[squared_N < _SAME] = 0.0
        if not squared_N.any():
            break
        centres.append(int(generator.choice(len(units_ND), p=squared_N / squared_N.sum())))
    return units_ND[centres]


def _run(units_ND: DoubleArray, centres_KD: DoubleArray) -> tuple[IntArray, float]:
    """Alternate assignment and averaging; return the assignment and its sum of cosines."""
    assigned = np.full(len(units_ND), -1, dtype=np.int64)
    for _ in range(MAX_STEPS):
        nearest = (units_ND @ centres_KD.T).argmax(axis=1)
        if np.array_equal(nearest, assigned):
            break
        assigned = nearest
        for cluster in np.unique(assigned).tolist():
            centres_KD[cluster] = _normalised(units_ND[assigned == cluster].sum(axis=0))
    return assigned, float((units_ND * centres_KD[assigned]).sum())


def _normalised(vectors: DoubleArray) -> DoubleArray:
    """Scale to unit length along the last axis; a zero vector stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: DoubleArray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def _numbered_by_first_member(assigned: IntArray) -> IntArray:
    """Renumber clusters without gaps, so that equal groupings get equal numbers."""
    _, first, inverse = np.unique(assigned, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
