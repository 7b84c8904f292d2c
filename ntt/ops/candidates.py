"""From a segmenter's proposals to the candidates that matching reads (method.md §4)."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from ntt.ops.boxes import boxes_from_masks
from ntt.ops.mask_changes import Changes, full_size_changes
from ntt.ops.pooling import l2_normalise, pool_masks
from ntt.ops.run_lengths import take, to_run_lengths
from ntt.types import Candidates, FloatArray, Proposals

FeatureDtype: TypeAlias = Literal["float16", "float32"]


@dataclass(frozen=True)
class Measurements:
    """What the device computes of the N proposals of one image; arrays are in host memory.

    Attributes:
        height, width: of the original image, pixels.
        changes: of the full-size masks.
        on_grid_N: whether the mask has foreground on its own grid.
        grid_boxes_xyxy: as in `Candidates`, as is `predicted_iou`.
        features: float32 [N, D], L2-normalised.
    """

    height: int
    width: int
    changes: Changes
    on_grid_N: npt.NDArray[np.bool_]
    grid_boxes_xyxy: FloatArray
    predicted_iou: FloatArray
    features: FloatArray

    def candidates(self, feature_dtype: FeatureDtype) -> Candidates:
        """Compute the run lengths of the masks, and round features to the precision in which they are stored.

        Proposals without foreground, on their own grid or at full size, are dropped; their feature in the reference
        would be 0/0.
        """
        keep = np.flatnonzero(self.on_grid_N & (self.changes.per_mask_N > 0))
        return Candidates(
            height=self.height,
            width=self.width,
            masks=take(to_run_lengths(self.changes), keep),
            grid_boxes_xyxy=self.grid_boxes_xyxy[keep],
            predicted_iou=self.predicted_iou[keep],
            features=self.features[keep].astype(feature_dtype).astype(np.float32),
        )


@torch.no_grad()
def measure(proposals: Proposals, feature_map_Dhw: torch.Tensor, *, height: int, width: int) -> Measurements:
    """Measure N proposals on the device; features are float32 [D, h, w], height and width the original image's."""
    foreground = proposals.logits_Nhw > 0
    features_ND, on_grid_N = pool_masks(feature_map_Dhw, foreground)
    return Measurements(
        height=height,
        width=width,
        changes=full_size_changes(proposals.logits_Nhw, foreground, height, width),
        on_grid_N=on_grid_N.cpu().numpy(),
        grid_boxes_xyxy=boxes_from_masks(foreground),
        predicted_iou=proposals.predicted_iou_N.float().cpu().numpy(),
        features=l2_normalise(features_ND).cpu().numpy(),
    )
