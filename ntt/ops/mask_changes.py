"""Where full-size masks change between background and foreground, computed without upsampling whole masks.

If an image is at least as large as the grid, a pixel is a weighted mean of four samples of the grid, the corners of its
cell. Only cells with corners of both kinds are upsampled, to find where the foreground begins and ends going down a
column; all others are foreground or background throughout.

Suffixes: N masks, h and w the grid, H and W the image, M cells, K and L rows and columns of pixels in the largest cell,
T changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from ntt.ops.resize import resize_bands, resize_matrix
from ntt.types import IntArray

# Pixels of cells, and samples of the grid or pixels of whole masks, to process at a time.
_PIXELS_CPU, _PIXELS_GPU = 1 << 18, 1 << 25
_SAMPLES_CPU, _SAMPLES_GPU = 1 << 21, 1 << 28
_BANDS = 8
# If a larger part of the cells is of both kinds, all pixels are computed.
_MOST_CELLS = 1 / 16


@dataclass(frozen=True)
class Changes:
    """Where N masks of `length` = H * W pixels change between background and foreground, down their columns.

    `flat_T`, int32 if that suffices for N * `length`, else int64, ascending, is the index of the mask times `length`,
    plus that of the first pixel after the change. Before a mask's first pixel there is background.
    """

    flat_T: npt.NDArray[np.int32] | IntArray
    count: int
    length: int

    @property
    def per_mask_N(self) -> IntArray:
        """Number of changes of each mask; 0 without foreground."""
        # Numbers of another type would make NumPy convert the whole array.
        bounds = (np.arange(1, self.count + 1) * self.length).astype(self.flat_T.dtype)
        return np.diff(np.searchsorted(self.flat_T, bounds), prepend=0)


@torch.no_grad()
def mask_changes(foreground_NHW: torch.Tensor) -> Changes:
    """Find the changes of full-size masks, bool [N, H, W]; fastest if each mask is stored column by column."""
    count, height, width = foreground_NHW.shape
    flat_T = _in_chunks(lambda part: _compare_all(foreground_NHW[part]), foreground_NHW, height * width, height * width)
    return Changes(flat_T.cpu().numpy(), count, height * width)


@torch.no_grad()
def full_size_changes(logits_Nhw: torch.Tensor, foreground_Nhw: torch.Tensor, height: int, width: int) -> Changes:
    """Find the changes of masks resized to the image: bilinearly, antialiased where an axis shrinks, foreground > 0.

    Logits may have any float or signed integer dtype and be on any device; `foreground_Nhw` is `logits_Nhw > 0`.
    """
    count, rows_in, columns_in = logits_Nhw.shape
    device, length = logits_Nhw.device, height * width
    rows, columns = _taps(rows_in, height, device), _taps(columns_in, width, device)

    def find(part: slice) -> torch.Tensor:
        logits_nhw, foreground_nhw = logits_Nhw[part], foreground_Nhw[part]
        if rows is not None and columns is not None:
            cells = _mixed_cells(foreground_nhw)
            if device.type != "cpu" or np.count_nonzero(cells.numpy()) < _MOST_CELLS * cells.numel():
                changes = _compare_in_cells(logits_nhw, foreground_nhw, cells, rows, columns)
                # On a CPU, NumPy sorts faster.
                return changes.sort().values if device.type != "cpu" else torch.from_numpy(np.sort(changes.numpy()))
        return _in_chunks(
            lambda few: _compare_all(_resized_foreground(logits_nhw[few], height, width)),
            logits_nhw,
            length,
            max(rows_in, height) * max(columns_in, width),
        )

    flat_T = _in_chunks(find, logits_Nhw, length, rows_in * columns_in)
    return Changes(flat_T.cpu().numpy(), count, length)


def _in_chunks(find: Callable[[slice], torch.Tensor], masks: torch.Tensor, length: int, mask_size: int) -> torch.Tensor:
    """Find the changes of masks, as many at a time as memory allows for `mask_size` numbers each."""
    step = max(1, _limit(masks.device, _SAMPLES_CPU, _SAMPLES_GPU) // max(1, mask_size))
    # Noisy masks have tens of millions of changes: numbers as small as possible.
    small, dtype = (torch.int32 if count * length < 2**31 else torch.int64 for count in (step, len(masks)))
    parts = [find(slice(start, start + step)).to(small) for start in range(0, len(masks), step)]
    changes = torch.empty(sum(map(len, parts)), dtype=dtype, device=masks.device)
    for number, (part_T, small_T) in enumerate(zip(changes.split([*map(len, parts)]), parts, strict=True)):
        part_T.copy_(small_T).add_(number * step * length)
    return changes


def _compare_all(foreground_nHW: torch.Tensor) -> torch.Tensor:
    """Compare every pixel with the one before it: indices into [n, W * H]."""
    pixels_nL = foreground_nHW.mT.flatten(1)
    changed_nL = pixels_nL.clone()
    changed_nL[:, 1:] ^= pixels_nL[:, :-1]
    return _nonzero(changed_nL)


def _resized_foreground(logits_nhw: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize masks pixel by pixel: bool [n, H, W], each mask stored column by column."""
    rows, columns = (
        resize_bands(inputs, outputs, antialias=True, adjoint=False, count=_BANDS, device=logits_nhw.device)
        for inputs, outputs in zip(logits_nhw.shape[1:], (height, width), strict=True)
    )
    values_nhw = logits_nhw.float()
    values_nHw = torch.cat([band.weights_oi @ values_nhw[:, band.inputs] for band in rows], dim=1)
    values_nwH = values_nHw.mT
    values_nWH = torch.cat([band.weights_oi @ values_nwH[:, band.inputs] for band in columns], dim=1)
    return (values_nWH > 0).mT


@dataclass(frozen=True)
class _Taps:
    """Bilinear upsampling along one axis, cell by cell; C cells, K pixels in the largest.

    Attributes:
        pixels: of the whole axis.
        first_C: int64, the first pixel of each cell, whose two samples are the cell's ends.
        weights_2KC: float32, of the lower and the upper sample; beyond a cell's pixels the last one is repeated.
        inside_KC: whether the cell has such a pixel.
        last_2C: weights of each cell's last pixel.
    """

    pixels: int
    first_C: torch.Tensor
    weights_2KC: torch.Tensor
    inside_KC: torch.Tensor
    last_2C: torch.Tensor

    def first_pixels(self) -> "_Taps":
        """Keep only the first pixel of each cell."""
        return replace(self, weights_2KC=self.weights_2KC[:, :1], inside_KC=self.inside_KC[:1])


@lru_cache(maxsize=64)
def _taps(inputs: int, outputs: int, device: torch.device) -> _Taps | None:
    """Read the weights from the resizing matrix; None if a pixel has more than two, or a cell has no pixel."""
    if not 2 <= inputs <= outputs:
        return None
    matrix = resize_matrix(inputs, outputs, antialias=True).numpy()
    cell = np.minimum((matrix != 0).argmax(axis=1), inputs - 2)
    pixel = np.arange(outputs)
    lower, upper = matrix[pixel, cell], matrix[pixel, cell + 1]
    sizes = np.bincount(cell, minlength=inputs - 1)
    if np.count_nonzero(matrix) != np.count_nonzero([lower, upper]) or sizes.min() == 0:
        return None
    first = np.cumsum(sizes) - sizes
    within, last = np.arange(sizes.max())[:, None], sizes - 1
    weights = np.stack([lower, upper])[:, first + np.minimum(within, last)]
    parts = (first, weights, within <= last, weights[:, -1])
    return _Taps(outputs, *(torch.from_numpy(part).to(device) for part in parts))


def _mixed_cells(foreground_nhw: torch.Tensor) -> torch.Tensor:
    """Find the cells whose corners are of both kinds: bool [n, h - 1, w - 1]."""
    sideways = foreground_nhw[:, :, 1:] ^ foreground_nhw[:, :, :-1]
    down = foreground_nhw[:, 1:, 1:] ^ foreground_nhw[:, :-1, 1:]
    return down | sideways[:, 1:] | sideways[:, :-1]


def _compare_in_cells(
    logits_nhw: torch.Tensor, foreground_nhw: torch.Tensor, mixed: torch.Tensor, rows: _Taps, columns: _Taps
) -> torch.Tensor:
    """Find the changes of some masks, in no order: int64 indices into [n, W * H]."""
    (_, rows_in, columns_in), height, width = logits_nhw.shape, rows.pixels, columns.pixels
    # Even in a cell of one kind there may be a change from the cell above.
    below = mixed[:, :-1] & ~mixed[:, 1:]
    flat = [_changes_between_columns(logits_nhw, foreground_nhw, columns, height)]
    for cells, first_row, taps in ((mixed, 0, rows), (below, 1, rows.first_pixels())):
        shape = (taps.inside_KC.shape[0], columns.inside_KC.shape[0])
        limit = _limit(logits_nhw.device, _PIXELS_CPU, _PIXELS_GPU) // (shape[0] * shape[1])
        for part in _nonzero(cells).split(max(1, limit)):
            mask_M, cell_M = _divmod(part, (rows_in - 1 - first_row) * (columns_in - 1))
            row_M, column_M = _divmod(cell_M, columns_in - 1)
            row_M += first_row
            changed_KLM = _changes_in_cells(logits_nhw, mask_M, row_M, column_M, taps, columns)
            pixel, index = _divmod(_nonzero(changed_KLM), len(part))
            y, x = _divmod(pixel, shape[1])
            first_M = (mask_M * width + columns.first_C[column_M]) * height + rows.first_C[row_M]
            flat.append(first_M[index] + x * height + y)
    return torch.cat(flat)


def _changes_in_cells(
    logits_Nhw: torch.Tensor,
    mask_M: torch.Tensor,
    row_M: torch.Tensor,
    column_M: torch.Tensor,
    rows: _Taps,
    columns: _Taps,
) -> torch.Tensor:
    """Compare every pixel of the cells with the one above it: bool [K, L, M]."""
    previous_M = (row_M - 1).clamp(min=0)
    above_2M, lower_2M, upper_2M = (
        torch.stack([logits_Nhw[mask_M, row, column_M], logits_Nhw[mask_M, row, column_M + 1]]).float()
        for row in (previous_M, row_M, row_M + 1)
    )
    # The last pixel of the cell above. Above the first cell there is none; its first pixel is its first sample.
    last_2M = rows.last_2C.index_select(1, previous_M)
    last_2M = torch.where(row_M == 0, last_2M.new_tensor([[1.0], [0.0]]), last_2M)
    before_2M = _blend(last_2M[0], above_2M, last_2M[1], lower_2M)
    weights_KM, others_KM = rows.weights_2KC.index_select(2, row_M)
    values_2KM = _blend(weights_KM, lower_2M[:, None], others_KM, upper_2M[:, None])
    left_KM, right_KM = torch.cat([before_2M[:, None], values_2KM], dim=1).float()
    weights_LM, others_LM = columns.weights_2KC.index_select(2, column_M)
    foreground_KLM = _is_positive(weights_LM, left_KM[:, None], others_LM, right_KM[:, None])
    return (foreground_KLM[1:] ^ foreground_KLM[:-1]) & columns.inside_KC.index_select(1, column_M)


def _changes_between_columns(
    logits_Nhw: torch.Tensor, foreground_Nhw: torch.Tensor, columns: _Taps, height: int
) -> torch.Tensor:
    """Compare the top pixel of every column with the bottom pixel of the previous one; indices into [N, W * H]."""
    touching = (foreground_Nhw[:, 0] | foreground_Nhw[:, -1]).any(dim=1).nonzero()[:, 0]
    # The outermost pixels of a column are the outermost samples.
    edge_2nw = torch.stack([logits_Nhw[touching, 0], logits_Nhw[touching, -1]]).float()
    weights_2CK = columns.weights_2KC.mT
    pixels = _is_positive(weights_2CK[0], edge_2nw[..., :-1, None], weights_2CK[1], edge_2nw[..., 1:, None])
    top_nW, bottom_nW = pixels[..., columns.inside_KC.T]
    top_nW[:, 1:] ^= bottom_nW[:, :-1]
    index, x = _divmod(_nonzero(top_nW), columns.pixels)
    return (touching[index] * columns.pixels + x) * height


def _is_positive(
    weights: torch.Tensor, values: torch.Tensor, other_weights: torch.Tensor, other_values: torch.Tensor
) -> torch.Tensor:
    """Return whether `_blend` is > 0; on a CPU mostly in float32."""
    if weights.device.type != "cpu":
        return _blend(weights, values, other_weights, other_values) > 0
    # NumPy compares several times as fast.
    product, limit = (other_weights * other_values).numpy(), (-weights * values).numpy()
    positive, tie = product > limit, product == limit
    # Rounding preserves the order of product and limit unless it makes them equal.
    if tie.any():
        operands = np.broadcast_arrays(weights, values, other_weights, other_values)
        positive[tie] = _blend(*(torch.from_numpy(operand[tie]) for operand in operands)) > 0
    return torch.from_numpy(positive)


def _blend(
    weights: torch.Tensor, values: torch.Tensor, other_weights: torch.Tensor, other_values: torch.Tensor
) -> torch.Tensor:
    """Compute `weights * values + other_weights * other_values` as a matrix product does, in float64 before rounding.

    A matrix product rounds the first product and then, in a fused operation, the sum. In float64 the second product and
    the sign of the sum are exact.
    """
    return (weights * values).double() + other_weights.double() * other_values.double()


def _limit(device: torch.device, on_cpu: int, on_gpu: int) -> int:
    return on_cpu if device.type == "cpu" else on_gpu


def _divmod(index: torch.Tensor, divisor: int) -> tuple[torch.Tensor, torch.Tensor]:
    quotient = index // divisor
    return quotient, index - quotient * divisor


def _nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Return the indices of true values in a flattened bool tensor, int64; on a CPU by NumPy, which is faster."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
