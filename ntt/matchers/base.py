"""What a matcher is: it names a target image's candidates after the classes of a memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ntt.types import Candidates, Detections, ImageId, MemoryBank, Prototypes


class Matcher(Protocol):
    """Condenses a memory into prototypes and turns candidates into detections. Stateless between calls."""

    @property
    def name(self) -> str:
        """Name of the config option that builds this matcher."""
        ...

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON-able facts that decide the output: kind of matcher and settings."""
        ...

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Condense the memory.

        Returns:
            `vectors_PD` and `labels_P` of a `Prototypes`, on the CPU.
        """
        ...

    def match(self, image_id: ImageId, candidates: Candidates, prototypes: Prototypes) -> Detections:
        """Label, thin out, merge and score the candidates of one image.

        Raises:
            DataError: nothing is left, and the settings ask for an error in that case.
        """
        ...


@dataclass
class MatcherConfig:
    """Base schema of the config group `matcher`."""

    name: str = "???"
    """Name of the option; it appears in run directories and tables."""

    def problems(self) -> list[str]:
        """Settings that cannot work, one sentence each."""
        return []

    def build(self) -> Matcher:
        """Construct the matcher.

        Raises:
            ConfigError: for settings it cannot run with.
        """
        raise NotImplementedError
