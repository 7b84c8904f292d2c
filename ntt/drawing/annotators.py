"""Masks, boxes and labels painted into a picture, in place. Boxes are (left, top, right, bottom) in its pixels."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ntt.drawing.colours import Rgb, text_colour
from ntt.drawing.text import draw_label, label_size, shorten

BoxXyxy = npt.NDArray[np.float64]


def label_size_px(size: tuple[int, int]) -> int:
    """Return the text size for labels on a picture of this width and height."""
    return round(7 + 0.011 * float(np.sqrt(size[0] * size[1])))


def annotate_mask(
    picture: Image.Image, mask: Image.Image, *, colour: Rgb, opacity: float, hatched: bool = False
) -> None:
    """Fill and outline one mask, mode L and of the picture's size; `opacity` in [0, 1] is that of the filling.

    A hatched mask, as of a crowd region, is filled with stripes.
    """
    box = mask.getbbox()
    if box is None:
        return
    # Only the part around the mask is worked on, with room for the outline.
    line_px = _line_px(picture.size)
    margin = 4 + 2 * round(line_px)
    left, top = max(0, box[0] - margin), max(0, box[1] - margin)
    mask = mask.crop((left, top, min(mask.width, box[2] + margin), min(mask.height, box[3] + margin)))
    filling = ImageChops.multiply(mask, _stripes(mask.size)) if hatched else mask
    picture.paste(colour, (left, top), filling.point(np.rint(np.arange(256) * opacity).astype(int).tolist()))
    # Across the rim of a blurred mask the values run from 0 to 255; the rim itself is where they pass the middle.
    blurred = mask.filter(ImageFilter.GaussianBlur(line_px / 1.35))
    picture.paste((0, 0, 0), (left, top), blurred.point(_rim_table(0.04, 0.35, opacity=0.5)))
    picture.paste(colour, (left, top), blurred.point(_rim_table(0.25, 0.60, opacity=1.0)))


def annotate_box(picture: Image.Image, box_xyxy: BoxXyxy, *, colour: Rgb) -> None:
    """Outline one box."""
    limits = np.array([picture.width - 1, picture.height - 1] * 2)
    left, top, right, bottom = np.clip(np.rint(box_xyxy), 0, limits).astype(int).tolist()
    line = max(1, round(_line_px(picture.size)))
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0, 110), width=line + 2)
    draw.rectangle((left, top, right, bottom), fill=(*colour, 26), outline=(*colour, 255), width=line)


def annotate_labels(picture: Image.Image, labels: Iterable[tuple[str, Rgb, BoxXyxy]]) -> None:
    """Write a label at the top-left corner of each box: above the box, or inside where there is no room above.

    A label that would cover an earlier one moves down until it is free. One that would leave its box that way, by
    more than two lines, is left out: the class then shows by its colour alone. The most important ones come first.
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


def _line_px(size: tuple[int, int]) -> float:
    return max(1.5, 0.9 + 0.0013 * float(np.sqrt(size[0] * size[1])))


@lru_cache(maxsize=4)
def _rim_table(low: float, high: float, *, opacity: float) -> list[int]:
    """Return the outline's opacity per value v of a blurred mask; 1 - |2v - 1| is 1 on the rim, 0 far from it."""
    nearness = 1 - np.abs(2 * np.arange(256) / 255 - 1)
    strength = np.clip((nearness - low) / (high - low), 0, 1) * opacity * 255
    return [int(value) for value in np.rint(strength)]


def _stripes(size: tuple[int, int]) -> Image.Image:
    rows, columns = np.arange(size[1])[:, None], np.arange(size[0])[None, :]
    return Image.fromarray(np.where((rows + columns) % 12 < 5, 255, 40).astype(np.uint8))
