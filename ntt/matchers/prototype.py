"""The published matcher: one prototype per class, the mean of the class's reference features (method.md §3 and §5)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ntt.matchers.scoring import DetectingMatcher, ScoringMatcher
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import best_per_class, cosine_similarity
from ntt.types import Candidates, FloatArray, MemoryBank, Prototypes


@dataclass(frozen=True, kw_only=True)
class ClassMeanMatcher(DetectingMatcher):
    """Scores a candidate for a class by its cosine with the class's prototype, or the closest if it has several."""

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Average each class's instance features, then normalise: float32 [C, D] and int64 [C]."""
        return class_means(memory), torch.arange(len(memory.features))

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Take max(0, cosine) with each class's closest prototype: float32 [N, C] (method.md §5)."""
        similarity_NP = cosine_similarity(candidates.features, prototypes.vectors_PD.numpy())
        return best_per_class(similarity_NP, prototypes.labels_P.numpy(), num_classes=len(prototypes.categories))


@dataclass(frozen=True, kw_only=True)
class PrototypeMatcher(ClassMeanMatcher, ScoringMatcher):
    """The published matcher."""

    SCHEMA: ClassVar[str] = "prototype"


def class_means(memory: MemoryBank) -> torch.Tensor:
    """Average each class's instance features, then normalise: float32 [C, D] on the CPU (method.md §3)."""
    means_CD = torch.stack([features_KD.float().mean(dim=0) for features_KD in memory.features])
    return l2_normalise(means_CD).cpu()
