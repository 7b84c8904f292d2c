"""From unions of leaves to masks with even outlines.

Shape suffixes: L leaves, S regions, h and w rows and columns of the mask grid.
"""

import numpy as np
import numpy.typing as npt
import torch

from ntt.segmenters.regions.leaves import IntArray

# Watershed borders wander by a few pixels and grow thin arms, which spoil boxes. A pixel belongs to a mask where most
# of the 5 x 5 pixels around it do.
_WINDOW_PX = 5
_CHUNK = 32


def paint(labels_hw: IntArray, members_SL: npt.NDArray[np.bool_]) -> torch.Tensor:
    """Paint unions of leaves, then let each pixel go with the majority of its neighbourhood.

    Beyond the image's border its outermost pixels are repeated. A region that would vanish keeps its own pixels.

    Args:
        labels_hw: which leaf each pixel belongs to.
        members_SL: which leaves a region is made of.

    Returns:
        int8 [S, h, w]: votes for minus votes against, odd, so never 0; positive inside.
    """
    height, width = labels_hw.shape
    reach = _WINDOW_PX // 2
    padded_hw = np.pad(labels_hw, reach, mode="edge")
    signs_SL = torch.from_numpy(np.where(members_SL, np.int8(1), np.int8(-1)))
    index = torch.from_numpy(np.ascontiguousarray(padded_hw))
    masks = torch.empty((len(members_SL), height, width), dtype=torch.int8)
    for start in range(0, len(masks), _CHUNK):
        drawn = signs_SL[start : start + _CHUNK][:, index]
        rows = sum((drawn[:, i : i + height] for i in range(1, _WINDOW_PX)), start=drawn[:, :height])
        votes = sum((rows[:, :, i : i + width] for i in range(1, _WINDOW_PX)), start=rows[:, :, :width])
        own = drawn[:, reach : reach + height, reach : reach + width]
        vanished = (votes <= 0).flatten(1).all(dim=1)
        masks[start : start + _CHUNK] = torch.where(vanished[:, None, None], own, votes)
    return masks
