"""Reads COCO annotation files and checks them."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from ntt.base.garbage import no_collection
from ntt.data.box_agreement import check_boxes
from ntt.data.coco_annotations import parse_annotations
from ntt.data.coco_entries import (
    Box,
    CheckedClasses,
    Findings,
    parse_categories,
    parse_checked_classes,
    parse_images,
    root_class,
)
from ntt.data.documents import parse_coco, read_bytes, read_document
from ntt.data.images import depth_sample
from ntt.errors import DataError, listed, printable, raise_all
from ntt.types import Category, ImageId, ImageRecord, Instance

_LOG = logging.getLogger(__name__)
FREQUENCIES = ("r", "c", "f")
"""LVIS' rare, common and frequent classes."""
_MANY_CROWDS = 0.1
"""Share of crowd regions from which they are questioned; COCO has one per cent."""

Crowd = Literal["regions", "objects"]
"""How annotations with `iscrowd` = 1 are read: as crowd regions, or as objects like any other."""


@dataclass(frozen=True)
class CocoDataset:
    """A checked annotation file.

    Attributes:
        categories: sorted by id.
        instances: usable annotations, in file order, boxes clipped to their images.
        has_annotations: whether the file has an `annotations` list, which may be empty.
        digest: SHA-256 of the file's bytes, hexadecimal; "-without-crowds" follows where `iscrowd` was not read.
        dropped: (number of instances before it in the file, annotation) of those left out because their box or mask
            is unusable; the box is as written. They are never sampled, but the published sampler counts them.
        boxes_as_written: instance id -> box before clipping, where clipping changed it; evaluation uses it.
        frequencies: category id -> "r", "c" or "f" where the file's categories say so, as those of LVIS do.
        checked_classes: image id -> the classes that were searched for, where the file lists them, as LVIS' files do.
        root_class: id of a class that stands for all others and has no annotation, as Roboflow writes one.
        ignored: ids of instances marked `ignore`. LVIS' protocol ignores them; COCO's uses `iscrowd` alone.
    """

    categories: tuple[Category, ...]
    images: Mapping[ImageId, ImageRecord]
    instances: tuple[Instance, ...]
    has_annotations: bool
    annotation_file: Path
    digest: str
    dropped: tuple[tuple[int, Instance], ...] = ()
    boxes_as_written: Mapping[int, Box] = field(default_factory=dict)
    frequencies: Mapping[int, str] = field(default_factory=dict)
    checked_classes: Mapping[ImageId, CheckedClasses] = field(default_factory=dict)
    root_class: int | None = None
    ignored: frozenset[int] = frozenset()

    @property
    def file_sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        return self.digest[:64]

    @cached_property
    def has_masks(self) -> bool:
        """Whether there are non-crowd instances and all of them have a segmentation."""
        segmentations = [instance.segmentation for instance in self.instances if not instance.iscrowd]
        return bool(segmentations) and None not in segmentations

    def searched_by_default(self) -> tuple[Category, ...]:
        """Return the categories without `root_class`, of which a note is logged."""
        root = next((category for category in self.categories if category.id == self.root_class), None)
        if root is not None:
            _LOG.warning("Class %r is left out: it has no annotation and names the others' super-category.", root.name)
        return tuple(category for category in self.categories if category != root)

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
    def depth_sample(self) -> Sequence[Path]:
        """Some of the images that may have more than 8 bits; see `ntt.data.images.white_level`."""
        return depth_sample(self.images.values())

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


@no_collection()
def read_coco(
    annotation_file: Path, image_dir: Path, *, annotations_required: bool = True, crowd: Crowd = "regions"
) -> CocoDataset:
    """Read an annotation file in COCO format and check it.

    `info`, `licenses` and the annotations' `id`, `iscrowd` and `area` may be absent. A missing box is taken from the
    mask, a missing image size from the image file. Annotations whose box has no area or lies outside the image, or
    whose mask is empty, are left out with a warning; boxes that extend beyond the image are clipped. File names start
    from `image_dir`, whose images are opened only for missing sizes. Target images need no `annotations`. A DataError
    names every problem of the file, among them boxes that contradict the masks as a rule.
    """
    content = read_bytes(annotation_file)
    document = parse_coco(content, annotation_file)
    findings = Findings()
    sections = _sections(document, annotations_required, findings)
    if not image_dir.is_dir():
        findings.problems.append(f"The image folder {image_dir} does not exist. Create it or name another one.")
    _raise(findings, annotation_file)
    categories = parse_categories(sections["categories"], findings)
    images = parse_images(sections["images"], image_dir, findings)
    entries = sections.get("annotations", [])
    instances = parse_annotations(entries, images, categories, findings, reads_crowds=crowd == "regions")
    check_boxes(findings)
    _raise(findings, annotation_file)
    _warn(findings, annotation_file)
    _warn_of_crowds(instances, annotation_file)
    _warn_of_partial_masks(instances, annotation_file)
    return CocoDataset(
        categories=categories,
        images=images,
        instances=instances,
        has_annotations="annotations" in sections,
        annotation_file=annotation_file,
        digest=hashlib.sha256(content).hexdigest() + ("" if crowd == "regions" else "-without-crowds"),
        dropped=tuple(findings.dropped),
        boxes_as_written=findings.boxes_as_written,
        frequencies={
            entry["id"]: entry["frequency"] for entry in sections["categories"] if entry.get("frequency") in FREQUENCIES
        },
        checked_classes=parse_checked_classes(sections["images"]),
        root_class=root_class(sections["categories"], instances),
        ignored=frozenset(findings.ignored),
    )


def count_difficult(dataset: CocoDataset, difficult: Literal["crowd", "ordinary"]) -> CocoDataset:
    """Return a data set whose difficult objects (Pascal VOC) are crowd regions, or objects like any other."""
    instances = tuple(
        replace(instance, iscrowd=difficult == "crowd") if instance.isdifficult else instance
        for instance in dataset.instances
    )
    return replace(dataset, instances=instances)


def raw_annotations(dataset: CocoDataset) -> dict[int, dict[str, Any]]:
    """Read the file of a data set again and return its annotations unchanged, by the ids of the instances."""
    entries = read_document(dataset.annotation_file).get("annotations") or []
    return {instance.id: entry for entry, instance in zip(entries, dataset.in_file_order(), strict=True)}


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
    raise_all(findings.problems, DataError, summary=f"{path} cannot be used", where=f"{path}: ")


def _warn(findings: Findings, path: Path) -> None:
    for sentence in findings.warnings:
        _LOG.warning("%s: %s", path, printable(sentence))
    for what, ids in findings.notes.items():
        _LOG.warning("%s: %d annotation(s) %s (id %s)", path, len(ids), what, listed(ids, 5))


def _warn_of_crowds(instances: Sequence[Instance], path: Path) -> None:
    """Log how many annotations are crowd regions; ask whether they are where they are many."""
    count = sum(instance.iscrowd and not instance.isdifficult for instance in instances)
    if not count:
        return
    sentence = f"{count} of {len(instances)} annotations are crowd regions (iscrowd=1): neither references nor wanted."
    if count < _MANY_CROWDS * len(instances):
        _LOG.info("%s: %s", path, sentence)
    else:
        remedy = "If each is a single object, as the painted masks of CVAT are, set dataset.crowd=objects."
        _LOG.warning("%s: %s %s", path, sentence, remedy)


def _warn_of_partial_masks(instances: Sequence[Instance], path: Path) -> None:
    has_mask = [instance.segmentation is not None for instance in instances if not instance.iscrowd]
    if any(has_mask) and not all(has_mask):
        few = f"{has_mask.count(False)} of {len(has_mask)} objects"
        _LOG.warning("%s: without a mask, only with a box: %s. Masks of targets are not evaluated then.", path, few)
