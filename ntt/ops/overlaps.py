"""Which part of each mask better ranked masks cover."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ntt.ops.masks import overlap_fractions

# Rows of the table computed at once: it is needed below its diagonal only.
BLOCK_ROWS = 32


def overlaps_with_earlier(rles: Sequence[bytes], height: int, width: int) -> npt.NDArray[np.float64]:
    """Return float64 [N, N], the part of mask i that mask j < i covers; 0 on and above the diagonal.

    Args:
        rles: N full-size masks, best ranked first.
        height: H, pixels.
        width: W, pixels.
    """
    count = len(rles)
    overlaps = np.zeros((count, count), dtype=np.float64)
    for start in range(0, count, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, count)
        overlaps[start:stop, :stop] = overlap_fractions(rles[start:stop], rles[:stop], height, width)
    return np.tril(overlaps, k=-1)
