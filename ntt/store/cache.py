"""Candidates a process keeps at hand, because the next point of a sweep asks for the same ones."""

from collections import OrderedDict
from dataclasses import dataclass, replace

from ntt.ops.overlaps import all_overlaps
from ntt.types import Candidates

DEFAULT_BYTES = 1 << 30


class CandidateMemory:
    """A bounded memory of candidates by their key in the store.

    Every run goes through all images in the same order. A memory too small for all of them would, if it dropped what
    was used longest ago, always drop the image that is needed next; so only what neither this run nor the one before
    has used makes room, and otherwise a newcomer is not kept.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES, *, overlaps_from_run: int = 8) -> None:
        """Start empty.

        Args:
            limit_bytes: most bytes of arrays and masks that are kept.
            overlaps_from_run: the run of an image in which all overlaps of its masks are computed, for this run and
                every later one. They cost as much as ten runs without them: 2 where many runs are to come.
        """
        self._limit = limit_bytes
        self._overlaps_from_run = overlaps_from_run
        self._bytes = 0
        self._run = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def begin_run(self) -> None:
        """Say that another run begins."""
        self._run += 1

    def get(self, key: str) -> Candidates | None:
        """Return what is kept under a key, or None."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        if found.last_run < self._run:
            found.last_run, found.runs = self._run, found.runs + 1
        if found.runs >= self._overlaps_from_run and found.candidates.overlaps is None:
            found.candidates = replace(found.candidates, overlaps=all_overlaps(found.candidates))
            self._bytes += _bytes_of(found.candidates) - found.size
            found.size = _bytes_of(found.candidates)
        self._kept[key] = found
        return found.candidates

    def put(self, key: str, candidates: Candidates) -> None:
        """Keep candidates if there is room for them, or room can be made."""
        size = _bytes_of(candidates)
        while self._bytes + size > self._limit and self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest].last_run >= self._run - 1:
                return
            self._bytes -= self._kept.pop(oldest).size
        if key not in self._kept and self._bytes + size <= self._limit:
            self._kept[key] = _Kept(candidates, size, last_run=self._run)
            self._bytes += size


@dataclass
class _Kept:
    candidates: Candidates
    size: int
    last_run: int
    runs: int = 1


def _bytes_of(candidates: Candidates) -> int:
    size = candidates.features.nbytes + candidates.grid_boxes_xyxy.nbytes + candidates.predicted_iou.nbytes
    pairs = candidates.overlaps
    if pairs is not None:
        size += pairs.later_P.nbytes + pairs.earlier_P.nbytes + pairs.fractions_P.nbytes
    # 33 bytes is what CPython adds to each bytes object.
    return size + sum(len(rle) + 33 for rle in candidates.rles)
