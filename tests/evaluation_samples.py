"""Small ground truths and detections for the tests of evaluation: rectangles on images of 40 rows and 50 columns.

And pycocotools as their oracle.
"""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import segmentation_rle
from ntt.types import Category, Detections, ImageId, ImageRecord, Instance, Json

HEIGHT, WIDTH = 40, 50
Box = tuple[int, int, int, int]


def rectangle(box: Box) -> np.ndarray:
    """Bool [HEIGHT, WIDTH] of a box (left, top, width, height)."""
    left, top, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def encode(mask: np.ndarray) -> bytes:
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def entry(image_id: ImageId, category_id: int, box: Box, *, masked: bool = True, **more: Any) -> Json:
    """An annotation whose mask is its box."""
    row: Json = {"image_id": image_id, "category_id": category_id, "bbox": list(box), **more}
    if masked:
        row["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": encode(rectangle(box)).decode("ascii")}
    return row


def dataset(
    folder: Path,
    annotations: Sequence[Json],
    *,
    image_ids: Sequence[ImageId],
    classes: dict[int, str],
    image_facts: Mapping[ImageId, Json] | None = None,
    frequencies: Mapping[int, str] | None = None,
) -> CocoDataset:
    """Write an annotation file and read it. `image_facts` and `frequencies` are what LVIS' files have on top."""
    facts, letters = image_facts or {}, frequencies or {}
    document = {
        "images": [
            {"id": one, "file_name": f"{one}.png", "height": HEIGHT, "width": WIDTH, **facts.get(one, {})}
            for one in image_ids
        ],
        "categories": [
            {"id": number, "name": name} | ({"frequency": letters[number]} if number in letters else {})
            for number, name in classes.items()
        ],
        "annotations": list(annotations),
    }
    path = folder / "targets.json"
    path.write_text(json.dumps(document))
    return read_coco(path, folder)


def detect(image_id: ImageId, *shapes: tuple[int, Box, float]) -> Detections:
    """Detections of (class index, box, score) whose masks are their boxes."""
    return Detections(
        image_id=image_id,
        height=HEIGHT,
        width=WIDTH,
        labels=np.array([label for label, _, _ in shapes], dtype=np.int64),
        scores=np.array([score for _, _, score in shapes], dtype=np.float32),
        boxes_xywh=np.array([box for _, box, _ in shapes], dtype=np.float32).reshape(-1, 4),
        rles=tuple(encode(rectangle(box)) for _, box, _ in shapes),
    )


def cocoeval(
    dataset: CocoDataset, detections: Sequence[Detections], categories: Sequence[Category], kind: str
) -> COCOeval:
    """Evaluate with pycocotools; images are numbered in the order of their ids, which it takes as numbers only."""
    numbers = {image_id: number for number, image_id in enumerate(sorted(dataset.images, key=_by_type), start=1)}
    ids = {category.id for category in categories}
    objects = [
        {
            "image_id": numbers[instance.image_id],
            "category_id": instance.category_id,
            "bbox": list(dataset.boxes_as_written.get(instance.id, instance.bbox_xywh)),
            "area": instance.area_px,
            "iscrowd": int(instance.iscrowd),
            **({"segmentation": _mask(instance, dataset.images[instance.image_id])} if kind == "segm" else {}),
        }
        for instance in dataset.instances
        if instance.category_id in ids
    ]
    rows = [
        {
            "image_id": numbers[each.image_id],
            "category_id": categories[label].id,
            "score": float(score),
            "bbox": [float(value) for value in box],
            "area": float(box[2]) * float(box[3]) if kind == "bbox" else float(coco_mask.area(mask)),
            "segmentation": mask,
            "iscrowd": 0,
        }
        for each in detections
        for label, score, box, counts in zip(each.labels, each.scores, each.boxes_xywh, each.rles, strict=True)
        for mask in [{"size": [each.height, each.width], "counts": counts}]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        images = [{"id": numbers[one.id], "height": one.height, "width": one.width} for one in dataset.images.values()]
        evaluation = COCOeval(_coco(objects, images, categories), _coco(rows, images, categories), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _by_type(image_id: ImageId) -> tuple[bool, ImageId]:
    return isinstance(image_id, str), image_id


def _mask(instance: Instance, image: ImageRecord) -> Json:
    left, top, width, height = instance.bbox_xywh
    box = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    size = [image.height, image.width]
    return {"size": size, "counts": segmentation_rle(instance.segmentation or box, *size)}


def _coco(rows: Sequence[Json], images: Sequence[Json], categories: Sequence[Category]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": images,
        "categories": [{"id": category.id} for category in categories],
        "annotations": [{**row, "id": number} for number, row in enumerate(rows, start=1)],
    }
    coco.createIndex()
    return coco
