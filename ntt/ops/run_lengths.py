"""Full-size masks as run lengths: the numbers in the store, and COCO's text form.

Suffixes: N masks, R rows of run lengths, F runs of foreground, T changes, V numbers of a text.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt.ops.mask_changes import Changes
from ntt.ops.ragged import ranges
from ntt.types import IntArray, RunLengths

_LONGEST = np.iinfo(np.uint16).max


def to_run_lengths(changes: Changes) -> RunLengths:
    """Measure the runs between changes; a run too long for 16 bits continues in further rows."""
    per_mask_N = changes.per_mask_N
    # A mask ends with a run of foreground, empty if its last pixel is background: one or two more ends.
    missing_N = 2 - per_mask_N % 2
    mask_ends_N = np.arange(1, changes.count + 1) * changes.length
    ends_T = np.insert(changes.flat_T, np.repeat(np.cumsum(per_mask_N), missing_N), np.repeat(mask_ends_N, missing_N))
    runs_R2 = np.diff(ends_T, prepend=0).reshape(-1, 2)
    full_R2 = runs_R2 // _LONGEST
    rest_R2 = runs_R2 - full_R2 * _LONGEST
    before_R, after_R = full_R2.T
    last_R = np.cumsum(before_R + 1 + after_R)
    rows_N = np.diff(last_R[np.cumsum((per_mask_N + missing_N) // 2) - 1], prepend=0)
    if not full_R2.any():
        return RunLengths(rest_R2.astype(np.uint16), rows_N)
    own_R = last_R - after_R - 1
    parts_R2 = np.zeros((int(last_R[-1]), 2), dtype=np.uint16)
    parts_R2[own_R] = rest_R2
    for column, counts_R, first_R in ((0, before_R, own_R - before_R), (1, after_R, own_R + 1)):
        parts_R2[ranges(first_R, counts_R), column] = _LONGEST
    return RunLengths(parts_R2, rows_N)


def to_changes(masks: RunLengths, num_pixels: int) -> Changes:
    """Return where masks of so many pixels change; the inverse of `to_run_lengths`."""
    edges_F2 = foreground_edges(masks)
    is_change_F2 = np.ones(edges_F2.shape, dtype=np.bool_)
    mask_ends_N = np.arange(1, len(masks) + 1) * num_pixels
    last_N = np.searchsorted(edges_F2[:, 1], mask_ends_N, side="right") - 1
    is_change_F2[last_N, 1] = edges_F2[last_N, 1] != mask_ends_N
    # Where a run continues in the next row, nothing changes.
    goes_on = is_change_F2[:-1, 1] & (edges_F2[:-1, 1] == edges_F2[1:, 0])
    is_change_F2[:-1, 1] ^= goes_on
    is_change_F2[1:, 0] ^= goes_on
    return Changes(edges_F2[is_change_F2], len(masks), num_pixels)


def foreground_edges(masks: RunLengths) -> IntArray:
    """Return the first pixel of each run of foreground, and the first after it: int64 [F, 2].

    Pixels are counted down the columns, continuing from mask to mask.
    """
    edges_R2 = np.cumsum(masks.runs_R2.reshape(-1), dtype=np.int64).reshape(-1, 2)
    return edges_R2[edges_R2[:, 0] < edges_R2[:, 1]]


def take(masks: RunLengths, indices: IntArray) -> RunLengths:
    """Return the masks at some indices, in that order."""
    rows_N = masks.rows_N[indices]
    first_N = (np.cumsum(masks.rows_N) - masks.rows_N)[indices]
    # Reading both lengths of a row as one number halves the time.
    rows_R = np.ascontiguousarray(masks.runs_R2).view(np.uint32)[:, 0]
    return RunLengths(rows_R[ranges(first_N, rows_N)].view(np.uint16).reshape(-1, 2), rows_N)


def run_lengths_problem(masks: RunLengths, num_pixels: int) -> str | None:
    """Return why run lengths cannot be those of masks of so many pixels with foreground; None if they can."""
    rows_N, count = masks.rows_N, len(masks.runs_R2)
    if rows_N.min(initial=1) < 1 or rows_N.max(initial=0) > count or rows_N.sum() != count:
        return "its run lengths do not fit its masks"
    if not count:
        return None
    first_N = np.cumsum(rows_N) - rows_N
    if (np.add.reduceat(masks.runs_R2.reshape(-1), 2 * first_N, dtype=np.int64) != num_pixels).any():
        return "its run lengths do not fit its size"
    if not np.maximum.reduceat(masks.runs_R2[:, 1], first_N).all():
        return "a mask has no foreground"
    return None


def to_text(changes: Changes) -> tuple[bytes, ...]:
    """Write each mask as the counts of a COCO compressed RLE, byte for byte as pycocotools does."""
    ends_N = np.cumsum(changes.per_mask_N)
    mask_ends_N = np.arange(1, changes.count + 1) * changes.length
    # Each mask has one more run than changes; the last run ends with the mask.
    runs_V = np.diff(np.insert(changes.flat_T, ends_N, mask_ends_N), prepend=0).astype(np.int32)
    ends_N += np.arange(1, changes.count + 1)
    sizes_N = np.diff(ends_N, prepend=0)
    # From the fourth run of a mask on, the difference to the run two before is written.
    values_V = runs_V.copy()
    values_V[2:] -= runs_V[:-2]
    for offset in range(3):
        index = (ends_N - sizes_N + offset)[sizes_N > offset]
        values_V[index] = runs_V[index]
    text, first_V = _characters(values_V)
    return tuple(text[start:end] for start, end in pairwise([0, *first_V[ends_N].tolist()]))


def _characters(values_V: npt.NDArray[np.int32]) -> tuple[bytes, IntArray]:
    """Write numbers in groups of five bits, lowest first; the sixth bit of a character says whether another follows.

    Returns the text, and where each number begins, int64 [V + 1].
    """
    index: Any = slice(None)
    sizes, groups = np.zeros(len(values_V), dtype=np.int64), []
    while True:
        low, rest = values_V & 31, values_V >> 5
        # The fifth bit of the last group is the sign: a number ends where the rest consists of copies of it.
        goes_on = rest != -(low >> 4)
        groups.append((index, (low + 48 + (goes_on << 5)).astype(np.uint8)))
        sizes[index] += 1
        following = np.flatnonzero(goes_on)
        if not len(following):
            break
        index, values_V = following if len(groups) == 1 else index[following], rest[following]
    first_V = np.concatenate([[0], np.cumsum(sizes)])
    text = np.empty(first_V[-1], dtype=np.uint8)
    for number, (index, characters) in enumerate(groups):
        text[first_V[:-1][index] + number] = characters
    return text.tobytes(), first_V
