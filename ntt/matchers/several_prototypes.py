"""Several prototypes per class: the reference instances themselves, or the means of groups of similar ones."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ntt.base.settings import setting
from ntt.matchers.prototype import PrototypeMatcher
from ntt.matchers.scoring import ScoringMatcher
from ntt.ops.clustering import spherical_kmeans
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import cosine_similarity, mean_of_best
from ntt.types import Candidates, Category, FloatArray, MemoryBank, Prototypes


@dataclass(frozen=True, kw_only=True)
class NearestMatcher(ScoringMatcher):
    """Scores a candidate for a class by the mean of its highest cosines with the class's instances.

    CNOS labels candidates by the mean of the highest similarities to single examples, instead of the similarity to
    their mean (Nguyen et al., ICCV Workshops 2023, arXiv 2307.11067: the five best of a template set); one neighbour
    is the nearest-neighbour rule (Cover and Hart, IEEE Transactions on Information Theory 13, 1967).
    """

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


@dataclass(frozen=True, kw_only=True)
class KMeansMatcher(PrototypeMatcher):
    """Scores a candidate for a class by its cosine with the closest of the class's groups of instances.

    PPNet splits the parts of an object by k-means (Liu et al., Part-aware Prototype Network, ECCV 2020, arXiv
    2007.06309), and so does the published method's code with patches, without using the result.
    """

    SCHEMA: ClassVar[str] = "kmeans"

    prototypes_per_class: int = setting(3, ge=1)
    """Groups that the reference instances of a class are split into; fewer instances are a group each. With 1, scores
    are those of the published matcher."""

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Group each class's instances by cosine and average each group: float32 [P, D] and int64 [P]."""
        groups = [
            self._group_means(features_KD.float().cpu(), category)
            for features_KD, category in zip(memory.features, memory.categories, strict=True)
        ]
        counts = torch.tensor([len(means) for means in groups])
        return l2_normalise(torch.cat(groups)), torch.arange(len(groups)).repeat_interleave(counts)

    def _group_means(self, features_KD: torch.Tensor, category: Category) -> torch.Tensor:
        """Return the mean of each group, [G, D]; other classes have no influence on it."""
        if len(features_KD) <= self.prototypes_per_class:
            return features_KD
        generator = np.random.default_rng([0, category.id % 2**32])
        groups_K = spherical_kmeans(features_KD.numpy(), self.prototypes_per_class, generator=generator)
        labels_K = torch.from_numpy(groups_K)
        return torch.stack([features_KD[labels_K == group].mean(dim=0) for group in range(int(groups_K.max()) + 1)])
