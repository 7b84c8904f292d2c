"""Graph diffusion in the place of merging: penalties travel along overlaps of masks, as in FSOD-VFM.

FSOD-VFM (Feng et al., ICLR 2026, arXiv 2602.03137) takes candidates of one class as nodes of a directed graph whose
edges lead to better-ranked candidates that cover them, runs PageRank with restart on it, and lowers scores by
(1 - result) ** lambda: fragments of an object lose to the whole. Published settings: alpha 0.3, lambda 0.5, 30 steps.
"""

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import torch

from ntt.matchers.prototype import class_means, closest_prototype
from ntt.matchers.rules import Rule, at_least_one, fraction, one_of, positive
from ntt.matchers.scoring import DETECTING_RULES, DetectingMatcher, DetectingMatcherConfig
from ntt.ops.diffusion import Transition, diffused_penalties
from ntt.ops.overlaps import overlaps_of
from ntt.types import Candidates, FloatArray, IntArray, MemoryBank, Prototypes

_RULES = (
    *DETECTING_RULES,
    fraction("alpha", 0.3),
    positive("decay_power", 0.5),
    at_least_one("steps", 30),
    one_of("transition", get_args(Transition)),
)


@dataclass(frozen=True, kw_only=True)
class GraphDiffusionMatcher(DetectingMatcher):
    """The published prototypes and scores, with FSOD-VFM's graph diffusion instead of soft merging.

    Candidates are ranked by predicted IoU (FSOD-VFM: by the score of its proposal network), and the graph holds what
    suppression has left (FSOD-VFM: the 100 best proposals, without suppression).

    Attributes:
        alpha: part of a mask's penalty that comes from the masks that cover it; the rest from how much they cover.
        decay_power: lambda, the exponent of 1 - penalty.
        steps: iterations.
        transition: "normalised": edge weights that leave a mask sum to 1; "plain": the overlaps themselves, as the
            published code has it (it divides by a truth value where the row's sum is meant).
    """

    KIND: ClassVar[str] = "graph_diffusion"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "graph_diffusion"
    alpha: float = 0.3
    decay_power: float = 0.5
    steps: int = 30
    transition: Transition = "normalised"

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Average each class's instance features, then normalise: float32 [C, D] and int64 [C]."""
        return class_means(memory), torch.arange(len(memory.features))

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Take max(0, cosine) with each class's prototype: float32 [N, C]."""
        return closest_prototype(candidates, prototypes)

    def merge(
        self, candidates: Candidates, kept: IntArray, labels_M: IntArray, scores_M: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Keep all, with scores times (1 - penalty) ** decay_power."""
        penalties_M = diffused_penalties(
            [candidates.rles[index] for index in kept.tolist()],
            labels_M,
            alpha=self.alpha,
            steps=self.steps,
            transition=self.transition,
            height=candidates.height,
            width=candidates.width,
            known=None if candidates.overlaps is None else overlaps_of(candidates.overlaps, kept),
        )
        decayed: FloatArray = scores_M * (1.0 - penalties_M) ** np.float32(self.decay_power)
        return kept, decayed


@dataclass
class GraphDiffusionConfig(DetectingMatcherConfig):
    """Schema of `matcher=graph_diffusion`."""

    SCHEMA: ClassVar[str] = "graph_diffusion"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "graph_diffusion"
    """Name of the option; it appears in run directories and tables."""

    alpha: float = 0.3
    """Part of a mask's penalty, 0 to 1, that comes from the masks covering it; the rest from how much they cover."""

    decay_power: float = 0.5
    """Exponent of 1 - penalty, above 0; the paper's lambda."""

    steps: int = 30
    """Iterations of the walk."""

    transition: str = "normalised"
    """normalised: the weights that leave a mask sum to 1; plain: the overlaps as they are, as the published code."""

    def build(self) -> GraphDiffusionMatcher:
        """Construct the matcher.

        Raises:
            ConfigError: for settings it cannot run with.
        """
        return GraphDiffusionMatcher(**self.settings_for(GraphDiffusionMatcher))
