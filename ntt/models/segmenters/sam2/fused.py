"""The decoder in a few GPU kernels, which never write attention to the image or what lies between it and the masks.

The steps of `decoder.py` and `upscaling.py` need some 30 times the memory traffic of their inputs and results. The
algebra is the same, and so are the numbers up to rounding. Only for prompts of one point, that is of eight tokens.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from ntt.models.segmenters.sam2 import kernels
from ntt.models.segmenters.sam2.decoder import (
    DecodedPrompts,
    FastDecoder,
    Rows,
    after_image,
    linear,
    norm,
    self_attention,
)
from ntt.models.segmenters.sam2.folding import LAYER_NORM_EPS, UPSCALE_NORM_EPS, DecoderWeights
from ntt.models.segmenters.sam2.image_terms import ImageTerms
from ntt.models.segmenters.sam2.products import HEADS, join_heads, split_heads
from ntt.models.segmenters.sam2.upscaling import FoldedTokens

_TOKENS, _ROWS = 8, 64


class FusedDecoder(FastDecoder):
    """`FastDecoder` for CUDA."""

    def __init__(self, weights: DecoderWeights, *, dtype: torch.dtype = torch.float32, tf32: bool = False) -> None:
        """Keep the weights; `tf32`: whether float32 products may be rounded to TensorFloat-32."""
        super().__init__(weights, dtype=dtype)
        # Image tokens a program works on at a time, and how the last layer is multiplied: as measured on an H200.
        self._block = 64 if dtype.itemsize == 2 else 32
        self.last_by_product = dtype.itemsize == 2
        self._constants: dict[str, Any] = {
            "PRECISION": "tf32" if tf32 else "ieee",
            "BLOCK": self._block,
            "num_warps": 4,
            "num_stages": 2,
        }

    def decode(self, terms: ImageTerms, prompt_tokens_BPC: torch.Tensor, *, first_mask: int = 0) -> DecodedPrompts:
        """As `FastDecoder.decode`."""
        learnt = self.weights.tokens.output_tokens_LC.expand(len(prompt_tokens_BPC), -1, -1)
        tokens = torch.cat([learnt, prompt_tokens_BPC.to(self.accurate)], dim=1)
        if tokens.shape[1] != _TOKENS or first_mask != 1:
            return super().decode(terms, prompt_tokens_BPC, first_mask=first_mask)
        batch, num_tokens = len(tokens), terms.key0_HdN.shape[-1]
        coefficients = torch.empty(batch, 2 * _ROWS + 1, num_tokens, dtype=self.dtype, device=tokens.device)
        scale1, scale2 = torch.empty(2, batch, 1, num_tokens, device=tokens.device)
        folded = FoldedTokens(coefficients, coefficients, scale1, scale2)
        queries, rows = self._first(terms, tokens, folded)
        queries, rows = self._second(terms, tokens, queries, folded, rows)
        folded = replace(folded, rows_BKF=rows["up"].to(self.dtype).contiguous())
        return self._heads(terms, tokens, queries, folded, rows, first_mask)

    def upscale(
        self, terms: ImageTerms, tokens: FoldedTokens, index_B: torch.Tensor, hyper_BMD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastDecoder.upscale`."""
        if hyper_BMD.shape[1] != 1 or tokens.coefficients_BKN.shape[1] != 2 * _ROWS + 1:
            return super().upscale(terms, tokens, index_B, hyper_BMD)
        rows, columns = terms.grid_yx
        logits = torch.empty(len(index_B), 1, rows * 4, columns * 4, device=index_B.device)
        if len(index_B):
            weights = self.weights.rows
            kernels.upscale_kernel[(rows * columns // self._block, len(index_B))](
                tokens.coefficients_BKN,
                tokens.rows_BKF,
                tokens.scale1_B1N,
                tokens.scale2_B1N,
                index_B,
                terms.up_NF,
                terms.skip1_NF,
                terms.skip0_NF,
                weights.up1_norm.weight,
                weights.up1_norm.bias,
                weights.up2,
                hyper_BMD[:, 0].contiguous(),
                logits,
                UPSCALE_NORM_EPS,
                NUM_TOKENS=rows * columns,
                GRID_X=columns,
                K=2 * _ROWS,
                FIRST=weights.up2.shape[0],
                SECOND=hyper_BMD.shape[2],
                LAST_BY_PRODUCT=self.last_by_product,
                **self._constants,
            )
        return logits

    def _first(self, terms: ImageTerms, tokens: torch.Tensor, folded: FoldedTokens) -> tuple[torch.Tensor, Rows]:
        """Block 0: queries and folded rows; fills the first coefficients and the first scale."""
        block = self.weights.tokens.blocks[0]
        queries = norm(self_attention(tokens, tokens, block), block.norm1)
        query = split_heads(linear(queries + tokens, block.from_image_query)).to(self.dtype)
        # All prompts see the same image here: their tokens are queries of one attention.
        key, value = (part.mT.contiguous()[None] for part in (terms.key0_HdN, terms.value0_HdN))
        together = query.transpose(0, 1).flatten(1, 2)[None]
        gathered = F.scaled_dot_product_attention(together, key, value, scale=1.0)[0].unflatten(1, (len(tokens), -1))
        queries = after_image(queries, join_heads(gathered.transpose(0, 1)).to(self.accurate), block)
        key = split_heads(linear(queries + tokens, block.to_image_key))
        value = split_heads(linear(queries, block.to_image_value))
        rows = self.weights.rows.first_rows(value)
        rows["values"] = value
        num_tokens = terms.square1_N.shape[0]
        kernels.first_kernel[(num_tokens // self._block, len(tokens))](
            self._block_diagonal(key),
            self._block_diagonal(value),
            _gram(rows["rows1"]).to(self.dtype),
            terms.query0_HdN,
            terms.norm1_HdN,
            terms.square1_N,
            folded.coefficients_BKN,
            folded.scale1_B1N,
            LAYER_NORM_EPS,
            N=num_tokens,
            R=_ROWS,
            E=terms.query0_HdN.shape[0] * terms.query0_HdN.shape[1],
            **self._constants,
        )
        return queries, rows

    def _second(
        self, terms: ImageTerms, tokens: torch.Tensor, queries: torch.Tensor, folded: FoldedTokens, rows: Rows
    ) -> tuple[torch.Tensor, Rows]:
        """Block 1: queries and rows of both blocks; fills the other coefficients and the second scale."""
        block = self.weights.tokens.blocks[1]
        queries = norm(queries + self_attention(queries + tokens, queries, block), block.norm1)
        query = split_heads(linear(queries + tokens, block.from_image_query))
        shared = (*terms.key1_2HdN, terms.value1_HdN)
        gathered = self._gathered(query, shared, (rows["key1"], rows["value1"]), folded, outer=False)
        queries = after_image(queries, gathered, block)
        key = split_heads(linear(queries + tokens, block.to_image_key))
        value = split_heads(linear(queries, block.to_image_value))
        second = self.weights.rows.second_rows(value)
        together = {name: torch.cat([rows[name], part], dim=1) for name, part in second.items()}
        gram = _gram(together["rows2"])
        num_tokens = terms.square2_N.shape[0]
        kernels.second_kernel[(num_tokens // self._block, len(tokens))](
            self._block_diagonal(key),
            self._products(key, rows["query1"]),
            self._block_diagonal(rows["values"]),
            self._block_diagonal(value),
            gram[:, :-1, :-1].to(self.dtype).contiguous(),
            gram[:, -1].contiguous(),
            *terms.query1_2HdN,
            terms.norm2_HdN[:HEADS],
            terms.norm2_HdN[HEADS:],
            terms.norm2_constant_N,
            terms.square2_N,
            folded.coefficients_BKN,
            folded.scale1_B1N,
            folded.scale2_B1N,
            LAYER_NORM_EPS,
            N=num_tokens,
            R=_ROWS,
            E=terms.value1_HdN.shape[0] * terms.value1_HdN.shape[1],
            **self._constants,
        )
        return queries, together

    def _read_image(
        self, terms: ImageTerms, query_BHTd: torch.Tensor, folded: FoldedTokens, rows: Rows
    ) -> torch.Tensor:
        if query_BHTd.shape[2] * HEADS not in (_ROWS // 2, _ROWS):
            return super()._read_image(terms, query_BHTd, folded, rows)
        shared = (*terms.key2_2HdN, terms.value2_HdN)
        return self._gathered(query_BHTd, shared, (rows["key2"], rows["value2"]), folded, outer=True)

    def _gathered(
        self,
        query_BHTd: torch.Tensor,
        shared: tuple[torch.Tensor, ...],
        rows: tuple[torch.Tensor, torch.Tensor],
        folded: FoldedTokens,
        *,
        outer: bool,
    ) -> torch.Tensor:
        """Average [B, T, E] of projected image tokens under the attention of a prompt's tokens.

        Args:
            query_BHTd: queries, scaled.
            shared: projections of the base tokens to keys, of the positions to keys, of the base tokens to values.
            rows: keys and values of the folded rows.
            folded: image tokens.
            outer: whether the second scale and the rows of both blocks belong to them, or the first only.
        """
        (batch, _, count, depth), num_tokens = query_BHTd.shape, folded.scale1_B1N.shape[-1]
        products = self._products(query_BHTd, rows[0])
        num_rows, width = HEADS * count, 2 * _ROWS if outer else _ROWS
        constant = products[..., width].float() if outer else torch.zeros_like(products[..., 0], dtype=torch.float32)
        of_rows, of_ones, of_image = (
            torch.empty(batch, num_rows, size, device=query_BHTd.device) for size in (width, 1, HEADS * depth)
        )
        kernels.gather_kernel[(batch,)](
            self._block_diagonal(query_BHTd),
            products[..., :width].contiguous(),
            constant.contiguous(),
            *shared,
            folded.coefficients_BKN,
            folded.scale1_B1N,
            folded.scale2_B1N,
            of_rows,
            of_ones,
            of_image,
            N=num_tokens,
            R=num_rows,
            K=width,
            E=HEADS * depth,
            ROWS=folded.coefficients_BKN.shape[1],
            OUTER=outer,
            **self._constants,
        )
        weights = torch.cat([of_rows, of_ones], dim=2) if outer else of_rows
        from_rows = torch.matmul(weights.unflatten(1, (HEADS, -1)), split_heads(rows[1]))
        own_head = of_image.view(batch, HEADS, count, HEADS, depth).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        return join_heads(from_rows + own_head)

    def _products(self, query_BHTd: torch.Tensor, rows_BKE: torch.Tensor) -> torch.Tensor:
        """Products [B, R, K] of tokens with projected rows, head by head."""
        products_BHTK = torch.matmul(query_BHTd.to(rows_BKE.dtype), split_heads(rows_BKE).transpose(2, 3))
        return products_BHTK.flatten(1, 2).to(self.dtype)

    def _block_diagonal(self, tokens_BHTd: torch.Tensor) -> torch.Tensor:
        """Rows of all heads side by side: [B, H * T, H * d], zero outside of a row's own head."""
        heads = torch.eye(HEADS, dtype=self.dtype, device=tokens_BHTd.device)[:, None, :, None]
        return (tokens_BHTd.to(self.dtype)[:, :, :, None] * heads).flatten(3, 4).flatten(1, 2)


def _gram(rows_BKC: torch.Tensor) -> torch.Tensor:
    return torch.bmm(rows_BKC, rows_BKC.transpose(1, 2)) / rows_BKC.shape[-1]
