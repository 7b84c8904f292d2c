"""Full-size masks as COCO run-length encodings, and sums over them that need no decoding.

Suffixes: N masks, n masks of one chunk, h and w the segmenter's grid, H and W the image.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask

from ntt.ops.boxes import boxes_from_masks
from ntt.ops.resize import Band, resize_bands
from ntt.types import FloatArray

CHUNK_BYTES_CPU = 32 << 20
CHUNK_BYTES_GPU = 512 << 20
BANDS = 8


@torch.no_grad()
def encode_full_size(logits_Nhw: torch.Tensor, height: int, width: int) -> tuple[bytes, ...]:
    """Upsample mask logits to the image and encode the foreground (METHOD 6).

    Bilinear, antialiased where an axis shrinks; foreground is > 0. A pixel is a weighted mean of grid values, so it
    can be foreground only near foreground of the grid: tiles of the image without any are not computed.

    Args:
        logits_Nhw: [N, h, w], any float or signed integer dtype, any device.
        height: H, pixels.
        width: W, pixels.

    Returns:
        One COCO compressed RLE of [H, W] per mask.
    """
    boxes_xyxy = torch.from_numpy(boxes_from_masks(logits_Nhw > 0)).long()
    on_cpu = logits_Nhw.device.type == "cpu"
    chunk = max(1, (CHUNK_BYTES_CPU if on_cpu else CHUNK_BYTES_GPU) // (height * width))
    rles: list[bytes] = []
    for start in range(0, logits_Nhw.shape[0], chunk):
        part = slice(start, start + chunk)
        rles.extend(encode_masks(_full_size_foreground(logits_Nhw[part], boxes_xyxy[part], height, width)))
    return tuple(rles)


# pycocotools' `area` keeps the number of masks in an 8-bit integer, and NumPy 2 refuses more.
_AREA_LIMIT = 255


def _full_size_foreground(logits_nhw: torch.Tensor, boxes_xyxy: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the foreground, bool [n, height, width], of resized logits; each mask is stored column by column."""
    count, rows_in, columns_in = logits_nhw.shape
    if (rows_in, columns_in) == (height, width):
        return logits_nhw > 0
    row_bands = resize_bands(rows_in, height, antialias=True, adjoint=False, count=BANDS)
    column_bands = resize_bands(columns_in, width, antialias=True, adjoint=False, count=BANDS)
    # COCO counts run down the columns: computing the transposed image saves a transposition of every mask.
    foreground_nWH = torch.zeros(count, width, height, dtype=torch.bool, device=logits_nhw.device)
    left, top, right, bottom = boxes_xyxy.T
    for rows in row_bands:
        in_rows = (top < rows.inputs.stop) & (bottom >= rows.inputs.start)
        for columns in column_bands:
            reached = in_rows & (left < columns.inputs.stop) & (right >= columns.inputs.start)
            chosen = reached.nonzero()[:, 0].to(logits_nhw.device)
            if len(chosen):
                _fill_tile(foreground_nWH, logits_nhw, chosen, rows, columns)
    return foreground_nWH.mT


def _fill_tile(
    foreground_nWH: torch.Tensor, logits_nhw: torch.Tensor, chosen: torch.Tensor, rows: Band, columns: Band
) -> None:
    """Compute one tile of the full-size foreground of the chosen masks."""
    tile_nij = logits_nhw[:, rows.inputs, columns.inputs].index_select(0, chosen).float()
    values_nWH = columns.weights_oi.to(tile_nij.device) @ (rows.weights_oi.to(tile_nij.device) @ tile_nij).mT
    foreground_nWH[chosen, columns.outputs, rows.outputs] = values_nWH > 0


def encode_masks(foreground_NHW: torch.Tensor) -> tuple[bytes, ...]:
    """Encode masks.

    Args:
        foreground_NHW: bool [N, H, W], any device; fastest when each mask is stored column by column.

    Returns:
        One COCO compressed RLE per mask.
    """
    if foreground_NHW.shape[0] == 0:
        return ()
    columns_first = foreground_NHW.mT.contiguous().cpu().view(torch.uint8).numpy()
    encoded = coco_mask.encode(columns_first.T)  # [H, W, N] in Fortran order
    return tuple(cast("bytes", rle["counts"]) for rle in encoded)


def decode_masks(rles: Sequence[bytes], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode COCO compressed RLEs to bool [N, H, W]."""
    if not rles:
        return np.zeros((0, height, width), dtype=np.bool_)
    decoded = coco_mask.decode(_as_coco(rles, height, width))
    return cast("npt.NDArray[np.bool_]", decoded.transpose(2, 0, 1).astype(np.bool_))


def rle_areas(rles: Sequence[bytes], height: int, width: int) -> npt.NDArray[np.int64]:
    """Count the foreground pixels of each mask: int64 [N]."""
    if not rles:
        return np.zeros(0, dtype=np.int64)
    coded = _as_coco(rles, height, width)
    parts = [coco_mask.area(coded[i : i + _AREA_LIMIT]) for i in range(0, len(coded), _AREA_LIMIT)]
    return np.concatenate(parts).astype(np.int64)


def rle_boxes_xywh(rles: Sequence[bytes], height: int, width: int) -> FloatArray:
    """Find the tight COCO box of each mask: float32 [N, 4], image pixels; zeros for an empty mask."""
    if not rles:
        return np.zeros((0, 4), dtype=np.float32)
    return np.asarray(coco_mask.toBbox(_as_coco(rles, height, width))).astype(np.float32).reshape(-1, 4)


def overlap_fractions(
    rles: Sequence[bytes], others: Sequence[bytes], height: int, width: int
) -> npt.NDArray[np.float64]:
    """Compute which part of each mask is covered by each other mask.

    Args:
        rles: N masks.
        others: M masks of the same image.
        height: H, pixels.
        width: W, pixels.

    Returns:
        float64 [N, M], |mask & other| / |mask|, exact up to the division; 0 where they do not meet.
    """
    if not rles or not others:
        return np.zeros((len(rles), len(others)), dtype=np.float64)
    # The crowd flag makes pycocotools divide by the first mask's area in place of the union.
    crowd = [1] * len(others)
    overlaps = coco_mask.iou(_as_coco(rles, height, width), _as_coco(others, height, width), crowd)
    return cast("npt.NDArray[np.float64]", np.asarray(overlaps))


def _as_coco(rles: Sequence[bytes], height: int, width: int) -> list[dict[str, Any]]:
    """Dress RLE counts as pycocotools wants them."""
    size = [height, width]
    return [{"size": size, "counts": counts} for counts in rles]
