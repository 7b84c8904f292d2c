"""The base of all matchers, which label a target image's candidates with the classes of a memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ntt.base.settings import Option, deciding_settings
from ntt.types import Candidates, Detections, ImageId, MemoryBank, Prototypes


@dataclass(frozen=True, kw_only=True)
class MatcherConfig(Option):
    """Base of the config group `matcher`: the matcher itself, whose fields are the settings.

    Matchers condense a memory into prototypes and turn candidates into detections. They are stateless.
    """

    SCHEMA: ClassVar[str]

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Kind of matcher and every setting that decides the output, as JSON values."""
        return {"kind": self.SCHEMA, **deciding_settings(self)}

    @property
    def reads_full_images(self) -> bool:
        """Whether the memory must contain vectors of full images."""
        return False

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether the memory must contain surroundings without other objects."""
        return False

    def problems(self) -> list[str]:
        """Return one sentence per problem of the settings besides their ranges."""
        return []

    def select(self, memory: MemoryBank) -> MemoryBank:
        """Return the memory for `build_prototypes`: without the empty backgrounds of instances that have none."""
        return replace(memory, backgrounds=tuple(vectors[vectors.any(dim=1)] for vectors in memory.backgrounds))

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Condense the memory to `vectors_PD` and `labels_P` of a `Prototypes`, on the CPU."""
        raise NotImplementedError

    def match(self, image_id: ImageId, candidates: Candidates, prototypes: Prototypes) -> Detections:
        """Label, score, suppress and merge an image's candidates; a DataError if none is left and settings ask so."""
        raise NotImplementedError
