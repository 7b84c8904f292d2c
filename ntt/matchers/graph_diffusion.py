"""Graph diffusion instead of merging: penalties travel along overlaps of masks, as in FSOD-VFM.

FSOD-VFM (Feng et al., ICLR 2026, arXiv 2602.03137) regards candidates of one class as nodes of a directed graph whose
edges lead to better-ranked candidates that cover them, runs PageRank with restart on it, and lowers scores by
(1 - result) ** lambda: fragments of an object lose to the whole. Published settings: alpha 0.3, lambda 0.5, 30 steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ntt.base.settings import setting
from ntt.matchers.image_terms import ImageTerms
from ntt.matchers.prototype import ClassMeanMatcher
from ntt.matchers.scoring import Survivors
from ntt.ops.merging import TRANSITIONS, diffused_penalties
from ntt.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class GraphDiffusionMatcher(ClassMeanMatcher):
    """The published prototypes and scores, with FSOD-VFM's graph diffusion instead of soft merging.

    Candidates are ranked by predicted IoU (FSOD-VFM: by the score of its proposal network), and the graph consists
    of the survivors of suppression (FSOD-VFM: the 100 best proposals, without suppression).
    """

    SCHEMA: ClassVar[str] = "graph_diffusion"

    alpha: float = setting(0.3, ge=0, le=1)
    """Share of a mask's penalty that comes from the penalties of masks covering it; the rest is the largest overlap."""

    decay_power: float = setting(0.5, gt=0)
    """Exponent of 1 - penalty; the paper's lambda."""

    steps: int = setting(30, ge=1, le=100_000)
    """Iterations of the walk."""

    transition: str = setting("normalised", one_of=TRANSITIONS)
    """normalised: the weights that leave a mask sum to 1; plain: the overlaps as they are, as in the published code
    (which divides by a boolean instead of the row's sum)."""

    def merge(self, terms: ImageTerms, survivors: Survivors) -> FloatArray:
        """Multiply scores by (1 - penalty) ** decay_power."""
        penalties_M = terms.per_class(
            ("diffusion", self.alpha, self.steps, self.transition),
            survivors.indices,
            survivors.labels,
            lambda members: diffused_penalties(
                terms.overlaps(members), alpha=self.alpha, steps=self.steps, transition=self.transition
            ),
        )
        decayed: FloatArray = survivors.scores * (1.0 - penalties_M) ** np.float32(self.decay_power)
        return decayed
