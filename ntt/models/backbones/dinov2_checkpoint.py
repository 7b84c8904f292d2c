"""The layout of Meta's DINOv2 checkpoints: which model one belongs to, and its form for timm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ntt.errors import ConfigError, WeightsError

PATCH_SIZE = 14


@dataclass(frozen=True)
class Variant:
    """One published DINOv2 model: its names in timm and in Meta's `hubconf.py`, blocks and register tokens."""

    name: str
    timm_name: str
    hub_name: str
    feature_dim: int
    depth: int
    registers: int

    @property
    def resizing(self) -> tuple[float, bool]:
        """`interpolate_offset` and `interpolate_antialias` of the model in Meta's `dinov2/hub/backbones.py`."""
        return (0.0, True) if self.registers else (0.1, False)


_SIZES = (("small", 384, 12), ("base", 768, 12), ("large", 1024, 24), ("giant", 1536, 40))
VARIANTS: Mapping[str, Variant] = {
    f"dinov2_vit{size[0]}14{suffix}": Variant(
        name=f"dinov2_vit{size[0]}14{suffix}",
        timm_name=f"vit_{size}_patch14{suffix}_dinov2",
        hub_name=f"dinov2_vit{size[0]}14{hub_suffix}",
        feature_dim=feature_dim,
        depth=depth,
        registers=registers,
    )
    for size, feature_dim, depth in _SIZES
    for registers, suffix, hub_suffix in ((0, "", ""), (4, "_reg4", "_reg"))
}


def variant(name: str) -> Variant:
    """Look a model up; the ConfigError for an unknown name lists all."""
    if name not in VARIANTS:
        raise ConfigError(f"backbone.model={name!r} is no DINOv2 model. Use one of: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def identify(state: Mapping[str, torch.Tensor]) -> Variant | None:
    """Return the model that a checkpoint in Meta's layout belongs to, by its shapes; None if it matches none."""
    token, patches = state.get("cls_token"), state.get("patch_embed.proj.weight")
    if token is None or patches is None or tuple(patches.shape[1:]) != (3, PATCH_SIZE, PATCH_SIZE):
        return None
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    shape = (token.shape[-1], len(blocks), registers)
    return next((each for each in VARIANTS.values() if (each.feature_dim, each.depth, each.registers) == shape), None)


def require_model(state: Mapping[str, torch.Tensor], expected: Variant, path: Path) -> None:
    """Refuse a checkpoint of another model with a WeightsError."""
    model = identify(state)
    if model is expected:
        return
    if model is None:
        names = ", ".join(list(state)[:3])
        raise WeightsError(
            f"The weights file {path} is no DINOv2 checkpoint in Meta's layout (its tensors: {names}, ...). Give the "
            f"file of {expected.name}, which `ntt weights get {expected.name}` fetches."
        )
    raise WeightsError(
        f"The weights file {path} looks like {model.name}, but backbone.model={expected.name}. Set "
        f"backbone.model={model.name}, or give the file of {expected.name}, which `ntt weights get {expected.name}` "
        "fetches."
    )


def resize_position_embedding(
    embedding_1ND: torch.Tensor, rows: int, *, offset: float, antialias: bool
) -> torch.Tensor:
    """Resample a position embedding to another square grid with the arithmetic of Meta's code.

    With an `offset`, Meta's `interpolate_pos_encoding` passes the scale (rows + offset) / rows_before instead of the
    output size, so the sampling points are not those of a plain resize.

    Args:
        embedding_1ND: float [1, 1 + rows_before**2, D], the class token's embedding first.
        rows: rows and columns of the new grid; an embedding that has them already is returned unchanged.
        offset: added to the grid size before the scale.
        antialias: widen the filter where the grid shrinks.
    """
    count, channels = embedding_1ND.shape[1] - 1, embedding_1ND.shape[2]
    before = math.isqrt(count)
    if before * before != count:
        raise ValueError(f"a position embedding of {count} patches is not square")
    if rows == before:
        return embedding_1ND
    grid = embedding_1ND[:, 1:].float().reshape(1, before, before, channels).permute(0, 3, 1, 2)
    if offset:
        scale = (rows + offset) / before
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=antialias)
    else:
        grid = F.interpolate(grid, size=(rows, rows), mode="bicubic", antialias=antialias)
    patches = grid.permute(0, 2, 3, 1).reshape(1, -1, channels)
    return torch.cat((embedding_1ND[:, :1], patches.to(embedding_1ND.dtype)), dim=1)


def to_timm_layout(
    state: Mapping[str, torch.Tensor], model: Variant, network: nn.Module, rows: int
) -> Mapping[str, torch.Tensor]:
    """Convert a checkpoint, accepted by `require_model`, for timm's network with `rows` x `rows` patches.

    timm's own converter would resample position embeddings in another way.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = {name: tensor.float() for name, tensor in state.items()}
    offset, antialias = model.resizing
    positions = resize_position_embedding(state["pos_embed"], rows, offset=offset, antialias=antialias)
    # timm recognises Meta's layout by the mask token, which it drops.
    converted: Mapping[str, torch.Tensor] = checkpoint_filter_fn(
        {"mask_token": positions, **state, "pos_embed": positions}, network
    )
    return converted
