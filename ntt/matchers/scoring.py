"""What matchers have in common: from class scores of candidates to detections (method.md §5 and §6).

A matcher defines how prototypes are made, how well each candidate fits each class, and how overlapping candidates are
merged; vectors of the memory, labels, suppression and output are defined here.

Suffixes: N candidates, C classes, D channels, M survivors of suppression.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ntt.base.settings import setting
from ntt.errors import ConfigError, DataError
from ntt.matchers.base import MatcherConfig
from ntt.matchers.image_terms import ImageTerms
from ntt.ops.boxes import members_of_classes
from ntt.ops.merging import decay, hard_survivors, soft_penalties
from ntt.ops.pooling import l2_normalise
from ntt.types import Candidates, Detections, FloatArray, ImageId, IntArray, MemoryBank, Prototypes


@dataclass(frozen=True)
class Survivors:
    """The candidates that suppression leaves, best predicted IoU first: int64, int64, and float32 scores above 0."""

    indices: IntArray
    labels: IntArray
    scores: FloatArray


@dataclass(frozen=True, kw_only=True)
class DetectingMatcher(MatcherConfig, ABC):
    """Condenses a memory into prototypes, gives every candidate one score per class, and suppresses duplicates."""

    reference_vectors: str = setting("crop", one_of=("crop", "both", "full", "mean"))
    """Vectors of a reference instance. crop: of its crop, as published; full: of the best candidate of its own image;
    both: the two as two instances; mean: one between them. An instance that no candidate covers has its crop's."""

    full_share: float = setting(0.5, ge=0, le=1)
    """Share of the full image's vector in the mean; for reference_vectors=mean only."""

    surroundings: str = setting("crop", one_of=("crop", "clear"))
    """The surroundings of a reference, for matchers that use them. crop: its crop outside its mask; clear: also outside
    the masks of all other annotated objects."""

    nms_iou_threshold: float = setting(0.5, ge=0, le=1)
    """IoU of boxes above which the one with the lower predicted IoU is suppressed within a class."""

    max_candidates_after_nms: int = setting(800, ge=1)
    """Candidates of an image, over all classes, that are passed on to merging."""

    max_detections: int = setting(100, ge=1)
    """Detections an image can have."""

    min_score: float = setting(0.0, ge=0, lt=1)
    """Similarity that a candidate must exceed before merging."""

    box_convention: str = setting("coco", one_of=("coco", "reference"))
    """coco, or reference: widths and heights one pixel short, as the reference implementation writes them."""

    on_empty: str = setting("empty", one_of=("empty", "raise"))
    """Result for an image with no candidate left: empty (no detections) or raise (an error)."""

    @property
    def reads_full_images(self) -> bool:
        """Whether the memory must contain vectors of full images."""
        return self.reference_vectors != "crop"

    @property
    def reads_clear_surroundings(self) -> bool:
        """Whether the memory must contain surroundings without other objects."""
        return self.surroundings == "clear"

    def select(self, memory: MemoryBank) -> MemoryBank:
        """Return the memory with the `features` and `backgrounds` that the settings choose, empty ones left out."""
        backgrounds = memory.clear_backgrounds if self.reads_clear_surroundings else memory.backgrounds
        memory = replace(memory, backgrounds=tuple(vectors[vectors.any(dim=1)] for vectors in backgrounds))
        if self.reads_full_images:
            memory = replace(memory, features=tuple(map(self._combine, memory.features, memory.full)))
        return memory

    def _combine(self, crop_KD: torch.Tensor, full_KD: torch.Tensor) -> torch.Tensor:
        """Combine a class's vectors, each scaled to length 1 first."""
        crop_KD, full_KD = l2_normalise(crop_KD.float()), full_KD.float()
        is_reached_K = full_KD.any(dim=1)
        if self.reference_vectors == "both":
            return torch.cat([crop_KD, full_KD[is_reached_K]])
        share = 1.0 if self.reference_vectors == "full" else self.full_share
        return torch.where(is_reached_K[:, None], l2_normalise((1 - share) * crop_KD + share * full_KD), crop_KD)

    @abstractmethod
    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Condense the memory, from `select`, to `vectors_PD` and `labels_P` of a `Prototypes`, on the CPU."""

    @abstractmethod
    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Score every candidate for every class: float32 [N, C], mostly in [0, 1].

        A candidate whose scores are all below 0 is rejected and does not even take part in suppression; candidates with
        scores of 0 do, as in the published method.
        """

    @abstractmethod
    def merge(self, terms: ImageTerms, survivors: Survivors) -> FloatArray:
        """Return the scores after overlapping candidates of a class are merged: float32 [M]. 0 is no detection."""

    def match(self, image_id: ImageId, candidates: Candidates, prototypes: Prototypes) -> Detections:
        """Turn the candidates of one image into detections: at most `max_detections`, by descending score.

        Of equal scores, the better predicted IoU is first. A DataError if no candidate is left and `on_empty` asks for
        it.
        """
        terms = ImageTerms(candidates)
        survivors = self.survivors(terms, prototypes)
        terms.compare([survivors.indices[members] for members in members_of_classes(survivors.labels)])
        return self.detections(image_id, terms, survivors)

    def survivors(self, terms: ImageTerms, prototypes: Prototypes) -> Survivors:
        """Label the candidates and suppress those that a better one of their class overlaps."""
        scores_NC = self.class_scores(terms.candidates, prototypes)
        labels = scores_NC.argmax(axis=1)
        scores = self._numbers(scores_NC[np.arange(len(labels)), labels])
        # Rejected candidates form a separate class: they suppress none of the others.
        indices = terms.suppress(np.where(scores < 0, -1, labels), iou_threshold=self.nms_iou_threshold)
        indices = indices[scores[indices] >= 0][: self.max_candidates_after_nms]
        indices = indices[scores[indices] > self.min_score]
        return Survivors(indices, labels[indices], scores[indices])

    def detections(self, image_id: ImageId, terms: ImageTerms, survivors: Survivors) -> Detections:
        """Merge survivors, which `terms` has compared, and keep the best. Raises what `match` does."""
        candidates = terms.candidates
        if len(survivors.indices) == 0 and self.on_empty == "raise":
            raise DataError(
                f"image {image_id}: none of {len(candidates)} candidates scores above {self.min_score:g}. "
                "With matcher.on_empty=empty such an image has no detections; with raise it ends the run."
            )
        scores = self._numbers(self.merge(terms, survivors)) if len(survivors.indices) else survivors.scores
        best = np.argsort(-scores, kind="stable")[: self.max_detections]
        best = best[scores[best] > 0]
        members = survivors.indices[best]
        boxes = terms.boxes_xywh(members)
        if self.box_convention == "reference":
            boxes[:, 2:] -= 1
        return Detections(
            image_id=image_id,
            height=candidates.height,
            width=candidates.width,
            labels=survivors.labels[best],
            scores=scores[best],
            boxes_xywh=boxes,
            rles=terms.rles(members),
        )

    def _numbers(self, scores: FloatArray) -> FloatArray:
        """Return scores that can be sorted and written; NaN would be no detection, without a word."""
        if not (scores < np.inf).all():
            kind = type(self).__name__
            raise ConfigError(f"matcher={self.name}: a score is NaN or infinite. Correct what {kind} computes.")
        return scores


@dataclass(frozen=True, kw_only=True)
class ScoringMatcher(DetectingMatcher, ABC):
    """A matcher with the published ways of merging (method.md §6; paper, section 3.4)."""

    merging: str = setting("soft_semantic", one_of=("soft_semantic", "soft", "hard", "none"))
    """The fate of a mask that earlier masks of its class overlap. soft_semantic: its score is multiplied by
    sqrt(1 - penalty), the penalty being the largest overlap times the cosine of the two features; soft: the same
    without the cosine; hard: it is dropped if the overlap is above hard_merge_threshold; none: nothing."""

    hard_merge_threshold: float = setting(0.5, ge=0, le=1)
    """Share of a mask that an earlier one may cover before it is dropped; for merging=hard only."""

    def merge(self, terms: ImageTerms, survivors: Survivors) -> FloatArray:
        """Drop or weaken masks that earlier masks of their class overlap."""
        indices, labels, scores = survivors.indices, survivors.labels, survivors.scores
        if self.merging == "none":
            return scores
        if self.merging == "hard":
            threshold = self.hard_merge_threshold
            is_left = terms.per_class(
                ("hard", threshold), indices, labels, lambda m: hard_survivors(terms.overlaps(m), threshold=threshold)
            )
            return np.where(is_left, scores, np.float32(0.0))
        features = terms.candidates.features if self.merging == "soft_semantic" else None
        penalties = terms.per_class(
            self.merging,
            indices,
            labels,
            lambda m: soft_penalties(terms.overlaps(m), None if features is None else features[m]),
        )
        return decay(scores, penalties)


def match_together(
    image_id: ImageId, candidates: Candidates, points: Sequence[tuple[DetectingMatcher, Prototypes]]
) -> Iterator[Detections | DataError]:
    """Match one image's candidates with several matchers; yield what `match` returns or raises for each of them."""
    terms = ImageTerms(candidates, is_shared=True)
    survivors = [matcher.survivors(terms, prototypes) for matcher, prototypes in points]
    if points:
        terms.compare([np.unique(np.concatenate([left.indices for left in survivors]))])
    for (matcher, _), left in zip(points, survivors, strict=True):
        try:
            yield matcher.detections(image_id, terms, left)
        except DataError as error:
            yield error
