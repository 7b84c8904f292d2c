"""From a segmenter's proposals to the candidates that matching reads (method.md §4)."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch

from ntt.ops.boxes import boxes_from_masks
from ntt.ops.mask_changes import full_size_changes
from ntt.ops.pooling import l2_normalise, pool_masks
from ntt.ops.run_lengths import take, to_run_lengths
from ntt.types import Candidates, Proposals

FeatureDtype: TypeAlias = Literal["float16", "float32"]
Finish: TypeAlias = Callable[[FeatureDtype], Candidates]
"""Does the host's part of the work: features come in the precision in which they are stored."""


@torch.no_grad()
def measure(proposals: Proposals, feature_map_Dhw: torch.Tensor, *, height: int, width: int) -> Finish:
    """Measure proposals on the device, and return what makes candidates of the results in host memory.

    Features are float32 [D, h, w], height and width the original image's. Proposals without foreground, on their own
    grid or at full size, are dropped; their feature in the reference would be 0/0.
    """
    foreground = proposals.logits_Nhw > 0
    features_ND, on_grid_N = pool_masks(feature_map_Dhw, foreground)
    changes = full_size_changes(proposals.logits_Nhw, foreground, height, width)
    is_on_grid = on_grid_N.cpu().numpy()
    grid_boxes_xyxy = boxes_from_masks(foreground)
    predicted_iou = proposals.predicted_iou_N.float().cpu().numpy()
    features = l2_normalise(features_ND).cpu().numpy()

    def finish(feature_dtype: FeatureDtype) -> Candidates:
        keep = np.flatnonzero(is_on_grid & (changes.per_mask_N > 0))
        return Candidates(
            height=height,
            width=width,
            masks=take(to_run_lengths(changes), keep),
            grid_boxes_xyxy=grid_boxes_xyxy[keep],
            predicted_iou=predicted_iou[keep],
            features=features[keep].astype(feature_dtype).astype(np.float32),
        )

    return finish
