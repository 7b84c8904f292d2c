"""False positives on negative images, at half recall.

Training-free methods score whatever they are given; this measures how many detections on images without objects reach
a threshold at which half of all objects are still found.
"""

import numpy as np

from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable
from ntt.types import BoolArray

_ALL_AREAS, _IOU_50 = 0, 0


def rejection(
    table: DetectionTable, ground_truth: GroundTruth, matches: Matches
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Measure false positives per negative image at 50 % recall: metric name -> value, over all classes and of each.

    "FPPI@R50": detections with score s or higher on negative images, per negative image, where s is "score@R50": the
    highest score at which half of the objects are found, at IoU 0.5. Both are absent if recall never reaches that.
    "max_recall": percent of the objects found at any score. "negative_images": their number. Over all classes also
    "mFPPI@R50": the mean of the classes' values, and "classes@R50": how many of them have one.

    Over all classes, images without any of the searched classes are negative, and one score applies to all; for one
    class, images without this class. By LVIS' protocol, only verified absence counts. Empty without negative images or
    objects. `matches` are those of boxes, so that sets with and without masks can be compared.
    """
    labels, images, scores = table.labels[matches.rows], table.images[matches.rows], table.scores[matches.rows]
    is_true = matches.is_match[_ALL_AREAS, _IOU_50] & ~matches.is_ignored[_ALL_AREAS, _IOU_50]
    num_objects = ground_truth.num_counted[_ALL_AREAS]

    def at_half_recall(rows: slice, is_negative: BoolArray, count: int) -> dict[str, float]:
        num_negative = int(np.count_nonzero(is_negative))
        if not count or not num_negative:
            return {}
        true_scores = np.sort(scores[rows][is_true[rows]])[::-1]
        values = {"max_recall": 100.0 * len(true_scores) / count, "negative_images": float(num_negative)}
        needed = (count + 1) // 2
        if len(true_scores) < needed:
            return values
        score = float(true_scores[needed - 1])
        false_positives = int(np.count_nonzero(is_negative[images[rows]] & (scores[rows] >= score)))
        return {"FPPI@R50": false_positives / num_negative, "score@R50": score, **values}

    bounds = np.searchsorted(labels, np.arange(len(ground_truth.categories) + 1))
    per_class = {
        label: at_half_recall(slice(bounds[label], bounds[label + 1]), is_negative, int(num_objects[label]))
        for label, is_negative in enumerate(ground_truth.is_negative.T)
    }
    per_class = {label: values for label, values in per_class.items() if values}
    is_empty: BoolArray = np.all(ground_truth.is_negative, axis=1)
    overall = at_half_recall(slice(None), is_empty, int(num_objects.sum()))
    reached = [values["FPPI@R50"] for values in per_class.values() if "FPPI@R50" in values]
    if reached:
        overall["mFPPI@R50"] = sum(reached) / len(reached)
    if per_class:
        overall["classes@R50"] = float(len(reached))
    return overall, per_class
