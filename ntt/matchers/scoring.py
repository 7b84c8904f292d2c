"""Everything matchers share: from class scores of candidates to detections (METHOD 5 and 6).

A matcher of this family says how prototypes are made and how well each candidate fits each class; labels, suppression,
merging and output follow here. Suffixes: N candidates, C classes, D channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch

from ntt.errors import ConfigError, DataError, raise_all
from ntt.matchers.base import MatcherConfig
from ntt.ops.boxes import classwise_nms
from ntt.ops.masks import rle_boxes_xywh
from ntt.ops.merging import decay, hard_survivors, soft_penalties
from ntt.types import Candidates, Detections, FloatArray, ImageId, IntArray, MemoryBank, Prototypes

Merging: TypeAlias = Literal["soft_semantic", "soft", "hard", "none"]
BoxConvention: TypeAlias = Literal["coco", "reference"]
OnEmpty: TypeAlias = Literal["empty", "raise"]


@dataclass(frozen=True, kw_only=True)
class ScoringMatcher(ABC):
    """A matcher that gives every candidate one score per class.

    Attributes:
        name: of the config option.
        merging: what becomes of a mask that earlier masks of its class overlap. "soft_semantic": its score is
            multiplied by sqrt(1 - penalty), the penalty being the largest overlap times the cosine of the two features;
            "soft": the same without the cosine; "hard": it is dropped when the overlap is above
            `hard_merge_threshold`; "none": nothing.
        nms_iou_threshold: IoU of boxes above which the one with the lower predicted IoU is suppressed, in [0, 1].
        max_candidates_after_nms: how many candidates, over all classes, go on to merging.
        max_detections: how many detections an image can have.
        min_score: candidates must score more than this, strictly, before merging; in [0, 1).
        hard_merge_threshold: part of a mask, in [0, 1], that an earlier one may cover; used by merging "hard" only.
        box_convention: "coco" for true widths and heights; "reference" for one pixel less, as the reference writes.
        on_empty: what an image without any candidate left gives: "empty" detections, or "raise" an error.
    """

    KIND: ClassVar[str]

    name: str = ""
    merging: Merging = "soft_semantic"
    nms_iou_threshold: float = 0.5
    max_candidates_after_nms: int = 800
    max_detections: int = 100
    min_score: float = 0.0
    hard_merge_threshold: float = 0.5
    box_convention: BoxConvention = "coco"
    on_empty: OnEmpty = "empty"

    def __post_init__(self) -> None:
        """Check the settings, all at once."""
        raise_all(setting_problems(self), ConfigError, summary="The matcher's settings cannot be used")

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
        """Score every candidate for every class: float32 [N, C] in [0, 1]."""

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
        kept = classwise_nms(
            candidates.grid_boxes_xyxy,
            candidates.predicted_iou,
            labels,
            iou_threshold=self.nms_iou_threshold,
            limit=self.max_candidates_after_nms,
        )
        kept = kept[scores[kept] > self.min_score]
        if len(kept) == 0 and self.on_empty == "raise":
            raise DataError(
                f"image {image_id}: none of {len(candidates.rles)} candidates scores above {self.min_score:g}. "
                "With matcher.on_empty=empty such an image has no detections; with raise it ends the run."
            )
        kept, merged = self._merge(candidates, kept, labels[kept], scores[kept])
        return self._detections(image_id, candidates, kept, labels[kept], merged)

    def _merge(
        self, candidates: Candidates, kept: IntArray, labels: IntArray, scores: FloatArray
    ) -> tuple[IntArray, FloatArray]:
        """Return which of the kept candidates stay, and their scores after merging."""
        rles = [candidates.rles[index] for index in kept.tolist()]
        height, width = candidates.height, candidates.width
        if self.merging == "none":
            return kept, scores
        if self.merging == "hard":
            alive = hard_survivors(rles, labels, threshold=self.hard_merge_threshold, height=height, width=width)
            return kept[alive], scores[alive]
        features = candidates.features[kept] if self.merging == "soft_semantic" else None
        return kept, decay(scores, soft_penalties(rles, labels, features, height=height, width=width))

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


@dataclass
class ScoringMatcherConfig(MatcherConfig):
    """Settings every matcher of this family has; the base of their schemas."""

    merging: str = "soft_semantic"
    """What becomes of a mask that earlier masks of its class overlap: soft_semantic, soft, hard or none."""

    nms_iou_threshold: float = 0.5
    """IoU of boxes, 0 to 1, above which the one with the lower predicted IoU is suppressed within a class."""

    max_candidates_after_nms: int = 800
    """Candidates of an image, over all classes, that go on to merging."""

    max_detections: int = 100
    """Detections an image can have."""

    min_score: float = 0.0
    """Similarity, 0 up to but not including 1, that a candidate must exceed before merging."""

    hard_merge_threshold: float = 0.5
    """Part of a mask, 0 to 1, that an earlier one may cover before it is dropped; for merging=hard only."""

    box_convention: str = "coco"
    """coco, or reference: widths and heights one pixel short, as the reference implementation writes them."""

    on_empty: str = "empty"
    """What an image without a candidate left gives: empty (no detections) or raise (an error)."""

    def problems(self) -> list[str]:
        """Settings that cannot work, one sentence each."""
        return setting_problems(self)

    def settings_for(self, matcher: type[ScoringMatcher]) -> dict[str, Any]:
        """Collect the keyword arguments of a matcher from the fields of the same name."""
        return {field.name: getattr(self, field.name) for field in fields(matcher)}


def setting_problems(settings: ScoringMatcher | ScoringMatcherConfig) -> list[str]:
    """List the shared settings that cannot be used, one sentence each."""
    found: list[str] = []

    def check(holds: bool, key: str, allowed: str, example: object) -> None:
        if not holds:
            wrong = f"matcher.{key}={getattr(settings, key)} is not possible: allowed is {allowed}."
            found.append(f"{wrong} Set matcher.{key}={example}, for example.")

    for key, options in (("merging", Merging), ("box_convention", BoxConvention), ("on_empty", OnEmpty)):
        names = get_args(options)
        check(getattr(settings, key) in names, key, "one of " + ", ".join(names), names[0])
    check(0 <= settings.nms_iou_threshold <= 1, "nms_iou_threshold", "0 to 1", 0.5)
    check(0 <= settings.hard_merge_threshold <= 1, "hard_merge_threshold", "0 to 1", 0.5)
    check(0 <= settings.min_score < 1, "min_score", "0 up to, but not including, 1", 0)
    check(settings.max_candidates_after_nms >= 1, "max_candidates_after_nms", "1 or more", 800)
    check(settings.max_detections >= 1, "max_detections", "1 or more", 100)
    return found
