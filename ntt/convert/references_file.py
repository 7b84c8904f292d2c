"""A references file to keep and share: sampled instances as a COCO file whose annotations carry `shot_index`.

Annotations, images and classes are copied as they stand in the file they were drawn from, ids included, so that a run
with shots.sampler=shot_index on the new file uses the very same references. An instance drawn twice for a class, as
the published sampler does where there are too few, is written again under another id, with `repeat_of`.
"""

from pathlib import Path

from ntt.convert.base import Converted
from ntt.data.coco import CocoDataset, raw_annotations, read_document
from ntt.data.references import reference_facts
from ntt.types import Json, ReferenceSet


def references_document(references: ReferenceSet, dataset: CocoDataset) -> Converted:
    """Write sampled references down in full.

    Args:
        references: the instances, drawn from `dataset`.
        dataset: the file they were drawn from.
    """
    raw, document = raw_annotations(dataset), read_document(dataset.annotation_file)
    following = max(raw, default=0) + 1
    written: dict[int, int] = {}
    annotations: list[Json] = []
    for group in references.instances:
        for shot_index, instance in enumerate(group):
            entry = {**raw[instance.id], "id": instance.id, "shot_index": shot_index}
            if instance.id in written:
                entry.update(id=following, repeat_of=instance.id)
                following += 1
            written[instance.id] = shot_index
            annotations.append(entry)
    wanted = {category.id for category in references.categories}
    made: Json = {
        "info": {"description": "references drawn for ntt", "references": reference_facts(references, dataset)},
        "licenses": document.get("licenses") or [],
        "categories": [entry for entry in document["categories"] if entry["id"] in wanted],
        "images": [_image(entry, references) for entry in document["images"] if entry["id"] in references.images],
        "annotations": annotations,
    }
    return Converted(made, _image_root(dataset))


def _image(entry: Json, references: ReferenceSet) -> Json:
    record = references.images[entry["id"]]
    return {**entry, "file_name": record.file_name, "height": record.height, "width": record.width}


def _image_root(dataset: CocoDataset) -> Path:
    record = next(iter(dataset.images.values()))
    return Path(str(record.path)[: -len(record.file_name)])
