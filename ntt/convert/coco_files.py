"""Subsets, splits and merges of COCO files. Unknown keys, such as licences, are kept as they are."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ntt.base.digests import content_key
from ntt.convert.base import Converted
from ntt.data.coco import CocoDataset, raw_annotations, read_coco
from ntt.data.coco_entries import CLASS_LISTS, is_image_id
from ntt.data.documents import read_document
from ntt.errors import ConfigError, DataError, raise_all
from ntt.types import ImageId, Json

_SUM_TOLERANCE = 1e-6
_SAME_OBJECT = ("image_id", "category_id", "bbox", "segmentation", "iscrowd")


def read_whole(path: Path) -> Json:
    """Read a COCO file to be divided; the only requirement is that its entries refer to each other."""
    document = read_document(path)
    problems: list[str] = []
    ids: dict[str, set[Any]] = {}
    for key in ("images", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and is_image_id(entry.get("id")) for entry in entries
        ):
            raise DataError(f"{path}: `{key}` must be a list of objects with an `id` that is a whole number or text.")
        ids[key] = {entry["id"] for entry in entries}
        if len(ids[key]) < len(entries):
            problems.append(f"{path}: an id of `{key}` occurs more than once. Give each its own.")
    annotations = document.get("annotations") or []
    if not isinstance(annotations, list):
        raise DataError(f"{path}: `annotations` must be a list. Correct the file.")
    for index, entry in enumerate(annotations):
        for key, owner in (("image_id", "images"), ("category_id", "categories")):
            number = entry.get(key) if isinstance(entry, dict) else None
            if not is_image_id(number) or number not in ids[owner]:
                problems.append(f"{path}: annotations[{index}] has a {key} that is not in `{owner}`. Correct it.")
    raise_all(problems, DataError, summary=f"{path} cannot be used")
    return document


def subset(
    document: Json, *, classes: Sequence[str] | None = None, num_images: int | None = None, seed: int = 0
) -> Json:
    """Keep some classes and a number of images of a file (from `read_whole`); None: all.

    The draw depends on (seed, image id) only, so a draw of n images is part of the draw of n + 1. A ConfigError for a
    class or a number of images that the file does not have.
    """
    image_ids = {image["id"] for image in document["images"]}
    class_ids = _class_ids(document, classes)
    if num_images is not None:
        if not 1 <= num_images <= len(image_ids):
            raise ConfigError(f"{num_images} images cannot be chosen: there are {len(image_ids)}.")
        image_ids = set(_drawn(image_ids, seed)[:num_images])
    return _restricted(document, image_ids, class_ids)


def split(document: Json, parts: Mapping[str, float], *, seed: int = 0) -> dict[str, Json]:
    """Distribute the images of a file (from `read_whole`) over several files.

    `parts` gives the share of the images by name. The draw depends on (seed, image id) only. A ConfigError if the
    shares do not add up to 1, or a part would be empty.
    """
    if not all(share > 0 for share in parts.values()) or not abs(sum(parts.values()) - 1) <= _SUM_TOLERANCE:  # or nan
        raise ConfigError(f"The shares {list(parts.values())} must be above 0 and add up to 1.")
    order = _drawn({image["id"] for image in document["images"]}, seed)
    class_ids = _class_ids(document, None)
    documents: dict[str, Json] = {}
    start, total = 0, 0.0
    for name, share in parts.items():
        total += share
        end = round(total * len(order))
        if end <= start:
            raise ConfigError(f"Part {name!r} would have no image of {len(order)}. Enlarge its share.")
        documents[name] = _restricted(document, set(order[start:end]), class_ids)
        start = end
    return documents


def merge(inputs: Sequence[tuple[Path, Path]]) -> Converted:
    """Merge at least two pairs of an annotation file and its image folder.

    Classes of the same name are one class, images of the same path one image. Ids are kept if those of all files
    differ, else renumbered; an object that occurs in several files is written once. File names are relative to the
    common parent of all image folders. A DataError if a file cannot be used, or the files disagree.
    """
    # Normalised as text, so that an image of two files has one path.
    folders = [Path(os.path.normpath(images.absolute())) for _, images in inputs]
    datasets = [
        read_coco(file, folder, annotations_required=False) for (file, _), folder in zip(inputs, folders, strict=True)
    ]
    if len({dataset.has_annotations for dataset in datasets}) > 1:
        lacking = next(dataset.annotation_file for dataset in datasets if not dataset.has_annotations)
        raise DataError(f"{lacking} has no annotations, other files have: its images would count as empty.")
    root = Path(os.path.commonpath(folders))
    categories, class_maps, notes = _merged_classes(datasets)
    images, image_maps = _merged_images(datasets, class_maps, root)
    document: Json = {"info": {"description": "merged"}, "categories": categories, "images": images}
    if datasets[0].has_annotations:
        document["annotations"], left_out = _merged_annotations(datasets, class_maps, image_maps)
        if left_out:
            notes.append(f"{left_out} annotation(s) left out, which an earlier file has for the same image")
    return Converted(document, root, tuple(notes))


def _merged_classes(datasets: Sequence[CocoDataset]) -> tuple[list[Json], list[dict[int, int]], list[str]]:
    """Return the classes, for each file its id -> new id, and what was renumbered."""
    by_name: dict[str, Json] = {}
    class_maps: list[dict[int, int]] = []
    notes: list[str] = []
    for dataset in datasets:
        raw = {entry["id"]: entry for entry in read_document(dataset.annotation_file)["categories"]}
        class_maps.append({})
        for category in dataset.categories:
            used = {entry["id"] for entry in by_name.values()}
            number = category.id if category.id not in used else max(used) + 1
            entry = by_name.setdefault(category.name, {**raw[category.id], "id": number})
            class_maps[-1][category.id] = entry["id"]
            if entry["id"] != category.id:
                change = f"has id {entry['id']} now, had {category.id}"
                notes.append(f"class {category.name!r} of {dataset.annotation_file.name} {change}")
    return sorted(by_name.values(), key=lambda entry: entry["id"]), class_maps, notes


def _merged_images(
    datasets: Sequence[CocoDataset], class_maps: Sequence[Mapping[int, int]], root: Path
) -> tuple[list[Json], list[dict[ImageId, ImageId]]]:
    """Return the images, and for each file its id -> new id. LVIS' lists of classes per image are united."""
    by_path: dict[Path, Json] = {}
    path_of_id: dict[ImageId, Path] = {}
    problems: list[str] = []
    keeps_ids = True
    for dataset, class_map in zip(datasets, class_maps, strict=True):
        raw = {entry["id"]: entry for entry in read_document(dataset.annotation_file)["images"]}
        for record in dataset.images.values():
            keeps_ids = keeps_ids and path_of_id.setdefault(record.id, record.path) == record.path
            size = {"height": record.height, "width": record.width}
            if record.path not in by_path:
                own = {key: value for key, value in raw[record.id].items() if key not in CLASS_LISTS}
                by_path[record.path] = {**own, "file_name": record.path.relative_to(root).as_posix(), **size}
            entry = by_path[record.path]
            if any(entry[key] != value for key, value in size.items()):
                problems.append(f"{record.path} has different sizes in the files. Correct the wrong one.")
            if record.id in dataset.checked_classes:
                for key, ids in zip(CLASS_LISTS, dataset.checked_classes[record.id], strict=True):
                    merged_ids = {class_map[number] for number in ids if number in class_map}
                    entry[key] = sorted(merged_ids.union(entry.get(key, ())))
    raise_all(problems, DataError, summary="The files disagree about images")
    is_one_kind = len(set(map(type, path_of_id))) == 1
    if not keeps_ids or len(path_of_id) > len(by_path) or not is_one_kind:
        for number, entry in enumerate(by_path.values(), start=1):
            entry["id"] = number
    image_maps = [{record.id: by_path[record.path]["id"] for record in dataset.images.values()} for dataset in datasets]
    return list(by_path.values()), image_maps


def _merged_annotations(
    datasets: Sequence[CocoDataset], class_maps: Sequence[Mapping[int, int]], image_maps: Sequence[Mapping[Any, Any]]
) -> tuple[list[Json], int]:
    """Return the annotations, and how many were left out because an earlier file has the very same one."""
    merged: list[Json] = []
    left_out = 0
    earlier: set[str] = set()
    for dataset, class_map, image_map in zip(datasets, class_maps, image_maps, strict=True):
        own: set[str] = set()
        for number, entry in raw_annotations(dataset).items():
            ids = {"image_id": image_map[entry["image_id"]], "category_id": class_map[entry["category_id"]]}
            identity = {**entry, **ids}
            object_key = content_key([identity.get(key) for key in _SAME_OBJECT])
            if object_key in earlier:
                left_out += 1
                continue
            own.add(object_key)
            merged.append({**entry, "id": number, **ids})
        earlier |= own
    if len({entry["id"] for entry in merged}) < len(merged):
        for number, entry in enumerate(merged, start=1):
            entry["id"] = number
    return merged, left_out


def _restricted(document: Json, image_ids: Collection[ImageId], category_ids: Collection[int]) -> Json:
    restricted = dict(document)
    restricted["images"] = [image for image in document["images"] if image["id"] in image_ids]
    restricted["categories"] = [entry for entry in document["categories"] if entry["id"] in category_ids]
    if "annotations" in document:
        restricted["annotations"] = [
            entry
            for entry in document["annotations"] or []
            if entry["image_id"] in image_ids and entry["category_id"] in category_ids
        ]
    return restricted


def _class_ids(document: Json, classes: Sequence[str] | None) -> set[int]:
    names = [entry.get("name") for entry in document["categories"]]
    if missing := [repr(name) for name in classes or () if name not in names]:
        raise ConfigError(f"The file has no class {', '.join(missing)}. It has {', '.join(map(str, names))}.")
    return {entry["id"] for entry in document["categories"] if classes is None or entry.get("name") in classes}


def _drawn(image_ids: Collection[ImageId], seed: int) -> list[ImageId]:
    """Order images by a hash of (seed, image id), so that the order of the file does not matter."""

    def rank(image_id: ImageId) -> bytes:
        return hashlib.blake2b(json.dumps([seed, image_id]).encode(), digest_size=16).digest()

    return sorted(image_ids, key=rank)
