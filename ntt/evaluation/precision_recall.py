"""COCO's and LVIS' precision and recall from matches, equal to pycocotools' and `lvis`' own in every digit.

The arithmetic is COCOeval's, operation by operation, for all area ranges and thresholds in one array operation.
LVIS' own program does the same with the detections it counts, of which there is one number instead of three.

Suffixes as in `ntt.evaluation.curves` and `ntt.evaluation.matching`; n detections of one class.
"""

from functools import cache

import numpy as np

from ntt.evaluation.curves import (
    AREA_RANGES_PX,
    IOU_THRESHOLDS_T,
    MAX_DETECTIONS,
    RECALL_STEPS_R,
    Curves,
    FloatArray,
)
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable
from ntt.types import IntArray


def precision_recall(matches: Matches, table: DetectionTable, ground_truth: GroundTruth) -> Curves:
    """Compute precision and recall by the protocol of the ground truth.

    Args:
        matches: of the detections' boxes or masks.
        table: the detections.
        ground_truth: the objects.
    """
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
    """Follow one class's detections down their scores.

    Args:
        matches: of all classes.
        members: int64 [n], the class's detections by descending score.
        ranges: the area ranges to look at, A of them.
        counted_A: objects to be found in each, at least 1.
        needed_AR: true detections that reach each recall step.

    Returns:
        Precision float64 [A, T, R] and largest recall float64 [A, T].
    """
    cells = np.ix_(ranges, np.arange(len(IOU_THRESHOLDS_T)), members)
    is_match, counts = matches.is_match[cells], ~matches.is_ignored[cells]
    if not len(members):
        shape = (len(ranges), len(IOU_THRESHOLDS_T))
        return np.zeros((*shape, len(RECALL_STEPS_R))), np.zeros(shape)
    num_true_ATn = np.cumsum(is_match & counts, axis=-1, dtype=np.int64)
    num_false_ATn = np.cumsum(~is_match & counts, axis=-1, dtype=np.int64)
    true_positives = num_true_ATn.astype(np.float64)
    precision = true_positives / (num_false_ATn.astype(np.float64) + true_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    padded = np.concatenate([precision, np.zeros((*precision.shape[:-1], 1))], axis=-1)
    reached = _first_detections(num_true_ATn, needed_AR)
    return np.take_along_axis(padded, reached, axis=-1), true_positives[..., -1] / counted_A[:, None]


def _first_detections(num_true_ATn: IntArray, needed_AR: IntArray) -> IntArray:
    """Return for each recall step the first detection that reaches it: int64 [A, T, R], n where none does.

    Recall is a fraction of whole numbers, so a step is reached at a certain number of true detections. All rows are
    searched at once: offsets make them follow each other.
    """
    size = num_true_ATn.shape[-1]
    needed_AR = np.minimum(needed_AR, size + 1)
    rows_AT1 = np.arange(num_true_ATn[..., 0].size).reshape(*num_true_ATn.shape[:2], 1)
    flat = (num_true_ATn + rows_AT1 * (size + 2)).reshape(-1)
    indices = np.searchsorted(flat, needed_AR[:, None] + rows_AT1 * (size + 2))
    return np.asarray(indices - rows_AT1 * size, dtype=np.int64)
