"""A drawn set of references: its digest, and the JSON form that names its instances by their ids."""

from typing import Any

from ntt.base.digests import content_key
from ntt.data.coco import CocoDataset
from ntt.data.sampling import Sample
from ntt.types import Category, ReferenceSet


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
    """Write down which instances of a data set were drawn, by their ids."""
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
    # Everything the memory depends on except the images' pixels.
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
