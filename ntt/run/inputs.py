"""What a run reads before anything else: both annotation files and the classes to search."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ntt.config.schema import ExperimentConfig
from ntt.data.coco import CocoDataset, read_coco
from ntt.data.sampling import annotated_categories
from ntt.data.splits import resolve_split
from ntt.datasets.base import DatasetFiles
from ntt.errors import DataError, raise_all
from ntt.evaluation.federated import check_checked_classes
from ntt.stages.references import SamplerName, sample_references
from ntt.types import Category, ReferenceSet

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Checked inputs; `categories` is sorted by id, its order is the class index."""

    reference_data: CocoDataset
    target_data: CocoDataset
    categories: tuple[Category, ...]


def read_inputs(config: ExperimentConfig, *, read: Callable[..., CocoDataset] = read_coco) -> Inputs:
    """Find the data set, read its annotation files and resolve the split.

    Args:
        config: of the run.
        read: `read_coco`, or a function with its arguments that remembers what it has read.

    Raises:
        DataError: if a file cannot be used, references and targets disagree about a class, or the targets lack what the
            protocol of evaluation needs.
        ConfigError: if the split names classes the data set does not have.
    """
    files = config.dataset.locate(Path(config.runtime.cache_root).expanduser().absolute())
    reference_data, target_data = _read_both(files, read)
    categories = searched_categories(config, reference_data)
    check_agreement(categories, target_data)
    if config.split.classes is None and config.split.frequency is None:
        warn_of_unknown_classes(categories, target_data)
    if config.evaluation.protocol == "lvis" and target_data.has_annotations:
        check_checked_classes(target_data)
    return Inputs(reference_data=reference_data, target_data=target_data, categories=categories)


def searched_categories(config: ExperimentConfig, reference_data: CocoDataset) -> tuple[Category, ...]:
    """Resolve the split; the sampler `reference` leaves out classes without any annotation."""
    split = config.split
    categories = resolve_split(
        reference_data.categories,
        name=split.name,
        classes=split.classes,
        frequency=split.frequency,
        frequencies=reference_data.frequencies,
    )
    return annotated_categories(reference_data, categories) if config.shots.sampler == "reference" else categories


def drawn_references(
    config: ExperimentConfig, reference_data: CocoDataset, categories: tuple[Category, ...]
) -> ReferenceSet:
    """Draw the references of some classes as the settings ask for."""
    shots = config.shots
    return sample_references(
        dataset=reference_data,
        categories=categories,
        shots=shots.count,
        seed=config.seed,
        sampler=cast("SamplerName", shots.sampler),
        strict=shots.strict,
        min_box_side_px=shots.min_box_side_px,
        border_px=shots.border_px,
    )


def _read_both(files: DatasetFiles, read: Callable[..., CocoDataset]) -> tuple[CocoDataset, CocoDataset]:
    """Read references and targets; what is wrong with either is reported together."""
    datasets: list[CocoDataset] = []
    problems: list[str] = []
    for file, folder, required in (
        (files.references_file, files.reference_images, True),
        (files.targets_file, files.target_images, False),
    ):
        try:
            datasets.append(read(file, folder, annotations_required=required))
        except DataError as error:
            problems.append(str(error))
    if problems:  # a file may serve as both
        raise DataError("\n".join(dict.fromkeys(problems)))
    return datasets[0], datasets[1]


def input_files(inputs: Inputs) -> dict[str, dict[str, str]]:
    """Return the annotation files a run reads, with the SHA-256 of each: what it was computed from."""
    files = {"references": inputs.reference_data, "targets": inputs.target_data}
    return {role: {"file": str(data.annotation_file), "sha256": data.digest} for role, data in files.items()}


def warn_of_unknown_classes(categories: tuple[Category, ...], targets: CocoDataset) -> None:
    """Name the classes of annotated targets that the references lack: nobody searches them."""
    searched = {category.id for category in categories}
    annotated = {instance.category_id for instance in targets.instances}
    names = [category.name for category in targets.categories if category.id in annotated - searched]
    if names:
        _LOG.warning(
            "%d class(es) of the targets are no categories of the references and are neither searched nor evaluated: "
            "%s%s. Add examples of them to the references if they are to be found.",
            *(len(names), ", ".join(names[:5]), ", ..." if len(names) > 5 else ""),
        )


def check_agreement(categories: tuple[Category, ...], targets: CocoDataset) -> None:
    """Refuse a targets file in which a searched class is missing or has another id."""
    if not targets.has_annotations:
        return
    ids = {category.name: category.id for category in targets.categories}
    problems = []
    for category in categories:
        if category.name not in ids:
            problems.append(
                f"Class {category.name!r} of the references is not a category of {targets.annotation_file}. Add it "
                "there, or leave it out with split.classes."
            )
        elif ids[category.name] != category.id:
            problems.append(
                f"Class {category.name!r} has id {category.id} in the references and {ids[category.name]} in "
                f"{targets.annotation_file}. Give it the same id in both files."
            )
    raise_all(problems, DataError, summary="References and targets disagree about classes")
