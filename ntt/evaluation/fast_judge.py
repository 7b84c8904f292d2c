"""COCO's precision and recall without COCOeval's inner loops; equal to it to the last digit. LVIS' likewise.

The arithmetic is COCOeval's, operation by operation; what is saved is Python: detections that reach no object are
never looped over, and all area ranges and thresholds go through one array operation together. LVIS' own program does
the same with the detections it counts, of which there is one number instead of three.

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
from ntt.evaluation.matching import Matches
from ntt.evaluation.table import DetectionTable
from ntt.evaluation.truth import TruthIndex
from ntt.types import IntArray


def curves_of(matches: Matches, table: DetectionTable, truth: TruthIndex) -> Curves:
    """Compute precision and recall by the protocol of the ground truth; for COCO's, as `judged_by_pycocotools`.

    Args:
        matches: of the detections, for the kind to be judged.
        table: the detections.
        truth: the ground truth.
    """
    labels = table.labels[matches.rows]
    scores = table.scores[matches.rows]
    limits = MAX_DETECTIONS[truth.protocol]
    sizes = (len(truth.categories), len(AREA_RANGES_PX), len(limits))
    precision = -np.ones((len(IOU_THRESHOLDS_T), len(RECALL_STEPS_R), *sizes))
    recall = -np.ones((len(IOU_THRESHOLDS_T), *sizes))
    bounds = np.searchsorted(labels, np.arange(len(truth.categories) + 1))
    for label in range(len(truth.categories)):
        counted_A = truth.counted[:, label]
        ranges = np.flatnonzero(counted_A)
        if not len(ranges):
            continue
        members = np.arange(bounds[label], bounds[label + 1])
        members = members[np.argsort(-scores[members], kind="stable")]
        needed_AR = np.stack([_true_detections_needed(count) for count in counted_A[ranges].tolist()])
        chosen = None
        for place, limit in enumerate(limits):
            within = members[matches.ranks[members] < limit]
            if chosen is None or len(within) != len(chosen):  # else the higher limit adds nothing
                chosen = within
                curve_ATR, top_AT = _curve(matches, chosen, ranges, counted_A[ranges], needed_AR)
            precision[:, :, label, ranges, place] = curve_ATR.transpose(1, 2, 0)
            recall[:, label, ranges, place] = top_AT.T
    return Curves(precision=precision, recall=recall, protocol=truth.protocol)


@cache
def _true_detections_needed(num_objects: int) -> IntArray:
    """Return how many true detections reach each recall step: int64 [R]."""
    return np.searchsorted(np.arange(num_objects + 1) / num_objects, RECALL_STEPS_R)


def _curve(
    matches: Matches, chosen: IntArray, ranges: IntArray, counted_A: IntArray, needed_AR: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Follow one class's detections down their scores.

    Args:
        matches: of all classes.
        chosen: int64 [n], the class's detections by descending score.
        ranges: the area ranges to look at, A of them.
        counted_A: objects to be found in each, at least 1.
        needed_AR: true detections that reach each recall step.

    Returns:
        Precision float64 [A, T, R] and largest recall float64 [A, T].
    """
    is_match = matches.is_match[np.ix_(ranges, np.arange(len(IOU_THRESHOLDS_T)), chosen)]
    counts = ~matches.is_ignored[np.ix_(ranges, np.arange(len(IOU_THRESHOLDS_T)), chosen)]
    true_ATn = np.cumsum(is_match & counts, axis=-1, dtype=np.int64)
    false_ATn = np.cumsum(~is_match & counts, axis=-1, dtype=np.int64)
    size = len(chosen)
    if not size:
        shape = (len(ranges), len(IOU_THRESHOLDS_T))
        return np.zeros((*shape, len(RECALL_STEPS_R))), np.zeros(shape)
    true_found = true_ATn.astype(np.float64)
    precision = true_found / (false_ATn.astype(np.float64) + true_found + np.spacing(1))
    precision = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    places = _first_places(true_ATn, needed_AR)
    padded = np.concatenate([precision, np.zeros((*precision.shape[:-1], 1))], axis=-1)
    return np.take_along_axis(padded, places, axis=-1), true_found[..., -1] / counted_A[:, None]


def _first_places(true_ATn: IntArray, needed_AR: IntArray) -> IntArray:
    """Return for each recall step the first detection that reaches it: int64 [A, T, R], n where none does.

    Recall is a fraction of whole numbers, so a step is reached at a certain number of true detections; those are
    looked up in all rows by one search, the rows being made to follow each other by offsets.
    """
    size = true_ATn.shape[-1]
    needed_AR = np.minimum(needed_AR, size + 1)
    num_rows = true_ATn.shape[0] * true_ATn.shape[1]
    offsets = (np.arange(num_rows) * (size + 2)).reshape(true_ATn.shape[:2])[..., None]
    flat = (true_ATn + offsets).reshape(-1)
    places = np.searchsorted(flat, needed_AR[:, None] + offsets)
    starts = (np.arange(num_rows) * size).reshape(true_ATn.shape[:2])[..., None]
    return np.asarray(places - starts, dtype=np.int64)
