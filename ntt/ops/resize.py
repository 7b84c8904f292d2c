"""Resizing as the method does it, from images to the input of the models, and the matrices behind it (method.md §4).

All functions use pixel areas (`align_corners=False`) and document whether they antialias. Suffixes: C channels, H and W
the image, h and w the segmenter's canvas, S the encoder's input, o outputs and i inputs along one axis.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ntt.types import ByteArray


def resize_bicubic(image_CHW: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Resize an image for the encoder (method.md §2 and §4): bicubic, not antialiased; values may overshoot."""
    return F.interpolate(image_CHW[None], size_hw, mode="bicubic", align_corners=False)[0]


CPU = torch.device("cpu")


@lru_cache(maxsize=256)
def resize_matrix(inputs: int, outputs: int, *, antialias: bool, device: torch.device = CPU) -> torch.Tensor:
    """Return bilinear resizing along one axis as a matrix; `A_h @ map @ A_w.T` resizes a map.

    `antialias` widens the filter where the axis shrinks, as PIL does. It is float32 [outputs, inputs], entries in [0,
    1], rows summing to 1, computed on the CPU; shared between callers, so read-only.
    """
    unit_vectors = torch.eye(inputs, dtype=torch.float32)[None, None]
    matrix = F.interpolate(unit_vectors, (outputs, inputs), mode="bilinear", align_corners=False, antialias=antialias)
    return matrix[0, 0].to(device)


@dataclass(frozen=True)
class Band:
    """Consecutive outputs (rows) of a banded matrix, the only inputs (columns) they depend on, and their weights."""

    outputs: slice
    inputs: slice
    weights_oi: torch.Tensor


@lru_cache(maxsize=256)
def resize_bands(
    inputs: int, outputs: int, *, antialias: bool, adjoint: bool, count: int, device: torch.device = CPU
) -> tuple[Band, ...]:
    """Divide a `resize_matrix`, or its transpose (`adjoint`), into at most `count` bands of rows, in order.

    Columns that are zero throughout a band are left out: an output depends on few neighbouring inputs, so the bands
    hold only a fraction of the matrix.
    """
    matrix = resize_matrix(inputs, outputs, antialias=antialias)
    matrix_oi = matrix.T if adjoint else matrix
    rows = matrix_oi.shape[0]
    pieces = min(count, rows)
    edges = [rows * piece // pieces for piece in range(pieces + 1)]
    return tuple(_cut_band(matrix_oi, slice(edges[k], edges[k + 1]), device) for k in range(pieces))


def _cut_band(matrix_oi: torch.Tensor, outputs: slice, device: torch.device) -> Band:
    """Cut out rows of a matrix, from their first to their last column with an entry."""
    columns = matrix_oi[outputs].ne(0).any(dim=0).nonzero()[:, 0].tolist()
    # Shrinking without antialiasing skips inputs, so rows of the adjoint can be empty: keep one column of zeros.
    inputs = slice(columns[0], columns[-1] + 1) if columns else slice(0, 1)
    return Band(outputs, inputs, matrix_oi[outputs, inputs].contiguous().to(device))


def resize_to_canvas(image_HW3: ByteArray, canvas_hw: tuple[int, int]) -> torch.Tensor:
    """Resize an image, uint8 RGB, to the segmenter's canvas: float32 [3, h, w], RGB in [0, 1]; bicubic, antialiased."""
    rows, columns = canvas_hw
    canvas = Image.fromarray(image_HW3).resize((columns, rows), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255.0


def encoder_input(canvas_3hw: torch.Tensor, input_size: int) -> torch.Tensor:
    """Resize a canvas to the encoder's square input, float32 [1, 3, S, S]: bicubic, without antialiasing."""
    return resize_bicubic(canvas_3hw, (input_size, input_size))[None]
