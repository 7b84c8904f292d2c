"""Semantic segmentation made of detections, and its mean IoU (METHOD 7; the COCO-20i protocol).

Detections are painted into one label a pixel, image by image; intersections and unions of each class are added up
over the whole data set and divided once, at the end. mIoU is the mean over the searched classes: in COCO-20i (Nguyen
and Todorovic, ICCV 2019) those of the fold, background not among them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ntt.evaluation.options import Painting
from ntt.evaluation.table import DetectionTable
from ntt.evaluation.truth import TruthIndex
from ntt.types import IntArray, Json

BoolArray = npt.NDArray[np.bool_]
_UNPAINTED = -1


@dataclass(frozen=True)
class SemanticScores:
    """Percentages. A class without a pixel of ground truth is absent.

    Attributes:
        mean_iou: over the classes in `iou`; None where there is none.
        iou: class index -> IoU.
    """

    mean_iou: float | None
    iou: dict[int, float]


@dataclass(frozen=True)
class _Pixels:
    """Pixels counted so far, int64 a class."""

    both: IntArray
    painted: IntArray
    real: IntArray


def semantic_scores(
    table: DetectionTable, truth: TruthIndex, painting: Painting, *, score_threshold: float
) -> SemanticScores:
    """Paint and compare all images.

    "correct": the detection with the highest score owns a pixel; of equal scores the one listed first. A pixel nobody
    painted belongs to no class. The ground truth of a class is the union of its objects' masks, crowd regions
    included; where objects of two classes overlap, both have the pixel.

    "reference": as the published code does it. Detections are painted by descending score, so that lower scores
    overwrite higher ones, onto a map that starts as class 0: the first class doubles as background. The ground truth
    is painted the same way, in file order.

    Args:
        table: the detections.
        truth: the ground truth, with masks.
        painting: "correct" or "reference".
        score_threshold: detections below it are not painted.
    """
    rows = np.flatnonzero(table.scores >= score_threshold)
    best_first = rows[np.argsort(-table.scores[rows], kind="stable")]
    by_image = _by_image(best_first, table.images)
    count = len(truth.categories)
    pixels = _Pixels(*(np.zeros(count, dtype=np.int64) for _ in range(3)))
    for place, size, objects in _images(truth):
        chosen = by_image.get(place, np.zeros(0, dtype=np.int64))
        if painting == "reference":
            _add_reference(pixels, table, truth, best_first=chosen, objects=objects, size=size)
        elif len(chosen) or objects:
            _add_correct(pixels, table, truth, best_first=chosen, objects=objects, size=size)
    iou = {
        label: 100.0 * int(pixels.both[label]) / int((pixels.painted + pixels.real - pixels.both)[label])
        for label in range(count)
        if pixels.real[label]
    }
    return SemanticScores(mean_iou=sum(iou.values()) / len(iou) if iou else None, iou=iou)


def _by_image(rows: IntArray, images: IntArray) -> dict[int, IntArray]:
    """Group rows by their image; within an image they keep their order."""
    ordered = rows[np.argsort(images[rows], kind="stable")]
    places, starts = np.unique(images[ordered], return_index=True)
    return dict(zip(places.tolist(), np.split(ordered, starts[1:]), strict=False))


def _images(truth: TruthIndex) -> Iterator[tuple[int, tuple[int, int], dict[int, IntArray]]]:
    """Yield place, (height, width) and class index -> objects of every image, in file order."""
    objects: dict[int, dict[int, IntArray]] = {}
    for (place, label), members in truth.groups.items():
        objects.setdefault(place, {})[label] = members
    for image in truth.document["images"]:
        place = truth.image_places[image["id"]]
        yield place, (image["height"], image["width"]), objects.get(place, {})


def _add_correct(
    pixels: _Pixels,
    table: DetectionTable,
    truth: TruthIndex,
    *,
    best_first: IntArray,
    objects: dict[int, IntArray],
    size: tuple[int, int],
) -> None:
    labels = _painted(best_first[::-1], table, size, background=_UNPAINTED)
    pixels.painted[:] += _histogram(labels[labels != _UNPAINTED], len(pixels.painted))
    for label, members in objects.items():
        region = _decoded(coco_mask.merge([truth.rles[place] for place in members.tolist()]))
        pixels.real[label] += np.count_nonzero(region)
        pixels.both[label] += np.count_nonzero(labels[region] == label)


def _add_reference(
    pixels: _Pixels,
    table: DetectionTable,
    truth: TruthIndex,
    *,
    best_first: IntArray,
    objects: dict[int, IntArray],
    size: tuple[int, int],
) -> None:
    labels = _painted(best_first, table, size, background=0)
    real = np.zeros(size, dtype=np.int64, order="F")
    in_file_order = sorted((place, label) for label, members in objects.items() for place in members.tolist())
    for place, label in in_file_order:
        np.copyto(real, label, where=_decoded(truth.rles[place]))
    count = len(pixels.painted)
    pixels.painted[:] += _histogram(labels, count)
    pixels.real[:] += _histogram(real, count)
    pixels.both[:] += _histogram(labels[labels == real], count)


def _painted(rows: IntArray, table: DetectionTable, size: tuple[int, int], *, background: int) -> IntArray:
    """Paint detections one over the other, the last on top: int64 [height, width] of class indices."""
    labels = np.full(size, background, dtype=np.int64, order="F")
    for row in rows.tolist():
        np.copyto(labels, table.labels[row], where=_decoded(table.rle(row)))
    return labels


def _decoded(rle: Json) -> BoolArray:
    return np.asarray(coco_mask.decode(rle)).view(np.bool_)


def _histogram(labels: IntArray, count: int) -> IntArray:
    return np.bincount(labels.reshape(-1, order="A"), minlength=count)
