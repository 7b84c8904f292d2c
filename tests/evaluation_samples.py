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
from coco_samples import annotation
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ntt.data.coco import CocoDataset, read_coco
from ntt.data.masks import segmentation_rle
from ntt.types import Category, Detections, ImageId, ImageRecord, Instance, Json

HEIGHT, WIDTH = 40, 50
Box = tuple[int, int, int, int]


def rectangle(box: Box, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Bool [rows, columns] of a box (left, top, width, height)."""
    left, top, width, height = box
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    return mask


def encode(mask: np.ndarray) -> bytes:
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def entry(image_id: ImageId, category_id: int, box: Box, *, masked: bool = True, **more: Any) -> Json:
    """An annotation whose mask is its box."""
    mask = {"size": [HEIGHT, WIDTH], "counts": encode(rectangle(box)).decode("ascii")}
    row: Json = {"image_id": image_id, "category_id": category_id, "bbox": list(box), **more}
    return {**row, "segmentation": mask} if masked else row


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
    size = {"height": HEIGHT, "width": WIDTH}
    images = [{"id": each, "file_name": f"{each}.png", **size, **facts.get(each, {})} for each in image_ids]
    names = [{"id": number, "name": name} for number, name in classes.items()]
    names = [row | ({"frequency": letters[row["id"]]} if row["id"] in letters else {}) for row in names]
    path = folder / "targets.json"
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": list(annotations)}))
    return read_coco(path, folder)


def detect(
    image_id: ImageId, *shapes: tuple[int, Box, float], size: tuple[int, int] = (HEIGHT, WIDTH), masks: Any = None
) -> Detections:
    """Detections of (class index, box, score) with these masks; without any, their masks are their boxes."""
    labels, boxes, scores = zip(*shapes, strict=True) if shapes else ((), (), ())
    return Detections(
        image_id,
        *size,
        labels=np.array(labels, dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
        boxes_xywh=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        rles=tuple(map(encode, (rectangle(box, size) for box in boxes) if masks is None else masks)),
    )


def cocoeval(
    dataset: CocoDataset, detections: Sequence[Detections], categories: Sequence[Category], kind: str
) -> COCOeval:
    """Evaluate with pycocotools; images are numbered in the order of their ids, which it takes as numbers only."""
    numbers = {image_id: number for number, image_id in enumerate(sorted(dataset.images, key=_by_type), start=1)}
    ids = {category.id for category in categories}
    objects, rows = [], []
    for each in (instance for instance in dataset.instances if instance.category_id in ids):
        box = list(dataset.boxes_as_written.get(each.id, each.bbox_xywh))
        more: Json = {"area": each.area_px, "iscrowd": int(each.iscrowd)}
        if kind == "segm":
            more["segmentation"] = _mask(each, dataset.images[each.image_id])
        objects.append(annotation(0, numbers[each.image_id], each.category_id, box, **more))
    for image in detections:
        for label, score, box, counts in zip(
            image.labels, image.scores, image.boxes_xywh.tolist(), image.rles, strict=True
        ):
            mask = {"size": [image.height, image.width], "counts": counts}
            more = {"area": box[2] * box[3] if kind == "bbox" else float(coco_mask.area(mask)), "iscrowd": 0}
            category = categories[label].id
            rows.append(
                annotation(0, numbers[image.image_id], category, box, score=float(score), segmentation=mask, **more)
            )
    with contextlib.redirect_stdout(io.StringIO()):
        images = [{"id": numbers[i.id], "height": i.height, "width": i.width} for i in dataset.images.values()]
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
    coco, annotations = COCO(), [{**row, "id": number} for number, row in enumerate(rows, start=1)]
    classes = [{"id": category.id} for category in categories]
    coco.dataset = {"images": images, "categories": classes, "annotations": annotations}
    coco.createIndex()
    return coco
