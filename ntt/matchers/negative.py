"""Negative references: a score is damped when a counter-example is more similar than the class.

The arithmetic is that of the published method's code, where it is the option `with_negative_refs`:
score * exp(-max(0, similarity to the nearest negative of the class - score) / sigma), with sigma 0.8. There, the
negatives of a class are the method's own best-scoring false positives on the reference images, found by running it on
them first. Here they are what the references already show: what surrounds the instances of the class, and the
instances of the other classes.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch

from ntt.matchers.prototype import class_means
from ntt.matchers.rules import Rule, one_of, positive
from ntt.matchers.scoring import SCORING_RULES, ScoringMatcher, ScoringMatcherConfig
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import best_of_others, best_per_class, cosine_similarity, damp
from ntt.types import Candidates, FloatArray, MemoryBank, Prototypes

Negatives: TypeAlias = Literal["both", "background", "other_classes"]

_LOG = logging.getLogger(__name__)
_RULES = (*SCORING_RULES, one_of("negatives", get_args(Negatives)), positive("sigma", 0.8))


@dataclass(frozen=True, kw_only=True)
class NegativeMatcher(ScoringMatcher):
    """The published matcher with scores damped by the nearest negative reference.

    Attributes:
        negatives: counter-examples of a class: "background": what surrounds its reference instances; "other_classes":
            the reference instances of all other classes; "both".
        sigma: softness: a negative that leads by sigma leaves 37 % of the score.
    """

    KIND: ClassVar[str] = "negative"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "negative"
    negatives: Negatives = "both"
    sigma: float = 0.8

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class means, and after them the counter-examples.

        Args:
            memory: with backgrounds, if `negatives` wants them.

        Returns:
            float32 [P, D] and int64 [P]. Label -2 - c: surroundings of class c, counter-example of c. Label
            -2 - C - c: instance of class c, counter-example of every other class.
        """
        vectors, count = [class_means(memory)], len(memory.features)
        labels = [torch.arange(count)]
        groups: list[tuple[torch.Tensor, int]] = []
        if self.negatives != "other_classes":
            groups += [(found, -2 - place) for place, found in enumerate(memory.backgrounds)]
            if sum(len(found) for found, _ in groups) == 0:
                _LOG.warning("No reference shows any background: there are no negatives from the surroundings.")
        if self.negatives != "background":
            groups += [(found, -2 - count - place) for place, found in enumerate(memory.features)]
        for found, label in groups:
            vectors.append(l2_normalise(found.float()).cpu())
            labels.append(torch.full((len(found),), label))
        return torch.cat(vectors), torch.cat(labels)

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Take max(0, cosine) with each class, damped by the nearest negative: float32 [N, C]."""
        count = len(prototypes.categories)
        similarity_NP = cosine_similarity(candidates.features, prototypes.vectors_PD.numpy())
        labels_P = prototypes.labels_P.numpy()
        scores_NC = best_per_class(similarity_NP, labels_P, num_classes=count)
        # Codes 0..C-1: surroundings; C..2C-1: instances; below 0: the class means.
        negatives_NK = best_per_class(similarity_NP, -2 - labels_P, num_classes=2 * count)
        against_NC = np.maximum(negatives_NK[:, :count], best_of_others(negatives_NK[:, count:]))
        return damp(scores_NC, against_NC, sigma=self.sigma)


@dataclass
class NegativeConfig(ScoringMatcherConfig):
    """Schema of `matcher=negative`."""

    SCHEMA: ClassVar[str] = "negative"
    RULES: ClassVar[tuple[Rule, ...]] = _RULES

    name: str = "negative"
    """Name of the option; it appears in run directories and tables."""

    negatives: str = "both"
    """Counter-examples of a class: background (surroundings of its references), other_classes (their reference
    instances), or both."""

    sigma: float = 0.8
    """Softness, a difference of cosines above 0: a negative that leads by sigma leaves 37 % of the score."""

    def build(self) -> NegativeMatcher:
        """Construct the matcher.

        Raises:
            ConfigError: for settings it cannot run with.
        """
        return NegativeMatcher(**self.settings_for(NegativeMatcher))
