"""Full-size masks as run lengths: the numbers in the store, and COCO's text form. Suffixes: N masks, R rows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ntt.ops.compiled import compiled
from ntt.ops.mask_changes import Changes
from ntt.types import ByteArray, IntArray, RunLengths

_LONGEST = np.iinfo(np.uint16).max
_READ_AT_ONCE = 4096
"""Masks read from their text at once, to bound the memory."""


def to_run_lengths(changes: Changes) -> RunLengths:
    """Measure the runs between changes; a run too long for 16 bits continues in further rows."""
    return RunLengths(*_measure(changes.flat_T, changes.per_mask_N, changes.length))


@compiled
def _measure(
    flat_T: npt.NDArray[np.int32] | IntArray, per_mask_N: IntArray, length: int
) -> tuple[npt.NDArray[np.uint16], IntArray]:
    """Return the fields of `RunLengths`."""
    runs = np.zeros((len(flat_T) // 2 + len(per_mask_N) * (length // _LONGEST + 2), 2), np.uint16)
    rows_N = np.zeros(len(per_mask_N), np.int64)
    row = index = 0
    for mask in range(len(per_mask_N)):
        first_row, start, kind = row, mask * length, 0
        for number in range(per_mask_N[mask] + 1):
            end = flat_T[index + number] if number < per_mask_N[mask] else (mask + 1) * length
            num_full, rest = (end - start) // _LONGEST, (end - start) % _LONGEST
            # Background comes before the rest, foreground after it.
            if kind == 1:
                runs[row, 1] = rest
                row += 1
            for _ in range(num_full):
                runs[row, kind] = _LONGEST
                row += 1
            if kind == 0:
                runs[row, 0] = rest
            start, kind = end, 1 - kind
        # A mask ends with a run of foreground, empty if its last pixel is background.
        row += kind
        index += per_mask_N[mask]
        rows_N[mask] = row - first_row
    return runs[:row], rows_N


def take(masks: RunLengths, indices: IntArray) -> RunLengths:
    """Return the masks at some indices, in that order."""
    return RunLengths(*_take(masks.runs_R2, masks.rows_N, indices))


@compiled
def _take(
    runs_R2: npt.NDArray[np.uint16], rows_N: IntArray, indices: IntArray
) -> tuple[npt.NDArray[np.uint16], IntArray]:
    """Return the fields of `RunLengths`."""
    first_N, rows = np.cumsum(rows_N) - rows_N, rows_N[indices]
    runs, end = np.empty((rows.sum(), 2), np.uint16), 0
    for number, index in enumerate(indices):
        start, end = end, end + rows[number]
        runs[start:end] = runs_R2[first_N[index] : first_N[index] + rows[number]]
    return runs, rows


def run_lengths_problem(masks: RunLengths, num_pixels: int) -> str | None:
    """Return why run lengths cannot be those of masks of so many pixels with foreground; None if they can."""
    rows_N, count = masks.rows_N, len(masks.runs_R2)
    if rows_N.min(initial=1) < 1 or rows_N.max(initial=0) > count or rows_N.sum() != count:
        return "its run lengths do not fit its masks"
    fit, have_foreground = _totals_fit(masks.runs_R2, rows_N, num_pixels)
    if not fit:
        return "its run lengths do not fit its size"
    return None if have_foreground else "a mask has no foreground"


@compiled
def _totals_fit(runs_R2: npt.NDArray[np.uint16], rows_N: IntArray, num_pixels: int) -> tuple[bool, bool]:
    """Return whether every mask has so many pixels, and whether every mask has foreground."""
    fit = have_foreground = True
    row = 0
    for rows in rows_N:
        background, foreground = np.int64(0), np.int64(0)
        for index in range(row, row + rows):
            background += runs_R2[index, 0]
            foreground += runs_R2[index, 1]
        row += rows
        fit &= background + foreground == num_pixels
        have_foreground &= foreground > 0
    return fit, have_foreground


def to_text(masks: RunLengths) -> tuple[bytes, ...]:
    """Write each mask as the counts of a COCO compressed RLE, byte for byte as pycocotools does."""
    characters, ends_N = _text(masks.runs_R2.reshape(-1), masks.rows_N)
    text = characters.tobytes()
    return tuple(text[start:end] for start, end in pairwise([0, *ends_N.tolist()]))


@compiled
def _text(lengths: npt.NDArray[np.uint16], rows_N: IntArray) -> tuple[ByteArray, IntArray]:
    """Return the characters of all masks, uint8, and where those of each end."""
    characters, ends = np.empty(7 * len(lengths), np.uint8), np.empty(len(rows_N), np.int64)
    size = index = 0
    for mask in range(len(rows_N)):
        end = index + 2 * rows_N[mask]
        number = before = last = 0
        while index < end:
            # A run goes on until one of the other kind has a length.
            run = np.int64(lengths[index])
            index += 1
            while index < end and ((index & 1) == (number & 1) or lengths[index] == 0):
                run += lengths[index]
                index += 1
            # From the fourth run on, the difference to the run two before is written.
            rest = run - before if number > 2 else run
            number, before, last = number + 1, last, run
            # Groups of five bits, lowest first; the fifth bit of the last one is the sign. The sixth bit of a character
            # means that another follows.
            goes_on = True
            while goes_on:
                low, rest = rest & 31, rest >> 5
                goes_on = rest != -(low >> 4)
                characters[size] = 48 + low + 32 * goes_on
                size += 1
        ends[mask] = size
    return characters[:size], ends


def rle_areas(rles: Sequence[bytes]) -> IntArray:
    """Count the foreground pixels of masks of any sizes: int64 [N]."""
    parts = [
        _areas(*_lengths(*_joined(rles[start : start + _READ_AT_ONCE]))) for start in range(0, len(rles), _READ_AT_ONCE)
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def rle_intersections(
    rles: Sequence[bytes], others: Sequence[bytes], masks_P: IntArray, others_P: IntArray
) -> IntArray:
    """Count the pixels that the masks of each pair, given by their indices, have in common: int64 [P]."""
    return _intersections(*_lengths(*_joined(rles)), *_lengths(*_joined(others)), masks_P, others_P)


def _joined(rles: Sequence[bytes]) -> tuple[ByteArray, IntArray]:
    """Return the characters of all masks and the bounds of each, int64 [N + 1]."""
    bounds = np.cumsum([0, *map(len, rles)], dtype=np.int64)
    return np.frombuffer(b"".join(rles), dtype=np.uint8), bounds


@compiled
def _lengths(characters: ByteArray, bounds: IntArray) -> tuple[npt.NDArray[np.uint32], IntArray]:
    """Read the text of masks: the lengths of runs of all, from background on, and the bounds of each mask's."""
    lengths, length_bounds = np.empty(len(characters), np.uint32), np.zeros_like(bounds)
    size = index = 0
    for mask in range(1, len(bounds)):
        while index < bounds[mask]:
            length, shift, goes_on = np.int64(0), np.int64(0), True
            while goes_on and index < bounds[mask]:
                digit = np.int64(characters[index]) - 48
                length |= (digit & 31) << shift
                shift += 5
                goes_on = (digit & 32) != 0
                if not goes_on and digit & 16:
                    length |= np.int64(-1) << shift
                index += 1
            if size - length_bounds[mask - 1] > 2:
                length += lengths[size - 2]
            lengths[size] = length
            size += 1
        length_bounds[mask] = size
    return lengths[:size], length_bounds


@compiled
def _areas(lengths: npt.NDArray[np.uint32], bounds: IntArray) -> IntArray:
    """Return what `rle_areas` does."""
    areas_N = np.zeros(len(bounds) - 1, np.int64)
    for mask in range(len(areas_N)):
        for index in range(bounds[mask] + 1, bounds[mask + 1], 2):
            areas_N[mask] += lengths[index]
    return areas_N


@compiled
def _intersections(
    lengths: npt.NDArray[np.uint32],
    bounds: IntArray,
    other_lengths: npt.NDArray[np.uint32],
    other_bounds: IntArray,
    masks_P: IntArray,
    others_P: IntArray,
) -> IntArray:
    """Return what `rle_intersections` does."""
    shared_P = np.zeros(len(masks_P), np.int64)
    for pair in range(len(masks_P)):
        run, last = bounds[masks_P[pair]], bounds[masks_P[pair] + 1] - 1
        other_run, other_last = other_bounds[others_P[pair]], other_bounds[others_P[pair] + 1] - 1
        start = end = other_start = other_end = np.int64(0)
        # The run of foreground that ends first makes way for the next one of its mask.
        while run < last if end <= other_end else other_run < other_last:
            if end <= other_end:
                start = end + lengths[run]
                end = start + lengths[run + 1]
                run += 2
            else:
                other_start = other_end + other_lengths[other_run]
                other_end = other_start + other_lengths[other_run + 1]
                other_run += 2
            shared_P[pair] += max(min(end, other_end) - max(start, other_start), 0)
    return shared_P
