"""Boxes of masks and class-wise non-maximum suppression. Suffixes: N masks, h and w rows and columns of the grid."""

from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ntt.ops.ragged import chunks, ranges
from ntt.types import FloatArray, IntArray

Floats = TypeVar("Floats", bound=np.number[Any])

# Pairs of boxes compared at a time: as many as fit into the cache.
_PAIRS = 1 << 14
_MARGIN = 1e-3


def with_corners(boxes_xywh: npt.NDArray[Floats]) -> npt.NDArray[Floats]:
    """Turn boxes (left, top, width, height) into (left, top, right, bottom): [N, 4]."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def with_sizes(boxes_xyxy: npt.NDArray[Floats]) -> npt.NDArray[Floats]:
    """Turn boxes (left, top, right, bottom) into (left, top, width, height): [N, 4]."""
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def boxes_from_masks(foreground_Nhw: torch.Tensor) -> FloatArray:
    """Find the tight box of each mask.

    Args:
        foreground_Nhw: bool [N, h, w].

    Returns:
        float32 [N, 4]: (left, top, right, bottom), inclusive pixel indices. An empty mask gives (0, 0, -1, -1), whose
        inclusive width and height are 0.
    """
    rows_Nh, columns_Nw = _occupied(foreground_Nhw)
    top_N, bottom_N = _first_and_last(rows_Nh)
    left_N, right_N = _first_and_last(columns_Nw)
    return np.stack([left_N, top_N, right_N, bottom_N], axis=1).astype(np.float32)


def _occupied(foreground_Nhw: torch.Tensor) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which rows and which columns of each mask have foreground, bool [N, h] and [N, w]."""
    if foreground_Nhw.device.type != "cpu" or foreground_Nhw.shape[2] % 8:
        return foreground_Nhw.any(dim=2).cpu().numpy(), foreground_Nhw.any(dim=1).cpu().numpy()
    # Eight bools read as one integer: an order of magnitude faster than `any` on the CPU.
    words = np.ascontiguousarray(foreground_Nhw.numpy()).view(np.uint64)
    rows_Nh = np.bitwise_or.reduce(words, axis=2) != 0
    columns = np.ascontiguousarray(np.bitwise_or.reduce(words, axis=1))
    return rows_Nh, columns.view(np.bool_)


def _first_and_last(occupied_Nk: npt.NDArray[np.bool_]) -> tuple[IntArray, IntArray]:
    """Return the first and the last true index of each row; 0 and -1 for a row without any."""
    length = occupied_Nk.shape[1]
    first_N = occupied_Nk.argmax(axis=1)
    last_N = length - 1 - occupied_Nk[:, ::-1].argmax(axis=1)
    return first_N, np.where(occupied_Nk.any(axis=1), last_N, -1)


def pair_iou(first_xyxy: npt.NDArray[Floats], second_xyxy: npt.NDArray[Floats]) -> npt.NDArray[np.float64]:
    """Compute the intersection over union of boxes at the same index: float64 [P], 0 if both have no area.

    Coordinates are continuous: (3, 3, 3, 3) has area 0.
    """
    first, second = (np.ascontiguousarray(boxes.T, dtype=np.float64) for boxes in (first_xyxy, second_xyxy))
    width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
    intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union: npt.NDArray[np.float64] = areas[0] + areas[1] - intersection
    iou: npt.NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def overlapping_pairs(boxes_xyxy: FloatArray, groups_N: IntArray, *, iou_threshold: float) -> tuple[IntArray, IntArray]:
    """Find the pairs of boxes of the same group whose IoU exceeds a threshold.

    As in the reference, inclusive corners are taken for continuous coordinates, so a box one pixel wide has no area and
    overlaps nothing. IoU is computed in float64, so that rounding does not lift an IoU of exactly the threshold above.

    Returns:
        int64 [P] and int64 [P], the lower and the higher index of each pair.
    """
    order = np.lexsort((boxes_xyxy[:, 0], groups_N))
    left, top, right, bottom = np.ascontiguousarray(boxes_xyxy[order].T)
    right, bottom = np.maximum(right, left), np.maximum(bottom, top)
    areas = (right - left) * (bottom - top)
    # I / (A + B - I) > t is I > t / (1 + t) * (A + B). float32 is off by far less than the margin.
    least, most = (max(iou_threshold + margin, 0.0) for margin in (-_MARGIN, _MARGIN))
    # Among boxes that begin further right, only those that leave enough of the width can overlap enough.
    span = right.max(initial=0.0) - left.min(initial=0.0) + 1.0
    groups = groups_N[order]
    offsets = span * np.cumsum(groups != np.concatenate([groups[:1], groups[:-1]]))
    ends = np.searchsorted(left + offsets, right - least * (right - left) + offsets)
    following = np.arange(1, len(order) + 1)
    counts = np.maximum(ends - following, 0)
    parts = [np.zeros((3, 0), dtype=np.int64)]
    for part in chunks(counts, _PAIRS):
        first_P, second_P = np.repeat(following[part] - 1, counts[part]), ranges(following[part], counts[part])
        top_P, right_P, bottom_P, totals = (np.repeat(of[part], counts[part]) for of in (top, right, bottom, areas))
        intersections = np.minimum(bottom_P, bottom.take(second_P)) - np.maximum(top_P, top.take(second_P))
        intersections *= np.minimum(right_P, right.take(second_P)) - left.take(second_P)
        totals += areas.take(second_P)
        close = np.flatnonzero(intersections > np.float32(least / (1 + least)) * totals)
        is_close_call = intersections[close] <= np.float32(most / (1 + most)) * totals[close]
        parts.append(np.stack([order[first_P[close]], order[second_P[close]], is_close_call]))
    first_P, second_P, is_close_call = np.concatenate(parts, axis=1)
    is_above = is_close_call == 0
    doubtful = np.flatnonzero(is_close_call)
    is_above[doubtful] = pair_iou(boxes_xyxy[first_P[doubtful]], boxes_xyxy[second_P[doubtful]]) > iou_threshold
    first_P, second_P = first_P[is_above], second_P[is_above]
    return np.minimum(first_P, second_P), np.maximum(first_P, second_P)


def best_first(ranking: FloatArray) -> IntArray:
    """Return the order of descending rank, int64 [N]; among equals the lower index comes first."""
    return np.argsort(-ranking, kind="stable")


def members_of_classes(labels: IntArray) -> list[IntArray]:
    """Return the indices of the members of each class that occurs, in ascending order."""
    order = np.argsort(labels, kind="stable")
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    return [order[start:end] for start, end in pairwise([0, *edges.tolist(), len(labels)]) if end]


def unsuppressed(count: int, better_P: IntArray, worse_P: IntArray) -> npt.NDArray[np.bool_]:
    """Go down a ranking of N members, the best at index 0; each that survives suppresses those it is paired with.

    Args:
        count: N.
        better_P: int64 [P], the better member of each pair.
        worse_P: int64 [P], the other member.

    Returns:
        bool [N], which members survive.
    """
    alive = np.ones(count, dtype=np.bool_)
    # In each round, members that are not the worse of any pair survive, and suppress. The best member of the pairs that
    # remain is always among them, so this ends.
    while len(better_P):
        is_worse = np.zeros(count, dtype=np.bool_)
        is_worse[worse_P] = True
        is_decided_P = ~is_worse[better_P]
        alive[worse_P[is_decided_P]] = False
        is_open_P = alive[worse_P] & alive[better_P]
        better_P, worse_P = better_P[is_open_P], worse_P[is_open_P]
    return alive
