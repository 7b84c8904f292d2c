"""Semantic segmentation from detections, and its mean IoU (docs/method.md, section 7; the COCO-20i protocol).

Detections are painted into one label per pixel, image by image; intersections and unions of each class are added up
over the whole data set and divided once, at the end. mIoU is the mean over the searched classes: in COCO-20i (Nguyen
and Todorovic, ICCV 2019) those of the fold, background not among them.
"""

import numpy as np
from pycocotools import mask as coco_mask

from ntt.evaluation.curves import Painting
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.table import DetectionTable
from ntt.types import BoolArray, IntArray, Json

_UNPAINTED = -1


def semantic_scores(
    table: DetectionTable, ground_truth: GroundTruth, painting: Painting, *, score_threshold: float
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Paint and compare all images: "mIoU", and "IoU" by class index, percent; without classes that have no objects.

    Detections below the threshold are not painted. "correct": a pixel belongs to the detection with the highest score,
    of equal ones to the first; the ground truth of a class is the union of its objects' masks, crowd regions included.
    "reference", as the published code does it: lower scores overwrite higher ones, on a map that starts as class 0, so
    that the first class doubles as background; the ground truth is painted the same way, in file order.
    """
    rows = np.flatnonzero(table.scores >= score_threshold)
    best_first = _by_image(rows[np.argsort(-table.scores[rows], kind="stable")], table.images)
    add_image = _add_reference if painting == "reference" else _add_correct
    # Pixels of each class painted and in the ground truth, painted, and in the ground truth: int64 [3, classes].
    pixels = np.zeros((3, len(ground_truth.categories)), dtype=np.int64)
    for image in range(len(ground_truth.sizes)):
        detected = best_first.get(image, np.zeros(0, dtype=np.int64))
        if painting == "reference" or len(detected) or image in ground_truth.objects_by_image:
            add_image(pixels, table, ground_truth, image, detected)
    both, painted, real = pixels
    iou = {
        label: 100.0 * int(both[label]) / int(painted[label] + real[label] - both[label])
        for label in np.flatnonzero(real).tolist()
    }
    mean = {"mIoU": sum(iou.values()) / len(iou)} if iou else {}
    return mean, {label: {"IoU": value} for label, value in iou.items()}


def _by_image(rows: IntArray, images: IntArray) -> dict[int, IntArray]:
    """Group rows by their image; within an image they keep their order."""
    ordered = rows[np.argsort(images[rows], kind="stable")]
    indices, starts = np.unique(images[ordered], return_index=True)
    return dict(zip(indices.tolist(), np.split(ordered, starts[1:]), strict=False))


def _add_correct(
    pixels: IntArray,
    table: DetectionTable,
    ground_truth: GroundTruth,
    image: int,
    best_first: IntArray,
) -> None:
    both, painted, real = pixels
    labels = _painted(best_first[::-1], table, image, background=_UNPAINTED)
    painted += _histogram(labels[labels != _UNPAINTED], len(painted))
    for label, members in ground_truth.objects_by_image.get(image, {}).items():
        region = _decoded(coco_mask.merge([ground_truth.rles[index] for index in members.tolist()]))
        real[label] += np.count_nonzero(region)
        both[label] += np.count_nonzero(labels[region] == label)


def _add_reference(
    pixels: IntArray,
    table: DetectionTable,
    ground_truth: GroundTruth,
    image: int,
    best_first: IntArray,
) -> None:
    labels = _painted(best_first, table, image, background=0)
    real = np.zeros_like(labels)
    objects = ground_truth.objects_by_image.get(image, {})
    in_file_order = sorted((index, label) for label, members in objects.items() for index in members.tolist())
    for index, label in in_file_order:
        np.copyto(real, label, where=_decoded(ground_truth.rles[index]))
    pixels += np.stack([_histogram(values, pixels.shape[1]) for values in (labels[labels == real], labels, real)])


def _painted(rows: IntArray, table: DetectionTable, image: int, *, background: int) -> IntArray:
    """Paint detections one over the other, the last on top: int64 [height, width] of class indices."""
    labels = np.full(table.sizes[image], background, dtype=np.int64, order="F")
    for row in rows.tolist():
        np.copyto(labels, table.labels[row], where=_decoded(table.rle(row)))
    return labels


def _decoded(rle: Json) -> BoolArray:
    return np.asarray(coco_mask.decode(rle)).view(np.bool_)


def _histogram(labels: IntArray, count: int) -> IntArray:
    return np.bincount(labels.reshape(-1, order="A"), minlength=count)
