"""A references file to keep and share: sampled instances as a COCO file whose annotations carry `shot_index`.

Annotations, images and classes are copied as they stand in the file they were drawn from, ids included, so that a run
with shots.sampler=shot_index on the new file uses the very same references. An instance drawn twice for a class, as
the published sampler does where there are too few, is written again under another id, with `repeat_of`.
"""

from pathlib import Path

from ntt.convert.base import Converted
from ntt.data.coco import CocoDataset, raw_annotations, read_document
from ntt.data.references import reference_details
from ntt.types import Json, ReferenceSet


def references_document(references: ReferenceSet, dataset: CocoDataset) -> Converted:
    """Write sampled references down in full.

    Args:
        references: the instances, drawn from `dataset`.
        dataset: the file they were drawn from.
    """
    raw, source = raw_annotations(dataset), read_document(dataset.annotation_file)
    following = max(raw, default=0) + 1
    written: set[int] = set()
    annotations: list[Json] = []
    for group in references.instances:
        for shot_index, instance in enumerate(group):
            entry = {**raw[instance.id], "id": instance.id, "shot_index": shot_index}
            if instance.id in written:
                entry.update(id=following, repeat_of=instance.id)
                following += 1
            written.add(instance.id)
            annotations.append(entry)
    category_ids = {category.id for category in references.categories}
    images = []
    for entry in source["images"]:
        if entry["id"] in references.images:
            record = references.images[entry["id"]]
            images.append({**entry, "file_name": record.file_name, "height": record.height, "width": record.width})
    document: Json = {
        "info": {"description": "references drawn for ntt", "references": reference_details(references, dataset)},
        "licenses": source.get("licenses") or [],
        "categories": [entry for entry in source["categories"] if entry["id"] in category_ids],
        "images": images,
        "annotations": annotations,
    }
    first = next(iter(dataset.images.values()))
    return Converted(document, Path(str(first.path)[: -len(first.file_name)]))
