"""What the protocols measure: precision and recall at fixed thresholds, and the averages that are quoted.

Suffixes: T IoU thresholds, R recall steps, K classes, A area ranges, M limits of detections per image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ntt.types import DoubleArray

Protocol = Literal["coco", "lvis"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

Painting = Literal["none", "correct", "reference"]
PAINTINGS: tuple[str, ...] = get_args(Painting)

FIXED_THRESHOLD = 0.4
"""Lowest score of detections shown, if the references propose none."""


IOU_THRESHOLDS_T: DoubleArray = np.linspace(0.5, 0.95, 10)
RECALL_STEPS_R: DoubleArray = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS: Mapping[Protocol, tuple[int, ...]] = {"coco": (1, 10, 100), "lvis": (300,)}
"""Detections counted: COCO's protocol counts them per image and class, LVIS' per image over all classes."""

AREA_RANGES_PX = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Name -> smallest and largest area, both inclusive. Objects and detections outside a range are ignored."""

_ALL = slice(None)
_IOU_50, _IOU_75 = slice(0, 1), slice(5, 6)

# name -> (IoU thresholds, area range), with the protocol's largest number of detections
_PRECISIONS = {
    "AP": (_ALL, "all"),
    "AP50": (_IOU_50, "all"),
    "AP75": (_IOU_75, "all"),
    "APs": (_ALL, "small"),
    "APm": (_ALL, "medium"),
    "APl": (_ALL, "large"),
}
# name -> (area range, detections)
_RECALLS: Mapping[Protocol, Mapping[str, tuple[str, int]]] = {
    "coco": {"AR1": ("all", 1), "AR10": ("all", 10), "AR100": ("all", 100)},
    "lvis": {
        "AR300": ("all", 300),
        "ARs300": ("small", 300),
        "ARm300": ("medium", 300),
        "ARl300": ("large", 300),
    },
}


@dataclass(frozen=True)
class Curves:
    """Precision and recall of boxes or masks, in the order of `COCOeval.accumulate`; -1 for classes without objects."""

    precision: DoubleArray
    """float64 [T, R, K, A], the largest precision at this recall or above, with the largest limit of detections."""
    recall: DoubleArray
    """float64 [T, K, A, M], the largest recall."""
    protocol: Protocol = "coco"


def averages(curves: Curves, classes: slice | Sequence[int] = slice(None)) -> dict[str, float]:
    """Average over thresholds, recall steps and some class indices, as the protocol's own program does: percent.

    Metrics without objects to be computed from are absent.
    """
    limits = MAX_DETECTIONS[curves.protocol]
    areas = {name: index for index, name in enumerate(AREA_RANGES_PX)}
    values = {
        name: curves.precision[steps, ..., areas[area]][:, :, classes] for name, (steps, area) in _PRECISIONS.items()
    }
    for name, (area, limit) in _RECALLS[curves.protocol].items():
        values[name] = curves.recall[..., areas[area], limits.index(limit)][:, classes]
    present = {name: cells[cells > -1] for name, cells in values.items()}
    return {name: 100.0 * float(np.mean(cells)) for name, cells in present.items() if cells.size}
