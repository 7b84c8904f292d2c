"""Stage `evaluation`: COCO's or LVIS' metrics, semantic mIoU, and false positives where nothing is."""

import logging
from collections.abc import Sequence

from ntt.data.coco import CocoDataset
from ntt.evaluation.coco_judge import judged_by_pycocotools
from ntt.evaluation.curves import Curves, averages
from ntt.evaluation.fast_judge import curves_of
from ntt.evaluation.matching import match
from ntt.evaluation.options import Judge, Painting, Protocol
from ntt.evaluation.rejection import rejection
from ntt.evaluation.semantic import semantic_scores
from ntt.evaluation.table import DetectionTable, counted_rows, tabulate
from ntt.evaluation.truth import TruthIndex, index_truth
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
    judge: Judge = "pycocotools",
    semantic: Painting = "none",
    semantic_threshold: float = 0.5,
) -> Metrics:
    """Compute everything that is measured of a run's detections (METHOD 7; docs/evaluation.md).

    Masks are evaluated only where every object of the ground truth has one, whatever its class.

    Args:
        detections: one entry an image.
        ground_truth: the targets file; every one of its images counts.
        categories: the classes that were searched, in class-index order.
        protocol: by whose rules AP and AR are computed.
        judge: who computes them by COCO's rules: pycocotools, or our own code, which is faster and equal to the last
            digit. LVIS' rules are always computed by our own code.
        semantic: how detections are painted for mIoU; "none" leaves it out.
        semantic_threshold: detections below this score are not painted, in [0, 1].

    Returns:
        AP and AR of boxes and masks in percent, for all classes and each; likewise IoU if asked for; false positives
        per image without any of the classes, if there are such images. What cannot be computed is absent.

    Raises:
        DataError: if the ground truth lacks what LVIS' protocol needs.
    """
    # Targets without annotations are not judged, so they need no lists of the classes that were looked for.
    truth = index_truth(ground_truth, categories, protocol=protocol if ground_truth.has_annotations else "coco")
    table = tabulate(detections, categories, truth)
    overall: _Overall = {}
    per_class: _PerClass = {}
    if truth.objects:
        _add_precision(overall, per_class, table, truth, judge)
        _add_semantic(overall, per_class, table, truth, semantic, semantic_threshold)
    objects = [instance for instance in ground_truth.instances if not instance.iscrowd]
    return Metrics(
        overall=overall,
        per_class=per_class,
        num_images=len(detections),
        num_detections=len(table),
        num_objects=len(objects),
        num_masks=sum(instance.segmentation is not None for instance in objects),
    )


def _add_precision(
    overall: _Overall, per_class: _PerClass, table: DetectionTable, truth: TruthIndex, judge: Judge
) -> None:
    if truth.federation is not None:
        table = table.take(counted_rows(table, truth.federation))
    box_matches = match(table, truth, "bbox")
    for kind in KINDS if truth.has_masks else KINDS[:1]:
        if judge == "pycocotools" and truth.protocol == "coco":
            curves = judged_by_pycocotools(table, truth, kind)
        else:
            curves = curves_of(box_matches if kind == "bbox" else match(table, truth, kind), table, truth)
        overall[kind] = {**averages(curves), **_group_averages(curves, truth)}
        per_class[kind] = {
            category.name: averages(curves, slice(place, place + 1)) for place, category in enumerate(truth.categories)
        }
    found = rejection(table, truth, box_matches)
    if found.overall:
        overall["rejection"] = found.overall
        per_class["rejection"] = {
            category.name: found.per_class.get(place, {}) for place, category in enumerate(truth.categories)
        }


def _group_averages(curves: Curves, truth: TruthIndex) -> dict[str, float]:
    """Return APr, APc and APf, as far as there are such classes with objects."""
    groups = {} if truth.federation is None else truth.federation.groups
    of_groups = {f"AP{letter}": averages(curves, members) for letter, members in groups.items()}
    return {name: values["AP"] for name, values in of_groups.items() if "AP" in values}


def _add_semantic(
    overall: _Overall,
    per_class: _PerClass,
    table: DetectionTable,
    truth: TruthIndex,
    painting: Painting,
    threshold: float,
) -> None:
    if painting == "none":
        return
    if not truth.has_masks:
        _LOG.warning("No mIoU: not every object of the ground truth has a mask.")
        return
    found = semantic_scores(table, truth, painting, score_threshold=threshold)
    if found.mean_iou is not None:
        overall["semantic"] = {"mIoU": found.mean_iou}
        per_class["semantic"] = {
            category.name: {"IoU": found.iou[place]} if place in found.iou else {}
            for place, category in enumerate(truth.categories)
        }
