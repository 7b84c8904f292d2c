"""Instances painted over their image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ntt.drawing.annotators import annotate_box, annotate_labels, annotate_mask
from ntt.drawing.colours import ByteArray, class_colour
from ntt.ops.masks import decode_masks, rle_areas
from ntt.types import FloatArray, IntArray

MIN_DRAWN_WIDTH = 480
MAX_DRAWN_SIDE = 1600
MASK_OPACITY = 0.42


@dataclass(frozen=True)
class DrawnInstances:
    """The annotated or detected objects of one image, ready for drawing and scoring.

    Attributes:
        labels: int64 [N], class index.
        boxes_xywh: float32 [N, 4], image pixels.
        rles: full-size masks, COCO compressed RLE; None for an object that has only a box.
        iscrowd: bool [N]. A crowd region is drawn hatched, named "(crowd)", and never counted as an object.
        scores: float32 [N]; None for annotated objects.
    """

    labels: IntArray
    boxes_xywh: FloatArray
    rles: Sequence[bytes | None]
    iscrowd: npt.NDArray[np.bool_]
    scores: FloatArray | None = None

    def caption(self, index: int, class_names: Sequence[str]) -> str:
        """Return the class name of one object, followed by its score."""
        crowd = "(crowd)" if self.iscrowd[index] else ""
        score = "" if self.scores is None else f"{float(self.scores[index]):.2f}"
        return " ".join(part for part in (class_names[int(self.labels[index])], crowd, score) if part)


def scaled_picture(image_HW3: ByteArray) -> Image.Image:
    """Return the image, uint8 [H, W, 3], at the size at which it is drawn.

    Small images are enlarged to 480 px of width, so that text on them can be read; beyond 1600 px per side they are
    reduced, which also wins over the least width for very long images.
    """
    picture = Image.fromarray(np.ascontiguousarray(image_HW3))
    scale = min(max(1.0, MIN_DRAWN_WIDTH / picture.width), MAX_DRAWN_SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def draw_instances(image_HW3: ByteArray, instances: DrawnInstances, class_names: Sequence[str]) -> Image.Image:
    """Draw instances over their image: translucent masks with outlines, thin boxes where there is no mask, labels.

    Instances are painted from the largest to the smallest. Labels are placed from the highest score down, without
    scores from the smallest object up. Sizes as `scaled_picture` gives them.
    """
    height, width = image_HW3.shape[:2]
    picture = scaled_picture(image_HW3)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    boxes = np.asarray(instances.boxes_xywh, dtype=np.float64).reshape(-1, 4)
    boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    areas = np.array(
        [
            float(rle_areas([rle], height, width)[0]) if rle is not None else box[2] * box[3]
            for rle, box in zip(instances.rles, boxes, strict=True)
        ]
    )
    colours = [class_colour(label) for label in instances.labels.tolist()]
    for i in np.argsort(-areas, kind="stable").tolist():
        rle = instances.rles[i]
        if rle is None or areas[i] == 0:
            annotate_box(picture, boxes_xyxy[i], colour=colours[i])
            continue
        mask = decode_mask(rle, height=height, width=width).resize(picture.size, Image.Resampling.BILINEAR)
        # A mask that fills the picture is painted more faintly, so that what lies on it stays visible.
        opacity = MASK_OPACITY * (1 - 0.6 * areas[i] / (height * width))
        annotate_mask(picture, mask, colour=colours[i], opacity=opacity, hatched=bool(instances.iscrowd[i]))
    order = np.argsort(areas if instances.scores is None else -np.asarray(instances.scores), kind="stable").tolist()
    annotate_labels(picture, [(instances.caption(i, class_names), colours[i], boxes_xyxy[i]) for i in order])
    return picture


def decode_mask(rle: bytes, *, height: int, width: int) -> Image.Image:
    """Return a mask at full size, mode L, 0 or 255."""
    return Image.fromarray(decode_masks([rle], height, width)[0].astype(np.uint8) * np.uint8(255))
