"""Negative references: a score is damped when a counter-example is more similar than the class.

The arithmetic is that of the option `with_negative_refs` of the published method's code:
score * exp(-max(0, similarity to the nearest negative of the class - score) / sigma), with sigma 0.8. There, the
negatives of a class are the method's own best-scoring false positives on the reference images, found by running it on
them first. Here they come from the references themselves: the surroundings of the class's instances, and the
instances of the other classes.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ntt.base.settings import setting
from ntt.matchers.prototype import class_means
from ntt.matchers.scoring import ScoringMatcher
from ntt.ops.pooling import l2_normalise
from ntt.ops.similarity import best_of_others, best_per_class, cosine_similarity, damp
from ntt.types import Candidates, FloatArray, MemoryBank, Prototypes

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NegativeMatcher(ScoringMatcher):
    """The published matcher with scores damped by the nearest negative reference."""

    SCHEMA: ClassVar[str] = "negative"

    negatives: str = setting("both", one_of=("both", "background", "other_classes"))
    """Counter-examples of a class: background (the surroundings of its reference instances), other_classes (the
    reference instances of all other classes), or both."""

    sigma: float = setting(0.8, gt=0)
    """Softness, a difference of cosines: a negative that leads by sigma leaves 37 % of the score."""

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class means, followed by the counter-examples: float32 [P, D], int64 [P].

        Label -2 - c: surroundings of class c, counter-example of c. Label -2 - C - c: instance of class c,
        counter-example of every other class.
        """
        vectors, count = [class_means(memory)], len(memory.features)
        labels = [torch.arange(count)]
        groups: list[tuple[torch.Tensor, int]] = []
        if self.negatives != "other_classes":
            groups += [(features, -2 - label) for label, features in enumerate(memory.backgrounds)]
            if sum(len(features) for features, _ in groups) == 0:
                _LOG.warning("No reference shows any background: there are no negatives from the surroundings.")
        if self.negatives != "background":
            groups += [(features, -2 - count - label) for label, features in enumerate(memory.features)]
        for features, label in groups:
            vectors.append(l2_normalise(features.float()).cpu())
            labels.append(torch.full((len(features),), label))
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
