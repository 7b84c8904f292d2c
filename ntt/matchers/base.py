"""What a matcher is: it names a target image's candidates after the classes of a memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ntt.base.settings import deciding_settings, setting
from ntt.types import Candidates, Detections, ImageId, MemoryBank, Prototypes


@dataclass(frozen=True, kw_only=True)
class MatcherConfig:
    """Base of the config group `matcher`: an option's settings are the fields of the matcher itself.

    Matchers condense a memory into prototypes and turn candidates into detections. They hold no state.
    """

    SCHEMA: ClassVar[str]

    name: str = setting("???", decides=False)
    """Name of the option; it appears in run directories and tables."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Kind of matcher and every setting that decides the output, as JSON has them."""
        return {"kind": self.SCHEMA, **deciding_settings(self)}

    @property
    def reads_full_images(self) -> bool:
        """Whether the memory must hold vectors of full images."""
        return False

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether the memory must hold surroundings without other objects."""
        return False

    def select(self, memory: MemoryBank) -> MemoryBank:
        """Return the memory as `build_prototypes` takes it: backgrounds of those instances only that have one."""
        return replace(memory, backgrounds=tuple(vectors[vectors.any(dim=1)] for vectors in memory.backgrounds))

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Condense the memory.

        Returns:
            `vectors_PD` and `labels_P` of a `Prototypes`, on the CPU.
        """
        raise NotImplementedError

    def match(self, image_id: ImageId, candidates: Candidates, prototypes: Prototypes) -> Detections:
        """Label, thin out, merge and score the candidates of one image.

        Raises:
            DataError: nothing is left, and the settings ask for an error in that case.
        """
        raise NotImplementedError
