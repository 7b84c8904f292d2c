"""LVIS files to plain COCO: file names, and masks that a derived file has lost.

LVIS gives images no `file_name`; the last two parts of `coco_url` are folder and file, such as
train2017/000000391895.jpg: the image folder is the one that holds train2017 and val2017. Some derived files (minival
among them) carry boxes only; their masks are taken from the file they were cut from, by annotation id.
"""

from pathlib import Path
from typing import Any

from ntt.convert.base import Converted
from ntt.data.coco import read_document
from ntt.data.coco_entries import all_numbers, is_image_id
from ntt.errors import DataError, raise_all
from ntt.types import Json

_BOX_TOLERANCE_PX = 1.0


def convert_lvis(*, annotations: Path, images: Path, masks_from: Path | None = None) -> Converted:
    """Read an LVIS file.

    Args:
        annotations: the LVIS file.
        images: the folder that holds train2017 and val2017.
        masks_from: a file with masks of the same annotations; None: nothing is added.

    Raises:
        DataError: if a name cannot be found out, or the two files disagree about an object.
    """
    document = read_document(annotations)
    notes = [_name_images(document, annotations)]
    if masks_from is not None:
        notes.append(_add_masks(document, read_document(masks_from), masks_from))
    boxes_only = sum(not entry.get("segmentation") for entry in _entries(document, "annotations"))
    notes.append(f"{boxes_only} annotation(s) have no mask, only a box" if boxes_only else "")
    return Converted(document, images.absolute(), tuple(note for note in notes if note))


def _name_images(document: Json, path: Path) -> str:
    """Give each image a `file_name`."""
    problems: list[str] = []
    named = 0
    for image in _entries(document, "images"):
        if isinstance(image.get("file_name"), str) and image["file_name"]:
            continue
        parts = str(image.get("coco_url") or "").split("/")[-2:]
        if len(parts) < 2 or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
            problems.append(
                f"{path}: image {image.get('id')!r} has the coco_url {image.get('coco_url')!r}, which does not end "
                "in a folder and a file name. Add its `file_name`."
            )
            continue
        image["file_name"] = "/".join(parts)
        named += 1
    raise_all(problems, DataError, summary=f"Images of {path} have no name")
    return f"{named} image(s) named after their coco_url" if named else ""


def _add_masks(document: Json, source: Json, source_path: Path) -> str:
    """Copy missing masks from `source` by annotation id."""
    known = {entry.get("id"): entry for entry in _entries(source, "annotations") if is_image_id(entry.get("id"))}
    problems: list[str] = []
    added = 0
    for entry in _entries(document, "annotations"):
        if entry.get("segmentation"):
            continue
        other = known.get(entry["id"]) if is_image_id(entry.get("id")) else None
        if other is None or not other.get("segmentation"):
            continue
        if not _same_object(entry, other):
            problems.append(
                f"Annotation {entry.get('id')!r} is another object in {source_path}: image, class or box differ. Name "
                "the file this one was cut from."
            )
            continue
        entry["segmentation"] = other["segmentation"]
        added += 1
    raise_all(problems, DataError, summary="The two files do not belong together")
    return f"{added} mask(s) added from {source_path.name}"


def _same_object(entry: Json, other: Json) -> bool:
    if any(entry.get(key) != other.get(key) for key in ("image_id", "category_id")):
        return False
    ours, theirs = entry.get("bbox"), other.get("bbox")
    if not all(isinstance(box, list) and len(box) == 4 and all_numbers(box) for box in (ours, theirs)):
        return False
    return all(abs(a - b) <= _BOX_TOLERANCE_PX for a, b in zip(ours or (), theirs or (), strict=True))


def _entries(document: Json, key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
