"""Drawn references: their digest, their JSON form, and their images as targets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ntt.base.digests import content_key
from ntt.data.coco import CocoDataset
from ntt.data.sampling import Sample
from ntt.types import Category, ImageId, Instance, ReferenceSet


def reference_details(refs: ReferenceSet, dataset: CocoDataset) -> dict[str, Any]:
    """Return how references were drawn, and from which file."""
    return {
        "digest": refs.digest,
        "sampler": refs.sampler,
        "shots": refs.shots,
        "seed": refs.seed,
        "file": dataset.annotation_file.name,
        "file_sha256": dataset.file_sha256,
    }


def references_to_json(refs: ReferenceSet, dataset: CocoDataset) -> dict[str, Any]:
    """Return, as JSON, which instances of a data set were drawn, by their ids."""
    return {
        **reference_details(refs, dataset),
        "names": {str(category.id): category.name for category in refs.categories},
        "references": {
            str(category.id): [{"image_id": i.image_id, "annotation_id": i.id} for i in instances]
            for category, instances in zip(refs.categories, refs.instances, strict=True)
        },
    }


def assemble_references(
    dataset: CocoDataset, categories: tuple[Category, ...], sample: Sample, *, shots: int, seed: int, sampler: str
) -> ReferenceSet:
    """Assemble a reference set from a sample of a file; `categories` are sorted by id."""
    images = {i.image_id: dataset.images[i.image_id] for instances in sample for i in instances}
    # Everything that decides the memory, except the images' pixels.
    content = [
        {
            "category": [category.id, category.name],
            "instances": [[i.id, images[i.image_id].file_name, i.bbox_xywh, i.segmentation] for i in instances],
        }
        for category, instances in zip(categories, sample, strict=True)
    ]
    return ReferenceSet(
        categories=categories,
        instances=sample,
        images=images,
        shots=shots,
        seed=seed,
        digest=content_key(content),
        sampler=sampler,
    )


def reference_targets(
    references: ReferenceSet, objects_of_image: Callable[[ImageId], Sequence[Instance]]
) -> CocoDataset:
    """Return the images of references as targets of a search with the other images' references.

    Their objects are the annotations of searched classes, except of classes whose references are all on the same image:
    without it, nothing is left to find them with.
    """
    images_of = {
        category.id: {instance.image_id for instance in members}
        for category, members in zip(references.categories, references.instances, strict=True)
    }
    objects = [
        instance
        for image_id in references.images
        for instance in objects_of_image(image_id)
        if images_of.get(instance.category_id, set()) - {image_id}
    ]
    return CocoDataset(
        categories=references.categories,
        images=references.images,
        instances=tuple(objects),
        has_annotations=True,
        annotation_file=Path("references"),
        digest=content_key([[i.id, i.image_id, i.category_id, i.bbox_xywh, i.iscrowd] for i in objects]),
    )


def are_complete(
    references: ReferenceSet, objects_of_image: Callable[[ImageId], Sequence[Instance]], *, answer: bool | str
) -> bool:
    """Return whether the images of references are fully annotated, according to `dataset.references_complete`.

    "auto": yes if most of these images have two objects or more.
    """
    if isinstance(answer, bool):
        return answer
    counts = [len(objects_of_image(image_id)) for image_id in references.images]
    return 2 * sum(count > 1 for count in counts) > len(counts)
