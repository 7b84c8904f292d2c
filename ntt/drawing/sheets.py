"""Sheets of many small pictures: a run's references, its best and its worst images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.colours import ByteArray, as_rgb, class_colours
from ntt.drawing.instances import decode_mask, paint_box, paint_mask
from ntt.drawing.text import FAINT_INK, INK, PAPER, RULE, draw_notice, line_height_px, shorten, text_width_px, write

_MARGIN = 16
_GAP = 10
_TITLE_PX = 20
_NAME_PX = 15
_CAPTION_PX = 11
_EMPTY_WIDTH = 480
_BACKDROP = (238, 239, 242)


@dataclass(frozen=True)
class ReferenceTile:
    """One reference instance, cut out and drawn.

    Attributes:
        label: class index.
        picture: RGB, square.
        file_name: of the image it was cut from.
        annotation_id: as the annotation file has it.
        box_only: True when the annotation has no mask.
    """

    label: int
    picture: Image.Image
    file_name: str
    annotation_id: int
    box_only: bool


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
    x, y, box_width, box_height = (float(value) for value in box_xywh)
    window = _window((x, y, box_width, box_height), height=height, width=width, context=context)
    scale = side_px / max(window[2] - window[0], window[3] - window[1])
    image = _cut(Image.fromarray(np.ascontiguousarray(image_HW3)), window, scale)
    inner = (np.array([x, y, x + box_width, y + box_height]) - np.array(window[:2] * 2)) * scale
    colour = as_rgb(class_colours(label + 1)[label])
    if rle is None:
        shape = Image.new("L", image.size, 0)
        ImageDraw.Draw(shape).rectangle(tuple(inner.round().tolist()), fill=255)
    else:
        shape = _cut(Image.fromarray(decode_mask(rle, height=height, width=width) * np.uint8(255)), window, scale)
    dark = Image.blend(image, Image.new("RGB", image.size, (20, 22, 26)), 0.5)
    image = Image.composite(image, dark, shape)
    if rle is None:
        paint_box(image, inner, colour)
    else:
        paint_mask(image, shape, (0, 0), colour=colour, alpha=0.0)
    picture = Image.new("RGB", (side_px, side_px), _BACKDROP)
    picture.paste(image, ((side_px - image.width) // 2, (side_px - image.height) // 2))
    return ReferenceTile(label, picture, file_name, annotation_id, rle is None)


def draw_reference_sheet(
    entries: Sequence[ReferenceTile],
    *,
    class_names: Sequence[str],
    title: str = "References",
    max_page_size: tuple[int, int] = (1600, 2200),
) -> list[Image.Image]:
    """Pages of references by class: each class's name, below it its references with file name and annotation id.

    Each class begins a row, unless it fits whole behind the one before, so that a sheet of one-shot references is not
    mostly empty paper.

    Args:
        entries: in any order; drawn by class index, within a class in the order given.
        class_names: name of each class index.
        title: heading of every page.
        max_page_size: width and height no page exceeds, as long as one tile fits. More references than fit into one
            row go on in the next; more rows than fit onto one page go on on the next page.

    Returns:
        At least one page; without entries it says so.
    """
    if not entries:
        return [_empty_page(title, "no references")]
    tile_px = max(entry.picture.width for entry in entries)
    columns = max(1, (max_page_size[0] - 2 * _MARGIN + _GAP) // (tile_px + _GAP))
    rows = _reference_rows(entries, columns)
    columns = max(sum(len(block.tiles) for block in row) for row in rows)
    row_px = line_height_px(_NAME_PX) + 8 + tile_px + 2 * line_height_px(_CAPTION_PX) + 18
    rows_a_page = max(1, (max_page_size[1] - 2 * _MARGIN - _title_px()) // row_px)
    pages = [rows[i : i + rows_a_page] for i in range(0, len(rows), rows_a_page)]
    width = min(max_page_size[0], max(_EMPTY_WIDTH, 2 * _MARGIN + columns * (tile_px + _GAP) - _GAP))
    pictures = []
    for number, page in enumerate(pages, start=1):
        heading = title if len(pages) == 1 else f"{title} · page {number} of {len(pages)}"
        canvas, draw = _page(heading, (width, 2 * _MARGIN + _title_px() + row_px * len(page)))
        for i, row in enumerate(page):
            left = _MARGIN
            for block in row:
                top = _MARGIN + _title_px() + i * row_px
                _draw_block(canvas, draw, (left, top), block, class_names[block.label], tile_px)
                left += len(block.tiles) * (tile_px + _GAP)
        pictures.append(canvas)
    return pictures


def draw_contact_sheet(
    tiles: Sequence[tuple[Image.Image, str]], *, title: str, columns: int, tile_width: int = 640
) -> Image.Image:
    """Pictures in a grid, in reading order, each with a caption below, such as "quality 0.83".

    Args:
        tiles: pictures of any size, each with its caption.
        title: heading of the sheet.
        columns: how many pictures a row, at least 1.
        tile_width: mean width of a picture, px. The pictures of a row get one height and together fill it.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be 1 or more.")
    if not tiles:
        return _empty_page(title, "no images")
    columns = min(columns, len(tiles))
    inner = columns * (tile_width + _GAP) - _GAP
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    pictures = [_justified([picture for picture, _ in row], inner, columns) for row in rows]
    caption_px = line_height_px(_CAPTION_PX + 2) + 8
    heights = [row[0].height + caption_px + _GAP for row in pictures]
    width = max(_EMPTY_WIDTH, 2 * _MARGIN + inner)
    canvas, draw = _page(title, (width, 2 * _MARGIN + _title_px() + sum(heights) - _GAP))
    top = _MARGIN + _title_px()
    for row, drawn, height in zip(rows, pictures, heights, strict=True):
        left = _MARGIN
        for (_, caption), picture in zip(row, drawn, strict=True):
            canvas.paste(picture, (left, top))
            text = shorten(caption, picture.width, _CAPTION_PX + 2, middle=True)
            write(draw, (left, top + picture.height + caption_px // 2), text, _CAPTION_PX + 2)
            left += picture.width + _GAP
        top += height
    return canvas


@dataclass(frozen=True)
class _Block:
    """References of one class that stand in one row; `count` is how many the class has in all."""

    label: int
    tiles: Sequence[ReferenceTile]
    count: int
    continued: bool


def _reference_rows(entries: Sequence[ReferenceTile], columns: int) -> list[list[_Block]]:
    rows: list[list[_Block]] = []
    used = columns
    for label in sorted({entry.label for entry in entries}):
        tiles = [entry for entry in entries if entry.label == label]
        for start in range(0, len(tiles), columns):
            block = _Block(label, tiles[start : start + columns], len(tiles), continued=start > 0)
            if used + len(block.tiles) > columns:
                rows.append([])
                used = 0
            rows[-1].append(block)
            used += len(block.tiles)
    return rows


def _draw_block(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    left_top: tuple[int, int],
    block: _Block,
    name: str,
    tile_px: int,
) -> None:
    left, top = left_top
    _draw_block_heading(draw, left_top, block, name, len(block.tiles) * (tile_px + _GAP) - _GAP)
    top += line_height_px(_NAME_PX) + 8
    step = line_height_px(_CAPTION_PX)
    for tile in block.tiles:
        canvas.paste(tile.picture, (left, top))
        file_name = shorten(tile.file_name.rsplit("/", 1)[-1], tile_px, _CAPTION_PX, middle=True)
        write(draw, (left, top + tile_px + 4 + step // 2), file_name, _CAPTION_PX)
        mark = f"annotation {tile.annotation_id}" + (" · box only" if tile.box_only else "")
        mark = shorten(mark, tile_px, _CAPTION_PX)
        write(draw, (left, top + tile_px + 4 + step + step // 2), mark, _CAPTION_PX, fill=FAINT_INK)
        left += tile_px + _GAP


def _draw_block_heading(
    draw: ImageDraw.ImageDraw, left_top: tuple[int, int], block: _Block, name: str, width: int
) -> None:
    left, top = left_top
    draw.line((left, top, left + width, top), fill=RULE)
    middle = top + 4 + line_height_px(_NAME_PX) // 2
    colour = as_rgb(class_colours(block.label + 1)[block.label])
    draw.rounded_rectangle((left, middle - 6, left + 12, middle + 6), radius=3, fill=colour)
    counted = "continued" if block.continued else f"{block.count} reference{'' if block.count == 1 else 's'}"
    room = width - 28 - text_width_px(counted, _CAPTION_PX)
    shown = shorten(name, room, _NAME_PX, bold=True)
    if shown != name:
        counted = ""
        shown = shorten(name, width - 20, _NAME_PX, bold=True)
    write(draw, (left + 20, middle), shown, _NAME_PX, bold=True)
    write(draw, (left + width, middle), counted, _CAPTION_PX, fill=FAINT_INK, anchor="rm")


def _window(
    box_xywh: tuple[float, float, float, float], *, height: int, width: int, context: float
) -> tuple[float, float, float, float]:
    """The square around a box, cut at the image's borders; at least one pixel a side; (left, top, right, bottom)."""
    x, y, box_width, box_height = box_xywh
    half = max(box_width, box_height, 1.0) * (1 + context) / 2
    middle_x, middle_y = x + box_width / 2, y + box_height / 2
    left, top = min(max(0.0, middle_x - half), width - 1.0), min(max(0.0, middle_y - half), height - 1.0)
    return left, top, max(left + 1.0, min(width, middle_x + half)), max(top + 1.0, min(height, middle_y + half))


def _cut(picture: Image.Image, window: tuple[float, float, float, float], scale: float) -> Image.Image:
    left, top, right, bottom = window
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC, box=window)


def _justified(pictures: Sequence[Image.Image], width: int, columns: int) -> list[Image.Image]:
    """The pictures of one row at one height, so that together they fill the width."""
    aspects = [picture.width / picture.height for picture in pictures]
    # A last row with fewer pictures is not blown up to fill the width.
    missing = (columns - len(pictures)) * sum(aspects) / len(aspects)
    height = (width - (columns - 1) * _GAP) / (sum(aspects) + missing)
    height = max(1, round(min(height, max(picture.height for picture in pictures))))
    sizes = [(max(1, int(height * aspect)), height) for aspect in aspects]
    return [
        picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        for picture, size in zip(pictures, sizes, strict=True)
    ]


def _title_px() -> int:
    return line_height_px(_TITLE_PX) + 12


def _page(title: str, size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    shown = shorten(title, size[0] - 2 * _MARGIN, _TITLE_PX, bold=True)
    write(draw, (_MARGIN, _MARGIN + line_height_px(_TITLE_PX) // 2), shown, _TITLE_PX, bold=True, fill=INK)
    return canvas, draw


def _empty_page(title: str, notice: str) -> Image.Image:
    canvas, _ = _page(title, (_EMPTY_WIDTH, 2 * _MARGIN + _title_px() + 120))
    draw_notice(canvas, notice, _NAME_PX)
    return canvas
