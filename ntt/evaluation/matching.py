"""Which detection finds which object, by COCO's or LVIS' rules, for many thresholds and area ranges at once.

Suffixes: A area ranges, T IoU thresholds, D detections, d detections and g objects of one image and class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ntt.evaluation.curves import AREA_RANGES_PX, IOU_THRESHOLDS_T, MAX_DETECTIONS, FloatArray
from ntt.evaluation.table import DetectionTable, ranks
from ntt.evaluation.truth import TruthIndex
from ntt.types import IntArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """The outcome for all detections of a table that the protocol counts.

    Attributes:
        rows: int64 [D], their rows in the table, sorted by class, then image (in sorted order), then rank.
        ranks: int64 [D], place by score within image and class, from 0.
        is_match: bool [A, T, D], whether the detection found an object.
        is_ignored: bool [A, T, D], whether it counts neither as right nor as wrong: it found an ignored object, or
            found nothing and is itself outside the area range, or of a class that LVIS does not hold to have been
            annotated exhaustively in its image.
    """

    rows: IntArray
    ranks: IntArray
    is_match: BoolArray
    is_ignored: BoolArray


def match(table: DetectionTable, truth: TruthIndex, kind: str) -> Matches:
    """Match detections with objects, image by image and class by class.

    By descending score, each detection takes the free object with the largest IoU that reaches the threshold; among
    equals the last. Objects that count go before ignored ones; a crowd region may be taken any number of times, and
    the IoU with it is measured against the detection alone. By LVIS' rules there are no crowd regions, and detections
    without area are left out.

    Args:
        table: the detections; for LVIS' protocol those of `ntt.evaluation.table.counted_rows`.
        truth: the ground truth; with masks for kind "segm".
        kind: "bbox" or "segm".
    """
    rank_of_row = ranks(table)
    rows = np.lexsort((rank_of_row, table.images, table.labels))
    areas = table.box_areas if kind == "bbox" else table.mask_areas
    counts = rank_of_row < MAX_DETECTIONS["coco"][-1] if truth.federation is None else areas > 0
    rows = rows[counts[rows]]
    areas = areas[rows]
    outside = np.stack([(areas < least) | (areas > most) for least, most in AREA_RANGES_PX.values()])
    if truth.federation is not None:
        outside |= truth.federation.is_forgiven(table.images[rows], table.labels[rows])
    shape = (len(AREA_RANGES_PX), len(IOU_THRESHOLDS_T), len(rows))
    is_match = np.zeros(shape, dtype=np.bool_)
    is_ignored = np.repeat(outside[:, None], shape[1], axis=1)
    for start, stop, objects in _pairs(table, rows, truth):
        ious_dg = _ious(table, rows[start:stop], truth, objects, kind)
        _assign(
            ious_dg,
            is_crowd=truth.is_crowd[objects],
            is_ignored=truth.is_ignored[:, objects],
            found=is_match[..., start:stop],
            passed_over=is_ignored[..., start:stop],
        )
    return Matches(rows=rows, ranks=rank_of_row[rows], is_match=is_match, is_ignored=is_ignored)


def _pairs(table: DetectionTable, rows: IntArray, truth: TruthIndex) -> list[tuple[int, int, npt.NDArray[np.int64]]]:
    """Return, for each image and class with both detections and objects, start and end in `rows`, and the objects."""
    images, labels = table.images[rows], table.labels[rows]
    edges = np.flatnonzero((np.diff(images) != 0) | (np.diff(labels) != 0)) + 1
    starts = np.r_[0, edges][: len(rows)].astype(np.int64)
    stops = np.r_[edges, len(rows)].astype(np.int64)
    keys = zip(images[starts].tolist(), labels[starts].tolist(), strict=True)
    spans = zip(starts.tolist(), stops.tolist(), keys, strict=False)
    return [(start, stop, truth.groups[key]) for start, stop, key in spans if key in truth.groups]


def _ious(table: DetectionTable, rows: IntArray, truth: TruthIndex, objects: IntArray, kind: str) -> FloatArray:
    """Return float64 [d, g] by pycocotools' own arithmetic, so that it agrees to the last digit."""
    crowd: Sequence[int] = truth.is_crowd[objects].astype(int).tolist()
    if kind == "bbox":
        return np.asarray(coco_mask.iou(table.boxes_xywh[rows], truth.boxes_xywh[objects], crowd))
    masks = [table.rle(row) for row in rows.tolist()]
    return np.asarray(coco_mask.iou(masks, [truth.rles[place] for place in objects.tolist()], crowd))


def _assign(
    ious_dg: FloatArray, *, is_crowd: BoolArray, is_ignored: BoolArray, found: BoolArray, passed_over: BoolArray
) -> None:
    """Match the detections of one image and class.

    An object that no detection reaches together with another one has nothing to do with the rest.

    Args:
        ious_dg: detections by descending score, objects in file order.
        is_crowd: bool [g].
        is_ignored: bool [A, g].
        found: bool [A, T, d], set where a detection found an object.
        passed_over: bool [A, T, d], set to whether the object found is an ignored one; left alone elsewhere.
    """
    in_reach_dg = ious_dg >= IOU_THRESHOLDS_T[0]
    is_torn_d = np.count_nonzero(in_reach_dg, axis=1) > 1
    is_contested_g = in_reach_dg[is_torn_d].any(axis=0)
    for place in np.flatnonzero(in_reach_dg.any(axis=0) & ~is_contested_g).tolist():
        rows = np.flatnonzero(in_reach_dg[:, place])
        reaches_Td = ious_dg[rows, place] >= IOU_THRESHOLDS_T[:, None]
        if not is_crowd[place]:  # the first that reaches it has it
            reaches_Td &= np.cumsum(reaches_Td, axis=1) == 1
        found[..., rows] = reaches_Td
        passed_over[..., rows] = np.where(reaches_Td, is_ignored[:, place, None, None], passed_over[..., rows])
    objects = np.flatnonzero(is_contested_g)
    if len(objects):
        rows = np.flatnonzero(in_reach_dg[:, objects].any(axis=1))
        _assign_contested(
            ious_dg[:, objects],
            rows,
            is_crowd=is_crowd[objects],
            is_ignored=is_ignored[:, objects],
            found=found,
            passed_over=passed_over,
        )


def _assign_contested(
    ious_dg: FloatArray,
    rows: IntArray,
    *,
    is_crowd: BoolArray,
    is_ignored: BoolArray,
    found: BoolArray,
    passed_over: BoolArray,
) -> None:
    """Let detections choose among objects, one after the other.

    Args:
        ious_dg: of all detections of the image and class with these objects.
        rows: the detections that reach any of them.
        is_crowd: as for `_assign`, like the rest.
        is_ignored: of these objects.
        found: of all detections of the image and class.
        passed_over: likewise.
    """
    free_ATg = np.ones((len(is_ignored), len(IOU_THRESHOLDS_T), len(is_crowd)), dtype=np.bool_)
    for place in rows.tolist():
        open_ATg = free_ATg & (ious_dg[place] >= IOU_THRESHOLDS_T[:, None])
        counting_ATg = open_ATg & ~is_ignored[:, None]
        choice_ATg = np.where(counting_ATg.any(axis=-1, keepdims=True), counting_ATg, open_ATg)
        # Reversed, because of equal ones the last is taken and argmax gives the first.
        values_ATg = np.where(choice_ATg, ious_dg[place], -1.0)[..., ::-1]
        best_AT = len(is_crowd) - 1 - values_ATg.argmax(axis=-1)
        ranges, steps = np.nonzero(choice_ATg.any(axis=-1))
        taken = best_AT[ranges, steps]
        found[ranges, steps, place] = True
        passed_over[ranges, steps, place] = is_ignored[ranges, taken]
        free_ATg[ranges, steps, taken] = is_crowd[taken]
