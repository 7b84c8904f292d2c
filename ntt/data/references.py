"""A drawn set of references: its digest, and the JSON form that names its instances by their ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntt.base.digests import content_key
from ntt.data.coco import CocoDataset
from ntt.data.sampling import Sample
from ntt.types import Category, ImageId, ImageRecord, ReferenceSet


def reference_details(refs: ReferenceSet, dataset: CocoDataset) -> dict[str, Any]:
    """Return how references were drawn, and from which file."""
    return {
        "digest": refs.digest,
        "sampler": refs.sampler,
        "shots": refs.shots,
        "seed": refs.seed,
        "file": dataset.annotation_file.name,
        "file_sha256": dataset.digest,
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
    return ReferenceSet(
        categories=categories,
        instances=sample,
        images=images,
        shots=shots,
        seed=seed,
        digest=content_key(_content(categories, sample, images)),
        sampler=sampler,
    )


def _content(categories: Sequence[Category], sample: Sample, images: Mapping[ImageId, ImageRecord]) -> Any:
    """Return everything the memory depends on except the images' pixels."""
    return [
        {
            "category": [category.id, category.name],
            "instances": [[i.id, images[i.image_id].file_name, i.bbox_xywh, _plain(i.segmentation)] for i in instances],
        }
        for category, instances in zip(categories, sample, strict=True)
    ]


def _plain(segmentation: list[list[float]] | Mapping[str, Any] | None) -> Any:
    """Return a segmentation that JSON can hold; RLE counts may be bytes."""
    if not isinstance(segmentation, Mapping):
        return segmentation
    size, counts = list(segmentation["size"]), segmentation["counts"]
    return {"size": size, "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
