"""Several prototypes a class: the means of groups of similar reference instances.

A class that looks different from picture to picture is poorly described by one mean. Splitting its examples by k-means
is what PPNet does with the parts of an object (Liu et al., Part-aware Prototype Network, ECCV 2020, arXiv 2007.06309)
and the published method's code does with patches, without reading the result; here whole instances are grouped.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ntt.matchers.prototype import closest_prototype
from ntt.matchers.rules import Rule, at_least_one
from ntt.matchers.scoring import SCORING_RULES, ScoringMatcher, ScoringMatcherConfig
from ntt.ops.clustering import spherical_kmeans
from ntt.ops.pooling import l2_normalise
from ntt.types import Candidates, Category, FloatArray, MemoryBank, Prototypes

_RULES = (
    *SCORING_RULES,
    at_least_one("prototypes_per_class", 3),
    Rule("clustering_seed", "0 or more", 0, lambda value: value >= 0),
)


@dataclass(frozen=True, kw_only=True)
class KMeansMatcher(ScoringMatcher):
    """Scores a candidate for a class by its cosine with the closest of the class's prototypes.

    Attributes:
        prototypes_per_class: groups the instances of a class are split into; every instance is a group where there
            are fewer. With 1, scores are those of the published matcher.
        clustering_seed: of the k-means starts.
    """

    KIND: ClassVar[str] = "kmeans"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "kmeans"
    prototypes_per_class: int = 3
    clustering_seed: int = 0

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Group each class's instances by cosine and average each group.

        Args:
            memory: one or more instance features a class.

        Returns:
            float32 [P, D] and int64 [P].
        """
        groups = [
            self._group_means(features_KD.float().cpu(), category)
            for features_KD, category in zip(memory.features, memory.categories, strict=True)
        ]
        counts = torch.tensor([len(means) for means in groups])
        return l2_normalise(torch.cat(groups)), torch.arange(len(groups)).repeat_interleave(counts)

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Take max(0, cosine) with each class's closest prototype: float32 [N, C]."""
        return closest_prototype(candidates, prototypes)

    def _group_means(self, features_KD: torch.Tensor, category: Category) -> torch.Tensor:
        """Return the mean of each group, [G, D]; other classes have no influence on it."""
        if len(features_KD) <= self.prototypes_per_class:
            return features_KD
        generator = np.random.default_rng([self.clustering_seed, category.id % 2**32])
        groups_K = spherical_kmeans(features_KD.numpy(), self.prototypes_per_class, generator=generator)
        labels_K = torch.from_numpy(groups_K)
        return torch.stack([features_KD[labels_K == group].mean(dim=0) for group in range(int(groups_K.max()) + 1)])


@dataclass
class KMeansConfig(ScoringMatcherConfig):
    """Schema of `matcher=kmeans`."""

    SCHEMA: ClassVar[str] = "kmeans"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "kmeans"
    """Name of the option; it appears in run directories and tables."""

    prototypes_per_class: int = 3
    """Groups the reference instances of a class are split into; each is a group of its own where there are fewer."""

    clustering_seed: int = 0
    """Seed of the k-means starts, 0 or more."""

    def build(self) -> KMeansMatcher:
        """Construct the matcher.

        Raises:
            ConfigError: for settings it cannot run with.
        """
        return KMeansMatcher(**self.settings_for(KMeansMatcher))
