"""COCO's and LVIS' precision and recall from matches, equal to pycocotools' and `lvis`' own in every digit.

The arithmetic is COCOeval's, operation by operation, for all area ranges and thresholds in one array operation.

Suffixes as in `ntt.evaluation.curves` and `ntt.evaluation.matching`; n detections of one class.
"""

from functools import cache

import numpy as np

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS, RECALL_STEPS_R, Curves, FloatArray
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable
from ntt.types import IntArray


def precision_recall(matches: Matches, table: DetectionTable, ground_truth: GroundTruth) -> Curves:
    """Compute precision and recall from the matches of boxes or masks, by the protocol of the ground truth."""
    labels = table.labels[matches.rows]
    scores = table.scores[matches.rows]
    limits = MAX_DETECTIONS[ground_truth.protocol]
    sizes = (len(ground_truth.categories), len(AREA_RANGES_PX), len(limits))
    precision = -np.ones((len(IOU_THRESHOLDS_T), len(RECALL_STEPS_R), *sizes))
    recall = -np.ones((len(IOU_THRESHOLDS_T), *sizes))
    bounds = np.searchsorted(labels, np.arange(len(ground_truth.categories) + 1))
    for label, counted_A in enumerate(ground_truth.num_counted.T):
        ranges = np.flatnonzero(counted_A)
        if not len(ranges):
            continue
        members = np.arange(bounds[label], bounds[label + 1])
        members = members[np.argsort(-scores[members], kind="stable")]
        needed_AR = np.stack([_true_detections_needed(count) for count in counted_A[ranges].tolist()])
        previous = None
        for index, limit in enumerate(limits):
            within = members[matches.ranks[members] < limit]
            if previous is None or len(within) != len(previous):  # else the higher limit adds nothing
                previous = within
                curve_ATR, top_AT = _curve(matches, within, ranges, counted_A[ranges], needed_AR)
            precision[:, :, label, ranges, index] = curve_ATR.transpose(1, 2, 0)
            recall[:, label, ranges, index] = top_AT.T
    return Curves(precision=precision, recall=recall, protocol=ground_truth.protocol)


@cache
def _true_detections_needed(num_objects: int) -> IntArray:
    """Return how many true detections reach each recall step: int64 [R]."""
    return np.searchsorted(np.arange(num_objects + 1) / num_objects, RECALL_STEPS_R)


def _curve(
    matches: Matches, members: IntArray, ranges: IntArray, counted_A: IntArray, needed_AR: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Follow one class's detections (`members`, by descending score) in A area ranges with `counted_A` objects each.

    Returns precision at the recall steps, float64 [A, T, R], and the largest recall, float64 [A, T].
    """
    shape = (len(ranges), len(IOU_THRESHOLDS_T))
    precision_ATR = np.zeros((*shape, len(RECALL_STEPS_R)))
    if not len(members):
        return precision_ATR, np.zeros(shape)
    cells = np.ix_(ranges, np.arange(len(IOU_THRESHOLDS_T)), members)
    counts = ~matches.is_ignored[cells]
    is_true = matches.is_match[cells] & counts
    # Precision rises at true detections only, so the largest one from any detection on is found at one of them.
    rows, columns = np.nonzero(is_true.reshape(-1, len(members)))
    num_true = np.count_nonzero(is_true, axis=-1)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(num_true) - num_true.ravel(), num_true.ravel())
    num_counted = np.cumsum(counts, axis=-1, dtype=np.int32).reshape(-1, len(members))[rows, columns]
    true_positives = (number + 1).astype(np.float64)
    false_positives = num_counted - true_positives
    precision = np.zeros((num_true.size, num_true.max() + 1))
    precision[rows, number] = true_positives / (false_positives + true_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=-1)[:, ::-1]
    # A recall step that is reached by the k-th true detection; beyond the last one precision is 0.
    index_AR = np.clip(needed_AR - 1, 0, num_true.max())
    precision = precision.reshape(*shape, -1)
    precision_ATR = np.take_along_axis(precision, np.broadcast_to(index_AR[:, None], precision_ATR.shape), axis=-1)
    return precision_ATR, num_true / counted_A[:, None]
