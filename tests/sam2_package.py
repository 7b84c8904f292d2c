"""The `sam2` package's own models and decoder, to compare with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CONFIGS = {
    f"{family}_hiera_{size}": f"configs/{family}/{family}_hiera_{letter}.yaml"
    for family in ("sam2", "sam2.1")
    for size, letter in (("tiny", "t"), ("small", "s"), ("base_plus", "b+"), ("large", "l"))
}


@contextmanager
def _package_hydra() -> Iterator[None]:
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    place: Any = GlobalHydra.instance()
    before, place.hydra = place.hydra, None
    try:
        with initialize_config_module("sam2", version_base="1.2"):
            yield
    finally:
        place.hydra = before


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: where a machine is busy, threads of one operation wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
