"""DINOv2 (Oquab et al., arXiv 2304.07193; registers: Darcet et al., arXiv 2309.16588) with Meta's checkpoints.

Two implementations give the same features: timm's networks filled from Meta's files, the default, for which nothing
else has to be installed; and Meta's own code in a clone of the user's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ntt.base.settings import setting
from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.dinov2_checkpoint import PATCH_SIZE, VARIANTS, Variant, require_model, to_timm_layout, variant
from ntt.models.backbones.vit import TokensOf, VisionTransformer, VisionTransformerConfig, without_values
from ntt.models.weights import WeightsFile, load_state_dict
from ntt.types import Placement


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

    repo_dir: str | None = None
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
        self._variant = variant(config.model)
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

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the output, which the location of Meta's code does not."""
        return {**super().fingerprint, "repo_dir": None}

    def build(self) -> tuple[nn.Module, TokensOf]:
        """Build the network from the checkpoint."""
        path = self._weights.path
        state = load_state_dict(path, expected_sha256=self._weights.expected_sha256)
        require_model(state, self._variant, path)
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

    def tokens_of(images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = network.forward_features(images)
        return tokens[:, network.num_prefix_tokens :]

    return network, tokens_of


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
