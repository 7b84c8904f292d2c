"""Which detection finds which object, by COCO's or LVIS' rules, for many thresholds and area ranges at once.

Suffixes: A area ranges, T IoU thresholds, D detections, d detections and g objects of one image and class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pycocotools import mask as coco_mask

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS, FloatArray
from ntt.evaluation.ground_truth import BoolArray, GroundTruth
from ntt.evaluation.table import DetectionTable, ranks
from ntt.types import IntArray


@dataclass(frozen=True)
class Matches:
    """The outcome for all detections of a table that the protocol counts.

    Attributes:
        rows: int64 [D], their rows in the table, sorted by class, then image (in sorted order), then rank.
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

    Args:
        table: the detections that the protocol counts, see `ntt.evaluation.table.counted_detections`.
        ground_truth: the objects; with masks for kind "segm".
        kind: "bbox" or "segm".
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
        is_outside |= federation.is_forgiven(pairs)
    is_match = np.zeros((len(AREA_RANGES_PX), len(IOU_THRESHOLDS_T), len(rows)), dtype=np.bool_)
    is_ignored = np.repeat(is_outside[:, None], len(IOU_THRESHOLDS_T), axis=1)
    for start, stop, objects in _groups(pairs, ground_truth):
        _assign(
            _ious(table, rows[start:stop], ground_truth, objects, kind),
            is_crowd=ground_truth.is_crowd[objects],
            is_object_ignored=ground_truth.is_ignored[:, objects],
            is_match=is_match[..., start:stop],
            is_ignored=is_ignored[..., start:stop],
        )
    return Matches(rows=rows, ranks=rank_of_row[rows], is_match=is_match, is_ignored=is_ignored)


def _groups(pairs: IntArray, ground_truth: GroundTruth) -> Iterator[tuple[int, int, IntArray]]:
    """Yield, for each image and class with both detections and objects, start and end in `pairs`, and the objects."""
    edges = [0, *(np.flatnonzero(np.diff(pairs)) + 1).tolist(), len(pairs)]
    for start, stop in pairwise(edges):
        if stop > start and (objects := ground_truth.groups.get(int(pairs[start]))) is not None:
            yield start, stop, objects


def _ious(table: DetectionTable, rows: IntArray, ground_truth: GroundTruth, objects: IntArray, kind: str) -> FloatArray:
    """Return float64 [d, g] by pycocotools' own arithmetic, so that it agrees in every digit."""
    crowd = ground_truth.is_crowd[objects].astype(int).tolist()
    if kind == "bbox":
        return np.asarray(coco_mask.iou(table.boxes_xywh[rows], ground_truth.boxes_xywh[objects], crowd))
    masks = [table.rle(row) for row in rows.tolist()]
    return np.asarray(coco_mask.iou(masks, [ground_truth.rles[index] for index in objects.tolist()], crowd))


def _assign(
    ious_dg: FloatArray,
    *,
    is_crowd: BoolArray,
    is_object_ignored: BoolArray,
    is_match: BoolArray,
    is_ignored: BoolArray,
) -> None:
    """Match the detections of one image and class.

    Args:
        ious_dg: detections by descending score, objects in file order.
        is_crowd: bool [g].
        is_object_ignored: bool [A, g].
        is_match: bool [A, T, d], set where a detection finds an object.
        is_ignored: bool [A, T, d], set to whether the object found is an ignored one; left alone elsewhere.
    """
    in_reach_dg = ious_dg >= IOU_THRESHOLDS_T[0]
    has_choice_d = np.count_nonzero(in_reach_dg, axis=1) > 1
    is_contested_g = in_reach_dg[has_choice_d].any(axis=0)
    # An object that no detection reaches together with another one has nothing to do with the rest.
    for index in np.flatnonzero(in_reach_dg.any(axis=0) & ~is_contested_g).tolist():
        rows = np.flatnonzero(in_reach_dg[:, index])
        reaches_Td = ious_dg[rows, index] >= IOU_THRESHOLDS_T[:, None]
        if not is_crowd[index]:  # the first that reaches it has it
            reaches_Td &= np.cumsum(reaches_Td, axis=1) == 1
        is_match[..., rows] = reaches_Td
        is_ignored[..., rows] = np.where(reaches_Td, is_object_ignored[:, index, None, None], is_ignored[..., rows])
    # The others are taken by one detection after the other.
    contested = np.flatnonzero(is_contested_g)
    ious_dg, is_crowd, is_object_ignored = ious_dg[:, contested], is_crowd[contested], is_object_ignored[:, contested]
    free_ATg = np.ones((len(is_object_ignored), len(IOU_THRESHOLDS_T), len(contested)), dtype=np.bool_)
    for row in np.flatnonzero(in_reach_dg[:, contested].any(axis=1)).tolist():
        open_ATg = free_ATg & (ious_dg[row] >= IOU_THRESHOLDS_T[:, None])
        counting_ATg = open_ATg & ~is_object_ignored[:, None]
        choice_ATg = np.where(counting_ATg.any(axis=-1, keepdims=True), counting_ATg, open_ATg)
        # Reversed, because of equal ones the last is taken and argmax gives the first.
        values_ATg = np.where(choice_ATg, ious_dg[row], -1.0)[..., ::-1]
        best_AT = len(contested) - 1 - values_ATg.argmax(axis=-1)
        ranges, steps = np.nonzero(choice_ATg.any(axis=-1))
        taken = best_AT[ranges, steps]
        is_match[ranges, steps, row] = True
        is_ignored[ranges, steps, row] = is_object_ignored[ranges, taken]
        free_ATg[ranges, steps, taken] = is_crowd[taken]
