"""Sheets of many small pictures: a run's references, its best and its worst images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.annotators import annotate_box, annotate_mask
from ntt.drawing.colours import ByteArray, as_rgb, class_colours
from ntt.drawing.instances import decode_mask
from ntt.drawing.text import FAINT_INK, INK, PAPER, draw_notice, line_height_px, shorten, write

_MARGIN = 16
_GAP = 10
_TITLE_PX = 20
_CAPTION_PX = 12
_MIN_WIDTH = 480
_PAGE_COLUMNS, _PAGE_ROWS = 8, 8
_BACKDROP = (238, 239, 242)


@dataclass(frozen=True)
class ReferenceTile:
    """One reference instance, cut out and drawn.

    Attributes:
        label: class index.
        picture: RGB, square.
        caption: file name, and annotation id.
    """

    label: int
    picture: Image.Image
    caption: tuple[str, str]


def cut_reference_tile(
    image_HW3: ByteArray,
    *,
    label: int,
    box_xywh: Sequence[float],
    rle: bytes | None,
    file_name: str,
    annotation_id: int,
    side_px: int = 176,
    context: float = 0.5,
) -> ReferenceTile:
    """Cut one reference out of its image, with its outline, its surroundings darkened.

    Tiles are small, so that a sheet of many references needs only one full image in memory at a time.

    Args:
        image_HW3: uint8 [H, W, 3], RGB.
        label: class index; decides the colour.
        box_xywh: in image pixels.
        rle: full-size mask, COCO compressed RLE, or None for a box-only annotation.
        file_name: of the image, for the caption.
        annotation_id: for the caption.
        side_px: side of the tile.
        context: how much wider than the longer side of the box the crop is, as a share of that side. It ends at
            the image's borders; the tile is filled up in light grey.
    """
    height, width = image_HW3.shape[:2]
    x, y, box_width, box_height = map(float, box_xywh)
    # The square around the box, cut at the image's borders; at least one pixel per side.
    half = max(box_width, box_height, 1.0) * (1 + context) / 2
    left = min(max(0.0, x + box_width / 2 - half), width - 1.0)
    top = min(max(0.0, y + box_height / 2 - half), height - 1.0)
    right = max(left + 1.0, min(width, x + box_width / 2 + half))
    bottom = max(top + 1.0, min(height, y + box_height / 2 + half))
    scale = side_px / max(right - left, bottom - top)
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    window = (left, top, right, bottom)

    image = Image.fromarray(np.ascontiguousarray(image_HW3)).resize(size, Image.Resampling.BICUBIC, box=window)
    box_xyxy = (np.array([x, y, x + box_width, y + box_height]) - np.array([left, top, left, top])) * scale
    if rle is None:
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rectangle(tuple(box_xyxy.round().tolist()), fill=255)
    else:
        mask = decode_mask(rle, height=height, width=width).resize(size, Image.Resampling.BICUBIC, box=window)
    dark = Image.blend(image, Image.new("RGB", size, (20, 22, 26)), 0.5)
    image = Image.composite(image, dark, mask)
    colour = as_rgb(class_colours(label + 1)[label])
    if rle is None:
        annotate_box(image, box_xyxy, colour=colour)
    else:
        annotate_mask(image, mask, colour=colour, opacity=0.0)
    picture = Image.new("RGB", (side_px, side_px), _BACKDROP)
    picture.paste(image, ((side_px - size[0]) // 2, (side_px - size[1]) // 2))
    mark = f"annotation {annotation_id}{' · box only' if rle is None else ''}"
    return ReferenceTile(label, picture, (file_name.rsplit("/", 1)[-1], mark))


def draw_reference_sheet(
    tiles: Sequence[ReferenceTile], *, class_names: Sequence[str], title: str = "References"
) -> list[Image.Image]:
    """Draw pages of references by class, each with its class, file name and annotation id.

    Args:
        tiles: in any order; drawn by class index, within a class in the order given.
        class_names: name of each class index.
        title: heading of every page.

    Returns:
        At least one page, of at most 8 x 8 tiles; without tiles it says so.
    """
    ordered = sorted(tiles, key=lambda tile: tile.label)
    captioned = [(tile.picture, (class_names[tile.label], *tile.caption)) for tile in ordered]
    starts = range(0, max(1, len(tiles)), _PAGE_COLUMNS * _PAGE_ROWS)
    headings = [f"{title} · page {n + 1} of {len(starts)}" if len(starts) > 1 else title for n in range(len(starts))]
    return [
        draw_contact_sheet(captioned[start : start + _PAGE_COLUMNS * _PAGE_ROWS], title=heading, columns=_PAGE_COLUMNS)
        for start, heading in zip(starts, headings, strict=True)
    ]


def draw_contact_sheet(
    tiles: Sequence[tuple[Image.Image, Sequence[str]]], *, title: str, columns: int, max_tile_width: int = 640
) -> Image.Image:
    """Draw pictures in a grid, in reading order, each with a caption below.

    Args:
        tiles: pictures of any size, each with the lines of its caption, as many for all.
        title: heading of the sheet.
        columns: pictures per row, at least 1.
        max_tile_width: width of a column, px, where there are pictures of that width. Larger ones are reduced to it.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be 1 or more.")
    title_px = line_height_px(_TITLE_PX) + 12
    tile_width = min(max_tile_width, max((picture.width for picture, _ in tiles), default=0))
    pictures = [_fitted(picture.convert("RGB"), tile_width) for picture, _ in tiles]
    columns = min(columns, len(tiles))
    line = line_height_px(_CAPTION_PX)
    caption_px = line * len(tiles[0][1]) + 12 if tiles else 120
    starts = range(0, len(tiles), columns) if tiles else ()
    heights = [max(picture.height for picture in pictures[i : i + columns]) + caption_px + _GAP for i in starts]

    width = max(_MIN_WIDTH, 2 * _MARGIN + columns * (tile_width + _GAP) - _GAP)
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
            bold, ink = (number == 0, INK if number == 0 else FAINT_INK)
            text = shorten(text, tile_width, _CAPTION_PX, bold=bold, middle=True)
            middle = top + picture.height + 4 + line * number + line // 2
            write(draw, (left, middle), text, _CAPTION_PX, bold=bold, fill=ink)
    return sheet


def _fitted(picture: Image.Image, width: int) -> Image.Image:
    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
