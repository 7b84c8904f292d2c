"""Which references help: how like the others they are, and how these are found without them (method.md §9.4)."""

from collections.abc import Collection
from dataclasses import replace

import torch

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.data.coco import CocoDataset
from ntt.matchers.base import MatcherConfig
from ntt.ops.pooling import l2_normalise
from ntt.stages.candidates import CandidateSource
from ntt.stages.leave_one_out import box_ap, reduced_memory, search_with
from ntt.types import Category, Detections, ImageId, ImageRecord, MemoryBank, ReferenceSet


def reference_agreement(references: ReferenceSet, memory: MemoryBank) -> dict[int, float]:
    """Compare each reference with the others of its class.

    Returns:
        Annotation id -> cosine of its feature with the mean of those on other images, in [-1, 1]; without references
        whose class is on one image only.
    """
    agreement: dict[int, float] = {}
    for members, features_KD in zip(references.instances, memory.features, strict=True):
        unit_KD = l2_normalise(features_KD.float())
        for instance, unit_D in zip(members, unit_KD, strict=True):
            is_other = torch.tensor([other.image_id != instance.image_id for other in members])
            if is_other.any():
                agreement[instance.id] = float(l2_normalise(unit_KD[is_other].mean(dim=0)) @ unit_D)
    return agreement


def reference_effects(
    *,
    references: ReferenceSet,
    objects: CocoDataset,
    memory: MemoryBank,
    matcher: MatcherConfig,
    source: CandidateSource,
    group: ProcessGroup,
) -> dict[int, float]:
    """Measure each reference by its absence; for the arguments see `ntt.stages.leave_one_out.check_references`.

    Returns:
        Annotation id -> box AP of its class on the class's other reference images, with the reference minus without
        it, percent. Negative: the reference stands apart. Only of classes with references on three images or more.
    """

    def search(record: ImageRecord) -> dict[int | None, Detections]:
        own = {instance.category_id for instance in references.instances_of_image(record.id)}
        others = [each for members in references.instances for each in members if each.image_id != record.id]
        absent = [None, *(instance.id for instance in others if instance.category_id in own)]
        memories = [
            reduced_memory(memory, references, without_image=record.id, without_instance=gone) for gone in absent
        ]
        detections_of = search_with(record, source, [(matcher, *remaining) for remaining in memories])
        return dict(zip(absent, detections_of, strict=True))

    images = map_dealt(search, list(references.images.values()), group=group, label="effects", unit="image")
    detections = dict(zip(references.images, images, strict=True))

    def ap(category: Category, image_ids: Collection[ImageId], gone: int | None) -> float | None:
        targets = _only(objects, category, image_ids)
        return box_ap([detections[image_id][gone] for image_id in targets.images], references, targets).get(
            category.name
        )

    effects: dict[int, float] = {}
    for category, members in zip(references.categories, references.instances, strict=True):
        images_of_class = {instance.image_id for instance in members}
        for instance in members if len(images_of_class) > 2 else ():
            others = images_of_class - {instance.image_id}
            with_it, without_it = (ap(category, others, gone) for gone in (None, instance.id))
            if with_it is not None and without_it is not None:
                effects[instance.id] = with_it - without_it
    return effects


def _only(objects: CocoDataset, category: Category, image_ids: Collection[ImageId]) -> CocoDataset:
    """Return the objects of one class in some images."""
    images = {image_id: record for image_id, record in objects.images.items() if image_id in image_ids}
    instances = [each for each in objects.instances if each.image_id in images and each.category_id == category.id]
    digest = content_key([objects.digest, category.id])
    return replace(objects, images=images, instances=tuple(instances), digest=digest)
