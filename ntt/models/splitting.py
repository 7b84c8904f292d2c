"""A GPU kernel that splits float32 numbers for products in TensorFloat-32. Imports triton."""

# ruff: noqa: ANN001, ANN201
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

import torch
import triton
import triton.language as tl

_BLOCK = 1024


def split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split float32 values into their nearest numbers with the mantissa of TensorFloat-32, 10 bits, and the rest."""
    values = values.contiguous()
    high, low = torch.empty_like(values), torch.empty_like(values)
    split_kernel[(triton.cdiv(values.numel(), _BLOCK),)](values, high, low, values.numel(), BLOCK=_BLOCK)
    return high, low


@triton.jit
def split_kernel(values, high, low, count, BLOCK: tl.constexpr):
    """Write the leading bits of float32 values, and what is left of these."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(values + index, mask=index < count)
    leading = ((value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    tl.store(high + index, leading, mask=index < count)
    tl.store(low + index, value - leading, mask=index < count)
