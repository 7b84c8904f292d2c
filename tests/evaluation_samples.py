"""Small ground truths and detections for the tests of evaluation: rectangles on images of 40 rows and 50 columns."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ntt.data.coco import CocoDataset, read_coco
from ntt.types import Detections, ImageId, Json

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


def thing(image_id: ImageId, category_id: int, box: Box, *, masked: bool = True, **more: Any) -> Json:
    """An annotation whose mask is its box."""
    entry: Json = {"image_id": image_id, "category_id": category_id, "bbox": list(box), **more}
    if masked:
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": encode(rectangle(box)).decode("ascii")}
    return entry


def dataset(
    folder: Path,
    things: Sequence[Json],
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
        "annotations": list(things),
    }
    path = folder / "targets.json"
    path.write_text(json.dumps(document))
    return read_coco(path, folder)


def found(image_id: ImageId, *ones: tuple[int, Box, float]) -> Detections:
    """Detections of (class index, box, score) whose masks are their boxes."""
    return Detections(
        image_id=image_id,
        height=HEIGHT,
        width=WIDTH,
        labels=np.array([label for label, _, _ in ones], dtype=np.int64),
        scores=np.array([score for _, _, score in ones], dtype=np.float32),
        boxes_xywh=np.array([box for _, box, _ in ones], dtype=np.float32).reshape(-1, 4),
        rles=tuple(encode(rectangle(box)) for _, box, _ in ones),
    )
