"""Everything matchers share: from class scores of candidates to detections (METHOD 5 and 6).

A matcher of this family says how prototypes are made, how well each candidate fits each class, and what becomes of
candidates that overlap; labels, suppression and output follow here. `ScoringMatcher` knows the published ways of
merging; a matcher with a way of its own starts from `DetectingMatcher`.

Suffixes: N candidates, C classes, D channels, M candidates that are left after suppression.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch

from ntt.errors import ConfigError, DataError, raise_all
from ntt.matchers.base import MatcherConfig
from ntt.matchers.rules import Rule, at_least_one, fraction, one_of, setting_problems
from ntt.ops.boxes import classwise_nms
from ntt.ops.masks import rle_boxes_xywh
from ntt.ops.merging import decay, hard_survivors, soft_penalties
from ntt.ops.overlaps import overlaps_of
from ntt.types import Candidates, Detections, FloatArray, ImageId, IntArray, MemoryBank, Prototypes

Merging: TypeAlias = Literal["soft_semantic", "soft", "hard", "none"]
BoxConvention: TypeAlias = Literal["coco", "reference"]
OnEmpty: TypeAlias = Literal["empty", "raise"]

DETECTING_RULES = (
    one_of("box_convention", get_args(BoxConvention)),
    one_of("on_empty", get_args(OnEmpty)),
    fraction("nms_iou_threshold", 0.5),
    Rule("min_score", "0 up to, but not including, 1", 0, lambda value: 0 <= value < 1),
    at_least_one("max_candidates_after_nms", 800),
    at_least_one("max_detections", 100),
)
SCORING_RULES = (
    one_of("merging", get_args(Merging)),
    fraction("hard_merge_threshold", 0.5),
    *DETECTING_RULES,
)


@dataclass(frozen=True, kw_only=True)
class DetectingMatcher(ABC):
    """A matcher that gives every candidate one score per class and suppresses what is found twice.

    Attributes:
        name: of the config option.
        nms_iou_threshold: IoU of boxes above which the one with the lower predicted IoU is suppressed, in [0, 1].
        max_candidates_after_nms: how many candidates, over all classes, go on to merging.
        max_detections: how many detections an image can have.
        min_score: candidates must score more than this, strictly, before merging; in [0, 1).
        box_convention: "coco" for true widths and heights; "reference" for one pixel less, as the reference writes.
        on_empty: what an image without any candidate left gives: "empty" detections, or "raise" an error.
    """

    KIND: ClassVar[str]
    RULES: ClassVar[tuple[Rule, ...]] = DETECTING_RULES

    name: str = ""
    nms_iou_threshold: float = 0.5
    max_candidates_after_nms: int = 800
    max_detections: int = 100
    min_score: float = 0.0
    box_convention: BoxConvention = "coco"
    on_empty: OnEmpty = "empty"

    def __post_init__(self) -> None:
        """Check the settings, all at once."""
        raise_all(setting_problems(self, self.RULES), ConfigError, summary="The matcher's settings cannot be used")

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Kind of matcher and every setting; not the option's name, which decides nothing."""
        settings = asdict(self)
        del settings["name"]
        return {"kind": self.KIND, **settings}

    @abstractmethod
    def build_prototypes(self, memory: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
        """Condense the memory into vectors [P, D] and their class indices [P]."""

    @abstractmethod
    def class_scores(self, candidates: Candidates, prototypes: Prototypes) -> FloatArray:
        """Score every candidate for every class.

        Returns:
            float32 [N, C] in [0, 1]. A candidate whose scores are all below 0 is rejected: it takes no part in
            suppression either, which one with scores of 0 does, as in the published method.
        """

    @abstractmethod
    def merge(
        self, candidates: Candidates, kept: IntArray, labels_M: IntArray, scores_M: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Say what becomes of candidates of one class that overlap.

        Args:
            candidates: all of the image.
            kept: int64 [M], which of them are left, best predicted IoU first.
            labels_M: int64 [M], their classes.
            scores_M: float32 [M], their scores, above 0.

        Returns:
            Which candidates stay, int64, and their scores, float32. A score of 0 is no detection.
        """

    def match(self, image_id: ImageId, candidates: Candidates, prototypes: Prototypes) -> Detections:
        """Turn the candidates of one image into detections.

        Args:
            image_id: copied into the result.
            candidates: of the image.
            prototypes: made by this matcher.

        Returns:
            At most `max_detections`, by descending score; of equal scores, the better predicted IoU first.

        Raises:
            DataError: no candidate is left and `on_empty` is "raise".
        """
        scores_NC = self.class_scores(candidates, prototypes)
        labels = scores_NC.argmax(axis=1).astype(np.int64)
        scores = scores_NC.max(axis=1)
        kept = self._suppress(candidates, labels, np.flatnonzero(scores >= 0))
        kept = kept[scores[kept] > self.min_score]
        if len(kept) == 0 and self.on_empty == "raise":
            raise DataError(
                f"image {image_id}: none of {len(candidates.rles)} candidates scores above {self.min_score:g}. "
                "With matcher.on_empty=empty such an image has no detections; with raise it ends the run."
            )
        kept, merged = self.merge(candidates, kept, labels[kept], scores[kept])
        return self._detections(image_id, candidates, kept, labels[kept], merged)

    def _suppress(self, candidates: Candidates, labels: IntArray, members: IntArray) -> IntArray:
        """Return the members no better one of their class suppresses, best predicted IoU first."""
        alive = classwise_nms(
            candidates.grid_boxes_xyxy[members],
            candidates.predicted_iou[members],
            labels[members],
            iou_threshold=self.nms_iou_threshold,
            limit=self.max_candidates_after_nms,
        )
        return members[alive]

    def _detections(
        self, image_id: ImageId, candidates: Candidates, kept: IntArray, labels: IntArray, scores: FloatArray
    ) -> Detections:
        """Take the best by score; a score that merging brought to 0 is no detection."""
        best = np.argsort(-scores, kind="stable")[: self.max_detections]
        best = best[scores[best] > 0]
        rles = tuple(candidates.rles[index] for index in kept[best].tolist())
        boxes = rle_boxes_xywh(rles, candidates.height, candidates.width)
        if self.box_convention == "reference":
            boxes[:, 2:] -= 1
        return Detections(
            image_id=image_id,
            height=candidates.height,
            width=candidates.width,
            labels=labels[best],
            scores=scores[best],
            boxes_xywh=boxes,
            rles=rles,
        )


@dataclass(frozen=True, kw_only=True)
class ScoringMatcher(DetectingMatcher):
    """A matcher with the published ways of merging (METHOD 6; paper, section 3.4).

    Attributes:
        merging: what becomes of a mask that earlier masks of its class overlap. "soft_semantic": its score is
            multiplied by sqrt(1 - penalty), the penalty being the largest overlap times the cosine of the two features;
            "soft": the same without the cosine; "hard": it is dropped when the overlap is above
            `hard_merge_threshold`; "none": nothing.
        hard_merge_threshold: part of a mask, in [0, 1], that an earlier one may cover; used by merging "hard" only.
    """

    RULES: ClassVar[tuple[Rule, ...]] = SCORING_RULES

    merging: Merging = "soft_semantic"
    hard_merge_threshold: float = 0.5

    def merge(
        self, candidates: Candidates, kept: IntArray, labels_M: IntArray, scores_M: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Drop or weaken masks that earlier masks of their class overlap."""
        rles = [candidates.rles[index] for index in kept.tolist()]
        height, width = candidates.height, candidates.width
        if self.merging == "none":
            return kept, scores_M
        known = None if candidates.overlaps is None else overlaps_of(candidates.overlaps, kept)
        if self.merging == "hard":
            alive = hard_survivors(
                rles, labels_M, threshold=self.hard_merge_threshold, height=height, width=width, known=known
            )
            return kept[alive], scores_M[alive]
        features = candidates.features[kept] if self.merging == "soft_semantic" else None
        penalties = soft_penalties(rles, labels_M, features, height=height, width=width, known=known)
        return kept, decay(scores_M, penalties)


@dataclass
class DetectingMatcherConfig(MatcherConfig):
    """Settings every matcher of this family has; the base of their schemas."""

    RULES: ClassVar[tuple[Rule, ...]] = DETECTING_RULES

    nms_iou_threshold: float = 0.5
    """IoU of boxes, 0 to 1, above which the one with the lower predicted IoU is suppressed within a class."""

    max_candidates_after_nms: int = 800
    """Candidates of an image, over all classes, that go on to merging."""

    max_detections: int = 100
    """Detections an image can have."""

    min_score: float = 0.0
    """Similarity, 0 up to but not including 1, that a candidate must exceed before merging."""

    box_convention: str = "coco"
    """coco, or reference: widths and heights one pixel short, as the reference implementation writes them."""

    on_empty: str = "empty"
    """What an image without a candidate left gives: empty (no detections) or raise (an error)."""

    def problems(self) -> list[str]:
        """Settings that cannot work, one sentence each."""
        return setting_problems(self, self.RULES)

    def settings_for(self, matcher: type[DetectingMatcher]) -> dict[str, Any]:
        """Collect the keyword arguments of a matcher from the fields of the same name."""
        return {field.name: getattr(self, field.name) for field in fields(matcher)}


@dataclass
class ScoringMatcherConfig(DetectingMatcherConfig):
    """Settings of a matcher with the published ways of merging; the base of their schemas."""

    RULES: ClassVar[tuple[Rule, ...]] = SCORING_RULES

    merging: str = "soft_semantic"
    """What becomes of a mask that earlier masks of its class overlap: soft_semantic, soft, hard or none."""

    hard_merge_threshold: float = 0.5
    """Part of a mask, 0 to 1, that an earlier one may cover before it is dropped; for merging=hard only."""
