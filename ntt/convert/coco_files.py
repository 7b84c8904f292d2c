"""COCO files cut down, cut apart and put together. Keys nobody knows, such as licences, are kept as they are."""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ntt.convert.base import Converted
from ntt.data.coco import CocoDataset, raw_annotations, read_coco, read_document
from ntt.data.coco_entries import CLASS_LISTS, is_image_id
from ntt.errors import ConfigError, DataError, raise_all
from ntt.types import ImageId, Json

_SUM_TOLERANCE = 1e-6


def read_whole(path: Path) -> Json:
    """Read a COCO file to be cut: its entries must refer to each other, nothing else is asked of them.

    Raises:
        DataError: listing what does not fit.
    """
    document = read_document(path)
    problems: list[str] = []
    ids: dict[str, set[Any]] = {}
    for key in ("images", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(
            isinstance(one, dict) and is_image_id(one.get("id")) for one in entries
        ):
            raise DataError(
                f"{path}: `{key}` must be a list of objects with an `id` that is a whole number or text. Correct the "
                "file."
            )
        ids[key] = {one["id"] for one in entries}
        if len(ids[key]) < len(entries):
            problems.append(f"{path}: an id of `{key}` occurs more than once. Give each its own.")
    annotations = document.get("annotations") or []
    if not isinstance(annotations, list):
        raise DataError(f"{path}: `annotations` must be a list. Correct the file.")
    for place, entry in enumerate(annotations):
        for key, owner in (("image_id", "images"), ("category_id", "categories")):
            number = entry.get(key) if isinstance(entry, dict) else None
            if not is_image_id(number) or number not in ids[owner]:
                problems.append(f"{path}: annotations[{place}] has a {key} that is not in `{owner}`. Correct it.")
    raise_all(problems, DataError, summary=f"{path} cannot be used")
    return document


def subset(
    document: Json,
    *,
    classes: Sequence[str] | None = None,
    num_images: int | None = None,
    seed: int = 0,
    names: Sequence[str] | None = None,
    drop_empty: bool = False,
) -> Json:
    """Keep a part of a file: first the listed images, then the classes, then a number of images.

    Args:
        document: as `read_whole` returned it.
        classes: class names to keep, with their annotations; None: all.
        num_images: images to keep; None: all. The draw follows from (seed, image id) alone, so n images are a part of
            n + 1.
        seed: of that draw.
        names: images to keep, as file names, their last parts, these without ending, or ids; None: all.
        drop_empty: leave out images without an object.

    Raises:
        ConfigError: for a class or a number of images that the file does not have.
        DataError: for a listed image that it does not have, and if no image is left.
    """
    kept = {image["id"] for image in document["images"]} if names is None else _listed(document, names)
    wanted = _class_ids(document, classes)
    if drop_empty:
        kept &= {entry["image_id"] for entry in _annotations(document) if entry["category_id"] in wanted}
    if not kept:
        raise DataError("No image is left. Choose other classes, or keep images without objects.")
    if num_images is not None:
        if not 1 <= num_images <= len(kept):
            raise ConfigError(
                f"--images={num_images} is not possible: there are 1 to {len(kept)} to choose from. Give a number in "
                "that range, or leave it out to keep all."
            )
        kept = set(_drawn(kept, seed)[:num_images])
    return _restricted(document, kept, wanted)


def split(document: Json, parts: Mapping[str, float], *, seed: int = 0) -> dict[str, Json]:
    """Deal the images of a file out to several files; each image goes to one of them.

    Args:
        document: as `read_whole` returned it.
        parts: name -> share of the images; shares add up to 1.
        seed: of the draw, which follows from (seed, image id) alone.

    Raises:
        ConfigError: if the shares do not add up to 1, or a part would be empty.
    """
    if not all(share > 0 for share in parts.values()) or not abs(sum(parts.values()) - 1) <= _SUM_TOLERANCE:  # or nan
        raise ConfigError(
            f"The shares {list(parts.values())} must be above 0 and add up to 1. Write train=0.8 val=0.2, say."
        )
    order = _drawn({image["id"] for image in document["images"]}, seed)
    wanted = _class_ids(document, None)
    made: dict[str, Json] = {}
    start, total = 0, 0.0
    for name, share in parts.items():
        total += share
        end = round(total * len(order))
        if end <= start:
            raise ConfigError(f"Part {name!r} would have no image of {len(order)}. Enlarge its share.")
        made[name] = _restricted(document, set(order[start:end]), wanted)
        start = end
    return made


def merge(inputs: Sequence[tuple[Path, Path]]) -> Converted:
    """Put files together. Classes with one name are one class, images at one place are one image.

    Ids are kept where those of all files differ, else numbered anew; an object that several files have is written
    once. File names start from the folder that all image folders have in common.

    Args:
        inputs: (annotation file, its image folder), at least two.

    Raises:
        DataError: if a file cannot be used, or the files disagree.
    """
    places = [(file, Path(os.path.normpath(images.absolute()))) for file, images in inputs]
    datasets = [read_coco(file, images, annotations_required=False) for file, images in places]
    if len({dataset.has_annotations for dataset in datasets}) > 1:
        lacking = next(one.annotation_file for one in datasets if not one.has_annotations)
        raise DataError(
            f"{lacking} has no annotations and another file has: its images would pass for images without objects. "
            "Annotate them, or merge files of one kind."
        )
    root = Path(os.path.commonpath([images for _, images in places]))
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
    maps: list[dict[int, int]] = []
    notes: list[str] = []
    for dataset in datasets:
        mapping: dict[int, int] = {}
        raw = {entry["id"]: entry for entry in read_document(dataset.annotation_file)["categories"]}
        for category in dataset.categories:
            used = {entry["id"] for entry in by_name.values()}
            number = category.id if category.id not in used else max(used) + 1
            entry = by_name.setdefault(category.name, {**raw[category.id], "id": number})
            mapping[category.id] = entry["id"]
            if entry["id"] != category.id:
                change = f"has id {entry['id']} now, had {category.id}"
                notes.append(f"class {category.name!r} of {dataset.annotation_file.name} {change}")
        maps.append(mapping)
    return sorted(by_name.values(), key=lambda entry: entry["id"]), maps, notes


def _merged_images(
    datasets: Sequence[CocoDataset], class_maps: Sequence[Mapping[int, int]], root: Path
) -> tuple[list[Json], list[dict[ImageId, ImageId]]]:
    by_path: dict[Path, Json] = {}
    maps: list[dict[ImageId, ImageId]] = []
    problems: list[str] = []
    owners: dict[ImageId, Path] = {}
    keep_ids = True
    for dataset, classes in zip(datasets, class_maps, strict=True):
        entries = read_document(dataset.annotation_file)["images"]
        raw = {one["id"]: {key: value for key, value in one.items() if key not in CLASS_LISTS} for one in entries}
        for record in dataset.images.values():
            keep_ids = keep_ids and owners.setdefault(record.id, record.path) == record.path
            name = record.path.relative_to(root).as_posix()
            size = {"height": record.height, "width": record.width}
            entry = by_path.setdefault(record.path, {**raw[record.id], "file_name": name, **size})
            if any(entry[key] != value for key, value in size.items()):
                problems.append(f"{record.path} has different sizes in the files. Correct the wrong one.")
            for key, ids in zip(CLASS_LISTS, dataset.checked_classes.get(record.id, ()), strict=False):
                known = {classes[number] for number in ids if number in classes}
                entry[key] = sorted(known.union(entry.get(key, ())))
    raise_all(problems, DataError, summary="The files disagree about images")
    keep_ids = keep_ids and len(owners) == len(by_path) and len({type(number) for number in owners}) == 1
    for number, entry in enumerate(by_path.values(), start=1):
        entry["id"] = entry["id"] if keep_ids else number
    for dataset in datasets:
        maps.append({record.id: by_path[record.path]["id"] for record in dataset.images.values()})
    return list(by_path.values()), maps


def _merged_annotations(
    datasets: Sequence[CocoDataset], class_maps: Sequence[Mapping[int, int]], image_maps: Sequence[Mapping[Any, Any]]
) -> tuple[list[Json], int]:
    """Return the annotations, and how many were left out because an earlier file has the very same one."""
    merged: list[Json] = []
    left_out = 0
    known: set[str] = set()
    for dataset, classes, images in zip(datasets, class_maps, image_maps, strict=True):
        found: set[str] = set()
        for number, entry in raw_annotations(dataset).items():
            ids = {"image_id": images[entry["image_id"]], "category_id": classes[entry["category_id"]]}
            object_key = _object_key({**entry, **ids})
            if object_key in known:
                left_out += 1
                continue
            found.add(object_key)
            merged.append({**entry, "id": number, **ids})
        known |= found
    if len({entry["id"] for entry in merged}) < len(merged):
        for number, entry in enumerate(merged, start=1):
            entry["id"] = number
    return merged, left_out


def _object_key(entry: Json) -> str:
    """Return what makes two annotations the same object: image, class, box and mask."""
    facts = [entry.get(key) for key in ("image_id", "category_id", "bbox", "segmentation", "iscrowd")]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _restricted(document: Json, image_ids: Collection[ImageId], category_ids: Collection[int]) -> Json:
    made = dict(document)
    made["images"] = [image for image in document["images"] if image["id"] in image_ids]
    made["categories"] = [entry for entry in document["categories"] if entry["id"] in category_ids]
    if "annotations" in document:
        made["annotations"] = [
            entry
            for entry in _annotations(document)
            if entry["image_id"] in image_ids and entry["category_id"] in category_ids
        ]
    return made


def _annotations(document: Json) -> list[Json]:
    return document.get("annotations") or []


def _class_ids(document: Json, classes: Sequence[str] | None) -> set[int]:
    by_name = {entry.get("name"): entry["id"] for entry in document["categories"]}
    missing = [name for name in classes or () if name not in by_name]
    if missing:
        raise ConfigError(
            f"--classes: the file has no class {', '.join(map(repr, missing))}. It has {', '.join(map(str, by_name))}."
        )
    return set(by_name.values()) if classes is None else {by_name[name] for name in classes}


def _listed(document: Json, names: Sequence[str]) -> set[ImageId]:
    """Return the ids of the images that a list means."""
    readings: list[Callable[[Json], str]] = [
        lambda image: str(image.get("file_name")),
        lambda image: PurePosixPath(str(image.get("file_name"))).name,
        lambda image: PurePosixPath(str(image.get("file_name"))).stem,
        lambda image: str(image["id"]),
    ]
    tables: list[dict[str, list[ImageId]]] = []
    for reading in readings:
        tables.append({})
        for image in document["images"]:
            tables[-1].setdefault(reading(image), []).append(image["id"])
    found: set[ImageId] = set()
    problems: list[str] = []
    for name in names:
        hits = next((table[name] for table in tables if name in table), [])
        if len(hits) == 1:
            found.add(hits[0])
        else:
            what = f"means {len(hits)} images" if hits else "is no image"
            problems.append(f"{name!r} of the list {what} of the file. Write its whole file name, or remove it.")
    raise_all(problems, DataError, summary="The list does not fit the file")
    return found


def _drawn(image_ids: Collection[ImageId], seed: int) -> list[ImageId]:
    """Order images as drawn: by a hash of (seed, image id), so that the order of the file does not matter."""

    def place(image_id: ImageId) -> bytes:
        return hashlib.blake2b(json.dumps([seed, image_id]).encode(), digest_size=16).digest()

    return sorted(image_ids, key=place)
