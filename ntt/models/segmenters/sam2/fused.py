"""The decoder in a few GPU kernels, which write neither attention over the image nor intermediate maps to memory.

The steps of `decoder.py` and `upscaling.py` cause some 30 times the memory traffic of their inputs and results. The
algebra is the same, and the results agree up to rounding. Only for prompts of one point whose three multimask outputs
are decoded and of which one is drawn: eight tokens per prompt.
"""

from typing import Any

import torch
import torch.nn.functional as F

from ntt.models.segmenters.sam2 import kernels
from ntt.models.segmenters.sam2.decoder import FastDecoder, Rows, gram, keys_and_values
from ntt.models.segmenters.sam2.folding import LAYER_NORM_EPS, UPSCALE_NORM_EPS, DecoderWeights
from ntt.models.segmenters.sam2.image_terms import ImageTerms
from ntt.models.segmenters.sam2.products import HEADS, join_heads, split_heads
from ntt.models.segmenters.sam2.upscaling import FoldedTokens

_ROWS = 64


class FusedDecoder(FastDecoder):
    """`FastDecoder` for CUDA, for points."""

    def __init__(self, weights: DecoderWeights, *, dtype: torch.dtype = torch.float32, tf32: bool = False) -> None:
        """Keep the weights; with `tf32`, a float32 product is one in TensorFloat-32, not three."""
        super().__init__(weights, dtype=dtype)
        is_short = dtype.itemsize == 2
        # Image tokens per program: the fastest on an H200, except for "parts", which have not been timed.
        self._block = 64 if is_short else 32
        self.upscale_form = "product" if is_short else "sums" if tf32 else "parts"
        self._gelu = "tanh" if is_short else "logistic"
        self._constants: dict[str, Any] = {
            "PRECISION": "tf32" if is_short or tf32 else "tf32x3",
            "num_warps": 4,
            "num_stages": 2 if is_short or tf32 else 1,
        }

    def upscale(
        self, terms: ImageTerms, tokens: FoldedTokens, index_B: torch.Tensor, hyper_BMD: torch.Tensor
    ) -> torch.Tensor:
        """As `FastDecoder.upscale`, of one mask per prompt; where an index is -1, the logits are arbitrary."""
        rows, columns = terms.grid_yx
        logits = torch.empty(len(index_B), 1, rows * 4, columns * 4, device=index_B.device)
        if len(index_B):
            weights = self.weights.rows
            block = 64 if self.upscale_form == "parts" else self._block
            kernels.upscale_kernel[(rows * columns // block, len(index_B))](
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
                BLOCK=block,
                K=2 * _ROWS,
                FIRST=weights.up2.shape[0],
                SECOND=hyper_BMD.shape[2],
                FORM=self.upscale_form,
                GELU=self._gelu if logits.is_cuda else "plain",
                **self._constants,
            )
        return logits

    def _gather_first(self, terms: ImageTerms, query_BHTd: torch.Tensor) -> torch.Tensor:
        # The tokens of all prompts are queries of a single attention.
        key, value = (part.mT.contiguous()[None] for part in (terms.key0_HdN, terms.value0_HdN))
        together = query_BHTd.to(self.dtype).transpose(0, 1).flatten(1, 2)[None]
        gathered = F.scaled_dot_product_attention(together, key, value, scale=1.0)[0]
        return join_heads(gathered.unflatten(1, (len(query_BHTd), -1)).transpose(0, 1)).to(self.accurate)

    def _update_first(self, terms: ImageTerms, key_BHTd: torch.Tensor, rows: Rows, folded: FoldedTokens) -> None:
        kernels.first_kernel[self._grid(folded)](
            self._block_diagonal(key_BHTd),
            self._block_diagonal(rows["values"]),
            gram(rows["rows1"]).to(self.dtype),
            terms.query0_HdN,
            terms.norm1_HdN,
            terms.square1_N,
            folded.coefficients_BKN,
            folded.scale1_B1N,
            LAYER_NORM_EPS,
            **self._sizes(terms.query0_HdN, rows=_ROWS),
        )

    def _update_second(self, terms: ImageTerms, key_BHTd: torch.Tensor, rows: Rows, folded: FoldedTokens) -> None:
        gram_BKK = gram(rows["rows2"])
        kernels.second_kernel[self._grid(folded)](
            self._block_diagonal(key_BHTd),
            self._products(key_BHTd, rows["query1"]),
            self._block_diagonal(rows["values"][:, :HEADS]),
            self._block_diagonal(rows["values"][:, HEADS:]),
            gram_BKK[:, :-1, :-1].to(self.dtype).contiguous(),
            gram_BKK[:, -1].contiguous(),
            *terms.query1_2HdN,
            terms.norm2_HdN[:HEADS],
            terms.norm2_HdN[HEADS:],
            terms.norm2_constant_N,
            terms.square2_N,
            folded.coefficients_BKN,
            folded.scale1_B1N,
            folded.scale2_B1N,
            LAYER_NORM_EPS,
            **self._sizes(terms.query0_HdN, rows=_ROWS),
        )

    def _gather(
        self, terms: ImageTerms, query_BHTd: torch.Tensor, rows: Rows, folded: FoldedTokens, *, outer: bool
    ) -> torch.Tensor:
        key_2HdN, key_rows_BKE, value_HdN, value_rows_BKE = keys_and_values(terms, rows, outer=outer)
        (batch, _, count, depth), width = query_BHTd.shape, 2 * _ROWS if outer else _ROWS
        products = self._products(query_BHTd, key_rows_BKE)
        num_rows = HEADS * count
        constant = products[..., width].float() if outer else torch.zeros_like(products[..., 0], dtype=torch.float32)
        of_rows, of_ones, of_image = (
            torch.empty(batch, num_rows, size, device=query_BHTd.device) for size in (width, 1, HEADS * depth)
        )
        kernels.gather_kernel[(batch,)](
            self._block_diagonal(query_BHTd),
            products[..., :width].contiguous(),
            constant.contiguous(),
            *key_2HdN,
            value_HdN,
            folded.coefficients_BKN,
            folded.scale1_B1N,
            folded.scale2_B1N,
            of_rows,
            of_ones,
            of_image,
            K=width,
            ROWS=folded.coefficients_BKN.shape[1],
            OUTER=outer,
            **self._sizes(value_HdN, rows=num_rows),
        )
        weights = torch.cat([of_rows, of_ones], dim=2) if outer else of_rows
        from_rows = torch.matmul(weights.unflatten(1, (HEADS, -1)), split_heads(value_rows_BKE))
        own_head = of_image.view(batch, HEADS, count, HEADS, depth).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        return join_heads(from_rows + own_head)

    def _grid(self, folded: FoldedTokens) -> tuple[int, int]:
        """Programs of a kernel that works on a block of image tokens of one prompt."""
        batch, _, num_tokens = folded.scale1_B1N.shape
        return num_tokens // self._block, batch

    def _sizes(self, shared_HdN: torch.Tensor, *, rows: int) -> dict[str, Any]:
        heads, depth, num_tokens = shared_HdN.shape
        return {"N": num_tokens, "R": rows, "E": heads * depth, "BLOCK": self._block, **self._constants}

    def _products(self, query_BHTd: torch.Tensor, rows_BKE: torch.Tensor) -> torch.Tensor:
        """Products [B, R, K] of tokens with projected rows, head by head."""
        products_BHTK = torch.matmul(query_BHTd.to(rows_BKE.dtype), split_heads(rows_BKE).transpose(2, 3))
        return products_BHTK.flatten(1, 2).to(self.dtype)

    def _block_diagonal(self, tokens_BHTd: torch.Tensor) -> torch.Tensor:
        """Rows of all heads side by side: [B, H * T, H * d], zero outside each row's own head."""
        heads = torch.eye(HEADS, dtype=self.dtype, device=tokens_BHTd.device)[:, None, :, None]
        return (tokens_BHTd.to(self.dtype)[:, :, :, None] * heads).flatten(3, 4).flatten(1, 2)
