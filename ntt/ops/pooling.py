"""Average features over masks without upsampling the features.

The method averages a bilinearly upsampled feature map over each mask's foreground. Upsampling is linear, so this is a
weighted sum of the small map's own cells, with weights `A_h.T @ mask @ A_w`, where A is the upsampling matrix.

Suffixes: N masks, n masks of one chunk, D channels, H and W mask grid, h and w feature map, P = h * w.
"""

import torch
import torch.nn.functional as F

from ntt.ops.resize import resize_bands, resize_matrix

# Floats of one chunk of masks: small enough for a CPU's cache, large enough to keep a GPU busy.
CHUNK_FLOATS_CPU = 1 << 20
CHUNK_FLOATS_GPU = 1 << 26
ROWS_PER_PRODUCT = 128
BANDS = 3


def l2_normalise(vectors_ND: torch.Tensor) -> torch.Tensor:
    """Scale vectors to unit length along the last axis; a zero vector stays zero."""
    return F.normalize(vectors_ND, dim=-1)


@torch.no_grad()
def pool_masks(feature_map_Dhw: torch.Tensor, foreground_NHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the bilinearly upsampled feature map over each mask's foreground (method.md §4), in adjoint form.

    The masks, bool, are on any grid of the same image. With grids whose sides are powers of two and 12 channels
    or more, a mask's result does not depend on which masks are pooled with it: all products are of blocks of a fixed
    shape, padded with empty masks. Returns float32 [N, D] on the map's device, not normalised, zero for an empty mask;
    and bool [N], which masks have any foreground.
    """
    weights_NP = mask_weights(foreground_NHW, feature_map_Dhw.shape[-2:], device=feature_map_Dhw.device)
    totals_N = weights_NP.sum(dim=1)
    cells_PD = feature_map_Dhw.float().flatten(1).T.contiguous()
    sums_ND = _product_in_blocks(weights_NP, cells_PD)
    valid_N = totals_N > 0
    return sums_ND / torch.where(valid_N, totals_N, 1.0)[:, None], valid_N


def mask_weights(
    foreground_NHW: torch.Tensor, map_hw: tuple[int, int] | torch.Size, *, device: torch.device
) -> torch.Tensor:
    """Compute the weight of each cell of a feature map in each mask's sum of upsampled features.

    Returns float32 [N, h * w], row-major, on `device`; each row sums to the mask's area in pixels of its grid. For
    grids whose side is a power of two, such as 256, all values are exact.
    """
    count, height, width = foreground_NHW.shape
    rows_h, columns_w = map_hw
    weights_Nhw = torch.empty(count, rows_h, columns_w, device=device)
    limit = CHUNK_FLOATS_CPU if device.type == "cpu" else CHUNK_FLOATS_GPU
    chunk = max(1, limit // (height * width))
    bands = resize_bands(rows_h, height, antialias=False, adjoint=True, count=BANDS, device=device)
    right_Ww = resize_matrix(columns_w, width, antialias=False, device=device)
    # Reading bools as bytes makes the conversion to float several times faster.
    bytes_NHW = foreground_NHW.view(torch.uint8)
    buffer_nHW = torch.empty(chunk, height, width, device=device)
    for start in range(0, count, chunk):
        part = bytes_NHW[start : start + chunk]
        buffer_nHW[: len(part)] = part
        buffer_nHW[len(part) :] = 0
        left_nhW = torch.cat([band.weights_oi @ buffer_nHW[:, band.inputs] for band in bands], dim=1)
        weights_Nhw[start : start + chunk] = (left_nhW @ right_Ww)[: len(part)]
    return weights_Nhw.flatten(1)


def _product_in_blocks(weights_NP: torch.Tensor, cells_PD: torch.Tensor) -> torch.Tensor:
    """Multiply in blocks of a fixed number of rows, so that a row's rounding does not depend on N."""
    sums_ND = torch.empty(weights_NP.shape[0], cells_PD.shape[1], device=cells_PD.device)
    for start in range(0, weights_NP.shape[0], ROWS_PER_PRODUCT):
        block = weights_NP[start : start + ROWS_PER_PRODUCT]
        padded = F.pad(block, (0, 0, 0, ROWS_PER_PRODUCT - len(block)))
        sums_ND[start : start + ROWS_PER_PRODUCT] = (padded @ cells_PD)[: len(block)]
    return sums_ND
