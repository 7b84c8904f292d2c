"""Merging of overlapping detections of one class (METHOD 6).

All arrays are in the order of non-maximum suppression, and a mask is only ever compared with earlier masks of its own
class. Suffixes: N detections, D channels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ntt.ops.overlaps import overlaps_in_class
from ntt.ops.similarity import cosine_similarity
from ntt.types import FloatArray, IntArray, Overlaps


def soft_penalties(
    rles: Sequence[bytes],
    labels: IntArray,
    features_ND: FloatArray | None,
    *,
    height: int,
    width: int,
    known: Overlaps | None = None,
) -> FloatArray:
    """Compute how much of each mask is already explained by an earlier mask of its class.

    Args:
        rles: N full-size masks, none empty.
        labels: int64 [N].
        features_ND: float32 [N, D], L2-normalised: weigh each overlap with max(0, cosine) of the two features; None
            leaves that factor out.
        height: H, pixels.
        width: W, pixels.
        known: overlaps of these masks, if they have been computed before.

    Returns:
        float32 [N] in [0, 1]: max over earlier masks of |mask & earlier| / |mask| [* cosine]; 0 for the first of a
        class.
    """
    penalties = np.zeros(len(rles), dtype=np.float32)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        overlaps = overlaps_in_class(rles, members, height, width, known)
        if features_ND is not None:
            overlaps *= cosine_similarity(features_ND[members], features_ND[members])
        penalties[members] = overlaps.max(axis=1)
    return penalties


def decay(scores: FloatArray, penalties: FloatArray) -> FloatArray:
    """Return score * sqrt(1 - penalty), float32 [N]."""
    decayed: FloatArray = scores * np.sqrt(np.float32(1.0) - penalties)
    return decayed


def hard_survivors(
    rles: Sequence[bytes],
    labels: IntArray,
    *,
    threshold: float,
    height: int,
    width: int,
    known: Overlaps | None = None,
) -> npt.NDArray[np.bool_]:
    """Drop a mask when an earlier surviving mask of its class covers too much of it.

    Args:
        rles: N full-size masks, none empty.
        labels: int64 [N].
        threshold: drop when |mask & earlier| / |mask| is above, strictly.
        height: H, pixels.
        width: W, pixels.
        known: overlaps of these masks, if they have been computed before.

    Returns:
        bool [N], which masks stay.
    """
    alive = np.ones(len(rles), dtype=np.bool_)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        covered = overlaps_in_class(rles, members, height, width, known) > threshold
        for row in np.flatnonzero(covered.any(axis=1)).tolist():
            alive[members[row]] = not bool((covered[row] & alive[members]).any())
    return alive
