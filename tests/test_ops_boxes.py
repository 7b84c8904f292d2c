"""Boxes of masks and class-wise suppression."""

import numpy as np
import torch
from conftest import cases

from ntt.ops.boxes import best_first, boxes_from_masks, overlapping_pairs, pair_iou, unsuppressed


@cases("width")(8, 11)
def test_boxes_are_inclusive(width):
    masks = torch.zeros(4, 6, width, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1] = True
    masks[2, 1, 7] = masks[2, 4, 0] = True
    expected = [[3, 2, 3, 2], [0, 0, width - 1, 5], [0, 1, 7, 4], [0, 0, -1, -1]]
    boxes = boxes_from_masks(masks)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == expected


def test_boxes_of_transposed_masks_and_iou_by_hand():
    masks = torch.zeros(1, 8, 16, dtype=torch.bool)
    masks[0, 1, 2:13] = True
    assert boxes_from_masks(masks.mT).tolist() == [[1, 2, 1, 12]]
    assert boxes_from_masks(masks[:0]).shape == (0, 4)
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [3, 3, 3, 3], [3, 3, 3, 3]], dtype=np.float32)
    assert pair_iou(boxes[[0, 0, 0, 0]], boxes).tolist() == [1.0, 8 / 24, 0.0, 0.0]
    assert pair_iou(boxes[2:3], boxes[3:]).tolist() == [0.0], "boxes without area do not meet, themselves included"


def suppress(boxes: np.ndarray, ranking: np.ndarray, labels: np.ndarray, threshold: float) -> list[int]:
    order = best_first(ranking)
    boxes, labels = boxes[order], labels[order]
    left, same = (
        order[unsuppressed(overlapping_pairs(boxes, groups, iou_threshold=threshold), labels)].tolist()
        for groups in (labels, None)
    )
    assert left == same, "it does not matter whether the groups are known from the beginning"
    return left


def nms(boxes: list[list[float]], ranking: list[float], labels: list[int], threshold: float) -> list[int]:
    corners = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return suppress(corners, np.array(ranking, dtype=np.float32), np.array(labels, dtype=np.int64), threshold)


HALF = [[0, 0, 4, 4], [0, 0, 4, 2]]  # IoU is exactly 0.5
SAME = [[0, 0, 4, 4]] * 3


@cases("boxes", "ranking", "labels", "threshold", "left")(
    (HALF, [0.9, 0.8], [0, 0], 0.5, [0, 1]),  # the threshold is strict
    (HALF, [0.9, 0.8], [0, 0], 0.4999, [0]),
    (SAME[:2], [0.1, 0.2], [0, 0], 1.0, [1, 0]),
    ([[0, 0, 4, 4], [4, 0, 8, 4], [3, 0, 8, 4]], [0.9, 0.8, 0.7], [0, 0, 0], 0.0, [0, 1]),  # touching is no overlap
    # Areas 10 and 6, one inside the other: IoU 0.6 is not above 0.6, though it is in float32.
    ([[0, 0, 10, 1], [0, 0, 6, 1]], [0.9, 0.8], [0, 0], 0.6, [0, 1]),
    (SAME, [0.5, 0.9, 0.7], [3, 1, 3], 0.5, [1, 2]),  # classes do not suppress each other
    (SAME, [0.5, 0.5, 0.5], [0, 0, 0], 0.5, [0]),  # of equals the lower index is left
    ([[0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]], [0.5, 0.5, 0.5], [0, 0, 0], 0.5, [0, 1, 2]),
    # A suppressed box suppresses nothing.
    ([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], [0.9, 0.8, 0.7], [0, 0, 0], 0.3, [0, 2]),
    ([], [], [], 0.5, []),
)
def test_suppression_by_hand(boxes, ranking, labels, threshold, left):
    assert nms(boxes, ranking, labels, threshold) == left


@cases("count", "threshold")((120, 0.3), (300, 0.0), (300, 0.5), (300, 1.0))
def test_suppression_equals_a_plain_walk_over_all_pairs(count, threshold):
    generator = np.random.default_rng(count)
    corners = generator.integers(0, 30, size=(count, 2))
    boxes = np.concatenate([corners, corners + generator.integers(-1, 15, size=(count, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    ranking = generator.integers(0, 10, size=count).astype(np.float32)
    labels = generator.integers(0, 3, size=count)
    kept: list[int] = []
    for index in np.argsort(-ranking, kind="stable").tolist():
        rivals = [rival for rival in kept if labels[rival] == labels[index]]
        if not (pair_iou(boxes[rivals], np.repeat(boxes[[index]], len(rivals), axis=0)) > threshold).any():
            kept.append(index)
    assert suppress(boxes, ranking, labels, threshold) == kept
