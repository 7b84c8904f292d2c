"""Detections of all images as flat columns. Suffix: D detections."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt.evaluation.curves import MAX_DETECTIONS
from ntt.evaluation.ground_truth import GroundTruth
from ntt.ops.run_lengths import rle_areas
from ntt.types import Category, Detections, DoubleArray, IntArray, Json


@dataclass(frozen=True)
class DetectionTable:
    """All detections, image after image. Numbers are 64-bit and equal to those of a COCO results file.

    Attributes:
        images, labels: image index and class index of the `GroundTruth` [D].
        scores: float64 [D].
        boxes_xywh: float64 [D, 4], image pixels.
        counts: D masks as compressed RLEs of their image's size.
        sizes: (height, width) by image index.
    """

    images: IntArray
    labels: IntArray
    scores: DoubleArray
    boxes_xywh: DoubleArray
    counts: list[bytes]
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        """Return the number of detections, D."""
        return len(self.counts)

    def rle(self, row: int) -> Json:
        """Return one detection's mask in pycocotools' form."""
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
    def by_class(self) -> IntArray:
        """Rows by class, image and descending score, of equal scores as listed: int64 [D]."""
        return np.lexsort((-self.scores, narrow(self.images), narrow(self.labels)))

    @cached_property
    def box_areas(self) -> DoubleArray:
        """Width times height: float64 [D], pixels."""
        return np.asarray(self.boxes_xywh[:, 2] * self.boxes_xywh[:, 3])

    @cached_property
    def mask_areas(self) -> DoubleArray:
        """Foreground pixels: float64 [D]."""
        return rle_areas(self.counts).astype(np.float64)


def tabulate(
    detections: Sequence[Detections], categories: Sequence[Category], ground_truth: GroundTruth
) -> DetectionTable:
    """Collect the detections of all images in one table; `categories` are in the order of their class indices."""
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


def narrow(numbers: IntArray) -> npt.NDArray[Any]:
    """Return numbers from 0 in the smallest type: NumPy sorts 16 bits several times faster than 64."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def ranks(table: DetectionTable, *, by_class: bool = True) -> IntArray:
    """Number the detections of each image, or each image and class, by descending score; ties keep their order."""
    labels = table.labels if by_class else np.zeros_like(table.labels)
    order = table.by_class if by_class else np.lexsort((-table.scores, narrow(table.images)))
    images, labels, position = table.images[order], labels[order], np.arange(len(order))
    is_first = np.ones(len(order), dtype=np.bool_)
    is_first[1:] = (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])
    ranks_D = np.empty_like(position)
    ranks_D[order] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return ranks_D


def counted_detections(table: DetectionTable, ground_truth: GroundTruth) -> DetectionTable:
    """Return the detections that the protocol counts.

    LVIS: each image's best, whatever their classes; of these, those of classes that are evaluated in it.
    """
    if ground_truth.federation is None:
        return table
    pairs = table.images * len(ground_truth.categories) + table.labels
    is_counted = np.isin(pairs, ground_truth.federation.evaluated)
    is_counted &= ranks(table, by_class=False) < MAX_DETECTIONS["lvis"][-1]
    return table.take(np.flatnonzero(is_counted))
