"""Small annotation files and data sets for the tests of reading and sampling."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ntt.data.coco import CocoDataset, read_coco


def annotation(number: int, image_id: Any, category_id: int, box: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, **more}


def document(**changes: Any) -> dict[str, Any]:
    """One image of 100 rows and 200 columns, classes cat (1) and dog (7), one cat."""
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 100, "width": 200}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": [annotation(1, 5, 1, [20, 20, 50, 40])],
    }
    content.update(changes)
    return {key: value for key, value in content.items() if value is not None}


def read(folder: Path, content: Any, **options: Any) -> CocoDataset:
    """Write an annotation file below `folder` and read it."""
    file = folder / "annotations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    (folder / "images").mkdir(exist_ok=True)
    return read_coco(file, folder / "images", **options)


def many(folder: Path, boxes: list[tuple[int, int, list[float]]], *, num_images: int, **more: Any) -> CocoDataset:
    """A data set of images 0, 1, ... of 400 x 400 px with classes a (1), b (2), c (3), and more in every annotation.

    `boxes` are category id, image id and box of each annotation, which are numbered from 1.
    """
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 400, "width": 400} for i in range(num_images)],
        "categories": [{"id": i, "name": name} for i, name in ((1, "a"), (2, "b"), (3, "c"))],
        "annotations": [
            annotation(number, image_id, category_id, box, **more)
            for number, (category_id, image_id, box) in enumerate(boxes, start=1)
        ],
    }
    return read(folder, content)


def gradient(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: red grows to the right, green downwards, blue is 128."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 5, rows * 5, np.full_like(rows, 128)], axis=2).astype(np.uint8)


def save_image(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path
