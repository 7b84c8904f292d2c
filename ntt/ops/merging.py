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
    weight W. The transition "normalised" scales the weights of the edges from a mask to a sum of 1; "plain" does not.
    Personalised PageRank iterates p <- alpha * W p + (1 - alpha) * v from p = 1 / N, where v is the largest overlap of
    each mask. Returns float32 [N] in [0, 1]; 0 for a mask that no earlier one touches.
    """
    largest_N = overlaps_NN.max(axis=1, initial=0.0)
    weights_NN = overlaps_NN
    if transition == "normalised":
        sums_N1 = overlaps_NN.sum(axis=1, keepdims=True)
        weights_NN = np.divide(overlaps_NN, sums_N1, out=np.zeros_like(overlaps_NN), where=sums_N1 > 0)
    penalties_N = np.full(len(largest_N), 1.0 / max(len(largest_N), 1))
    for _ in range(steps):
        penalties_N = alpha * (weights_NN @ penalties_N) + (1.0 - alpha) * largest_N
    return penalties_N.clip(0.0, 1.0).astype(np.float32)
