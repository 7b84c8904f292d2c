"""Boxes of masks, and the part of a mask that others cover, from run lengths.

Suffixes: N masks, P pairs, S segments (runs of a mask within one column), C columns of all masks, E segments of one
mask of a pair in the columns of the other.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ntt.ops.boxes import overlapping_pairs, with_sizes
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
        rows_S2: int32 [S, 2], the first row below each segment, and minus its first row: what two segments have in
            common is the minimum of both.
    """

    shape: tuple[int, int]
    column_S: IntArray
    rows_S2: npt.NDArray[np.int32]

    @classmethod
    def of(cls, masks: RunLengths, height: int, width: int) -> "Segments":
        """Divide the runs of masks of [height, width] pixels where columns end."""
        start_F, end_F = foreground_edges(masks).T
        first_F = start_F // height
        counts_F = (end_F - 1) // height - first_F + 1
        column_S = ranges(first_F, counts_F)
        base_S = column_S * height
        rows_S2 = np.empty((len(column_S), 2), dtype=np.int32)
        rows_S2[:, 0] = np.minimum(np.repeat(end_F, counts_F) - base_S, height)
        rows_S2[:, 1] = np.minimum(base_S - np.repeat(start_F, counts_F), 0)
        return cls((len(masks), width), column_S, rows_S2)

    @cached_property
    def first_N(self) -> IntArray:
        """The first segment of each mask, and S at the end: int64 [N + 1]."""
        count, width = self.shape
        return np.searchsorted(self.column_S, np.arange(count + 1) * width)

    @cached_property
    def boxes_xyxy(self) -> IntArray:
        """The masks' tight boxes: int64 [N, 4], right and bottom exclusive."""
        count, width = self.shape
        first_N, end_N = self.first_N[:-1], self.first_N[1:]
        left_N = self.column_S[first_N] - np.arange(count) * width
        right_N = self.column_S[end_N - 1] - np.arange(count) * width + 1
        bottom_N, minus_top_N = np.maximum.reduceat(self.rows_S2, first_N).T
        return np.stack([left_N, -minus_top_N, right_N, bottom_N], axis=1)

    @property
    def boxes_xywh(self) -> FloatArray:
        """The masks' COCO boxes: float32 [N, 4]."""
        return with_sizes(self.boxes_xyxy).astype(np.float32)

    @property
    def areas_N(self) -> IntArray:
        """Foreground pixels of each mask: int64."""
        return np.add.reduceat(_lengths(self.rows_S2), self.first_N[:-1], dtype=np.int64)

    def intersections(self, mask_P: IntArray, other_P: IntArray) -> IntArray:
        """Count the pixels that two masks have in common: int64 [P]."""
        columns, boxes = _Columns.of(self), self.boxes_xyxy
        left_P = np.maximum(boxes[mask_P, 0], boxes[other_P, 0])
        right_P = np.maximum(np.minimum(boxes[mask_P, 2], boxes[other_P, 2]), left_P)
        start_P = columns.start_N[mask_P]
        first_P = columns.first_C[start_P + left_P]
        counts_P = columns.first_C[start_P + right_P] - first_P
        further_P = columns.start_N[other_P] - start_P
        parts = chunks(counts_P, _SEGMENTS)
        return np.concatenate([columns.shared(first_P[part], counts_P[part], further_P[part]) for part in parts])


@dataclass(frozen=True)
class _Columns:
    """The segments of masks by the columns of their boxes: C columns of all masks, one mask after the other.

    Attributes:
        start_N: int64, what is added to the index of a column of a mask.
        column_S: int64 [S], the column of each segment.
        rows_S2: of the segments.
        first_C: int64 [C + 1], the first segment of each column, and S at the end.
        top_rows_C2: int32 [C, 2], rows of the first segment of each column; none where there is no segment.
        has_gaps: whether a column has several segments.
    """

    start_N: IntArray
    column_S: IntArray
    rows_S2: npt.NDArray[np.int32]
    first_C: IntArray
    top_rows_C2: npt.NDArray[np.int32]
    has_gaps: bool

    @classmethod
    def of(cls, segments: Segments) -> "_Columns":
        count, width = segments.shape
        left_N, _, right_N, _ = segments.boxes_xyxy.T
        ends_N = np.cumsum(right_N - left_N)
        start_N = ends_N - right_N
        per_mask_N = np.diff(segments.first_N)
        column_S = segments.column_S + np.repeat(start_N - np.arange(count) * width, per_mask_N)
        per_column_C = np.bincount(column_S, minlength=ends_N.max(initial=0))
        first_C = np.zeros(len(per_column_C) + 1, dtype=np.int64)
        np.cumsum(per_column_C, out=first_C[1:])
        top_rows_C2 = segments.rows_S2.take(first_C[:-1], axis=0, mode="clip") * (per_column_C > 0)[:, None]
        has_gaps = bool(per_column_C.max(initial=0) > 1)
        return cls(start_N, column_S, segments.rows_S2, first_C, top_rows_C2, has_gaps)

    def shared(self, first_P: IntArray, counts_P: IntArray, further_P: IntArray) -> IntArray:
        """Count what `counts_P` segments from `first_P` on share with those `further_P` columns on: int64 [P]."""
        segment_E = ranges(first_P, counts_P)
        column_E = self.column_S.take(segment_E) + np.repeat(further_P, counts_P)
        rows_E2 = self.rows_S2.take(segment_E, axis=0)
        shared_E = _common_rows(rows_E2, self.top_rows_C2.take(column_E, axis=0))
        if self.has_gaps:
            first_E = self.first_C.take(column_E)
            others_E = self.first_C.take(column_E + 1) - first_E
            index, number = np.flatnonzero(others_E > 1), 1
            while len(index):
                others_E2 = self.rows_S2.take(first_E[index] + number, axis=0)
                shared_E[index] += _common_rows(rows_E2.take(index, axis=0), others_E2)
                number += 1
                index = index[others_E[index] > number]
        sums = np.zeros(len(shared_E) + 1, dtype=np.int64)
        np.cumsum(shared_E, out=sums[1:])
        ends_P = np.cumsum(counts_P)
        shared_P: IntArray = sums[ends_P] - sums[ends_P - counts_P]
        return shared_P


def _lengths(rows_S2: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return rows_S2[:, 0] + rows_S2[:, 1]


def _common_rows(rows_E2: npt.NDArray[np.int32], others_E2: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    lengths_E = _lengths(np.minimum(rows_E2, others_E2))
    return np.maximum(lengths_E, 0, out=lengths_E)


def overlaps_with_earlier(segments: Segments, groups_N: IntArray) -> npt.NDArray[np.float64]:
    """Compute the part of each mask that every earlier mask of its group covers.

    Returns:
        float64 [N, N], |mask i & mask j| / |mask i| for j < i, exact up to the division; 0 elsewhere.
    """
    boxes = segments.boxes_xyxy
    overlaps = np.zeros((len(boxes), len(boxes)), dtype=np.float64)
    other_P, mask_P = overlapping_pairs(boxes.astype(np.float32), groups_N, iou_threshold=0.0)
    overlaps[mask_P, other_P] = segments.intersections(mask_P, other_P) / segments.areas_N[mask_P]
    return overlaps
