"""Any vision transformer of the timm library, by name."""

import difflib
import hashlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.base import BackboneConfig
from ntt.models.backbones.vit import check_input_size, normalise, tokens_to_map, without_values
from ntt.models.device import autocast, effective_precision, resolve_device
from ntt.models.weights import OFFLINE_VARIABLE, file_digest, is_offline, load_state_dict
from ntt.types import Placement

_LOG = logging.getLogger(__name__)


@dataclass
class TimmVitConfig(BackboneConfig):
    """Schema of the option `timm`."""

    SCHEMA: ClassVar[str] = "timm"

    model: str = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
    """Name of a vision transformer in timm, with or without the tag after the dot that says which weights."""

    weights: str | None = None
    """Local file with the model's weights; null: `pretrained` decides."""

    pretrained: bool = False
    """true: let timm download the weights its tag stands for, into timm's own cache; false: never."""

    input_size: int | None = None
    """Side of the encoder's square input, pixels; a multiple of the patch size. null: the model's own."""

    def build(self, placement: Placement) -> "TimmVit":
        """Construct the encoder."""
        return TimmVit(
            model=self.model,
            weights=None if self.weights is None else Path(self.weights).expanduser(),
            pretrained=self.pretrained,
            input_size=self.input_size,
            device=placement.device,
            precision=placement.precision,
            compile=placement.compile,
        )


class TimmVit:
    """Patch tokens of a vision transformer after its final normalisation, as a feature map.

    Pixel mean and standard deviation are those timm records for the model. Position embeddings are resampled by timm
    where the input size is not the model's own.
    """

    def __init__(
        self,
        *,
        model: str,
        weights: Path | None = None,
        pretrained: bool = False,
        input_size: int | None = None,
        device: str = "cpu",
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        """Check the settings; the weights are read at the first call of `encode`.

        Args:
            model: name in timm.
            weights: local file; None: `pretrained` must be true.
            pretrained: let timm download the weights.
            input_size: side of the square input in pixels, a multiple of the patch size; None: the model's own.
            device: auto, cpu, cuda, cuda:N or mps.
            precision: float32, tf32, bfloat16 or float16.
            compile: send the network through `torch.compile`.

        Raises:
            ConfigError: for a setting, or a combination of settings, that cannot be run.
            WeightsError: if the weights file does not exist, or a download is wanted where the network is off.
        """
        self._device = resolve_device(device)
        self._precision = effective_precision(precision, self._device)
        _check_weights(model, weights, pretrained=pretrained)
        outline = _outline(model)
        config = outline.pretrained_cfg
        self._patch_size = int(outline.patch_embed.patch_size[0])
        self._feature_dim = int(outline.num_features)
        self._input_size = int(config["input_size"][-1]) if input_size is None else input_size
        check_input_size(self._input_size, self._patch_size, backbone=model)
        self._mean, self._std = tuple(config["mean"]), tuple(config["std"])
        self._model = model
        self._weights = weights
        self._compile = compile

    @property
    def name(self) -> str:
        """Name of the config option that builds this encoder."""
        return "timm"

    @property
    def input_size(self) -> int:
        """Side in pixels of the square images `encode` takes."""
        return self._input_size

    @property
    def patch_size(self) -> int:
        """Pixels of input per cell of the feature map, along each axis."""
        return self._patch_size

    @property
    def feature_dim(self) -> int:
        """Channels of the feature map."""
        return self._feature_dim

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON-able facts that decide the output. Builds the network where timm supplies the weights."""
        digest = _tensors_digest(self._network) if self._weights is None else file_digest(self._weights)
        return {
            "name": self.name,
            "model": self._model,
            "weights_sha256": digest,
            "input_size": self._input_size,
            "layer": "patch tokens after the final norm",
            "precision": self._precision,
            "compile": self._compile,
        }

    @torch.no_grad()
    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            images_B3HW: float32 RGB in [0, 1], H = W = `input_size`.

        Returns:
            float32 [B, D, h, w] with h = w = input_size // patch_size, on the device of the weights.

        Raises:
            ValueError: if the input has another shape.
            WeightsError: at the first call, if the weights are damaged, of another model, or cannot be had.
        """
        images = normalise(images_B3HW, side=self._input_size, mean=self._mean, std=self._std, device=self._device)
        with autocast(self._precision, self._device):
            tokens_BND = self._tokens_of(images)
        return tokens_to_map(tokens_BND, self._input_size // self._patch_size)

    @cached_property
    def _network(self) -> nn.Module:
        network = _downloaded(self._model) if self._weights is None else _filled(self._model, self._weights)
        _LOG.info("Built %s from %s on %s", self._model, self._weights or "timm's download", self._device)
        return network.eval().requires_grad_(requires_grad=False).to(self._device)

    @cached_property
    def _tokens_of(self) -> Callable[[torch.Tensor], torch.Tensor]:
        network: Any = self._network

        def tokens_of(images: torch.Tensor) -> torch.Tensor:
            tokens: torch.Tensor = network.forward_features(images)
            # Models that average over patches normalise after the average, in `fc_norm`.
            if isinstance(network.norm, nn.Identity):
                tokens = network.fc_norm(tokens)
            return tokens[:, network.num_prefix_tokens :]

        compiled: Callable[[torch.Tensor], torch.Tensor] = torch.compile(tokens_of) if self._compile else tokens_of
        return compiled


def _check_weights(model: str, weights: Path | None, *, pretrained: bool) -> None:
    if weights is None and not pretrained:
        raise ConfigError(
            f"backbone.model={model} has no weights: set backbone.weights to a local file, or backbone.pretrained=true "
            "to let timm download them."
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
    """The network without its weights, for its shapes and settings."""
    import timm

    if not timm.is_model(model):
        similar = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"Similar names: {', '.join(similar)}." if similar else "timm.list_models() lists all names."
        raise ConfigError(f"backbone.model={model!r} is not known to timm {timm.__version__}. {hint}")
    try:
        network = without_values(lambda: _create(model, pretrained=False))
    except TypeError as error:
        raise ConfigError(_no_vit(model)) from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"backbone.model={model!r} cannot be built by timm: {reason}. Choose another, such as vit_base_patch16_224."
        ) from error
    parts = ("patch_embed", "num_prefix_tokens", "norm", "fc_norm")
    if not all(hasattr(network, part) for part in parts) or len(set(network.patch_embed.patch_size)) != 1:
        raise ConfigError(_no_vit(model))
    return network


def _no_vit(model: str) -> str:
    return (
        f"backbone.model={model!r} is no plain vision transformer with square patches that takes any input size. "
        "Choose a timm model such as vit_base_patch16_224."
    )


def _downloaded(model: str) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = _create(model, pretrained=True)
    except Exception as error:  # whatever timm's download code and the libraries below it raise
        raise WeightsError(
            f"timm could not supply the weights of {model}: {error}. Check the name's tag and the network, or set "
            "backbone.weights to a local file."
        ) from error
    return network


def _filled(model: str, path: Path) -> nn.Module:
    """Build the network and give it a file's tensors, through the converter timm has for this kind of model."""
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
        problem = f"{missing[0]} is missing" if missing else f"{strange[0]} has no place in the network"
        count = len(missing) + len(strange)
        raise WeightsError(
            f"The weights file {path} does not fit {model}: {problem} ({count} such tensors). Give the file of that "
            "model."
        )
    filled: nn.Module = network
    return filled


def _tensors_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
