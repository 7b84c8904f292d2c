"""Full-size masks as run lengths: the numbers in the store, and COCO's text form.

Suffixes: N masks, R rows of run lengths, F runs of foreground, V runs or the numbers written for them,
L characters.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt.ops.mask_changes import Changes
from ntt.ops.ragged import chunks, ranges
from ntt.types import IntArray, RunLengths

_LONGEST = np.iinfo(np.uint16).max
_CHANGES = 1 << 20


def to_run_lengths(changes: Changes) -> RunLengths:
    """Measure the runs between changes; a run too long for 16 bits continues in further rows."""
    per_mask_N = changes.per_mask_N
    first_N = np.concatenate([[0], np.cumsum(per_mask_N)])
    borders_N = np.arange(changes.count + 1) * changes.length
    # Several masks at a time: those of noise have so many changes that all at once would take gigabytes.
    parts = [
        _measure(
            changes.flat_T[first_N[part.start] : first_N[part.stop]],
            per_mask_N[part],
            borders_N[part.start : part.stop + 1],
        )
        for part in chunks(per_mask_N, _CHANGES)
    ]
    return RunLengths(*map(np.concatenate, zip(*parts, strict=True)))


def _measure(flat_T: IntArray, per_mask_N: IntArray, borders_N: IntArray) -> tuple[npt.NDArray[np.uint16], IntArray]:
    """Measure the runs of N masks between `borders_N`, the N + 1 pixels at which the masks begin and end."""
    # A mask ends with a run of foreground, empty if its last pixel is background: one or two more ends.
    missing_N = 2 - per_mask_N % 2
    ends_T = np.insert(flat_T, np.repeat(np.cumsum(per_mask_N), missing_N), np.repeat(borders_N[1:], missing_N))
    runs_R2 = np.diff(ends_T, prepend=borders_N[0]).reshape(-1, 2)
    full_R2 = runs_R2 // _LONGEST
    rest_R2 = runs_R2 - full_R2 * _LONGEST
    before_R, after_R = full_R2.T
    last_R = np.cumsum(before_R + 1 + after_R)
    rows_N = np.diff(last_R[np.cumsum((per_mask_N + missing_N) // 2) - 1], prepend=0)
    if not full_R2.any():
        return rest_R2.astype(np.uint16), rows_N
    own_R = last_R - after_R - 1
    parts_R2 = np.zeros((int(last_R[-1]), 2), dtype=np.uint16)
    parts_R2[own_R] = rest_R2
    for column, counts_R, first_R in ((0, before_R, own_R - before_R), (1, after_R, own_R + 1)):
        parts_R2[ranges(first_R, counts_R), column] = _LONGEST
    return parts_R2, rows_N


def foreground_edges(masks: RunLengths) -> IntArray:
    """Return the first pixel of each run of foreground, and the first after it: int64 [F, 2].

    Pixels are counted down the columns, continuing from mask to mask.
    """
    edges_R2 = np.cumsum(masks.runs_R2.reshape(-1), dtype=np.int64).reshape(-1, 2)
    return edges_R2.take(np.flatnonzero(masks.runs_R2[:, 1]), axis=0)


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


def to_text(masks: RunLengths) -> tuple[bytes, ...]:
    """Write each mask as the counts of a COCO compressed RLE, byte for byte as pycocotools does."""
    runs_V, ends_N = _whole_runs(masks)
    sizes_N = np.diff(ends_N, prepend=0)
    # From the fourth run of a mask on, the difference to the run two before is written.
    values_V = runs_V.copy()
    values_V[2:] -= runs_V[:-2]
    for offset in range(3):
        index = (ends_N - sizes_N + offset)[sizes_N > offset]
        values_V[index] = runs_V[index]
    characters_VL = _characters(values_V)
    text, ends = characters_VL.tobytes(), (ends_N * characters_VL.shape[1]).tolist()
    return tuple(text[start:end].translate(None, b"\0") for start, end in pairwise([0, *ends]))


def _whole_runs(masks: RunLengths) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Return the runs of all masks, background and foreground in turn, and where those of each mask end.

    The first run of a mask is background, of no length where its first pixel is foreground; all others have a length.
    """
    ends_N = 2 * np.cumsum(masks.rows_N)
    has_length = masks.runs_R2.reshape(-1) > 0
    has_length[ends_N - 2 * masks.rows_N] = True
    index = np.flatnonzero(has_length)
    # A run ends where one of the other kind follows, or another mask; else it goes on in the next row.
    is_end = np.ones(len(index), dtype=np.bool_)
    is_end[:-1] = (index[:-1] ^ index[1:]) & 1
    is_end[index.searchsorted(ends_N) - 1] = True
    index = index[is_end]
    pixels = np.cumsum(masks.runs_R2, dtype=np.int64)[index]
    return np.diff(pixels, prepend=0).astype(np.int32), index.searchsorted(ends_N)


def _characters(values_V: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """Write numbers in groups of five bits, lowest first; the sixth bit of a character means that another follows.

    Returns the characters of each number, uint8 [V, 4 or 8], 0 after the last.
    """
    has_long = np.abs(values_V).max(initial=0) >= 1 << 19
    characters_VL = np.zeros((len(values_V), 8 if has_long else 4), dtype=np.uint8)
    index: Any = slice(None)
    for number, column_V in enumerate(characters_VL.T):
        low_V, rest_V = values_V & 31, values_V >> 5
        # The fifth bit of the last group is the sign: where the rest is nothing but copies of it, the number ends.
        goes_on_V = rest_V != -(low_V >> 4)
        column_V[index] = low_V.astype(np.uint8) + 48 + (goes_on_V.view(np.uint8) << 5)
        following = np.flatnonzero(goes_on_V)
        index, values_V = following if number == 0 else index[following], rest_V[following]
    return characters_VL
