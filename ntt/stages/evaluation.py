"""Stage `evaluation`: COCO's or LVIS' metrics, semantic mIoU, and false positives where nothing is."""

import logging
from collections.abc import Mapping, Sequence

from ntt.data.coco import CocoDataset
from ntt.evaluation.curves import Curves, averages
from ntt.evaluation.ground_truth import GroundTruth, prepare_ground_truth
from ntt.evaluation.matching import match
from ntt.evaluation.options import Painting, Protocol
from ntt.evaluation.precision_recall import precision_recall
from ntt.evaluation.rejection import rejection
from ntt.evaluation.semantic import semantic_scores
from ntt.evaluation.table import DetectionTable, counted_detections, tabulate
from ntt.types import Category, Detections, Metrics

KINDS = ("bbox", "segm")
VERSION = 2
"""Raised when the same detections give other metrics than before."""

_LOG = logging.getLogger(__name__)
_Overall = dict[str, dict[str, float]]
_PerClass = dict[str, dict[str, dict[str, float]]]


def evaluate(
    *,
    detections: Sequence[Detections],
    ground_truth: CocoDataset,
    categories: Sequence[Category],
    protocol: Protocol = "coco",
    semantic: Painting = "none",
    semantic_threshold: float = 0.5,
) -> Metrics:
    """Compute everything that is measured of a run's detections (docs/method.md, section 7; docs/evaluation.md).

    Masks are evaluated only where every object of the ground truth has one, whatever its class.

    Args:
        detections: one entry per image.
        ground_truth: the targets file; every one of its images counts.
        categories: the classes that were searched, in class-index order.
        protocol: by whose rules AP and AR are computed.
        semantic: how detections are painted for mIoU; "none" leaves it out.
        semantic_threshold: detections below this score are not painted, in [0, 1].

    Returns:
        AP and AR of boxes and masks in percent, for all classes and each; likewise IoU if asked for; false positives
        per image without any of the classes, if there are such images. What cannot be computed is absent.

    Raises:
        DataError: if the ground truth lacks what LVIS' protocol needs.
    """
    # Targets without annotations have no objects, so they need no lists of the classes that were looked for.
    protocol = protocol if ground_truth.has_annotations else "coco"
    prepared = prepare_ground_truth(ground_truth, categories, protocol=protocol)
    table = tabulate(detections, categories, prepared)
    overall: _Overall = {}
    per_class: _PerClass = {}
    if prepared.instances:
        _add_precision(overall, per_class, counted_detections(table, prepared), prepared)
        if semantic != "none":
            _add_semantic(overall, per_class, table, prepared, semantic, semantic_threshold)
    objects = [instance for instance in ground_truth.instances if not instance.iscrowd]
    return Metrics(
        overall=overall,
        per_class=per_class,
        num_images=len(detections),
        num_detections=len(table),
        num_objects=len(objects),
        num_masks=sum(instance.segmentation is not None for instance in objects),
    )


def _add_precision(overall: _Overall, per_class: _PerClass, table: DetectionTable, ground_truth: GroundTruth) -> None:
    box_matches = match(table, ground_truth, "bbox")
    for kind in KINDS if ground_truth.has_masks else KINDS[:1]:
        matches = box_matches if kind == "bbox" else match(table, ground_truth, kind)
        curves = precision_recall(matches, table, ground_truth)
        overall[kind] = {**averages(curves), **_group_averages(curves, ground_truth)}
        labels = range(len(ground_truth.categories))
        per_class[kind] = _by_name({label: averages(curves, [label]) for label in labels}, ground_truth)
    scores = rejection(table, ground_truth, box_matches)
    if scores.overall:
        overall["rejection"] = scores.overall
        per_class["rejection"] = _by_name(scores.per_class, ground_truth)


def _by_name(values: Mapping[int, dict[str, float]], ground_truth: GroundTruth) -> dict[str, dict[str, float]]:
    """Return the values of each class under its name; nothing for a class without."""
    return {category.name: values.get(label, {}) for label, category in enumerate(ground_truth.categories)}


def _group_averages(curves: Curves, ground_truth: GroundTruth) -> dict[str, float]:
    """Return APr, APc and APf, as far as there are such classes with objects."""
    groups = {} if ground_truth.federation is None else ground_truth.federation.groups
    of_groups = {f"AP{letter}": averages(curves, members) for letter, members in groups.items()}
    return {name: values["AP"] for name, values in of_groups.items() if "AP" in values}


def _add_semantic(
    overall: _Overall,
    per_class: _PerClass,
    table: DetectionTable,
    ground_truth: GroundTruth,
    painting: Painting,
    threshold: float,
) -> None:
    if not ground_truth.has_masks:
        _LOG.warning("No mIoU: not every object of the ground truth has a mask.")
        return
    scores = semantic_scores(table, ground_truth, painting, score_threshold=threshold)
    if scores.mean_iou is not None:
        overall["semantic"] = {"mIoU": scores.mean_iou}
        per_class["semantic"] = _by_name({label: {"IoU": iou} for label, iou in scores.iou.items()}, ground_truth)
