"""Full-size masks as COCO run-length encodings. Suffixes: N masks, h and w the segmenter's grid, H and W the image."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as coco_mask

from ntt.ops.mask_changes import mask_changes
from ntt.ops.run_lengths import to_run_lengths, to_text
from ntt.types import BoolArray, DoubleArray


def encode_masks(foreground_NHW: torch.Tensor) -> tuple[bytes, ...]:
    """Encode masks, bool [N, H, W] on any device, as one COCO compressed RLE per mask."""
    return to_text(to_run_lengths(mask_changes(foreground_NHW)))


def decode_masks(rles: Sequence[bytes], height: int, width: int) -> BoolArray:
    """Decode COCO compressed RLEs to bool [N, H, W]."""
    if not rles:
        return np.zeros((0, height, width), dtype=np.bool_)
    decoded = coco_mask.decode(_as_coco(rles, height, width))
    return cast("BoolArray", decoded.transpose(2, 0, 1).astype(np.bool_))


def mask_ious(rles: Sequence[bytes], others: Sequence[bytes], height: int, width: int) -> DoubleArray:
    """Compute the IoU of N masks with M others of an image of [height, width] pixels: float64 [N, M]."""
    if not rles or not others:
        return np.zeros((len(rles), len(others)), dtype=np.float64)
    coded = (_as_coco(masks, height, width) for masks in (rles, others))
    return cast("DoubleArray", np.asarray(coco_mask.iou(*coded, [0] * len(others))))


def _as_coco(rles: Sequence[bytes], height: int, width: int) -> list[dict[str, Any]]:
    """Return RLE counts in the form pycocotools expects."""
    size = [height, width]
    return [{"size": size, "counts": counts} for counts in rles]
