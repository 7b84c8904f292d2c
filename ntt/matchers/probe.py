"""A linear probe: ridge regression of the references against their own surroundings (docs/method.md, `probe`).

Scores are 0 for what looks like the surroundings and 1 for what looks like the references. A candidate that is half
background gets half the score, which ranks whole objects above parts and above regions that are too large.
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
from ntt.ops.similarity import best_per_class, cosine_similarity, ridge_directions
from ntt.types import BoolArray, Candidates, DoubleArray, FloatArray, MemoryBank, Prototypes

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProbeMatcher(ScoringMatcher):
    """Scores a candidate by a probe of each class, or by a mixture of that and the published cosine."""

    SCHEMA: ClassVar[str] = "probe"

    ridge: float = setting(1.0, gt=0)
    """Strength of the penalty, relative to the mean eigenvalue of the examples' second moments."""

    cosine_share: float = setting(0.0, ge=0, le=1)
    """Share of the published score, max(0, cosine) with the class mean; the rest is the probe's."""

    iou_power: float = setting(0.0, ge=0)
    """Scores are multiplied by the predicted IoU to this power; 0: they are not."""

    guard: bool = False
    """true: surroundings that are closer to the mean of a class than its own surroundings are not used as its
    counter-examples, because they may show it. surroundings=clear serves the same purpose better."""

    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the class means, followed by each class's probe and its origin: float32 [P, D], int64 [P].

        Label c: the mean of class c, of unit length. Label -2 - c: the direction of its probe; label -2 - C - c: the
        mean of its counter-examples, where the probe is 0. Without any background it warns and is the published one.
        """
        means_CD, count = class_means(memory), len(memory.features)
        labels_C = torch.arange(count)
        surroundings = [_units(vectors) for vectors in memory.backgrounds]
        if sum(map(len, surroundings)) == 0:
            _LOG.warning("No reference shows any background: candidates are scored by the published cosine.")
            return means_CD, labels_C
        instances = [_units(vectors) for vectors in memory.features]
        if self.guard:
            guarded = [_not_closer(surroundings, label, means_CD[label].double().numpy()) for label in range(count)]
            parts = [self._probes(instances, negatives, [label]) for label, negatives in enumerate(guarded)]
        else:
            parts = [self._probes(instances, np.concatenate(surroundings), range(count))]
        directions, origins = (torch.from_numpy(np.concatenate(rows)).float() for rows in zip(*parts, strict=True))
        return torch.cat([means_CD, directions, origins]), torch.cat([labels_C, -2 - labels_C, -2 - count - labels_C])

    def _probes(
        self, instances: list[DoubleArray], negatives_BD: DoubleArray, labels: range | list[int]
    ) -> tuple[DoubleArray, DoubleArray]:
        """Fit the probes of some classes against the same counter-examples: float64 [labels, D] each.

        Returns their directions, scaled so that the mean score of a class's instances is 1; and their origins.
        """
        counts = [len(vectors) for vectors in instances]
        origin_D = negatives_BD.mean(axis=0)
        class_of_row = np.repeat(np.arange(len(counts)), counts)
        rows_ND = np.concatenate([*instances, negatives_BD]) - origin_D
        of_instances = 0.5 / len(counts) / np.repeat(counts, counts)
        weights_N = np.concatenate([of_instances, np.full(len(negatives_BD), 0.5 / len(negatives_BD))])
        targets_NC = np.zeros((len(rows_ND), len(labels)))
        for column, label in enumerate(labels):
            targets_NC[: len(class_of_row), column] = class_of_row == label
        directions_CD = ridge_directions(rows_ND, weights_N, targets_NC, ridge=self.ridge).T
        own_CD = np.stack([instances[label].mean(axis=0) - origin_D for label in labels])
        response_C1 = (own_CD * directions_CD).sum(axis=1, keepdims=True)
        # A class whose mean looks like its surroundings has no direction.
        scaled = np.divide(directions_CD, response_C1, out=np.zeros_like(directions_CD), where=response_C1 > 0)
        return scaled, np.repeat(origin_D[None], len(labels), axis=0)

    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Mix probes' scores with cosines of class means: float32 [N, C], 0 to about 1; -1 if no class is above 0."""
        vectors_PD, labels_P = prototypes.vectors_PD.numpy(), prototypes.labels_P.numpy()
        count, is_mean = len(prototypes.categories), labels_P >= 0
        similarity_NP = cosine_similarity(candidates.features, vectors_PD[is_mean])
        scores_NC = best_per_class(similarity_NP, labels_P[is_mean], num_classes=count)
        if not is_mean.all():
            directions_CD, origins_CD = vectors_PD[count : 2 * count], vectors_PD[2 * count :]
            projected_NC = candidates.features @ directions_CD.T - (directions_CD * origins_CD).sum(axis=1)
            share = np.float32(self.cosine_share)
            scores_NC = share * scores_NC + (1 - share) * projected_NC.clip(min=0.0)
            scores_NC = np.where(scores_NC.max(axis=1, keepdims=True) > 0, scores_NC, np.float32(-1.0))
        weighted_NC: FloatArray = scores_NC * candidates.predicted_iou[:, None] ** np.float32(self.iou_power)
        return weighted_NC


def _units(vectors_KD: torch.Tensor) -> DoubleArray:
    return l2_normalise(vectors_KD.double()).cpu().numpy()


def _not_closer(surroundings: list[DoubleArray], label: int, mean_D: DoubleArray) -> DoubleArray:
    """Return the surroundings that are no closer to a class's mean than the closest of its own; all if it has none."""
    # Row by row: a matrix product rounds equal rows differently, and the closest would be closer than itself.
    closest = np.vecdot(surroundings[label], mean_D).max() if len(surroundings[label]) else np.inf
    pooled_BD: DoubleArray = np.concatenate(surroundings)
    is_negative_B: BoolArray = np.vecdot(pooled_BD, mean_D) <= closest
    return pooled_BD[is_negative_B]
