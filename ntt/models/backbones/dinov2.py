"""DINOv2 (Oquab et al., arXiv 2304.07193; registers: Darcet et al., arXiv 2309.16588) with Meta's checkpoints.

Two implementations give the same features: timm's networks filled from Meta's files, the default, for which nothing
else has to be installed; and Meta's own code in a clone of the user's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ntt.base.settings import setting
from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.vit import TokensOf, VisionTransformer, VisionTransformerConfig, timm_tokens, without_values
from ntt.models.weights import WeightsFile, load_state_dict, require_model
from ntt.types import Placement

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


def identify(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name the model that a checkpoint in Meta's layout belongs to, by its shapes; None if it matches none."""
    token, patches = state.get("cls_token"), state.get("patch_embed.proj.weight")
    if token is None or patches is None or tuple(patches.shape[1:]) != (3, PATCH_SIZE, PATCH_SIZE):
        return None
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    shape = (token.shape[-1], len(blocks), registers)
    return next((name for name, v in VARIANTS.items() if (v.feature_dim, v.depth, v.registers) == shape), None)


def resize_position_embedding(
    embedding_1ND: torch.Tensor, rows: int, *, offset: float, antialias: bool
) -> torch.Tensor:
    """Resample a position embedding to another square grid with the arithmetic of Meta's code.

    With an `offset`, Meta's `interpolate_pos_encoding` passes the scale (rows + offset) / rows_before instead of the
    output size, so the sampling points are not those of a plain resize. `embedding_1ND` is [1, 1 + rows_before**2, D],
    the class token's embedding first.
    """
    channels, before = embedding_1ND.shape[2], math.isqrt(embedding_1ND.shape[1] - 1)
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
    """Convert a checkpoint for timm's network; its own converter would resample position embeddings in another way."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = {name: tensor.float() for name, tensor in state.items()}
    offset, antialias = model.resizing
    positions = resize_position_embedding(state["pos_embed"], rows, offset=offset, antialias=antialias)
    # timm recognises Meta's layout by the mask token, which it drops.
    converted: Mapping[str, torch.Tensor] = checkpoint_filter_fn(
        {"mask_token": positions, **state, "pos_embed": positions}, network
    )
    return converted


@dataclass(frozen=True, kw_only=True)
class Dinov2Config(VisionTransformerConfig):
    """Schema of the DINOv2 options."""

    SCHEMA: ClassVar[str] = "dinov2"

    model: str = setting("dinov2_vitl14", one_of=tuple(VARIANTS))
    """dinov2_vits14, dinov2_vitb14, dinov2_vitl14 or dinov2_vitg14, each also with registers (suffix _reg4)."""

    weights: str | None = None
    """Checkpoint file in Meta's layout; null: the official one below runtime.weights_root, its sha256 checked."""

    input_size: int = setting(518, le=8192)
    """Side of the encoder's square input, pixels; a multiple of 14. 518 is what the models were trained for."""

    implementation: str = setting("timm", one_of=("timm", "official"))
    """timm, or official: Meta's own code from `repo_dir`."""

    repo_dir: str | None = setting(None, decides=False)
    """Folder of a clone of Meta's DINOv2 repository, for implementation=official; null otherwise."""

    def build(self, placement: Placement) -> "Dinov2":
        """Construct the encoder."""
        return Dinov2(self, placement)


class Dinov2(VisionTransformer):
    """Patch tokens of a DINOv2 model after its final normalisation, as a feature map."""

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, config: Dinov2Config, placement: Placement) -> None:
        """Check the settings, and that the weights exist."""
        self._variant = VARIANTS[config.model]
        super().__init__(
            config, placement, input_size=config.input_size, patch_size=PATCH_SIZE, depth=self._variant.depth
        )
        self._repo_dir = None if config.repo_dir is None else Path(config.repo_dir).expanduser()
        _check_implementation(config.implementation, self._repo_dir)
        self._weights = WeightsFile.find(
            config.model, config.weights, placement.weights_root, setting="backbone.weights"
        )

    @property
    def weights_digest(self) -> str:
        """The sha256 of the file; the official file must have the registered one."""
        return self._weights.digest

    def build(self) -> tuple[nn.Module, TokensOf]:
        """Build the network from the checkpoint."""
        path = self._weights.path
        state = load_state_dict(path, expected_sha256=self._weights.expected_sha256)
        require_model(state, path, identify(state), self._variant.name, setting="backbone.model")
        if self._repo_dir is None:
            return _timm_network(self._variant, state, self.input_size // PATCH_SIZE, path)
        return _official_network(self._variant, state, self._repo_dir, path)


def _check_implementation(implementation: str, repo_dir: Path | None) -> None:
    if implementation == "timm" and repo_dir is not None:
        raise ConfigError(
            f"backbone.repo_dir={repo_dir} is not used by backbone.implementation=timm. Set it to null, or set "
            "backbone.implementation=official."
        )
    if implementation == "official" and (repo_dir is None or not (repo_dir / "hubconf.py").is_file()):
        problem = "backbone.repo_dir is not set" if repo_dir is None else f"there is no {repo_dir / 'hubconf.py'}"
        raise ConfigError(
            f"backbone.implementation=official needs Meta's code, and {problem}. Run "
            "`git clone https://github.com/facebookresearch/dinov2` and set backbone.repo_dir to that folder."
        )


def _timm_network(
    model: Variant, state: Mapping[str, torch.Tensor], rows: int, path: Path
) -> tuple[nn.Module, TokensOf]:
    import timm

    side = rows * PATCH_SIZE
    create = partial(timm.create_model, model.timm_name, pretrained=False, num_classes=0, img_size=side)
    network: Any = without_values(create)
    _fill(network, to_timm_layout(state, model, network, rows), path)
    return network, timm_tokens(network)


def _official_network(
    model: Variant, state: Mapping[str, torch.Tensor], repo_dir: Path, path: Path
) -> tuple[nn.Module, TokensOf]:
    # The initial random values are all replaced; the caller's random state must not change.
    with torch.random.fork_rng(devices=[]):
        load: Callable[..., Any] = torch.hub.load
        network = load(str(repo_dir), model.hub_name, source="local", pretrained=False)
    _fill(network, {name: tensor.float() for name, tensor in state.items()}, path)

    def tokens_of(images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = network.forward_features(images)["x_norm_patchtokens"]
        return tokens

    return network, tokens_of


def _fill(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(
            f"The weights file {path} does not fit the network: {error}. Use the official file of the model."
        ) from error
