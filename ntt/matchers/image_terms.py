"""One image's candidates and what all matchings of them have in common, whatever the prototypes."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ntt.ops.boxes import best_first, members_of_classes, overlapping_pairs, unsuppressed
from ntt.ops.overlaps import Segments, overlaps_with_earlier
from ntt.ops.run_lengths import take, to_text
from ntt.types import Candidates, DoubleArray, FloatArray, IntArray


class ImageTerms:
    """Intermediate results of matching an image, which later matchings of it reuse.

    Results do not depend on it: each value comes from the same operations on the same operands as without.
    """

    def __init__(self, candidates: Candidates, *, is_shared: bool = False) -> None:
        """Compute nothing yet; `is_shared`: for several matchings, whose classes differ."""
        self.candidates = candidates
        self._is_shared = is_shared
        self._remembered: dict[Hashable, Any] = {}
        self._order = best_first(candidates.predicted_iou)
        self._row_N: IntArray = np.full(len(candidates), -1)
        self._rles_M: npt.NDArray[np.object_]
        self._boxes_xywh: FloatArray
        self._overlaps_MM: DoubleArray

    def suppress(self, labels_N: IntArray, *, iou_threshold: float) -> IntArray:
        """Return the candidates that no better one of their class suppresses, best predicted IoU first."""
        boxes, labels = self.candidates.grid_boxes_xyxy[self._order], labels_N[self._order]
        groups = None if self._is_shared else labels
        find_pairs = partial(overlapping_pairs, boxes, groups, iou_threshold=iou_threshold)
        return self._order[unsuppressed(self._once(("pairs", iou_threshold), find_pairs), labels)]

    def compare(self, groups: Sequence[IntArray]) -> None:
        """Compute boxes of masks, and the overlaps of masks in the same group.

        A group, int64 [n], are the survivors of a class of one matching, or of all classes of several matchings.
        """
        candidates = self.candidates
        group_N = np.full(len(candidates), -1)
        for number, members in enumerate(groups):
            group_N[members] = number
        left_M = self._order[group_N[self._order] >= 0]
        self._row_N[left_M] = np.arange(len(left_M))
        masks = take(candidates.masks, left_M)
        segments = Segments.of(masks, candidates.height, candidates.width)
        self._boxes_xywh = segments.boxes_xywh
        self._overlaps_MM = overlaps_with_earlier(segments, group_N[left_M])
        if self._is_shared:
            self._rles_M = np.array(to_text(masks), dtype=np.object_)

    def rles(self, members: IntArray) -> tuple[bytes, ...]:
        """Encode survivors' masks as COCO compressed RLEs."""
        if self._is_shared:
            return tuple(self._rles_M[self._row_N[members]])
        return to_text(take(self.candidates.masks, members))

    def boxes_xywh(self, members: IntArray) -> FloatArray:
        """Return the tight boxes of survivors' masks, float32 [n, 4]."""
        return self._boxes_xywh[self._row_N[members]]

    def overlaps(self, members: IntArray) -> DoubleArray:
        """Return float64 [n, n], the share of survivor i that survivor j < i covers, best first; else 0."""
        rows = self._row_N[members]
        return self._overlaps_MM.take(rows, axis=0).take(rows, axis=1)

    def per_class(
        self, name: Hashable, survivors_M: IntArray, labels_M: IntArray, compute: Callable[[IntArray], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Compute one value for each survivor, [M], class by class, and only once for each set of them.

        `name` identifies the computation, with its settings; `compute` returns one value for each of some survivors,
        which are int64 indices, best first, at least one.
        """
        groups = members_of_classes(labels_M)
        parts = []
        for group in groups:
            members = survivors_M[group]
            parts.append(self._once((name, members.tobytes()), partial(compute, members)))
        by_class = np.concatenate(parts)
        values_M = np.empty_like(by_class)
        values_M[np.concatenate(groups)] = by_class
        return values_M

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in self._remembered:
            self._remembered[key] = compute()
        return self._remembered[key]
