"""Which detections of an image are correct, and one number for the quality of them all."""

import numpy as np
from pycocotools import mask as coco_mask

from ntt.drawing.instances import DrawnInstances
from ntt.types import Detections, DoubleArray, FloatArray, IntArray

WRONG, IN_CROWD = -1, -2
"""In place of an object's index: a detection without an object, and one that lies in a crowd region."""

_MATCH_IOU = 0.5
"""A pair matches at this IoU or higher."""


def match_objects(ground_truth: DrawnInstances, detections: Detections) -> tuple[IntArray, DoubleArray]:
    """Match each detection to the object it finds.

    By descending score, each detection takes the object of its class that it overlaps most among those still free. IoU
    is that of the masks where both have one, else of the boxes. A detection without an object is not wrong if at least
    half of it lies in a crowd region of its class. Returns each detection's object, or WRONG or IN_CROWD, int64 [N],
    and the IoU, float64 [N], 0 without one; since scores descend, both also hold above any threshold.
    """
    count = len(detections.labels)
    objects, overlaps = np.full(count, WRONG), np.zeros(count)
    if not count or not len(ground_truth.labels):
        return objects, overlaps
    iou = _pairwise_iou(detections, ground_truth)
    same_class = detections.labels[:, None] == ground_truth.labels
    free = ~ground_truth.iscrowd
    for row in np.argsort(-detections.scores, kind="stable").tolist():
        open_iou = np.where(same_class[row] & free, iou[row], -1.0)
        best = int(open_iou.argmax())
        if open_iou[best] >= _MATCH_IOU:
            free[best] = False
            objects[row], overlaps[row] = best, open_iou[best]
        elif (iou[row, same_class[row] & ground_truth.iscrowd] >= _MATCH_IOU).any():
            objects[row] = IN_CROWD
    return objects, overlaps


def image_quality(
    ground_truth: DrawnInstances | None, detections: Detections, *, thresholds_C: FloatArray
) -> float | None:
    """Return the panoptic quality of one image (Kirillov et al., 2019, eq. 1), over all classes at once.

    Sum of the IoU of matched pairs / (TP + FP / 2 + FN / 2), over detections that reach the threshold of their class;
    see `match_objects`. Between 0 and 1; None if there is nothing to rank: no annotations, or neither an object nor a
    detection that counts (images rightly left empty would otherwise head every list of best images).
    """
    if ground_truth is None:
        return None
    objects, overlaps = match_objects(ground_truth, detections)
    counted = detections.reaching(thresholds_C)
    num_matched = np.count_nonzero(objects[counted] >= 0)
    num_objects = np.count_nonzero(~ground_truth.iscrowd)
    weight = num_matched / 2 + np.count_nonzero(objects[counted] == WRONG) / 2 + num_objects / 2
    return float(overlaps[counted].sum() / weight) if weight else None


def _pairwise_iou(detections: Detections, ground_truth: DrawnInstances) -> DoubleArray:
    """Compute the IoU of detections and objects; for a crowd region the detection's share that lies in it; [M, N]."""
    crowd = ground_truth.iscrowd.astype(int).tolist()
    boxes = (each.boxes_xywh.astype(np.float64).reshape(-1, 4) for each in (detections, ground_truth))
    iou: DoubleArray = np.array(coco_mask.iou(*boxes, crowd), dtype=np.float64)
    with_mask = [index for index, rle in enumerate(ground_truth.rles) if rle is not None]
    if with_mask:
        size = [detections.height, detections.width]
        masks = [{"size": size, "counts": rle} for rle in detections.rles]
        object_masks = [{"size": size, "counts": ground_truth.rles[index]} for index in with_mask]
        iou[:, with_mask] = coco_mask.iou(masks, object_masks, [crowd[index] for index in with_mask])
    return iou
