"""DINOv2 (Oquab et al., arXiv 2304.07193; registers: Darcet et al., arXiv 2309.16588) with Meta's checkpoints.

Two implementations give the same features: timm's networks, filled from Meta's files (the default, nothing else to
install), and Meta's own code from a clone the user points at.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ntt.errors import ConfigError, WeightsError
from ntt.models.backbones.base import BackboneConfig
from ntt.models.backbones.dinov2_checkpoint import PATCH_SIZE, Variant, require_model, to_timm_layout, variant
from ntt.models.backbones.vit import check_input_size, normalise, tokens_to_map, without_values
from ntt.models.device import autocast, effective_precision, resolve_device
from ntt.models.weights import checked_digest, checkpoint, fetch_command, load_state_dict, locate
from ntt.types import Placement

IMPLEMENTATIONS = ("timm", "official")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_LOG = logging.getLogger(__name__)

TokensOf = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Dinov2Config(BackboneConfig):
    """Schema of the DINOv2 options."""

    SCHEMA: ClassVar[str] = "dinov2"

    model: str = "dinov2_vitl14"
    """dinov2_vits14, dinov2_vitb14, dinov2_vitl14 or dinov2_vitg14, each also with registers (suffix _reg4)."""

    weights: str | None = None
    """Checkpoint file in Meta's layout; null: the official one below runtime.weights_root, its sha256 checked."""

    input_size: int = 518
    """Side of the encoder's square input, pixels; a multiple of 14. 518 is what the models were trained for."""

    implementation: str = "timm"
    """timm, or official: Meta's own code from `repo_dir`."""

    repo_dir: str | None = None
    """Folder of a clone of Meta's DINOv2 repository, for implementation=official; null otherwise."""

    def build(self, placement: Placement) -> "Dinov2":
        """Construct the encoder."""
        expected = None
        if self.weights is None:
            variant(self.model)
            path = locate(self.model, placement.weights_root)
            expected = checkpoint(self.model).sha256
        else:
            path = Path(self.weights).expanduser()
        return Dinov2(
            model=self.model,
            weights=path,
            expected_sha256=expected,
            input_size=self.input_size,
            device=placement.device,
            precision=placement.precision,
            compile=placement.compile,
            implementation=self.implementation,
            repo_dir=None if self.repo_dir is None else Path(self.repo_dir).expanduser(),
            name=self.name,
        )


class Dinov2:
    """Patch tokens of a DINOv2 model after its final normalisation, as a feature map."""

    def __init__(
        self,
        *,
        model: str,
        weights: Path,
        expected_sha256: str | None = None,
        input_size: int = 518,
        device: str = "cpu",
        precision: str = "float32",
        compile: bool = False,
        implementation: str = "timm",
        repo_dir: Path | None = None,
        name: str | None = None,
    ) -> None:
        """Check the settings; the weights are read at the first call of `encode`.

        Args:
            model: one of the names in `ntt.models.backbones.dinov2_checkpoint.VARIANTS`.
            weights: checkpoint file in Meta's layout.
            expected_sha256: hex digest the file must have; None: any.
            input_size: side of the square input in pixels, a positive multiple of 14.
            device: auto, cpu, cuda, cuda:N or mps.
            precision: float32, tf32, bfloat16 or float16.
            compile: send the network through `torch.compile`.
            implementation: "timm", or "official" for Meta's own code.
            repo_dir: folder of a clone of Meta's repository, for "official" only.
            name: of the config option; None: `model`.

        Raises:
            ConfigError: for a setting, or a combination of settings, that cannot be run.
            WeightsError: if the weights file does not exist.
        """
        self._variant = variant(model)
        check_input_size(input_size, PATCH_SIZE, backbone=model)
        _check_implementation(implementation, repo_dir)
        self._device = resolve_device(device)
        self._precision = effective_precision(precision, self._device)
        if not weights.is_file():
            raise WeightsError(
                f"The weights file {weights} of {model} does not exist. Fetch the official one with "
                f"`{fetch_command(model, Path('checkpoints'))}`, or set backbone.weights to your file."
            )
        self._weights = weights
        self._expected_sha256 = expected_sha256
        self._input_size = input_size
        self._compile = compile
        self._repo_dir = repo_dir
        self._name = name or model

    @property
    def name(self) -> str:
        """Name of the config option that builds this encoder."""
        return self._name

    @property
    def input_size(self) -> int:
        """Side in pixels of the square images `encode` takes."""
        return self._input_size

    @property
    def patch_size(self) -> int:
        """Pixels of input per cell of the feature map, along each axis."""
        return PATCH_SIZE

    @property
    def feature_dim(self) -> int:
        """Channels of the feature map."""
        return self._variant.feature_dim

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON-able facts that decide the output. Reads the weights file, and refuses one of another sha256."""
        return {
            "name": self._variant.name,
            "weights_sha256": checked_digest(self._weights, self._expected_sha256),
            "input_size": self._input_size,
            "layer": "patch tokens after the final norm",
            "precision": self._precision,
            "compile": self._compile,
            "implementation": "timm" if self._repo_dir is None else "official",
        }

    @torch.no_grad()
    def encode(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            images_B3HW: float32 RGB in [0, 1], H = W = `input_size`.

        Returns:
            float32 [B, D, h, w] with h = w = input_size // 14, on the device of the weights.

        Raises:
            ValueError: if the input has another shape.
            WeightsError: at the first call, if the weights are damaged or of another model.
        """
        images = normalise(
            images_B3HW, side=self._input_size, mean=_IMAGENET_MEAN, std=_IMAGENET_STD, device=self._device
        )
        with autocast(self._precision, self._device):
            tokens_BND = self._tokens_of(images)
        return tokens_to_map(tokens_BND, self._input_size // PATCH_SIZE)

    @cached_property
    def _tokens_of(self) -> TokensOf:
        state = load_state_dict(self._weights, expected_sha256=self._expected_sha256)
        require_model(state, self._variant, self._weights)
        rows = self._input_size // PATCH_SIZE
        if self._repo_dir is None:
            network, tokens_of = _timm_network(self._variant, state, rows, self._weights)
        else:
            network, tokens_of = _official_network(self._variant, state, self._repo_dir, self._weights)
        network.eval().requires_grad_(requires_grad=False).to(self._device)
        _LOG.info("Built %s from %s on %s", self._variant.name, self._weights, self._device)
        compiled: TokensOf = torch.compile(tokens_of) if self._compile else tokens_of
        return compiled


@dataclass(frozen=True)
class ImplementationComparison:
    """How far two implementations are apart on the same images and weights.

    Attributes:
        max_abs_difference: largest absolute difference of any feature.
        mean_abs_feature: mean absolute value of the features, to judge the difference by.
        min_cosine: smallest cosine similarity of two tokens at the same place.
    """

    max_abs_difference: float
    mean_abs_feature: float
    min_cosine: float


def compare_implementations(
    *,
    model: str,
    weights: Path,
    repo_dir: Path,
    images_B3HW: torch.Tensor,
    device: str = "cpu",
    precision: str = "float32",
) -> ImplementationComparison:
    """Encode images with timm's network and with Meta's own code, and compare the features.

    Args:
        model: one of the names in `ntt.models.backbones.dinov2_checkpoint.VARIANTS`.
        weights: checkpoint file in Meta's layout.
        repo_dir: folder of a clone of Meta's repository.
        images_B3HW: float32 RGB in [0, 1]; square, with a side that is a multiple of 14.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: float32, tf32, bfloat16 or float16.

    Returns:
        The figures, over all images.

    Raises:
        ConfigError: for a setting that cannot be run.
        WeightsError: for weights that are missing, damaged or of another model.
    """
    features = []
    for folder in (None, repo_dir):
        encoder = Dinov2(
            model=model,
            weights=weights,
            input_size=images_B3HW.shape[-1],
            device=device,
            precision=precision,
            implementation="timm" if folder is None else "official",
            repo_dir=folder,
        )
        features.append(encoder.encode(images_B3HW).cpu().double())
    ours, theirs = features
    return ImplementationComparison(
        max_abs_difference=float((ours - theirs).abs().max()),
        mean_abs_feature=float(theirs.abs().mean()),
        min_cosine=float(F.cosine_similarity(ours, theirs, dim=1).min()),
    )


def _check_implementation(implementation: str, repo_dir: Path | None) -> None:
    if implementation not in IMPLEMENTATIONS:
        raise ConfigError(
            f"backbone.implementation={implementation!r} is not known. Use one of: {', '.join(IMPLEMENTATIONS)}."
        )
    if implementation == "timm" and repo_dir is not None:
        raise ConfigError(
            f"backbone.repo_dir={repo_dir} is not used by backbone.implementation=timm. Leave it null, or set "
            "backbone.implementation=official."
        )
    if implementation == "official" and (repo_dir is None or not (repo_dir / "hubconf.py").is_file()):
        place = "backbone.repo_dir is not set" if repo_dir is None else f"there is no {repo_dir / 'hubconf.py'}"
        raise ConfigError(
            f"backbone.implementation=official needs Meta's code, and {place}. Run "
            "`git clone https://github.com/facebookresearch/dinov2` and set backbone.repo_dir to that folder."
        )


def _timm_network(
    model: Variant, state: Mapping[str, torch.Tensor], rows: int, path: Path
) -> tuple[nn.Module, TokensOf]:
    import timm

    side = rows * PATCH_SIZE
    network: Any = without_values(
        lambda: timm.create_model(model.timm_name, pretrained=False, num_classes=0, img_size=side)
    )
    _fill(network, to_timm_layout(state, model, rows), path)

    def tokens_of(images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = network.forward_features(images)
        return tokens[:, network.num_prefix_tokens :]

    return network, tokens_of


def _official_network(
    model: Variant, state: Mapping[str, torch.Tensor], repo_dir: Path, path: Path
) -> tuple[nn.Module, TokensOf]:
    # The network starts from random values that are all replaced; the caller's random stream must not notice.
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
            f"The weights file {path} does not fit the network: {error}. Use the official file of the model, or one "
            "with exactly its tensors."
        ) from error
