"""One number for how well an image went, to find a run's best and worst images."""

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ntt.drawing.instances import DrawnInstances
from ntt.types import Detections

Array = npt.NDArray[np.float64]

_MATCH_IOU = 0.5
"""A pair matches at this IoU or higher."""


def image_quality(
    ground_truth: DrawnInstances | None, detections: Detections, *, score_threshold: float
) -> float | None:
    """Compute the panoptic quality of one image (Kirillov et al., 2019, eq. 1), over all classes at once.

    Sum of the matched pairs' IoU / (TP + FP / 2 + FN / 2). Each detection, by descending score, takes the object of
    its class that it overlaps most among those still free. IoU is that of the masks where both have one, else of the
    boxes. A detection without an object does not count as false where at least half of it lies in a crowd region of
    its class; crowd regions are never objects.

    Args:
        ground_truth: None where the image has no annotations to compare with.
        detections: of the same image.
        score_threshold: detections with at least this score count.

    Returns:
        Between 0 and 1; None where there is nothing to rank: no annotations known, or neither an object nor a
        detection that counts (an image rightly left empty would otherwise head every list of best images).
    """
    if ground_truth is None:
        return None
    scores = np.asarray(detections.scores)
    counted = np.flatnonzero(scores >= score_threshold)
    counted = counted[np.argsort(-scores[counted], kind="stable")]
    iou = _pairwise_iou(detections, counted, ground_truth)
    same_class = np.asarray(detections.labels)[counted][:, None] == np.asarray(ground_truth.labels)[None, :]
    crowd = np.asarray(ground_truth.iscrowd, dtype=bool)
    free = ~crowd
    num_objects = int(free.sum())
    matched_iou: list[float] = []
    false_positives = 0
    for row, allowed in zip(iou, same_class, strict=True):
        overlap = np.where(allowed & free, row, -1.0)
        best = int(np.argmax(overlap)) if len(overlap) else -1
        if best >= 0 and overlap[best] >= _MATCH_IOU:
            free[best] = False
            matched_iou.append(float(overlap[best]))
        elif not (row[allowed & crowd] >= _MATCH_IOU).any():
            false_positives += 1
    weight = len(matched_iou) + false_positives / 2 + (num_objects - len(matched_iou)) / 2
    return sum(matched_iou) / weight if weight else None


def _pairwise_iou(detections: Detections, counted: npt.NDArray[np.intp], ground_truth: DrawnInstances) -> Array:
    """Compute the IoU of detections and objects; for a crowd region the detection's share that lies in it; [M, N]."""
    num_objects = len(ground_truth.labels)
    if not len(counted) or not num_objects:
        return np.zeros((len(counted), num_objects))
    crowd = [int(flag) for flag in ground_truth.iscrowd]
    boxes = np.asarray(detections.boxes_xywh, dtype=np.float64)[counted]
    object_boxes = np.asarray(ground_truth.boxes_xywh, dtype=np.float64).reshape(num_objects, 4)
    iou: Array = np.array(coco_mask.iou(boxes, object_boxes, crowd), dtype=np.float64)
    with_mask = [i for i, rle in enumerate(ground_truth.rles) if rle is not None]
    if with_mask and len(detections.rles) == len(detections.labels):
        size = [detections.height, detections.width]
        masks = [{"size": size, "counts": detections.rles[i]} for i in counted.tolist()]
        object_masks = [{"size": size, "counts": ground_truth.rles[i]} for i in with_mask]
        iou[:, with_mask] = coco_mask.iou(masks, object_masks, [crowd[i] for i in with_mask])
    return iou
