"""Products between the few rows of each prompt and the image's shared columns.

Shapes: B prompts, H heads, T prompt tokens, d channels per head, N image tokens, K rows.
"""

import torch

HEADS = 8
_BLOCK = 32


def split_heads(x_BKE: torch.Tensor) -> torch.Tensor:
    """Split channels into heads: [B, K, H * d] -> [B, H, K, d]."""
    by_head: torch.Tensor = x_BKE.unflatten(-1, (HEADS, -1))
    return by_head.transpose(1, 2)


def join_heads(x_BHTd: torch.Tensor) -> torch.Tensor:
    """Undo `split_heads`: [B, H, T, d] -> [B, T, H * d]."""
    return x_BHTd.transpose(1, 2).flatten(2)


def shared_product(tokens_BHTd: torch.Tensor, shared_HdN: torch.Tensor) -> torch.Tensor:
    """Multiply every prompt's rows with the image's columns, head by head, without copying them: [B, H * T, N]."""
    if tokens_BHTd.is_cuda:
        return torch.einsum("bhtd,hdn->bhtn", tokens_BHTd, shared_HdN).flatten(1, 2)
    product_BHTN = tokens_BHTd.new_empty(*tokens_BHTd.shape[:3], shared_HdN.shape[-1])
    for tokens_HTd, product_HTN in zip(tokens_BHTd, product_BHTN, strict=True):
        torch.bmm(tokens_HTd, shared_HdN, out=product_HTN)
    return product_BHTN.flatten(1, 2)


def add_shared_product_(sum_BRN: torch.Tensor, tokens_BHTd: torch.Tensor, shared_HdN: torch.Tensor) -> torch.Tensor:
    """Add `shared_product` to `sum_BRN` in place and return it."""
    heads, count = tokens_BHTd.shape[1:3]
    by_head = sum_BRN.unflatten(1, (heads, count))
    if tokens_BHTd.is_cuda:
        by_head.add_(torch.einsum("bhtd,hdn->bhtn", tokens_BHTd, shared_HdN))
        return sum_BRN
    for tokens_HTd, sum_HTN in zip(tokens_BHTd, by_head, strict=True):
        sum_HTN.baddbmm_(tokens_HTd, shared_HdN)
    return sum_BRN


def shared_average(attention_BRN: torch.Tensor, shared_HdN: torch.Tensor) -> torch.Tensor:
    """Sum the image's columns under each prompt's weights, whose rows are ordered by head, then token: [B, H, T, d]."""
    attention_BHTN = attention_BRN.unflatten(1, (shared_HdN.shape[0], -1))
    if attention_BRN.is_cuda:
        return torch.einsum("bhtn,hdn->bhtd", attention_BHTN, shared_HdN)
    columns_HNd = shared_HdN.transpose(1, 2)
    return torch.stack([torch.bmm(attention_HTN, columns_HNd) for attention_HTN in attention_BHTN])


def mean_square(coefficients_BKN: torch.Tensor, twice_linear_BKN: torch.Tensor, gram_BKK: torch.Tensor) -> torch.Tensor:
    """Quadratic and linear part of a mean square: sum_k c_k * (twice_linear_k + sum_l gram_kl * c_l), [B, N].

    The Gram matrix is symmetric, so only its upper blocks of 32 rows are multiplied, those off the diagonal with
    weight two. `twice_linear_BKN` is overwritten; the result has the dtype of the Gram matrix.
    """
    dtype = coefficients_BKN.dtype
    for start in range(0, gram_BKK.shape[1], _BLOCK):
        stop = start + _BLOCK
        upper = gram_BKK[:, start:stop, start:].clone()
        upper[:, :, _BLOCK:] *= 2
        twice_linear_BKN[:, start:stop].baddbmm_(upper.to(dtype), coefficients_BKN[:, start:])
    return twice_linear_BKN.mul_(coefficients_BKN).sum(dim=1, dtype=gram_BKK.dtype)
