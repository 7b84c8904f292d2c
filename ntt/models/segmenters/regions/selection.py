"""Selection of the regions to propose: no near-duplicates, and a share for every size.

Shape suffixes: L leaves, N nodes, S selected nodes.
"""

import numpy as np
import numpy.typing as npt
import torch

from ntt.models.segmenters.regions.leaves import Array, IntArray

# Upper ends of the size classes (share of the image's area), and each class's part of the budget. Small objects are
# many and resemble texture: without a share of their own, large ones would crowd them out.
SIZE_ENDS: tuple[float, ...] = (0.001, 0.005, 0.02, 1.0)
SIZE_PARTS: tuple[float, ...] = (0.35, 0.30, 0.20, 0.15)
# IoU with a better region of the same size class above which a region is left out.
MAX_IOU: tuple[float, ...] = (0.6, 0.6, 0.7, 0.8)
_POOL_FACTOR = 3


def select(
    members_NL: npt.NDArray[np.bool_],
    area_L: Array,
    score_N: npt.NDArray[np.float32],
    *,
    canvas_px: int,
    max_masks: int,
) -> IntArray:
    """Select at most `max_masks` regions by descending score within each size class: int64 [S], by descending score.

    `members_NL` are the leaves of each region, `area_L` the pixels of each leaf, `canvas_px` those of the image.
    """
    share = members_NL @ area_L / canvas_px
    size_class = np.searchsorted(np.asarray(SIZE_ENDS[:-1]), share, side="left")
    ends = np.round(max_masks * np.cumsum([0.0, *reversed(SIZE_PARTS)])).astype(int)
    selected: list[IntArray] = []
    free = 0
    # Large regions first: what is left of their budget goes to smaller ones.
    for part, index in enumerate(reversed(range(len(SIZE_PARTS)))):
        budget = int(ends[part + 1] - ends[part]) + free
        ranked = np.flatnonzero(size_class == index)
        ranked = ranked[np.argsort(-score_N[ranked], kind="stable")][: _POOL_FACTOR * budget]
        best = ranked[distinct(members_NL[ranked], area_L, max_iou=MAX_IOU[index], limit=budget)]
        free = budget - len(best)
        selected.append(best)
    together = np.concatenate(selected)
    return together[np.argsort(-score_N[together], kind="stable")]


def distinct(members_NL: npt.NDArray[np.bool_], area_L: Array, *, max_iou: float, limit: int) -> IntArray:
    """Select regions in order, skipping those whose IoU with a selected one exceeds `max_iou`."""
    overlap = overlaps(members_NL, area_L)
    alive = np.ones(len(members_NL), dtype=bool)
    indices: list[int] = []
    for index in range(len(members_NL)):
        if len(indices) == limit:
            break
        if alive[index]:
            indices.append(index)
            alive &= overlap[index] <= max_iou
    return np.asarray(indices, dtype=np.int64)


def overlaps(members_NL: npt.NDArray[np.bool_], area_L: Array) -> npt.NDArray[np.float32]:
    """Return the IoU of all pairs of regions.

    The products are sums of whole numbers below 2**24, exact in float32 in any order of summation.
    """
    members = torch.from_numpy(members_NL.astype(np.float32))
    weighted = members * torch.from_numpy(area_L.astype(np.float32))
    area = weighted.sum(dim=1)
    shared = weighted @ members.T
    iou: npt.NDArray[np.float32] = (shared / (area[:, None] + area[None, :] - shared)).numpy()
    return iou
