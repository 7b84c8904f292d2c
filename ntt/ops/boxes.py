"""Boxes of masks and class-wise non-maximum suppression. Suffixes: N masks, h and w rows and columns of the grid."""

import numpy as np
import numpy.typing as npt
import torch

from ntt.types import FloatArray, IntArray


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
    """Tell which rows and which columns of each mask have foreground."""
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


def pair_iou(first_xyxy: FloatArray, second_xyxy: FloatArray) -> npt.NDArray[np.float64]:
    """Compute intersection over union, box by box.

    Args:
        first_xyxy: float32 [P, 4], taken as continuous coordinates: (3, 3, 3, 3) has area 0.
        second_xyxy: float32 [P, 4], the box each is compared with.

    Returns:
        float64 [P] in [0, 1]; 0 where both boxes have no area.
    """
    one, other = first_xyxy.astype(np.float64).T, second_xyxy.astype(np.float64).T
    width = np.minimum(one[2], other[2]) - np.maximum(one[0], other[0])
    height = np.minimum(one[3], other[3]) - np.maximum(one[1], other[1])
    intersection = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    union: npt.NDArray[np.float64] = areas[0] + areas[1] - intersection
    iou: npt.NDArray[np.float64] = np.zeros_like(union)
    np.divide(intersection, union, out=iou, where=union > 0)
    return iou


def classwise_nms(
    boxes_xyxy: FloatArray, ranking: FloatArray, labels: IntArray, *, iou_threshold: float, limit: int
) -> IntArray:
    """Suppress, within each class, boxes that overlap a better ranked box (METHOD 5).

    As in the reference, the inclusive corners count as continuous coordinates, so a box one pixel wide has no area,
    overlaps nothing and is always kept. IoU is computed in float64, so that an overlap of exactly the threshold is
    not suppressed by rounding.

    Args:
        boxes_xyxy: float32 [N, 4].
        ranking: float32 [N], higher is better; of equals the lower index comes first.
        labels: int64 [N].
        iou_threshold: suppress above, strictly.
        limit: keep at most this many, over all classes.

    Returns:
        int64 indices of the kept boxes, best ranked first.
    """
    order = np.argsort(-ranking, kind="stable")
    labels_ordered = labels[order]
    alive = np.ones(len(order), dtype=np.bool_)
    for label in np.unique(labels_ordered).tolist():
        members = np.flatnonzero(labels_ordered == label)
        alive[members] = _survivors(boxes_xyxy[order[members]], iou_threshold)
    return order[alive][:limit]


def _survivors(boxes_xyxy: FloatArray, iou_threshold: float) -> npt.NDArray[np.bool_]:
    """Walk down the ranking; a survivor suppresses everything behind it that overlaps it too much."""
    earlier_P, later_P = _meeting_pairs(boxes_xyxy)
    too_much = pair_iou(boxes_xyxy[earlier_P], boxes_xyxy[later_P]) > iou_threshold
    alive = [True] * len(boxes_xyxy)
    for earlier, later in zip(earlier_P[too_much].tolist(), later_P[too_much].tolist(), strict=True):
        if alive[earlier]:
            alive[later] = False
    return np.array(alive, dtype=np.bool_)


def _meeting_pairs(boxes_xyxy: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the pairs of boxes that may have an area in common, the lower index first, in ascending order."""
    left, top, right, bottom = (np.ascontiguousarray(side) for side in boxes_xyxy.T)
    meet = (left[:, None] < right) & (left < right[:, None]) & (top[:, None] < bottom) & (top < bottom[:, None])
    first_P, second_P = np.divmod(np.flatnonzero(meet), len(boxes_xyxy))
    ahead = first_P < second_P
    return first_P[ahead], second_P[ahead]
