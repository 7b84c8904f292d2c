"""Stage `visualisation`: pictures of references, predictions, and a run's best and worst images."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ntt.base.distributed import ProcessGroup, gather, share
from ntt.base.files import atomic_path
from ntt.base.progress import track
from ntt.data.coco import CocoDataset
from ntt.data.images import read_image
from ntt.data.masks import instance_rle
from ntt.drawing import (
    DrawnInstances,
    cut_reference_tile,
    draw_comparison,
    draw_contact_sheet,
    draw_reference_sheet,
    image_quality,
)
from ntt.models.box_masks import ReferenceMasks
from ntt.types import Category, Detections, ImageId, ImageRecord, ReferenceSet

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetPainter:
    """Draws target images, ground truth beside predictions.

    Attributes:
        categories: in class-index order.
        ground_truth: the targets file, or None where it has no annotations at all.
        folder: where pictures are written.
        score_threshold: predictions from this score on are drawn.
        chosen: ids of the images to draw.
    """

    categories: tuple[Category, ...]
    ground_truth: CocoDataset | None
    folder: Path
    score_threshold: float
    chosen: frozenset[ImageId]

    def picture(self, record: ImageRecord, detections: Detections) -> Image.Image:
        """Draw one image."""
        quality = self.quality(record, detections)
        return draw_comparison(
            read_image(record),
            ground_truth=self._truth(record),
            detections=detections,
            class_names=[category.name for category in self.categories],
            score_threshold=self.score_threshold,
            file_name=Path(record.file_name).name,
            note="" if quality is None else f"panoptic quality {quality:.2f}",
        )

    def draw(self, record: ImageRecord, detections: Detections) -> Path:
        """Draw one image into `folder` and return the picture's path."""
        path = self.folder / f"{picture_stem(record)}.png"
        save_picture(self.picture(record, detections), path)
        return path

    def draw_if_chosen(self, record: ImageRecord, detections: Detections) -> None:
        """Draw one image if it is among the chosen."""
        if record.id in self.chosen:
            self.draw(record, detections)

    def quality(self, record: ImageRecord, detections: Detections) -> float | None:
        """Return the image's panoptic quality in [0, 1], or None where there is nothing to compare."""
        return image_quality(self._truth(record), detections, score_threshold=self.score_threshold)

    def _truth(self, record: ImageRecord) -> DrawnInstances | None:
        if self.ground_truth is None:
            return None
        index = {category.id: place for place, category in enumerate(self.categories)}
        found = [one for one in self.ground_truth.instances_of_image(record.id) if one.category_id in index]
        return DrawnInstances(
            labels=np.array([index[one.category_id] for one in found], dtype=np.int64),
            boxes_xywh=np.array([one.bbox_xywh for one in found], dtype=np.float32).reshape(-1, 4),
            rles=tuple(
                None if one.segmentation is None else instance_rle(one, record.height, record.width) for one in found
            ),
            iscrowd=np.array([one.iscrowd for one in found], dtype=bool),
        )


def draw_references(*, references: ReferenceSet, masks: ReferenceMasks, folder: Path) -> list[Path]:
    """Draw a sheet of the sampled references with the masks that are used; several pages where there are many."""
    tiles = []
    for label, members in enumerate(references.instances):
        for one in members:
            record = references.images[one.image_id]
            tiles.append(
                cut_reference_tile(
                    read_image(record),
                    label=label,
                    box_xywh=one.bbox_xywh,
                    rle=masks.rle(one, record),
                    file_name=Path(record.file_name).name,
                    annotation_id=one.id,
                )
            )
    names = [category.name for category in references.categories]
    shots = "1 shot" if references.shots == 1 else f"{references.shots} shots"
    title = f"References: {shots}, seed {references.seed}"
    pages = draw_reference_sheet(tiles, class_names=names, title=title)
    paths = [folder / ("references.png" if len(pages) == 1 else f"references_{n + 1}.png") for n in range(len(pages))]
    for page, path in zip(pages, paths, strict=True):
        save_picture(page, path)
    return paths


def draw_targets(
    *, images: Sequence[ImageRecord], detections: Sequence[Detections], painter: TargetPainter, group: ProcessGroup
) -> list[Path]:
    """Draw one comparison for each chosen image; images are dealt out over all processes."""
    pairs = [pair for pair in zip(images, detections, strict=True) if pair[0].id in painter.chosen]
    mine = track(share(pairs, group), "visualisation", unit="picture", visible=group.is_main)
    return gather([(place, painter.draw(record, found)) for place, (record, found) in mine], len(pairs), group)


def draw_extremes(
    *, images: Sequence[ImageRecord], detections: Sequence[Detections], painter: TargetPainter, size: int, folder: Path
) -> list[Path]:
    """Draw the sheets of the best and of the worst images by panoptic quality; none without ground truth.

    Each shows at most `size` images and at most half of those that can be ranked, so that no image is on both; a
    single one is shown as the best.
    """
    rated = [
        (quality, place)
        for place, (record, found) in enumerate(zip(images, detections, strict=True))
        if (quality := painter.quality(record, found)) is not None
    ]
    best = sorted(rated, key=lambda pair: (-pair[0], pair[1]))[: min(size, (len(rated) + 1) // 2)]
    worst = sorted(rated)[: min(size, len(rated) // 2)]
    paths: list[Path] = []
    for name, chosen in (("best", best), ("worst", worst)):
        if not chosen:
            continue
        # Each picture carries its file name and its quality; the caption tells which run's image id it is.
        tiles = [(painter.picture(images[i], detections[i]), f"image {images[i].id}") for _, i in chosen]
        sheet = draw_contact_sheet(tiles, title=f"{name.capitalize()} {len(chosen)} of {len(images)} images", columns=2)
        paths.append(folder / f"{name}.png")
        save_picture(sheet, paths[-1])
    return paths


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def picture_stem(record: ImageRecord) -> str:
    """Return a file name for the image's picture: unique by image id, safe on every file system."""
    return f"{safe_name(Path(record.file_name).stem)}_{re.sub(r'[^0-9A-Za-z_.-]+', '_', str(record.id))}"[-120:]


def safe_name(text: str) -> str:
    """Return text as part of a file name: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", text)
