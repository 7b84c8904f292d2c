"""Semantic segmentation from detections, and its mean IoU (docs/method.md, section 7; the COCO-20i protocol).

Detections are painted into one label per pixel, image by image; intersections and unions of each class are added up
over the whole data set and divided once, at the end. mIoU is the mean over the searched classes: in COCO-20i (Nguyen
and Todorovic, ICCV 2019) those of the fold, background not among them.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from ntt.evaluation.curves import Painting
from ntt.evaluation.ground_truth import GroundTruth
from ntt.evaluation.table import DetectionTable
from ntt.ops.ragged import by_group
from ntt.types import BoolArray, IntArray, Json

_UNPAINTED = -1
_Region = tuple[int, Json]
"""Class index and mask."""


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
    best_first = rows[np.argsort(-table.scores[rows], kind="stable")]
    add_image = _add_reference if painting == "reference" else _add_correct
    # Pixels of each class painted and in the ground truth, painted, and in the ground truth: int64 [3, classes].
    pixels = np.zeros((3, len(ground_truth.categories)), dtype=np.int64)
    for image, detected in enumerate(by_group(table.images[best_first], len(ground_truth.sizes))):
        detections = [(int(table.labels[row]), table.rle(row)) for row in best_first[detected].tolist()]
        members = ground_truth.objects_by_image[image].tolist()
        objects = [(int(ground_truth.labels[index]), ground_truth.rles[index]) for index in members]
        if painting == "reference" or detections or objects:
            add_image(pixels, detections, objects, ground_truth.sizes[image])
    both, painted, real = pixels
    iou = {
        label: 100.0 * int(both[label]) / int(painted[label] + real[label] - both[label])
        for label in np.flatnonzero(real).tolist()
    }
    mean = {"mIoU": sum(iou.values()) / len(iou)} if iou else {}
    return mean, {label: {"IoU": value} for label, value in iou.items()}


def _add_correct(
    pixels: IntArray, best_first: Sequence[_Region], objects: Sequence[_Region], size: tuple[int, int]
) -> None:
    both, painted, real = pixels
    labels = _painted(best_first[::-1], size, background=_UNPAINTED)
    painted += _histogram(labels[labels != _UNPAINTED], len(painted))
    for label in {label for label, _ in objects}:
        region = _decoded(coco_mask.merge([rle for of_class, rle in objects if of_class == label]))
        real[label] += np.count_nonzero(region)
        both[label] += np.count_nonzero(labels[region] == label)


def _add_reference(
    pixels: IntArray, best_first: Sequence[_Region], objects: Sequence[_Region], size: tuple[int, int]
) -> None:
    labels, real = (_painted(regions, size, background=0) for regions in (best_first, objects))
    pixels += np.stack([_histogram(values, pixels.shape[1]) for values in (labels[labels == real], labels, real)])


def _painted(regions: Sequence[_Region], size: tuple[int, int], *, background: int) -> IntArray:
    """Paint regions one over the other, the last on top: int64 [height, width] of class indices."""
    labels = np.full(size, background, dtype=np.int64, order="F")
    for label, rle in regions:
        np.copyto(labels, label, where=_decoded(rle))
    return labels


def _decoded(rle: Json) -> BoolArray:
    return np.asarray(coco_mask.decode(rle)).view(np.bool_)


def _histogram(labels: IntArray, count: int) -> IntArray:
    return np.bincount(labels.reshape(-1, order="A"), minlength=count)
