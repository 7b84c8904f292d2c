"""Sheets of many small pictures: a run's references, its best and its worst images."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray, class_colour
from ntt.drawing.instances import annotate_box, annotate_mask, decode_mask
from ntt.drawing.text import FAINT_INK, INK, PAPER, draw_notice, line_height_px, shorten, write

_MARGIN = 16
_GAP = 10
_TITLE_PX = 20
_CAPTION_PX = 12
_MIN_WIDTH = 480
_PAGE_COLUMNS, _PAGE_ROWS = 8, 8
_TILE_PX = 176
_MAX_COLUMN_PX = 640

Tile: TypeAlias = tuple[Image.Image, Sequence[str]]
"""A picture and the lines of its caption."""


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

    The side of the crop is 1.5 times the longer side of the box; beyond the image the tile is black.

    The image is uint8 [H, W, 3], RGB, the box in its pixels, `rle` the full-size mask as COCO compressed RLE, None for
    a box-only annotation. The class index `label` decides the colour; the rest is for the caption.
    """
    height, width = image_HW3.shape[:2]
    x, y, box_width, box_height = map(float, box_xywh)
    side = max(1, round(1.5 * max(box_width, box_height)))
    left, top = round(x + (box_width - side) / 2), round(y + (box_height - side) / 2)
    window, size = (left, top, left + side, top + side), (_TILE_PX, _TILE_PX)
    image = Image.fromarray(image_HW3).crop(window).resize(size, Image.Resampling.BICUBIC)
    dark = Image.blend(image, Image.new("RGB", size, (20, 22, 26)), 0.5)
    colour = class_colour(label)
    if rle is None:
        box_xyxy = (np.array([x, y, x + box_width, y + box_height]) - [left, top, left, top]) * (_TILE_PX / side)
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rectangle(tuple(box_xyxy.round().tolist()), fill=255)
        picture = Image.composite(image, dark, mask)
        annotate_box(picture, box_xyxy, colour=colour)
    else:
        mask = decode_mask(rle, height=height, width=width).crop(window).resize(size, Image.Resampling.BICUBIC)
        picture = Image.composite(image, dark, mask)
        annotate_mask(picture, mask, colour=colour, opacity=0.0)
    return picture, (class_name, file_name, f"annotation {annotation_id}{' · box only' if rle is None else ''}")


def draw_reference_pages(tiles: Sequence[Tile], *, title: str) -> list[Image.Image]:
    """Draw tiles on pages of at most 8 x 8; without tiles, one page with a note."""
    starts = range(0, max(1, len(tiles)), _PAGE_COLUMNS * _PAGE_ROWS)
    headings = [f"{title} · page {n + 1} of {len(starts)}" if len(starts) > 1 else title for n in range(len(starts))]
    return [
        draw_contact_sheet(tiles[start : start + _PAGE_COLUMNS * _PAGE_ROWS], title=heading, columns=_PAGE_COLUMNS)
        for start, heading in zip(starts, headings, strict=True)
    ]


def draw_contact_sheet(tiles: Sequence[Tile], *, title: str, columns: int) -> Image.Image:
    """Draw pictures of any size in a grid, in reading order, each with its caption below, as many lines for all.

    Pictures wider than 640 px are reduced to that width.
    """
    title_px = line_height_px(_TITLE_PX) + 12
    tile_width = min(_MAX_COLUMN_PX, max((picture.width for picture, _ in tiles), default=0))
    pictures = [picture.copy() for picture, _ in tiles]
    for picture in pictures:
        picture.thumbnail((tile_width, picture.height), Image.Resampling.LANCZOS)
    line = line_height_px(_CAPTION_PX)
    caption_px = line * len(tiles[0][1]) + 12 if tiles else 120
    starts = range(0, len(tiles), columns)
    heights = [max(picture.height for picture in pictures[i : i + columns]) + caption_px + _GAP for i in starts]

    width = max(_MIN_WIDTH, 2 * _MARGIN + min(columns, len(tiles)) * (tile_width + _GAP) - _GAP)
    sheet = Image.new("RGB", (width, 2 * _MARGIN + title_px + (sum(heights) or caption_px)), PAPER)
    draw = ImageDraw.Draw(sheet)
    title = shorten(title, width - 2 * _MARGIN, _TITLE_PX, bold=True)
    write(draw, (_MARGIN, _MARGIN + line_height_px(_TITLE_PX) // 2), title, _TITLE_PX, bold=True)
    if not tiles:
        draw_notice(sheet, "nothing to show", _TITLE_PX)
    for index, (picture, (_, caption)) in enumerate(zip(pictures, tiles, strict=True)):
        left = _MARGIN + index % columns * (tile_width + _GAP)
        top = _MARGIN + title_px + sum(heights[: index // columns])
        sheet.paste(picture, (left, top))
        for number, text in enumerate(caption):
            bold = number == 0
            text = shorten(text, tile_width, _CAPTION_PX, bold=bold, middle=True)
            middle = top + picture.height + 4 + line * number + line // 2
            write(draw, (left, middle), text, _CAPTION_PX, bold=bold, fill=INK if bold else FAINT_INK)
    return sheet
