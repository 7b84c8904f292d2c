"""Penalties for overlapping masks of one class: the published merging (method.md §6), and diffusion along a graph.

Suffixes: N masks of one class, best first; D channels.
"""

import numpy as np

from ntt.ops.similarity import cosine_similarity
from ntt.types import BoolArray, DoubleArray, FloatArray


def soft_penalties(overlaps_NN: DoubleArray, features_ND: FloatArray | None) -> FloatArray:
    """Compute how much of each mask an earlier mask of its class already explains: float32 [N] in [0, 1].

    It is the maximum over earlier masks of |mask & earlier| / |mask|, float64 [N, N], 0 on and above the diagonal; with
    unit features, each overlap is weighted with max(0, cosine) of the two.
    """
    if features_ND is not None and overlaps_NN.any():
        # A copy, because for the product of an array with itself NumPy uses another routine, which rounds differently.
        overlaps_NN = overlaps_NN * cosine_similarity(features_ND, features_ND.copy())
    penalties_N: FloatArray = overlaps_NN.max(axis=1, initial=0.0).astype(np.float32)
    return penalties_N


def decay(scores: FloatArray, penalties: FloatArray) -> FloatArray:
    """Return score * sqrt(1 - penalty), float32 [N]."""
    decayed: FloatArray = scores * np.sqrt(np.float32(1.0) - penalties)
    return decayed


def hard_survivors(overlaps_NN: DoubleArray, *, threshold: float) -> BoolArray:
    """Return which masks, bool [N], stay: those of which no earlier surviving one covers more than `threshold`.

    `overlaps_NN`, float64 [N, N], is the part of mask i that mask j < i covers, else 0.
    """
    is_left = np.ones(len(overlaps_NN), dtype=np.bool_)
    for index, overlaps_N in enumerate(overlaps_NN.T):
        if is_left[index]:
            is_left &= overlaps_N <= threshold
    return is_left


TRANSITIONS = ("normalised", "plain")


def diffused_penalties(overlaps_NN: DoubleArray, *, alpha: float, steps: int, transition: str) -> FloatArray:
    """Compute how much of each mask earlier masks of its class explain, directly or through others.

    Masks are nodes; edges lead from a mask to the earlier masks of its class that cover part of it, with that part as
    weight. The transition "normalised" scales the weights of the edges from a mask to a sum of 1; "plain" does not.
    Returns float32 [N] in [0, 1]; 0 for a mask that no earlier one touches.
    """
    restart_N = overlaps_NN.max(axis=1, initial=0.0)
    weights_NN = _row_stochastic(overlaps_NN) if transition == "normalised" else overlaps_NN
    return pagerank(weights_NN, restart_N, alpha=alpha, steps=steps).clip(0.0, 1.0).astype(np.float32)


def pagerank(weights_NN: DoubleArray, restart_N: DoubleArray, *, alpha: float, steps: int) -> DoubleArray:
    """Iterate p <- alpha * W p + (1 - alpha) * v from p = 1 / N (personalised PageRank, a walk with restart).

    Row i of W holds the edges that leave node i, not negative; `alpha`, in [0, 1], is the part of a node's value that
    comes from its neighbours; the rest comes from v, the restart. Returns p, float64 [N].
    """
    values_N = np.full(len(restart_N), 1.0 / max(len(restart_N), 1))
    for _ in range(steps):
        values_N = alpha * (weights_NN @ values_N) + (1.0 - alpha) * restart_N
    return values_N


def _row_stochastic(weights_NN: DoubleArray) -> DoubleArray:
    """Scale each row to a sum of 1; a row of zeros stays."""
    sums_N1 = weights_NN.sum(axis=1, keepdims=True)
    scaled: DoubleArray = np.divide(weights_NN, sums_N1, out=np.zeros_like(weights_NN), where=sums_N1 > 0)
    return scaled
