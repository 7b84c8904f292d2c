"""Names and shapes of Meta's DINOv2 checkpoints, and a plain ViT of our own that reads them.

The ViT is the yardstick of the tests: written from the papers' equations, with no code shared with timm or Meta.
"""

import math

import torch
from torch.nn import functional as F


def meta_shapes(
    *, dim: int = 384, depth: int = 12, registers: int = 0, swiglu_hidden: int | None = None, rows: int = 37
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint in Meta's layout (block_chunks=0)."""
    shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + rows * rows, dim)}
    if registers:
        shapes["register_tokens"] = (1, registers, dim)
    patches = "patch_embed.proj"
    shapes |= {"mask_token": (1, dim), f"{patches}.weight": (dim, 3, 14, 14), f"{patches}.bias": (dim,)}
    for index in range(depth):
        block = {"norm1": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "norm2": (dim,)}
        if swiglu_hidden is None:
            block |= {"mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
        else:
            block |= {"mlp.w12": (2 * swiglu_hidden, dim), "mlp.w3": (dim, swiglu_hidden)}
        for name, shape in block.items():
            shapes[f"blocks.{index}.{name}.weight"] = shape
            shapes[f"blocks.{index}.{name}.bias"] = shape[:1]
        shapes |= {f"blocks.{index}.ls{which}.gamma": (dim,) for which in (1, 2)}
    return shapes | {"norm.weight": (dim,), "norm.bias": (dim,)}


def meta_forward(state: dict[str, torch.Tensor], images: torch.Tensor, *, heads: int) -> torch.Tensor:
    """Normalised patch tokens [B, N, D] of standardised images [B, 3, H, W] whose grid fits `pos_embed`."""
    dim = state["cls_token"].shape[-1]
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patches = F.unfold(images, 14, stride=14).transpose(1, 2) @ kernel.flatten(1).T + bias
    batch = len(images)
    x = torch.cat((state["cls_token"].expand(batch, -1, -1), patches), dim=1) + state["pos_embed"]
    prefix = 1
    if "register_tokens" in state:
        x = torch.cat((x[:, :1], state["register_tokens"].expand(batch, -1, -1), x[:, 1:]), dim=1)
        prefix += state["register_tokens"].shape[1]
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for index in range(depth):
        part = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"blocks.{index}.")}
        x = x + part["ls1.gamma"] * _attention(part, _norm(part, "norm1", x), heads)
        x = x + part["ls2.gamma"] * _feed_forward(part, _norm(part, "norm2", x))
    return F.layer_norm(x, (dim,), state["norm.weight"], state["norm.bias"], 1e-6)[:, prefix:]


def _norm(part: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"], 1e-6)


def _linear(part: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ part[f"{name}.weight"].T + part[f"{name}.bias"]


def _attention(part: dict[str, torch.Tensor], x: torch.Tensor, heads: int) -> torch.Tensor:
    batch, count, dim = x.shape
    queries, keys, values = _linear(part, "attn.qkv", x).view(batch, count, 3, heads, -1).permute(2, 0, 3, 1, 4)
    weights = (queries @ keys.transpose(-2, -1) / math.sqrt(dim // heads)).softmax(dim=-1)
    return _linear(part, "attn.proj", (weights @ values).transpose(1, 2).reshape(batch, count, dim))


def _feed_forward(part: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    if "mlp.w12.weight" not in part:
        return _linear(part, "mlp.fc2", F.gelu(_linear(part, "mlp.fc1", x)))
    gate, value = _linear(part, "mlp.w12", x).chunk(2, dim=-1)
    return _linear(part, "mlp.w3", F.silu(gate) * value)
