"""The backbone interface: an image encoder that yields a dense feature map."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ntt.base.settings import Option
from ntt.errors import ConfigError
from ntt.types import Placement


class Backbone(Protocol):
    """A dense feature encoder. Stateless between calls.

    Construction checks the settings, and that the weights exist; the network is built at the first call of `encode`.
    """

    @property
    def input_size(self) -> int:
        """Side in pixels of the square images `encode` takes."""

    @property
    def patch_size(self) -> int:
        """Input pixels per cell of the feature map, along each axis."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What decides the output, JSON-able: settings, digest of the weights, precision."""

    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Encode images, float32 RGB in [0, 1] with H = W = `input_size`; normalisation happens inside.

        Returns float32 [B, D, h, w] with h = w = input_size // patch_size, on the device of the weights. A ValueError
        for another shape; at the first call, a WeightsError for damaged weights or those of another model.
        """


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(Option):
    """Base schema of the config group `backbone`."""

    @abstractmethod
    def build(self, placement: Placement) -> Backbone:
        """Construct the encoder; a ConfigError for unfit settings, a WeightsError for missing or unfit weights."""


def feature_map(backbone: Backbone, image_13SS: torch.Tensor) -> torch.Tensor:
    """Encode one image: float32 [D, g, g]. A ConfigError if the map has not the size that the backbone states."""
    features_1Dgg = backbone.encode(image_13SS)
    side, shape = backbone.input_size // backbone.patch_size, list(features_1Dgg.shape)
    if len(shape) != 4 or [shape[0], *shape[2:]] != [1, side, side]:
        raise ConfigError(
            f"{type(backbone).__name__}: encode returned {shape}, expected [1, D, {side}, {side}]. Correct its "
            "input_size, patch_size or encode."
        )
    return features_1Dgg[0].float()
