"""Turns the reference implementation's pickled lists of references into references files.

Its layout: an ordered dictionary, category id -> list of {"img_id": image id, "ann_ids": [annotation id]}, one entry
per reference, ids being those of the annotation file the list was drawn from.
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntt.convert.base import Converted
from ntt.convert.references_file import references_document
from ntt.data.coco import CocoDataset
from ntt.data.coco_entries import is_image_id
from ntt.data.references import assemble_references
from ntt.errors import DataError, raise_all
from ntt.types import Category, ImageId, Instance

Pick = tuple[ImageId, int]
"""(image id, annotation id)."""

_MAX_BYTES = 64 << 20


def convert_reference_pickle(*, pickle_file: Path, dataset: CocoDataset) -> Converted:
    """Turn a pickled list into a references file.

    Args:
        pickle_file: the list.
        dataset: the annotation file it was drawn from.

    Raises:
        DataError: if the pickle is refused, not such a list, or does not fit the annotation file.
    """
    lists, notes = _read_lists(load_plain(pickle_file), pickle_file)
    problems: list[str] = []
    groups: dict[Category, list[Instance]] = {}
    by_key = {key: category for category in dataset.categories for key in (category.id, category.name)}
    for key, picks in lists.items():
        category = by_key.get(key)
        if category is None:
            problems.append(
                f"Category {key!r} of the list is not in {dataset.annotation_file}. Name the file it was drawn from."
            )
        else:
            groups[category] = _instances(picks, category, dataset, problems, notes)
    if not problems:
        problems = [
            f"Category {category.id} ({category.name}) has no usable reference. Remove it from the list."
            for category, instances in groups.items()
            if not instances
        ]
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
    """Knows one name, so that a file cannot run anything: an ordered dictionary, which is read as a plain one."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != ("collections", "OrderedDict"):
            raise pickle.UnpicklingError(f"it contains the name {module}.{name}")
        return dict


def load_plain(path: Path) -> Any:
    """Load a pickle of dictionaries, lists, tuples, numbers and text; refuse anything else without running it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. A readable pickle file is needed.") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path} has {len(data)} bytes; lists of references of up to {_MAX_BYTES} bytes are read.")
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError(
            f"{path} is refused ({error}). Only dictionaries, lists, numbers and text are read from pickles, because "
            "anything else could run a program."
        ) from error


def _read_lists(content: Any, path: Path) -> tuple[dict[int | str, list[Pick]], list[str]]:
    """Check the layout and return the picks per category key, and notes. Values are never printed: they may be huge."""
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
        raise DataError(
            f'{path} is no few-shot list: a dictionary {{category id: [{{"img_id": ..., "ann_ids": [...]}}, ...]}} is '
            "needed."
        )
    note = f"{surplus} further annotation(s) of an entry left out: only the first of an entry is used there as well"
    return lists, [note] if surplus else []


def _instances(
    picks: Sequence[Pick], category: Category, dataset: CocoDataset, problems: list[str], notes: list[str]
) -> list[Instance]:
    dropped = {instance.id for _, instance in dataset.dropped}
    instances: list[Instance] = []
    for image_id, annotation_id in picks:
        instance = dataset.instance(annotation_id)
        if annotation_id in dropped or (instance is not None and instance.iscrowd):
            notes.append(
                f"annotation {annotation_id} of {category.name!r} left out: a crowd region or an object without area "
                "is no reference here"
            )
        elif instance is None or (instance.image_id, instance.category_id) != (image_id, category.id):
            problems.append(
                f"Annotation {annotation_id} of image {image_id!r} and class {category.name!r} is not in "
                f"{dataset.annotation_file}. Name the file the list was drawn from."
            )
        else:
            instances.append(instance)
    return instances
