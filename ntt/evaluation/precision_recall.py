"""COCO's and LVIS' precision and recall from matches, equal to pycocotools' and `lvis`' own in every digit.

The arithmetic is COCOeval's, operation by operation, for all area ranges and thresholds in one array operation.

Suffixes as in `ntt.evaluation.curves` and `ntt.evaluation.matching`; n detections of one class.
"""

from functools import cache

import numpy as np

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS, RECALL_STEPS_R, Curves, FloatArray
from ntt.evaluation.ground_truth import BoolArray, GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable
from ntt.types import IntArray


def precision_recall(matches: Matches, table: DetectionTable, ground_truth: GroundTruth) -> Curves:
    """Compute precision and recall from the matches of boxes or masks, by the protocol of the ground truth."""
    limits = MAX_DETECTIONS[ground_truth.protocol]
    order = np.flatnonzero(matches.ranks < limits[-1])
    order = order[np.lexsort((-table.scores[matches.rows[order]], table.labels[matches.rows[order]]))]
    labels, ranks = table.labels[matches.rows[order]], matches.ranks[order]
    counts_ATD = ~matches.is_ignored.take(order, axis=-1)
    is_true_ATD = matches.is_match.take(order, axis=-1) & counts_ATD
    sizes = (len(ground_truth.categories), len(AREA_RANGES_PX))
    precision = -np.ones((len(IOU_THRESHOLDS_T), len(RECALL_STEPS_R), *sizes))
    recall = -np.ones((len(IOU_THRESHOLDS_T), *sizes, len(limits)))
    bounds = np.searchsorted(labels, np.arange(len(ground_truth.categories) + 1))
    for label, counted_A in enumerate(ground_truth.num_counted.T):
        ranges = np.flatnonzero(counted_A)
        if not len(ranges):
            continue
        members = slice(bounds[label], bounds[label + 1])
        counts_ATn, is_true_ATn = counts_ATD[ranges, :, members], is_true_ATD[ranges, :, members]
        needed_AR = np.stack([_true_detections_needed(count) for count in counted_A[ranges].tolist()])
        precision[:, :, label, ranges] = _precision(is_true_ATn, counts_ATn, needed_AR).transpose(1, 2, 0)
        for index, limit in enumerate(limits):
            found_AT = np.count_nonzero(is_true_ATn & (ranks[members] < limit), axis=-1)
            recall[:, label, ranges, index] = (found_AT / counted_A[ranges, None]).T
    return Curves(precision=precision, recall=recall, protocol=ground_truth.protocol)


@cache
def _true_detections_needed(num_objects: int) -> IntArray:
    """Return how many true detections reach each recall step: int64 [R]."""
    return np.searchsorted(np.arange(num_objects + 1) / num_objects, RECALL_STEPS_R)


def _precision(is_true_ATn: BoolArray, counts_ATn: BoolArray, needed_AR: IntArray) -> FloatArray:
    """Follow one class's detections by descending score: precision at the recall steps, float64 [A, T, R]."""
    num_ranges, num_thresholds, count = is_true_ATn.shape
    if not count:
        return np.zeros((num_ranges, num_thresholds, len(RECALL_STEPS_R)))
    # Precision rises only at true detections, so the largest one after any detection is at one of them.
    rows, columns = np.nonzero(is_true_ATn.reshape(-1, count))
    num_true = np.count_nonzero(is_true_ATn, axis=-1)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(num_true) - num_true.ravel(), num_true.ravel())
    num_counted = np.cumsum(counts_ATn, axis=-1, dtype=np.int32).reshape(-1, count)[rows, columns]
    true_positives = (number + 1).astype(np.float64)
    false_positives = num_counted - true_positives
    precision = np.zeros((num_true.size, num_true.max() + 1))
    precision[rows, number] = true_positives / (false_positives + true_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=-1)[:, ::-1].reshape(num_ranges, num_thresholds, -1)
    # The k-th true detection reaches the recall step; beyond the last one, precision is 0.
    index_A1R = np.clip(needed_AR - 1, 0, num_true.max())[:, None]
    return np.take_along_axis(precision, np.repeat(index_A1R, num_thresholds, axis=1), axis=-1)
