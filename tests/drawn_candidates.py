"""Candidates with masks that can be worked out by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ntt.ops.boxes import boxes_from_masks
from ntt.ops.mask_changes import mask_changes
from ntt.ops.overlaps import Segments, overlaps_with_earlier
from ntt.ops.run_lengths import to_run_lengths, to_text
from ntt.types import Candidates

HEIGHT, WIDTH = 20, 30


def covered_parts(masks_NHW: torch.Tensor) -> np.ndarray:
    """Which part of each mask every earlier one covers: float64 [N, N]."""
    segments = Segments.of(to_run_lengths(mask_changes(masks_NHW)), *masks_NHW.shape[1:])
    return overlaps_with_earlier(segments, np.zeros(len(masks_NHW), dtype=np.int64))


def rles_of(candidates: Candidates) -> tuple[bytes, ...]:
    """The masks of candidates as COCO run lengths."""
    return to_text(candidates.masks)


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
    return candidates(masks, predicted_iou, np.reshape(features, (-1, channels)), boxes=boxes)


def candidates(masks_NHW: torch.Tensor, predicted_iou: Any, features: Any, *, boxes: Any = None) -> Candidates:
    """Candidates with these masks; their boxes are those of the masks unless they are given."""
    boxes = boxes_from_masks(masks_NHW) if boxes is None else np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores, features = np.array(predicted_iou, dtype=np.float32), np.array(features, dtype=np.float32)
    return Candidates(*masks_NHW.shape[1:], to_run_lengths(mask_changes(masks_NHW)), boxes, scores, features)


def random_candidates(seed: int, count: int, *, directions_CD: np.ndarray) -> Candidates:
    """Unions of rectangles whose features scatter around some directions; several share their predicted IoU."""
    height, width = 60, 80
    generator = np.random.default_rng(seed)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        for _ in range(generator.integers(1, 3)):
            top, left = generator.integers(0, height - 5), generator.integers(0, width - 5)
            mask[top : top + generator.integers(2, 30), left : left + generator.integers(2, 40)] = True
    features = directions_CD[generator.integers(0, len(directions_CD), count)]
    features = features + generator.normal(size=features.shape) * 1.1
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    return candidates(masks, generator.integers(0, 12, count) / 12, features)
