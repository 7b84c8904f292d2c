"""Merging of overlapping detections of one class (method.md §6).

Suffixes: N masks of one class, best first; D channels.
"""

import numpy as np
import numpy.typing as npt

from ntt.ops.similarity import cosine_similarity
from ntt.types import FloatArray


def soft_penalties(overlaps_NN: npt.NDArray[np.float64], features_ND: FloatArray | None) -> FloatArray:
    """Compute how much of each mask an earlier mask of its class already explains.

    Args:
        overlaps_NN: float64 [N, N], the part of mask i that mask j < i covers, else 0.
        features_ND: float32 [N, D], L2-normalised, to weight each overlap with max(0, cosine) of the two features; or
            None.

    Returns:
        float32 [N] in [0, 1]: max over earlier masks of |mask & earlier| / |mask| [* cosine]; 0 for the first.
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


def hard_survivors(overlaps_NN: npt.NDArray[np.float64], *, threshold: float) -> npt.NDArray[np.bool_]:
    """Drop a mask if an earlier surviving mask of its class covers more than `threshold` of it.

    `overlaps_NN`, float64 [N, N], is the part of mask i that mask j < i covers, else 0. Returns bool [N], which masks
    stay.
    """
    is_left = np.ones(len(overlaps_NN), dtype=np.bool_)
    for index, overlaps_N in enumerate(overlaps_NN.T):
        if is_left[index]:
            is_left &= overlaps_N <= threshold
    return is_left
