"""SAM2's mask decoder for one image and many prompts: the package's results for less than a third of its work.

The package repeats the image's 4096 tokens for every prompt and projects all of them nine times. Here the image tokens
of a prompt are never written out (the algebra is in `folding.py`), but represented by a common base and rows from the
prompt's own 8 tokens, so that attention over the image needs products of 64 or 129 columns instead of 256. The sum of
squares for each LayerNorm is a quadratic form in the coefficients. Results agree with the package's up to rounding.

Shapes: B prompts, T prompt tokens, M mask outputs, H heads, d channels per head, E = H * d, N image tokens, C channels
per token, R = H * T rows of one update, K = 2R + 1 coefficients after two updates and a constant.
"""

from dataclasses import dataclass, replace

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
    """Prompts after the transformer, before masks are upscaled.

    They are the predicted IoU of each requested mask output, float32 [B, M] in [0, 1]; the weights of each mask's last,
    linear layer, float32 [B, M, D]; and the image tokens in folded form.
    """

    predicted_iou_BM: torch.Tensor
    hyper_BMD: torch.Tensor
    tokens: FoldedTokens

    def best(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the predicted IoU of each prompt's best mask, [B], and the weights of its last layer, [B, 1, D]."""
        iou_B, mask_B = self.predicted_iou_BM.max(dim=1)
        return iou_B, self.hyper_BMD[torch.arange(len(mask_B), device=mask_B.device), mask_B][:, None]


def _linear(x: torch.Tensor, weights: Linear) -> torch.Tensor:
    return F.linear(x, weights.weight, weights.bias)


def _norm(x: torch.Tensor, weights: Linear) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weights.weight, weights.bias, LAYER_NORM_EPS)


def _self_attention(queries: torch.Tensor, values: torch.Tensor, block: TokenBlock) -> torch.Tensor:
    """Attention among the tokens of a prompt."""
    query, key = (split_heads(_linear(queries, part)) for part in (block["self_query"], block["self_key"]))
    value = split_heads(_linear(values, block["self_value"]))
    return _linear(join_heads(F.scaled_dot_product_attention(query, key, value)), block["self_out"])


def _after_image(queries: torch.Tensor, gathered: torch.Tensor, block: TokenBlock) -> torch.Tensor:
    """Add what the tokens gathered from the image, and apply the MLP."""
    queries = _norm(queries + _linear(gathered, block["from_image_out"]), block["norm2"])
    return _norm(queries + _linear(F.relu(_linear(queries, block["mlp_in"])), block["mlp_out"]), block["norm3"])


def _softmax_over_tokens(scores_BRN: torch.Tensor) -> torch.Tensor:
    """Softmax over the prompt's tokens, head by head: how an image token attends to them."""
    by_head: torch.Tensor = scores_BRN.unflatten(1, (HEADS, -1))
    return by_head.softmax(dim=2).flatten(1, 2)


def gram(rows_BKC: torch.Tensor) -> torch.Tensor:
    """Mean products [B, K, K] of rows."""
    return torch.bmm(rows_BKC, rows_BKC.transpose(1, 2)).mul_(1 / rows_BKC.shape[-1])


def _inverse_deviation(
    coefficients_BKN: torch.Tensor, twice_linear_BKN: torch.Tensor, rows_BKC: torch.Tensor, square_BN: torch.Tensor
) -> torch.Tensor:
    """1 / standard deviation of `base + coefficients @ rows`, [B, 1, N] of the rows' dtype.

    `twice_linear_BKN` is 2 / C times the product of each centred row with the base tokens, and is overwritten;
    `square_BN` is the mean square of the base tokens.
    """
    variance = mean_square(coefficients_BKN, twice_linear_BKN, gram(rows_BKC)).add_(square_BN)
    # Rounding may make a variance of zero negative.
    return variance.clamp_(min=0).add_(LAYER_NORM_EPS).rsqrt_()[:, None]


def keys_and_values(terms: ImageTerms, rows: Rows, *, outer: bool) -> tuple[torch.Tensor, ...]:
    """Return the projections of image and rows after block 0, or with `outer` after block 1: keys, then values."""
    if outer:
        return terms.key2_2HdN, rows["key2"], terms.value2_HdN, rows["value2"]
    return terms.key1_2HdN, rows["key1"], terms.value1_HdN, rows["value1"]


class FastDecoder:
    """The decoder with folded weights. Holds no state between calls and may be called from several threads."""

    def __init__(self, weights: DecoderWeights, *, dtype: torch.dtype = torch.float32) -> None:
        """Keep the weights, moved by `DecoderWeights.to` to the device and dtype of decoding.

        `dtype` is that of everything of the image's size; prompt tokens and sums of squares are at least float32.
        """
        self.weights = weights
        self.dtype = dtype
        self.accurate = torch.promote_types(dtype, torch.float32)

    def upscale(
        self, terms: ImageTerms, tokens: FoldedTokens, index_B: torch.Tensor, hyper_BMD: torch.Tensor
    ) -> torch.Tensor:
        """Compute mask logits, float32 [B, M, 4Y, 4X], of some of the prompts that were decoded together.

        `index_B` selects the prompts; `hyper_BMD` are the last-layer weights of their masks.
        """
        if len(index_B) != len(tokens.rows_BKF):
            tokens = tokens.part(index_B)
        return upscale(self.weights.rows, terms, tokens, hyper_BMD)

    @property
    def num_masks(self) -> int:
        """Mask outputs of the model: the single one and the three of a multimask answer."""
        return self.weights.tokens.hyper[0][0].shape[0]

    def decode(self, terms: ImageTerms, prompt_tokens_BPC: torch.Tensor, *, first_mask: int = 0) -> DecodedPrompts:
        """Run the two-way transformer and the heads that read the P tokens of each embedded prompt.

        `terms` are those of the image, of this decoder's dtype. Masks before `first_mask` are not computed; with 1,
        only the three multimask outputs are.
        """
        learnt = self.weights.tokens.output_tokens_LC.expand(len(prompt_tokens_BPC), -1, -1)
        tokens = torch.cat([learnt, prompt_tokens_BPC.to(self.accurate)], dim=1)
        (batch, count, _), num_tokens = tokens.shape, terms.square1_N.shape[0]
        coefficients = tokens.new_empty(batch, 2 * HEADS * count + 1, num_tokens, dtype=self.dtype)
        folded = FoldedTokens(coefficients, coefficients[:, :0], *tokens.new_empty(2, batch, 1, num_tokens))
        first, second = self.weights.tokens.blocks

        queries = _norm(_self_attention(tokens, tokens, first), first["norm1"])
        query = split_heads(_linear(queries + tokens, first["from_image_query"]))
        queries = _after_image(queries, self._gather_first(terms, query), first)
        key, value = self._keys_and_values(queries, tokens, first)
        rows = self.weights.rows.first_rows(value) | {"values": value}
        self._update_first(terms, key, rows, folded)

        queries = _norm(queries + _self_attention(queries + tokens, queries, second), second["norm1"])
        query = split_heads(_linear(queries + tokens, second["from_image_query"]))
        gathered = self._gather(terms, query, rows, folded, outer=False)
        queries = _after_image(queries, gathered, second)
        key, value = self._keys_and_values(queries, tokens, second)
        more_rows = self.weights.rows.second_rows(value) | {"values": value}
        rows |= {name: torch.cat([rows[name], part], dim=1) for name, part in more_rows.items()}
        self._update_second(terms, key, rows, folded)
        folded = replace(folded, rows_BKF=rows["up"].to(self.dtype).contiguous())
        return self._heads(terms, tokens, queries, folded, rows, first_mask)

    def _keys_and_values(
        self, queries: torch.Tensor, tokens: torch.Tensor, block: TokenBlock
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a prompt's tokens for attention by the image, [B, H, T, d] each."""
        keys = split_heads(_linear(queries + tokens, block["to_image_key"]))
        return keys, split_heads(_linear(queries, block["to_image_value"]))

    def _gather_first(self, terms: ImageTerms, query_BHTd: torch.Tensor) -> torch.Tensor:
        """Average [B, T, E] of image tokens before block 0, where all prompts see the same image."""
        attention = torch.softmax(shared_product(query_BHTd.to(self.dtype), terms.key0_HdN), dim=-1)
        return join_heads(shared_average(attention, terms.value0_HdN)).to(self.accurate)

    def _update_first(self, terms: ImageTerms, key_BHTd: torch.Tensor, rows: Rows, folded: FoldedTokens) -> None:
        """Block 0, image to tokens: fill the first coefficients, the constant one, and the first scale."""
        attention = _softmax_over_tokens(shared_product(key_BHTd.to(self.dtype), terms.query0_HdN))
        twice_linear = shared_product(rows["values"].to(self.dtype), terms.norm1_HdN)
        folded.scale1_B1N.copy_(_inverse_deviation(attention, twice_linear, rows["rows1"], terms.square1_N))
        torch.mul(attention, folded.scale1_B1N.to(self.dtype), out=folded.coefficients_BKN[:, : attention.shape[1]])
        folded.coefficients_BKN[:, -1] = 1

    def _update_second(self, terms: ImageTerms, key_BHTd: torch.Tensor, rows: Rows, folded: FoldedTokens) -> None:
        """Block 1, image to tokens: fill the other coefficients and the second scale."""
        scores = self._scores(key_BHTd, terms.query1_2HdN, rows["query1"], folded)
        count = scores.shape[1]
        folded.coefficients_BKN[:, count : 2 * count] = _softmax_over_tokens(scores)
        twice_linear = torch.empty_like(folded.coefficients_BKN)
        twice_linear[:, :-1] = shared_product(rows["values"].to(self.dtype), terms.norm2_HdN)
        twice_linear[:, -1] = terms.norm2_constant_N
        twice_linear.mul_(folded.scale1_B1N.to(self.dtype))
        square = terms.square2_N * folded.scale1_B1N[:, 0].square()
        deviation = _inverse_deviation(folded.coefficients_BKN, twice_linear, rows["rows2"], square)
        folded.scale2_B1N.copy_(deviation)

    def _scores(
        self,
        query_BHTd: torch.Tensor,
        shared_2HdN: torch.Tensor,
        rows_BKE: torch.Tensor,
        folded: FoldedTokens,
        *,
        outer: bool = False,
    ) -> torch.Tensor:
        """Products [B, R, N] of tokens, scaled, with the projected image tokens after block 0.

        `shared_2HdN` are projected base tokens and projected positions, `rows_BKE` projected rows. With `outer` it is
        after block 1, whose scale multiplies base and rows together.
        """
        query = query_BHTd.to(self.dtype)
        of_rows = torch.matmul(query, split_heads(rows_BKE).to(self.dtype).transpose(2, 3)).flatten(1, 2)
        scores = shared_product(query, shared_2HdN[0]).mul_(folded.scale1_B1N.to(self.dtype))
        scores.baddbmm_(of_rows, folded.coefficients_BKN[:, : rows_BKE.shape[1]])
        if outer:
            scores.mul_(folded.scale2_B1N.to(self.dtype))
        return add_shared_product_(scores, query, shared_2HdN[1])

    def _gather(
        self, terms: ImageTerms, query_BHTd: torch.Tensor, rows: Rows, folded: FoldedTokens, *, outer: bool
    ) -> torch.Tensor:
        """Average [B, T, E] of projected image tokens under the attention of a prompt's tokens, in the accurate dtype.

        Keys are those of the base tokens, of the positions and of the folded rows; see `_scores`.
        """
        key_2HdN, key_rows_BKE, value_HdN, value_rows_BKE = keys_and_values(terms, rows, outer=outer)
        attention = self._scores(query_BHTd, key_2HdN, key_rows_BKE, folded, outer=outer).softmax(dim=-1)
        if outer:
            attention.mul_(folded.scale2_B1N.to(self.dtype))
        coefficients = folded.coefficients_BKN[:, : value_rows_BKE.shape[1]]
        weights = torch.bmm(attention, coefficients.transpose(1, 2)).unflatten(1, (HEADS, -1))
        from_rows = torch.matmul(weights.to(self.accurate), split_heads(value_rows_BKE))
        from_base = shared_average(attention.mul_(folded.scale1_B1N.to(self.dtype)), value_HdN)
        return join_heads(from_rows + from_base)

    def _heads(
        self,
        terms: ImageTerms,
        tokens: torch.Tensor,
        queries: torch.Tensor,
        folded: FoldedTokens,
        rows: Rows,
        first_mask: int,
    ) -> DecodedPrompts:
        """Run the last attention to the image, for the tokens that are read, and the heads that read them."""
        weights = self.weights.tokens
        # The learnt tokens are, in order: object score (not used), IoU, masks.
        queries, tokens = (
            torch.cat([x[:, 1:2], x[:, 2 + first_mask : 2 + self.num_masks]], dim=1) for x in (queries, tokens)
        )
        query = split_heads(_linear(queries + tokens, weights.final_query))
        gathered = self._gather(terms, query, rows, folded, outer=True)
        queries = _norm(queries + _linear(gathered, weights.final_out), weights.final_norm)
        iou = queries[:, 0]
        for layer in weights.iou[:-1]:
            iou = F.relu(_linear(iou, layer))
        iou = _linear(iou, weights.iou[-1]).sigmoid()
        return DecodedPrompts(iou[:, first_mask:], hypernetwork(weights, queries[:, 1:], first_mask), folded)
