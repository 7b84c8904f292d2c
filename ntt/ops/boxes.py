"""Boxes of masks and class-wise non-maximum suppression. Suffixes: N masks, h and w rows and columns of the grid."""

from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ntt.ops.compiled import compiled
from ntt.types import BoolArray, DoubleArray, FloatArray, IntArray

Floats = TypeVar("Floats", bound=np.number[Any])


def with_corners(boxes_xywh: npt.NDArray[Floats]) -> npt.NDArray[Floats]:
    """Turn boxes (left, top, width, height) into (left, top, right, bottom): [N, 4]."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def with_sizes(boxes_xyxy: npt.NDArray[Floats]) -> npt.NDArray[Floats]:
    """Turn boxes (left, top, right, bottom) into (left, top, width, height): [N, 4]."""
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def boxes_from_masks(foreground_Nhw: torch.Tensor) -> FloatArray:
    """Find masks' tight boxes: float32 [N, 4], left, top, right, bottom, inclusive indices; (0, 0, -1, -1) if empty."""
    rows_Nh, columns_Nw = _occupied(foreground_Nhw)
    top_N, bottom_N = _first_and_last(rows_Nh)
    left_N, right_N = _first_and_last(columns_Nw)
    return np.stack([left_N, top_N, right_N, bottom_N], axis=1).astype(np.float32)


def _occupied(foreground_Nhw: torch.Tensor) -> tuple[BoolArray, BoolArray]:
    """Return which rows and which columns of each mask have foreground, bool [N, h] and [N, w]."""
    if foreground_Nhw.device.type != "cpu" or foreground_Nhw.shape[2] % 8:
        return foreground_Nhw.any(dim=2).cpu().numpy(), foreground_Nhw.any(dim=1).cpu().numpy()
    # Eight bools read as one integer: an order of magnitude faster than `any` on the CPU.
    words = np.ascontiguousarray(foreground_Nhw.numpy()).view(np.uint64)
    rows_Nh = np.bitwise_or.reduce(words, axis=2) != 0
    columns = np.ascontiguousarray(np.bitwise_or.reduce(words, axis=1))
    return rows_Nh, columns.view(np.bool_)


def _first_and_last(occupied_Nk: BoolArray) -> tuple[IntArray, IntArray]:
    """Return the first and the last true index of each row; 0 and -1 for a row without any."""
    length = occupied_Nk.shape[1]
    first_N = occupied_Nk.argmax(axis=1)
    last_N = length - 1 - occupied_Nk[:, ::-1].argmax(axis=1)
    return first_N, np.where(occupied_Nk.any(axis=1), last_N, -1)


def pair_iou(first_xyxy: npt.NDArray[Floats], second_xyxy: npt.NDArray[Floats]) -> DoubleArray:
    """Compute the IoU of boxes at the same index: float64 [P]; coordinates are continuous, (3, 3, 3, 3) has area 0."""
    first, second = (np.ascontiguousarray(boxes.T, dtype=np.float64) for boxes in (first_xyxy, second_xyxy))
    width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union: DoubleArray = areas[0] + areas[1] - intersection
    iou: DoubleArray = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def overlapping_pairs(
    boxes_xyxy: FloatArray, groups_N: IntArray | None = None, *, iou_threshold: float
) -> npt.NDArray[np.int32]:
    """Find the pairs of boxes, float32 [N, 4], best first, with which `unsuppressed` decides which are left.

    As in the reference, inclusive corners are taken for continuous coordinates, so a box one pixel wide has no area and
    overlaps nothing. IoU is computed in float64, so that rounding does not lift an IoU of exactly the threshold above.

    Returns int32 [P, 2], the earlier and the later box, whose IoU exceeds the threshold; with `groups_N`, int64, only
    those in which a box that is left suppresses one of its group.
    """
    is_final = groups_N is not None
    groups = np.zeros(len(boxes_xyxy), dtype=np.int64) if groups_N is None else groups_N
    order = np.argsort(groups, kind="stable")
    pairs_P2 = _overlapping_pairs(boxes_xyxy[order].astype(np.float64), groups[order], iou_threshold, is_final)
    return order[pairs_P2].astype(np.int32)


@compiled
def _overlapping_pairs(
    boxes_N4: DoubleArray, groups_N: IntArray, threshold: float, is_final: bool
) -> npt.NDArray[np.int32]:
    """Return the same for boxes that are sorted by their groups."""
    left_N, top_N, right_N, bottom_N = boxes_N4.T.copy()
    areas_N, ious_N = (right_N - left_N) * (bottom_N - top_N), np.empty(len(boxes_N4))
    is_left = np.ones(len(boxes_N4), np.bool_)
    pairs, count, end = np.empty((len(boxes_N4), 2), np.int32), 0, 0
    for index in range(len(boxes_N4)):
        while end < len(boxes_N4) and groups_N[end] == groups_N[index]:
            end += 1
        if not is_left[index]:
            continue
        left, top, right, bottom, area = left_N[index], top_N[index], right_N[index], bottom_N[index], areas_N[index]
        # Unsigned, without branches and writing apart from the search, so that several boxes are compared at a time.
        for later in range(np.uint64(index + 1), np.uint64(end)):
            width = min(right, right_N[later]) - max(left, left_N[later])
            height = min(bottom, bottom_N[later]) - max(top, top_N[later])
            shared = max(width, 0.0) * max(height, 0.0)
            ious_N[later] = shared / (area + areas_N[later] - shared)
        for later in range(index + 1, end):
            if ious_N[later] > threshold:
                if count == len(pairs):
                    pairs = np.concatenate((pairs, np.empty_like(pairs)))
                pairs[count, 0], pairs[count, 1] = index, later
                count += 1
                is_left[later] = not is_final
    return pairs[:count]


@compiled
def unsuppressed(pairs_P2: npt.NDArray[np.int32], groups_N: IntArray) -> BoolArray:
    """Return which boxes are left if, from the first on, each that is left suppresses later ones of its group.

    `pairs_P2` are those of `overlapping_pairs`; `groups_N`, int64, are those of the boxes.
    """
    is_left = np.ones(len(groups_N), np.bool_)
    for pair in range(len(pairs_P2)):
        first, later = pairs_P2[pair, 0], pairs_P2[pair, 1]
        if is_left[first] and groups_N[first] == groups_N[later]:
            is_left[later] = False
    return is_left


def best_first(ranking: FloatArray) -> IntArray:
    """Return the order of descending rank, int64 [N]; among equals the lower index comes first."""
    return np.argsort(-ranking, kind="stable")


def members_of_classes(labels: IntArray) -> list[IntArray]:
    """Return the indices of the members of each class that occurs, in ascending order."""
    order = np.argsort(labels, kind="stable")
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    return [order[start:end] for start, end in pairwise([0, *edges.tolist(), len(labels)]) if end]
