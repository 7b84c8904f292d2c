"""The mask decoder's weights, folded once so that decoding never touches a full image token.

What the two-way transformer adds to an image token is a sum over attention heads h and prompt tokens t of
`attention[h, t] * (value[h, t] @ out_projection[h])`: with 8 heads and 8 tokens, a prompt changes the image through 64
coefficients per pixel, not 256 channels. The LayerNorm that follows subtracts the mean (linear), divides by the
standard deviation (one number per pixel) and applies a gain. So the image tokens of one prompt are always

    token[n] = gain * scale[n] * (base[n] + coefficients[:, n] @ rows) + bias

with `base` common to all prompts, and every projection of the tokens is a projection of `base` (once per image) plus
a projection of `rows` (a few dozen vectors per prompt). This module multiplies the chains of weights that these
projections need. Centring (subtracting the mean over channels) is a matrix too, and multiplied in.

Shapes: C channels per token, E channels inside an attention (C / 2), H heads, d = E / H channels per head, M mask
tokens, S = 4 sub-pixels that a 2x2 transposed convolution makes of a pixel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch

from ntt.models.segmenters.sam2.products import HEADS

LAYER_NORM_EPS = 1e-5
UPSCALE_NORM_EPS = 1e-6
_DECODER = "sam_mask_decoder."
_TRANSFORMER = _DECODER + "transformer."

State = Mapping[str, torch.Tensor]


# Widths of the parts, in units of C / 2 = E.
FIRST_PARTS = {"rows1": 2, "key1": 1, "query1": 1, "value1": 1, "rows2": 2, "key2": 1, "value2": 1, "up": 2}
SECOND_PARTS = {"rows2": 2, "key2": 1, "value2": 1, "up": 2}
# `base` has one more row, the last, for the constant row of the second stage.
BASE_PARTS = {"key1": 1, "query1": 1, "value1": 1, "norm1": 1, "key2": 1, "value2": 1, "norm2": 2, "up": 2}


def _named_parts(rows: torch.Tensor, parts: Mapping[str, int]) -> dict[str, torch.Tensor]:
    unit = rows.shape[-1] // sum(parts.values())
    return dict(zip(parts, rows.split([count * unit for count in parts.values()], dim=-1), strict=True))


@dataclass(frozen=True)
class Linear:
    """Weight [out, in] and bias [out]."""

    weight: torch.Tensor
    bias: torch.Tensor


# The prompt-token side of a transformer block: our names, and the checkpoint's below the block.
_BLOCK_LAYERS = {
    "self_query": "self_attn.q_proj",
    "self_key": "self_attn.k_proj",
    "self_value": "self_attn.v_proj",
    "self_out": "self_attn.out_proj",
    "norm1": "norm1",
    "from_image_query": "cross_attn_token_to_image.q_proj",
    "from_image_value": "cross_attn_token_to_image.v_proj",
    "from_image_out": "cross_attn_token_to_image.out_proj",
    "norm2": "norm2",
    "mlp_in": "mlp.layers.0",
    "mlp_out": "mlp.layers.1",
    "norm3": "norm3",
    "to_image_key": "cross_attn_image_to_token.k_proj",
    "to_image_value": "cross_attn_image_to_token.v_proj",
}
TokenBlock: TypeAlias = dict[str, Linear]


@dataclass(frozen=True)
class TokenWeights:
    """All weights applied to prompt tokens.

    Attributes:
        hyper: for each of three layers, weights [M, in, out] and biases [M, 1, out] of the M hypernetworks.
        iou: layers of the predicted-IoU head; a sigmoid follows.
        output_tokens_LC: learnt tokens that precede the prompt's: object score, IoU, M masks.
    """

    blocks: tuple[TokenBlock, TokenBlock]
    final_query: Linear
    final_out: Linear
    final_norm: Linear
    hyper: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    iou: tuple[Linear, ...]
    output_tokens_LC: torch.Tensor


@dataclass(frozen=True)
class ImageWeights:
    """Projections applied once per image (or once per model) to what all prompts share.

    Attributes:
        layer0: [3E, C], for keys, values and image-side queries of the first block, from the unchanged tokens.
        base: [F, C], every projection of the centred base tokens that a prompt needs; see `BASE_PARTS`.
        gain_centred: [C, C], from the base of the first stage to that of the second.
        out_bias_C: bias of the first block's image-side output projection.
        pos_*_E_N: projections of the position encoding, biases included, [E, N].
        conv_s0, conv_s1: 1x1 convolutions of the two high-resolution feature maps.
        up1_bias_SD: all constants of the first transposed convolution, [S, C / 4].
        up2_bias_SD: the same of the second, [S, C / 8].
    """

    layer0: torch.Tensor
    base: torch.Tensor
    gain_centred: torch.Tensor
    out_bias_C: torch.Tensor
    pos_key0_EN: torch.Tensor
    pos_query0_EN: torch.Tensor
    pos_key1_EN: torch.Tensor
    pos_query1_EN: torch.Tensor
    pos_key2_EN: torch.Tensor
    conv_s0: Linear
    conv_s1: Linear
    up1_bias_SD: torch.Tensor
    up2_bias_SD: torch.Tensor


@dataclass(frozen=True)
class RowWeights:
    """Projections of a prompt's values to the folded rows of its updates, per head.

    Attributes:
        first_HdF: [H, d, F] for the values of block 0; the parts of F are `FIRST_PARTS`.
        second_HdF: [H, d, F] for the values of block 1; the parts of F are `SECOND_PARTS`.
        constant_F: [F], the row with coefficient 1 (biases of block 1), in the layout of `second_HdF`.
        up2: [C / 4, S * C / 8], the second transposed convolution.
        up1_norm: gain and bias of the LayerNorm between the two.
    """

    first_HdF: torch.Tensor
    second_HdF: torch.Tensor
    constant_F: torch.Tensor
    up2: torch.Tensor
    up1_norm: Linear

    def first_rows(self, values_BHTd: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows [B, R, F part] of block 0's update, by name."""
        return _named_parts(torch.matmul(values_BHTd, self.first_HdF).flatten(1, 2), FIRST_PARTS)

    def second_rows(self, values_BHTd: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows [B, R + 1, F part] of block 1's update, by name; the last is the constant row."""
        rows = torch.matmul(values_BHTd, self.second_HdF).flatten(1, 2)
        return _named_parts(torch.cat([rows, self.constant_F.expand(len(rows), 1, -1)], dim=1), SECOND_PARTS)


@dataclass(frozen=True)
class DecoderWeights:
    """Everything `FastDecoder` needs."""

    tokens: TokenWeights
    image: ImageWeights
    rows: RowWeights

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "DecoderWeights":
        """Copy to a device, and to the dtype of everything of the image's size; the rest stays at least float32."""
        accurate = torch.promote_types(dtype, torch.float32)
        moved: DecoderWeights = _move(self, device, accurate)
        rows = replace(moved.rows, up2=moved.rows.up2.to(dtype), up1_norm=_move(moved.rows.up1_norm, device, dtype))
        return replace(moved, rows=rows)


def _move(value: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Move every tensor in nested dataclasses, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(device=device, dtype=dtype).contiguous()
    if isinstance(value, tuple):
        return tuple(_move(item, device, dtype) for item in value)
    if isinstance(value, dict):
        return {name: _move(item, device, dtype) for name, item in value.items()}
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return replace(value, **{f.name: _move(getattr(value, f.name), device, dtype) for f in fields(value)})


def _linear(state: State, name: str) -> Linear:
    return Linear(state[f"{name}.weight"].double(), state[f"{name}.bias"].double())


def _centre(matrix: torch.Tensor) -> torch.Tensor:
    """Subtract from each row its mean."""
    return matrix - matrix.mean(dim=-1, keepdim=True)


def _scaled(linear: Linear, factor: float) -> Linear:
    return Linear(linear.weight * factor, linear.bias * factor)


def _out_with_constant(out: Linear, value: Linear, token_bias: torch.Tensor) -> Linear:
    """Output projection that includes what the value projection makes of the constant part of the image tokens.

    Attention weights sum to one, so a constant in all values remains that constant.
    """
    return Linear(out.weight, out.bias + out.weight @ (value.weight @ token_bias + value.bias))


def _token_block(state: State, index: int, image_bias: torch.Tensor) -> TokenBlock:
    """Take a block's layers; fold 1/sqrt(d) into queries and keys, and the values' bias into the output."""
    block = {name: _linear(state, f"{_TRANSFORMER}layers.{index}.{layer}") for name, layer in _BLOCK_LAYERS.items()}
    scale = (block["from_image_query"].weight.shape[0] / HEADS) ** -0.5
    value = block.pop("from_image_value")
    return block | {
        "from_image_query": _scaled(block["from_image_query"], scale),
        "from_image_out": _out_with_constant(block["from_image_out"], value, image_bias),
        "to_image_key": _scaled(block["to_image_key"], scale),
    }


def _token_weights(state: State, image_bias1: torch.Tensor, image_bias2: torch.Tensor) -> TokenWeights:
    final = _TRANSFORMER + "final_attn_token_to_image."
    query, value = _linear(state, final + "q_proj"), _linear(state, final + "v_proj")
    masks = state[_DECODER + "mask_tokens.weight"].shape[0]
    hyper = []
    for layer in range(3):
        parts = [_linear(state, f"{_DECODER}output_hypernetworks_mlps.{mask}.layers.{layer}") for mask in range(masks)]
        hyper.append((torch.stack([p.weight.T for p in parts]), torch.stack([p.bias[None] for p in parts])))
    return TokenWeights(
        blocks=(_token_block(state, 0, torch.zeros_like(image_bias1)), _token_block(state, 1, image_bias1)),
        final_query=_scaled(query, (query.weight.shape[0] / HEADS) ** -0.5),
        final_out=_out_with_constant(_linear(state, final + "out_proj"), value, image_bias2),
        final_norm=_linear(state, _TRANSFORMER + "norm_final_attn"),
        hyper=tuple(hyper),
        iou=tuple(_linear(state, f"{_DECODER}iou_prediction_head.layers.{layer}") for layer in range(3)),
        output_tokens_LC=torch.cat(
            [state[f"{_DECODER}{name}.weight"].double() for name in ("obj_score_token", "iou_token", "mask_tokens")]
        ),
    )


def _per_head(rows: torch.Tensor) -> torch.Tensor:
    """[E, F] -> [H, d, F]."""
    return rows.reshape(HEADS, -1, rows.shape[-1]).contiguous()


def fold(state: State, positions_CN: torch.Tensor) -> DecoderWeights:
    """Fold a checkpoint's decoder: weights in float64, on the device of the checkpoint.

    Of the state dict only `sam_mask_decoder.*` is read. `positions_CN`, float [C, N], is the position encoding of the
    image tokens in row-major order.
    """
    layers = [f"{_TRANSFORMER}layers.{index}." for index in range(2)]
    norm1, norm2 = (_linear(state, layer + "norm4") for layer in layers)
    (key0, value0), (key1, value1) = (
        [_linear(state, f"{layer}cross_attn_token_to_image.{part}") for part in ("k_proj", "v_proj")]
        for layer in layers
    )
    (query0, out0), (query1, out1) = (
        [_linear(state, f"{layer}cross_attn_image_to_token.{part}") for part in ("q_proj", "out_proj")]
        for layer in layers
    )
    final = _TRANSFORMER + "final_attn_token_to_image."
    key2, value2 = _linear(state, final + "k_proj").weight, _linear(state, final + "v_proj").weight
    conv1 = _linear(state, _DECODER + "output_upscaling.0")
    conv2 = _linear(state, _DECODER + "output_upscaling.3")
    up1 = conv1.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [S * C/4, C]
    positions = positions_CN.double()

    gain1, gain2 = norm1.weight, norm2.weight
    gain_centred = _centre(torch.diag(gain1).T).T  # centring after the gain: J @ diag(gain1)
    rows1 = _centre(out0.weight.T)  # [E, C]
    rows2_first = _centre(rows1 * gain1)
    rows2_second = _centre(out1.weight.T)
    constant = _centre(norm1.bias + out1.bias)

    def reads_of_stage2(rows: torch.Tensor) -> list[torch.Tensor]:
        return [rows, *((rows * gain2) @ weight.T for weight in (key2, value2, up1))]

    first = torch.cat(
        [rows1, *((rows1 * gain1) @ layer.weight.T for layer in (key1, query1, value1)), *reads_of_stage2(rows2_first)],
        dim=1,
    )
    second = torch.cat(reads_of_stage2(rows2_second), dim=1)
    stage2_reads = [(weight * gain2) @ gain_centred for weight in (key2, value2)]
    base = torch.cat(
        [
            *(layer.weight * gain1 for layer in (key1, query1, value1)),
            rows1,
            *stage2_reads,
            torch.cat([rows2_first, rows2_second]) @ gain_centred,
            (up1 * gain2) @ gain_centred,
            constant[None] @ gain_centred,
        ]
    )
    bias1 = norm1.bias
    sub = up1.shape[0] // 4
    image = ImageWeights(
        layer0=torch.cat([key0.weight, value0.weight, query0.weight]),
        base=base,
        gain_centred=gain_centred,
        out_bias_C=out0.bias,
        pos_key0_EN=key0.weight @ positions,
        pos_query0_EN=query0.weight @ positions + query0.bias[:, None],
        pos_key1_EN=key1.weight @ positions,
        pos_query1_EN=query1.weight @ (positions + bias1[:, None]) + query1.bias[:, None],
        pos_key2_EN=key2 @ positions,
        conv_s0=_linear(state, _DECODER + "conv_s0"),
        conv_s1=_linear(state, _DECODER + "conv_s1"),
        up1_bias_SD=conv1.bias + (up1 @ norm2.bias).reshape(4, sub),
        up2_bias_SD=conv2.bias.expand(4, -1),
    )
    rows = RowWeights(
        first_HdF=_per_head(first),
        second_HdF=_per_head(second),
        constant_F=torch.cat(reads_of_stage2(constant[None]), dim=1)[0],
        up2=conv2.weight.permute(0, 2, 3, 1).flatten(1),
        up1_norm=_linear(state, _DECODER + "output_upscaling.1"),
    )
    return DecoderWeights(_token_weights(state, norm1.bias, norm2.bias), image, rows)
