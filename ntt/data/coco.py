"""Reads COCO annotation files and checks them."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from ntt.base.files import open_regular
from ntt.data.coco_annotations import parse_annotations
from ntt.data.coco_entries import Box, CheckedClasses, Findings, parse_categories, parse_checked_classes, parse_images
from ntt.errors import DataError, raise_all
from ntt.types import Category, ImageId, ImageRecord, Instance

_LOG = logging.getLogger(__name__)
_FREQUENCIES = ("r", "c", "f")


@dataclass(frozen=True)
class CocoDataset:
    """A checked annotation file.

    Attributes:
        categories: sorted by id.
        instances: usable annotations, in file order, boxes clipped to their images.
        has_masks: whether there are non-crowd instances and all of them have a segmentation.
        has_annotations: whether the file has an `annotations` list, which may be empty.
        digest: SHA-256 of the file's bytes, hexadecimal.
        dropped: (number of instances before it in the file, annotation) of those left out because their box or mask
            is unusable; the box is as written. They are never sampled, but the published sampler counts them.
        boxes_as_written: instance id -> box before clipping, where clipping changed it; evaluation uses it.
        frequencies: category id -> "r", "c" or "f" where the file's categories say so, as those of LVIS do.
        checked_classes: image id -> the classes that were searched for, where the file lists them, as LVIS' files do.
        ignored: ids of instances marked `ignore`. LVIS' protocol ignores them; COCO's uses `iscrowd` alone.
    """

    categories: tuple[Category, ...]
    images: Mapping[ImageId, ImageRecord]
    instances: tuple[Instance, ...]
    has_masks: bool
    has_annotations: bool
    annotation_file: Path
    digest: str
    dropped: tuple[tuple[int, Instance], ...] = ()
    boxes_as_written: Mapping[int, Box] = field(default_factory=dict)
    frequencies: Mapping[int, str] = field(default_factory=dict)
    checked_classes: Mapping[ImageId, CheckedClasses] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset()

    def instances_of_image(self, image_id: ImageId) -> tuple[Instance, ...]:
        """Return the instances in one image, in file order."""
        return self._by_image.get(image_id, ())

    def instances_of_category(self, category_id: int) -> tuple[Instance, ...]:
        """Return the instances of one category, in file order."""
        return self._by_category.get(category_id, ())

    def instance(self, annotation_id: int) -> Instance | None:
        """Return the instance with this annotation id, if there is one."""
        return self._by_id.get(annotation_id)

    def in_file_order(self) -> list[Instance]:
        """Return all annotations unchanged from the file, including those that were left out."""
        instances = list(self.instances)
        for index, instance in reversed(self.dropped):
            instances.insert(index, instance)
        return instances

    @cached_property
    def _by_id(self) -> dict[int, Instance]:
        return {instance.id: instance for instance in self.instances}

    @cached_property
    def _by_image(self) -> dict[ImageId, tuple[Instance, ...]]:
        return _grouped(self.instances, "image_id")

    @cached_property
    def _by_category(self) -> dict[int, tuple[Instance, ...]]:
        return _grouped(self.instances, "category_id")


def _grouped(instances: Sequence[Instance], attribute: str) -> dict[Any, tuple[Instance, ...]]:
    key = attrgetter(attribute)
    groups: dict[Any, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(key(instance), []).append(instance)
    return {value: tuple(group) for value, group in groups.items()}


def read_coco(annotation_file: Path, image_dir: Path, *, annotations_required: bool = True) -> CocoDataset:
    """Read an annotation file in COCO format and check it.

    `info`, `licenses` and the annotations' `id`, `iscrowd` and `area` may be absent. A missing box is taken from the
    mask, a missing image size from the image file. Annotations whose box has no area or lies outside the image, or
    whose mask is empty, are left out with a warning; boxes that extend beyond the image are clipped. File names start
    from `image_dir`, whose images are opened only for missing sizes. Target images need no `annotations`.

    Raises:
        DataError: naming every problem of the file at once.
    """
    content = _read_bytes(annotation_file)
    document = _parse_json(content, annotation_file)
    findings = Findings()
    sections = _sections(document, annotations_required, findings)
    if not image_dir.is_dir():
        findings.problems.append(f"The image folder {image_dir} does not exist. Create it or name another one.")
    if findings.problems:
        _raise(findings, annotation_file)
    categories = parse_categories(sections["categories"], findings)
    images = parse_images(sections["images"], image_dir, findings)
    instances = parse_annotations(sections.get("annotations", []), images, categories, findings)
    _raise(findings, annotation_file)
    _warn(findings, annotation_file)
    return CocoDataset(
        categories=categories,
        images=images,
        instances=instances,
        has_masks=_all_have_masks(instances),
        has_annotations="annotations" in sections,
        annotation_file=annotation_file,
        digest=hashlib.sha256(content).hexdigest(),
        dropped=tuple(findings.dropped),
        boxes_as_written=findings.boxes_as_written,
        frequencies={
            entry["id"]: entry["frequency"]
            for entry in sections["categories"]
            if entry.get("frequency") in _FREQUENCIES
        },
        checked_classes=parse_checked_classes(sections["images"]),
        ignored=frozenset(findings.ignored),
    )


def count_difficult(dataset: CocoDataset, difficult: Literal["crowd", "ordinary"]) -> CocoDataset:
    """Return a data set whose difficult objects (Pascal VOC) are crowd regions, or objects like any other."""
    instances = tuple(
        replace(instance, iscrowd=difficult == "crowd") if instance.isdifficult else instance
        for instance in dataset.instances
    )
    return replace(dataset, instances=instances, has_masks=_all_have_masks(instances))


def _all_have_masks(instances: Iterable[Instance]) -> bool:
    objects = [instance for instance in instances if not instance.iscrowd]
    return bool(objects) and all(instance.segmentation is not None for instance in objects)


def read_document(annotation_file: Path) -> dict[str, Any]:
    """Read an annotation file unchanged, a JSON object; its entries are not checked."""
    return _parse_json(_read_bytes(annotation_file), annotation_file)


def raw_annotations(dataset: CocoDataset) -> dict[int, dict[str, Any]]:
    """Read the file of a data set again and return its annotations unchanged, by the ids of the instances."""
    entries = read_document(dataset.annotation_file).get("annotations") or []
    return {instance.id: entry for entry, instance in zip(entries, dataset.in_file_order(), strict=True)}


def _read_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            return stream.read()
    except OSError as error:
        if path.exists():
            raise DataError(f"{path} cannot be read: {error}. An annotation file in COCO format is needed.") from error
        siblings = sorted(sibling.name for sibling in path.parent.glob("*.json"))
        hint = f" The folder holds {', '.join(siblings[:10])}." if siblings else ""
        raise DataError(f"There is no annotation file {path}.{hint} Correct the path or put the file there.") from error


def _parse_json(content: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise DataError(
            f"{path} is not valid JSON: {error.msg} at {position}. Export the annotations again."
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested too deep
        raise DataError(f"{path} is not valid JSON: {error}. Export the annotations again.") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} holds a JSON {type(document).__name__}, not an object with `images` and `categories`.")
    return document


def _sections(document: dict[str, Any], annotations_required: bool, findings: Findings) -> dict[str, list[Any]]:
    sections: dict[str, list[Any]] = {}
    for key in ("images", "categories", "annotations"):
        value = document.get(key)
        if isinstance(value, list):
            sections[key] = value
        elif value is not None:
            findings.problems.append(f"`{key}` is of type {type(value).__name__}, a list is needed. Correct it.")
        elif key != "annotations" or annotations_required:
            findings.problems.append(f"`{key}` is missing: COCO format has a list of that name. Add it.")
    return sections


def _raise(findings: Findings, path: Path) -> None:
    if len(findings.problems) == 1:
        raise DataError(f"{path}: {findings.problems[0]}")
    raise_all(findings.problems, DataError, summary=f"{path} cannot be used")


def _warn(findings: Findings, path: Path) -> None:
    for sentence in findings.warnings:
        _LOG.warning("%s: %s", path, sentence)
    for what, ids in findings.notes.items():
        first_ids = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
        _LOG.warning("%s: %d annotation(s) %s (id %s)", path, len(ids), what, first_ids)
