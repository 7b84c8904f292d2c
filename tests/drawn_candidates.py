"""Candidates with masks that can be worked out by hand."""

from collections.abc import Sequence

import numpy as np
import torch

from ntt.ops.masks import encode_masks
from ntt.types import Candidates

HEIGHT, WIDTH = 20, 30


def rectangles(
    boxes: Sequence[tuple[int, int, int, int]],
    predicted_iou: Sequence[float] | np.ndarray,
    features: Sequence[Sequence[float]],
    *,
    channels: int,
) -> Candidates:
    """Rectangles (left, top, right, bottom), inclusive, on a grid as large as the image, 20 x 30."""
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top : bottom + 1, left : right + 1] = True
    return Candidates(
        height=HEIGHT,
        width=WIDTH,
        rles=encode_masks(masks),
        grid_boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        predicted_iou=np.array(predicted_iou, dtype=np.float32),
        features=np.array(features, dtype=np.float32).reshape(-1, channels),
    )
