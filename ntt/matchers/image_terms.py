"""One image's candidates and what matchings of them have in common, whatever the prototypes."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt.ops.boxes import best_first, classwise_nms, members_of_classes, overlapping_pairs
from ntt.ops.masks import rle_boxes_xywh
from ntt.ops.overlaps import overlaps_with_earlier
from ntt.types import Candidates, FloatArray, IntArray


class ImageTerms:
    """Hand one to every matching of the image: what an earlier one has computed is not computed again.

    Results do not depend on it: each value is computed by the same operations on the same operands as without.
    """

    def __init__(self, candidates: Candidates) -> None:
        """Compute nothing yet."""
        self.candidates = candidates
        self._remembered: dict[Hashable, Any] = {}
        self._order = best_first(candidates.predicted_iou)
        self._row_N: IntArray = np.full(len(candidates.rles), -1)
        self._boxes_xywh: FloatArray
        self._overlaps_MM: npt.NDArray[np.float64]

    def suppress(self, labels_N: IntArray, *, iou_threshold: float) -> IntArray:
        """Return the candidates that no better one of their class suppresses, best predicted IoU first."""
        boxes = self.candidates.grid_boxes_xyxy
        pairs = self._once(
            ("pairs", iou_threshold), lambda: overlapping_pairs(boxes[self._order], iou_threshold=iou_threshold)
        )
        return self._order[classwise_nms(labels_N[self._order], *pairs)]

    def compare(self, groups: Sequence[IntArray]) -> None:
        """Find boxes of masks, and the overlaps of those that are in a group together.

        Args:
            groups: int64 [n] each: the survivors of a class of one matching, or of all classes of several matchings.
        """
        candidates = self.candidates
        is_left_N = np.zeros(len(candidates.rles), dtype=np.bool_)
        for members in groups:
            is_left_N[members] = True
        left_M = self._order[is_left_N[self._order]]
        self._row_N[left_M] = np.arange(len(left_M))
        size = (candidates.height, candidates.width)
        self._boxes_xywh = rle_boxes_xywh([candidates.rles[index] for index in left_M.tolist()], *size)
        self._overlaps_MM = np.zeros((len(left_M), len(left_M)))
        for members in groups:
            rows = np.sort(self._row_N[members])
            rles = [candidates.rles[index] for index in left_M[rows].tolist()]
            self._overlaps_MM[np.ix_(rows, rows)] = overlaps_with_earlier(rles, *size)

    def boxes_xywh(self, members: IntArray) -> FloatArray:
        """Return the tight boxes of survivors' masks, float32 [n, 4]."""
        return self._boxes_xywh[self._row_N[members]]

    def overlaps(self, members: IntArray) -> npt.NDArray[np.float64]:
        """Return float64 [n, n], the part of survivor i that survivor j < i covers, best first; else 0."""
        rows = self._row_N[members]
        return self._overlaps_MM[np.ix_(rows, rows)]

    def per_class(
        self, name: Hashable, kept: IntArray, labels_M: IntArray, compute: Callable[[IntArray], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Compute something of each class's survivors, once for each set of them.

        Args:
            name: says what, and with which settings.
            kept: int64 [M], survivors, best first; at least one.
            labels_M: int64 [M], their classes.
            compute: gives one value for each of some members of `kept`.

        Returns:
            One value for each survivor, [M].
        """
        groups = members_of_classes(labels_M)
        parts = []
        for group in groups:
            members = kept[group]
            parts.append(self._once((name, members.tobytes()), partial(compute, members)))
        values = np.concatenate(parts)
        values[np.concatenate(groups)] = values.copy()
        return values

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in self._remembered:
            self._remembered[key] = compute()
        return self._remembered[key]
