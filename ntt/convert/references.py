"""References files to keep and share: from sampled instances, and from the reference implementation's pickled lists.

Entries are copied unchanged, ids included, and annotations get a `shot_index`, so that a run with
shots.sampler=shot_index on the new file uses the very same references. An instance drawn twice for a class, as the
published sampler does if there are too few, is written again under another id, with `repeat_of`. A pickled list is an
ordered dictionary, category id -> list of {"img_id": image id, "ann_ids": [annotation id]}, with one entry per
reference.
"""

import io
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

from ntt.convert.base import Converted
from ntt.data.coco import CocoDataset, raw_annotations
from ntt.data.coco_entries import is_image_id
from ntt.data.documents import read_bytes, read_document
from ntt.data.references import assemble_references, reference_details
from ntt.errors import DataError, raise_all
from ntt.types import Category, ImageId, Instance, Json, ReferenceSet

Pick = tuple[ImageId, int]
"""(image id, annotation id)."""

_MAX_BYTES = 64 << 20


def references_document(references: ReferenceSet, dataset: CocoDataset) -> Converted:
    """Return references drawn from a data set as an annotation file of their own."""
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
    return Converted(document, first.folder)


def convert_reference_pickle(*, pickle_file: Path, dataset: CocoDataset) -> Converted:
    """Turn a pickled list of references drawn from `dataset` into a references file.

    A DataError if the pickle is refused, not such a list, or does not fit the annotation file.
    """
    lists, notes = _read_lists(load_plain(pickle_file), pickle_file)
    by_key = {key: category for category in dataset.categories for key in (category.id, category.name)}
    unusable = {instance.id for instance in dataset.in_file_order() if instance.iscrowd}
    unusable |= {instance.id for _, instance in dataset.dropped}
    problems: list[str] = []
    groups: defaultdict[Category, list[Instance]] = defaultdict(list)
    for key, picks in lists.items():
        category = by_key.get(key)
        if category is None:
            problems.append(f"Category {key!r} of the list is not in {dataset.annotation_file}.")
            continue
        for image_id, annotation_id in picks:
            what = f"annotation {annotation_id} of image {image_id!r} and class {category.name!r}"
            instance = dataset.instance(annotation_id)
            if annotation_id in unusable:
                notes.append(f"{what} left out: a crowd region or an object without area cannot be a reference")
            elif instance is None or (instance.image_id, instance.category_id) != (image_id, category.id):
                problems.append(f"The list's {what} is not in {dataset.annotation_file}.")
            else:
                groups[category].append(instance)
        if not problems and not groups[category]:
            problems.append(f"Category {category.id} ({category.name}) has no usable reference.")
    raise_all(problems, DataError, summary=f"{pickle_file} does not fit {dataset.annotation_file}")
    categories = tuple(sorted(groups, key=lambda category: category.id))
    references = assemble_references(
        dataset,
        categories,
        tuple(tuple(groups[category]) for category in categories),
        shots=max(map(len, groups.values())),
        seed=0,
        sampler="given",
    )
    converted = references_document(references, dataset)
    converted.document["info"]["references"]["list"] = pickle_file.name
    return Converted(converted.document, converted.image_root, tuple(notes))


class _PlainUnpickler(pickle.Unpickler):
    """Accepts a single name, so that a file cannot run code: an ordered dictionary, read as a plain one."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("collections", "OrderedDict"):
            raise pickle.UnpicklingError(f"it contains the name {module}.{name}")
        return dict


def load_plain(path: Path) -> Any:
    """Load a pickle of dictionaries, lists, tuples, numbers and text; refuse anything else without running it."""
    data = read_bytes(path, _MAX_BYTES)
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle may fail in any way
        rule = "anything but dictionaries, lists, numbers and text could run code"
        raise DataError(f"{path} is refused ({error}): {rule}.") from error


def _read_lists(content: Any, path: Path) -> tuple[dict[int | str, list[Pick]], list[str]]:
    """Check the layout; return the picks per category key, and notes. Values, which may be huge, are not printed."""
    lists: dict[int | str, list[Pick]] = {}
    surplus = 0
    try:
        for key, entries in content.items():
            lists[key] = [(entry["img_id"], entry["ann_ids"][0]) for entry in entries]
            surplus += sum(len(entry["ann_ids"]) - 1 for entry in entries)
    except (AttributeError, TypeError, KeyError, IndexError):
        lists = {}
    is_valid = all(
        type(key) in (int, str) and is_image_id(image_id) and type(annotation_id) is int
        for key, picks in lists.items()
        for image_id, annotation_id in picks
    )
    if not lists or not is_valid:
        layout = '{category id: [{"img_id": ..., "ann_ids": [...]}, ...]}'
        raise DataError(f"{path} is not a few-shot list: a dictionary {layout} is needed.")
    note = (
        f"{surplus} further annotation(s) of an entry left out: the reference implementation also uses only the first"
    )
    return lists, [note] if surplus else []
