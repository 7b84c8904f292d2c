"""Detections of all images as flat columns. Suffix: D detections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from ntt.evaluation.curves import MAX_DETECTIONS, FloatArray
from ntt.evaluation.ground_truth import GroundTruth
from ntt.ops.masks import rle_areas
from ntt.types import Category, Detections, IntArray, Json


@dataclass(frozen=True)
class DetectionTable:
    """All detections, image after image, in the order they were given in.

    Numbers are 64-bit and equal to those a COCO results file has, so that comparisons fall out the same.

    Attributes:
        images: int64 [D], image index of the `GroundTruth`.
        labels: int64 [D], class index of the `GroundTruth`.
        scores: float64 [D].
        boxes_xywh: float64 [D, 4], image pixels.
        counts: D masks as compressed RLEs of their image's size.
        sizes: (height, width) by image index.
    """

    images: IntArray
    labels: IntArray
    scores: FloatArray
    boxes_xywh: FloatArray
    counts: list[bytes]
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        """Return the number of detections, D."""
        return len(self.counts)

    def rle(self, row: int) -> Json:
        """Return one detection's mask as pycocotools takes it."""
        return {"size": list(self.sizes[self.images[row]]), "counts": self.counts[row]}

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
            areas[start:stop] = rle_areas(self.counts[start:stop], *self.sizes[self.images[start]])
        return areas


def tabulate(
    detections: Sequence[Detections], categories: Sequence[Category], ground_truth: GroundTruth
) -> DetectionTable:
    """Put the detections of all images into one table.

    Args:
        detections: one entry per image.
        categories: the classes in the order of the detections' class indices.
        ground_truth: of these images and classes.
    """
    renumbered = np.array([ground_truth.class_indices[category.id] for category in categories], dtype=np.int64)
    images = np.array([ground_truth.image_indices[each.image_id] for each in detections], dtype=np.int64)
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(each.labels for each in detections)])
    empty = np.zeros(0, dtype=np.float64)
    return DetectionTable(
        images=np.repeat(images, [len(each.labels) for each in detections]),
        labels=renumbered[labels],
        scores=np.concatenate([empty, *(each.scores for each in detections)]),
        boxes_xywh=np.concatenate([empty, *(each.boxes_xywh.reshape(-1) for each in detections)]).reshape(-1, 4),
        counts=[rle for each in detections for rle in each.rles],
        sizes=ground_truth.sizes,
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
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return numbers


def counted_detections(table: DetectionTable, ground_truth: GroundTruth) -> DetectionTable:
    """Return the detections that the protocol counts.

    LVIS: each image's best are taken first, whatever their classes; then those of classes not evaluated in it go.
    """
    if ground_truth.federation is None:
        return table
    is_counted = ground_truth.federation.is_evaluated(table.images * len(ground_truth.categories) + table.labels)
    is_counted &= ranks(table, by_class=False) < MAX_DETECTIONS["lvis"][-1]
    return table.take(np.flatnonzero(is_counted))


def _spans(images: IntArray) -> list[tuple[int, int]]:
    """Return start and end of each run of equal values."""
    edges = np.flatnonzero(np.diff(images)) + 1
    bounds = [0, *edges.tolist(), len(images)]
    return [(start, stop) for start, stop in pairwise(bounds) if stop > start]
