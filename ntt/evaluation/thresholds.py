"""Precision, recall and F1 at score thresholds, the best threshold, and the one to propose (docs/evaluation.md).

Of boxes at IoU 0.5; thresholds never affect AP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TypeAlias

import numpy as np

from ntt.evaluation.curves import FIXED_THRESHOLD
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable
from ntt.types import BoolArray, Category, DoubleArray, IntArray

_ALL_AREAS, _IOU_50 = 0, 0
_F1_POWER = 4


@dataclass(frozen=True)
class OperatingPoint:
    """Quality of the detections with at least this score; percent."""

    threshold: float
    precision: float
    recall: float
    f1: float


OperatingPoints: TypeAlias = Mapping[str, Mapping[str, OperatingPoint]]
"""Class name -> "fixed", "proposed" or "best" -> its quality; under "" the means over such classes."""


@dataclass(frozen=True)
class RankedDetections:
    """Detections that count as right or wrong, of a class or of several, by descending score.

    Attributes:
        scores: float64 [D].
        is_true: bool [D], whether the detection finds an object.
    """

    scores: DoubleArray
    is_true: BoolArray
    num_objects: int

    def at(self, threshold: float) -> OperatingPoint:
        """Measure the detections with at least this score; precision without any detection is 0."""
        return self._point(threshold, int((self.scores >= threshold).sum()))

    def best(self) -> OperatingPoint | None:
        """Return the point with the highest F1, of equal ones that with the highest threshold; None without any hit."""
        f1 = self._f1()
        if not f1.max(initial=0.0) > 0:
            return None
        count = int(f1.argmax()) + 1
        return self._point(float(self.scores[count - 1]), count)

    def proposal(self) -> float | None:
        """Return the mean score, weighted by the fourth power of the F1 of a threshold at each; None without a hit.

        The score with the highest F1 is much less stable if there are few objects (method.md §9.4).
        """
        weights = self._f1() ** _F1_POWER
        return float(np.average(self.scores, weights=weights)) if weights.any() else None

    def _f1(self) -> DoubleArray:
        """Return F1 of the first 1, 2, ... detections; 0 between equal scores, where no threshold lies."""
        counts = np.arange(1, len(self.scores) + 1)
        f1: DoubleArray = 2.0 * np.cumsum(self.is_true) / (counts + self.num_objects)
        f1[:-1][self.scores[1:] == self.scores[:-1]] = 0.0
        return f1

    def _point(self, threshold: float, count: int) -> OperatingPoint:
        hits = int(self.is_true[:count].sum())
        return OperatingPoint(
            threshold,
            precision=100.0 * hits / max(count, 1),
            recall=100.0 * hits / max(self.num_objects, 1),
            f1=200.0 * hits / max(count + self.num_objects, 1),
        )


def ranked_detections(
    matches: Matches, table: DetectionTable, ground_truth: GroundTruth, labels: Sequence[int]
) -> RankedDetections:
    """Rank the detections of some classes, by their class indices, together."""
    is_counted = ~matches.is_ignored[_ALL_AREAS, _IOU_50] & np.isin(table.labels[matches.rows], labels)
    members: IntArray = np.flatnonzero(is_counted)
    scores = table.scores[matches.rows[members]]
    order = np.argsort(-scores, kind="stable")
    return RankedDetections(
        scores=scores[order],
        is_true=matches.is_match[_ALL_AREAS, _IOU_50, members[order]],
        num_objects=int(ground_truth.num_counted[_ALL_AREAS, list(labels)].sum()),
    )


def propose_thresholds(
    matches: Matches, table: DetectionTable, ground_truth: GroundTruth, *, num_images: Sequence[int]
) -> list[float | None]:
    """Propose a score for each class from detections on left-out reference images; None throughout without a hit.

    It is the mean of the class's own proposal and that of all classes together, which alone counts for a class that is
    on one image only or is never hit. `num_images` counts the images with references of each class, `matches` are those
    of boxes.
    """
    labels = range(len(ground_truth.categories))
    pooled = ranked_detections(matches, table, ground_truth, labels).proposal()
    proposals: list[float | None] = []
    for label in labels:
        own = ranked_detections(matches, table, ground_truth, [label]).proposal() if num_images[label] > 1 else None
        proposals.append(pooled if own is None or pooled is None else (own + pooled) / 2)
    return proposals


def lowest_scores(
    categories: Sequence[Category], fixed: float | None, proposed: Mapping[str, float]
) -> dict[str, float]:
    """Return the score from which each class's detections are shown, by its name: fixed, else proposed, else 0.4."""
    names = [category.name for category in categories]
    return {name: proposed.get(name, FIXED_THRESHOLD) if fixed is None else fixed for name in names}


def operating_points(
    matches: Matches, table: DetectionTable, ground_truth: GroundTruth, thresholds: Mapping[str, Mapping[str, float]]
) -> OperatingPoints:
    """Measure the boxes of each class with objects at its best threshold and at others: kind -> class name -> score."""
    points: dict[str, dict[str, OperatingPoint]] = {}
    for label, category in enumerate(ground_truth.categories):
        ranked = ranked_detections(matches, table, ground_truth, [label])
        if ranked.num_objects:
            points[category.name] = {
                **{kind: ranked.at(of_class[category.name]) for kind, of_class in thresholds.items()},
                "best": ranked.best() or ranked.at(1.0),
            }
    if points:
        kinds = next(iter(points.values()))
        of_kinds = {kind: [astuple(of_class[kind]) for of_class in points.values()] for kind in kinds}
        points[""] = {kind: OperatingPoint(*np.mean(values, axis=0).tolist()) for kind, values in of_kinds.items()}
    return points
