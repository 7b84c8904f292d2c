"""Annotation files as JSON (COCO, LabelMe): duplicate keys, and ids in a form in which they can be compared."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ntt.base.files import open_regular
from ntt.errors import DataError

_MAX_DIGITS = 40
_KEYS = frozenset(
    (
        *("images", "annotations", "categories", "id", "image_id", "category_id", "name", "supercategory", "frequency"),
        *("file_name", "coco_url", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"),
        *("bbox", "segmentation", "size", "counts", "area", "iscrowd", "ignore", "isimpossible", "difficult"),
        "shot_index",
        *("shapes", "label", "points", "shape_type", "group_id", "mask", "imagePath", "imageHeight", "imageWidth"),
    )
)
"""Keys that are read; others may be repeated in an object."""


def read_document(annotation_file: Path) -> dict[str, Any]:
    """Read an annotation file, a JSON object. Its entries are not checked; their ids are made comparable.

    A DataError if it cannot be read, is not a JSON object, is of another format, or gives a key two values.
    """
    return parse_coco(read_bytes(annotation_file), annotation_file)


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """Read a file of annotations; a DataError names what else its folder holds, or says that it is too large."""
    try:
        with open_regular(path) as stream:
            content = stream.read() if max_bytes is None else stream.read(max_bytes + 1)
        if max_bytes is not None and len(content) > max_bytes:
            raise DataError(f"{path} has more than {max_bytes} bytes. An annotation file of one image is smaller.")
        return content
    except OSError as error:
        if path.exists():
            raise DataError(f"{path} cannot be read: {error}. An annotation file is needed.") from error
        siblings = sorted(sibling.name for sibling in path.parent.glob("*.json"))
        hint = f" The folder holds {', '.join(siblings[:10])}." if siblings else ""
        raise DataError(f"There is no annotation file {path}.{hint} Correct the path or put the file there.") from error


def parse_coco(content: bytes, path: Path) -> dict[str, Any]:
    """Parse the bytes of a file in COCO format; see `read_document`."""
    document = parse_document(content, path)
    if not {"images", "categories", "annotations"} & set(document):
        raise DataError(
            f"{path} is not in COCO format, with `images`, `categories` and `annotations`. Export it as COCO; "
            "`ntt data convert` reads LabelMe, YOLO and Pascal VOC."
        )
    return document


def parse_document(content: bytes, path: Path) -> dict[str, Any]:
    """Parse the bytes of an annotation file in any format of JSON; see `read_document`."""
    repeated: set[str] = set()

    def parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            repeated.update(key for key, value in pairs if key in _KEYS and value != entry[key])
        return entry

    try:
        document = json.loads(content, object_pairs_hook=parse_object)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise DataError(
            f"{path} is not valid JSON: {error.msg} at {position}. Export the annotations again."
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested too deep
        cause = str(error).partition(";")[0]  # without what Python advises its programmers
        raise DataError(f"{path} is not valid JSON: {cause}. Export the annotations again.") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} holds a JSON {type(document).__name__}, not an object. Export it again.")
    if repeated:
        listed = ", ".join(f"`{key}`" for key in sorted(repeated))
        raise DataError(f"{path} has objects with the same key twice and different values: {listed}. Keep one of them.")
    _make_ids_comparable(document)
    return document


def _make_ids_comparable(document: dict[str, Any]) -> None:
    """Let 7, 7.0 and "7" name the same class, image or annotation.

    Ids of classes and annotations become numbers if they can. Ids of images stay text if `images` has text, and
    `image_id` follows them.
    """
    images, categories, annotations = (
        [entry for entry in section if isinstance(entry, dict)] if isinstance(section, list) else []
        for section in (document.get(key) for key in ("images", "categories", "annotations"))
    )
    for entry in images:
        if type(entry.get("id")) is float:
            entry["id"] = whole_number(entry["id"])
    for entry in categories:
        if type(entry.get("id")) is not int:
            entry["id"] = _class_number(entry.get("id"))
    class_ids = {entry["id"] for entry in categories if type(entry["id"]) is int}
    image_ids = {entry["id"] for entry in images if isinstance(entry.get("id"), int | str)}
    for entry in annotations:
        if type(entry.get("id")) is not int and "id" in entry:
            entry["id"] = whole_number(entry["id"])
        category_id = entry.get("category_id")
        if isinstance(category_id, float | str) and _class_number(category_id) in class_ids:
            entry["category_id"] = _class_number(category_id)
        image_id = entry.get("image_id")
        if type(image_id) is float or (isinstance(image_id, int | str) and image_id not in image_ids):
            number = whole_number(image_id)
            entry["image_id"] = next((form for form in (number, str(number)) if form in image_ids), image_id)


def whole_number(value: Any) -> Any:
    """Return a whole number however it is written (7, 7.0 or "7") as an int, anything else unchanged."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and len(value) < _MAX_DIGITS and value.removeprefix("-").isdecimal():
        return int(value) if str(int(value)) == value else value
    return value


def _class_number(value: Any) -> Any:
    """Return the number of a class; other text gets one that is the same in every file."""
    number = whole_number(value)
    if not isinstance(number, str) or not number.strip():
        return number
    return int.from_bytes(hashlib.blake2b(number.encode("utf-8", "surrogatepass"), digest_size=6).digest(), "big")
