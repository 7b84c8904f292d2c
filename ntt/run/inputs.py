"""What a run starts from: annotation files, the classes to search, the references, the digests of images."""

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, cast

from ntt.base import distributed as dist
from ntt.config.schema import ExperimentConfig
from ntt.data import sampling
from ntt.data.coco import CocoDataset, count_difficult, read_coco
from ntt.data.images import image_digest, white_level
from ntt.data.references import assemble_references
from ntt.data.splits import resolve_split
from ntt.datasets.base import DatasetConfig, DatasetFiles
from ntt.errors import ConfigError, DataError, listed, raise_all
from ntt.evaluation.federated import check_checked_classes
from ntt.types import Category, ImageRecord, ReferenceSet

_READING_THREADS = 8
_IMAGES_PER_THREAD = 64
_QUICK_S = 1e-4
"""What opening a file on a local disk, and looking up its digest, takes at most."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Checked inputs; `categories` is sorted by id, and its order defines the class index."""

    reference_data: CocoDataset
    target_data: CocoDataset
    categories: tuple[Category, ...]


def read_inputs(config: ExperimentConfig, *, read: Callable[..., CocoDataset] = read_coco) -> Inputs:
    """Find the data set, read its annotation files and resolve the split.

    A DataError if a file cannot be used, references and targets disagree about a class, or the targets lack what the
    protocol of evaluation needs; a ConfigError if the split names classes the data set does not have.
    """
    files = config.dataset.locate(Path(config.runtime.cache_root).expanduser().absolute())
    read = partial(read, crowd=config.dataset.crowd)
    reference_data, target_data = read_alike(_read_both(files, read), config.dataset)
    if config.evaluation.difficult is not None:
        target_data = count_difficult(target_data, cast("Literal['crowd', 'ordinary']", config.evaluation.difficult))
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
        reference_data.searched_by_default() if split.classes is None else reference_data.categories,
        name=split.name,
        classes=split.classes,
        frequency=split.frequency,
        frequencies=reference_data.frequencies,
    )
    if config.shots.sampler == "reference":
        return sampling.annotated_categories(reference_data, categories)
    return categories


def drawn_references(config: ExperimentConfig, dataset: CocoDataset, categories: tuple[Category, ...]) -> ReferenceSet:
    """Draw the references of classes, ordered by category id, as the settings ask.

    A ConfigError if there are no classes; a DataError if one has no usable instance or, if `shots.strict`, too few.
    """
    shots = config.shots
    if not categories:
        raise ConfigError("No class is chosen, at least one is needed. Name some in split.classes, or use split=all.")
    ordered = tuple(sorted(categories, key=lambda category: category.id))
    if shots.sampler == "fixed":
        sample = sampling.sample_fixed(dataset, ordered, shots=shots.count, strict=shots.strict)
    elif shots.sampler == "shot_index":
        sample = sampling.sample_shot_index(dataset, ordered, shots=cast("int", shots.count), strict=shots.strict)
    else:
        draw = sampling.sample_native if shots.sampler == "native" else sampling.sample_reference
        validity = sampling.Validity(shots.min_box_side_px, shots.border_px)
        count = cast("int", shots.count)
        sample = draw(dataset, ordered, shots=count, seed=config.seed, strict=shots.strict, validity=validity)
    count = max(map(len, sample)) if shots.count is None else shots.count
    return assemble_references(dataset, ordered, sample, shots=count, seed=config.seed, sampler=shots.sampler)


def read_alike(datasets: Sequence[CocoDataset], config: DatasetConfig) -> list[CocoDataset]:
    """Decide how the images of a data set are read: with one white level, and the orientation of its settings."""
    level = config.white_level
    if level is None:
        level = white_level(*(dataset.depth_sample for dataset in datasets))
    if level is None and config.orientation is None:
        return list(datasets)

    def settled(record: ImageRecord) -> ImageRecord:
        return replace(record, white_level=level, orientation=config.orientation)

    return [
        replace(dataset, images={number: settled(record) for number, record in dataset.images.items()})
        for dataset in datasets
    ]


def _read_both(files: DatasetFiles, read: Callable[..., CocoDataset]) -> tuple[CocoDataset, CocoDataset]:
    """Read references and targets; problems of both are reported together."""
    locations = ((files.references_file, files.reference_images), (files.targets_file, files.target_images))
    datasets: list[CocoDataset] = []
    problems: list[str] = []
    for index, location in enumerate(dict.fromkeys(locations)):  # one file may serve as both
        try:
            datasets.append(read(*location, annotations_required=index == 0))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return datasets[0], datasets[-1]


def input_files(inputs: Inputs) -> dict[str, dict[str, str]]:
    """Return the annotation files that a run reads, with the SHA-256 and, if any, the folder of the images of each."""
    files = {"references": inputs.reference_data, "targets": inputs.target_data}
    return {role: _file_details(data) for role, data in files.items()}


def _file_details(data: CocoDataset) -> dict[str, str]:
    details = {"file": str(data.annotation_file), "sha256": data.file_sha256}
    first = next(iter(data.images.values()), None)
    return details if first is None else {**details, "images": str(first.folder)}


def warn_of_unknown_classes(categories: tuple[Category, ...], targets: CocoDataset) -> None:
    """Warn of annotated classes of the targets that the references lack, and that are therefore not searched."""
    searched = {category.id for category in categories}
    annotated = {instance.category_id for instance in targets.instances}
    names = [category.name for category in targets.categories if category.id in annotated - searched]
    if names:
        _LOG.warning(
            "%d class(es) of the targets are not among the references, and are neither searched nor evaluated: %s. Add "
            "examples of them to the references to search them.",
            len(names),
            listed(names, 5),
        )


def check_agreement(categories: tuple[Category, ...], targets: CocoDataset) -> None:
    """Refuse a targets file in which a searched class is missing or has another id."""
    if not targets.has_annotations:
        return
    ids = {category.name: category.id for category in targets.categories}
    problems = [
        f"Class {category.name!r} has id {category.id} in the references and {ids.get(category.name, 'none')} in "
        f"{targets.annotation_file}. Give it the same id there, or leave it out with split.classes."
        for category in categories
        if ids.get(category.name) != category.id
    ]
    raise_all(problems, DataError, summary="References and targets disagree about classes")


def image_digests(records: Sequence[ImageRecord], group: dist.ProcessGroup) -> list[str | None]:
    """Return the SHA-256 of each image file, in every process; None for one that cannot be read."""
    positions = range(len(records))[group.rank :: group.size]
    first, others = positions[:_IMAGES_PER_THREAD], positions[_IMAGES_PER_THREAD:]
    started = time.monotonic()
    parts = [_digests(records, first)]
    # Threads cost more than they save where digests are cached, unless even opening a file takes long.
    is_quick = time.monotonic() - started < _QUICK_S * len(first)
    num_threads = 1 if is_quick else min(_READING_THREADS, 1 + len(others) // _IMAGES_PER_THREAD)
    shares = [others[index::num_threads] for index in range(num_threads)]
    with ThreadPoolExecutor(num_threads) as pool:
        parts += pool.map(partial(_digests, records), shares)
    return dist.gather(list(itertools.chain.from_iterable(parts)), len(records), group)


def _digests(records: Sequence[ImageRecord], positions: Sequence[int]) -> list[tuple[int, str | None]]:
    return [(position, _digest(records[position])) for position in positions]


def _digest(record: ImageRecord) -> str | None:
    try:
        return image_digest(record)
    except DataError:  # reported later, together with all others
        return None
