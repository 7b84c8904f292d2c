"""The `sam2` package's own models and decoder, to compare with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filled_weights import fill_state_dict
from PIL import Image

from ntt.models.segmenters.sam2.prompts import point_grid
from ntt.ops.resize import resize_to_canvas

TINY = "sam2_hiera_tiny"

CONFIGS = {
    f"{family}_hiera_{size}": f"configs/{family}/{family}_hiera_{letter}.yaml"
    for family in ("sam2", "sam2.1")
    for size, letter in (("tiny", "t"), ("small", "s"), ("base_plus", "b+"), ("large", "l"))
}


@contextmanager
def _package_hydra() -> Iterator[None]:
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    global_hydra: Any = GlobalHydra.instance()
    before, global_hydra.hydra = global_hydra.hydra, None
    try:
        with initialize_config_module("sam2", version_base="1.2"):
            yield
    finally:
        global_hydra.hydra = before


def package_model(name: str) -> Any:
    """Build a model with the package's own `build_sam2`."""
    with _package_hydra():
        from sam2.build_sam import build_sam2

        with torch.random.fork_rng(devices=[]):
            return build_sam2(CONFIGS[name], device="cpu")


def save_checkpoint(model: Any, path: Path) -> Path:
    """Write a model's weights in the official layout."""
    torch.save({"model": model.state_dict()}, path)
    return path


@dataclass(frozen=True)
class Features:
    """What the image encoder gives the decoder: [1, C, 64, 64], and finer maps of the same depth."""

    embedding: torch.Tensor
    fine: tuple[torch.Tensor, torch.Tensor]


def random_features(seed: int = 0) -> Features:
    """Features of the size of a real image's."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (64, 256, 128)
    embedding, fine0, fine1 = (0.3 * torch.randn(1, 256, size, size, generator=generator) for size in sizes)
    return Features(embedding, (fine0, fine1))


@torch.no_grad()
def package_decode(
    model: Any,
    features: Features,
    points: torch.Tensor,
    labels: torch.Tensor,
    *,
    multimask: bool,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode prompts [B, P, 2] with labels [B, P] as the package does: logits [B, M, 256, 256] and IoUs [B, M]."""
    decoder = model.sam_mask_decoder.to(dtype)
    try:
        sparse, dense = model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
        convolutions = (decoder.conv_s0, decoder.conv_s1)
        logits, iou, _, _ = decoder(
            image_embeddings=features.embedding.to(dtype),
            image_pe=model.sam_prompt_encoder.get_dense_pe().to(dtype),
            sparse_prompt_embeddings=sparse.to(dtype),
            dense_prompt_embeddings=dense.to(dtype),
            multimask_output=multimask,
            repeat_image=len(points) > 1,
            high_res_features=[conv(x.to(dtype)) for conv, x in zip(convolutions, features.fine, strict=True)],
        )
    finally:
        decoder.float()
    return logits, iou


@cache
def filled_tiny() -> Any:
    """The smallest model with stand-in weights; shared, so leave it as it is."""
    model = package_model(TINY)
    fill_state_dict(model)
    return model


@dataclass(frozen=True)
class Rounding:
    """What rounding does to the package's own masks of one image: how far its float32 is from its float64.

    The stand-in weights amplify rounding, by how much depends on image and processor. So tests ask of our masks that
    they are no further from the truth than a small multiple of this. Logits are of the best mask of each prompt.
    """

    prompts: slice  # of the points of the grid
    exact_logits_BHW: npt.NDArray[np.float64]
    exact_iou_B: npt.NDArray[np.float64]
    logits_BHW: npt.NDArray[np.float32]
    iou_B: npt.NDArray[np.float32]

    def check(self, errors_B: npt.NDArray[Any], package_errors_B: npt.NDArray[Any], *, floor: float) -> None:
        """Compare a typical and a large error of ours with the package's; the allowance is for the sample's scatter."""
        for share in (0.5, 0.9):
            assert np.quantile(errors_B, share) < 4 * np.quantile(package_errors_B, share) + floor, share


@lru_cache(maxsize=4)
@torch.no_grad()
def package_rounding(image_path: Path, device: str) -> Rounding:
    """Run the package in float32 and in float64 on every fourth point of an 8 x 8 grid."""
    model, prompts = filled_tiny().to(device), slice(0, 64, 4)
    with Image.open(image_path) as image:
        canvas = resize_to_canvas(np.asarray(image.convert("RGB")), (1024, 1024)).to(device)
    points = point_grid(8)[prompts].to(device)
    exact = decode_best(model, encode(model, canvas, torch.float64), points, torch.float64)
    rounded = decode_best(model, encode(model, canvas), points)
    model.cpu()
    return Rounding(prompts, *(part.cpu().numpy() for part in (*exact, *rounded)))


@torch.no_grad()
def encode(model: Any, canvas_3hw: torch.Tensor, dtype: torch.dtype = torch.float32) -> Features:
    """Run the package's image encoder on a canvas in [0, 1]."""
    mean, std = canvas_3hw.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    encoder = model.image_encoder.to(dtype)
    fine0, fine1, embedding = encoder(((canvas_3hw - mean) / std)[None].to(dtype))["backbone_fpn"]
    encoder.float()
    return Features(embedding, (fine0, fine1))


def decode_best(
    model: Any, features: Features, points_B2: torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode points as the package does; logits [B, 256, 256] and predicted IoU [B] of the best mask of each."""
    parts = []
    for points in points_B2.split(16):
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        logits, iou = package_decode(model, features, points[:, None], labels, multimask=True, dtype=dtype)
        best = iou.argmax(dim=1)
        every = torch.arange(len(best), device=best.device)
        parts.append((logits[every, best], iou[every, best]))
    return tuple(map(torch.cat, zip(*parts, strict=True)))
