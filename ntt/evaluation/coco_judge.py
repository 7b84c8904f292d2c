"""The judge: pycocotools' own COCOeval."""

import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt.evaluation.curves import MAX_DETECTIONS, Curves
from ntt.evaluation.table import DetectionTable
from ntt.evaluation.truth import TruthIndex
from ntt.types import Json


def judged_by_pycocotools(table: DetectionTable, truth: TruthIndex, kind: str) -> Curves:
    """Run COCOeval.

    What it writes into (annotations, their masks) is made anew here, so that the ground truth can be shared.

    Args:
        table: the detections.
        truth: the ground truth; with masks for kind "segm".
        kind: "bbox" or "segm".
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        judge = COCOeval(_indexed(truth, _truth_rows(truth, kind)), _indexed(truth, _rows(table, truth, kind)), kind)
        judge.params.maxDets = list(MAX_DETECTIONS["coco"])
        judge.evaluate()
        judge.accumulate()
    return Curves(precision=judge.eval["precision"], recall=judge.eval["recall"])


def _truth_rows(truth: TruthIndex, kind: str) -> list[Json]:
    if kind == "bbox":
        return [dict(entry) for entry in truth.objects]
    return [{**entry, "segmentation": rle} for entry, rle in zip(truth.objects, truth.rles, strict=True)]


def _rows(table: DetectionTable, truth: TruthIndex, kind: str) -> list[Json]:
    """Return the detections as `COCO.loadRes` makes them of a results file."""
    areas = table.box_areas if kind == "bbox" else table.mask_areas
    columns = zip(
        table.images.tolist(), table.labels.tolist(), table.scores.tolist(), table.boxes_xywh.tolist(), strict=True
    )
    return [
        {
            "id": number,
            "image_id": truth.image_ids[image],
            "category_id": truth.categories[label].id,
            "score": score,
            "bbox": box,
            "segmentation": rle,
            "area": area,
            "iscrowd": 0,
        }
        for number, ((image, label, score, box), rle, area) in enumerate(
            zip(columns, map(table.rle, range(len(table))), areas.tolist(), strict=True), start=1
        )
    ]


def _indexed(truth: TruthIndex, rows: list[Json]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": truth.document["images"],
        "categories": truth.document["categories"],
        "annotations": rows,
    }
    coco.createIndex()
    return coco
