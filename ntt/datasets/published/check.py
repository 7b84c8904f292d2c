"""Compares a published data set on disk with what it must contain."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ntt.data.coco import CocoDataset, read_coco
from ntt.data.comparison import same_images_sentence
from ntt.data.images import check_images
from ntt.datasets.base import DatasetFiles
from ntt.datasets.published import cdfsod
from ntt.datasets.published.details import Counts, DatasetDetails, KshotList
from ntt.errors import DataError, counted, listed
from ntt.types import ImageRecord


@dataclass
class CheckReport:
    """The outcome of a check: what is present, and what is missing or different, in one sentence each."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_published(
    details: DatasetDetails, files: Mapping[int | None, DatasetFiles], *, decode: bool = False
) -> CheckReport:
    """Check annotation files, classes, counts and images, and look for targets among the references.

    `files` says where it is stored, by number of shots; None is the only key if references are drawn from one file.
    """
    report = CheckReport()
    first = next(iter(files.values()))
    targets = _check_file(report, first.targets_file, first.target_images, details, details.targets)
    reference_images: dict[Path, ImageRecord] = {}
    for shots, locations in files.items():
        expected = details.of_shots(shots)
        references = _check_file(report, locations.references_file, locations.reference_images, details, expected)
        if references is not None:
            reference_images |= {record.path: record for record in references.images.values()}
            if shots is not None:
                _check_shots(report, references, shots)
                if shots in details.lists:
                    _check_list(report, references, details.lists[shots], shots)
    target_images = list(targets.images.values()) if targets else []
    _check_images(report, "target", target_images, decode=decode)
    _check_images(report, "reference", list(reference_images.values()), decode=decode)
    leakage = same_images_sentence(list(reference_images.values()), target_images)
    report.problems += [] if leakage is None else [leakage]
    return report


def describe_masks(dataset: CocoDataset) -> str:
    """Return in a few words whether the objects of a file have masks, and the number of crowd regions."""
    objects = [instance for instance in dataset.instances if not instance.iscrowd]
    crowds = len(dataset.instances) - len(objects)
    with_mask = sum(instance.segmentation is not None for instance in objects)
    if not objects:
        what = f"all {crowds} are crowd regions" if crowds else "no annotations"
        return f"{what}: predictions and pictures, no metrics"
    masks = "masks" if with_mask else "boxes only"
    if 0 < with_mask < len(objects):
        masks = f"{with_mask} of {len(objects)} objects with a mask, the others boxes only"
    return f"{crowds} crowd regions, {masks}" if crowds else masks


def _check_file(
    report: CheckReport, file: Path, image_folder: Path, details: DatasetDetails, expected: Counts
) -> CocoDataset | None:
    """Read one annotation file and compare it; None if it cannot be read."""
    missing = [] if file.is_file() else [f"There is no annotation file {file}."]
    missing += [] if image_folder.is_dir() else [f"There is no image folder {image_folder}."]
    if missing:
        report.problems += [sentence for sentence in missing if sentence not in report.problems]
        return None
    try:
        dataset = read_coco(file, image_folder)
    except DataError as error:
        report.problems.append(str(error))
        return None
    instances = [*dataset.instances, *(instance for _, instance in dataset.dropped)]
    content = f"{counted(len(dataset.images), 'image')}, {counted(len(instances), 'annotation')}"
    report.lines.append(f"present  {file}: {content}, {describe_masks(dataset)}")
    crowd = sum(instance.iscrowd for instance in dataset.instances)
    for what, count, published in (
        ("images", len(dataset.images), expected.images),
        ("annotations", len(instances), expected.annotations),
        ("crowd regions or difficult objects", crowd, expected.crowd),
    ):
        if published is not None and count != published:
            report.problems.append(f"{file} has {count} {what}, the published file has {published}.")
    names = {category.id: category.name for category in dataset.categories}
    report.problems += _class_problems(file, set(names.values()), details)
    counts = Counter(names[instance.category_id] for instance in instances)
    wrong = [f"{name} {counts[name]} ({n})" for name, n in expected.per_class.items() if counts[name] != n]
    if wrong:
        report.problems.append(f"{file}: annotations of a class, published in brackets: {', '.join(wrong)}.")
    return dataset


def _class_problems(file: Path, names: set[str], details: DatasetDetails) -> list[str]:
    if not details.class_names:
        same = len(names) == details.num_classes
        return [] if same else [f"{file} has {len(names)} classes, the published file has {details.num_classes}."]
    missing, surplus = set(details.class_names) - names, names - set(details.class_names)
    problems = [f"{file} lacks the class(es) {listed(sorted(missing), 8)}."] if missing else []
    unknown = f"{file} has the class(es) {listed(sorted(surplus), 8)}, which are not known."
    return [*problems, unknown] if surplus else problems


def _check_shots(report: CheckReport, references: CocoDataset, shots: int) -> None:
    """Look for classes without exactly k references: having none is a problem, another number worth a line."""
    counts = Counter(instance.category_id for instance in references.instances if not instance.iscrowd)
    other = {category.name: counts[category.id] for category in references.categories if counts[category.id] != shots}
    empty = [name for name, count in other.items() if count == 0]
    if empty:
        report.problems.append(f"{references.annotation_file} has no example of {listed(empty, 8)}.")
    elif other:
        differing = listed((f"{name} {count}" for name, count in other.items()), 8)
        report.lines.append(f"         classes with other than {shots} examples: {differing}")


def _check_list(report: CheckReport, dataset: CocoDataset, published: KshotList, shots: int) -> None:
    """Compare the references of a file with the benchmark's list: class, file name and box of each."""
    references = cdfsod.dataset_references(dataset)
    if cdfsod.references_key(references) == published.references:
        report.lines.append("         the references of the benchmark's list")
        return
    path = cdfsod.list_path(dataset.annotation_file.parent.parent, shots)
    if path.is_file():
        theirs = cdfsod.published_references(path)
        differing = sorted({name for name, _, _ in (references - theirs) + (theirs - references)})
        remedy = f"Classes that differ from {path.name}: {listed(differing, 8)}."
    else:
        remedy = "Fetch the list with `ntt data get cdfsod-lists` and check again to see which classes differ."
    report.problems.append(f"{dataset.annotation_file} has other references than the benchmark's list. {remedy}")


def _check_images(report: CheckReport, kind: str, records: Sequence[ImageRecord], *, decode: bool) -> None:
    if not records:
        return
    present = sum(record.path.is_file() for record in records)
    report.lines.append(f"present  {present} of {len(records)} {kind} images")
    try:
        check_images(records, full=decode)
    except DataError as error:
        report.problems.append(str(error))
