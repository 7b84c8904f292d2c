"""Candidate recall: how many objects the proposals cover, whatever a matcher then calls them.

A matcher can find no object that no candidate covers, so this bounds what it can reach. Candidates are taken by
descending predicted IoU, without regard to classes, as pycocotools does with `useCats=0`. Suffixes as in
`ntt.evaluation.curves`; N candidates, G objects of one image.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from ntt.evaluation.curves import IOU_THRESHOLDS_T
from ntt.evaluation.ground_truth import GroundTruth
from ntt.ops.run_lengths import take, to_text
from ntt.types import Candidates, DoubleArray, ImageId, IntArray

LIMITS = (100, 300, 1000)
"""Candidates of an image that count."""

_NEVER = np.iinfo(np.int64).max


def finding_ranks(candidates: Candidates, ground_truth: GroundTruth, image_id: ImageId) -> dict[str, IntArray]:
    """Find for each object of an image the candidate that covers it, by boxes and, where all objects have them, masks.

    Candidate after candidate takes the free object with the largest IoU that reaches the threshold, of equal ones the
    last. "bbox" and "segm" -> its rank from 0, int64 [T, G], larger than any limit where there is none; so the objects
    found by the first k candidates are those with a rank below k.
    """
    index = ground_truth.image_indices[image_id]
    objects = ground_truth.required_objects(index)
    order = np.argsort(-candidates.predicted_iou, kind="stable")[: LIMITS[-1]]
    size = list(ground_truth.sizes[index])
    masks = [{"size": size, "counts": rle} for rle in to_text(take(candidates.masks, order))]
    ious = {}
    if masks and len(objects):
        never_crowd = [0] * len(objects)
        ious["bbox"] = coco_mask.iou(coco_mask.toBbox(masks), ground_truth.boxes_xywh[objects], never_crowd)
        if ground_truth.has_masks:
            object_masks = [ground_truth.rles[each] for each in objects.tolist()]
            ious["segm"] = coco_mask.iou(masks, object_masks, never_crowd)
    kinds = ("bbox", "segm") if ground_truth.has_masks else ("bbox",)
    return {kind: _assign(np.asarray(ious.get(kind, np.zeros((0, len(objects)))))) for kind in kinds}


def average_recall(ranks: Sequence[Mapping[str, IntArray]]) -> dict[str, dict[str, float]]:
    """Average over objects and IoU thresholds: kind -> "AR100", "AR300", "AR1000", percent; empty without objects."""
    recall: dict[str, dict[str, float]] = {}
    for kind in {kind: None for of_image in ranks for kind in of_image}:
        all_ranks = np.concatenate([of_image[kind] for of_image in ranks], axis=1)
        if all_ranks.size:
            recall[kind] = {f"AR{limit}": 100.0 * float(np.mean(all_ranks < limit)) for limit in LIMITS}
    return recall


def _assign(iou_NG: DoubleArray) -> IntArray:
    ranks_TG = np.full((len(IOU_THRESHOLDS_T), iou_NG.shape[1]), _NEVER)
    for rank in np.flatnonzero((iou_NG >= IOU_THRESHOLDS_T[0]).any(axis=1)).tolist():
        is_open_TG = (iou_NG[rank] >= IOU_THRESHOLDS_T[:, None]) & (ranks_TG == _NEVER)
        # Reversed, because of equal ones the last is taken and argmax gives the first.
        best_T = iou_NG.shape[1] - 1 - np.where(is_open_TG, iou_NG[rank], -1.0)[:, ::-1].argmax(axis=1)
        steps = np.flatnonzero(is_open_TG.any(axis=1))
        ranks_TG[steps, best_T[steps]] = rank
    return ranks_TG
