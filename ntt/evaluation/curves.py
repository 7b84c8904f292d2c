"""What COCO's protocol measures: precision and recall at fixed thresholds, and the averages people quote.

Suffixes: T IoU thresholds, R recall steps, K classes, A area ranges, M limits of detections an image.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

IOU_THRESHOLDS_T: FloatArray = np.linspace(0.5, 0.95, 10)
RECALL_STEPS_R: FloatArray = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
"""Detections counted, per image and class."""

AREA_RANGES_PX = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
"""Name -> smallest and largest area, both inclusive. Objects and detections outside a range are ignored."""

_ALL = slice(None)
_IOU_50, _IOU_75 = slice(0, 1), slice(5, 6)

# name -> (precision or recall, IoU thresholds, area range, detections an image)
_AVERAGES: dict[str, tuple[str, slice, str, int]] = {
    "AP": ("precision", _ALL, "all", 100),
    "AP50": ("precision", _IOU_50, "all", 100),
    "AP75": ("precision", _IOU_75, "all", 100),
    "APs": ("precision", _ALL, "small", 100),
    "APm": ("precision", _ALL, "medium", 100),
    "APl": ("precision", _ALL, "large", 100),
    "AR1": ("recall", _ALL, "all", 1),
    "AR10": ("recall", _ALL, "all", 10),
    "AR100": ("recall", _ALL, "all", 100),
}


@dataclass(frozen=True)
class Curves:
    """One kind's precision and recall, as `COCOeval.accumulate` lays them out; -1 where a class has no object.

    Attributes:
        precision: float64 [T, R, K, A, M], the largest precision at this recall or a higher one.
        recall: float64 [T, K, A, M], the largest recall.
    """

    precision: FloatArray
    recall: FloatArray


def averages(curves: Curves, classes: slice = slice(None)) -> dict[str, float]:
    """Average over thresholds, recall steps and a range of classes, as `COCOeval.summarize` does.

    Args:
        curves: of all classes.
        classes: the classes to average over, by class index.

    Returns:
        Metric name -> percent. A metric without any object to compute it from is absent.
    """
    found: dict[str, float] = {}
    for name, (quantity, steps, area, limit) in _AVERAGES.items():
        of_all: FloatArray = curves.precision if quantity == "precision" else curves.recall
        values = of_all[steps, ..., classes, list(AREA_RANGES_PX).index(area), MAX_DETECTIONS.index(limit)]
        known = values[values > -1]
        if known.size:
            found[name] = 100.0 * float(np.mean(known))
    return found
