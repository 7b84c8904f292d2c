"""Masks, boxes and labels painted over an image. Boxes are (left, top, right, bottom) in pixels of the picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ntt.drawing.colours import Rgb, class_colour, text_colour
from ntt.drawing.text import draw_label, label_size, shorten
from ntt.ops.boxes import with_corners
from ntt.ops.masks import decode_masks
from ntt.ops.run_lengths import rle_areas
from ntt.types import BoolArray, ByteArray, DoubleArray, FloatArray, IntArray

MIN_DRAWN_WIDTH = 480
MAX_DRAWN_SIDE = 1600
MASK_OPACITY, BOX_OPACITY = 0.42, 0.1


@dataclass(frozen=True)
class DrawnInstances:
    """The annotated or detected objects of one image, ready for drawing and scoring.

    Attributes:
        labels: int64 [N], class index.
        boxes_xywh: float32 [N, 4], image pixels.
        rles: full-size masks, COCO compressed RLE; None for an object that has only a box.
        iscrowd: bool [N]. A crowd region is named "(crowd)" and never counted as an object.
        scores: float32 [N]; None for annotated objects.
    """

    labels: IntArray
    boxes_xywh: FloatArray
    rles: Sequence[bytes | None]
    iscrowd: BoolArray
    scores: FloatArray | None = None

    def caption(self, index: int, class_names: Sequence[str]) -> str:
        """Return the class name of one object, followed by its score."""
        crowd = "(crowd)" if self.iscrowd[index] else ""
        score = "" if self.scores is None else f"{float(self.scores[index]):.2f}"
        return " ".join(part for part in (class_names[int(self.labels[index])], crowd, score) if part)


def scaled_picture(image_HW3: ByteArray) -> Image.Image:
    """Return the image, uint8 [H, W, 3], at the size at which it is drawn.

    Small images are enlarged to 480 px of width, so that text on them can be read; beyond 1600 px per side they are
    reduced, which takes precedence over the minimum width for very long images.
    """
    picture = Image.fromarray(np.ascontiguousarray(image_HW3))
    scale = min(max(1.0, MIN_DRAWN_WIDTH / picture.width), MAX_DRAWN_SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def draw_instances(image_HW3: ByteArray, instances: DrawnInstances, class_names: Sequence[str]) -> Image.Image:
    """Draw instances over their image: translucent masks with outlines, boxes where there is no mask, labels.

    Instances are painted from the largest to the smallest. Labels are placed from the highest score down, without
    scores from the smallest object up. The picture has the size that `scaled_picture` gives it.
    """
    height, width = image_HW3.shape[:2]
    picture = scaled_picture(image_HW3)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    boxes = np.asarray(instances.boxes_xywh, dtype=np.float64).reshape(-1, 4)
    boxes_xyxy = with_corners(boxes) * scale
    areas = boxes[:, 2] * boxes[:, 3]
    masked = [index for index, rle in enumerate(instances.rles) if rle is not None]
    areas[masked] = rle_areas([rle for rle in instances.rles if rle is not None])
    colours = [class_colour(label) for label in instances.labels.tolist()]
    for i in np.argsort(-areas, kind="stable").tolist():
        rle = instances.rles[i]
        if rle is None or areas[i] == 0:
            mask, opacity = box_mask(picture.size, boxes_xyxy[i]), BOX_OPACITY
        else:
            mask = decode_mask(rle, height=height, width=width).resize(picture.size, Image.Resampling.BILINEAR)
            # A mask that fills the picture is painted more faintly, so that objects on it stay visible.
            opacity = MASK_OPACITY * (1 - 0.6 * areas[i] / (height * width))
        annotate_mask(picture, mask, colour=colours[i], opacity=opacity)
    order = np.argsort(areas if instances.scores is None else -np.asarray(instances.scores), kind="stable").tolist()
    annotate_labels(picture, [(instances.caption(i, class_names), colours[i], boxes_xyxy[i]) for i in order])
    return picture


def decode_mask(rle: bytes, *, height: int, width: int) -> Image.Image:
    """Return a mask at full size, mode L, 0 or 255."""
    return Image.fromarray(decode_masks([rle], height, width)[0].astype(np.uint8) * np.uint8(255))


def box_mask(size: tuple[int, int], box_xyxy: DoubleArray) -> Image.Image:
    """Return the inside of a box as a mask of this width and height, mode L, 0 or 255."""
    mask = Image.new("L", size, 0)
    left, top, right, bottom = np.rint(box_xyxy).astype(int).tolist()
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    ImageDraw.Draw(mask).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=255)
    return mask


def label_size_px(size: tuple[int, int]) -> int:
    """Return the text size for labels on a picture of this width and height."""
    return round(7 + 0.011 * float(np.sqrt(size[0] * size[1])))


def annotate_mask(picture: Image.Image, mask: Image.Image, *, colour: Rgb, opacity: float) -> None:
    """Fill and outline one mask, mode L and of the picture's size; `opacity` in [0, 1] is that of the filling."""
    box = mask.getbbox()
    if box is None:
        return
    # Only the region around the mask is processed, with room for the outline.
    line_px = max(1.5, 0.9 + 0.0013 * float(np.sqrt(picture.width * picture.height)))
    margin = 4 + 2 * round(line_px)
    left, top = max(0, box[0] - margin), max(0, box[1] - margin)
    mask = mask.crop((left, top, min(mask.width, box[2] + margin), min(mask.height, box[3] + margin)))
    picture.paste(colour, (left, top), mask.point(np.rint(np.arange(256) * opacity).astype(int).tolist()))
    # A blurred mask rises from 0 to 255 across its rim, which is where it passes the middle.
    blurred = mask.filter(ImageFilter.GaussianBlur(line_px / 1.35))
    picture.paste((0, 0, 0), (left, top), blurred.point(_rim_table(0.04, 0.35, opacity=0.5)))
    picture.paste(colour, (left, top), blurred.point(_rim_table(0.25, 0.60, opacity=1.0)))


def annotate_labels(picture: Image.Image, labels: Iterable[tuple[str, Rgb, DoubleArray]]) -> None:
    """Write a label at the top-left corner of each box: above the box, or inside where there is no room above.

    A label that would cover an earlier one moves down, as far as the bottom of its box or by two lines. If it is still
    not free it is left out, and colour alone shows the class. The most important labels come first.
    """
    size_px = label_size_px(picture.size)
    draw = ImageDraw.Draw(picture, "RGBA")
    taken: list[tuple[int, int, int, int]] = []
    for text, colour, box_xyxy in labels:
        text = shorten(text, picture.width - label_size("", size_px)[0], size_px)
        width, height = label_size(text, size_px)
        x, y, _, bottom = np.rint(box_xyxy).astype(int).tolist()
        x = min(max(0, x), picture.width - width)
        y = min(y - height if y >= height else max(0, y), picture.height - height)
        lowest = min(picture.height, max(bottom, y + 3 * height))
        while below := [
            b for left, t, right, b in taken if left < x + width and x < right and t < y + height and y < b
        ]:
            y = max(below)
        if text and min(x, y) >= 0 and y + height <= lowest:
            taken.append((x, y, x + width, y + height))
            draw_label(draw, (x, y), text, size_px, fill=colour, ink=text_colour(colour))


@lru_cache(maxsize=4)
def _rim_table(low: float, high: float, *, opacity: float) -> list[int]:
    """Return the outline's opacity per value v of a blurred mask; 1 - |2v - 1| is 1 on the rim, 0 far from it."""
    nearness = 1 - np.abs(2 * np.arange(256) / 255 - 1)
    strength = np.clip((nearness - low) / (high - low), 0, 1) * opacity * 255
    return [int(value) for value in np.rint(strength)]
