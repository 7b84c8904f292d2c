"""Stage `evaluation`: COCO's or LVIS' metrics, semantic mIoU, and false positives on negative images."""

import logging
from collections.abc import Mapping, Sequence

from ntt.base.distributed import ProcessGroup, map_dealt
from ntt.data.coco import CocoDataset
from ntt.evaluation.curves import Painting, Protocol, averages
from ntt.evaluation.ground_truth import GroundTruth, difficult_as, prepare_ground_truth
from ntt.evaluation.matching import match
from ntt.evaluation.precision_recall import precision_recall
from ntt.evaluation.proposals import average_recall, finding_ranks
from ntt.evaluation.rejection import rejection
from ntt.evaluation.semantic import semantic_scores
from ntt.evaluation.table import DetectionTable, counted_detections, tabulate
from ntt.evaluation.thresholds import OperatingPoints, operating_points
from ntt.stages.candidates import CandidateSource
from ntt.types import Category, Detections, ImageRecord, IntArray, Metrics, ProposalRecall

KINDS = ("bbox", "segm")
VERSION = 3
"""Increased whenever the same detections give different metrics."""

_LOG = logging.getLogger(__name__)
# For each kind, the values over all classes, and those of each class by its label.
_Scores = dict[str, tuple[dict[str, float], Mapping[int, dict[str, float]]]]


def evaluate(
    *,
    detections: Sequence[Detections],
    ground_truth: CocoDataset,
    categories: Sequence[Category],
    protocol: Protocol = "coco",
    semantic: Painting = "none",
    semantic_threshold: float = 0.5,
) -> Metrics:
    """Compute all metrics of a run's detections (docs/method.md, section 7; docs/evaluation.md).

    Every image of the ground truth counts. Masks are evaluated only if every object, whatever its class, has one; mIoU,
    of detections that reach `semantic_threshold`, only if `semantic` chooses how to paint them; false positives only if
    there are images without any of the classes. What cannot be computed is absent. A DataError if the ground truth
    lacks what LVIS' protocol needs.
    """
    # Targets without annotations have no objects, and need no lists of the classes that annotators looked for.
    protocol = protocol if ground_truth.has_annotations else "coco"
    prepared = prepare_ground_truth(ground_truth, categories, protocol=protocol)
    table = tabulate(detections, categories, prepared)
    scores: _Scores = {}
    if prepared.instances:
        scores = _precision(counted_detections(table, prepared), prepared)
        if semantic != "none" and not prepared.has_masks:
            _LOG.warning("No mIoU: not every object of the ground truth has a mask.")
        elif semantic != "none":
            painted = semantic_scores(table, prepared, semantic, score_threshold=semantic_threshold)
            scores |= {"semantic": painted} if painted[0] else {}
    objects = [instance for instance in ground_truth.instances if not instance.iscrowd]
    return Metrics(
        overall={kind: overall for kind, (overall, _) in scores.items()},
        per_class={
            kind: {category.name: values.get(label, {}) for label, category in enumerate(prepared.categories)}
            for kind, (_, values) in scores.items()
        },
        num_images=len(detections),
        num_detections=len(table),
        num_objects=len(objects),
        num_masks=sum(instance.segmentation is not None for instance in objects),
        difficult=difficult_as(ground_truth),
    )


def evaluate_thresholds(
    *,
    detections: Sequence[Detections],
    ground_truth: CocoDataset,
    categories: Sequence[Category],
    thresholds: Mapping[str, Mapping[str, float]],
) -> OperatingPoints:
    """Measure precision, recall and F1 of boxes at IoU 0.5, by COCO's rules; see `operating_points`."""
    prepared = prepare_ground_truth(ground_truth, categories)
    table = tabulate(detections, categories, prepared)
    return operating_points(match(table, prepared, "bbox"), table, prepared, thresholds)


def _precision(table: DetectionTable, ground_truth: GroundTruth) -> _Scores:
    """Return AP and AR of boxes and masks, and false positives of boxes on negative images."""
    scores: _Scores = {}
    box_matches = match(table, ground_truth, "bbox")
    groups = {} if ground_truth.federation is None else ground_truth.federation.groups
    for kind in KINDS if ground_truth.has_masks else KINDS[:1]:
        matches = box_matches if kind == "bbox" else match(table, ground_truth, kind)
        curves = precision_recall(matches, table, ground_truth)
        overall = averages(curves)
        of_groups = {f"AP{letter}": averages(curves, members) for letter, members in groups.items()}
        overall |= {name: values["AP"] for name, values in of_groups.items() if "AP" in values}
        scores[kind] = (overall, {label: averages(curves, [label]) for label in range(len(ground_truth.categories))})
    rejected = rejection(table, ground_truth, box_matches)
    return scores | {"rejection": rejected} if rejected[0] else scores


def measure_proposals(
    *,
    images: Sequence[ImageRecord],
    source: CandidateSource,
    ground_truth: CocoDataset,
    categories: Sequence[Category],
    group: ProcessGroup,
) -> ProposalRecall:
    """Compute the average recall of the candidates over the objects of the searched classes (docs/evaluation.md).

    Returns "bbox" and, where all objects have masks, "segm" -> "AR100", "AR300", "AR1000", percent; empty if
    there are no objects.
    """
    prepared = prepare_ground_truth(ground_truth, categories)

    def ranks(record: ImageRecord) -> dict[str, IntArray]:
        return finding_ranks(source.get(record), prepared, record.id)

    annotated = [image for image in images if len(prepared.required_objects(prepared.image_indices[image.id]))]
    return average_recall(map_dealt(ranks, annotated, group=group, label="proposals", unit="image"))
