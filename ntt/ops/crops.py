"""Crops around reference instances, and the features of an instance and of its surroundings (method.md §2).

Suffixes: H and W the image, S side of the encoder's input, g side of its feature grid, D channels.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ntt.ops.resize import resize_bicubic
from ntt.types import BoolArray, ByteArray


def crop_corners(
    bbox_xywh: tuple[float, float, float, float], *, height: int, width: int, context_ratio: float
) -> tuple[int, int, int, int]:
    """Place a square around a box and clip it to the image: (left, top, right, bottom), right and bottom exclusive.

    Its side is 1 + `context_ratio` times the longer side of the box. All numbers are image pixels; there is at least
    one each way, and at borders it is no square.
    """
    x, y, box_width, box_height = bbox_xywh
    left, top, right, bottom = int(x), int(y), int(x + box_width), int(y + box_height)
    half_side = max(right - left, bottom - top) * (1.0 + context_ratio) / 2
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
    # A box thinner than a pixel could be cut to nothing: it keeps the pixel it starts in.
    crop_left = min(max(int(centre_x - half_side), 0), width - 1)
    crop_top = min(max(int(centre_y - half_side), 0), height - 1)
    crop_right = max(min(int(centre_x + half_side), width), crop_left + 1)
    crop_bottom = max(min(int(centre_y + half_side), height), crop_top + 1)
    return crop_left, crop_top, crop_right, crop_bottom


def crop_reference(
    image_HW3: ByteArray,
    mask_HW: BoolArray,
    bbox_xywh: tuple[float, float, float, float],
    *,
    output_size: int,
    grid_size: int,
    context_ratio: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut out a reference instance, a COCO box and a mask, for the encoder, with the weight of each patch.

    The image is resized bicubically and the mask bilinearly to S = `output_size`, both without antialiasing; the mask
    is then sampled at the nearest pixels of the g x g patches, g = `grid_size`. Returns the crop, float32 [3, S, S],
    RGB in [0, 1] up to the slight overshoot of bicubic resizing; and the weights, float32 [g, g] in [0, 1], never all
    zero: a mask too small to be sampled gives the patch under its centre.
    """
    height, width = mask_HW.shape
    left, top, right, bottom = crop_corners(bbox_xywh, height=height, width=width, context_ratio=context_ratio)
    pixels = np.ascontiguousarray(image_HW3[top:bottom, left:right].transpose(2, 0, 1))
    mask_crop = np.ascontiguousarray(mask_HW[top:bottom, left:right])
    crop = resize_bicubic(torch.from_numpy(pixels).float() / 255.0, (output_size, output_size))
    weights_gg = patch_weights(mask_crop, output_size=output_size, grid_size=grid_size)
    if not bool(weights_gg.any()):
        weights_gg = _patch_under_centre(mask_crop, grid_size)
    return crop, weights_gg


def patch_weights(mask_crop: BoolArray, *, output_size: int, grid_size: int) -> torch.Tensor:
    """Return how much of each patch a mask covers: float32 [g, g] in [0, 1]; arguments as for `crop_reference`."""
    mask = torch.from_numpy(np.ascontiguousarray(mask_crop)).float()[None, None]
    soft_mask = F.interpolate(mask, (output_size, output_size), mode="bilinear", align_corners=False)
    return F.interpolate(soft_mask, size=(grid_size, grid_size), mode="nearest")[0, 0]


def _patch_under_centre(mask_crop: BoolArray, grid_size: int) -> torch.Tensor:
    """Give all weight to the patch under the mask's centre of mass, or the crop's centre if the mask is empty."""
    height, width = mask_crop.shape
    rows, columns = np.nonzero(mask_crop)
    centre_y = rows.mean() + 0.5 if len(rows) else height / 2
    centre_x = columns.mean() + 0.5 if len(columns) else width / 2
    weights_gg = torch.zeros(grid_size, grid_size)
    weights_gg[int(centre_y / height * grid_size), int(centre_x / width * grid_size)] = 1.0
    return weights_gg


def instance_feature(feature_map_Dgg: torch.Tensor, weights_gg: torch.Tensor) -> torch.Tensor:
    """Average a feature map with weights per cell, not negative, not all 0: float32 [D], not normalised."""
    weights = weights_gg.to(feature_map_Dgg.device)
    return feature_map_Dgg.flatten(1) @ weights.flatten() / weights.sum()


def background_feature(feature_map_Dgg: torch.Tensor, weights_gg: torch.Tensor) -> torch.Tensor | None:
    """Average a feature map over what an instance does not cover: each cell with 1 - its weight, in [0, 1].

    The masked average of PANet (Wang et al., ICCV 2019, equation 2), with soft masks: float32 [D], not normalised; None
    if less than one cell is left, too little to be meaningful.
    """
    outside = 1.0 - weights_gg.to(feature_map_Dgg.device)
    total = outside.sum()
    if float(total) < 1.0:
        return None
    return feature_map_Dgg.flatten(1) @ outside.flatten() / total
