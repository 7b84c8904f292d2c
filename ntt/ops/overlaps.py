"""Boxes of masks, and the part of a mask that others cover, from run lengths.

Suffixes: N masks, C columns of the boxes of all masks, F further segments.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ntt.ops.boxes import with_sizes
from ntt.ops.compiled import compiled
from ntt.types import DoubleArray, FloatArray, IntArray, RunLengths

Int32Array = npt.NDArray[np.int32]


class Segments(NamedTuple):
    """N masks of one image, column by column; a segment is a run of foreground within one column.

    Attributes:
        boxes_xyxy: int64 [N, 4], the masks' tight boxes, right and bottom exclusive.
        areas_N: int64, foreground pixels of each mask.
        first_C_N: int64, the index in C of each mask's leftmost column.
        top_C, bottom_C: int32, the first row of the first segment of each column, and the row below it; 0 if the column
            has none.
        further_F3: int32, columns' further segments, from left to right and down: column, first row, row below.
        first_F_N: int64 [N + 1], the index of each mask's first further segment, and F.
    """

    boxes_xyxy: IntArray
    areas_N: IntArray
    first_C_N: IntArray
    top_C: Int32Array
    bottom_C: Int32Array
    further_F3: Int32Array
    first_F_N: IntArray

    @classmethod
    def of(cls, masks: RunLengths, height: int, width: int) -> "Segments":
        """Divide the runs of masks of [height, width] pixels where columns end."""
        return cls(*_divide(masks.runs_R2, masks.rows_N, height, width))

    @property
    def boxes_xywh(self) -> FloatArray:
        """The masks' COCO boxes: float32 [N, 4]."""
        return with_sizes(self.boxes_xyxy).astype(np.float32)


@compiled
def _divide(runs_R2: npt.NDArray[np.uint16], rows_N: IntArray, height: int, width: int) -> tuple[npt.NDArray[Any], ...]:
    """Return the attributes of `Segments`."""
    count = len(rows_N)
    boxes, areas, first_C = np.zeros((count, 4), np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    top, bottom = np.empty(count * width, np.int32), np.empty(count * width, np.int32)
    further, first_F = np.empty((1024, 3), np.int32), np.zeros(count + 1, np.int64)
    num_columns = num_further = row = 0
    for mask in range(count):
        first_C[mask] = num_columns
        end = column = left = highest = lowest = 0
        for runs in runs_R2[row : row + rows_N[mask]]:
            start = end + np.int64(runs[0])
            end = start + np.int64(runs[1])
            areas[mask] += end - start
            while start < end:
                while start >= (column + 1) * height:
                    column += 1
                above, below = start - column * height, min(end - column * height, height)
                if first_C[mask] == num_columns:
                    left, highest = column, above
                highest, lowest = min(highest, above), max(lowest, below)
                if first_C[mask] + column - left < num_columns:
                    if num_further == len(further):
                        longer = np.empty((2 * num_further, 3), np.int32)
                        longer[:num_further] = further
                        further = longer
                    further[num_further] = column, above, below
                    num_further += 1
                else:
                    while first_C[mask] + column - left > num_columns:
                        top[num_columns] = bottom[num_columns] = 0
                        num_columns += 1
                    top[num_columns], bottom[num_columns] = above, below
                    num_columns += 1
                start = column * height + below
        boxes[mask] = left, highest, left + num_columns - first_C[mask], lowest
        row += rows_N[mask]
        first_F[mask + 1] = num_further
    return boxes, areas, first_C, top[:num_columns], bottom[:num_columns], further[:num_further], first_F


@compiled
def overlaps_with_earlier(segments: Segments, groups_N: IntArray) -> DoubleArray:
    """Compute |mask i & mask j| / |mask i| for j < i of one group, exact up to the division, else 0: float64 [N, N]."""

    def common(above: int, below: int, other_above: int, other_below: int) -> int:
        return max(min(below, other_below) - max(above, other_above), 0)

    boxes, first_C, top, bottom = segments.boxes_xyxy, segments.first_C_N, segments.top_C, segments.bottom_C
    further, first_F = segments.further_F3, segments.first_F_N
    overlaps = np.zeros((len(groups_N), len(groups_N)), np.float64)
    for mask in range(len(groups_N)):
        for other in range(mask):
            left, right = max(boxes[mask, 0], boxes[other, 0]), min(boxes[mask, 2], boxes[other, 2])
            highest, lowest = max(boxes[mask, 1], boxes[other, 1]), min(boxes[mask, 3], boxes[other, 3])
            if groups_N[mask] != groups_N[other] or left >= right or highest >= lowest:
                continue
            start, other_start = first_C[mask] + left - boxes[mask, 0], first_C[other] + left - boxes[other, 0]
            tops, bottoms = top[start : start + right - left], bottom[start : start + right - left]
            other_tops = top[other_start : other_start + right - left]
            other_bottoms = bottom[other_start : other_start + right - left]
            shared = 0
            for index in range(right - left):
                shared += common(tops[index], bottoms[index], other_tops[index], other_bottoms[index])
            # Further segments of one mask, and the first segment of the other in the same column.
            for index in range(first_F[mask], first_F[mask + 1]):
                column, above, below = further[index]
                if left <= column < right:
                    shared += common(above, below, other_tops[column - left], other_bottoms[column - left])
            for index in range(first_F[other], first_F[other + 1]):
                column, above, below = further[index]
                if left <= column < right:
                    shared += common(above, below, tops[column - left], bottoms[column - left])
            # Further segments of both.
            index, other_index = first_F[mask], first_F[other]
            while index < first_F[mask + 1] and other_index < first_F[other + 1]:
                column, above, below = further[index]
                other_column, other_above, other_below = further[other_index]
                if column == other_column:
                    shared += common(above, below, other_above, other_below)
                if column < other_column or (column == other_column and below <= other_below):
                    index += 1
                else:
                    other_index += 1
            overlaps[mask, other] = shared / segments.areas_N[mask]
    return overlaps
