"""Pictures of target images: ground truth next to predictions, and the run's best and worst images."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ntt.base.digests import content_key
from ntt.base.files import atomic_path
from ntt.data.coco import CocoDataset
from ntt.data.images import read_image
from ntt.data.masks import instance_rle
from ntt.drawing.instances import DrawnInstances
from ntt.drawing.quality import image_quality
from ntt.drawing.sheets import draw_comparison, draw_contact_sheet
from ntt.types import Category, Detections, FloatArray, ImageId, ImageRecord, Instance

_NAME_BYTES = 80


@dataclass(frozen=True)
class TargetRenderer:
    """Draws the chosen target images: ground truth, if there is any, next to predictions that reach their threshold."""

    categories: tuple[Category, ...]
    ground_truth: CocoDataset | None
    folder: Path
    thresholds_C: FloatArray
    image_ids: frozenset[ImageId]

    def picture(self, record: ImageRecord, detections: Detections) -> Image.Image:
        """Draw one image."""
        objects = self._objects(record)
        quality = image_quality(objects, detections, thresholds_C=self.thresholds_C)
        return draw_comparison(
            read_image(record),
            ground_truth=objects,
            detections=detections,
            class_names=[category.name for category in self.categories],
            thresholds_C=self.thresholds_C,
            file_name=Path(record.file_name).name,
            note=f"image {record.id}" + ("" if quality is None else f", panoptic quality {quality:.2f}"),
        )

    def draw(self, record: ImageRecord, detections: Detections) -> Path:
        """Draw one image into `folder` and return the picture's path."""
        return save_picture(self.picture(record, detections), self.folder / f"{picture_stem(record)}.png")

    def quality(self, record: ImageRecord, detections: Detections) -> float | None:
        """Return the image's panoptic quality in [0, 1], or None if there is nothing to compare."""
        return image_quality(self._objects(record), detections, thresholds_C=self.thresholds_C)

    def _objects(self, record: ImageRecord) -> DrawnInstances | None:
        if self.ground_truth is None:
            return None
        return drawn_instances(self.ground_truth.instances_of_image(record.id), self.categories, record, masks={})


def drawn_instances(
    instances: Sequence[Instance], categories: Sequence[Category], record: ImageRecord, *, masks: Mapping[int, bytes]
) -> DrawnInstances:
    """Return the annotated objects of some categories, ready for drawing.

    `masks`, by annotation id, take precedence over the objects' own; objects without either are drawn as boxes.
    """
    labels = {category.id: label for label, category in enumerate(categories)}
    instances = [instance for instance in instances if instance.category_id in labels]
    own = {i.id: instance_rle(i, record.height, record.width) for i in instances if i.segmentation is not None}
    return DrawnInstances(
        labels=np.array([labels[instance.category_id] for instance in instances], dtype=np.int64),
        boxes_xywh=np.array([instance.bbox_xywh for instance in instances], dtype=np.float32).reshape(-1, 4),
        rles=[masks.get(instance.id, own.get(instance.id)) for instance in instances],
        iscrowd=np.array([instance.iscrowd for instance in instances], dtype=bool),
    )


def draw_extremes(
    images: Sequence[ImageRecord],
    detections: Sequence[Detections],
    renderer: TargetRenderer,
    *,
    size: int,
    folder: Path,
) -> list[Path]:
    """Draw the sheets of the best and of the worst images by panoptic quality; none without ground truth.

    Each has at most `size` images and at most half of those that can be ranked, so that no image is on both.
    """
    qualities = [renderer.quality(*pair) for pair in zip(images, detections, strict=True)]
    rated = [(quality, index) for index, quality in enumerate(qualities) if quality is not None]
    best = sorted(rated, key=lambda pair: (-pair[0], pair[1]))[: min(size, (len(rated) + 1) // 2)]
    worst = sorted(rated)[: min(size, len(rated) // 2)]
    sheets = {folder / f"{name}.png": ranked for name, ranked in (("best", best), ("worst", worst)) if ranked}
    for path, ranked in sheets.items():
        tiles = [(renderer.picture(images[i], detections[i]), ()) for _, i in ranked]
        title = f"{path.stem.capitalize()} {len(ranked)} of {len(images)} images"
        save_picture(draw_contact_sheet(tiles, title=title, columns=2), path)
    return list(sheets)


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a PNG or a JPEG, by the path's suffix, atomically; return the path."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG" if path.suffix.lower() == ".png" else "JPEG")
    return path


def picture_stem(record: ImageRecord) -> str:
    """Return a file name for the image's picture: unique by image id, safe on every file system."""
    number = str(record.id) if isinstance(record.id, int) and abs(record.id) < 10**30 else None
    return f"{safe_name(Path(record.file_name).stem)}_{number or content_key([record.id])[:16]}"


def safe_name(text: str) -> str:
    """Return text as part of a file name: letters, digits, dots, dashes and underscores, at most 80 bytes."""
    return re.sub(r"[^\w.-]+", "_", text).encode()[:_NAME_BYTES].decode(errors="ignore")
