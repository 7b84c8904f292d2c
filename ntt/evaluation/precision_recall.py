"""COCO's and LVIS' precision and recall from matches, equal to pycocotools' and `lvis`' own in every digit.

The arithmetic is COCOeval's, operation by operation. Suffixes as in `ntt.evaluation.curves` and
`ntt.evaluation.matching`.
"""

from functools import cache

import numpy as np

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS, RECALL_STEPS_R, Curves
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable, narrow
from ntt.ops.compiled import compiled
from ntt.types import DoubleArray, IntArray

_SPACING = np.spacing(1)


def precision_recall(matches: Matches, table: DetectionTable, ground_truth: GroundTruth) -> Curves:
    """Compute precision and recall from the matches of boxes or masks, by the protocol of the ground truth."""
    limits, num_classes = MAX_DETECTIONS[ground_truth.protocol], len(ground_truth.categories)
    order = np.flatnonzero(matches.ranks < limits[-1])
    scores, labels = table.scores[matches.rows[order]], table.labels[matches.rows[order]]
    order = order[np.lexsort((-scores, narrow(labels)))]
    bounds = np.searchsorted(labels, np.arange(num_classes + 1))
    counted_AK = ground_truth.num_counted
    needed_AKR = np.stack([[_true_detections_needed(count) for count in of_range] for of_range in counted_AK.tolist()])
    sizes = (num_classes, len(AREA_RANGES_PX))
    precision = -np.ones((len(IOU_THRESHOLDS_T), len(RECALL_STEPS_R), *sizes))
    recall = -np.ones((len(IOU_THRESHOLDS_T), *sizes, len(limits)))
    _follow(order, bounds, matches, counted_AK, needed_AKR, np.array(limits), precision, recall)
    return Curves(precision=precision, recall=recall, protocol=ground_truth.protocol)


@cache
def _true_detections_needed(num_objects: int) -> IntArray:
    """Return how many true detections reach each recall step: int64 [R], at least 1."""
    return np.searchsorted(np.arange(num_objects + 1) / max(num_objects, 1), RECALL_STEPS_R).clip(min=1)


@compiled
def _follow(
    order: IntArray,
    bounds: IntArray,
    matches: Matches,
    counted_AK: IntArray,
    needed_AKR: IntArray,
    limits_M: IntArray,
    precision_TRKA: DoubleArray,
    recall_TKAM: DoubleArray,
) -> None:
    """Follow each class's detections by descending score and set precision and recall of classes with objects.

    `order[bounds[k] : bounds[k + 1]]` are the detections of class k.
    """
    num_ranges, num_thresholds, _ = matches.is_match.shape
    precision = np.zeros(len(order) + 1)
    for label in range(counted_AK.shape[1]):
        for area in range(num_ranges):
            if counted_AK[area, label] == 0:
                continue
            for step in range(num_thresholds):
                is_match_D, is_ignored_D = matches.is_match[area, step], matches.is_ignored[area, step]
                recall_M = recall_TKAM[step, label, area]
                recall_M[:] = 0
                num_true = num_counted = 0
                for detection in order[bounds[label] : bounds[label + 1]]:
                    num_counted += not is_ignored_D[detection]
                    if is_match_D[detection] and not is_ignored_D[detection]:
                        precision[num_true] = (num_true + 1) / (num_counted + _SPACING)
                        num_true += 1
                        for index, limit in enumerate(limits_M):
                            recall_M[index] += matches.ranks[detection] < limit
                recall_M /= counted_AK[area, label]
                # The largest precision at this number of true detections or more.
                for number in range(num_true - 2, -1, -1):
                    precision[number] = max(precision[number], precision[number + 1])
                for index, needed in enumerate(needed_AKR[area, label]):
                    precision_TRKA[step, index, label, area] = precision[needed - 1] if needed <= num_true else 0.0
