"""Instances painted over their image."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ntt.drawing.colours import ByteArray, Rgb, as_rgb, text_colour
from ntt.drawing.placement import place_labels, positions_around
from ntt.drawing.text import chip_size, draw_chip, shorten
from ntt.errors import DataError
from ntt.ops.masks import decode_masks, rle_areas, rle_boxes_xywh
from ntt.types import FloatArray, IntArray

MIN_DRAWN_WIDTH = 480
MAX_DRAWN_SIDE = 1600


@dataclass(frozen=True)
class DrawnInstances:
    """The annotated objects of one image, ready for drawing and scoring.

    Attributes:
        labels: int64 [N], class index.
        boxes_xywh: float32 [N, 4], image pixels.
        rles: full-size masks, COCO compressed RLE; None for an object that has only a box.
        iscrowd: bool [N]. A crowd region is drawn hatched, named "(crowd)", and never counted as an object.
    """

    labels: IntArray
    boxes_xywh: FloatArray
    rles: tuple[bytes | None, ...]
    iscrowd: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Refuse parts of different lengths."""
        lengths = {len(self.labels), len(self.boxes_xywh), len(self.rles), len(self.iscrowd)}
        if len(lengths) > 1:
            raise ValueError(f"labels, boxes_xywh, rles and iscrowd differ in length: {sorted(lengths)}.")


def drawn_size(height: int, width: int) -> tuple[int, int]:
    """Width and height at which an image is drawn.

    Small images are enlarged to 480 px of width, so that text on them can be read; beyond 1600 px a side they are
    reduced, which also wins over the least width for very long images.
    """
    scale = max(1.0, MIN_DRAWN_WIDTH / width)
    scale = min(scale, MAX_DRAWN_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def label_size_px(size: tuple[int, int]) -> int:
    """Text size for labels on a picture of this width and height."""
    return round(7 + 0.011 * float(np.sqrt(size[0] * size[1])))


def scaled_picture(image_HW3: ByteArray) -> Image.Image:
    """The image as an RGB picture of `drawn_size`.

    Args:
        image_HW3: uint8 [H, W, 3].
    """
    if image_HW3.ndim != 3 or image_HW3.shape[2] != 3 or image_HW3.dtype != np.uint8:
        raise ValueError(f"the image must be uint8 [H, W, 3], found {image_HW3.dtype} {list(image_HW3.shape)}.")
    height, width = image_HW3.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(image_HW3))
    size = drawn_size(height, width)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def draw_instances(
    image_HW3: ByteArray,
    *,
    rles: Sequence[bytes | None] | None,
    boxes_xywh: FloatArray,
    labels: IntArray,
    scores: FloatArray | None,
    class_names: Sequence[str],
    colours: ByteArray,
    iscrowd: npt.NDArray[np.bool_] | None = None,
    mask_alpha: float = 0.42,
) -> Image.Image:
    """The image with its instances: translucent masks with outlines, thin boxes where there is no mask, labels.

    Instances are painted from the largest to the smallest. Labels are placed from the highest score down (without
    scores: from the smallest object up) and keep inside the picture; one that finds no free place is left out, its
    class then shows by colour alone.

    Args:
        image_HW3: uint8 [H, W, 3], RGB.
        rles: full-size masks, COCO compressed RLE, None for an instance without; or None when no instance has one.
        boxes_xywh: [N, 4], image pixels.
        labels: [N], class index into `class_names` and `colours`.
        scores: [N], shown behind the name; None shows names alone.
        class_names: any script; a character the fonts lack shows as an empty box.
        colours: uint8 [C, 3], as from `class_colours`.
        iscrowd: [N], instances to draw hatched; None when there are none.
        mask_alpha: opacity of small masks in [0, 1]; a mask that fills the picture gets 40 % of it, so that what
            lies on it stays visible.

    Returns:
        RGB, of the size `drawn_size` gives.
    """
    height, width = image_HW3.shape[:2]
    picture = scaled_picture(image_HW3)
    count = len(labels)
    masks: Sequence[bytes | None] = [None] * count if rles is None else rles
    crowd = np.zeros(count, dtype=bool) if iscrowd is None else iscrowd
    scale = np.array([picture.width / width, picture.height / height] * 2)
    boxes = np.asarray(boxes_xywh, dtype=np.float64).reshape(count, 4)
    boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    mask_points: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None] = [None] * count
    areas = [_area_px(rle, box, height=height, width=width) for rle, box in zip(masks, boxes, strict=True)]
    for i in np.argsort([-area for area in areas], kind="stable").tolist():
        colour = as_rgb(colours[labels[i]])
        mask = _drawn_mask(masks[i], picture.size, height=height, width=width)
        if mask is None:
            paint_box(picture, boxes_xyxy[i], colour, dashed=bool(crowd[i]))
        else:
            paint_mask(
                picture,
                *mask,
                colour=colour,
                alpha=mask_alpha * (1 - 0.6 * areas[i] / (height * width)),
                hatched=bool(crowd[i]),
            )
            mask_points[i] = _label_points(*mask)
    texts = [
        _label_text(class_names[int(labels[i])], None if scores is None else float(scores[i]), bool(crowd[i]))
        for i in range(count)
    ]
    order = np.argsort(areas if scores is None else -np.asarray(scores), kind="stable").tolist()
    _draw_labels(picture, [(texts[i], as_rgb(colours[labels[i]]), boxes_xyxy[i], mask_points[i]) for i in order])
    return picture


def decode_mask(rle: bytes, *, height: int, width: int) -> ByteArray:
    """A full-size mask.

    Returns:
        uint8 [H, W], 0 or 1.

    Raises:
        DataError: when the run lengths exceed an image of this size.
    """
    try:
        decoded: npt.NDArray[np.bool_] = decode_masks([rle], height, width)[0]
    except ValueError as error:
        raise DataError(
            f"a mask does not fit its image of {width} x {height} px (width x height). Masks are compressed run "
            "lengths of the whole image; draw them with the image they were made for."
        ) from error
    return decoded.astype(np.uint8)


_Label = tuple[str, Rgb, npt.NDArray[np.float64], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None]
_PlacedMask = tuple[Image.Image, tuple[int, int]]


def _draw_labels(picture: Image.Image, labels: Sequence[_Label]) -> None:
    size_px = _crowded_label_size_px(picture.size, [text for text, _, _, _ in labels])
    padding = chip_size("", size_px)[0]
    texts = [shorten(text, picture.width - padding, size_px) for text, _, _, _ in labels]
    sizes = [chip_size(text, size_px) for text in texts]
    positions = [
        positions_around(box, size, mask_points=points) for (_, _, box, points), size in zip(labels, sizes, strict=True)
    ]
    boxes = np.array([box for _, _, box, _ in labels]).reshape(-1, 4)
    places = place_labels(positions, sizes, picture_size=picture.size, object_boxes=boxes)
    draw = ImageDraw.Draw(picture, "RGBA")
    # The last label placed is the least certain one: paint it first.
    for place, text, (_, colour, _, _) in reversed(list(zip(places, texts, labels, strict=True))):
        if place is not None and text:
            draw_chip(draw, place, text, size_px, fill=colour, ink=text_colour(colour))


def _crowded_label_size_px(size: tuple[int, int], texts: Sequence[str]) -> int:
    """Labels that would hide more than an eighth of the picture are written smaller, down to 11 px."""
    size_px = label_size_px(size)
    needed = float(sum(np.prod(chip_size(text, size_px)) for text in texts)) / (size[0] * size[1])
    return max(min(11, size_px), round(size_px * min(1.0, (0.125 / needed) ** 0.5))) if needed else size_px


def _label_text(name: str, score: float | None, crowd: bool) -> str:
    parts = [name, "(crowd)" if crowd else "", "" if score is None else f"{score:.2f}"]
    return " ".join(part for part in parts if part)


def _area_px(rle: bytes | None, box_xywh: npt.NDArray[np.float64], *, height: int, width: int) -> float:
    if rle is None:
        return float(box_xywh[2] * box_xywh[3])
    return float(rle_areas([rle], height, width)[0])


def _drawn_mask(rle: bytes | None, size: tuple[int, int], *, height: int, width: int) -> _PlacedMask | None:
    """The part of a mask that is not empty, in pixels of the picture (mode L), and where its left-top corner goes."""
    if rle is None:
        return None
    mask = decode_mask(rle, height=height, width=width)
    left, top, box_width, box_height = rle_boxes_xywh([rle], height, width)[0].tolist()
    if box_width < 1 or box_height < 1:
        return None
    scale_x, scale_y = size[0] / width, size[1] / height
    margin = 4 + 2 * round(_line_px(size))
    x0, y0 = max(0, int(left * scale_x) - margin), max(0, int(top * scale_y) - margin)
    x1 = min(size[0], int((left + box_width) * scale_x) + 1 + margin)
    y1 = min(size[1], int((top + box_height) * scale_y) + 1 + margin)
    source = (x0 / scale_x, y0 / scale_y, min(x1 / scale_x, width), min(y1 / scale_y, height))
    if size == (width, height):
        return Image.fromarray(mask[y0:y1, x0:x1] * np.uint8(255)), (x0, y0)
    whole = Image.fromarray(mask * np.uint8(255))
    return whole.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=source), (x0, y0)


def _line_px(size: tuple[int, int]) -> float:
    return max(1.5, 0.9 + 0.0013 * float(np.sqrt(size[0] * size[1])))


def paint_mask(
    picture: Image.Image,
    mask: Image.Image,
    left_top: tuple[int, int],
    *,
    colour: Rgb,
    alpha: float,
    hatched: bool = False,
) -> None:
    """Fill and outline one mask.

    Args:
        picture: RGB, changed in place.
        mask: mode L, 0 to 255.
        left_top: where its left-top corner lies in the picture.
        colour: of the filling and the outline.
        alpha: opacity of the filling in [0, 1].
        hatched: fill with stripes, as for crowd regions.
    """
    filling = ImageChops.multiply(mask, _stripes(mask.size)) if hatched else mask
    picture.paste(colour, left_top, filling.point(np.rint(np.arange(256) * alpha).astype(int).tolist()))
    # Across the rim of a blurred mask the values run from 0 to 255; the rim itself is where they pass the middle.
    blurred = mask.filter(ImageFilter.GaussianBlur(_line_px(picture.size) / 1.35))
    picture.paste((0, 0, 0), left_top, blurred.point(_rim_table(0.04, 0.35, opacity=0.5)))
    picture.paste(colour, left_top, blurred.point(_rim_table(0.25, 0.60, opacity=1.0)))


@lru_cache(maxsize=4)
def _rim_table(low: float, high: float, *, opacity: float) -> list[int]:
    """For each value of a blurred mask the opacity of its outline; 1 - |2v - 1| is 1 on the rim, 0 far from it."""
    nearness = 1 - np.abs(2 * np.arange(256) / 255 - 1)
    strength = np.clip((nearness - low) / (high - low), 0, 1) * opacity * 255
    return [int(value) for value in np.rint(strength)]


def _stripes(size: tuple[int, int]) -> Image.Image:
    rows, columns = np.arange(size[1])[:, None], np.arange(size[0])[None, :]
    return Image.fromarray(np.where((rows + columns) % 12 < 5, 255, 40).astype(np.uint8))


def paint_box(picture: Image.Image, box_xyxy: npt.NDArray[np.float64], colour: Rgb, *, dashed: bool = False) -> None:
    """Outline one box, in place; `box_xyxy` in pixels of the picture."""
    limits = np.array([picture.width - 1, picture.height - 1] * 2)
    left, top, right, bottom = np.clip(np.rint(box_xyxy), 0, limits).astype(int).tolist()
    line = max(1, round(_line_px(picture.size)))
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0, 110), width=line + 2)
    if not dashed:
        draw.rectangle((left, top, right, bottom), fill=(*colour, 26), outline=(*colour, 255), width=line)
        return
    dash = 4 * line
    for x in range(left, right + 1, 2 * dash):
        for y in (top, max(top, bottom - line + 1)):
            draw.rectangle((x, y, min(x + dash, right), y + line - 1), fill=(*colour, 255))
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, max(left, right - line + 1)):
            draw.rectangle((x, y, x + line - 1, min(y + dash, bottom)), fill=(*colour, 255))


def _label_points(
    mask: Image.Image, left_top: tuple[int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The middle of the mask's upper rim and its innermost point, (x, y) in the picture; found on a small copy."""
    small = np.asarray(mask.resize((min(48, mask.width), min(48, mask.height)), Image.Resampling.BOX), dtype=np.float64)
    step = np.array([mask.width / small.shape[1], mask.height / small.shape[0]])
    solid = small >= min(128.0, float(small.max()))
    inside = np.argwhere(solid)
    first_row = int(inside[:, 0].min())
    upper = inside[inside[:, 0] <= first_row + max(1, small.shape[0] // 12)]
    rim = np.array([float(np.median(upper[:, 1])) + 0.5, float(first_row)])
    from scipy import ndimage

    # The frame counts as outside, or the innermost point of a mask that fills the picture would be its corner.
    depth = ndimage.distance_transform_edt(np.pad(solid, 1), sampling=step[::-1])
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    deep = np.array([float(column) - 0.5, float(row) - 0.5])
    return np.array(left_top) + rim * step, np.array(left_top) + deep * step
