"""The eight SAM2 models: their image encoders, and reading their checkpoints.

Only the parts that segment a single image are built. The image encoder is the package's; the prompt encoder and the
mask decoder are ours and take their weights straight from the checkpoint. The models' memory is left out.
"""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ntt.errors import ConfigError, WeightsError
from ntt.models.weights import DEFAULT_ROOT, fetch_command, load_state_dict, require_model

CANVAS_PX = 1024
TOKEN_GRID = 64
CHANNELS = 256
_ENCODER = "image_encoder."
_READ = ("sam_mask_decoder.", "sam_prompt_encoder.", "no_mem_embed")
# A parameter that only the 2.1 models have.
_MARK_OF_2_1 = "no_obj_embed_spatial"


@dataclass(frozen=True)
class Architecture:
    """Size of a Hiera image encoder, from the package's configuration of the model."""

    embed_dim: int
    num_heads: int
    stages: tuple[int, int, int, int]
    global_attention_blocks: tuple[int, int, int]
    window_sizes: tuple[int, int, int, int]
    position_grid: tuple[int, int]


_SIZES: Mapping[str, Architecture] = {
    "tiny": Architecture(96, 1, (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7), (7, 7)),
    "small": Architecture(96, 1, (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7), (7, 7)),
    "base_plus": Architecture(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), (14, 14)),
    "large": Architecture(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8), (7, 7)),
}
ARCHITECTURES: Mapping[str, Architecture] = {
    f"{family}_hiera_{size}": _SIZES[size] for family in ("sam2", "sam2.1") for size in _SIZES
}


class _NoPositions(nn.Module):
    """Replaces the encoder's position maps, which only the models' memory reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :0]


def skip_package_set_up() -> None:
    """Allow modules of `sam2` to be imported without its `__init__`, which only initialises Hydra globally."""
    spec = importlib.util.find_spec("sam2")
    if spec is not None and "sam2" not in sys.modules:
        sys.modules["sam2"] = importlib.util.module_from_spec(spec)


def build_image_encoder(model: str) -> nn.Module:
    """Build the image encoder of a model in `ARCHITECTURES` with arbitrary weights, on the CPU, in evaluation mode.

    It takes [B, 3, 1024, 1024] and returns a dict with the maps `backbone_fpn`, finest first. Neither Hydra's global
    state nor the random generators change. A ConfigError if the package `sam2` is not installed.
    """
    size = ARCHITECTURES[model]
    try:
        skip_package_set_up()
        from sam2.modeling.backbones.hieradet import Hiera
        from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"segmenter=sam2 needs the package {error.name!r}, which is not installed. "
            "Install it with `pip install 'ntt[sam2]'`, or choose segmenter=regions, which needs no weights."
        ) from error
    with torch.random.fork_rng(devices=[]):
        trunk = Hiera(
            embed_dim=size.embed_dim,
            num_heads=size.num_heads,
            stages=size.stages,
            global_att_blocks=size.global_attention_blocks,
            window_spec=size.window_sizes,
            window_pos_embed_bkg_spatial_size=size.position_grid,
        )
        neck = FpnNeck(
            position_encoding=_NoPositions(),
            d_model=CHANNELS,
            backbone_channel_list=trunk.channel_list,
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        )
        encoder: nn.Module = ImageEncoder(trunk=trunk, neck=neck, scalp=1)
    return encoder.eval().requires_grad_(requires_grad=False)


def read_state(path: Path, model: str, *, expected_sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a checkpoint in the official layout; a WeightsError if it is missing, damaged, or that of another model."""
    state = load_state_dict(path, expected_sha256=expected_sha256)
    require_model(state, path, _identify(state), model, setting="segmenter.model")
    return state


def _identify(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name the model of a state dict, by the encoder's width and depth and a parameter that only 2.1 has."""
    patch = state.get(f"{_ENCODER}trunk.patch_embed.proj.weight")
    if patch is None:
        return None
    blocks = {name.split(".")[3] for name in state if name.startswith(f"{_ENCODER}trunk.blocks.")}
    family = "sam2.1" if _MARK_OF_2_1 in state else "sam2"
    for size_name, size in _SIZES.items():
        if patch.shape[0] == size.embed_dim and len(blocks) == sum(size.stages):
            return f"{family}_hiera_{size_name}"
    return None


def load_image_encoder(state: Mapping[str, torch.Tensor], model: str) -> nn.Module:
    """Build a model's image encoder with the weights that `read_state` returned; a WeightsError if they do not fit."""
    encoder = build_image_encoder(model)
    own = {name.removeprefix(_ENCODER): value for name, value in state.items() if name.startswith(_ENCODER)}
    try:
        encoder.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise misfit(model, str(error)) from error
    return encoder


def misfit(model: str, problem: str) -> WeightsError:
    """Return the error for weights that lack a parameter of their model, or have it in another shape."""
    remedy = f"Fetch the official file with `{fetch_command(model, DEFAULT_ROOT)}`."
    return WeightsError(f"The weights do not fit {model}: {problem}. {remedy}")


def decoder_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select the parameters of prompt encoder and mask decoder, as float32, from what `read_state` returns."""
    return {name: value.float() for name, value in state.items() if name.startswith(_READ)}
