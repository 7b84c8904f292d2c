"""Mask logits from folded image tokens: two transposed convolutions and the prompt's own last layer.

Shapes: B prompts, M masks of each, N image tokens, n of them at a time, K coefficients, D channels, S = 4 sub-pixels
of a 2x2 transposed convolution, F = S * D.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ntt.models.segmenters.sam2.folding import UPSCALE_NORM_EPS, RowWeights, TokenWeights
from ntt.models.segmenters.sam2.image_terms import ImageTerms

_SUB_PIXELS = 4
# On a CPU, image tokens at a time: their widest form is 1 MiB, about what a core's cache holds.
_TOKENS_AT_A_TIME = 512
# On a GPU, prompts at a time: about 50 MiB each in float32.
_PROMPTS_AT_A_TIME = 64
_ALL = slice(None)


@dataclass(frozen=True)
class FoldedTokens:
    """Image tokens of B prompts after the transformer, in folded form, ready for upscaling.

    Attributes:
        coefficients_BKN: coefficients of the rows.
        rows_BKF: rows through the first transposed convolution.
        scale1_B1N: factor of the base tokens, at least float32.
        scale2_B1N: factor of base and rows together, at least float32.
    """

    coefficients_BKN: torch.Tensor
    rows_BKF: torch.Tensor
    scale1_B1N: torch.Tensor
    scale2_B1N: torch.Tensor

    def part(self, prompts: slice | torch.Tensor, tokens: slice = _ALL) -> "FoldedTokens":
        """Return some prompts, as a view if they are a slice, and some image tokens."""
        return FoldedTokens(
            self.coefficients_BKN[prompts][:, :, tokens],
            self.rows_BKF[prompts],
            self.scale1_B1N[prompts][:, :, tokens],
            self.scale2_B1N[prompts][:, :, tokens],
        )


def hypernetwork(weights: TokenWeights, mask_tokens_BMC: torch.Tensor, first_mask: int) -> torch.Tensor:
    """Turn the tokens of the masks from `first_mask` on into the weights of the last, linear layer, [B, M, D]."""
    x = mask_tokens_BMC.transpose(0, 1)
    for weight, bias in weights.hyper[:-1]:
        x = F.relu(torch.baddbmm(bias[first_mask:], x, weight[first_mask:]))
    weight, bias = weights.hyper[-1]
    return torch.baddbmm(bias[first_mask:], x, weight[first_mask:]).transpose(0, 1)


def _upscale_piece(
    weights: RowWeights,
    shared: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    tokens: FoldedTokens,
    hyper: torch.Tensor,
) -> torch.Tensor:
    """Logits [B, n * S * S, M] of n image tokens, with last-layer weights `hyper` [B, D, M].

    `shared` are the image's part of the first transposed convolution [n, F], the terms added to it [n, F], and those
    added to the second [n * S, F].
    """
    base_nF, skip1_nF, skip0_nF = shared
    batch, depth = len(hyper), weights.up1_norm.weight.shape[0]
    x = torch.bmm(tokens.coefficients_BKN.transpose(1, 2), tokens.rows_BKF)
    scale1, scale2 = (scale.to(x.dtype).transpose(1, 2) for scale in (tokens.scale1_B1N, tokens.scale2_B1N))
    x.addcmul_(base_nF, scale1)
    x = torch.addcmul(skip1_nF, x, scale2).view(batch, -1, depth)
    x = F.gelu(F.layer_norm(x, (depth,), weights.up1_norm.weight, weights.up1_norm.bias, UPSCALE_NORM_EPS))
    x = torch.baddbmm(skip0_nF.expand(batch, -1, -1), x, weights.up2.expand(batch, -1, -1))
    return torch.bmm(F.gelu(x).view(batch, -1, hyper.shape[1]), hyper)


def upscale(weights: RowWeights, terms: ImageTerms, tokens: FoldedTokens, hyper_BMD: torch.Tensor) -> torch.Tensor:
    """Compute mask logits [B, M, 4Y, 4X] for Y x X image tokens; they have the dtype of the last-layer weights."""
    (batch, masks, _), count = hyper_BMD.shape, terms.up_NF.shape[0]
    hyper = hyper_BMD.transpose(1, 2).to(tokens.coefficients_BKN.dtype)
    pixels_per_token = _SUB_PIXELS * _SUB_PIXELS
    out = hyper.new_empty(batch, count * pixels_per_token, masks)
    step, prompts_at_a_time = (count, _PROMPTS_AT_A_TIME) if hyper.is_cuda else (_TOKENS_AT_A_TIME, 1)
    for first in range(0, batch, prompts_at_a_time):
        prompts = slice(first, first + prompts_at_a_time)
        for start in range(0, count, step):
            part = slice(start, start + step)
            fine = slice(start * _SUB_PIXELS, (start + step) * _SUB_PIXELS)
            shared = (terms.up_NF[part], terms.skip1_NF[part], terms.skip0_NF[fine])
            logits = _upscale_piece(weights, shared, tokens.part(prompts, part), hyper[prompts])
            out[prompts, start * pixels_per_token : (start + step) * pixels_per_token] = logits
    rows, columns = terms.grid_yx
    pixels = out.view(batch, rows, columns, 2, 2, 2, 2, masks).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return pixels.reshape(batch, masks, rows * 4, columns * 4).to(hyper_BMD.dtype)
