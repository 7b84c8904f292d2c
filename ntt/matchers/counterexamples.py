"""Counter-examples of a class: the surroundings of references, and the references of other classes."""

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
_BACKGROUND = -1


@dataclass(frozen=True, kw_only=True)
class BackgroundMatcher(ScoringMatcher):
    """The published matcher with background as one more class, which gives no detections.

    The prototype is the mean feature of the patches outside the masks of the reference crops, and competes with the
    classes, as in PANet (Wang et al., ICCV 2019, arXiv 1908.06391, equations 2 and 3).
    """

    SCHEMA: ClassVar[str] = "background"

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class means and, with the label -1, the mean of all surroundings: float32 [P, D], int64 [P].

        If all references fill their crops, this is the published matcher, with a warning.
        """
        means_CD, labels_C = class_means(memory), torch.arange(len(memory.features))
        if not any(map(len, memory.backgrounds)):
            _LOG.warning("No reference shows any background: there is no background prototype.")
            return means_CD, labels_C
        background_1D = torch.cat(memory.backgrounds).float().cpu().mean(dim=0, keepdim=True)
        return torch.cat([means_CD, l2_normalise(background_1D)]), torch.cat([labels_C, torch.tensor([_BACKGROUND])])

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Take max(0, cosine): float32 [N, C]; or -1 throughout for a candidate more similar to background."""
        similarity_NP = cosine_similarity(candidates.features, prototypes.vectors_PD.numpy())
        labels_P = prototypes.labels_P.numpy()
        scores_NC = best_per_class(similarity_NP, labels_P, num_classes=len(prototypes.categories))
        background_N1 = similarity_NP[:, labels_P == _BACKGROUND].max(axis=1, keepdims=True, initial=0.0)
        is_background_N1 = background_N1 > scores_NC.max(axis=1, keepdims=True)
        return np.where(is_background_N1, np.float32(-1.0), scores_NC)


@dataclass(frozen=True, kw_only=True)
class NegativeMatcher(ScoringMatcher):
    """The published matcher with scores damped by the nearest negative reference.

    The arithmetic is that of the option `with_negative_refs` of the published method's code:
    score * exp(-max(0, similarity to the nearest negative of the class - score) / sigma), with sigma 0.8. There,
    negatives are the method's own best-scoring false positives on the reference images, found by running it on them.
    """

    SCHEMA: ClassVar[str] = "negative"

    sigma: float = setting(0.8, gt=0)
    """Softness, a difference of cosines: a negative that leads by sigma leaves 37 % of the score."""

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class means, followed by the counter-examples: float32 [P, D], int64 [P].

        Label -2 - c: surroundings of class c, counter-example of c. Label -2 - C - c: instance of class c,
        counter-example of every other class.
        """
        count = len(memory.features)
        if not any(map(len, memory.backgrounds)):
            _LOG.warning("No reference shows any background: there are no negatives from the surroundings.")
        groups = [(features, -2 - label) for label, features in enumerate(memory.backgrounds)]
        groups += [(features, -2 - count - label) for label, features in enumerate(memory.features)]
        vectors = [l2_normalise(features.float()).cpu() for features, _ in groups]
        labels = [torch.full((len(features),), label) for features, label in groups]
        return torch.cat([class_means(memory), *vectors]), torch.cat([torch.arange(count), *labels])

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
