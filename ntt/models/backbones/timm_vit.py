"""Any vision transformer of the timm library, by name."""

import difflib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ntt.base.settings import setting
from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.vit import TokensOf, VisionTransformer, VisionTransformerConfig, timm_tokens, without_values
from ntt.models.weights import OFFLINE_VARIABLE, checked_digest, is_offline, load_state_dict
from ntt.types import Placement


@dataclass(frozen=True, kw_only=True)
class TimmVitConfig(VisionTransformerConfig):
    """Schema of the option `timm`."""

    SCHEMA: ClassVar[str] = "timm"

    model: str = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    """Name of a vision transformer in timm, with or without the tag after the dot that selects the weights."""

    weights: str | None = None
    """Local file with the model's weights; null: `pretrained` decides."""

    pretrained: bool = False
    """true: let timm download the weights of the tag into timm's own cache; false: never."""

    input_size: int | None = setting(None, le=8192)
    """Side of the encoder's square input, pixels; a multiple of the patch size. null: the model's own."""

    def build(self, placement: Placement) -> "TimmVit":
        """Construct the encoder."""
        return TimmVit(self, placement)


class TimmVit(VisionTransformer):
    """Patch tokens of a vision transformer after its final normalisation, as a feature map.

    timm knows the model's pixel mean and standard deviation, and resamples position embeddings to the input size.
    """

    config: TimmVitConfig

    def __init__(self, config: TimmVitConfig, placement: Placement) -> None:
        """Check the settings, and that the weights exist or may be downloaded."""
        self._weights = None if config.weights is None else Path(config.weights).expanduser()
        _check_weights(config.model, self._weights, pretrained=config.pretrained)
        outline = _outline(config.model)
        recorded = outline.pretrained_cfg
        super().__init__(
            config,
            placement,
            input_size=int(recorded["input_size"][-1]) if config.input_size is None else config.input_size,
            patch_size=int(outline.patch_embed.patch_size[0]),
            depth=len(outline.blocks),
        )
        self.mean, self.std = tuple(recorded["mean"]), tuple(recorded["std"])

    @property
    def weights_digest(self) -> str:
        """The sha256 of the file, or of the network's tensors if timm supplies them."""
        return self._network_and_digest[1] if self._weights is None else checked_digest(self._weights)

    @cached_property
    def _network_and_digest(self) -> tuple[Any, str]:
        model = self.config.model
        try:
            with torch.random.fork_rng(devices=[]):
                network: nn.Module = _create(model, pretrained=True)
        except Exception as error:  # timm's download code and the libraries below it raise many kinds
            raise WeightsError(
                f"timm could not supply the weights of {model}: {error}. Check the network, or set backbone.weights."
            ) from error
        return network, _tensors_digest(network)

    def build(self) -> tuple[nn.Module, TokensOf]:
        """Build the network from the file, or from what timm downloads."""
        model, file = self.config.model, self._weights
        network: Any = self._network_and_digest[0] if file is None else _filled(model, file)
        return network, timm_tokens(network)


def _check_weights(model: str, weights: Path | None, *, pretrained: bool) -> None:
    if weights is None and not pretrained:
        raise ConfigError(
            f"backbone.model={model} has no weights: set backbone.weights to a local file, or backbone.pretrained=true."
        )
    if weights is not None and pretrained:
        raise ConfigError(
            f"backbone.weights={weights} and backbone.pretrained=true exclude each other. Set only one of them."
        )
    if weights is not None and not weights.is_file():
        raise WeightsError(f"The weights file {weights} of {model} does not exist. Set backbone.weights to your file.")
    if pretrained and is_offline():
        raise WeightsError(
            f"backbone.pretrained=true downloads the weights of {model}, but {OFFLINE_VARIABLE} switches network "
            "access off. Set backbone.weights to a local file."
        )


def _create(model: str, *, pretrained: bool) -> Any:
    import timm

    return timm.create_model(model, pretrained=pretrained, num_classes=0, dynamic_img_size=True)


def _outline(model: str) -> Any:
    """Build the network without its weights, for its shapes and settings."""
    import timm

    if not timm.is_model(model):
        similar = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"Similar names: {', '.join(similar)}." if similar else "timm.list_models() lists all names."
        raise ConfigError(f"backbone.model={model!r} is not known to timm {timm.__version__}. {hint}")
    try:
        network = without_values(lambda: _create(model, pretrained=False))
    except TypeError:  # it takes a fixed input size only
        network = None
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"backbone.model={model!r} cannot be built by timm: {error}") from error
    parts = ("patch_embed", "blocks", "num_prefix_tokens", "norm", "fc_norm")
    if not all(hasattr(network, part) for part in parts) or len(set(network.patch_embed.patch_size)) != 1:
        raise ConfigError(
            f"backbone.model={model!r} is not a plain vision transformer with square patches and any input size. "
            "Choose a timm model such as vit_base_patch16_224."
        )
    return network


def _filled(model: str, path: Path) -> Any:
    """Build the network with a file's tensors, which timm's converter for this kind of model prepares."""
    state: Mapping[str, torch.Tensor] = load_state_dict(path)
    with torch.random.fork_rng(devices=[]):
        network: Any = _create(model, pretrained=False)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        state = state if convert is None else convert(dict(state), network)
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"The weights file {path} does not fit {model}: {error}. Give the file of that model."
        ) from error
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    strange = [name for name in unexpected if not name.startswith(tuple(f"{head}." for head in heads))]
    if missing or strange:
        problem = f"{missing[0]} is missing" if missing else f"the network has no {strange[0]}"
        raise WeightsError(f"The weights file {path} does not fit {model}: {problem}. Give the file of that model.")
    return network


def _tensors_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
