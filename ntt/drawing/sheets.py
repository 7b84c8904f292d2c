"""Sheets of many small pictures: a run's references, its best and its worst images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ntt.drawing.annotators import annotate_box, annotate_mask
from ntt.drawing.colours import ByteArray, as_rgb, class_colours
from ntt.drawing.instances import decode_mask
from ntt.drawing.text import FAINT_INK, PAPER, draw_notice, line_height_px, shorten, write

_MARGIN = 16
_GAP = 10
_TITLE_PX = 20
_NAME_PX = 14
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
        box_only: whether the annotation has no mask.
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
    return ReferenceTile(label, picture, file_name, annotation_id, rle is None)


def draw_reference_sheet(
    tiles: Sequence[ReferenceTile],
    *,
    class_names: Sequence[str],
    title: str = "References",
    max_page_size: tuple[int, int] = (1600, 2200),
) -> list[Image.Image]:
    """Draw pages of references by class, each with its class, file name and annotation id.

    Args:
        tiles: of one size, in any order; drawn by class index, within a class in the order given.
        class_names: name of each class index.
        title: heading of every page.
        max_page_size: width and height no page exceeds, as long as one tile fits.

    Returns:
        At least one page; without tiles it says so.
    """
    if not tiles:
        return [_empty_page(title, "no references")]
    tiles = sorted(tiles, key=lambda tile: tile.label)
    tile_px = tiles[0].picture.width
    row_px = line_height_px(_NAME_PX) + tile_px + 2 * line_height_px(_CAPTION_PX) + 20
    columns = min(len(tiles), max(1, (max_page_size[0] - 2 * _MARGIN + _GAP) // (tile_px + _GAP)))
    rows = max(1, (max_page_size[1] - 2 * _MARGIN - _title_px()) // row_px)
    starts = range(0, len(tiles), columns * rows)
    pages = []
    for number, start in enumerate(starts, start=1):
        page_tiles = tiles[start : start + columns * rows]
        heading = title if len(starts) == 1 else f"{title} · page {number} of {len(starts)}"
        width = max(min(max_page_size[0], _EMPTY_WIDTH), 2 * _MARGIN + columns * (tile_px + _GAP) - _GAP)
        height = 2 * _MARGIN + _title_px() + row_px * -(-len(page_tiles) // columns)
        page = _page(heading, (width, height))
        for index, tile in enumerate(page_tiles):
            left = _MARGIN + index % columns * (tile_px + _GAP)
            top = _MARGIN + _title_px() + index // columns * row_px
            _draw_tile(page, (left, top), tile, class_names[tile.label])
        pages.append(page)
    return pages


def draw_contact_sheet(
    tiles: Sequence[tuple[Image.Image, str]], *, title: str, columns: int, tile_width: int = 640
) -> Image.Image:
    """Draw pictures in a grid, in reading order, each with a caption below, such as "quality 0.83".

    Args:
        tiles: pictures of any size, each with its caption.
        title: heading of the sheet.
        columns: pictures per row, at least 1.
        tile_width: greatest width of a column, px. Larger pictures are reduced to it.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be 1 or more.")
    if not tiles:
        return _empty_page(title, "no images")
    columns = min(columns, len(tiles))
    tile_width = min(tile_width, max(picture.width for picture, _ in tiles))
    pictures = [_fitted(picture.convert("RGB"), tile_width) for picture, _ in tiles]
    rows = range(0, len(tiles), columns)
    caption_px = line_height_px(_CAPTION_PX + 2) + 8
    heights = [max(picture.height for picture in pictures[row : row + columns]) + caption_px + _GAP for row in rows]
    width = max(_EMPTY_WIDTH, 2 * _MARGIN + columns * (tile_width + _GAP) - _GAP)
    sheet = _page(title, (width, 2 * _MARGIN + _title_px() + sum(heights) - _GAP))
    for index, (picture, (_, caption)) in enumerate(zip(pictures, tiles, strict=True)):
        left = _MARGIN + index % columns * (tile_width + _GAP)
        top = _MARGIN + _title_px() + sum(heights[: index // columns])
        sheet.paste(picture, (left, top))
        caption = shorten(caption, tile_width, _CAPTION_PX + 2, middle=True)
        write(ImageDraw.Draw(sheet), (left, top + picture.height + caption_px // 2), caption, _CAPTION_PX + 2)
    return sheet


def _draw_tile(page: Image.Image, left_top: tuple[int, int], tile: ReferenceTile, name: str) -> None:
    left, top = left_top
    draw = ImageDraw.Draw(page)
    tile_px = tile.picture.width
    colour = as_rgb(class_colours(tile.label + 1)[tile.label])
    middle = top + line_height_px(_NAME_PX) // 2
    draw.rounded_rectangle((left, middle - 5, left + 10, middle + 5), radius=3, fill=colour)
    write(draw, (left + 16, middle), shorten(name, tile_px - 16, _NAME_PX, bold=True), _NAME_PX, bold=True)
    top += line_height_px(_NAME_PX) + 4
    page.paste(tile.picture, (left, top))
    step = line_height_px(_CAPTION_PX)
    middle = top + tile_px + 4 + step // 2
    file_name = shorten(tile.file_name.rsplit("/", 1)[-1], tile_px, _CAPTION_PX, middle=True)
    write(draw, (left, middle), file_name, _CAPTION_PX)
    mark = f"annotation {tile.annotation_id}" + (" · box only" if tile.box_only else "")
    write(draw, (left, middle + step), shorten(mark, tile_px, _CAPTION_PX), _CAPTION_PX, fill=FAINT_INK)


def _fitted(picture: Image.Image, width: int) -> Image.Image:
    if picture.width <= width:
        return picture
    return picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)


def _title_px() -> int:
    return line_height_px(_TITLE_PX) + 12


def _page(title: str, size: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", size, PAPER)
    title = shorten(title, size[0] - 2 * _MARGIN, _TITLE_PX, bold=True)
    middle = _MARGIN + line_height_px(_TITLE_PX) // 2
    write(ImageDraw.Draw(page), (_MARGIN, middle), title, _TITLE_PX, bold=True)
    return page


def _empty_page(title: str, notice: str) -> Image.Image:
    page = _page(title, (_EMPTY_WIDTH, 2 * _MARGIN + _title_px() + 120))
    draw_notice(page, notice, _NAME_PX)
    return page
