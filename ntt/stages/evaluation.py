"""Stage `evaluation`: COCO metrics by pycocotools."""

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt.data.coco import CocoDataset, to_coco_json
from ntt.results import detections_to_coco
from ntt.types import Category, Detections, Json, Metrics

KINDS = ("bbox", "segm")
# name -> (precision or recall, IoU threshold or None for the mean over all, area range, detections an image)
_SUMMARY: dict[str, tuple[str, float | None, str, int]] = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "APs": ("precision", None, "small", 100),
    "APm": ("precision", None, "medium", 100),
    "APl": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
}
_MAX_DETECTIONS = (1, 10, 100)


def evaluate(*, detections: Sequence[Detections], ground_truth: CocoDataset, categories: Sequence[Category]) -> Metrics:
    """Compute box and mask AP and AR (METHOD 7).

    Masks are evaluated only where the ground truth has them.

    Args:
        detections: one entry an image.
        ground_truth: the targets file; every one of its images counts.
        categories: the classes that were searched, in class-index order.

    Returns:
        Percentages. A metric without any ground truth to compute it from is absent.
    """
    truth = to_coco_json(ground_truth, categories)
    predictions = detections_to_coco(detections, categories)
    kinds = KINDS if ground_truth.has_masks else KINDS[:1]
    overall: dict[str, dict[str, float]] = {}
    per_class: dict[str, dict[str, dict[str, float]]] = {}
    for kind in kinds if truth["annotations"] else ():
        result = _run_cocoeval(truth, predictions, kind)
        overall[kind] = _summarise(result, slice(None))
        per_class[kind] = {
            category.name: _summarise(result, slice(place, place + 1)) for place, category in enumerate(categories)
        }
    return Metrics(
        overall=overall,
        per_class=per_class,
        num_images=len(detections),
        num_detections=len(predictions),
    )


def _run_cocoeval(truth: Json, predictions: list[Json], kind: str) -> COCOeval:
    """Run pycocotools on copies (it writes into what it is given) and keep its prints off the screen."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        judge = COCOeval(coco, _load_predictions(coco, predictions, kind), kind)
        judge.params.catIds = [category["id"] for category in truth["categories"]]
        judge.params.maxDets = list(_MAX_DETECTIONS)
        judge.evaluate()
        judge.accumulate()
    return judge


def _load_predictions(coco: COCO, predictions: list[Json], kind: str) -> COCO:
    unused = "bbox" if kind == "segm" else "segmentation"
    if predictions:
        return coco.loadRes([{key: value for key, value in row.items() if key != unused} for row in predictions])
    empty = COCO()
    empty.dataset = {"images": coco.dataset["images"], "categories": coco.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty


def _summarise(judge: COCOeval, classes: slice) -> dict[str, float]:
    """Average over thresholds, recall steps and a range of classes, as COCOeval.summarize does."""
    params: Any = judge.params
    found: dict[str, float] = {}
    for name, (quantity, threshold, area, limit) in _SUMMARY.items():
        steps = slice(None) if threshold is None else np.isclose(params.iouThrs, threshold)
        values: npt.NDArray[np.float64] = judge.eval[quantity][steps][
            ..., classes, params.areaRngLbl.index(area), params.maxDets.index(limit)
        ]
        known = values[values > -1]
        if known.size:
            found[name] = 100.0 * float(np.mean(known))
    return found
