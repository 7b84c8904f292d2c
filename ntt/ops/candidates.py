"""From a segmenter's proposals to the candidates that matching reads (METHOD 4)."""

from typing import Literal, TypeAlias

import numpy as np
import torch

from ntt.ops.boxes import boxes_from_masks
from ntt.ops.masks import encode_full_size, rle_areas
from ntt.ops.pooling import l2_normalise, pool_masks
from ntt.types import Candidates, Proposals

FeatureDtype: TypeAlias = Literal["float16", "float32"]


@torch.no_grad()
def describe(
    proposals: Proposals,
    feature_map_Dhw: torch.Tensor,
    *,
    height: int,
    width: int,
    feature_dtype: FeatureDtype,
) -> Candidates:
    """Turn proposals of one image into candidates, in the same order.

    Proposals without foreground, on their own grid or at full size, are dropped: the reference gives them the feature
    0/0.

    Args:
        proposals: N masks on the segmenter's grid.
        feature_map_Dhw: float32 [D, h, w], the encoder's features of the same image.
        height: of the original image, pixels.
        width: of the original image, pixels.
        feature_dtype: precision the features are rounded to, and can be stored in without loss.

    Returns:
        At most N candidates, features L2-normalised.
    """
    foreground = proposals.logits_Nhw > 0
    features_ND, on_grid = pool_masks(feature_map_Dhw, foreground)
    rounded_ND = l2_normalise(features_ND).cpu().numpy().astype(feature_dtype).astype(np.float32)
    boxes = boxes_from_masks(foreground)
    predicted_iou = proposals.predicted_iou_N.float().cpu().numpy()
    rles = encode_full_size(proposals.logits_Nhw, height, width)
    keep = np.flatnonzero(on_grid.cpu().numpy() & (rle_areas(rles, height, width) > 0))
    return Candidates(
        height=height,
        width=width,
        rles=tuple(rles[index] for index in keep.tolist()),
        grid_boxes_xyxy=boxes[keep],
        predicted_iou=predicted_iou[keep],
        features=rounded_ND[keep],
    )
