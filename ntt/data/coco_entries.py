"""Turns the categories and images of a COCO annotation file into checked values.

Nothing here stops at the first error: problems are collected in `Findings`, and the caller raises them together.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ntt.data.images import MAX_PIXELS, missing_problems, upright_size
from ntt.errors import DataError, listed, printable
from ntt.types import Category, ImageId, ImageRecord, Instance

Box = tuple[float, float, float, float]

_LARGEST_NUMBER = 1e9
_LONGEST_NAME, _LONGEST_PATH = 255, 3072
"""Bytes a file system allows a name, and bytes of a path below the image folder: it allows 4,096 in all."""


@dataclass
class Findings:
    """Problems of a file, and remarks about it. `dropped` and what follows ends up in `ntt.data.coco.CocoDataset`.

    Attributes:
        problems, warnings: what makes the file unusable, and what is strange and accepted, one sentence each.
        notes: what was corrected or left out -> ids of the annotations concerned.
        broken_images, broken_categories: ids, None for an unusable one, of those that are reported already; what refers
            to them is not reported again.
        boxes: of every annotation its id, its box as written, the box around its mask if it has one, and its image.
    """

    problems: list[str] = field(default_factory=list)
    notes: dict[str, list[int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    broken_images: set[ImageId | None] = field(default_factory=set)
    broken_categories: set[int | None] = field(default_factory=set)
    boxes: list[tuple[int, Box, Box | None, ImageRecord]] = field(default_factory=list)
    dropped: list[tuple[int, Instance]] = field(default_factory=list)
    boxes_as_written: dict[int, Box] = field(default_factory=dict)
    ignored: set[int] = field(default_factory=set)

    def note(self, what: str, annotation_id: int) -> None:
        """Record an annotation that was corrected or left out."""
        self.notes.setdefault(what, []).append(annotation_id)


CLASS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""Lists of category ids that LVIS' files add to each of `images`."""


class CheckedClasses(NamedTuple):
    """LVIS' statements on the classes of one image, as category ids.

    Attributes:
        absent: `neg_category_ids`, classes that were searched for and are absent.
        not_exhaustive: `not_exhaustive_category_ids`, classes of which there are more objects than annotations.
    """

    absent: tuple[int, ...]
    not_exhaustive: tuple[int, ...]


def parse_checked_classes(entries: Sequence[Any]) -> dict[ImageId, CheckedClasses]:
    """Read what LVIS' files add to `images`; an image without both lists of whole numbers has no entry."""
    checked: dict[ImageId, CheckedClasses] = {}
    for entry in entries:
        lists = [entry.get(key) for key in CLASS_LISTS]
        if all(isinstance(ids, list) and all(type(number) is int for number in ids) for ids in lists):
            checked[entry["id"]] = CheckedClasses(*map(tuple, lists))
    return checked


def parse_categories(entries: Sequence[Any], findings: Findings) -> tuple[Category, ...]:
    """Read the file's `categories`, sorted by id."""
    categories: dict[int, Category] = {}
    names, folded = set[str](), set[str]()
    for index, entry in enumerate(entries):
        number, name = value_of(entry, "id"), value_of(entry, "name")
        if type(number) is not int or not isinstance(name, str) or not name.strip():
            rule = "an `id`, a whole number or text, and a `name` are needed"
            findings.problems.append(f"categories[{index}] is {shortened(entry)}: {rule}.")
            findings.broken_categories.add(number if type(number) is int else None)
            continue
        if number in categories:
            findings.problems.append(f"Category id {number} occurs more than once. Give every category its own id.")
        clean_name = printable(re.sub("[\n\t]", "\ufffd", name))
        if clean_name in names:
            findings.problems.append(f"Category name {name!r} occurs more than once. Rename or merge the categories.")
        elif clean_name.casefold() in folded:
            findings.warnings.append(f"Class name {name!r} differs from another in case only. They are two classes.")
        if clean_name != name:
            findings.warnings.append(f"Class name {name!r} holds control characters. It is shown as {clean_name!r}.")
        categories.setdefault(number, Category(number, clean_name))
        names.add(clean_name)
        folded.add(clean_name.casefold())
    if not entries:
        findings.problems.append("`categories` is empty: at least one class is needed. Add the classes.")
    return tuple(categories[number] for number in sorted(categories))


def root_class(entries: Sequence[Any], instances: Sequence[Instance]) -> int | None:
    """Return the id of Roboflow's class 0, which names the project: the only one above which there is "none"."""
    roots = [entry["id"] for entry in entries if entry.get("supercategory") == "none"]
    is_root = roots == [0] and len(entries) > 1 and all(instance.category_id != 0 for instance in instances)
    return 0 if is_root else None


def parse_images(entries: Sequence[Any], image_dir: Path, findings: Findings) -> dict[ImageId, ImageRecord]:
    """Read the file's `images`, in file order."""
    records: dict[ImageId, ImageRecord] = {}
    for index, entry in enumerate(entries):
        image_id = value_of(entry, "id")
        try:
            record = _parse_image(entry, index, image_dir.absolute())
        except ValueError as error:
            findings.problems.append(str(error))
            findings.broken_images.add(image_id if is_image_id(image_id) else None)
            continue
        if record.id in records:
            findings.problems.append(f"Image id {record.id!r} occurs more than once. Give every image its own id.")
        records.setdefault(record.id, record)
    if missing := [record for record in records.values() if not record.height]:
        findings.problems += missing_problems(missing, len(entries))
        findings.broken_images |= {record.id for record in missing}
        records = {image_id: record for image_id, record in records.items() if record.height}
    if not entries:
        findings.problems.append("`images` is empty: at least one image is needed. Add the images.")
    _warn_of_repeated_files(records.values(), findings)
    return records


def _warn_of_repeated_files(records: Iterable[ImageRecord], findings: Findings) -> None:
    by_name: defaultdict[str, list[ImageId]] = defaultdict(list)
    for record in records:
        by_name[record.file_name].append(record.id)
    repeated = [f"{name} by ids {' and '.join(map(repr, ids))}" for name, ids in by_name.items() if len(ids) > 1]
    if repeated:
        findings.warnings.append(
            f"{len(repeated)} file(s) are named by several entries of `images` ({listed(repeated, 5)}), each of which "
            "counts as its own image. Join the entries if they are one image."
        )


def _parse_image(entry: Any, index: int, image_dir: Path) -> ImageRecord:
    """Read one of `images`; raise a ValueError that describes what is wrong with it.

    The height is 0 where neither the file states it nor the image exists.
    """
    image_id = value_of(entry, "id")
    if not is_image_id(image_id):
        raise ValueError(f"images[{index}] is {shortened(entry)}: an `id` that is a whole number or text is needed.")
    path = image_dir / _checked_name(entry, image_dir)
    height, width = whole(entry.get("height")), whole(entry.get("width"))
    if entry.get("height") is None or entry.get("width") is None:
        if not path.exists():
            return ImageRecord(image_id, path.relative_to(image_dir).as_posix(), path, 0, 0)
        try:
            height, width = upright_size(path)
        except DataError as error:
            raise ValueError(f"Image {image_id!r} gives no size, and it cannot be read: {error}") from error
    if height is None or width is None or height < 1 or width < 1:
        size = f"height {shortened(entry['height'])} and width {shortened(entry['width'])}"
        raise ValueError(f"Image {image_id!r} has {size}: both must be whole numbers of at least 1, or be left out.")
    if height * width > MAX_PIXELS:
        size = f"{shortened(width)} x {shortened(height)} pixels, of which up to {MAX_PIXELS} are read"
        raise ValueError(f"Image {image_id!r} has {size}. Scale it down, or correct its size.")
    return ImageRecord(image_id, path.relative_to(image_dir).as_posix(), path, height, width)


def _checked_name(entry: dict[str, Any], image_dir: Path) -> str:
    """Return an image's path below the image folder.

    Only the name counts: links inside the folder may lead anywhere, because data sets are often folders of links.
    LVIS names its images by `coco_url` alone, whose last two parts are folder and file. In exports of Label Studio, the
    path of an image on its server's disk follows `/data/local-files/?d=`.
    """
    name = entry.get("file_name")
    if name is None and isinstance(entry.get("coco_url"), str):
        name = "/".join(entry["coco_url"].split("/")[-2:])
    start = f"Image {shortened(entry['id'])}: `file_name` is {shortened(name)}"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{start}, a file name is needed. Give the image's path inside the image folder.")
    name = name.rpartition("/data/local-files/?d=")[2]
    normal = os.path.normpath(name)
    if normal in (".", "..") or normal.startswith(("/", "../")) or "\0" in name:
        raise ValueError(f"{start}, which is not inside the image folder {image_dir}. Correct one of them.")
    try:
        encoded = os.fsencode(normal)
    except UnicodeEncodeError as error:
        raise ValueError(f"{start}: no file has such a name ({error.reason}). Export the annotations again.") from error
    for length, limit in ((max(map(len, encoded.split(b"/"))), _LONGEST_NAME), (len(encoded), _LONGEST_PATH)):
        if length > limit:
            raise ValueError(f"{start}, {length} bytes of at most {limit}. Rename the file, here and on disk.")
    return normal


def value_of(entry: Any, key: str) -> Any:
    """Return the value of a key; None where there is none, or no object to have one."""
    return entry.get(key) if isinstance(entry, dict) else None


def is_image_id(value: Any) -> TypeGuard[ImageId]:
    """Return whether a value may serve as an image id: a whole number, or text that can be written."""
    return type(value) is int or (isinstance(value, str) and printable(value) == value)


def whole(value: Any) -> int | None:
    """Return a number that is whole, however it is written, as an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def all_numbers(values: list[Any]) -> bool:
    """Return whether all values are finite numbers of a sensible size. Large files call this a million times."""
    if not values or not set(map(type, values)) <= {int, float}:
        return not values
    # NaN passes for neither of the two where it comes first, and makes the sum NaN elsewhere.
    return bool(min(values) > -_LARGEST_NUMBER and max(values) < _LARGEST_NUMBER and not math.isnan(sum(values)))


def shortened(value: Any) -> str:
    """Show a value in a message without flooding it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
