"""Which detection finds which object, by COCO's or LVIS' rules, for many thresholds and area ranges at once.

Suffixes: A area ranges, T IoU thresholds, D detections, P pairs of a detection and an object; d detections and g
objects of one image.
"""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS, FloatArray
from ntt.evaluation.ground_truth import BoolArray, GroundTruth
from ntt.evaluation.table import DetectionTable, ranks
from ntt.ops.boxes import members_of_classes
from ntt.ops.ragged import chunks, ranges
from ntt.types import IntArray

_PAIRS = 1 << 20
"""Compared at once, to bound the memory."""


@dataclass(frozen=True)
class Matches:
    """The outcome for all detections of a table that the protocol counts.

    Attributes:
        rows: int64 [D], their rows in the table, sorted by class, then image, then rank.
        ranks: int64 [D], position by score within image and class, from 0.
        is_match: bool [A, T, D], whether the detection found an object.
        is_ignored: bool [A, T, D], whether it counts neither as right nor as wrong: it found an ignored object, or
            found nothing and is itself outside the area range, or its class is not annotated exhaustively in its
            image (LVIS).
    """

    rows: IntArray
    ranks: IntArray
    is_match: BoolArray
    is_ignored: BoolArray


def match(table: DetectionTable, ground_truth: GroundTruth, kind: str) -> Matches:
    """Match detections with objects, image by image and class by class.

    By descending score, each detection takes the free object with the largest IoU that reaches the threshold; among
    equals the last. Objects that count go before ignored ones; a crowd region may be taken any number of times, and
    the IoU with it is measured against the detection alone. By LVIS' rules there are no crowd regions, and detections
    without area are left out.

    `table` has the detections that the protocol counts, see `ntt.evaluation.table.counted_detections`; `kind` is "bbox"
    or, if all objects have masks, "segm".
    """
    rank_of_row = ranks(table)
    rows = np.lexsort((rank_of_row, table.images, table.labels))
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
    reaching = _reaching(table, rows, ground_truth, kind)
    is_contested_P = _is_contested(reaching)
    _assign_alone(reaching.take(~is_contested_P), ground_truth, is_match, is_ignored)
    contested = reaching.take(is_contested_P)
    for members in members_of_classes(pairs[contested.detections_P]):
        _assign_in_turn(contested.take(members), ground_truth, is_match, is_ignored)
    return Matches(rows=rows, ranks=rank_of_row[rows], is_match=is_match, is_ignored=is_ignored)


@dataclass(frozen=True)
class _Reaching:
    """Pairs of a detection and an object of its image and class that overlap enough for the lowest threshold."""

    detections_P: IntArray
    """Indices in `Matches.rows`."""
    objects_P: IntArray
    ious_P: FloatArray

    def take(self, pairs: IntArray | BoolArray) -> "_Reaching":
        return _Reaching(self.detections_P[pairs], self.objects_P[pairs], self.ious_P[pairs])


def _reaching(table: DetectionTable, rows: IntArray, ground_truth: GroundTruth, kind: str) -> _Reaching:
    """Find the pairs by pycocotools' own arithmetic, so that it agrees in every digit; by object, then by rank."""
    first_D, counts_D = ground_truth.objects_of(table.images[rows], table.labels[rows])
    find_ious = _box_ious if kind == "bbox" else _mask_ious
    parts = []
    for part in chunks(counts_D, _PAIRS):
        detections_P = np.repeat(np.arange(len(rows))[part], counts_D[part])
        objects_P = ground_truth.by_pair[ranges(first_D[part], counts_D[part])]
        pairs = _Reaching(detections_P, objects_P, find_ious(table, rows[detections_P], ground_truth, objects_P))
        parts.append(pairs.take(np.flatnonzero(pairs.ious_P >= IOU_THRESHOLDS_T[0])))
    columns = zip(*((part.detections_P, part.objects_P, part.ious_P) for part in parts), strict=True)
    pairs = _Reaching(*map(np.concatenate, columns))
    return pairs.take(np.lexsort((pairs.detections_P, pairs.objects_P)))


def _box_ious(table: DetectionTable, rows_P: IntArray, ground_truth: GroundTruth, objects_P: IntArray) -> FloatArray:
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


def _mask_ious(table: DetectionTable, rows_P: IntArray, ground_truth: GroundTruth, objects_P: IntArray) -> FloatArray:
    """Return the IoU of the masks of each pair, float64 [P]; 0 if the areas alone show that it is below 0.5."""
    areas, others = table.mask_areas[rows_P], ground_truth.mask_areas[objects_P]
    largest = np.where(ground_truth.is_crowd[objects_P], areas, np.maximum(areas, others))
    ious_P = np.zeros(len(rows_P))
    similar_P = np.flatnonzero(np.minimum(areas, others) >= IOU_THRESHOLDS_T[0] * largest)
    for members in members_of_classes(table.images[rows_P[similar_P]]):
        of_image = similar_P[members]
        rows, row_p = np.unique(rows_P[of_image], return_inverse=True)
        objects, object_p = np.unique(objects_P[of_image], return_inverse=True)
        masks = [table.rle(row) for row in rows.tolist()]
        object_masks = [ground_truth.rles[index] for index in objects.tolist()]
        ious_dg = coco_mask.iou(masks, object_masks, ground_truth.is_crowd[objects].astype(int).tolist())
        ious_P[of_image] = ious_dg[row_p, object_p]
    return ious_P


def _is_contested(reaching: _Reaching) -> BoolArray:
    """Return which objects, pair by pair, are reached by a detection that reaches another one, too."""
    if not len(reaching.ious_P):
        return np.zeros(0, dtype=np.bool_)
    has_choice_P = np.bincount(reaching.detections_P)[reaching.detections_P] > 1
    is_contested: BoolArray = np.isin(reaching.objects_P, reaching.objects_P[has_choice_P])
    return is_contested


def _assign_alone(reaching: _Reaching, ground_truth: GroundTruth, is_match: BoolArray, is_ignored: BoolArray) -> None:
    """Give every object to the first detection that reaches it, a crowd region to all; no detection has a choice.

    Sets `is_match` where a detection finds an object, and `is_ignored` there to whether the object is ignored.
    """
    detections_P, objects_P = reaching.detections_P, reaching.objects_P
    reaches_TP = reaching.ious_P >= IOU_THRESHOLDS_T[:, None]
    before_TP = np.cumsum(reaches_TP, axis=1, dtype=np.int64) - reaches_TP
    # Of the pairs before, those of other objects do not count.
    starts_P = np.searchsorted(objects_P, objects_P)
    takes_TP = reaches_TP & ((before_TP == before_TP[:, starts_P]) | ground_truth.is_crowd[objects_P])
    is_match[..., detections_P] = takes_TP
    is_object_ignored_A1P = ground_truth.is_ignored[:, None, objects_P]
    is_ignored[..., detections_P] = np.where(takes_TP, is_object_ignored_A1P, is_ignored[..., detections_P])


def _assign_in_turn(reaching: _Reaching, ground_truth: GroundTruth, is_match: BoolArray, is_ignored: BoolArray) -> None:
    """Let the detections of one image and class take objects one after the other; sets what `_assign_alone` does."""
    objects, columns_P = np.unique(reaching.objects_P, return_inverse=True)
    detections, rows_P = np.unique(reaching.detections_P, return_inverse=True)
    ious_dg = np.zeros((len(detections), len(objects)))
    ious_dg[rows_P, columns_P] = reaching.ious_P
    is_crowd, is_object_ignored = ground_truth.is_crowd[objects], ground_truth.is_ignored[:, objects]
    free_ATg = np.ones((len(is_object_ignored), len(IOU_THRESHOLDS_T), len(objects)), dtype=np.bool_)
    for detection, ious_g in zip(detections.tolist(), ious_dg, strict=True):
        open_ATg = free_ATg & (ious_g >= IOU_THRESHOLDS_T[:, None])
        counting_ATg = open_ATg & ~is_object_ignored[:, None]
        choice_ATg = np.where(counting_ATg.any(axis=-1, keepdims=True), counting_ATg, open_ATg)
        # Reversed, because of equal ones the last is taken and argmax gives the first.
        values_ATg = np.where(choice_ATg, ious_g, -1.0)[..., ::-1]
        best_AT = len(objects) - 1 - values_ATg.argmax(axis=-1)
        ranges, steps = np.nonzero(choice_ATg.any(axis=-1))
        taken = best_AT[ranges, steps]
        is_match[ranges, steps, detection] = True
        is_ignored[ranges, steps, detection] = is_object_ignored[ranges, taken]
        free_ATg[ranges, steps, taken] = is_crowd[taken]
