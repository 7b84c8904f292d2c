"""How often something is found where nothing is: false positives on negative images, at half recall.

Training-free methods score whatever they are shown; this says what a threshold that still finds half of all objects
lets through on images that hold none.
"""

from dataclasses import dataclass

import numpy as np

from ntt.evaluation.curves import FloatArray
from ntt.evaluation.matching import BoolArray, Matches
from ntt.evaluation.table import DetectionTable
from ntt.evaluation.truth import TruthIndex

_ALL_AREAS, _IOU_50 = 0, 0


@dataclass(frozen=True)
class RejectionScores:
    """Metric name -> value, over all classes and for each class index.

    "FPPI@R50": detections with score s or higher on negative images, per negative image, where s is "score@R50": the
    highest score at which recall is at least 50 %. Both absent where recall never is. "max_recall": percent of the
    objects that are found at all. "negative_images": their number. Over all classes also "mFPPI@R50": the mean of the
    classes' values, and "classes@R50": how many of them have one.
    """

    overall: dict[str, float]
    per_class: dict[int, dict[str, float]]


def rejection(table: DetectionTable, truth: TruthIndex, matches: Matches) -> RejectionScores:
    """Measure false positives per negative image at 50 % recall.

    Over all classes: negative is an image without any of the searched classes; one score holds for all classes, and
    recall is that of all objects together. For one class: negative is an image without this class, and objects,
    detections and score are this class's alone; where several data sets are pooled, the images of the others are
    negative for it. By LVIS' protocol an image is without a class only where that was verified.

    An object is found at a score by a detection with that score or a higher one that the protocol's matching gives it
    at IoU 0.5; crowd regions are not counted.

    Args:
        table: the detections.
        truth: the ground truth.
        matches: of these detections' boxes, so that sets with and without masks can be compared.

    Returns:
        Without an entry where there is no negative image or no object.
    """
    labels, images, scores = table.labels[matches.rows], table.images[matches.rows], table.scores[matches.rows]
    is_true = matches.is_match[_ALL_AREAS, _IOU_50] & ~matches.is_ignored[_ALL_AREAS, _IOU_50]
    counted = truth.counted[_ALL_AREAS]
    bounds = np.searchsorted(labels, np.arange(len(truth.categories) + 1))
    per_class: dict[int, dict[str, float]] = {}
    for label in range(len(truth.categories)):
        is_negative = truth.is_negative[label]
        mine = slice(bounds[label], bounds[label + 1])
        found = _at_half_recall(
            scores=scores[mine],
            is_true=is_true[mine],
            on_negative=is_negative[images[mine]],
            num_objects=int(counted[label]),
            num_negative=int(np.count_nonzero(is_negative)),
        )
        if found:
            per_class[label] = found
    is_empty: BoolArray = np.all(truth.is_negative, axis=0)
    overall = _at_half_recall(
        scores=scores,
        is_true=is_true,
        on_negative=is_empty[images],
        num_objects=int(counted.sum()),
        num_negative=int(np.count_nonzero(is_empty)),
    )
    reached = [values["FPPI@R50"] for values in per_class.values() if "FPPI@R50" in values]
    if reached:
        overall["mFPPI@R50"] = sum(reached) / len(reached)
    if per_class:
        overall["classes@R50"] = float(len(reached))
    return RejectionScores(overall, per_class)


def _at_half_recall(
    *, scores: FloatArray, is_true: BoolArray, on_negative: BoolArray, num_objects: int, num_negative: int
) -> dict[str, float]:
    if not num_objects or not num_negative:
        return {}
    true_scores = np.sort(scores[is_true])[::-1]
    found = {"max_recall": 100.0 * len(true_scores) / num_objects, "negative_images": float(num_negative)}
    needed = (num_objects + 1) // 2
    if len(true_scores) < needed:
        return found
    score = float(true_scores[needed - 1])
    false_positives = int(np.count_nonzero(on_negative & (scores >= score)))
    return {"FPPI@R50": false_positives / num_negative, "score@R50": score, **found}
