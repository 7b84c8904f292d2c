"""Stage `leave_one_out`: each reference image in turn is a target (method.md §9.4).

The memory is used without every instance on the image, and all its annotations are the objects to find. What comes of
it: the AP to expect, a score threshold for each class, and, if the matcher leaves it to them, the scoring.
`ntt references check` measures the effect of single references in the same way.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ntt.base.digests import content_key
from ntt.base.distributed import ProcessGroup, compute_on_main, map_dealt
from ntt.base.log import each_warning_once
from ntt.data.coco import CocoDataset
from ntt.errors import DataError
from ntt.evaluation.curves import averages
from ntt.evaluation.ground_truth import GroundTruth, prepare_ground_truth
from ntt.evaluation.matching import Matches, match
from ntt.evaluation.precision_recall import precision_recall
from ntt.evaluation.table import DetectionTable, tabulate
from ntt.evaluation.thresholds import propose_thresholds
from ntt.matchers.auto import AutoMatcher, scorings
from ntt.matchers.base import MatcherConfig
from ntt.matchers.scoring import DetectingMatcher, match_together
from ntt.ops.pooling import l2_normalise
from ntt.stages.candidates import CandidateSource, find_candidates
from ntt.stages.matching import build_prototypes
from ntt.types import (
    Category,
    Detections,
    FloatArray,
    ImageId,
    ImageRecord,
    IntArray,
    MemoryBank,
    ReferenceCheck,
    ReferenceSet,
)

VERSION = 3
"""Counts changes of what the stage computes; part of its key."""

_LOG = logging.getLogger(__name__)
_ALL = ""


def check_references(
    *,
    references: ReferenceSet,
    objects: CocoDataset,
    is_complete: bool,
    memory: MemoryBank,
    matcher: MatcherConfig,
    source: CandidateSource,
    group: ProcessGroup,
) -> ReferenceCheck:
    """Search every reference image with the references on the other images; the images are distributed over processes.

    The `objects` to find are those of `ntt.data.references.reference_targets`; only if the images are fully annotated
    (`is_complete`), a scoring is chosen. The memory has all vectors that the matchers read.
    """
    choices = scorings(matcher)
    detections = search_left_out(references, memory, list(choices.values()), source, group)
    tests = dict(zip(choices, detections, strict=True))
    conclude = partial(_conclude, references, objects, is_complete=is_complete, matcher=matcher, detections=tests)
    return compute_on_main(conclude, group)


def search_left_out(
    references: ReferenceSet,
    memory: MemoryBank,
    matchers: Sequence[DetectingMatcher],
    source: CandidateSource,
    group: ProcessGroup,
) -> list[list[Detections]]:
    """Return for each matcher the detections of every reference image, found without the instances on it."""
    records = list(references.images.values())
    find_candidates(images=records, source=source, group=group)

    def search(record: ImageRecord) -> list[Detections]:
        remaining = reduced_memory(memory, references, without_image=record.id)
        return search_with(record, source, [(matcher, *remaining) for matcher in matchers])

    with each_warning_once():
        images = map_dealt(search, records, group=group, label="leave one out", unit="image")
    return [list(of_matcher) for of_matcher in zip(*images, strict=True)]


def search_with(
    record: ImageRecord, source: CandidateSource, points: Sequence[tuple[DetectingMatcher, MemoryBank, IntArray]]
) -> list[Detections]:
    """Search one image with several memories; each comes with the labels of its classes. It may be empty."""
    nothing = Detections(
        image_id=record.id,
        height=record.height,
        width=record.width,
        labels=np.zeros(0, dtype=np.int64),
        scores=np.zeros(0, dtype=np.float32),
        boxes_xywh=np.zeros((0, 4), dtype=np.float32),
        rles=(),
    )
    usable = [(matcher, memory, labels) for matcher, memory, labels in points if len(labels)]
    prototypes = [(matcher, build_prototypes(memory=memory, matcher=matcher)) for matcher, memory, _ in usable]
    outcomes = iter(match_together(record.id, source.get(record), prototypes))
    detections = []
    for _, _, labels in points:
        outcome = next(outcomes) if len(labels) else nothing
        if isinstance(outcome, DataError):  # where the matcher raises for an image without detections
            outcome = nothing
        detections.append(replace(outcome, labels=labels[outcome.labels]))
    return detections


def reduced_memory(
    memory: MemoryBank, references: ReferenceSet, *, without_image: ImageId, without_instance: int | None = None
) -> tuple[MemoryBank, IntArray]:
    """Return the memory of the other references, without classes that have none, and the labels of its classes."""
    remaining = [
        torch.tensor([each.image_id != without_image and each.id != without_instance for each in members])
        for members in references.instances
    ]
    labels = [label for label, remains_K in enumerate(remaining) if remains_K.any()]

    def cut(vectors: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(vectors[label][remaining[label]] for label in labels) if vectors else ()

    reduced = MemoryBank(
        categories=tuple(memory.categories[label] for label in labels),
        features=cut(memory.features),
        backgrounds=cut(memory.backgrounds),
        clear_backgrounds=cut(memory.clear_backgrounds),
        full=cut(memory.full),
    )
    return reduced, np.array(labels, dtype=np.int64)


def box_ap(detections: Sequence[Detections], references: ReferenceSet, objects: CocoDataset) -> dict[str, float]:
    """Return box AP by class name, and under "" that of all classes, percent; without classes that have no object."""
    ground_truth = prepare_ground_truth(objects, references.categories)
    table = tabulate(detections, references.categories, ground_truth)
    curves = precision_recall(match(table, ground_truth, "bbox"), table, ground_truth)
    groups = {_ALL: list(range(len(references.categories)))}
    groups |= {category.name: [label] for label, category in enumerate(references.categories)}
    values = {name: averages(curves, labels) for name, labels in groups.items()}
    return {name: value["AP"] for name, value in values.items() if "AP" in value}


def _conclude(
    references: ReferenceSet,
    objects: CocoDataset,
    *,
    is_complete: bool,
    matcher: MatcherConfig,
    detections: Mapping[str, Sequence[Detections]],
) -> ReferenceCheck:
    expected = {name: box_ap(of_scoring, references, objects) for name, of_scoring in detections.items()}
    ground_truth = prepare_ground_truth(objects, references.categories)
    tables = {name: tabulate(each, references.categories, ground_truth) for name, each in detections.items()}
    better: dict[str, float] = {}
    scoring, obstacle = next(iter(tables)), ""
    if isinstance(matcher, AutoMatcher):
        counts = [len({instance.id for instance in members}) for members in references.instances]
        obstacle = matcher.obstacle(counts, is_complete=is_complete)
        if objects.instances:
            draws = {name: bootstrap_ap(table, ground_truth, matcher.draws) for name, table in tables.items()}
            better = {name: float((drawn > draws[scoring]).mean()) for name, drawn in draws.items() if name != scoring}
        else:
            obstacle = obstacle or "none can be searched with the others"
        if not obstacle:
            scoring = matcher.choose({name: of_name.get(_ALL, 0.0) for name, of_name in expected.items()}, better)
    num_images = [len({instance.image_id for instance in members}) for members in references.instances]
    matches = match(tables[scoring], ground_truth, "bbox")
    proposals = propose_thresholds(matches, tables[scoring], ground_truth, num_images=num_images)
    return ReferenceCheck(
        scoring=scoring,
        better=better,
        expected=expected,
        thresholds={
            category.name: threshold
            for category, threshold in zip(references.categories, proposals, strict=True)
            if threshold is not None and references.can_be_left_out
        },
        is_complete=is_complete,
        num_images=len(objects.images),
        obstacle=obstacle,
    )


def bootstrap_ap(table: DetectionTable, ground_truth: GroundTruth, draws: int) -> FloatArray:
    """Return box AP for each draw of images with replacement, float32 [draws], percent; always the same draws."""
    matches = match(table, ground_truth, "bbox")
    generator = np.random.default_rng(0)
    count = len(ground_truth.sizes)
    repeats = [np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(draws)]
    image_of_row, image_of_object = table.images[matches.rows], ground_truth.pairs // len(ground_truth.categories)
    values = []
    for repeat in repeats:
        rows = np.repeat(np.arange(len(image_of_row)), repeat[image_of_row])
        objects = np.repeat(np.arange(len(image_of_object)), repeat[image_of_object])
        drawn = Matches(
            matches.rows[rows], matches.ranks[rows], matches.is_match[..., rows], matches.is_ignored[..., rows]
        )
        drawn_truth = replace(
            ground_truth, pairs=ground_truth.pairs[objects], is_ignored=ground_truth.is_ignored[:, objects]
        )
        values.append(averages(precision_recall(drawn, table, drawn_truth)).get("AP", 0.0))
    return np.array(values, dtype=np.float32)


def reference_agreement(references: ReferenceSet, memory: MemoryBank) -> dict[int, float]:
    """Compare each reference with the others of its class: annotation id -> cosine, in [-1, 1].

    It is that of its feature and the mean of those on other images; absent where the class is on one image only.
    """
    agreement: dict[int, float] = {}
    for members, features_KD in zip(references.instances, memory.features, strict=True):
        unit_KD = l2_normalise(features_KD.float())
        for instance, unit_D in zip(members, unit_KD, strict=True):
            is_other = torch.tensor([other.image_id != instance.image_id for other in members])
            if is_other.any():
                agreement[instance.id] = float(l2_normalise(unit_KD[is_other].mean(dim=0)) @ unit_D)
    return agreement


def reference_effects(
    *,
    references: ReferenceSet,
    objects: CocoDataset,
    memory: MemoryBank,
    matcher: DetectingMatcher,
    source: CandidateSource,
    group: ProcessGroup,
) -> dict[int, float]:
    """Measure each reference by its absence; for the arguments see `check_references`.

    Returns annotation id -> box AP of its class on the class's other reference images, with the reference minus without
    it, percent. Negative: the reference stands apart. Only of classes with references on three images or more.
    """

    def search(record: ImageRecord) -> dict[int | None, Detections]:
        own = {instance.category_id for instance in references.instances_of_image(record.id)}
        others = [each for members in references.instances for each in members if each.image_id != record.id]
        absent = [None, *(instance.id for instance in others if instance.category_id in own)]
        memories = [
            reduced_memory(memory, references, without_image=record.id, without_instance=gone) for gone in absent
        ]
        detections_of = search_with(record, source, [(matcher, *remaining) for remaining in memories])
        return dict(zip(absent, detections_of, strict=True))

    images = map_dealt(search, list(references.images.values()), group=group, label="effects", unit="image")
    detections = dict(zip(references.images, images, strict=True))

    def ap(category: Category, image_ids: Collection[ImageId], gone: int | None) -> float | None:
        targets = _only(objects, category, image_ids)
        return box_ap([detections[image_id][gone] for image_id in targets.images], references, targets).get(
            category.name
        )

    effects: dict[int, float] = {}
    for category, members in zip(references.categories, references.instances, strict=True):
        images_of_class = {instance.image_id for instance in members}
        for instance in members if len(images_of_class) > 2 else ():
            others = images_of_class - {instance.image_id}
            with_it, without_it = (ap(category, others, gone) for gone in (None, instance.id))
            if with_it is not None and without_it is not None:
                effects[instance.id] = with_it - without_it
    return effects


def _only(objects: CocoDataset, category: Category, image_ids: Collection[ImageId]) -> CocoDataset:
    """Return the objects of one class in some images."""
    images = {image_id: record for image_id, record in objects.images.items() if image_id in image_ids}
    instances = [each for each in objects.instances if each.image_id in images and each.category_id == category.id]
    digest = content_key([objects.digest, category.id])
    return replace(objects, images=images, instances=tuple(instances), digest=digest)
