"""Which detection finds which object, by COCO's or LVIS' rules, for many thresholds and area ranges at once.

Suffixes: A area ranges, T IoU thresholds, D detections, G objects, P pairs of a detection and an object; d detections
and g objects of one image.
"""

from typing import NamedTuple

import numpy as np

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.table import DetectionTable, ranks
from ntt.ops.compiled import compiled
from ntt.ops.ragged import chunks, ranges
from ntt.ops.run_lengths import rle_intersections
from ntt.types import BoolArray, DoubleArray, IntArray

_PAIRS = 1 << 16
"""Pairs compared at a time, to bound memory."""


class Matches(NamedTuple):
    """The outcome for all detections of a table that the protocol counts.

    Attributes:
        rows: int64 [D], their rows in the table, sorted by class, then image, then rank.
        ranks: int64 [D], position by score within image and class, from 0.
        is_match: bool [A, T, D], whether the detection found an object.
        is_ignored: bool [A, T, D], whether it is neither right nor wrong: it found an ignored object, or found nothing
            and lies outside the area range, or its class is not annotated exhaustively in its image (LVIS).
    """

    rows: IntArray
    ranks: IntArray
    is_match: BoolArray
    is_ignored: BoolArray


def match(table: DetectionTable, ground_truth: GroundTruth, kind: str) -> Matches:
    """Match detections with objects, image by image and class by class.

    By descending score, each detection takes the free object with the largest IoU that reaches the threshold; among
    equals the last. Objects that count go before ignored ones; a crowd region may be taken any number of times, and the
    IoU with it is measured against the detection alone. By LVIS' rules there are no crowd regions, and detections
    without area are left out. `table` is from `ntt.evaluation.table.counted_detections`; `kind` is "bbox" or, if all
    objects have masks, "segm".
    """
    rank_of_row, rows = ranks(table), table.by_class
    areas = table.box_areas if kind == "bbox" else table.mask_areas
    federation = ground_truth.federation
    counts = rank_of_row < MAX_DETECTIONS["coco"][-1] if federation is None else areas > 0
    rows = rows[counts[rows]]
    areas = areas[rows]
    pairs = table.images[rows] * len(ground_truth.categories) + table.labels[rows]
    is_outside = np.stack([(areas < low) | (areas > high) for low, high in AREA_RANGES_PX.values()])
    if federation is not None:
        is_outside |= np.isin(pairs, federation.not_exhaustive)
    is_match = np.zeros((len(AREA_RANGES_PX), len(IOU_THRESHOLDS_T), len(rows)), dtype=np.bool_)
    is_ignored = np.repeat(is_outside[:, None], len(IOU_THRESHOLDS_T), axis=1)
    _assign(
        *_reaching(table, rows, ground_truth, kind),
        IOU_THRESHOLDS_T,
        ground_truth.is_crowd,
        ground_truth.is_ignored,
        is_match,
        is_ignored,
    )
    return Matches(rows=rows, ranks=rank_of_row[rows], is_match=is_match, is_ignored=is_ignored)


def _reaching(
    table: DetectionTable, rows: IntArray, ground_truth: GroundTruth, kind: str
) -> tuple[IntArray, IntArray, DoubleArray]:
    """Find the pairs of a detection and an object of its image and class that reach the lowest threshold.

    Their indices in `rows` and their objects, int64 [P], and IoU, float64 [P]; by detection, then in file order. The
    IoU is computed by pycocotools' own arithmetic, so that it is equal in every digit.
    """
    first_D, counts_D = ground_truth.objects_of(table.images[rows], table.labels[rows])
    find_ious = _box_ious if kind == "bbox" else _mask_ious
    parts = []
    for part in chunks(counts_D, _PAIRS):
        detections_P = np.repeat(np.arange(len(rows))[part], counts_D[part])
        objects_P = ground_truth.by_pair[ranges(first_D[part], counts_D[part])]
        ious_P = find_ious(table, rows[detections_P], ground_truth, objects_P)
        reach_P = np.flatnonzero(ious_P >= IOU_THRESHOLDS_T[0])
        parts.append((detections_P[reach_P], objects_P[reach_P], ious_P[reach_P]))
    detections, objects, ious = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detections, objects, ious


def _box_ious(table: DetectionTable, rows_P: IntArray, ground_truth: GroundTruth, objects_P: IntArray) -> DoubleArray:
    """Return the IoU of the boxes of each pair, float64 [P], as pycocotools' `bbIou` computes it."""
    boxes, others = table.boxes_xywh[rows_P].T, ground_truth.boxes_xywh[objects_P].T
    ends, other_ends = boxes[:2] + boxes[2:], others[:2] + others[2:]
    width_P, height_P = np.minimum(ends, other_ends) - np.maximum(boxes[:2], others[:2])
    meet_P = np.flatnonzero((width_P > 0) & (height_P > 0))
    intersections = width_P[meet_P] * height_P[meet_P]
    areas, other_areas = boxes[2, meet_P] * boxes[3, meet_P], others[2, meet_P] * others[3, meet_P]
    is_crowd = ground_truth.is_crowd[objects_P[meet_P]]
    ious_P = np.zeros(len(rows_P))
    ious_P[meet_P] = intersections / np.where(is_crowd, areas, areas + other_areas - intersections)
    return ious_P


def _mask_ious(table: DetectionTable, rows_P: IntArray, ground_truth: GroundTruth, objects_P: IntArray) -> DoubleArray:
    """Return the IoU of the masks of each pair, float64 [P]; 0 if the areas alone show that it is below 0.5."""
    areas, others = table.mask_areas[rows_P], ground_truth.mask_areas[objects_P]
    is_crowd = ground_truth.is_crowd[objects_P]
    largest = np.where(is_crowd, areas, np.maximum(areas, others))
    similar_P = np.flatnonzero(np.minimum(areas, others) >= IOU_THRESHOLDS_T[0] * largest)
    rows, row_P = np.unique(rows_P[similar_P], return_inverse=True)
    objects, object_P = np.unique(objects_P[similar_P], return_inverse=True)
    masks = [table.counts[row] for row in rows.tolist()]
    object_masks = [ground_truth.rles[index]["counts"] for index in objects.tolist()]
    intersections = rle_intersections(masks, object_masks, row_P, object_P)
    unions = np.where(is_crowd, areas, areas + others)[similar_P] - np.where(is_crowd[similar_P], 0, intersections)
    ious_P = np.zeros(len(rows_P))
    ious_P[similar_P] = intersections / np.maximum(unions, 1)
    return ious_P


@compiled
def _assign(
    detections_P: IntArray,
    objects_P: IntArray,
    ious_P: DoubleArray,
    thresholds_T: DoubleArray,
    is_crowd_G: BoolArray,
    is_object_ignored_AG: BoolArray,
    is_match_ATD: BoolArray,
    is_ignored_ATD: BoolArray,
) -> None:
    """Let detections take objects as `match` says; set where they find one, and whether that is an ignored one."""
    is_taken_ATG = np.zeros((len(is_object_ignored_AG), len(thresholds_T), len(is_crowd_G)), np.bool_)
    start = 0
    while start < len(detections_P):
        detection, end = detections_P[start], start
        while end < len(detections_P) and detections_P[end] == detection:
            end += 1
        for area, is_object_ignored in enumerate(is_object_ignored_AG):
            for step, threshold in enumerate(thresholds_T):
                best, best_iou, is_best_ignored = -1, 0.0, True
                for pair in range(start, end):
                    iou, candidate = ious_P[pair], objects_P[pair]
                    if iou < threshold or (is_taken_ATG[area, step, candidate] and not is_crowd_G[candidate]):
                        continue
                    is_ignored = is_object_ignored[candidate]
                    if is_ignored < is_best_ignored or (is_ignored == is_best_ignored and iou >= best_iou):
                        best, best_iou, is_best_ignored = candidate, iou, is_ignored
                if best >= 0:
                    is_taken_ATG[area, step, best] = is_match_ATD[area, step, detection] = True
                    is_ignored_ATD[area, step, detection] = is_best_ignored
        start = end
