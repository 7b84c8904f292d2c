"""Which part of each mask earlier masks cover: computed for some masks, or looked up where it is known for all.

Earlier means better ranked: of higher predicted IoU, of equals the one that stands first, which is the order of
non-maximum suppression. Suffixes: N masks, n masks of a selection, P pairs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ntt.ops.masks import overlap_fractions
from ntt.types import Candidates, IntArray, Overlaps

# Rows of the table computed at once: it is needed below its diagonal only.
BLOCK_ROWS = 32


def overlaps_with_earlier(
    rles: Sequence[bytes], height: int, width: int, known: Overlaps | None = None
) -> npt.NDArray[np.float64]:
    """Return float64 [n, n], the part of mask i that mask j < i covers; 0 on and above the diagonal.

    Args:
        rles: n full-size masks, best ranked first.
        height: H, pixels.
        width: W, pixels.
        known: their overlaps, if they have been computed before; the numbers are the same.
    """
    count = len(rles)
    overlaps = np.zeros((count, count), dtype=np.float64)
    if known is not None:
        overlaps[known.later_P, known.earlier_P] = known.fractions_P
        return overlaps
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        overlaps[start:stop, :stop] = overlap_fractions(rles[start:stop], rles[:stop], height, width)
    return np.tril(overlaps, k=-1)


def all_overlaps(candidates: Candidates) -> Overlaps:
    """Compute the overlaps of all pairs of an image's candidates.

    It takes about ten times as long as computing those that one run needs, and serves every later run.
    """
    order = np.argsort(-candidates.predicted_iou, kind="stable").astype(np.int32)
    ranked = [candidates.rles[index] for index in order.tolist()]
    fractions = overlaps_with_earlier(ranked, candidates.height, candidates.width)
    rows, columns = np.nonzero(fractions)
    return Overlaps(
        count=len(order), later_P=order[rows], earlier_P=order[columns], fractions_P=fractions[rows, columns]
    )


def overlaps_in_class(
    rles: Sequence[bytes], members: IntArray, height: int, width: int, known: Overlaps | None = None
) -> npt.NDArray[np.float64]:
    """Return the overlaps of one class's masks with earlier ones of the class; see `overlaps_with_earlier`.

    Args:
        rles: N full-size masks, best ranked first.
        members: int64 [n], the masks of the class.
        height: H, pixels.
        width: W, pixels.
        known: overlaps of all N masks, if they have been computed before.
    """
    chosen = [rles[index] for index in members.tolist()]
    return overlaps_with_earlier(chosen, height, width, None if known is None else overlaps_of(known, members))


def overlaps_of(known: Overlaps, members: IntArray) -> Overlaps:
    """Return the overlaps of some of the masks; in the result a mask is named by its place in `members`.

    Args:
        known: overlaps of N masks.
        members: int64 [n], which masks, best ranked first.
    """
    places_N = np.full(known.count, -1, dtype=np.int32)
    places_N[members] = np.arange(len(members), dtype=np.int32)
    later_P, earlier_P = places_N[known.later_P], places_N[known.earlier_P]
    chosen = np.flatnonzero((later_P >= 0) & (earlier_P >= 0))
    assert (later_P[chosen] > earlier_P[chosen]).all(), "members must be in order of predicted IoU"
    return Overlaps(
        count=len(members),
        later_P=later_P[chosen],
        earlier_P=earlier_P[chosen],
        fractions_P=known.fractions_P[chosen],
    )
