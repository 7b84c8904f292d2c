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


def pairwise_iou(boxes_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute intersection over union of all pairs of boxes.

    Args:
        boxes_xyxy: float64 [N, 4], taken as continuous coordinates: (3, 3, 3, 3) has area 0.

    Returns:
        float64 [N, N] in [0, 1]; 0 where both boxes have no area.
    """
    left, top, right, bottom = boxes_xyxy.T
    area = (right - left) * (bottom - top)
    intersection = _shared_length(left, right)
    intersection *= _shared_length(top, bottom)
    union: npt.NDArray[np.float64] = area[:, None] + area
    union -= intersection
    return np.divide(intersection, union, out=intersection, where=union > 0)


def _shared_length(low_N: npt.NDArray[np.float64], high_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how much of an axis each pair of intervals has in common; 0 where they do not meet."""
    length = np.minimum(high_N[:, None], high_N)
    length -= np.maximum(low_N[:, None], low_N)
    return np.maximum(length, 0.0, out=length)


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
    boxes = boxes_xyxy[order].astype(np.float64)
    labels_ordered = labels[order]
    alive = np.ones(len(order), dtype=np.bool_)
    for label in np.unique(labels_ordered).tolist():
        members = np.flatnonzero(labels_ordered == label)
        alive[members] = _survivors(pairwise_iou(boxes[members]) > iou_threshold)
    return order[alive][:limit]


def _survivors(overlapping: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Walk down the ranking; a survivor suppresses everything behind it that overlaps it."""
    alive = np.ones(len(overlapping), dtype=np.bool_)
    # Many boxes overlap nothing but themselves; only the others need a step of the walk.
    others_N = np.count_nonzero(overlapping, axis=1) > overlapping.diagonal()
    for index in np.flatnonzero(others_N).tolist():
        if alive[index]:
            alive[index + 1 :] &= ~overlapping[index, index + 1 :]
    return alive
