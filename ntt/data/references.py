"""A drawn set of references: its digest, and the JSON form that names its instances by their ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntt.base.digests import content_key
from ntt.data.coco import CocoDataset
from ntt.data.sampling import Sample
from ntt.errors import DataError
from ntt.types import Category, ImageId, ImageRecord, Instance, ReferenceSet


def reference_facts(refs: ReferenceSet, dataset: CocoDataset) -> dict[str, Any]:
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
    """Write down which instances of a data set were drawn, by their ids; `references_from_json` reads it."""
    return {
        **reference_facts(refs, dataset),
        "names": {str(category.id): category.name for category in refs.categories},
        "references": {
            str(category.id): [{"image_id": i.image_id, "annotation_id": i.id} for i in instances]
            for category, instances in zip(refs.categories, refs.instances, strict=True)
        },
    }


def references_from_json(document: Mapping[str, Any], dataset: CocoDataset) -> ReferenceSet:
    """Look the instances of a `references_to_json` document up again.

    Args:
        document: the JSON object.
        dataset: the references file they were drawn from.

    Raises:
        DataError: if the document is malformed, names instances the data set does not have, or was written for other
            annotations than the data set now has.
    """
    by_id = {category.id: category for category in dataset.categories}
    try:
        numbers = sorted(map(int, document["references"]))
        categories = tuple(by_id[number] for number in numbers)
        sample = tuple(
            tuple(_look_up(dataset, number, entry) for entry in document["references"][str(number)])
            for number in numbers
        )
        references = assemble_references(
            dataset,
            categories,
            sample,
            shots=int(document["shots"]),
            seed=int(document["seed"]),
            sampler=str(document["sampler"]),
        )
        digest = document["digest"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"The list of references does not fit {dataset.annotation_file}: {type(error).__name__} {error}. Delete "
            "the list, and the references are drawn anew."
        ) from error
    if references.digest != digest:
        raise DataError(
            f"The list of references has digest {digest}, the same instances of {dataset.annotation_file} now have "
            f"{references.digest}: classes, boxes, masks or file names have changed since. Delete the list, and the "
            "references are drawn anew."
        )
    return references


def _look_up(dataset: CocoDataset, category_id: int, entry: Mapping[str, Any]) -> Instance:
    instance = dataset.instance(entry["annotation_id"])
    if instance is None or instance.image_id != entry["image_id"] or instance.category_id != category_id:
        raise ValueError(f"annotation {entry['annotation_id']!r} of image {entry['image_id']!r} is not there")
    return instance


def assemble_references(
    dataset: CocoDataset, categories: tuple[Category, ...], sample: Sample, *, shots: int, seed: int, sampler: str
) -> ReferenceSet:
    """Make a set of chosen instances.

    Args:
        dataset: the file they come from.
        categories: sorted by id.
        sample: the instances of each category.
        shots: instances asked for per category.
        seed: of the sampler.
        sampler: its name.
    """
    images = {i.image_id: dataset.images[i.image_id] for instances in sample for i in instances}
    return ReferenceSet(
        categories=categories,
        instances=sample,
        images=images,
        shots=shots,
        seed=seed,
        digest=_digest(categories, sample, images),
        sampler=sampler,
    )


def _digest(categories: Sequence[Category], sample: Sample, images: Mapping[ImageId, ImageRecord]) -> str:
    """Return the SHA-256 of all that the memory will depend on, the images' pixels excepted."""
    content = [
        {
            "category": [category.id, category.name],
            "instances": [[i.id, images[i.image_id].file_name, i.bbox_xywh, _plain(i.segmentation)] for i in instances],
        }
        for category, instances in zip(categories, sample, strict=True)
    ]
    return content_key(content)


def _plain(segmentation: list[list[float]] | Mapping[str, Any] | None) -> Any:
    """Turn a segmentation into what JSON can hold; RLE counts may be bytes."""
    if not isinstance(segmentation, Mapping):
        return segmentation
    counts = segmentation["counts"]
    return {
        "size": list(segmentation["size"]),
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
