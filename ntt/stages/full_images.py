"""Reference instances in their full images: features of the candidates that show them (method.md §2)."""

import logging

import numpy as np
import torch

from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.models.box_masks import ReferenceMasks
from ntt.ops.boxes import pair_iou, with_corners
from ntt.ops.masks import mask_ious
from ntt.ops.overlaps import Segments
from ntt.ops.run_lengths import to_text
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.types import Candidates, FloatArray, ImageRecord, Instance, ReferenceSet

_LOG = logging.getLogger(__name__)

MIN_IOU = 0.3
"""Least IoU with the annotated object of a candidate that shows it."""
VERSION = 1
"""Counts changes of what this module computes; part of the key of stage `memory`."""


def full_image_features(
    references: ReferenceSet, source: CandidateSource, masks: ReferenceMasks, group: ProcessGroup
) -> tuple[torch.Tensor, ...]:
    """Find every instance's unit feature in its full image: that of the candidate with the largest IoU.

    Candidates of reference images are like any other: in the store, or computed and stored. The IoU is that of masks,
    or of boxes if an instance has no mask. Images are distributed over the processes. Returns per class float32 [K, D];
    zeros if no candidate reaches an IoU of `MIN_IOU`.
    """
    records = list(references.images.values())
    find_candidates(images=records, source=source, group=group)

    def describe(record: ImageRecord) -> dict[int, FloatArray]:
        candidates, instances = source.get(record), references.instances_of_image(record.id)
        return {instance.id: _feature(candidates, instance, record, masks) for instance in instances}

    features: dict[int, FloatArray] = {}
    for of_image in map_dealt(describe, records, group=group, label="full images", unit="image"):
        features |= of_image
    if group.is_main:
        missing = sum(not feature.any() for feature in features.values())
        text = f"{missing} of {len(features)} references are shown by no candidate of their image"
        _LOG.info("%s%s", text, ": their crops alone describe them." if missing else ".")
    return tuple(
        torch.from_numpy(np.stack([features[instance.id] for instance in members])) for members in references.instances
    )


def _feature(candidates: Candidates, instance: Instance, record: ImageRecord, masks: ReferenceMasks) -> FloatArray:
    """Return the feature of the candidate that shows an instance best, float32 [D]; zeros if none does."""
    size, rle = (candidates.height, candidates.width), masks.rle(instance, record)
    if rle is None:
        corners = Segments.of(candidates.masks, *size).boxes_xyxy.astype(np.float32)
        ious = pair_iou(corners, np.broadcast_to(with_corners(np.array([instance.bbox_xywh])), corners.shape))
    else:
        ious = mask_ious(to_text(candidates.masks), [rle], *size)[:, 0]
    if ious.max(initial=0.0) < MIN_IOU:
        return np.zeros(candidates.features.shape[1], dtype=np.float32)
    best: FloatArray = candidates.features[ious.argmax()]
    return best
