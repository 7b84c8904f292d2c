"""Pictures in a grid with their captions: ground truth next to predictions, references, the best and worst images."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.colours import class_colour
from ntt.drawing.instances import DrawnInstances, annotate_mask, box_mask, decode_mask, draw_instances, label_size_px
from ntt.drawing.text import FAINT_INK, INK, PAPER, draw_notice, line_height_px, shorten, text_width_px, write
from ntt.errors import counted, range_text
from ntt.types import ByteArray, Detections, FloatArray

_MARGIN, _GAP, _MIN_WIDTH = 16, 10, 480
_CAPTION_PX = 12
_TITLE_SCALE = 1.6
_PAGE_COLUMNS, _PAGE_ROWS = 8, 8
_TILE_PX = 176
_MAX_COLUMN_PX = 640

Tile: TypeAlias = tuple[Image.Image, Sequence[str]]
"""A picture and the lines of its caption."""


def draw_comparison(
    image_HW3: ByteArray,
    *,
    ground_truth: DrawnInstances | None,
    detections: Detections,
    class_names: Sequence[str],
    thresholds_C: FloatArray,
    file_name: str = "",
    note: str = "",
) -> Image.Image:
    """Draw ground truth on the left, predictions on the right, a header above.

    The image is uint8 [H, W, 3], RGB, the picture at least 480 px wide. Without ground truth, predictions are drawn
    alone, from the threshold of their class on. The header has the file name at the left and the note at the right.
    """
    predicted = _confident(detections, thresholds_C)
    tiles: list[Tile] = []
    if ground_truth is not None:
        picture = _picture(image_HW3, ground_truth, class_names, "no object annotated")
        tiles.append((picture, ("Ground truth", _counts(ground_truth))))
    threshold = range_text(thresholds_C.tolist())
    picture = _picture(image_HW3, predicted, class_names, f"no detection above {threshold}")
    detail = f"{len(predicted.labels)} of {len(detections.labels)} with score ≥ {threshold}"
    tiles.append((picture, ("Predictions", detail)))
    return draw_contact_sheet(tiles, title=file_name, note=note, columns=len(tiles), most_px=picture.width)


def _confident(detections: Detections, thresholds_C: FloatArray) -> DrawnInstances:
    indices = detections.reaching(thresholds_C)
    return DrawnInstances(
        labels=detections.labels[indices],
        boxes_xywh=detections.boxes_xywh[indices],
        rles=[detections.rles[index] for index in indices.tolist()],
        iscrowd=np.zeros(len(indices), dtype=bool),
        scores=detections.scores[indices],
    )


def _counts(ground_truth: DrawnInstances) -> str:
    """Return what is annotated, such as "2 objects, 1 crowd region"."""
    crowds = int(ground_truth.iscrowd.sum())
    parts = [counted(len(ground_truth.labels) - crowds, "object")]
    parts += [counted(crowds, "crowd region")] if crowds else []
    parts += ["boxes only"] if ground_truth.rles and not any(ground_truth.rles) else []
    return ", ".join(parts)


def _picture(image_HW3: ByteArray, instances: DrawnInstances, class_names: Sequence[str], notice: str) -> Image.Image:
    picture = draw_instances(image_HW3, instances, class_names)
    if not len(instances.labels):
        draw_notice(picture, notice, _caption_size_px(picture))
    return picture


def cut_reference_tile(
    image_HW3: ByteArray,
    *,
    label: int,
    class_name: str,
    box_xywh: Sequence[float],
    rle: bytes | None,
    file_name: str,
    annotation_id: int,
) -> Tile:
    """Cut one reference out of its image, outlined, with its surroundings darkened.

    The side of the crop is 1.5 times the longer side of the box; beyond the image the tile is black. The image is uint8
    [H, W, 3], RGB, the box in its pixels, `rle` the full-size mask as COCO compressed RLE, None for a box-only
    annotation. The class index `label` decides the colour; the rest is for the caption.
    """
    height, width = image_HW3.shape[:2]
    x, y, box_width, box_height = map(float, box_xywh)
    side = max(1, round(1.5 * max(box_width, box_height)))
    left, top = round(x + (box_width - side) / 2), round(y + (box_height - side) / 2)
    window, size = (left, top, left + side, top + side), (_TILE_PX, _TILE_PX)
    image = Image.fromarray(image_HW3).crop(window).resize(size, Image.Resampling.BICUBIC)
    dark = Image.blend(image, Image.new("RGB", size, (20, 22, 26)), 0.5)
    if rle is None:
        mask = box_mask((width, height), np.array([x, y, x + box_width, y + box_height]))
    else:
        mask = decode_mask(rle, height=height, width=width)
    mask = mask.crop(window).resize(size, Image.Resampling.BICUBIC)
    picture = Image.composite(image, dark, mask)
    annotate_mask(picture, mask, colour=class_colour(label), opacity=0.0)
    return picture, (class_name, file_name, f"annotation {annotation_id}{' · box only' if rle is None else ''}")


def draw_reference_pages(tiles: Sequence[Tile], *, title: str) -> list[Image.Image]:
    """Draw tiles on pages of at most 8 x 8; without tiles, one page with a note."""
    starts = range(0, max(1, len(tiles)), _PAGE_COLUMNS * _PAGE_ROWS)
    headings = [f"{title} · page {n + 1} of {len(starts)}" if len(starts) > 1 else title for n in range(len(starts))]
    return [
        draw_contact_sheet(tiles[start : start + _PAGE_COLUMNS * _PAGE_ROWS], title=heading, columns=_PAGE_COLUMNS)
        for start, heading in zip(starts, headings, strict=True)
    ]


def draw_contact_sheet(
    tiles: Sequence[Tile],
    *,
    title: str = "",
    note: str = "",
    columns: int,
    most_px: int = _MAX_COLUMN_PX,
) -> Image.Image:
    """Draw pictures of any size in a grid, in reading order, each with its caption below, as many lines for all.

    Pictures wider than `most_px` are reduced to that width. The title is above them, with a note at its right; the
    largest picture decides the size of the text.
    """
    tile_width = min(most_px, max((picture.width for picture, _ in tiles), default=0))
    pictures = [picture.copy() for picture, _ in tiles]
    for picture in pictures:
        picture.thumbnail((tile_width, picture.height), Image.Resampling.LANCZOS)
    text_px = max(map(_caption_size_px, pictures), default=_CAPTION_PX)
    title_px, line = round(_TITLE_SCALE * text_px), line_height_px(text_px)
    title_height = line_height_px(title_px) + 12 if title or note else 0
    caption_height = line * len(tiles[0][1]) + 4 if tiles and tiles[0][1] else 0
    starts = range(0, len(tiles), columns)
    heights = [max(picture.height for picture in pictures[i : i + columns]) + caption_height + _GAP for i in starts]

    width = max(_MIN_WIDTH, 2 * _MARGIN + min(columns, len(tiles)) * (tile_width + _GAP) - _GAP)
    height = 2 * _MARGIN + title_height + (sum(heights) - _GAP if tiles else 120)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, middle = ImageDraw.Draw(sheet), _MARGIN + line_height_px(title_px) // 2
    if note:
        write(draw, (width - _MARGIN, middle), note, text_px, anchor="rm")
    room = width - 2 * _MARGIN - (text_width_px(note, text_px) + _GAP if note else 0)
    write(draw, (_MARGIN, middle), shorten(title, room, title_px, bold=True, middle=True), title_px, bold=True)
    if not tiles:
        draw_notice(sheet, "nothing to show", title_px)
    for index, (picture, (_, caption)) in enumerate(zip(pictures, tiles, strict=True)):
        left = _MARGIN + index % columns * (tile_width + _GAP)
        top = _MARGIN + title_height + sum(heights[: index // columns])
        sheet.paste(picture, (left, top))
        for number, text in enumerate(caption):
            bold = number == 0
            text = shorten(text, tile_width, text_px, bold=bold, middle=True)
            middle = top + picture.height + 4 + line * number + line // 2
            write(draw, (left, middle), text, text_px, bold=bold, fill=INK if bold else FAINT_INK)
    return sheet


def _caption_size_px(picture: Image.Image) -> int:
    """Return the text size for captions of a picture."""
    return max(_CAPTION_PX, label_size_px(picture.size))
