"""Boxes of masks, and the part of a mask that others cover, from run lengths.

Suffixes: N masks, P pairs, S segments (runs of a mask within one column), C columns of all masks, E segments of one
mask of a pair in the columns of the other.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ntt.ops.boxes import with_sizes
from ntt.ops.ragged import chunks, ranges
from ntt.ops.run_lengths import foreground_edges
from ntt.types import FloatArray, IntArray, RunLengths

# Segments of pairs compared at a time: as many as fit into the cache.
_SEGMENTS = 1 << 16


@dataclass(frozen=True)
class Segments:
    """N masks of one image, column by column.

    Attributes:
        shape: N and W.
        column_S: int64, ascending: index of the mask times W, plus index of the column.
        top_S, bottom_S: int64, the first row of each segment, and the first row below it.
    """

    shape: tuple[int, int]
    column_S: IntArray
    top_S: IntArray
    bottom_S: IntArray

    @classmethod
    def of(cls, masks: RunLengths, height: int, width: int) -> "Segments":
        """Divide the runs of masks of [height, width] pixels where columns end."""
        start_F, end_F = foreground_edges(masks).T
        first_F = start_F // height
        counts_F = (end_F - 1) // height - first_F + 1
        column_S = ranges(first_F, counts_F)
        base_S = column_S * height
        top_S = np.maximum(np.repeat(start_F, counts_F) - base_S, 0)
        bottom_S = np.minimum(np.repeat(end_F, counts_F) - base_S, height)
        return cls((len(masks), width), column_S, top_S, bottom_S)

    @cached_property
    def first_C(self) -> IntArray:
        """The first segment of each column of each mask, and S at the end: int64 [N * W + 1]."""
        count, width = self.shape
        return np.concatenate([[0], np.cumsum(np.bincount(self.column_S, minlength=count * width))])

    @cached_property
    def boxes_xyxy(self) -> IntArray:
        """The masks' tight boxes: int64 [N, 4], right and bottom exclusive."""
        count, width = self.shape
        first_column_N = np.arange(count) * width
        first_N = self.first_C[first_column_N]
        last_N = self.first_C[first_column_N + width] - 1
        left_N, right_N = self.column_S[first_N] - first_column_N, self.column_S[last_N] - first_column_N + 1
        top_N, bottom_N = np.minimum.reduceat(self.top_S, first_N), np.maximum.reduceat(self.bottom_S, first_N)
        return np.stack([left_N, top_N, right_N, bottom_N], axis=1)

    @property
    def boxes_xywh(self) -> FloatArray:
        """The masks' COCO boxes: float32 [N, 4]."""
        return with_sizes(self.boxes_xyxy).astype(np.float32)

    @property
    def areas_N(self) -> IntArray:
        """Foreground pixels of each mask: int64."""
        first_N = self.first_C[np.arange(self.shape[0]) * self.shape[1]]
        return np.add.reduceat(self.bottom_S - self.top_S, first_N)

    def intersections(self, mask_P: IntArray, other_P: IntArray) -> IntArray:
        """Count the pixels that two masks have in common: int64 [P]."""
        width, boxes = self.shape[1], self.boxes_xyxy
        left_P = np.maximum(boxes[mask_P, 0], boxes[other_P, 0])
        right_P = np.maximum(np.minimum(boxes[mask_P, 2], boxes[other_P, 2]), left_P)
        first_P = self.first_C[mask_P * width + left_P]
        counts_P = self.first_C[mask_P * width + right_P] - first_P
        further_P = (other_P - mask_P) * width
        parts = chunks(counts_P, _SEGMENTS)
        return np.concatenate([self._shared(first_P[part], counts_P[part], further_P[part]) for part in parts])

    def _shared(self, first_P: IntArray, counts_P: IntArray, further_P: IntArray) -> IntArray:
        """Count the pixels that `counts_P` segments from `first_P` on share with columns `further_P` on: int64 [P]."""
        segment_E = ranges(first_P, counts_P)
        column_E = self.column_S[segment_E] + np.repeat(further_P, counts_P)
        other_E = self.first_C[column_E]
        others_E = self.first_C[column_E + 1] - other_E
        # The first segment of the other column, if it has any; then its further segments one after the other.
        shared_E = self._common_rows(segment_E, np.minimum(other_E, len(self.top_S) - 1)) * (others_E > 0)
        number = 1
        while len(index := np.flatnonzero(others_E > number)):
            shared_E[index] += self._common_rows(segment_E[index], other_E[index] + number)
            number += 1
        sums, ends_P = np.cumsum(np.insert(shared_E, 0, 0)), np.cumsum(counts_P)
        shared_P: IntArray = sums[ends_P] - sums[ends_P - counts_P]
        return shared_P

    def _common_rows(self, segment_E: IntArray, other_E: IntArray) -> IntArray:
        rows_E = np.minimum(self.bottom_S[segment_E], self.bottom_S[other_E])
        rows_E -= np.maximum(self.top_S[segment_E], self.top_S[other_E])
        return np.maximum(rows_E, 0, out=rows_E)


def overlaps_with_earlier(segments: Segments, groups_N: IntArray) -> npt.NDArray[np.float64]:
    """Compute the part of each mask that every earlier mask of its group covers.

    Returns:
        float64 [N, N], |mask i & mask j| / |mask i| for j < i, exact up to the division; 0 elsewhere.
    """
    boxes = segments.boxes_xyxy
    overlaps = np.zeros((len(boxes), len(boxes)), dtype=np.float64)
    mask_P, other_P = np.nonzero(np.tril(groups_N[:, None] == groups_N, k=-1))
    meet_P = ((boxes[mask_P, :2] < boxes[other_P, 2:]) & (boxes[other_P, :2] < boxes[mask_P, 2:])).all(axis=1)
    mask_P, other_P = mask_P[meet_P], other_P[meet_P]
    overlaps[mask_P, other_P] = segments.intersections(mask_P, other_P) / segments.areas_N[mask_P]
    return overlaps
