"""The reference implementation's pickled lists of references, read and written.

Its layout: an ordered dictionary, category id -> list of {"img_id": image id, "ann_ids": [annotation id]}, one entry a
reference, ids being those of the annotation file the list was drawn from.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ntt.convert.base import Converted
from ntt.convert.plain_pickle import load_plain
from ntt.convert.references_file import references_document
from ntt.data.coco import CocoDataset, read_document
from ntt.data.coco_entries import is_image_id
from ntt.data.references import assemble_references
from ntt.errors import DataError, raise_all
from ntt.types import Category, ImageId, Instance

Pick = tuple[ImageId, int]
"""(image id, annotation id)."""

_PROTOCOL = 4
_MAX_ENTRIES = 10_000_000


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
    categories = [_category(key, dataset, problems) for key in lists]
    groups = [
        _instances(picks, category, dataset, problems, notes)
        for picks, category in zip(lists.values(), categories, strict=True)
        if category is not None
    ]
    known = [category for category in categories if category is not None]
    if not problems:
        problems += [
            f"Category {category.id} ({category.name}) has no usable reference. Remove it from the list."
            for category, group in zip(known, groups, strict=True)
            if not group
        ]
    raise_all(problems, DataError, summary=f"{pickle_file} does not fit {dataset.annotation_file}")
    order = sorted(range(len(known)), key=lambda place: known[place].id)
    references = assemble_references(
        dataset,
        tuple(known[place] for place in order),
        tuple(tuple(groups[place]) for place in order),
        shots=max(map(len, groups)),
        seed=0,
        sampler="given",
    )
    made = references_document(references, dataset)
    made.document["info"]["references"]["list"] = pickle_file.name
    return Converted(made.document, made.image_root, tuple(notes))


def pickle_references(references_file: Path, *, shots: int | None = None, fill_up: bool = False) -> bytes:
    """Turn our references into a pickle that the reference implementation reads.

    Args:
        references_file: a references file with `shot_index`, or the references.json of a run directory.
        shots: references per class to take, in order; None: all of them.
        fill_up: repeat a class's references from the first on where it has too few; the reference implementation
            insists on the same number in every class.

    Raises:
        DataError: if the file is neither, or its classes differ in number and `fill_up` is false.
    """
    lists = _our_lists(read_document(references_file), references_file)
    wanted = max((len(picks) for picks in lists.values()), default=0) if shots is None else shots
    problems = [
        f"Class {number} has {len(picks)} of {wanted} references; the reference implementation needs the same number "
        "in every class. Lower --shots, or repeat some with --fill-up."
        for number, picks in lists.items()
        if not picks or (len(picks) < wanted and not fill_up)
    ]
    raise_all(problems, DataError, summary=f"{references_file} cannot be written as a list")
    content = OrderedDict(
        (number, [_entry(picks[place % len(picks)]) for place in range(wanted)]) for number, picks in lists.items()
    )
    return pickle.dumps(content, protocol=_PROTOCOL)


def _entry(pick: Pick) -> dict[str, Any]:
    return {"img_id": pick[0], "ann_ids": [pick[1]]}


def _read_lists(content: Any, path: Path) -> tuple[dict[int | str, list[Pick]], list[str]]:
    """Check the layout. Values are never printed: shared parts may unfold without bounds."""
    layout = 'a dictionary {category id: [{"img_id": ..., "ann_ids": [...]}, ...]} is needed'
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} holds a {type(content).__name__}: {layout}. Name a few-shot list.")
    lists: dict[int | str, list[Pick]] = {}
    further = total = 0
    for key, entries in content.items():
        if type(key) not in (int, str) or not isinstance(entries, list | tuple):
            raise DataError(f"{path} has a key or a value of the wrong kind: {layout}. Name a few-shot list.")
        total += len(entries)
        if total > _MAX_ENTRIES:
            raise DataError(f"{path} has more than {_MAX_ENTRIES} references, which is no few-shot list.")
        lists[key] = []
        for place, entry in enumerate(entries):
            pick, more = _pick(entry)
            if pick is None:
                raise DataError(f"{path}: entry {place} of category {key!r} is malformed: {layout}. Make it again.")
            lists[key].append(pick)
            further += more
    note = f"{further} further annotation(s) of an entry left out: only the first of an entry is used there as well"
    return lists, [note] if further else []


def _pick(entry: Any) -> tuple[Pick | None, int]:
    """Return the first annotation of an entry, and how many follow it."""
    if not isinstance(entry, dict):
        return None, 0
    image_id, annotation_ids = entry.get("img_id"), entry.get("ann_ids")
    if not is_image_id(image_id) or not isinstance(annotation_ids, list | tuple) or not annotation_ids:
        return None, 0
    if type(annotation_ids[0]) is not int:
        return None, 0
    return (image_id, annotation_ids[0]), len(annotation_ids) - 1


def _category(key: int | str, dataset: CocoDataset, problems: list[str]) -> Category | None:
    for category in dataset.categories:
        if key in (category.id, category.name):
            return category
    problems.append(
        f"Category {key!r} of the list is not in {dataset.annotation_file}. Name the file the list was drawn from."
    )
    return None


def _instances(
    picks: Sequence[Pick], category: Category, dataset: CocoDataset, problems: list[str], notes: list[str]
) -> list[Instance]:
    dropped = {instance.id for _, instance in dataset.dropped}
    found: list[Instance] = []
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
            found.append(instance)
    return found


def _our_lists(document: Mapping[str, Any], path: Path) -> dict[int, list[Pick]]:
    try:
        if isinstance(document.get("references"), dict):
            return {
                int(number): [(entry["image_id"], entry["annotation_id"]) for entry in entries]
                for number, entries in document["references"].items()
            }
        entries = [entry for entry in document["annotations"] if entry.get("shot_index") is not None]
        lists: dict[int, list[Pick]] = {}
        for entry in sorted(entries, key=lambda entry: (entry["category_id"], entry["shot_index"])):
            pick = (entry["image_id"], entry.get("repeat_of", entry["id"]))
            lists.setdefault(entry["category_id"], []).append(pick)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no references file ({type(error).__name__} {error}). {_ORIGIN}") from error
    if not lists:
        raise DataError(f"No annotation of {path} has a `shot_index`. {_ORIGIN}")
    return lists


_ORIGIN = "Name a file written by `ntt data sample-references`, or the references.json of a run directory."
