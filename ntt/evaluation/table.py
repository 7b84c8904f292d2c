"""Detections of all images as flat columns. Suffix: D detections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from ntt.evaluation.curves import MAX_DETECTIONS, FloatArray
from ntt.evaluation.federated import Federation
from ntt.evaluation.truth import TruthIndex
from ntt.ops.masks import rle_areas
from ntt.types import Category, Detections, IntArray, Json


@dataclass(frozen=True)
class DetectionTable:
    """All detections, image after image, in the order they were given in.

    Numbers are 64-bit and equal to those a COCO results file has, so that comparisons fall out the same.

    Attributes:
        images: int64 [D], place of the image in `TruthIndex.image_ids`.
        labels: int64 [D], class index of the `TruthIndex`.
        scores: float64 [D].
        boxes_xywh: float64 [D, 4], image pixels.
        counts: D masks as compressed RLEs of their image's size.
        sizes: int64 [images, 2], height and width by place of the image; 0 for images without an entry.
    """

    images: IntArray
    labels: IntArray
    scores: FloatArray
    boxes_xywh: FloatArray
    counts: list[bytes]
    sizes: IntArray

    def __len__(self) -> int:
        """Return the number of detections, D."""
        return len(self.counts)

    def rle(self, row: int) -> Json:
        """Return one detection's mask as pycocotools takes it. Made when it is used: a table may have millions."""
        return {"size": self.sizes[self.images[row]].tolist(), "counts": self.counts[row]}

    def take(self, rows: IntArray) -> "DetectionTable":
        """Return the table of these rows alone."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            boxes_xywh=self.boxes_xywh[rows],
            counts=[self.counts[row] for row in rows.tolist()],
        )

    @cached_property
    def box_areas(self) -> FloatArray:
        """Width times height: float64 [D], pixels."""
        areas: FloatArray = self.boxes_xywh[:, 2] * self.boxes_xywh[:, 3]
        return areas

    @cached_property
    def mask_areas(self) -> FloatArray:
        """Foreground pixels: float64 [D]."""
        areas = np.zeros(len(self), dtype=np.float64)
        for start, stop in _spans(self.images):
            areas[start:stop] = rle_areas(self.counts[start:stop], *self.sizes[self.images[start]].tolist())
        return areas


def tabulate(detections: Sequence[Detections], categories: Sequence[Category], truth: TruthIndex) -> DetectionTable:
    """Put the detections of all images into one table.

    Args:
        detections: one entry an image.
        categories: the classes in the order of the detections' class indices.
        truth: the ground truth of these images and classes.
    """
    class_index = {category.id: place for place, category in enumerate(truth.categories)}
    renumbered = np.array([class_index[category.id] for category in categories], dtype=np.int64)
    counts = [len(found.labels) for found in detections]
    places = np.array([truth.image_places[found.image_id] for found in detections], dtype=np.int64)
    labels = [found.labels for found in detections]
    no_numbers = np.zeros(0, dtype=np.float64)
    sizes = np.zeros((len(truth.image_ids), 2), dtype=np.int64)
    sizes[places] = np.array([(found.height, found.width) for found in detections]).reshape(-1, 2)
    return DetectionTable(
        images=np.repeat(places, counts),
        labels=renumbered[np.concatenate([np.zeros(0, dtype=np.int64), *labels])],
        scores=np.concatenate([no_numbers, *(found.scores for found in detections)]),
        boxes_xywh=np.concatenate([no_numbers, *(found.boxes_xywh.reshape(-1) for found in detections)]).reshape(-1, 4),
        counts=[rle for found in detections for rle in found.rles],
        sizes=sizes,
    )


def ranks(table: DetectionTable, *, by_class: bool = True) -> IntArray:
    """Number the detections of each image and class from 0 by descending score; equal scores keep their order.

    Args:
        table: the detections.
        by_class: False: of each image, all classes together.
    """
    labels = table.labels if by_class else np.zeros_like(table.labels)
    order = np.lexsort((-table.scores, labels, table.images))
    images, labels = table.images[order], labels[order]
    starts = np.flatnonzero(np.r_[True, (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])][: len(order)])
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return found


def counted_rows(table: DetectionTable, federation: Federation) -> IntArray:
    """Return the rows of the detections that LVIS' protocol counts, in order.

    Each image's best are chosen first, whatever their classes; then those of classes that are not judged in it go.
    """
    is_kept = federation.is_judged(table.images, table.labels)
    is_kept &= ranks(table, by_class=False) < MAX_DETECTIONS["lvis"][-1]
    return np.flatnonzero(is_kept)


def _spans(images: IntArray) -> list[tuple[int, int]]:
    """Return start and end of each run of equal values."""
    edges = np.flatnonzero(np.diff(images)) + 1
    bounds = [0, *edges.tolist(), len(images)]
    return [(start, stop) for start, stop in pairwise(bounds) if stop > start]
