"""What vision-transformer backbones share: patch tokens after the final normalisation, as a feature map."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from ntt.base.settings import deciding_settings, setting
from ntt.errors import ConfigError
from ntt.models.backbones.base import BackboneConfig
from ntt.models.compiling import COMPILED_VERSION, compiled, in_precision, round_weights
from ntt.models.device import effective_precision, resolve_device
from ntt.types import Placement

T = TypeVar("T")
TokensOf = Callable[[torch.Tensor], torch.Tensor]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig(BackboneConfig):
    """Settings that all vision transformers share."""

    SCHEMA: ClassVar[str]

    block: int | None = setting(None, ge=0)
    """Block whose patch tokens are the features, counted from 0; they go through the final normalisation. Null: the
    last block."""


class VisionTransformer(ABC):
    """A vision transformer as a backbone; see `ntt.models.backbones.base.Backbone`."""

    def __init__(
        self, config: VisionTransformerConfig, placement: Placement, *, input_size: int, patch_size: int, depth: int
    ) -> None:
        """Check the placement, the input size and the block."""
        check_input_size(input_size, patch_size)
        if config.block is not None and config.block >= depth:
            raise ConfigError(
                f"backbone.block={config.block}, but the network has {depth} blocks. Choose 0 to {depth - 1}, or null "
                "for the last."
            )
        self.config = config
        self.name = config.name
        self.input_size = input_size
        self.patch_size = patch_size
        self.device = resolve_device(placement.device)
        self.precision = effective_precision(placement.precision, self.device)
        self.compile = placement.compile

    mean: Sequence[float]
    """Per channel, subtracted from images in [0, 1]."""
    std: Sequence[float]
    """Per channel, divided by."""

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """The sha256 of the weights."""

    @abstractmethod
    def build(self) -> tuple[Any, TokensOf]:
        """Build the network with its weights, and a function from standardised images to patch tokens [B, N, D].

        Its transformer blocks are `blocks`; those after `config.block` are cut off.
        """

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the output. Reads the weights, and refuses a file with an unexpected sha256."""
        return {
            "kind": self.config.SCHEMA,
            **deciding_settings(self.config),
            "weights": self.weights_digest,
            "input_size": self.input_size,
            "layer": "patch tokens after the final norm",
            "precision": self.precision,
            "compile": self.compile and COMPILED_VERSION,
        }

    @torch.no_grad()
    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Encode images; see `ntt.models.backbones.base.Backbone`."""
        check_shape(images_B3HW, self.input_size)
        mean_311, std_311 = self._mean_and_std
        tokens_BND = self._tokens_of((images_B3HW.to(self.device, torch.float32) - mean_311) / std_311)
        rows = self.input_size // self.patch_size
        # Tokens are in row-major order.
        return tokens_BND.float().transpose(1, 2).reshape(len(tokens_BND), tokens_BND.shape[-1], rows, rows)

    @cached_property
    def _mean_and_std(self) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(each, device=self.device).view(3, 1, 1) for each in (self.mean, self.std))

    @cached_property
    def _tokens_of(self) -> TokensOf:
        network, tokens_of = self.build()
        if self.config.block is not None:
            network.blocks = network.blocks[: self.config.block + 1]
        network.eval().requires_grad_(requires_grad=False).to(self.device)
        round_weights(network, self.precision, self.device)
        _LOG.info("Built %s on %s", self.name, self.device)
        return (compiled if self.compile else in_precision)(tokens_of, self.precision, self.device)


def check_input_size(input_size: int, patch_size: int) -> None:
    """Raise a ConfigError unless the input size is a positive multiple of the patch size."""
    if input_size > 0 and input_size % patch_size == 0:
        return
    below = max(input_size // patch_size, 1) * patch_size
    raise ConfigError(
        f"backbone.input_size={input_size} is not a positive multiple of the patch size {patch_size}. Choose for "
        f"example {below} or {below + patch_size}."
    )


def without_values(create: Callable[[], T]) -> T:
    """Build a network whose tensors will all be replaced, without touching the caller's random state."""
    try:
        with torch.device("meta"):
            return create()
    except RuntimeError:  # older versions of timm read tensors while they build
        with torch.random.fork_rng(devices=[]):
            return create()


def timm_tokens(network: Any) -> TokensOf:
    """Return the function from images to patch tokens of one of timm's vision transformers."""

    def tokens_of(images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = network.forward_features(images)
        # Models that average patches normalise only then, in `fc_norm`.
        if isinstance(network.norm, nn.Identity):
            tokens = network.fc_norm(tokens)
        return tokens[:, network.num_prefix_tokens :]

    return tokens_of


def check_shape(images_B3HW: torch.Tensor, side: int) -> None:
    """Raise a ValueError unless images are [B, 3, side, side]."""
    if images_B3HW.ndim != 4 or tuple(images_B3HW.shape[1:]) != (3, side, side):
        raise ValueError(f"images of shape {tuple(images_B3HW.shape)}; expected [B, 3, {side}, {side}]")
