"""The config schema of the SAM2 options."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ntt.models.segmenters.base import SegmenterConfig
from ntt.models.segmenters.sam2.model import architecture
from ntt.models.segmenters.sam2.segmenter import Sam2
from ntt.models.weights import checkpoint, locate
from ntt.types import Placement


@dataclass(frozen=True, kw_only=True)
class Sam2Config(SegmenterConfig):
    """Schema of the SAM2 options."""

    SCHEMA: ClassVar[str] = "sam2"

    model: str = "sam2_hiera_large"
    """sam2_hiera_tiny, _small, _base_plus or _large, or the same four of sam2.1_hiera."""

    weights: str | None = None
    """Checkpoint file in the official layout; null: the official one below runtime.weights_root, sha256 checked."""

    points_per_side: int = 32
    """Points along each axis of the grid of prompts."""

    min_predicted_iou: float = 0.4
    """Masks are kept whose predicted IoU is above this; in [0, 1)."""

    use_no_mem_embed: bool = False
    """Add the model's no-memory embedding to the image features, as SAM2's own image predictor does. The published
    results were computed without."""

    drop_remainder_of: int | None = None
    """Cut the grid into batches of this many points and drop an incomplete last one, as the reference
    implementation does with 256; null: use every point."""

    prompt_batch_size: int | None = None
    """Prompts decoded at a time; decides memory and speed, not the result. Null: chosen for the device."""

    def build(self, placement: Placement) -> Sam2:
        """Construct the segmenter."""
        expected = None
        if self.weights is None:
            architecture(self.model)
            path = locate(self.model, placement.weights_root)
            expected = checkpoint(self.model).sha256
        else:
            path = Path(self.weights).expanduser()
        return Sam2(
            model=self.model,
            checkpoint=path,
            expected_sha256=expected,
            points_per_side=self.points_per_side,
            min_predicted_iou=self.min_predicted_iou,
            use_no_mem_embed=self.use_no_mem_embed,
            prompt_batch_size=self.prompt_batch_size,
            drop_remainder_of=self.drop_remainder_of,
            precision=placement.precision,
            device=placement.device,
            compile=placement.compile,
            name=self.name,
        )
