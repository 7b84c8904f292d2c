"""Compares a published data set on disk with what it must contain. Nothing stops at the first mistake."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ntt.data.coco import CocoDataset, read_coco
from ntt.data.images import check_images
from ntt.datasets.base import DatasetFiles
from ntt.datasets.published.details import Counts, DatasetFacts
from ntt.datasets.published.leakage import identical_images, leakage_sentence
from ntt.errors import DataError
from ntt.types import ImageRecord

_NAMED = 8


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        lines: what is there, for people.
        problems: what is missing or different, one sentence each; empty: all is right.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_published(
    facts: DatasetFacts, files: Mapping[int | None, DatasetFiles], *, decode: bool = False, leakage: bool = True
) -> CheckReport:
    """Check annotation files, classes, counts and images, and look for targets among the references.

    Args:
        facts: what the data set must contain.
        files: where it lies, by number of shots; None as the only key where references are drawn from one file.
        decode: decode every image completely.
        leakage: look for identical images in references and targets.
    """
    report = CheckReport()
    first = next(iter(files.values()))
    targets = _check_file(report, first.targets_file, first.target_images, facts, facts.targets)
    references = {
        shots: _check_file(report, place.references_file, place.reference_images, facts, facts.of_shots(shots))
        for shots, place in files.items()
    }
    for shots, found in references.items():
        if found is not None and shots is not None:
            _check_shots(report, found, shots)
    drawn = {record.path: record for found in references.values() if found for record in found.images.values()}
    for kind, records in (
        ("target", list(targets.images.values()) if targets else []),
        ("reference", list(drawn.values())),
    ):
        _check_images(report, kind, records, decode=decode)
    if leakage and targets is not None:
        pairs = identical_images(list(drawn.values()), list(targets.images.values()))
        if pairs:
            report.problems.append(leakage_sentence(pairs, len(targets.images)))
    return report


def _check_file(
    report: CheckReport, file: Path, image_folder: Path, facts: DatasetFacts, expected: Counts
) -> CocoDataset | None:
    """Read one annotation file and compare it; None where it cannot be read."""
    missing = [f"There is no {kind} {path}." for kind, path, there in _places(file, image_folder) if not there]
    if missing:
        report.problems += [sentence for sentence in missing if sentence not in report.problems]
        if not file.is_file():
            report.lines.append(f"missing  {file}")
        return None
    try:
        found = read_coco(file, image_folder)
    except DataError as error:
        report.lines.append(f"unusable {file}")
        report.problems.append(str(error))
        return None
    total = _total(found)
    report.lines.append(f"present  {file}: {len(found.images)} images, {total} annotations, {describe_masks(found)}")
    _compare(report, file, "images", len(found.images), expected.images)
    _compare(report, file, "annotations", total, expected.annotations)
    crowd = sum(instance.iscrowd for instance in found.instances)
    _compare(report, file, "crowd regions or difficult objects", crowd, expected.crowd)
    _compare_classes(report, found, facts)
    _compare_per_class(report, found, expected)
    return found


def _places(file: Path, image_folder: Path) -> tuple[tuple[str, Path, bool], ...]:
    return ("annotation file", file, file.is_file()), ("image folder", image_folder, image_folder.is_dir())


def describe_masks(dataset: CocoDataset) -> str:
    """Say in a few words whether the objects of a file have masks."""
    objects = [one for one in dataset.instances if not one.iscrowd]
    if not objects:
        return "no annotations: predictions and pictures, no metrics"
    with_mask = sum(one.segmentation is not None for one in objects)
    if with_mask == len(objects):
        return "masks"
    if with_mask == 0:
        return "boxes only"
    return f"{with_mask} of {len(objects)} objects with a mask, the others boxes only"


def _total(dataset: CocoDataset) -> int:
    return len(dataset.instances) + len(dataset.dropped)


def _compare(report: CheckReport, file: Path, what: str, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        report.problems.append(f"{file} has {found} {what}, the published file has {expected}.")


def _compare_classes(report: CheckReport, found: CocoDataset, facts: DatasetFacts) -> None:
    names = {category.name for category in found.categories}
    if facts.class_names:
        lacking, surplus = set(facts.class_names) - names, names - set(facts.class_names)
        if lacking:
            report.problems.append(f"{found.annotation_file} lacks the class(es) {_listed(lacking)}.")
        if surplus:
            report.problems.append(
                f"{found.annotation_file} has the class(es) {_listed(surplus)}, which are not known."
            )
    elif len(names) != facts.num_classes:
        report.problems.append(
            f"{found.annotation_file} has {len(names)} classes, the published file has {facts.num_classes}."
        )


def _compare_per_class(report: CheckReport, found: CocoDataset, expected: Counts) -> None:
    names = {category.id: category.name for category in found.categories}
    counts = Counter(names[one.category_id] for one in found.instances)
    counts.update(names[one.category_id] for _, one in found.dropped)
    wrong = [
        f"{name} {counts[name]} ({number})" for name, number in expected.per_class.items() if counts[name] != number
    ]
    if wrong:
        report.problems.append(
            f"{found.annotation_file}: annotations of a class, published in brackets: {', '.join(wrong)}."
        )


def _check_shots(report: CheckReport, found: CocoDataset, shots: int) -> None:
    """Look for classes with other than k references: none at all is a mistake, another number is worth a word."""
    counts = Counter(one.category_id for one in found.instances if not one.iscrowd)
    other = {category.name: counts[category.id] for category in found.categories if counts[category.id] != shots}
    none = [name for name, count in other.items() if count == 0]
    if none:
        report.problems.append(f"{found.annotation_file} has no example of {_listed(none)}.")
    elif other:
        shown = _listed([f"{name} {count}" for name, count in other.items()])
        report.lines.append(f"         classes with other than {shots} examples: {shown}")


def _check_images(report: CheckReport, kind: str, records: Sequence[ImageRecord], *, decode: bool) -> None:
    there = [record for record in records if record.path.is_file()]
    if not records:
        return
    report.lines.append(f"present  {len(there)} of {len(records)} {kind} images")
    if len(there) < len(records):
        missing = next(record for record in records if not record.path.is_file())
        report.problems.append(
            f"{len(records) - len(there)} of {len(records)} {kind} images are missing, the first is {missing.path}."
        )
    try:
        check_images(there, full=decode)
    except DataError as error:
        report.problems.append(str(error))


def _listed(names: Sequence[str] | set[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return ", ".join(ordered[:_NAMED]) + more
