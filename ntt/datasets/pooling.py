"""Several data sets made one, so that the classes of all are searched in the images of all.

Images are not copied: the pooled folder holds one link to each data set's image folder, and file names start with the
link's name. Ids are numbered anew; where an entry comes from is kept in its `pooled_from`.
"""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ntt.base.digests import content_key, sha256_of
from ntt.base.files import write_json
from ntt.data.coco import CocoDataset, read_coco, read_document
from ntt.errors import DataError, StorageError, raise_all
from ntt.types import Category, ImageId, Json

VERSION = 1
"""Raised when the same data sets give other pooled files than before."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """One data set of a pool.

    Attributes:
        label: its name within the pool, fit for a folder's name; no two members have the same.
    """

    label: str
    references_file: Path
    reference_images: Path
    targets_file: Path
    target_images: Path


def pool(members: Sequence[Member], cache_root: Path) -> Path:
    """Write the pooled annotation files and links, or return at once when they are there already.

    Several processes may call this at once: all of them write the same bytes.

    Args:
        members: at least one.
        cache_root: folder to make the pooled folder in; its name follows from paths and bytes of the members' files.

    Returns:
        A folder with `annotations/references.json`, `annotations/targets.json`, `reference_images/` and
        `target_images/`.

    Raises:
        DataError: if a member's files cannot be used, or only some members have annotated targets.
        StorageError: if the folder cannot be written or links cannot be made.
    """
    facts = [
        [one.label, *map(str, (one.reference_images, one.target_images)), *map(_digest, _annotation_files(one))]
        for one in members
    ]
    folder = cache_root / f"pooled-{content_key({'version': VERSION, 'members': facts})[:16]}"
    targets_file = folder / "annotations" / "targets.json"
    if targets_file.is_file():
        return folder
    references = [read_coco(one.references_file, one.reference_images) for one in members]
    targets = [read_coco(one.targets_file, one.target_images, annotations_required=False) for one in members]
    _check(references, targets)
    names = _class_names(members, references, targets)
    for one in members:
        _link(one.reference_images, folder / "reference_images" / one.label)
        _link(one.target_images, folder / "target_images" / one.label)
    write_json(folder / "annotations" / "references.json", _merged(members, references, names), indent=None)
    write_json(targets_file, _merged(members, targets, names), indent=None)
    _LOG.info("Pooled %d data sets, %d classes, in %s", len(members), sum(map(len, names)), folder)
    return folder


def _annotation_files(member: Member) -> tuple[Path, Path]:
    return member.references_file, member.targets_file


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. An annotation file in COCO format is needed.") from error


def _check(references: Sequence[CocoDataset], targets: Sequence[CocoDataset]) -> None:
    """Refuse members whose own files disagree about classes, and pools that are annotated in part."""
    problems = [
        f"{known.annotation_file} has a class {category.name!r} with id {category.id}, which "
        f"{searched.annotation_file} does not have. Add it there with the same id and name."
        for known, searched in zip(references, targets, strict=True)
        for category in known.categories
        if category not in searched.categories
    ]
    bare = [searched.annotation_file for searched in targets if not searched.has_annotations]
    if bare and len(bare) < len(targets):
        problems.append(
            f"{', '.join(map(str, bare))}: no annotations, while other targets of the pool have some. Every object in "
            "their images would count as absent; annotate them, or leave the data set out of dataset.roots."
        )
    raise_all(problems, DataError, summary="These data sets cannot be pooled")


def _class_names(
    members: Sequence[Member], references: Sequence[CocoDataset], targets: Sequence[CocoDataset]
) -> list[dict[int, Category]]:
    """Give each member's classes their ids and names in the pool: member -> id in the member -> pooled class.

    Targets may have classes that no reference shows; they get an id too, although nobody searches them.
    """
    own = [
        sorted({*known.categories, *searched.categories}, key=lambda category: category.id)
        for known, searched in zip(references, targets, strict=True)
    ]
    counts = Counter(category.name for categories in own for category in categories)
    found: list[dict[int, Category]] = []
    number = 0
    for member, categories in zip(members, own, strict=True):
        classes = {}
        for category in categories:
            number += 1
            name = category.name if counts[category.name] == 1 else f"{member.label}/{category.name}"
            classes[category.id] = Category(number, name)
        found.append(classes)
    return found


def _merged(members: Sequence[Member], datasets: Sequence[CocoDataset], classes: Sequence[dict[int, Category]]) -> Json:
    images: list[Json] = []
    annotations: list[Json] = []
    for member, dataset, known in zip(members, datasets, classes, strict=True):
        image_ids: dict[ImageId, int] = {}
        for record in dataset.images.values():
            image_ids[record.id] = len(images) + 1
            images.append(
                {
                    "id": len(images) + 1,
                    "file_name": f"{member.label}/{record.file_name}",
                    "height": record.height,
                    "width": record.width,
                    "pooled_from": {"data_set": member.label, "image_id": record.id},
                }
            )
        for entry in read_document(dataset.annotation_file).get("annotations") or []:
            changed = {"image_id": image_ids[entry["image_id"]], "category_id": known[entry["category_id"]].id}
            origin = {"data_set": member.label, "annotation_id": entry.get("id")}
            annotations.append({**entry, "id": len(annotations) + 1, **changed, "pooled_from": origin})
    present = [
        known[category.id] for dataset, known in zip(datasets, classes, strict=True) for category in dataset.categories
    ]
    merged: Json = {"images": images, "categories": [{"id": one.id, "name": one.name} for one in present]}
    return {**merged, "annotations": annotations} if any(one.has_annotations for one in datasets) else merged


def _link(target: Path, link: Path) -> None:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target, target_is_directory=True)
    except FileExistsError:
        if os.readlink(link) != str(target):  # noqa: PTH115 - Path.readlink adds a prefix on Windows
            raise StorageError(f"{link} leads to {os.readlink(link)}, not to {target}. Delete it.") from None  # noqa: PTH115
    except OSError as error:
        raise StorageError(
            f"{link} cannot be made a link to {target}: {error}. Set runtime.cache_root to a folder on a file system "
            "with symbolic links."
        ) from error
