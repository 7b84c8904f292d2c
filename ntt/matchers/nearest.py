"""The nearest reference instances: a class scores the mean of its best cosines.

CNOS labels candidates by the mean of the highest similarities to single examples, instead of the similarity to their
mean (Nguyen et al., ICCV Workshops 2023, arXiv 2307.11067: the five best of a template set); with one neighbour it is
the nearest-neighbour rule (Cover and Hart, IEEE Transactions on Information Theory 13, 1967).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ntt.base.settings import setting
from ntt.matchers.scoring import ScoringMatcher
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import cosine_similarity, mean_of_best
from ntt.types import Candidates, FloatArray, MemoryBank, Prototypes


@dataclass(frozen=True, kw_only=True)
class NearestMatcher(ScoringMatcher):
    """Scores a candidate for a class by the mean of its highest cosines with the class's instances."""

    SCHEMA: ClassVar[str] = "nearest"

    neighbours: int = setting(3, ge=1)
    """Number of most similar reference instances of a class whose cosines are averaged; all if it has fewer."""

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return every instance's unit vector, float32 [P, D], and its class, int64 [P]."""
        counts = torch.tensor([len(features_KD) for features_KD in memory.features])
        labels_P = torch.arange(len(memory.features)).repeat_interleave(counts)
        return l2_normalise(torch.cat(memory.features).float()).cpu(), labels_P

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Average the highest max(0, cosine) of each class: float32 [N, C]."""
        similarity_NP = cosine_similarity(candidates.features, prototypes.vectors_PD.numpy())
        return mean_of_best(
            similarity_NP,
            prototypes.labels_P.numpy(),
            num_classes=len(prototypes.categories),
            count=self.neighbours,
        )
