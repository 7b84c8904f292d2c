"""SAM2's mask decoder for one image and many prompts: the package's numbers for less than a third of its work.

The package repeats the image's 4096 tokens for every prompt and projects all of them nine times. Here the tokens of
a prompt are never written out. They are held as a common base plus a few coefficients (`folding.py` has the algebra)

    token[n] = gain * scale[n] * (base[n] + sum_k coefficients[k, n] * rows[k]) + bias

in which `rows` come from the prompt's own 8 tokens, so that attention over the image needs products of 64 or 129
columns where it needed 256. The sum of squares for each LayerNorm is a quadratic form in the coefficients. Results
agree with the package's decoder to rounding.

Shapes: B prompts, T prompt tokens, M mask outputs, H heads, d channels a head, E = H * d, N image tokens, C channels
of a token, R = H * T rows of one update, K = 2R + 1 coefficients after two updates and a constant.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ntt.models.segmenters.sam2.folding import LAYER_NORM_EPS, DecoderWeights, Linear, TokenBlock
from ntt.models.segmenters.sam2.image_terms import ImageTerms
from ntt.models.segmenters.sam2.products import (
    HEADS,
    add_shared_product_,
    join_heads,
    mean_square,
    shared_average,
    shared_product,
    split_heads,
)
from ntt.models.segmenters.sam2.upscaling import FoldedTokens, hypernetwork, upscale

Rows = dict[str, torch.Tensor]


@dataclass(frozen=True)
class DecodedPrompts:
    """Prompts after the transformer, before any mask is drawn.

    Attributes:
        predicted_iou_BM: float32 in [0, 1], one for each mask output asked for.
        hyper_BMD: float32 weights of the mask's last, linear layer.
        tokens: the image tokens in folded form.
    """

    predicted_iou_BM: torch.Tensor
    hyper_BMD: torch.Tensor
    tokens: FoldedTokens


def linear(x: torch.Tensor, weights: Linear) -> torch.Tensor:
    """Apply a linear layer."""
    return F.linear(x, weights.weight, weights.bias)


def norm(x: torch.Tensor, weights: Linear) -> torch.Tensor:
    """Apply a LayerNorm."""
    return F.layer_norm(x, x.shape[-1:], weights.weight, weights.bias, LAYER_NORM_EPS)


def self_attention(queries: torch.Tensor, values: torch.Tensor, block: TokenBlock) -> torch.Tensor:
    """Attention among the tokens of a prompt."""
    query, key = (split_heads(linear(queries, part)) for part in (block.self_query, block.self_key))
    value = split_heads(linear(values, block.self_value))
    return linear(join_heads(F.scaled_dot_product_attention(query, key, value)), block.self_out)


def after_image(queries: torch.Tensor, gathered: torch.Tensor, block: TokenBlock) -> torch.Tensor:
    """Add what the tokens gathered from the image, then the MLP."""
    queries = norm(queries + linear(gathered, block.from_image_out), block.norm2)
    return norm(queries + linear(F.relu(linear(queries, block.mlp_in)), block.mlp_out), block.norm3)


def _inverse_deviation(
    coefficients_BKN: torch.Tensor, twice_linear_BKN: torch.Tensor, rows_BKC: torch.Tensor, square_BN: torch.Tensor
) -> torch.Tensor:
    """1 / standard deviation of `base + coefficients @ rows`, [B, 1, N] of the rows' dtype.

    Args:
        coefficients_BKN: the updates' coefficients.
        twice_linear_BKN: 2 / C times the product of each row with the base tokens; overwritten.
        rows_BKC: centred rows.
        square_BN: mean square of the base tokens.
    """
    gram = torch.bmm(rows_BKC, rows_BKC.transpose(1, 2)).mul_(1 / rows_BKC.shape[-1])
    variance = mean_square(coefficients_BKN, twice_linear_BKN, gram).add_(square_BN)
    # Rounding may take a variance of nothing below zero.
    return variance.clamp_(min=0).add_(LAYER_NORM_EPS).rsqrt_()[:, None]


class FastDecoder:
    """The decoder with folded weights. Holds no state between calls and may be called from several threads."""

    def __init__(self, weights: DecoderWeights, *, dtype: torch.dtype = torch.float32) -> None:
        """Keep the weights.

        Args:
            weights: folded weights, moved by `DecoderWeights.to` to the device and dtype decoding runs in.
            dtype: of everything of the image's size. Prompt tokens and sums of squares are float32 at least.
        """
        self.weights = weights
        self.dtype = dtype
        self.accurate = torch.promote_types(dtype, torch.float32)

    def upscale(
        self, terms: ImageTerms, tokens: FoldedTokens, index_B: torch.Tensor, hyper_BMD: torch.Tensor
    ) -> torch.Tensor:
        """Compute mask logits of some prompts.

        Args:
            terms: shared terms of the image.
            tokens: of all prompts that were decoded together.
            index_B: the prompts whose masks are computed.
            hyper_BMD: last-layer weights of their masks.

        Returns:
            float32 [B, M, 4Y, 4X].
        """
        if len(index_B) != len(tokens.rows_BKF):
            tokens = tokens.select(index_B)
        return upscale(self.weights.rows, terms, tokens, hyper_BMD)

    @property
    def num_masks(self) -> int:
        """Mask outputs of the model: the single one and the three of a multimask answer."""
        return self.weights.tokens.hyper[0][0].shape[0]

    def decode(self, terms: ImageTerms, prompt_tokens_BPC: torch.Tensor, *, first_mask: int = 0) -> DecodedPrompts:
        """Run the two-way transformer and the heads that read the prompts' tokens.

        Args:
            terms: shared terms of the image, of this decoder's dtype.
            prompt_tokens_BPC: embedded prompts, P tokens each.
            first_mask: masks before this one are not computed; 1 leaves the three of a multimask answer.

        Returns:
            Predicted IoUs and last layers of the masks from `first_mask` on, and the image tokens.
        """
        learnt = self.weights.tokens.output_tokens_LC.expand(len(prompt_tokens_BPC), -1, -1)
        tokens = torch.cat([learnt, prompt_tokens_BPC.to(self.accurate)], dim=1)
        queries, attention, rows = self._first_block(terms, tokens)
        scale1 = self._first_scale(terms, attention, rows)
        count = attention.shape[1]
        coefficients = attention.new_empty(len(tokens), 2 * count + 1, attention.shape[2])
        coefficients[:, :count] = attention
        coefficients[:, :count] *= scale1.to(self.dtype)
        coefficients[:, -1] = 1
        queries, rows = self._second_block(terms, tokens, queries, coefficients, scale1, rows)
        scale2 = self._second_scale(terms, coefficients, scale1, rows)
        folded = FoldedTokens(coefficients, rows["up"].to(self.dtype), scale1.to(self.dtype), scale2.to(self.dtype))
        return self._heads(terms, tokens, queries, folded, rows, first_mask)

    def _first_block(self, terms: ImageTerms, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Rows]:
        """Block 0, in which all prompts see the same image: queries, image-side attention [B, R, N], folded rows."""
        block = self.weights.tokens.blocks[0]
        queries = norm(self_attention(tokens, tokens, block), block.norm1)
        query = split_heads(linear(queries + tokens, block.from_image_query)).to(self.dtype)
        attention = torch.softmax(shared_product(query, terms.key0_HdN), dim=-1)
        gathered = join_heads(shared_average(attention, terms.value0_HdN)).to(self.accurate)
        queries = after_image(queries, gathered, block)
        key = split_heads(linear(queries + tokens, block.to_image_key)).to(self.dtype)
        value = split_heads(linear(queries, block.to_image_value))
        scores = shared_product(key, terms.query0_HdN)
        rows = self.weights.rows.first_rows(value)
        rows["values"] = value
        return queries, scores.unflatten(1, (HEADS, -1)).softmax(dim=2).flatten(1, 2), rows

    def _first_scale(self, terms: ImageTerms, attention_BRN: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Scale [B, 1, N] of the image tokens after block 0."""
        twice_linear = shared_product(rows["values"].to(self.dtype), terms.norm1_HdN)
        return _inverse_deviation(attention_BRN, twice_linear, rows["rows1"], terms.square1_N)

    def _second_block(
        self,
        terms: ImageTerms,
        tokens: torch.Tensor,
        queries: torch.Tensor,
        coefficients_BKN: torch.Tensor,
        scale1_B1N: torch.Tensor,
        rows: Rows,
    ) -> tuple[torch.Tensor, Rows]:
        """Block 1: queries, and the rows as the second stage reads them; fills the rest of `coefficients`."""
        block = self.weights.tokens.blocks[1]
        scale1 = scale1_B1N.to(self.dtype)
        count = coefficients_BKN.shape[1] // 2
        first = coefficients_BKN[:, :count]
        queries = norm(queries + self_attention(queries + tokens, queries, block), block.norm1)
        query = split_heads(linear(queries + tokens, block.from_image_query)).to(self.dtype)
        attention = self._scores(query, terms.key1_2HdN, rows["key1"], first, (scale1, None)).softmax(dim=-1)
        gathered = self._gather(attention, terms.value1_HdN, rows["value1"], first, scale1)
        queries = after_image(queries, gathered, block)
        key = split_heads(linear(queries + tokens, block.to_image_key)).to(self.dtype)
        value = split_heads(linear(queries, block.to_image_value))
        scores = self._scores(key, terms.query1_2HdN, rows["query1"], first, (scale1, None))
        attention = scores.unflatten(1, (HEADS, -1)).softmax(dim=2).flatten(1, 2)
        coefficients_BKN[:, count : 2 * count] = attention
        second = self.weights.rows.second_rows(value)
        together = {name: torch.cat([rows[name], part], dim=1) for name, part in second.items()}
        together["values"] = torch.cat([rows["values"], value], dim=1)
        return queries, together

    def _second_scale(
        self, terms: ImageTerms, coefficients_BKN: torch.Tensor, scale1_B1N: torch.Tensor, rows: Rows
    ) -> torch.Tensor:
        """Scale [B, 1, N] of the image tokens after block 1, in place of the first."""
        twice_linear = torch.empty_like(coefficients_BKN)
        shared_product(rows["values"].to(self.dtype), terms.norm2_HdN, into_BRN=twice_linear)
        twice_linear[:, -1] = terms.norm2_constant_N
        twice_linear.mul_(scale1_B1N.to(self.dtype))
        square = terms.square2_N * scale1_B1N[:, 0].square()
        return _inverse_deviation(coefficients_BKN, twice_linear, rows["rows2"], square)

    def _scores(
        self,
        query_BHTd: torch.Tensor,
        shared_2HdN: torch.Tensor,
        rows_BKE: torch.Tensor,
        coefficients_BKN: torch.Tensor,
        scales: tuple[torch.Tensor, torch.Tensor | None],
    ) -> torch.Tensor:
        """Products [B, R, N] of tokens with the projected image tokens of a later stage.

        Args:
            query_BHTd: queries or keys of the prompt's tokens, scaled.
            shared_2HdN: projected base tokens and projected positions.
            rows_BKE: projected rows.
            coefficients_BKN: coefficients that belong to the rows.
            scales: [B, 1, N] factor of the base tokens, and of base and rows together if not None.
        """
        inner, outer = scales
        folded = torch.matmul(query_BHTd, split_heads(rows_BKE).to(self.dtype).transpose(2, 3)).flatten(1, 2)
        scores = shared_product(query_BHTd, shared_2HdN[0]).mul_(inner).baddbmm_(folded, coefficients_BKN)
        if outer is not None:
            scores.mul_(outer)
        return add_shared_product_(scores, query_BHTd, shared_2HdN[1])

    def _gather(
        self,
        attention_BRN: torch.Tensor,
        shared_HdN: torch.Tensor,
        rows_BKE: torch.Tensor,
        coefficients_BKN: torch.Tensor,
        scale_B1N: torch.Tensor,
    ) -> torch.Tensor:
        """Average [B, T, E] of projected image tokens under the attention, in the accurate dtype.

        `scale` is the factor of the base tokens. `attention` must already hold any factor common to base and rows;
        it is overwritten.
        """
        weights = torch.bmm(attention_BRN, coefficients_BKN.transpose(1, 2)).unflatten(1, (HEADS, -1))
        from_rows = torch.matmul(weights.to(self.accurate), split_heads(rows_BKE))
        return join_heads(from_rows + shared_average(attention_BRN.mul_(scale_B1N), shared_HdN))

    def _heads(
        self,
        terms: ImageTerms,
        tokens: torch.Tensor,
        queries: torch.Tensor,
        folded: FoldedTokens,
        rows: Rows,
        first_mask: int,
    ) -> DecodedPrompts:
        """Last attention to the image, for the tokens that are read, and what reads them."""
        weights = self.weights.tokens
        # Learnt tokens come in this order: object score (not used here), IoU, masks.
        queries, tokens = (
            torch.cat([x[:, 1:2], x[:, 2 + first_mask : 2 + self.num_masks]], dim=1) for x in (queries, tokens)
        )
        query = split_heads(linear(queries + tokens, weights.final_query)).to(self.dtype)
        gathered = self._read_image(terms, query, folded, rows)
        queries = norm(queries + linear(gathered, weights.final_out), weights.final_norm)
        iou = queries[:, 0]
        for layer in weights.iou[:-1]:
            iou = F.relu(linear(iou, layer))
        iou = linear(iou, weights.iou[-1]).sigmoid()
        return DecodedPrompts(iou[:, first_mask:], hypernetwork(weights, queries[:, 1:], first_mask), folded)

    def _read_image(
        self, terms: ImageTerms, query_BHTd: torch.Tensor, folded: FoldedTokens, rows: Rows
    ) -> torch.Tensor:
        """Average [B, T, E] of the image tokens after both blocks, projected, under the attention of queries."""
        scales = (folded.scale1_B1N, folded.scale2_B1N)
        scores = self._scores(query_BHTd, terms.key2_2HdN, rows["key2"], folded.coefficients_BKN, scales)
        attention = scores.softmax(dim=-1).mul_(folded.scale2_B1N)
        return self._gather(attention, terms.value2_HdN, rows["value2"], folded.coefficients_BKN, folded.scale1_B1N)
