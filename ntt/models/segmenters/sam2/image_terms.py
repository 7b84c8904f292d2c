"""What all prompts of one image share, computed once per image.

Shapes: B prompts, H heads, d channels per head, N image tokens, C channels per token, S = 4 sub-pixels of a 2x2
transposed convolution, Y and X rows and columns of image tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ntt.models.segmenters.sam2.folding import BASE_PARTS, ImageWeights
from ntt.models.segmenters.sam2.products import HEADS


@dataclass(frozen=True)
class ImageTerms:
    """Image-side projections of one image; see `ntt/models/segmenters/sam2/folding.py` for what each is for.

    Attributes:
        key*, value*, query*: [H, d, N] of the dtype of decoding; with a leading 2, the projection of the base tokens
            and that of the position encoding.
        norm1_HdN, norm2_HdN: products of the update's rows with the base tokens, times 2 / C; norm2 has 2H heads.
        norm2_constant_N: the same for the constant row.
        square1_N, square2_N: mean square of the base tokens, in the dtype of the features.
        up_NF: base tokens through the first transposed convolution, [N, S * C / 4].
        skip1_NF: high-resolution features and constants added there, [N, S * C / 4].
        skip0_NF: the same for the second transposed convolution, [N * S, S * C / 8].
        grid_yx: rows and columns of image tokens.
    """

    key0_HdN: torch.Tensor
    value0_HdN: torch.Tensor
    query0_HdN: torch.Tensor
    key1_2HdN: torch.Tensor
    value1_HdN: torch.Tensor
    query1_2HdN: torch.Tensor
    key2_2HdN: torch.Tensor
    value2_HdN: torch.Tensor
    norm1_HdN: torch.Tensor
    norm2_HdN: torch.Tensor
    norm2_constant_N: torch.Tensor
    square1_N: torch.Tensor
    square2_N: torch.Tensor
    up_NF: torch.Tensor
    skip1_NF: torch.Tensor
    skip0_NF: torch.Tensor
    grid_yx: tuple[int, int]


def _skip1(map_DHW: torch.Tensor, bias_SD: torch.Tensor) -> torch.Tensor:
    """Arrange a stride-8 map as [N, S * D]: token, sub-pixel of the first doubling, channel."""
    depth, height, width = map_DHW.shape
    cells = map_DHW.reshape(depth, height // 2, 2, width // 2, 2).permute(1, 3, 2, 4, 0)
    return (cells.reshape(-1, 4, depth) + bias_SD).flatten(1)


def _skip0(map_DHW: torch.Tensor, bias_SD: torch.Tensor) -> torch.Tensor:
    """Arrange a stride-4 map as [N * S, S * D]: token, sub-pixel of the first doubling, of the second, channel."""
    depth, height, width = map_DHW.shape
    cells = map_DHW.reshape(depth, height // 4, 2, 2, width // 4, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
    return (cells.reshape(-1, 4, depth) + bias_SD).flatten(1)


def compute_image_terms(
    weights: ImageWeights,
    embedding_CYX: torch.Tensor,
    fine_maps: tuple[torch.Tensor, torch.Tensor],
    *,
    dtype: torch.dtype,
) -> ImageTerms:
    """Project one image's features for all its prompts; weights are on the device of the features.

    The image embedding, float32 [C, Y, X], has the no-mask embedding added; the fine maps are those of the image
    encoder, float32 [C, 4Y, 4X] and [C, 2Y, 2X]. `dtype` is that of decoding; sums of squares stay float32.
    """
    channels, rows, columns = embedding_CYX.shape
    tokens = embedding_CYX.flatten(1)
    key0, value0, query0 = (weights.layer0 @ tokens).chunk(3)
    with_bias = tokens + weights.out_bias_C[:, None]
    base1 = with_bias - with_bias.mean(dim=0)
    base2 = weights.gain_centred @ base1
    width = channels // 2
    *parts, constant = (weights.base @ base1).split([count * width for count in BASE_PARTS.values()] + [1])
    part = dict(zip(BASE_PARTS, parts, strict=True))
    fine0, fine1 = (
        F.conv2d(fine_map[None], conv.weight, conv.bias)[0]
        for fine_map, conv in zip(fine_maps, (weights.conv_s0, weights.conv_s1), strict=True)
    )
    position = {"key1": weights.pos_key1_EN, "query1": weights.pos_query1_EN, "key2": weights.pos_key2_EN}

    def per_head(map_EN: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
        return map_EN.reshape(heads, -1, map_EN.shape[-1]).to(dtype).contiguous()

    def with_position(name: str) -> torch.Tensor:
        """Stack a projection and its position part: the first is scaled per token before the two are added."""
        return torch.stack([per_head(part[name]), per_head(position[name])])

    return ImageTerms(
        key0_HdN=per_head(key0 + weights.pos_key0_EN),
        value0_HdN=per_head(value0),
        query0_HdN=per_head(query0 + weights.pos_query0_EN),
        key1_2HdN=with_position("key1"),
        value1_HdN=per_head(part["value1"]),
        query1_2HdN=with_position("query1"),
        key2_2HdN=with_position("key2"),
        value2_HdN=per_head(part["value2"]),
        norm1_HdN=per_head(part["norm1"] * (2 / channels)),
        norm2_HdN=per_head(part["norm2"] * (2 / channels), 2 * HEADS),
        norm2_constant_N=constant[0] * (2 / channels),
        square1_N=base1.square().mean(dim=0),
        square2_N=base2.square().mean(dim=0),
        up_NF=part["up"].T.to(dtype).contiguous(),
        skip1_NF=_skip1(fine1, weights.up1_bias_SD).to(dtype),
        skip0_NF=_skip0(fine0, weights.up2_bias_SD).to(dtype),
        grid_yx=(rows, columns),
    )
