"""Which vectors of the memory a matcher reads: of crops, of full images, or both (docs/method.md, section 9.2).

A reference's crop and the same object in its full image look different to a backbone, because the crop shows the object
at another scale.
"""

from dataclasses import dataclass, replace

import torch

from ntt.base.settings import setting
from ntt.matchers.base import MatcherConfig
from ntt.ops.pooling import l2_normalise
from ntt.types import MemoryBank


@dataclass(frozen=True, kw_only=True)
class MemoryReader(MatcherConfig):
    """A matcher that can choose among the vectors of a reference."""

    reference_vectors: str = setting("crop", one_of=("crop", "both", "full", "mean"))
    """Vectors of a reference instance. crop: of its crop, as published; full: of the best candidate of its own image;
    both: the two as two instances; mean: one between them. An instance that no candidate covers has its crop's."""

    full_share: float = setting(0.5, ge=0, le=1)
    """Share of the full image's vector in the mean; for reference_vectors=mean only."""

    surroundings: str = setting("crop", one_of=("crop", "clear"))
    """The surroundings of a reference, for matchers that use them. crop: its crop outside its mask; clear: also outside
    the masks of all other annotated objects."""

    @property
    def reads_full_images(self) -> bool:
        """Whether the memory must contain vectors of full images."""
        return self.reference_vectors != "crop"

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether the memory must contain surroundings without other objects."""
        return self.surroundings == "clear"

    def select(self, memory: MemoryBank) -> MemoryBank:
        """Return the memory with the `features` and `backgrounds` that the settings choose."""
        if self.reads_clear_surroundings:
            memory = replace(memory, backgrounds=memory.clear_backgrounds)
        if self.reads_full_images:
            memory = replace(memory, features=tuple(map(self._combine, memory.features, memory.full)))
        return super().select(memory)

    def _combine(self, crop_KD: torch.Tensor, full_KD: torch.Tensor) -> torch.Tensor:
        """Combine a class's vectors, each scaled to length 1 first."""
        crop_KD, full_KD = l2_normalise(crop_KD.float()), full_KD.float()
        is_reached_K = full_KD.any(dim=1)
        if self.reference_vectors == "both":
            return torch.cat([crop_KD, full_KD[is_reached_K]])
        share = 1.0 if self.reference_vectors == "full" else self.full_share
        return torch.where(is_reached_K[:, None], l2_normalise((1 - share) * crop_KD + share * full_KD), crop_KD)
